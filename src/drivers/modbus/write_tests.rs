//! Writes: the standard's own examples, and that a memory holds what was written, and nothing else has changed.

use proptest::prelude::*;

use super::*;
use crate::drivers::modbus::decode;
use crate::drivers::modbus::framing::{Framing, crc, frame};
use crate::mapping::compiled::{Byte, Chars, Order, Reading, Select, Transform};
use crate::mapping::write::Allowed;
use crate::model::decimal::Decimal;
use crate::model::value::Value;

fn target(table: Table, address: u16, kind: Kind, function: Function) -> Target {
    let count = kind.registers().unwrap_or(4);
    let decode = Decode { kind, order: Order::Abcd, byte: None, chars: Chars::Both };
    Target {
        name: "p".into(),
        unit: None,
        reading: Reading { place: Place::Run { table, address, count }, decode },
        order: Order::Abcd,
        transform: Transform::default(),
        function,
        allowed: Allowed::default(),
        refresh: None,
        readable: true,
    }
}

use crate::model::place::Table;

fn whole(raw: Raw) -> Setting {
    Setting { raw, mask: None }
}

#[test]
fn the_standards_examples_are_written() {
    // 6.5: coil 173 on.
    let coil = target(Table::Coil, 172, Kind::Bool, Function::Coil);
    let write = Write::new(1, &coil, &whole(Raw::Bool(true))).unwrap();
    assert_eq!(write.pdu(), [5, 0x00, 0xAC, 0xFF, 0x00]);
    assert_eq!(write.answer(), write.pdu());
    // 6.6: register 2 becomes 3.
    let register = target(Table::Holding, 1, Kind::Uint16, Function::Register);
    let write = Write::new(1, &register, &whole(Raw::Uint(3))).unwrap();
    assert_eq!(write.pdu(), [6, 0x00, 0x01, 0x00, 0x03]);
    assert_eq!(write.answer(), write.pdu());
    // 6.12: two registers from 2 on become 000A and 0102.
    let two = target(Table::Holding, 1, Kind::Uint32, Function::Registers);
    let write = Write::new(1, &two, &whole(Raw::Uint(0x000A_0102))).unwrap();
    assert_eq!(write.pdu(), [16, 0x00, 0x01, 0x00, 0x02, 4, 0x00, 0x0A, 0x01, 0x02]);
    assert_eq!(write.answer(), [16, 0x00, 0x01, 0x00, 0x02]);
    // 6.16: the request of the example, for register 5.
    let change = Change::Mask { and: 0x00F2, or: 0x0025 };
    let write = Write { unit: 1, address: 4, change };
    assert_eq!(write.pdu(), [22, 0x00, 0x04, 0x00, 0xF2, 0x00, 0x25]);
    assert_eq!(write.answer(), write.pdu());
    // 6.11, with the one coil that a point is.
    let coils = target(Table::Coil, 19, Kind::Bool, Function::Coils);
    let write = Write::new(1, &coils, &whole(Raw::Bool(true))).unwrap();
    assert_eq!(write.pdu(), [15, 0x00, 0x13, 0x00, 0x01, 1, 1]);
    assert_eq!(write.answer(), [15, 0x00, 0x13, 0x00, 0x01]);
}

#[test]
fn frames_carry_the_pdu_as_their_framing_wants() {
    let pdu = [6, 0x01, 0x05, 0x00, 0xA0];
    assert_eq!(frame(Framing::Mbap, 3, 7, &pdu), [0, 7, 0, 0, 0, 6, 3, 6, 1, 5, 0, 0xA0]);
    let rtu = frame(Framing::Rtu, 3, 7, &pdu);
    assert_eq!(rtu[..6], [3, 6, 1, 5, 0, 0xA0]);
    assert_eq!(crc(&rtu), 0, "the CRC is behind it");
}

