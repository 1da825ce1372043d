//! What points compile to; what is refused is in `tests/diagnostics`.

use std::sync::Arc;

use super::{Defaults, Selection, Written, compile};
use crate::document::read::{Read as _, Reader};
use crate::document::yaml;
use crate::mapping::compiled::{
    Byte, Chars, Deadband, DeviceMap, Kind, Order, PointIx, Reading, Select, Source,
};
use crate::mapping::device::Limits;
use crate::mapping::profile::Profile;
use crate::model::diagnostic::{Diagnostics, SourceFile, Span};
use crate::model::place::{Place, Table};
use crate::model::value::Raw;

fn map_of(text: &str) -> DeviceMap {
    let file = Arc::new(SourceFile { path: "p.yaml".into(), text: format!("profile: p\n{text}") });
    let mut found = Diagnostics::default();
    let node = yaml::parse(&file, &mut found).unwrap();
    let profile = Profile::read(&node, &mut Reader::new(&file, &mut found)).unwrap();
    let defaults = Defaults::of(&profile, &mut found);
    let points = &profile.points.as_ref().unwrap().value.0;
    let points: Vec<Written> =
        points.iter().map(|(name, point)| (name.clone(), point.clone().and_then(|point| point.0))).collect();
    let owner = Span { file: Arc::clone(&file), range: 0..0 };
    let map = compile(&points, &defaults, &Limits::default(), Selection::default(), &owner, &mut found);
    map.unwrap_or_else(|| panic!("{:#?}", found.sorted().iter().map(ToString::to_string).collect::<Vec<_>>()))
}

/// The reading of the only point.
fn reading(point: &str) -> Reading {
    let map = map_of(&format!("points:\n  a: {point}\n"));
    assert_eq!(map.readings.len(), 1);
    map.readings[0].clone()
}

fn run(table: Table, address: u16, count: u16) -> Place {
    Place::Run { table, address, count }
}

#[test]
fn quirk_20_orders_are_those_of_the_wire() {
    let order = |text: &str| reading(text).decode.order;
    for (word, expected) in
        [("ABCD", Order::Abcd), ("CDAB", Order::Cdab), ("BADC", Order::Badc), ("DCBA", Order::Dcba)]
    {
        assert_eq!(order(&format!("{{input: 0, type: float32, order: {word}}}")), expected);
        assert_eq!(order(&format!("{{input: 0, type: int64, order: {word}}}")), expected);
    }
    for (word, expected) in [
        ("ABCDEFGH", Order::Abcd),
        ("GHEFCDAB", Order::Cdab),
        ("BADCFEHG", Order::Badc),
        ("HGFEDCBA", Order::Dcba),
    ] {
        assert_eq!(order(&format!("{{input: 0, type: float64, order: {word}}}")), expected);
    }
    for (word, expected) in [
        ("ABCD", Order::Abcd),
        ("CDAB", Order::Abcd),
        ("AB", Order::Abcd),
        ("BADC", Order::Badc),
        ("DCBA", Order::Badc),
        ("BA", Order::Badc),
    ] {
        assert_eq!(order(&format!("{{input: 0, type: int16, order: {word}}}")), expected);
    }
}

#[test]
fn the_profiles_order_is_for_numbers_of_several_registers() {
    let map = map_of(
        "order: DCBA\npoints:\n  a: {input: 0, type: int32}\n  b: {input: 2, type: int16}\n  \
         c: {input: 3, type: string, length: 2}\n  d: {input: [9, 7], type: int32}\n  \
         e: {input: 20, type: int32, order: CDAB}\n",
    );
    let orders: Vec<Order> = map.readings.iter().map(|reading| reading.decode.order).collect();
    assert_eq!(orders, [Order::Dcba, Order::Abcd, Order::Abcd, Order::Abcd, Order::Cdab]);
}

#[test]
fn quirk_01_paper_references_count_from_one_whatever_the_base() {
    for (reference, place) in [
        (1, run(Table::Coil, 0, 1)),
        (9_999, run(Table::Coil, 9_998, 1)),
        (10_001, run(Table::Discrete, 0, 1)),
        (165_536, run(Table::Discrete, 65_535, 1)),
    ] {
        let map = map_of(&format!("address_base: 1\npoints:\n  a: {{ref: {reference}}}\n"));
        assert_eq!(map.readings[0].place, place);
    }
    for (reference, place) in [
        (30_001, run(Table::Input, 0, 1)),
        (39_999, run(Table::Input, 9_998, 1)),
        (300_001, run(Table::Input, 0, 1)),
        (40_108, run(Table::Holding, 107, 1)),
        (465_536, run(Table::Holding, 65_535, 1)),
    ] {
        assert_eq!(reading(&format!("{{ref: {reference}, type: uint16}}")).place, place);
    }
}

