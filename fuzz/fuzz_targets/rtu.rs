//! RTU bytes that arrive in pieces: the framer, the inbox, and the line's memory of who may answer late.
//!
//! Laws: what is taken for an answer, an echo or somebody's frame is one by a CRC that is computed apart; every byte is
//! accounted for once; an answer that is there is found, whatever is around it; a full inbox makes room.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use taktbus::drivers::modbus::framing::{self, Framing, LONGEST_FRAME, Request, Scan, Stray};
use taktbus::drivers::modbus::inbox::Inbox;
use taktbus::drivers::modbus::line::Line;
use taktbus_fuzz::{Input, spec};
use tokio::time::Instant;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let (request, cuts) = (input.request(), input.word());
    let stream = stream(request, &mut input);
    read_in_pieces(request, &stream, cuts);
    let at_once = &stream[..stream.len().min(LONGEST_FRAME)];
    finds_what_is_there(request, at_once);
    the_line_remembers(request, at_once, cuts);
});

/// Frames that are good but for what the input changes, with whatever else it holds between them.
fn stream(request: Request, input: &mut Input<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !input.is_empty() && stream.len() < 2 * LONGEST_FRAME {
        let function = spec::function(request.block.table);
        let kind = input.byte();
        let mut piece = match kind % 6 {
            0 => spec::rtu(&spec::answered(request, &vec![input.byte(); spec::data_length(request)])),
            1 => spec::rtu(&[request.unit, function | 0x80, input.byte()]),
            2 => spec::rtu(&spec::asked(request)),
            3 => {
                let length = usize::from(input.byte());
                spec::rtu(input.take(length))
            }
            _ => {
                let length = usize::from(input.byte() % 32);
                input.take(length).to_vec()
            }
        };
        if kind & 0x80 != 0 {
            let (place, change) = (usize::from(input.byte()), input.byte());
            piece.get_mut(place).into_iter().for_each(|byte| *byte ^= change);
        }
        if kind & 0x40 != 0 {
            piece.truncate(usize::from(input.byte()));
        }
        stream.extend(piece);
    }
    stream
}

/// As an exchange does it, over and over.
fn read_in_pieces(request: Request, stream: &[u8], cuts: u16) {
    let mut inbox = Inbox::new(LONGEST_FRAME);
    let (mut arrived, mut at) = (0, 0);
    let mut random = u32::from(cuts);
    loop {
        assert_eq!(inbox.bytes(), &stream[at..arrived]);
        let used = match Framing::Rtu.scan(request, 0, inbox.bytes()) {
            Scan::Complete { data, used } => {
                assert!(spec::is_rtu_answer(request, &inbox.bytes()[..used]));
                assert_eq!((data.start, data.len(), data.end + 2), (3, spec::data_length(request), used));
                used
            }
            Scan::Exception { code, used } => {
                let frame = &inbox.bytes()[..used];
                assert!(spec::is_rtu_answer(request, frame));
                assert_eq!((used, frame[2]), (5, code));
                used
            }
            Scan::Stray { kind, used } => {
                judge_stray(request, kind, &inbox.bytes()[..used]);
                used
            }
            Scan::More if inbox.is_full() => framing::before_answer(request, inbox.bytes()),
            Scan::More if arrived == stream.len() => break,
            Scan::More => {
                random = random.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                let most = if cuts & 1 == 0 { 1 + (random >> 16) as usize % 29 } else { LONGEST_FRAME };
                let vacant = inbox.vacant();
                let count = most.min(vacant.len()).min(stream.len() - arrived);
                vacant[..count].copy_from_slice(&stream[arrived..arrived + count]);
                inbox.filled(count);
                arrived += count;
                continue;
            }
            other => panic!("{other:?} on RTU"),
        };
        assert!(used > 0 && used <= inbox.bytes().len());
        inbox.consume(used);
        at += used;
    }
    // As after a timeout: what is left is dropped, and counted as what it is.
    while !inbox.bytes().is_empty() {
        let (kind, used) = framing::stray(request, inbox.bytes());
        judge_stray(request, kind, &inbox.bytes()[..used]);
        assert!(used > 0);
        inbox.consume(used);
    }
}

fn judge_stray(request: Request, kind: Stray, bytes: &[u8]) {
    match kind {
        Stray::Echo => assert_eq!(bytes, spec::rtu(&spec::asked(request))),
        Stray::Foreign => assert!(spec::is_closed(bytes) && bytes[0] != request.unit),
        Stray::Misshapen => assert!(spec::is_closed(bytes) && bytes[0] == request.unit),
        Stray::Noise => {}
        Stray::Late => panic!("nothing is late by itself on RTU"),
    }
}

fn finds_what_is_there(request: Request, bytes: &[u8]) {
    let there = spec::holds_rtu_answer(request, bytes);
    let found = framing::holds_answer(request, bytes);
    // An echo may take the first bytes of what also reads as an answer; and what begins as an answer is waited for to its end.
    let is_hidden = spec::holds_rtu_echo(request, bytes) || spec::holds_unfinished_answer(request, bytes);
    assert!(found == there || (there && is_hidden), "there: {there}");
    if framing::is_damaged_answer(request, bytes) {
        assert!(bytes.len() >= spec::data_length(request) + 5);
        assert_eq!(bytes[..2], [request.unit, spec::function(request.block.table)]);
    }
}

fn the_line_remembers(request: Request, bytes: &[u8], times: u16) {
    let millis = |n: u16| Duration::from_millis(n.into());
    let start = Instant::now();
    let (silence, timeout) = (millis(4), millis(1 + times % 512));
    let window = (times & 0x400 != 0).then_some(millis(times >> 4));
    let mut line = Line::new(silence, window, start);
    let gave_up = start + timeout;
    line.unanswered(request, start, gave_up, timeout, timeout * 3 / 2);
    let owed_until = start + window.unwrap_or(timeout * 3);
    assert_eq!(line.free_at(request.unit), Some(owed_until));
    assert!(line.quiet_until() >= gave_up + silence);
    assert!(line.may_ask_at(request.unit) >= line.quiet_until());
    let now = gave_up + millis(times >> 8);
    let settled = line.heard(bytes, now);
    assert_eq!(settled, framing::holds_answer(request, bytes));
    assert!(line.quiet_until() >= now + silence, "somebody has just talked");
    assert_eq!(line.free_at(request.unit).is_none(), settled);
    assert!(line.settled_at() >= line.may_ask_at(request.unit));
}
