//! What is made of an answer once its frame is known: registers to raw values, identifications, answers to writes.
//!
//! Laws: what has not the length of its type is garbled, and what has one is never guessed: encoding it gives the same
//! value; an identification that is taken has the length that was told for it, and texts that may be shown; a write is done only when the
//! answer says exactly so.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taktbus::drivers::modbus::identify::{self, Identity};
use taktbus::drivers::modbus::plan::{Cut, Pick};
use taktbus::drivers::modbus::write::{self, Change, Write, Written};
use taktbus::drivers::modbus::{decode, encode};
use taktbus::mapping::compiled::{Byte, Chars, Clock, ClockFormat, Decode, Kind, Order};
use taktbus::model::value::{Cause, Raw};
use taktbus_fuzz::Input;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    match input.byte() % 3 {
        0 => registers(&mut input),
        1 => identification(&mut input),
        _ => write_answer(&mut input),
    }
});

fn decoding(input: &mut Input<'_>) -> Decode {
    use ClockFormat::*;
    let (kind, how) = (input.byte(), input.byte());
    let clock = |format| Kind::Datetime(Clock { format, utc: how & 0x80 != 0 });
    let kinds = [
        Kind::Bool,
        Kind::Int8,
        Kind::Int16,
        Kind::Int32,
        Kind::Int64,
        Kind::Uint8,
        Kind::Uint16,
        Kind::Uint32,
        Kind::Uint64,
        Kind::Float16,
        Kind::Float32,
        Kind::Float64,
        Kind::String,
        Kind::Bcd16,
        Kind::Bcd32,
        Kind::Mod10k,
        clock(Unix),
        clock(UnixMs),
        clock(Iec870),
        clock(Packed),
        clock(Fields),
    ];
    Decode {
        kind: kinds[usize::from(kind) % kinds.len()],
        order: [Order::Abcd, Order::Cdab, Order::Badc, Order::Dcba][usize::from(how & 3)],
        byte: [None, Some(Byte::High), Some(Byte::Low), None][usize::from(how >> 2 & 3)],
        chars: [Chars::Both, Chars::High, Chars::Low, Chars::Both][usize::from(how >> 4 & 3)],
    }
}

fn registers(input: &mut Input<'_>) {
    let decode = decoding(input);
    let (pick, at, count) = (input.byte(), u32::from(input.word()), u16::from(input.byte()));
    let data = input.rest();
    let raw = decode::registers(&decode, data);
    let has_length = match decode.kind.registers() {
        Some(registers) => data.len() == usize::from(registers) * 2,
        None => data.len().is_multiple_of(2),
    };
    if !has_length {
        assert_eq!(raw, Err(Cause::Garbled), "{decode:?}");
    } else if let Ok(raw) = &raw {
        judge_raw(&decode, raw, data);
    }
    // Anywhere in the data, and past their end.
    let pick = match pick % 3 {
        0 => Pick::Words { at, count },
        1 => Pick::Scattered((0..u32::from(count)).map(|n| at.wrapping_mul(n) % 512).collect()),
        _ => Pick::Bit(at),
    };
    let cut = decode::cut(&Cut { pick: pick.clone(), decode: decode.clone() }, data);
    let at = at as usize;
    match pick {
        Pick::Bit(_) => match data.get(at / 8) {
            Some(byte) => assert_eq!(cut, Ok(Raw::Bool(byte & 1 << (at % 8) != 0))),
            None => assert_eq!(cut, Err(Cause::Garbled)),
        },
        Pick::Words { .. } => match data.get(at..at + usize::from(count) * 2) {
            Some(words) => assert!(same(&cut, &decode::registers(&decode, words))),
            None => assert_eq!(cut, Err(Cause::Garbled)),
        },
        Pick::Scattered(places) => {
            if places.iter().any(|at| *at as usize + 2 > data.len()) {
                assert_eq!(cut, Err(Cause::Garbled));
            }
        }
    }
}

fn judge_raw(decode: &Decode, raw: &Raw, data: &[u8]) {
    if let Raw::Text(text) = raw {
        // A byte that is no UTF-8 shows as U+FFFD, which has three.
        assert!(text.len() <= data.len().max(12) * 3, "{text:?}");
    }
    let mut words = vec![0; data.len()];
    if encode::registers(decode, raw, &mut words).is_ok() {
        assert!(same(&decode::registers(decode, &words), &Ok(raw.clone())), "{decode:?} {raw:?} {words:?}");
    }
}

/// Equal, where every NaN is as good as another.
fn same(a: &Result<Raw, Cause>, b: &Result<Raw, Cause>) -> bool {
    let is_nan = |raw: &Result<Raw, Cause>| match raw {
        Ok(Raw::Float32(float)) => float.is_nan(),
        Ok(Raw::Float64(float)) => float.is_nan(),
        _ => false,
    };
    a == b || (is_nan(a) && is_nan(b))
}

fn identification(input: &mut Input<'_>) {
    let mut identity = Identity::default();
    while !input.is_empty() {
        let length = usize::from(input.byte());
        let pdu = [&[identify::FUNCTION, 14], input.take(length)].concat();
        let told = identify::length(&pdu);
        // It's known from the front, and stays what it was.
        for front in (0..pdu.len()).map(|end| &pdu[..end]) {
            assert!(identify::length(front).is_none_or(|length| Some(length) == told));
        }
        if identity.take(&pdu).is_ok() {
            assert!(told.is_some_and(|length| length <= pdu.len()));
        }
        for (_, text) in identity.named() {
            assert!(!text.is_empty() && text.chars().count() <= 60);
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }
}

fn write_answer(input: &mut Input<'_>) {
    let (kind, unit, address, word) = (input.byte(), input.byte(), input.word(), input.word());
    let change = match kind % 5 {
        0 => Change::Coil(word & 1 == 0),
        1 => Change::Register(word.to_be_bytes()),
        2 => Change::Coils(word & 1 == 0),
        3 => Change::Registers(
            input.take(2 * usize::from(word % 123)).chunks_exact(2).flatten().copied().collect(),
        ),
        _ => Change::Mask { and: word, or: address },
    };
    let write = Write { unit, address, change };
    let (pdu, right) = (write.pdu(), write.answer());
    assert!(pdu.starts_with(&right) && pdu.len() <= 253);
    assert_eq!(write::answer_length(&right), Some(right.len()));
    assert_eq!(write.check(&right), Written::Done);
    let mut answer = right.clone();
    let (place, change) = (usize::from(input.byte()), input.byte());
    answer.get_mut(place).into_iter().for_each(|byte| *byte ^= change);
    answer.extend(input.rest());
    match write.check(&answer) {
        Written::Done => assert_eq!(answer, right),
        Written::Exception(code) => assert_eq!(answer, [write.function().code() | 0x80, code]),
        Written::Misfit => assert_ne!(answer, right),
    }
}