#[test]
fn only_the_very_answer_is_taken() {
    let two = target(Table::Holding, 1, Kind::Uint32, Function::Registers);
    let write = Write::new(1, &two, &whole(Raw::Uint(5))).unwrap();
    assert_eq!(write.check(&[16, 0, 1, 0, 2]), Written::Done);
    assert_eq!(write.check(&[0x90, 3]), Written::Exception(3));
    for misfit in
        [&[16, 0, 1, 0, 1][..], &[16, 0, 2, 0, 2], &[6, 0, 1, 0, 2], &[0x86, 3], &[16, 0, 1, 0], &[]]
    {
        assert_eq!(write.check(misfit), Written::Misfit, "{misfit:?}");
    }
    let single = target(Table::Holding, 1, Kind::Uint16, Function::Register);
    let write = Write::new(1, &single, &whole(Raw::Uint(5))).unwrap();
    assert_eq!(write.check(&[6, 0, 1, 0, 4]), Written::Misfit, "the device kept another value");
}

/// QUIRKS 21: NIBE S reads CDAB and is written ABCD.
#[test]
fn quirk_21_write_order_differs_from_read_order() {
    let mut nibe = target(Table::Holding, 10, Kind::Int32, Function::Registers);
    nibe.reading.decode.order = Order::Cdab;
    let write = Write::new(1, &nibe, &whole(Raw::Int(0x0001_0002))).unwrap();
    assert_eq!(write.change, Change::Registers([0, 1, 0, 2].into()));
    nibe.order = Order::Cdab;
    let write = Write::new(1, &nibe, &whole(Raw::Int(0x0001_0002))).unwrap();
    assert_eq!(write.change, Change::Registers([0, 2, 0, 1].into()));
}

#[test]
fn a_bit_of_a_wide_value_changes_its_own_register_only() {
    for (order, address) in [(Order::Abcd, 10), (Order::Cdab, 11), (Order::Badc, 10), (Order::Dcba, 11)] {
        let mut wide = target(Table::Holding, 10, Kind::Uint32, Function::Mask);
        (wide.order, wide.transform.select) = (order, Select::Bit(17));
        let setting = wide.setting(&Value::Bool(true), None).unwrap();
        let write = Write::new(1, &wide, &setting).unwrap();
        assert_eq!(write.address, address, "{order:?}");
        let bit = if matches!(order, Order::Abcd | Order::Cdab) { 0x0002 } else { 0x0200 };
        assert_eq!(write.change, Change::Mask { and: !bit, or: bit });
    }
}

#[test]
fn what_a_function_cannot_write_is_refused() {
    let wrong = |target: &Target, raw| Write::new(1, target, &whole(raw)).unwrap_err();
    let input = target(Table::Input, 0, Kind::Uint16, Function::Register);
    assert_eq!(wrong(&input, Raw::Uint(1)), WriteError::Function(6));
    let wide = target(Table::Holding, 0, Kind::Uint32, Function::Register);
    assert_eq!(wrong(&wide, Raw::Uint(1)), WriteError::Function(6));
    let mut part = target(Table::Holding, 0, Kind::Uint16, Function::Register);
    part.transform.select = Select::Bit(1);
    assert_eq!(wrong(&part, Raw::Uint(2)), WriteError::Function(6));
    let coil = target(Table::Coil, 0, Kind::Bool, Function::Coil);
    assert_eq!(wrong(&coil, Raw::Uint(2)), WriteError::Function(5));
}

/// A device's holding registers from 0 on.
fn perform(write: &Write, memory: &mut [u8; 16]) {
    let at = usize::from(write.address) * 2;
    match &write.change {
        Change::Register(word) => memory[at..at + 2].copy_from_slice(word),
        Change::Registers(words) => memory[at..at + words.len()].copy_from_slice(words),
        // As 6.16 has it.
        Change::Mask { and, or } => {
            let current = u16::from_be_bytes([memory[at], memory[at + 1]]);
            memory[at..at + 2].copy_from_slice(&((current & and) | (or & !and)).to_be_bytes());
        }
        Change::Coil(_) | Change::Coils(_) => panic!("no coils here"),
    }
}

