//! Laws of the planner.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::budget::Budget;
use crate::mapping::compiled::{Chars, Kind, Order, Point, Reading, Transform};
use crate::mapping::device::{Every, FixedBlock, Stretch};

const EVERY: Every = Every::Interval(Duration::from_secs(1));

fn run(table: Table, address: u16, count: u16) -> Place {
    Place::Run { table, address, count }
}

/// A device with one point per place.
fn device(places: Vec<Place>, limits: Limits) -> Device {
    let decode = Decode { kind: Kind::Uint16, order: Order::Abcd, byte: None, chars: Chars::Both };
    let points = (0..places.len())
        .map(|i| Point {
            name: format!("p{i}").into(),
            unit: None,
            source: Source::Reading(ReadingIx(i as u32)),
            transform: Transform::default(),
            published: true,
            plausible: None,
            deadband: None,
            heartbeat: None,
            smooth: None,
            alone: false,
            rate: "default".into(),
        })
        .collect::<Vec<_>>();
    let group = Group { every: EVERY, points: (0..points.len() as u32).map(PointIx).collect() };
    let readings = places.into_iter().map(|place| Reading { place, decode: decode.clone() }).collect();
    Device {
        name: "d".into(),
        unit: 1,
        profile: None,
        budget: Budget::default(),
        map: Arc::new(DeviceMap { readings, points, writes: Vec::new() }),
        groups: vec![group],
        limits,
        nodes: Default::default(),
    }
}

fn with_points(mut device: Device, change: impl FnOnce(&mut Vec<Point>)) -> Device {
    change(&mut Arc::make_mut(&mut device.map).points);
    device
}

fn blocks(device: &Device) -> Vec<(u16, u16)> {
    let reads = plan(device).unwrap();
    reads
        .iter()
        .flat_map(|(_, exchange)| &exchange.blocks)
        .map(|block| (block.address, block.count))
        .collect()
}

fn limits(max_registers: u16, max_gap: u16) -> Limits {
    Limits { max_registers, max_gap, ..Limits::default() }
}

/// The fewest requests of all partitions of the intervals into sets that may be one request.
fn fewest(intervals: &[(u16, u16)], limits: &Limits) -> usize {
    let fits = |set: usize| {
        let mut members: Vec<_> =
            (0..intervals.len()).filter(|i| set >> i & 1 == 1).map(|i| intervals[i]).collect();
        members.sort_unstable();
        let mut end = members[0].0;
        for (from, count) in &members {
            if u32::from(*from) > u32::from(end) + u32::from(limits.max_gap) {
                return false;
            }
            end = end.max(from + count);
        }
        end - members[0].0 <= limits.max_registers
    };
    let mut best = vec![usize::MAX; 1 << intervals.len()];
    best[0] = 0;
    for set in 1..best.len() {
        let mut part = set;
        while part > 0 {
            if best[set ^ part] != usize::MAX && fits(part) {
                best[set] = best[set].min(best[set ^ part] + 1);
            }
            part = (part - 1) & set;
        }
    }
    best[best.len() - 1]
}

fn any_place() -> impl Strategy<Value = Place> {
    let table =
        prop_oneof![Just(Table::Input), Just(Table::Holding), Just(Table::Coil), Just(Table::Discrete)];
    let address = prop_oneof![0u16..300, 65_400u16..=65_535];
    (table, address, 1u16..5).prop_map(|(table, address, count)| {
        let count = if table.is_bits() { 1 } else { count };
        run(table, address.min(65_535 - (count - 1)), count)
    })
}

/// The address of each value of a device's register memory is its value: what a cut yields tells where it came from.
fn addresses_as_data(exchange: &Exchange) -> Vec<u8> {
    let mut data = Vec::new();
    for block in &exchange.blocks {
        if block.table.is_bits() {
            // Odd addresses are set.
            let mut bytes = vec![0u8; block.bytes()];
            for i in 0..block.count {
                bytes[usize::from(i / 8)] |= ((block.address.wrapping_add(i) & 1) as u8) << (i % 8);
            }
            data.extend(bytes);
        } else {
            (0..block.count).for_each(|i| data.extend((block.address + i).to_be_bytes()));
        }
    }
    data
}