#[test]
fn quirk_01_base_one_subtracts_one() {
    let map = map_of(
        "address_base: 1\npoints:\n  a: {holding: 1, type: uint16}\n  b: {holding: [65536, 5], type: int32}\n",
    );
    assert_eq!(map.readings[0].place, run(Table::Holding, 0, 1));
    assert_eq!(
        map.readings[1].place,
        Place::Scattered { table: Table::Holding, addresses: [65_535, 4].into() }
    );
}

#[test]
fn quirk_04_a_computed_number_is_an_address_like_any_other() {
    // Danfoss VLT: parameter × 10, counted from 1. ABB ACS580: 100 × group + index for 16 bits, and
    // 20000 + 200 × group + 2 × index for 32 bits, counted from 1.
    for (number, kind, place) in [
        (1611 * 10, "int32", run(Table::Holding, 16_109, 2)),
        (100 + 7, "int16", run(Table::Holding, 106, 1)),
        (20_000 + 200 * 99 + 2 * 50, "uint32", run(Table::Holding, 39_899, 2)),
    ] {
        let map = map_of(&format!("address_base: 1\npoints:\n  a: {{holding: {number}, type: {kind}}}\n"));
        assert_eq!(map.readings[0].place, place);
    }
}

#[test]
fn adjacent_listed_registers_are_a_run() {
    assert_eq!(reading("{input: [7, 8], type: uint32}").place, run(Table::Input, 7, 2));
    assert_eq!(
        reading("{input: [8, 7], type: uint32}").place,
        Place::Scattered { table: Table::Input, addresses: [8, 7].into() }
    );
}

#[test]
fn a_node_is_scaled_and_labelled_like_a_register() {
    let id = r#"nsu=http://vendor/uri;s="Line1"."Speed""#;
    let map = map_of(&format!(
        "order: CDAB\ninvalid: {{int32: -1}}\npoints:\n  speed: {{node: '{id}', type: int32, scale: 0.1}}\n  \
         state: {{node: ns=0;i=2259, type: int32, enum: {{0: running}}}}\n  ready: {{node: i=7, type: uint16, bit: 3}}\n"
    ));
    assert_eq!(
        map.readings[0].place,
        Place::Node(std::sync::Arc::new(crate::model::place::NodePlace { address: id.into(), member: None }))
    );
    assert_eq!((map.readings[0].decode.kind, map.readings[0].decode.order), (Kind::Int32, Order::Abcd));
    assert_eq!(map.points[0].transform.scale, Some("0.1".parse().unwrap()));
    assert_eq!(map.points[0].transform.invalid, [Raw::Int(-1)]);
    assert_eq!(map.points[1].transform.labels[&0].as_ref(), "running");
    assert_eq!(map.points[2].transform.select, Select::Bit(3));
}

#[test]
fn points_of_one_register_share_a_reading() {
    let map = map_of(
        "points:\n  a: {holding: 3, bit: 1}\n  b: {holding: 3, type: uint16, mask: 0xF0}\n  \
         c: {holding: 3, bits: {p: 0, q: 15}}\n  d: {holding: 3, type: int16}\n  e: {holding: 3, type: bool, bit: 2}\n",
    );
    assert_eq!(map.readings.len(), 2);
    let selects: Vec<&Select> = map.points.iter().map(|point| &point.transform.select).collect();
    let flags = Select::Flags(vec![("p".into(), 0), ("q".into(), 15)]);
    assert_eq!(selects, [&Select::Bit(1), &Select::Mask(0xF0), &flags, &Select::Whole, &Select::Bit(2)]);
}

#[test]
fn invalid_comes_from_the_profile_unless_the_point_says_otherwise() {
    let map = map_of(
        "invalid: {int16: [0x8000, -1], float32: 0x7F800000}\npoints:\n  a: {input: 0, type: int16}\n  \
         b: {input: 1, type: int16, invalid: none}\n  c: {input: 2, type: int16, invalid: 0x7FFF}\n  \
         d: {input: 3, type: uint16}\n  e: {input: 4, type: float32}\n",
    );
    let invalid: Vec<&[Raw]> = map.points.iter().map(|point| point.transform.invalid.as_slice()).collect();
    assert_eq!(
        invalid,
        [&[Raw::Int(-32768), Raw::Int(-1)][..], &[], &[Raw::Int(32767)], &[], &[Raw::Float32(f32::INFINITY)]]
    );
}

#[test]
fn a_point_comes_after_those_it_needs() {
    let map = map_of(
        "points:\n  total: {sum: {kwh: 1, scaled: 0.5}, unit: kWh}\n  scaled: {input: 1, type: int16, scale_from: sf}\n  \
         kwh: {input: 2, type: uint16}\n  sf: {input: 3, type: int16, internal: true}\n  idle: {input: 4, type: int16, internal: true}\n",
    );
    let names: Vec<&str> = map.points.iter().map(|point| &*point.name).collect();
    assert_eq!(names, ["kwh", "sf", "scaled", "total"]);
    assert_eq!(map.readings.len(), 3, "what nobody needs is not read");
    assert_eq!(map.points[2].transform.scale_from, Some(PointIx(1)));
    let half = "0.5".parse().unwrap();
    assert_eq!(map.points[3].source, Source::Sum(vec![(PointIx(0), 1i64.into()), (PointIx(2), half)]));
    let published: Vec<bool> = map.points.iter().map(|point| point.published).collect();
    assert_eq!(published, [true, false, true, true]);
}