const NUMBERS: [Kind; 10] = [
    Kind::Int8,
    Kind::Uint8,
    Kind::Int16,
    Kind::Uint16,
    Kind::Int32,
    Kind::Uint32,
    Kind::Int64,
    Kind::Uint64,
    Kind::Bcd16,
    Kind::Bcd32,
];

proptest! {
    #[test]
    fn a_value_that_was_written_is_read_back_and_nothing_else_has_changed(
        memory in any::<[u8; 16]>(), number in any::<u64>(), address in 0u16..4, order in 0usize..4,
        high in any::<bool>(), select in 0u8..3, mask in 0u16..,
    ) {
        let order = [Order::Abcd, Order::Cdab, Order::Badc, Order::Dcba][order];
        for kind in NUMBERS {
            let mut target = target(Table::Holding, address, kind, Function::Registers);
            target.reading.decode.order = order;
            target.reading.decode.byte = Some(if high { Byte::High } else { Byte::Low });
            target.order = order;
            let bits = u8::try_from(kind.registers().unwrap() * 16).unwrap();
            let may_select = !matches!(kind, Kind::Int8 | Kind::Uint8 | Kind::Bcd16 | Kind::Bcd32);
            target.transform.select = match select {
                1 if may_select => Select::Bit((number % u64::from(bits)) as u8),
                2 if may_select => Select::Mask(u64::from(mask.max(1)) << (16 * (number % u64::from(bits / 16)))),
                _ => Select::Whole,
            };
            if target.is_part() {
                target.function = Function::Mask;
            }
            // Values that fit: digits for BCD, few enough bits for the rest, both signs.
            let small = i64::try_from(number % 100).unwrap() * if number >> 63 == 1 { -1 } else { 1 };
            let value = match target.transform.select {
                Select::Bit(_) => Value::Bool(number & 1 == 1),
                Select::Mask(mask) => Value::Number(Decimal::from(number & (mask >> mask.trailing_zeros()))),
                _ => Value::Number(Decimal::from(small)),
            };
            let Ok(setting) = target.setting(&value, None) else { continue };
            let write = Write::new(1, &target, &setting).unwrap();
            prop_assert_eq!(write.check(&write.answer()), Written::Done);
            let mut after = memory;
            perform(&write, &mut after);
            let block = read_back(&target).unwrap();
            let from = usize::from(block.address) * 2;
            let raw = decode::registers(&target.reading.decode, &after[from..from + block.bytes()]).unwrap();
            prop_assert!(holds(&setting, &raw), "{:?} {:?} {:?}", target, setting, raw);
            // Outside of its place nothing moves; of a part, nothing outside of its register's bits.
            let changed: u32 = memory.iter().zip(&after).map(|(a, b)| (a ^ b).count_ones()).sum();
            let limit = match (&target.transform.select, kind) {
                (Select::Bit(_), _) => 1,
                (Select::Mask(mask), _) => mask.count_ones(),
                (_, Kind::Int8 | Kind::Uint8) => 8,
                _ => u32::from(bits),
            };
            prop_assert!(changed <= limit);
            prop_assert_eq!(&memory[..from], &after[..from]);
            prop_assert_eq!(&memory[from + block.bytes()..], &after[from + block.bytes()..]);
        }
    }

    #[test]
    fn any_answer_is_judged(pdu in prop::collection::vec(any::<u8>(), 0..12)) {
        let single = target(Table::Holding, 1, Kind::Uint16, Function::Register);
        let write = Write::new(1, &single, &whole(Raw::Uint(5))).unwrap();
        let done = pdu == [6, 0, 1, 0, 5];
        prop_assert_eq!(write.check(&pdu) == Written::Done, done);
    }
}
