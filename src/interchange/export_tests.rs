use super::super::draft::{Draft, Spot};
use super::super::note::Notes;
use super::super::table::{self, Options};
use super::super::types::TypeCell;
use super::super::yaml::Head;
use super::super::{checked, types};
use super::*;
use crate::config::{built_in_profiles, load_profile, load_profile_text};
use crate::mapping::compiled::Point;
use crate::mapping::written::{Access, ByteWord};
use proptest::prelude::*;
use std::path::Path;

fn back(exported: &Exported) -> LoadedProfile {
    let options = Options { profile: "test/back".into(), file: "t.csv".into(), ..Options::default() };
    let imported = table::import(exported.csv.as_bytes(), &options).unwrap();
    assert_eq!(
        (imported.points, imported.left_out),
        (exported.points, 0),
        "{}\n{:?}",
        exported.csv,
        imported.notes
    );
    let loaded = load_profile_text("back", &imported.yaml);
    assert!(loaded.map.is_some(), "{:?}", loaded.diagnostics);
    loaded
}

/// A point without what a table has no column for, and without the places of others.
fn comparable(point: &Point, map: &DeviceMap) -> (Reading, Point, Option<String>) {
    let Source::Reading(at) = point.source else { panic!() };
    let factor = point.transform.scale_from.map(|at| map.points[at.0 as usize].name.to_string());
    let mut point = Point {
        source: Source::Sum(Vec::new()),
        published: true,
        plausible: None,
        deadband: None,
        heartbeat: None,
        smooth: None,
        alone: false,
        ..point.clone()
    };
    point.transform.scale_from = None;
    point.transform.scale = point.transform.scale.filter(|scale| *scale != Decimal::ONE);
    point.transform.offset = point.transform.offset.filter(|offset| !offset.is_zero());
    if matches!(point.transform.select, Select::Flags(_)) {
        point.transform.select = Select::Whole;
    }
    (map.readings[at.0 as usize].clone(), point, factor)
}

/// Every point of the table is the same again; what the profile says beyond was named.
fn assert_round_trip(profile: &LoadedProfile) {
    let exported = export(profile).unwrap();
    let again = back(&exported);
    let (map, other) = (profile.map.as_ref().unwrap(), again.map.as_ref().unwrap());
    let mut compared = 0;
    for point in &map.points {
        let Some(twin) = other.points.iter().find(|twin| twin.name == point.name) else { continue };
        assert_eq!(comparable(point, map), comparable(twin, other), "{}", exported.csv);
        compared += 1;
    }
    for target in &map.writes {
        let twin = other.writes.iter().find(|twin| twin.name == target.name).unwrap();
        assert_eq!((&target.reading, target.readable), (&twin.reading, twin.readable));
        compared += usize::from(!target.readable);
    }
    assert_eq!(compared, exported.points);
    let descs = |profile: &LoadedProfile| {
        let written = profile.written.as_ref().unwrap();
        let desc = |point: &WrittenPoint| point.desc.as_ref().map(|desc| desc.value.0.clone());
        written_points(written)
            .filter_map(|(name, point)| Some((name.to_owned(), desc(point)?)))
            .collect::<HashMap<_, _>>()
    };
    let (before, after) = (descs(profile), descs(&again));
    for (name, desc) in after {
        assert_eq!(before.get(&name), Some(&desc));
    }
}

#[test]
fn every_shipped_profile_survives_a_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names: Vec<&str> = built_in_profiles().collect();
    assert!(names.len() >= 5);
    for name in names {
        let profile = load_profile(&root.join(format!("mappings/{name}.yaml")));
        // What this version can't read has no map, and so no table.
        if profile.map.is_some() {
            assert_round_trip(&profile);
        }
    }
}

#[test]
fn what_a_table_cannot_carry_is_named() {
    let text = "\
profile: a/b
title: A B
limits: {max_gap: 2}
write_order: CDAB
points:
  level:  {input: 7, type: int16, deadband: 0.5, alone: true, unit: C, scale_from: helper}
  none:   {input: 11, type: int16, unit: na}
  far:    {holding: [690, 625], type: int32}
  both:   {sum: {level: 1, far: 10}}
  word:   {holding: 3, type: uint16, bits: {ready: 1, tripped: 3}}
  limit:  {holding: 8, type: int32, access: rw, write: {range: 1..5, refresh: 1s}}
  mode:   {holding: 9, type: uint16, enum: {0: 'a;b', 1: c}, access: rw, write: {function: 16}}
  helper: {input: 1, type: int16, internal: true}
  nobody: {input: 2, type: int16, internal: true}
";
    let exported = export(&load_profile_text("t", text)).unwrap();
    assert_eq!((exported.points, exported.left_out), (6, 3));
    let notes: Vec<String> = exported.notes.iter().map(|note| note.show("t").to_string()).collect();
    assert_eq!(
        notes,
        [
            "t: warning: not in the table: title, limits",
            "t: warning: point 'level': not in the table: the unit 'C', which is read back as '°C', deadband, alone",
            "t: warning: point 'none': not in the table: the unit 'na', which is read back as ''",
            "t: error: point 'far' is not in the table: its registers are far apart",
            "t: error: point 'both' is not in the table: it is a sum of other points",
            "t: warning: point 'word': not in the table: bits (the whole register is)",
            "t: warning: point 'limit': not in the table: the range of what may be written, refresh, the order of what is written",
            "t: warning: point 'mode': not in the table: enum, the function code that writes it",
            "t: warning: point 'helper': not in the table: internal",
            "t: error: point 'nobody' is not in the table: nothing uses it, and it is not published",
        ]
    );
}

