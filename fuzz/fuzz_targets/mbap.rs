//! A stream of MBAP bytes that arrives in pieces: the framer, on the inbox that it works with.
//!
//! Laws: what it finds is what a plain reading of the whole stream finds, however the bytes are cut; a whole frame always
//! fits into the inbox.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taktbus::drivers::modbus::framing::{Framing, LONGEST_FRAME, Request, Scan, Stray};
use taktbus::drivers::modbus::inbox::Inbox;
use taktbus_fuzz::{Input, spec};

/// What is found in a stream: kinds of frames, with the offsets of their first bytes.
#[derive(Debug, PartialEq)]
enum Found<'s> {
    Data(usize, &'s [u8]),
    Exception(usize, u8),
    Late(usize),
    Foreign(usize),
    Misfit(usize),
    Broken(usize),
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let (request, transaction, cuts) = (input.request(), input.word(), input.word());
    let stream = stream(request, transaction, &mut input);
    let expected = read_whole(request, transaction, &stream);
    assert_eq!(read_in_pieces(request, transaction, &stream, cuts), expected);
});

/// Frames that are good but for what the input changes, so that it needn't find out everything by itself, and then
/// whatever it holds.
fn stream(request: Request, transaction: u16, input: &mut Input<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..input.byte() % 6 {
        let id = transaction.wrapping_add(u16::from(input.byte() % 8)).wrapping_sub(4);
        let body = match input.byte() % 4 {
            0 => spec::answered(request, &vec![input.byte(); spec::data_length(request)]),
            1 => vec![request.unit, spec::function(request.block.table) | 0x80, input.byte()],
            2 => spec::asked(request),
            _ => {
                let length = usize::from(input.byte());
                input.take(length).to_vec()
            }
        };
        let at = stream.len();
        stream.extend(spec::mbap(id, &body));
        let (place, change) = (at + usize::from(input.byte()), input.byte());
        stream.get_mut(place).into_iter().for_each(|byte| *byte ^= change);
    }
    stream.extend(input.rest());
    stream
}

fn read_whole(request: Request, transaction: u16, stream: &[u8]) -> Vec<Found<'_>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let [id_high, id_low, protocol @ .., length_high, length_low, _] =
        &stream[at..stream.len().min(at + 7)]
        && protocol.len() == 2
    {
        let length = usize::from(u16::from_be_bytes([*length_high, *length_low]));
        if protocol != [0, 0] || !(3..=254).contains(&length) {
            found.push(Found::Broken(at));
            break;
        }
        let Some(body) = stream.get(at + 6..at + 6 + length) else { break };
        let behind = transaction.wrapping_sub(u16::from_be_bytes([*id_high, *id_low]));
        found.push(match behind {
            0 if body == spec::asked(request) => Found::Misfit(at),
            0 if spec::is_answer(request, body) && body[1] & 0x80 != 0 => Found::Exception(at, body[2]),
            0 if spec::is_answer(request, body) => Found::Data(at, &body[3..]),
            0 => Found::Misfit(at),
            1..=0x7FFF => Found::Late(at),
            _ => Found::Foreign(at),
        });
        at += 6 + length;
    }
    found
}

fn read_in_pieces<'s>(request: Request, transaction: u16, stream: &'s [u8], cuts: u16) -> Vec<Found<'s>> {
    let mut inbox = Inbox::new(LONGEST_FRAME);
    let (mut found, mut arrived, mut at) = (Vec::new(), 0, 0);
    // The pieces' lengths follow from the input, too.
    let mut random = u32::from(cuts);
    loop {
        match Framing::Mbap.scan(request, transaction, inbox.bytes()) {
            Scan::More => {
                assert!(!inbox.is_full(), "no frame is longer than the inbox");
                if arrived == stream.len() {
                    break;
                }
                random = random.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                let most = if cuts & 1 == 0 { 1 + (random >> 16) as usize % 9 } else { LONGEST_FRAME };
                let vacant = inbox.vacant();
                let count = most.min(vacant.len()).min(stream.len() - arrived);
                vacant[..count].copy_from_slice(&stream[arrived..arrived + count]);
                inbox.filled(count);
                arrived += count;
                continue;
            }
            Scan::Broken => {
                found.push(Found::Broken(at));
                break;
            }
            scan => {
                let (what, used) = match scan {
                    Scan::Complete { data, used } => {
                        assert_eq!(inbox.bytes()[data.clone()], stream[at + data.start..at + data.end]);
                        (Found::Data(at, &stream[at + data.start..at + data.end]), used)
                    }
                    Scan::Exception { code, used } => (Found::Exception(at, code), used),
                    Scan::Stray { kind: Stray::Late, used } => (Found::Late(at), used),
                    Scan::Stray { kind: Stray::Foreign, used } => (Found::Foreign(at), used),
                    Scan::Misfit(used) => (Found::Misfit(at), used),
                    other => panic!("{other:?} on TCP"),
                };
                found.push(what);
                assert!(used > 0 && used <= inbox.bytes().len());
                inbox.consume(used);
                at += used;
            }
        }
    }
    found
}