#[test]
fn refused_addresses_are_not_read_over() {
    let refused: Arc<[Stretch]> = Arc::new([Stretch { table: Table::Holding, first: 12, last: 12 }]);
    let limits = Limits { refused, ..limits(125, 50) };
    let places = vec![
        run(Table::Holding, 10, 2),
        run(Table::Holding, 13, 1),
        run(Table::Holding, 20, 1),
        run(Table::Input, 10, 1),
        run(Table::Input, 14, 1),
    ];
    assert_eq!(blocks(&device(places, limits.clone())), [(10, 5), (10, 2), (13, 8)]);
    // One value around the refused address: its parts are read one by one, the first once more at the end.
    let split = Place::Scattered { table: Table::Holding, addresses: [14, 10].into() };
    let (_, exchange) = plan(&device(vec![split], limits)).unwrap().remove(0);
    assert_eq!(exchange.blocks.iter().map(|block| block.address).collect::<Vec<_>>(), [14, 10]);
    assert!(exchange.repeat_first);
}

proptest! {
    #[test]
    fn every_point_is_whole_in_exactly_one_read(
        places in prop::collection::vec(any_place(), 1..40),
        max_registers in 4u16..126, max_bits in 1u16..100, max_gap in 0u16..20,
    ) {
        let limits = Limits { max_registers, max_bits, max_gap, ..Limits::default() };
        let device = device(places.clone(), limits);
        let reads = plan(&device).unwrap();
        for of in [|read: &Read| read.points.clone(), |read: &Read| read.publishes.clone()] {
            let mut seen: Vec<PointIx> = reads.iter().flat_map(|(read, _)| of(read)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, device.groups[0].points.clone());
        }
        for (read, exchange) in &reads {
            let data = addresses_as_data(exchange);
            prop_assert_eq!(read.readings.len(), exchange.cuts.len());
            prop_assert!(!exchange.repeat_first && exchange.blocks.len() == 1);
            for block in &exchange.blocks {
                let most = if block.table.is_bits() { max_bits } else { max_registers };
                prop_assert!(block.count <= most);
                prop_assert!(u32::from(block.address) + u32::from(block.count) <= 65_536);
            }
            for (reading, cut) in read.readings.iter().zip(&exchange.cuts) {
                let Place::Run { table, address, count } = places[reading.0 as usize] else { unreachable!() };
                prop_assert_eq!(table, exchange.blocks[0].table);
                match cut.pick {
                    Pick::Words { at, count: got } => {
                        prop_assert_eq!(got, count);
                        for i in 0..count {
                            let at = usize::from(i) * 2 + at as usize;
                            prop_assert_eq!([data[at], data[at + 1]], (address + i).to_be_bytes());
                        }
                    }
                    Pick::Bit(at) => {
                        prop_assert_eq!(u16::from(data[at as usize / 8] >> (at % 8) & 1), address & 1);
                        prop_assert_eq!(exchange.blocks[0].address + at as u16, address);
                    }
                    Pick::Scattered(_) => prop_assert!(false, "a run is never scattered"),
                }
            }
        }
    }

    #[test]
    fn no_request_is_unneeded(
        intervals in prop::collection::vec((0u16..60, 1u16..9), 1..8), max in 8u16..30, gap in 0u16..10,
    ) {
        let limits = limits(max, gap);
        let places = intervals.iter().map(|(address, count)| run(Table::Holding, *address, *count)).collect();
        let planned = blocks(&device(places, limits.clone()));
        prop_assert_eq!(planned.len(), fewest(&intervals, &limits), "{:?}", planned);
    }

    #[test]
    fn quirk_09_no_request_touches_a_fixed_block_but_the_one_for_all_of_it(
        places in prop::collection::vec(any_place(), 1..40), max_gap in 0u16..20,
        sizes in prop::collection::vec((0u16..30, 1u16..40), 0..12),
    ) {
        let mut address = 0;
        let mut fixed = Vec::new();
        for (gap, count) in sizes {
            address += gap;
            fixed.extend([Table::Coil, Table::Holding].map(|table| FixedBlock { table, address, count }));
            address += count;
        }
        fixed.sort_by_key(|block| (block.table, block.address));
        let whole = |place: &Place| match *place {
            Place::Run { table, address, count } => {
                fixed.iter().all(|block| !block.overlaps(table, address, count) || block.holds(table, address, count))
            }
            _ => unreachable!(),
        };
        let device = device(places.clone(), Limits { max_gap, blocks: fixed.clone(), ..Limits::default() });
        if !places.iter().all(whole) {
            let refused = matches!(plan(&device), Err(PlanError::AcrossBlock { .. }));
            prop_assert!(refused);
            return Ok(());
        }
        let reads = plan(&device).unwrap();
        let mut asked = Vec::new();
        for (read, exchange) in &reads {
            let [block] = exchange.blocks[..] else { panic!("a run is one request") };
            let touched = fixed.iter().filter(|fixed| fixed.overlaps(block.table, block.address, block.count));
            for fixed in touched {
                prop_assert_eq!((fixed.address, fixed.count), (block.address, block.count));
                prop_assert!(!asked.contains(&block), "asked for twice in one interval");
                asked.push(block);
                prop_assert_eq!(exchange.atoms.len(), 1, "it must not be divided");
            }
            let data = addresses_as_data(exchange);
            for (reading, cut) in read.readings.iter().zip(&exchange.cuts) {
                let (Place::Run { address, .. }, Pick::Words { at, .. }) = (&places[reading.0 as usize], &cut.pick)
                else { continue };
                let at = *at as usize;
                prop_assert_eq!([data[at], data[at + 1]], address.to_be_bytes());
            }
        }
        let mut seen: Vec<PointIx> = reads.iter().flat_map(|(read, _)| read.publishes.clone()).collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, device.groups[0].points.clone());
    }

    #[test]
    fn the_order_of_points_is_irrelevant(
        places in prop::collection::vec(any_place(), 1..20), turn in 0usize..20, max_gap in 0u16..20,
    ) {
        let mut turned = places.clone();
        let turn = turn % places.len();
        turned.rotate_left(turn);
        turned.reverse();
        prop_assert_eq!(blocks(&device(places, limits(50, max_gap))), blocks(&device(turned, limits(50, max_gap))));
    }
}

