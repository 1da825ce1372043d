//! Requests other than reads, against scripted far sides, on the paused clock.

use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::drivers::modbus::exchange::Manner;
use crate::drivers::modbus::framing::frame;
use crate::drivers::modbus::{identify, write};
use crate::drivers::pause::Pause;

const TIMEOUT: Duration = Duration::from_millis(200);
const PATIENCE: Patience =
    Patience { timeout: TIMEOUT, response_timeout: TIMEOUT, line_rest: Duration::from_millis(300) };

/// Register 261 becomes 160; its answer is the request again.
const SINGLE: [u8; 5] = [6, 1, 5, 0, 160];

fn link(framing: Framing) -> (Wire<DuplexStream>, DuplexStream) {
    let (near, far) = duplex(4096);
    let silence = Duration::from_millis(4);
    let pause = Pause::coarse();
    let manner = Manner { framing, silence, late_window: None, is_serial: true, pause, max_in_flight: 1 };
    (Wire::new(near, manner, Instant::now()), far)
}

fn query(pdu: &[u8], echoes: bool) -> Query<'_> {
    let measure = if pdu[0] == identify::FUNCTION { identify::length } else { write::answer_length };
    Query { unit: 7, pdu, measure, echoes }
}

/// Asks once, while the far side hears the request and sends these parts, 10 ms apart.
async fn told(
    framing: Framing,
    pdu: &[u8],
    echoes: bool,
    parts: &[Vec<u8>],
) -> (Result<Reply, LinkLost>, Vec<u8>, Wire<DuplexStream>) {
    let (mut wire, mut far) = link(framing);
    let mut answer = Vec::new();
    let far_side = async {
        let mut heard = [0; 260];
        let expected = frame(framing, 7, 1, pdu);
        far.read_exact(&mut heard[..expected.len()]).await.unwrap();
        assert_eq!(heard[..expected.len()], expected);
        for part in parts {
            tokio::time::sleep(Duration::from_millis(10)).await;
            far.write_all(part).await.unwrap();
        }
    };
    let (done, ()) = tokio::join!(wire.query(query(pdu, echoes), PATIENCE, &mut answer), far_side);
    (done.map(|done| done.reply), answer, wire)
}

#[tokio::test(start_paused = true)]
async fn a_write_is_answered_by_its_own_answer_only() {
    for framing in [Framing::Mbap, Framing::Rtu] {
        let good = frame(framing, 7, 1, &SINGLE);
        let (reply, answer, _) = told(framing, &SINGLE, false, std::slice::from_ref(&good)).await;
        assert_eq!((reply.unwrap(), answer), (Reply::Data, SINGLE.to_vec()));
        let refused = frame(framing, 7, 1, &[0x86, 3]);
        let (reply, ..) = told(framing, &SINGLE, false, &[refused]).await;
        assert_eq!(reply.unwrap(), Reply::Exception(3));
        // In pieces, each of them in time.
        let pieces: Vec<Vec<u8>> = good.chunks(3).map(<[u8]>::to_vec).collect();
        let (reply, answer, _) = told(framing, &SINGLE, false, &pieces).await;
        assert_eq!((reply.unwrap(), answer), (Reply::Data, SINGLE.to_vec()));
        let (reply, ..) = told(framing, &SINGLE, false, &[]).await;
        assert_eq!(reply.unwrap(), Reply::Timeout);
    }
}

#[tokio::test(start_paused = true)]
async fn on_tcp_a_late_answer_is_dropped_and_a_misfit_is_garbled() {
    let late = frame(Framing::Mbap, 7, 0, &SINGLE);
    let good = frame(Framing::Mbap, 7, 1, &SINGLE);
    let (reply, answer, mut wire) = told(Framing::Mbap, &SINGLE, false, &[[late, good].concat()]).await;
    assert_eq!((reply.unwrap(), answer), (Reply::Data, SINGLE.to_vec()));
    assert_eq!(wire.take_strays()[Stray::Late as usize], 1);
    for misfit in [
        frame(Framing::Mbap, 8, 1, &SINGLE),
        frame(Framing::Mbap, 7, 1, &[16, 1, 5, 0, 160]),
        frame(Framing::Mbap, 7, 1, &SINGLE[..4]),
        frame(Framing::Mbap, 7, 1, &[&SINGLE[..], &[0]].concat()),
    ] {
        let (reply, answer, _) = told(Framing::Mbap, &SINGLE, false, &[misfit]).await;
        assert_eq!((reply.unwrap(), answer), (Reply::Garbled, vec![]));
    }
    let (reply, ..) = told(Framing::Mbap, &SINGLE, false, &[b"HTTP/1.1 400".to_vec()]).await;
    assert!(reply.is_err());
}