#[test]
fn a_table_has_the_columns_that_its_points_need() {
    let text = "profile: a/b\npoints:\n  p: {input: 1, type: int32, order: CDAB, scale: 0.1, unit: percent, invalid: -1, desc: 'a, \"b\"'}\n  d: {coil: 3, access: w}\n";
    let exported = export(&load_profile_text("t", text)).unwrap();
    assert_eq!(
        exported.csv,
        "table,address_zero_based,count,type,word_order,scale,offset,unit,access,name,description,invalid\n\
         input,1,2,int32,CDAB,0.1,0,%,r,p,\"a, \"\"b\"\"\",-1\n\
         coil,3,1,bool,,1,0,,w,d,,\n"
    );
}

/// A type with what may belong to it.
fn type_cell() -> impl Strategy<Value = TypeCell> {
    let word = prop::sample::select(TypeWord::WORDS).prop_map(|(_, word)| word);
    (word, 1u16..5, 0u8..64, 1u64.., "(unix|unix_ms|iec870|packed|fields) (utc|local)", "(high|low)?", 0u8..4)
        .prop_map(|(word, length, bit, mask, clock, half, extra)| {
            let text = match word {
                TypeWord::Datetime => format!("datetime {clock}"),
                TypeWord::String => format!("string {half}"),
                TypeWord::Int8 | TypeWord::Uint8 => format!("{} {half}", word.word()),
                TypeWord::Bool => "uint16".into(),
                _ => word.word().into(),
            };
            let needs = matches!(word, TypeWord::String | TypeWord::Mod10k).then_some(length);
            let mut cell = types::kind(&text, needs).unwrap();
            let bits = cell.kind.integer_bits().unwrap_or(0) as u8;
            let width = u64::MAX >> (64 - u32::from(bits.max(1)));
            match extra {
                1 if bits > 0 => cell.bit = Some(bit % bits),
                2 if bits > 0 && mask & width > 0 => cell.mask = Some(mask & width),
                _ => {}
            }
            cell
        })
}

fn draft() -> impl Strategy<Value = Draft> {
    let table = prop::sample::select(&[Table::Coil, Table::Discrete, Table::Input, Table::Holding][..]);
    let order = prop::sample::select(&[Order::Abcd, Order::Cdab, Order::Badc, Order::Dcba][..]);
    let number = prop::option::of(
        (-99_999i64..99_999, 0u8..6).prop_map(|(m, s)| Decimal::try_new(m.into(), s).unwrap()),
    );
    let access = prop::sample::select(&[Access::Read, Access::Read, Access::ReadWrite, Access::Write][..]);
    let is_kept = |unit: &String| read_back(unit) == *unit;
    let unit = "V|kWh|percent|°C|[a-z/²]{1,6}".prop_filter("is read back as another one", is_kept);
    let texts = (
        "[a-zA-Zäß][a-zA-Z0-9_.-]{0,12}|on|null|1e5",
        prop::option::of(unit),
        prop::option::of("\\PC{1,30}|a,\"b\";\n c"),
    );
    let more = (
        prop::collection::vec("0x[0-7][0-9A-F]|[0-9]{1,2}", 0..3),
        prop::collection::btree_map(0i64..99, "[a-z]([a-z =:]{0,4}[a-z])?", 0..3),
    );
    (table, any::<u16>(), type_cell(), order, number.clone(), number, access, texts, more, any::<bool>())
        .prop_map(
            |(
                table,
                address,
                kind,
                order,
                scale,
                offset,
                access,
                (name, unit, desc),
                (invalid, labels),
                has_rate,
            )| {
                let mut draft =
                    Draft::new(1, name, Spot::Register(table, address), (!table.is_bits()).then_some(kind));
                let kind = draft.kind.clone();
                (draft.order, draft.unit, draft.desc, draft.access) =
                    (draft.has_order().then_some(order), unit, desc, access);
                draft.desc = draft.desc.map(|desc| super::super::sheet::clean(&desc));
                draft.rate = has_rate.then(|| "slow".into());
                if draft.is_number() {
                    (draft.scale, draft.offset) = (scale.filter(|scale| !scale.is_zero()), offset);
                    if kind.as_ref().is_some_and(|kind| kind.kind.integer_bits().is_some()) {
                        draft.labels = labels.into_iter().collect();
                    }
                }
                if kind.as_ref().is_some_and(|kind| kind.kind.integer_bits().is_some_and(|bits| bits > 8)) {
                    draft.invalid = invalid;
                }
                if kind.is_some_and(|kind| kind.byte == Some(ByteWord::Low)) {
                    draft.rate = None;
                }
                draft
            },
        )
}

proptest! {
    #[test]
    fn every_profile_survives_a_table(drafts in prop::collection::vec(draft(), 1..12), base in 0u16..2, factor in any::<bool>()) {
        let mut taken = super::super::names::Taken::default();
        let mut drafts: Vec<Draft> = drafts.into_iter().map(|draft| Draft { name: taken.unique(&draft.name), ..draft }).collect();
        if factor {
            let name = taken.unique("sf");
            let kind = types::kind("int16", None).unwrap();
            drafts.iter_mut().filter(|draft| draft.is_number()).for_each(|draft| draft.scale_from = Some(name.clone()));
            drafts.push(Draft::new(1, name, Spot::Register(Table::Input, 9), Some(kind)));
        }
        let head = Head { profile: "test/device".into(), base, ..Head::default() };
        // Some can't be: registers beyond the last, what can't be written, exponents for floats.
        let (text, _, _) = checked::profile(&head, drafts, &mut Notes::default());
        prop_assume!(!text.is_empty());
        assert_round_trip(&load_profile_text("t", &text));
    }
}