#[test]
fn the_last_address_is_reached_without_overflow() {
    let places = vec![run(Table::Holding, 65_534, 2), run(Table::Holding, 65_530, 2)];
    assert_eq!(blocks(&device(places, limits(125, u16::MAX))), [(65_530, 6)]);
    let beyond = plan(&device(vec![run(Table::Holding, 65_535, 2)], Limits::default()));
    assert_eq!(beyond, Err(PlanError::OutsideTable { point: "p0".into() }));
}

#[test]
fn an_atom_within_one_request_is_read_over_any_hole() {
    let split = Place::Scattered { table: Table::Holding, addresses: [690, 625].into() };
    assert_eq!(blocks(&device(vec![split], limits(125, 0))), [(625, 66)]);
}

#[test]
fn an_atom_too_wide_for_one_request_reads_its_high_word_again() {
    let split = Place::Scattered { table: Table::Holding, addresses: [690, 625].into() };
    let reads = plan(&device(vec![split], limits(60, 0))).unwrap();
    let (_, exchange) = &reads[0];
    assert!(exchange.repeat_first);
    assert_eq!(
        blocks(&device(
            vec![Place::Scattered { table: Table::Holding, addresses: [690, 625].into() }],
            limits(60, 0)
        )),
        [(690, 1), (625, 1)]
    );
    assert_eq!(exchange.cuts[0].pick, Pick::Scattered([0, 2].into()));
}

#[test]
fn quirk_23_a_scale_factor_is_read_with_each_value_it_scales_and_not_by_itself() {
    let places = vec![run(Table::Holding, 10, 1), run(Table::Holding, 14, 1), run(Table::Holding, 200, 1)];
    let device = with_points(device(places, limits(125, 0)), |points| {
        points[1].transform.scale_from = Some(PointIx(0));
        points[2].transform.scale_from = Some(PointIx(0));
    });
    let reads = plan(&device).unwrap();
    assert_eq!(reads.len(), 2);
    assert_eq!(reads[0].0.points, [PointIx(0), PointIx(1)]);
    assert_eq!(reads[0].1.blocks, [Block { table: Table::Holding, address: 10, count: 5 }]);
    assert_eq!(reads[1].0.points, [PointIx(0), PointIx(2)]);
    assert!(reads[1].1.repeat_first && reads[1].1.blocks[0].address == 10);
}

