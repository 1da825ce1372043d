//! Damage: bits, files and reads that are not what they were.

use super::*;

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn flipped_bits_cost_a_block_and_make_no_value(
        count in 50usize..400,
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut model = Model::new(SIZE);
        for i in 0..count {
            model.append(i % 3, (i * 37) % 900);
            if i % 7 == 0 {
                model.turn();
            }
        }
        model.sync();
        let disk = model.disk.killed();
        let used = disk.list().unwrap().into_iter().filter(|name| name.ends_with(".seg")).collect::<Vec<_>>();
        for (index, bit) in flips {
            disk.with(&used[0], |bytes| {
                let at = index.index(bytes.len().min(count * 600));
                bytes[at] ^= 1 << bit;
            });
        }
        if let Some(cut) = cut {
            disk.with(&used[0], |bytes| bytes.truncate(cut.index(bytes.len())));
        }
        model.restart(disk);
        model.read_all();
        // What was behind the last message that can be read is not known any more.
        let mut last = BTreeMap::new();
        for stored in &model.handed {
            last.insert(stored.device.clone(), stored.position);
        }
        let known: Vec<u64> = model
            .appended
            .values()
            .filter(|stored| last.get(&stored.device).is_some_and(|last| stored.position <= *last))
            .filter(|stored| model.handed.iter().any(|h| h.device == stored.device && h.position < stored.position) || model.handed.contains(stored))
            .map(|stored| stored.position)
            .collect();
        model.appended.retain(|position, _| known.contains(position));
        model.check(u64::MAX);
    }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn a_disk_that_can_not_be_read_for_a_while_costs_nothing(
        count in 20usize..120,
        at_start in prop::option::of(0u32..80),
        later in 0u32..40,
        heals_after in 0u32..10,
    ) {
        let mut model = Model::new(32 << 20);
        for i in 0..count {
            model.append(i % 3, (i * 997) % 20_000);
        }
        model.sync();
        (model.disk, model.heals_after) = (model.disk.killed(), heals_after);
        model.reopen(at_start);
        for i in 0..10 {
            model.append(i % 3, 300);
        }
        model.turn();
        model.heals_after = heals_after;
        model.disk.fail(later, Some(Fault::Read));
        model.read_all();
        prop_assert_eq!(model.handed.len(), count);
        model.check(model.next - 10);
        prop_assert!(model.gaps.is_empty());
    }
}

/// It costs what it does not yield, and not more; what that was is named.
#[test]
fn a_disk_that_can_never_be_read_again_costs_what_is_on_it() {
    let mut model = Model::new(SIZE);
    for i in 0..300 {
        model.append(i % 3, 900);
    }
    model.sync();
    model.restart(model.disk.killed());
    model.disk.fail(3, Some(Fault::Read));
    model.heals_after = u32::MAX;
    let began = model.now;
    model.read_all();
    assert!(model.now - began <= Duration::from_secs(40), "{:?}", model.now - began);
    assert!(model.handed.len() < 300);
    // Other messages are stored meanwhile.
    model.append(0, 10);
    model.turn();
    assert_eq!(model.accepted, model.next);
}

#[test]
fn a_store_that_is_cut_off_at_any_byte_starts_and_has_what_was_before() {
    let mut model = Model::new(SIZE);
    for i in 0..30 {
        model.append(i % 3, i * 13);
    }
    model.sync();
    let whole = model.disk.killed();
    let name = "0000000000000001.seg";
    let end = whole.with(name, |bytes| bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1);
    let mut most = 0;
    for cut in 0..=end {
        let disk = whole.killed();
        disk.with(name, |bytes| bytes.truncate(cut));
        model.restart(disk);
        model.read_all();
        model.check(0);
        assert!(model.handed.len() >= most, "{cut}");
        most = model.handed.len();
    }
    assert_eq!(most, 30);
}

/// As if somebody had removed, exchanged or added files.
#[test]
fn files_that_are_missing_or_foreign_cost_what_was_in_them() {
    let mut model = Model::new(SIZE);
    for i in 0..600 {
        model.append(i % 3, 900);
    }
    model.sync();
    let whole = model.disk.killed();
    let names: Vec<String> =
        whole.list().unwrap().into_iter().filter(|name| name.ends_with(".seg")).collect();
    assert!(names.len() >= 3, "{names:?}");
    for (index, name) in names.iter().enumerate() {
        for harm in ["removed", "foreign", "another's"] {
            let mut disk = whole.killed();
            match harm {
                "removed" => disk.remove(name).unwrap(),
                "foreign" => disk.with(name, |bytes| bytes.fill(b'x')),
                _ => {
                    let other = disk.with(&names[(index + 1) % names.len()], |bytes| bytes.clone());
                    disk.with(name, |bytes| *bytes = other);
                }
            }
            disk.create("notes.txt", 100).unwrap();
            disk.create("00000000000000zz.seg", 100).unwrap();
            model.restart(disk);
            model.read_all();
            // Nothing tells of what was before the first message that is there, or behind the last one.
            let ends = model.handed.first().zip(model.handed.last());
            let (from, to) = ends.map(|(first, last)| (first.position, last.position)).unwrap();
            model.check(0);
            let around = model.appended.clone();
            model.appended.retain(|position, _| (from..=to).contains(position));
            model.check(u64::MAX);
            model.appended = around;
            assert!(model.handed.len() >= 200, "{name} {harm}: {}", model.handed.len());
        }
    }
}

/// A block goes bad in a store that is full: it is named too when its segment goes.
#[test]
fn what_the_disk_no_longer_yields_is_named_when_it_is_given_up() {
    let mut model = Model::new(SMALL);
    for i in 0..300 {
        model.append(i % 3, 900);
    }
    model.sync();
    disk_of(&model).with("0000000000000001.seg", |bytes| bytes[70_000..120_000].fill(0xff));
    for i in 0..3000 {
        model.append(i % 3, 900);
        if i % 50 == 0 {
            model.sync();
        }
    }
    model.sync();
    // What the forwarder was told to have lost stays known until it has published it.
    let told = model.gaps.iter().count();
    model.restart(model.disk.killed());
    assert!(told > 0 && model.gaps.iter().count() >= told);
    model.read_all();
    model.check(u64::MAX);
}

#[test]
fn a_store_of_a_later_version_is_left_alone() {
    let mut model = Model::new(SIZE);
    model.append(0, 10);
    model.sync();
    let disk = model.disk.killed();
    disk.with("0000000000000001.seg", |bytes| bytes[8] = 2);
    let opened = Log::open(disk, settings(SIZE), Arc::new(RouteMetrics::default()));
    assert!(matches!(opened.err(), Some(StoreError::Version { version: 2, .. })));
}

#[test]
fn what_the_disk_no_longer_yields_is_a_gap() {
    let mut model = Model::new(SIZE);
    for i in 0..300 {
        model.append(i % 3, 900);
    }
    model.sync();
    let disk = model.disk.killed();
    model.restart(disk.clone());
    // A block goes bad after the start.
    disk_of(&model).with("0000000000000001.seg", |bytes| bytes[70_000..120_000].fill(0xff));
    model.read_all();
    assert!(!model.gaps.is_empty());
    model.check(u64::MAX);
}

fn disk_of(model: &Model) -> &Memory {
    &model.disk
}