#[tokio::test(start_paused = true)]
async fn on_a_line_foreign_and_damaged_frames_are_no_answer() {
    let good = frame(Framing::Rtu, 7, 1, &SINGLE);
    for front in [vec![0, 0xFF], frame(Framing::Rtu, 8, 1, &SINGLE), frame(Framing::Rtu, 7, 1, &[3, 2, 0, 9])]
    {
        let (reply, answer, _) = told(Framing::Rtu, &SINGLE, false, &[front, good.clone()]).await;
        assert_eq!((reply.unwrap(), answer), (Reply::Data, SINGLE.to_vec()));
    }
    let mut damaged = good;
    damaged[4] ^= 1;
    let (reply, answer, wire) = told(Framing::Rtu, &SINGLE, false, &[damaged]).await;
    assert_eq!((reply.unwrap(), answer), (Reply::Garbled, vec![]));
    let mut wire = wire;
    assert!(wire.line().free_at(7).is_some(), "its answer may still come");
}

/// QUIRKS 16: the echo of a single write is, byte for byte, the answer that says "done".
#[tokio::test(start_paused = true)]
async fn quirk_16_an_echo_is_not_taken_for_the_answer_of_a_write() {
    let echo = frame(Framing::Rtu, 7, 1, &SINGLE);
    let (reply, ..) = told(Framing::Rtu, &SINGLE, true, std::slice::from_ref(&echo)).await;
    assert_eq!(reply.unwrap(), Reply::Timeout, "nobody but the adapter has said anything");
    let (reply, ..) = told(Framing::Rtu, &SINGLE, true, &[echo.clone(), echo.clone()]).await;
    assert_eq!(reply.unwrap(), Reply::Data);
    let refused = frame(Framing::Rtu, 7, 1, &[0x86, 2]);
    let (reply, ..) = told(Framing::Rtu, &SINGLE, true, &[[echo, refused].concat()]).await;
    assert_eq!(reply.unwrap(), Reply::Exception(2));
}

#[tokio::test(start_paused = true)]
async fn an_identification_tells_its_own_length() {
    let asked = identify::pdu(identify::Level::Basic, 0);
    let pdu = [&[0x2B, 0x0E, 1, 1, 0, 0, 2][..], &[0, 4], b"ACME", &[1, 2], b"M1"].concat();
    for framing in [Framing::Mbap, Framing::Rtu] {
        // On a line with an adapter that hears itself, too: the echo is no identification.
        let echo = if framing == Framing::Rtu { frame(framing, 7, 1, &asked) } else { Vec::new() };
        let whole = [echo, frame(framing, 7, 1, &pdu)].concat();
        let pieces: Vec<Vec<u8>> = whole.chunks(5).map(<[u8]>::to_vec).collect();
        let (reply, answer, _) = told(framing, &asked, false, &pieces).await;
        assert_eq!((reply.unwrap(), answer), (Reply::Data, pdu.clone()), "{framing:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_babbling_line_is_bounded() {
    let noise = vec![vec![0x55; 300]; 10];
    let (reply, answer, _) = told(Framing::Rtu, &SINGLE, false, &noise).await;
    assert_eq!((reply.unwrap(), answer), (Reply::Garbled, vec![]));
}

proptest! {
    #[test]
    fn only_a_whole_frame_of_the_unit_is_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..80), cut in 0usize..9) {
        let asked = query(&SINGLE, false);
        let good = frame(Framing::Rtu, 7, 1, &SINGLE);
        let all = [bytes.as_slice(), &good[..cut.min(good.len())]].concat();
        if let Found::Pdu(pdu, used) = find_rtu(asked, &all) {
            prop_assert!(used <= all.len() && crc(&all[pdu.start - 1..used]) == 0 && all[pdu.start - 1] == 7);
        }
        let _ = find_mbap(asked, 1, &all);
        let _ = find_rtu(query(&identify::pdu(identify::Level::Basic, 0), false), &all);
    }

    #[test]
    fn an_answer_is_found_behind_any_noise(noise in prop::collection::vec(any::<u8>(), 0..100)) {
        let good = frame(Framing::Rtu, 7, 1, &SINGLE);
        let all = [noise.as_slice(), &good].concat();
        let found = find_rtu(query(&SINGLE, false), &all);
        // Noise that happens to be a whole frame itself is one in 65,536 of those that look like one.
        let is_found = matches!(found, Found::Pdu(..) | Found::Exception(..));
        prop_assert!(is_found);
    }
}