#[test]
fn a_sum_over_two_tables_starts_with_its_heaviest_term() {
    let places = vec![run(Table::Holding, 1, 1), run(Table::Input, 5, 1), run(Table::Input, 900, 1)];
    let device = with_points(device(places, limits(125, 0)), |points| {
        let thousand = crate::model::decimal::Decimal::from(1000i64);
        points[2].source =
            Source::Sum(vec![(PointIx(0), crate::model::decimal::Decimal::ONE), (PointIx(1), thousand)]);
    });
    let reads = plan(&device).unwrap();
    assert_eq!(reads.len(), 1);
    assert_eq!(reads[0].1.blocks[0], Block { table: Table::Input, address: 5, count: 1 });
    assert_eq!(reads[0].1.blocks[1], Block { table: Table::Holding, address: 1, count: 1 });
    assert_eq!(reads[0].0.readings, [ReadingIx(0), ReadingIx(1)]);
}

#[test]
fn a_value_over_two_fixed_blocks_reads_both_and_the_first_again() {
    let fixed = |address| FixedBlock { table: Table::Holding, address, count: 20 };
    let limits = Limits { blocks: vec![fixed(0), fixed(20)], ..limits(125, 50) };
    let split = Place::Scattered { table: Table::Holding, addresses: [25, 3].into() };
    let reads = plan(&device(vec![split, run(Table::Holding, 45, 2)], limits)).unwrap();
    assert_eq!(reads[0].1.blocks, [Block { table: Table::Holding, address: 45, count: 2 }]);
    let both = [20, 0].map(|address| Block { table: Table::Holding, address, count: 20 });
    assert_eq!((&reads[1].1.blocks[..], reads[1].1.repeat_first), (&both[..], true));
    assert_eq!(reads[1].1.cuts[0].pick, Pick::Scattered([10, 46].into()));
}

#[test]
fn a_fixed_block_that_no_request_can_hold_is_refused() {
    let fixed = FixedBlock { table: Table::Holding, address: 0, count: 20 };
    let limits = Limits { blocks: vec![fixed], ..limits(19, 0) };
    let expected = Err(PlanError::TooLong { point: "p0".into(), count: 20, most: 19 });
    assert_eq!(plan(&device(vec![run(Table::Holding, 3, 1)], limits)), expected);
}

#[test]
fn an_alone_point_has_its_own_request() {
    let places = (0..3).map(|i| run(Table::Input, i, 1)).collect();
    let device = with_points(device(places, limits(125, 0)), |points| points[1].alone = true);
    assert_eq!(blocks(&device), [(0, 1), (2, 1), (1, 1)]);
}

#[test]
fn points_that_share_a_reading_read_it_once() {
    let places = vec![run(Table::Holding, 3, 1), run(Table::Holding, 4, 1)];
    let device = with_points(device(places, limits(125, 0)), |points| {
        points[1].source = Source::Reading(ReadingIx(0));
    });
    let reads = plan(&device).unwrap();
    assert_eq!(reads[0].0.readings, [ReadingIx(0)]);
    assert_eq!(reads[0].0.points, [PointIx(0), PointIx(1)]);
    assert_eq!(reads[0].1.blocks[0].count, 1);
}

#[test]
fn what_can_not_be_fetched_is_refused_by_name() {
    let mut allowed = limits(125, 0);
    allowed.functions = Some(vec![4]);
    assert_eq!(
        plan(&device(vec![run(Table::Holding, 0, 1)], allowed)),
        Err(PlanError::FunctionNotAllowed { point: "p0".into(), table: Table::Holding, function: 3 })
    );
    assert_eq!(
        plan(&device(vec![run(Table::Input, 0, 20)], limits(10, 0))),
        Err(PlanError::TooLong { point: "p0".into(), count: 20, most: 10 })
    );
    let node =
        Place::Node(Arc::new(crate::model::place::NodePlace { address: "ns=0;i=1".into(), member: None }));
    assert_eq!(plan(&device(vec![node], limits(10, 0))), Err(PlanError::NotModbus { point: "p0".into() }));
}