#[test]
fn everything_else_is_carried_over() {
    let map = map_of(
        "points:\n  level: {input: 7, type: uint8, byte: high, scale: 0.1, offset: -40, unit: percent, deadband: 1%, rate: fast, alone: true}\n  \
         name: {holding: 20480, type: string, length: 7, chars: high, rate: once}\n  \
         state: {coil: 5, enum: {0: 'off', 1: running}}\n",
    );
    let level = &map.points[0];
    assert_eq!(level.unit.as_deref(), Some("%"));
    assert_eq!(level.deadband, Some(Deadband::Percent(1i64.into())));
    assert_eq!((&*level.rate, level.alone), ("fast", true));
    assert_eq!(level.transform.offset, Some((-40i64).into()));
    assert_eq!(map.readings[0].decode.byte, Some(Byte::High));
    assert_eq!(map.readings[1].place, run(Table::Holding, 20_480, 7));
    assert_eq!((map.readings[1].decode.kind, map.readings[1].decode.chars), (Kind::String, Chars::High));
    assert_eq!(map.points[2].transform.labels[&0].as_ref(), "off");
    assert_eq!(map.readings[2].decode.kind, Kind::Bool);
    assert_eq!(&*map.points[2].rate, "default");
}

#[test]
fn a_long_chain_compiles_without_deep_recursion() {
    let mut text = String::from("points:\n  p0: {input: 0, type: int16, internal: true}\n");
    for n in 1..3_000 {
        let internal = if n < 2_999 { ", internal: true" } else { "" };
        text += &format!("  p{n}: {{sum: {{p{}: 1}}{internal}}}\n", n - 1);
    }
    assert_eq!(map_of(&text).points.len(), 3_000);
}

#[test]
fn quirk_29_the_function_that_writes_follows_from_the_place_and_what_the_device_has() {
    let points = "points:\n  a: {coil: 1, access: rw}\n  b: {holding: 1, type: uint16, access: w}\n  \
                  c: {holding: 2, type: int32, access: rw}\n  d: {holding: 4, bit: 3, access: rw}\n  \
                  e: {holding: 5, type: uint8, byte: high, access: rw}\n  f: {holding: 6, type: uint16}\n";
    let functions = |text: &str| -> Vec<(String, u8)> {
        let targets = map_of(text).writes;
        targets.iter().map(|target| (target.name.to_string(), target.function.code())).collect()
    };
    let expected =
        [("a", 5), ("b", 6), ("c", 16), ("d", 22), ("e", 22)].map(|(name, code)| (name.into(), code));
    assert_eq!(functions(points), expected);
    let few = "points:\n  a: {coil: 1, access: rw, write: {function: 15}}\n  \
               b: {holding: 1, type: uint16, access: rw, write: {function: 16}}\n";
    assert_eq!(functions(few), [("a".into(), 15), ("b".into(), 16)]);
}

#[test]
fn what_can_only_be_written_is_not_read() {
    let map = map_of("points:\n  a: {holding: 1, type: int16, access: w}\n  b: {holding: 2, type: int16}\n");
    let points: Vec<&str> = map.points.iter().map(|point| &*point.name).collect();
    assert_eq!((points, map.readings.len(), map.writes.len()), (vec!["b"], 1, 1));
    assert!(!map.writes[0].readable);
}

#[test]
fn the_write_order_is_the_profiles_unless_the_point_has_an_order_of_its_own() {
    let map = map_of(
        "order: CDAB\nwrite_order: ABCD\npoints:\n  a: {holding: 0, type: int32, access: rw}\n  \
         b: {holding: 2, type: int32, order: BADC, access: rw}\n  \
         c: {holding: 4, type: int32, access: rw, write: {order: DCBA}}\n  d: {holding: 6, type: int16, access: rw}\n",
    );
    let orders: Vec<[Order; 2]> =
        map.writes.iter().map(|target| [target.reading.decode.order, target.order]).collect();
    let expected = [
        [Order::Cdab, Order::Abcd],
        [Order::Badc, Order::Badc],
        [Order::Cdab, Order::Dcba],
        [Order::Abcd, Order::Abcd],
    ];
    assert_eq!(orders, expected);
}

#[test]
fn a_scale_factor_is_kept_for_a_point_that_is_only_written() {
    let map = map_of(
        "points:\n  sf: {holding: 1, type: int16, internal: true}\n  limit: {holding: 0, type: int16, scale_from: sf, access: w}\n  \
         other: {holding: 9, type: int16}\n",
    );
    let from = map.writes[0].transform.scale_from.unwrap();
    assert_eq!(&*map.points[from.0 as usize].name, "sf");
}
