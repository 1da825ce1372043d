//! Exchanges against scripted far sides, on the paused clock.

use proptest::prelude::*;
use tokio::io::{DuplexStream, duplex};
use tokio::time::sleep;

use super::*;
use crate::drivers::modbus::framing::crc;
use crate::drivers::modbus::plan::Block;
use crate::model::place::Table;

const TIMEOUT: Duration = Duration::from_millis(200);
const SILENCE: Duration = Duration::from_millis(4);
const PATIENCE: Patience =
    Patience { timeout: TIMEOUT, response_timeout: TIMEOUT, line_rest: Duration::from_millis(300) };

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn request(unit: u8, address: u16, count: u16) -> Request {
    Request { unit, block: Block { table: Table::Holding, address, count } }
}

fn link(framing: Framing) -> (Wire<DuplexStream>, DuplexStream) {
    let (near, far) = duplex(4096);
    (Wire::new(near, manner(framing), Instant::now()), far)
}

fn manner(framing: Framing) -> Manner {
    Manner {
        framing,
        silence: SILENCE,
        late_window: None,
        is_serial: true,
        pause: Pause::coarse(),
        max_in_flight: 1,
    }
}

fn count_of(wire: &mut Wire<DuplexStream>, kind: Stray) -> u32 {
    wire.take_strays()[kind as usize]
}

/// The frame that answers this request frame; each register holds its own address.
fn answer_to(framing: Framing, request: &[u8]) -> Vec<u8> {
    let pdu = if framing == Framing::Mbap { &request[6..] } else { &request[..6] };
    let (address, count) = (u16::from_be_bytes([pdu[2], pdu[3]]), u16::from_be_bytes([pdu[4], pdu[5]]));
    let mut body = vec![pdu[0], pdu[1], count as u8 * 2];
    (0..count).for_each(|i| body.extend(address.wrapping_add(i).to_be_bytes()));
    framed(framing, request, body)
}

fn framed(framing: Framing, request: &[u8], mut body: Vec<u8>) -> Vec<u8> {
    match framing {
        Framing::Mbap => [&request[..5], &[body.len() as u8], &body[..]].concat(),
        Framing::Rtu => {
            body.extend(crc(&body).to_le_bytes());
            body
        }
    }
}

async fn hear(framing: Framing, far: &mut DuplexStream) -> Vec<u8> {
    let mut frame = vec![0; if framing == Framing::Mbap { 12 } else { 8 }];
    far.read_exact(&mut frame).await.unwrap();
    frame
}

/// The registers that came, or how it ended otherwise.
async fn ask(wire: &mut Wire<DuplexStream>, request: Request) -> Result<Vec<u16>, Reply> {
    let mut data = Vec::new();
    match wire.exchange(request, PATIENCE, &mut data).await.unwrap().reply {
        Reply::Data => Ok(data.chunks(2).map(|word| u16::from_be_bytes([word[0], word[1]])).collect()),
        other => {
            assert!(data.is_empty());
            Err(other)
        }
    }
}

const BOTH: [Framing; 2] = [Framing::Mbap, Framing::Rtu];

#[tokio::test(start_paused = true)]
async fn quirk_14_a_late_answer_is_never_taken_for_a_later_one() {
    for framing in BOTH {
        for late in [220, 300, 450, 590] {
            let (mut wire, mut far) = link(framing);
            let peer = tokio::spawn(async move {
                let first = hear(framing, &mut far).await;
                let (mut read, mut write) = tokio::io::split(far);
                tokio::spawn(async move {
                    sleep(ms(late)).await;
                    write.write_all(&answer_to(framing, &first)).await.unwrap();
                    // All later requests are answered at once; theirs are scripted to follow the late one.
                    loop {
                        let mut frame = vec![0; first.len()];
                        if read.read_exact(&mut frame).await.is_err() {
                            return;
                        }
                        write.write_all(&answer_to(framing, &frame)).await.unwrap();
                    }
                });
            });
            assert_eq!(ask(&mut wire, request(1, 1000, 2)).await, Err(Reply::Timeout));
            peer.await.unwrap();
            // On TCP the second request may wait behind the late answer: what comes is its own, or nothing.
            for address in [2000, 3000, 4000, 5000] {
                match ask(&mut wire, request(1, address, 2)).await {
                    Ok(words) => assert_eq!(words, [address, address + 1], "{framing:?}, {late} ms late"),
                    Err(reply) => assert_eq!((reply, framing), (Reply::Timeout, Framing::Mbap)),
                }
            }
            let strayed = count_of(&mut wire, Stray::Late);
            assert!(strayed == 1 || framing == Framing::Mbap && strayed > 1, "{framing:?}, {late} ms late");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_on_a_line_frees_its_unit_at_once() {
    let (mut wire, mut far) = link(Framing::Rtu);
    let peer = tokio::spawn(async move {
        let first = hear(Framing::Rtu, &mut far).await;
        sleep(ms(250)).await;
        far.write_all(&answer_to(Framing::Rtu, &first)).await.unwrap();
        let second = hear(Framing::Rtu, &mut far).await;
        far.write_all(&answer_to(Framing::Rtu, &second)).await.unwrap();
        far
    });
    let start = Instant::now();
    assert_eq!(ask(&mut wire, request(1, 10, 1)).await, Err(Reply::Timeout));
    assert!(wire.line().free_at(1).is_some());
    assert_eq!(ask(&mut wire, request(1, 20, 1)).await, Ok(vec![20]));
    assert!(start.elapsed() < ms(270), "{:?}", start.elapsed());
    assert!(wire.line().free_at(1).is_none());
    peer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_rtu_link_that_broke_during_an_exchange_still_owes_its_answer() {
    // The second one breaks while the request is sent: how much of it the unit has got, nobody knows.
    for room in [8, 4] {
        let (near, mut far) = duplex(room);
        let mut wire = Wire::new(near, manner(Framing::Rtu), Instant::now());
        let peer = tokio::spawn(async move {
            if room == 8 {
                hear(Framing::Rtu, &mut far).await;
            }
            sleep(ms(50)).await;
        });
        let (asked, mut data) = (Instant::now() + SILENCE, Vec::new());
        assert!(wire.exchange(request(1, 10, 2), PATIENCE, &mut data).await.is_err() && data.is_empty());
        // The answer may come on the next link as long as on this one: nobody is asked before that.
        let until = asked + TIMEOUT * crate::drivers::modbus::line::SUSPECT_TIMEOUTS;
        assert_eq!(wire.line().free_at(1), Some(until), "room for {room} bytes");
        assert_eq!(wire.line().settled_at(), until);
        peer.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn another_unit_waits_half_a_timeout_after_a_dead_one() {
    let (mut wire, mut far) = link(Framing::Rtu);
    let peer = tokio::spawn(async move {
        hear(Framing::Rtu, &mut far).await;
        let second = hear(Framing::Rtu, &mut far).await;
        far.write_all(&answer_to(Framing::Rtu, &second)).await.unwrap();
        far
    });
    let start = Instant::now();
    assert_eq!(ask(&mut wire, request(1, 10, 1)).await, Err(Reply::Timeout));
    assert_eq!(ask(&mut wire, request(2, 20, 1)).await, Ok(vec![20]));
    assert!(start.elapsed() >= ms(304) && start.elapsed() < ms(315), "{:?}", start.elapsed());
    peer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dribbled_bytes_make_an_answer() {
    for framing in BOTH {
        let (mut wire, mut far) = link(framing);
        let peer = tokio::spawn(async move {
            let frame = hear(framing, &mut far).await;
            for byte in answer_to(framing, &frame) {
                sleep(ms(2)).await;
                far.write_all(&[byte]).await.unwrap();
            }
            far
        });
        assert_eq!(ask(&mut wire, request(1, 7, 3)).await, Ok(vec![7, 8, 9]));
        peer.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_exception_is_an_answer() {
    for framing in BOTH {
        let (mut wire, mut far) = link(framing);
        let peer = tokio::spawn(async move {
            let frame = hear(framing, &mut far).await;
            far.write_all(&framed(framing, &frame, vec![1, 0x83, 2])).await.unwrap();
            far
        });
        assert_eq!(ask(&mut wire, request(1, 7, 3)).await, Err(Reply::Exception(2)));
        peer.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_byte_count_is_no_answer() {
    for framing in BOTH {
        let (mut wire, mut far) = link(framing);
        let peer = tokio::spawn(async move {
            let frame = hear(framing, &mut far).await;
            far.write_all(&framed(framing, &frame, vec![1, 3, 2, 0, 7])).await.unwrap();
            far
        });
        assert_eq!(ask(&mut wire, request(1, 7, 3)).await, Err(Reply::Garbled));
        peer.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn echo_noise_and_foreign_frames_in_front_of_an_answer_are_dropped() {
    let (mut wire, mut far) = link(Framing::Rtu);
    let peer = tokio::spawn(async move {
        let frame = hear(Framing::Rtu, &mut far).await;
        let foreign = framed(Framing::Rtu, &frame, vec![2, 3, 4, 0, 1, 0, 2]);
        let bytes = [&frame, &[0, 0xFF][..], &foreign, &answer_to(Framing::Rtu, &frame)].concat();
        far.write_all(&bytes).await.unwrap();
        far
    });
    assert_eq!(ask(&mut wire, request(1, 7, 2)).await, Ok(vec![7, 8]));
    let mut expected = Strays::default();
    [Stray::Echo, Stray::Noise, Stray::Foreign].iter().for_each(|kind| expected[*kind as usize] = 1);
    assert_eq!(wire.take_strays(), expected);
    peer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_damaged_answer_on_a_serial_port_ends_soon_and_its_unit_owes_nothing() {
    let (mut wire, mut far) = link(Framing::Rtu);
    let peer = tokio::spawn(async move {
        let frame = hear(Framing::Rtu, &mut far).await;
        let mut damaged = answer_to(Framing::Rtu, &frame);
        damaged[4] ^= 0x10;
        far.write_all(&damaged).await.unwrap();
        let frame = hear(Framing::Rtu, &mut far).await;
        far.write_all(&answer_to(Framing::Rtu, &frame)).await.unwrap();
        far
    });
    let start = Instant::now();
    assert_eq!(ask(&mut wire, request(1, 7, 2)).await, Err(Reply::Damaged));
    assert_eq!(ask(&mut wire, request(1, 7, 2)).await, Ok(vec![7, 8]));
    assert!(start.elapsed() < ms(70), "{:?}", start.elapsed());
    assert_eq!(count_of(&mut wire, Stray::Noise), 1);
    peer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn more_noise_than_the_buffer_holds_hides_no_answer() {
    let (mut wire, mut far) = link(Framing::Rtu);
    let peer = tokio::spawn(async move {
        let frame = hear(Framing::Rtu, &mut far).await;
        far.write_all(&[0xFF; 1000]).await.unwrap();
        far.write_all(&answer_to(Framing::Rtu, &frame)).await.unwrap();
        far
    });
    assert_eq!(ask(&mut wire, request(1, 7, 125)).await.map(|words| words.len()), Ok(125));
    peer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_foreign_answer_alone_is_a_timeout() {
    let (mut wire, mut far) = link(Framing::Rtu);
    let peer = tokio::spawn(async move {
        let frame = hear(Framing::Rtu, &mut far).await;
        let foreign = framed(Framing::Rtu, &frame, vec![2, 3, 4, 0, 1, 0, 2]);
        for byte in foreign {
            far.write_all(&[byte]).await.unwrap();
            sleep(ms(2)).await;
        }
        far
    });
    assert_eq!(ask(&mut wire, request(1, 7, 2)).await, Err(Reply::Timeout));
    assert_eq!(count_of(&mut wire, Stray::Foreign), 1);
    peer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_truncated_answer_ends_at_the_timeout_and_spoils_nothing() {
    for framing in BOTH {
        let (mut wire, mut far) = link(framing);
        let peer = tokio::spawn(async move {
            let frame = hear(framing, &mut far).await;
            let whole = answer_to(framing, &frame);
            let (front, rest) = whole.split_at(whole.len() - 3);
            far.write_all(front).await.unwrap();
            if framing == Framing::Mbap {
                sleep(ms(300)).await;
                far.write_all(rest).await.unwrap();
            }
            let frame = hear(framing, &mut far).await;
            far.write_all(&answer_to(framing, &frame)).await.unwrap();
            far
        });
        let ended = ask(&mut wire, request(1, 7, 2)).await;
        assert_eq!(ended, Err(if framing == Framing::Mbap { Reply::Timeout } else { Reply::Garbled }));
        assert_eq!(ask(&mut wire, request(1, 50, 2)).await, Ok(vec![50, 51]));
        peer.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_that_never_falls_quiet_is_given_up() {
    let (mut wire, mut far) = link(Framing::Rtu);
    tokio::spawn(async move {
        while far.write_all(&[0x55]).await.is_ok() {
            sleep(ms(1)).await
        }
    });
    sleep(ms(20)).await;
    let start = Instant::now();
    let lost = wire.exchange(request(1, 7, 2), PATIENCE, &mut Vec::new()).await.unwrap_err();
    assert_eq!(lost.0, "the line never falls quiet");
    assert!(start.elapsed() < ms(1500));
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_babbles_after_it_was_asked_is_named() {
    let (mut wire, mut far) = link(Framing::Rtu);
    tokio::spawn(async move {
        far.read_exact(&mut [0; 8]).await.unwrap();
        while far.write_all(&[0x55]).await.is_ok() {
            sleep(ms(1)).await
        }
    });
    let garbled = wire.exchange(request(3, 7, 2), PATIENCE, &mut Vec::new()).await.unwrap();
    assert_eq!(garbled.reply, Reply::Garbled);
    let lost = wire.exchange(request(1, 7, 2), PATIENCE, &mut Vec::new()).await.unwrap_err();
    assert_eq!(lost.0, "the line never falls quiet; unit 3 was asked last");
}

#[tokio::test(start_paused = true)]
async fn a_closed_link_and_a_foreign_protocol_are_lost() {
    let (mut wire, far) = link(Framing::Mbap);
    drop(far);
    assert!(wire.exchange(request(1, 7, 2), PATIENCE, &mut Vec::new()).await.is_err());
    let (mut wire, mut far) = link(Framing::Mbap);
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n").await.unwrap();
    let lost = wire.exchange(request(1, 7, 2), PATIENCE, &mut Vec::new()).await.unwrap_err();
    assert_eq!(lost.0, "the far side does not speak Modbus TCP");
}

/// What a hostile far side does with a request.
#[derive(Clone, Debug)]
enum Trick {
    Answer,
    /// So many percent of the timeout late.
    Late(u64),
    Nothing,
    Twice,
    Truncate,
    Noise(Vec<u8>),
    Foreign,
    Exception,
    WrongCount,
}

fn trick() -> impl Strategy<Value = Trick> {
    prop_oneof![
        4 => Just(Trick::Answer),
        3 => (105u64..299).prop_map(Trick::Late),
        1 => Just(Trick::Nothing),
        1 => Just(Trick::Twice),
        1 => Just(Trick::Truncate),
        1 => prop::collection::vec(any::<u8>(), 1..20).prop_map(Trick::Noise),
        1 => Just(Trick::Foreign),
        1 => Just(Trick::Exception),
        1 => Just(Trick::WrongCount),
    ]
}

/// Plays one trick per request; late answers are sent when their time comes, whatever else happens meanwhile.
async fn hostile(framing: Framing, far: DuplexStream, tricks: Vec<Trick>) {
    let (mut read, mut write) = tokio::io::split(far);
    let (send, mut receive) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
    tokio::spawn(async move {
        while let Some(bytes) = receive.recv().await {
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    for trick in tricks {
        let mut frame = vec![0; if framing == Framing::Mbap { 12 } else { 8 }];
        if read.read_exact(&mut frame).await.is_err() {
            return;
        }
        let good = answer_to(framing, &frame);
        let unit = if framing == Framing::Mbap { frame[6] } else { frame[0] };
        let bytes = match trick {
            Trick::Answer => good,
            Trick::Late(percent) => {
                let send = send.clone();
                tokio::spawn(async move {
                    sleep(TIMEOUT * percent as u32 / 100).await;
                    _ = send.send(good);
                });
                continue;
            }
            Trick::Nothing => continue,
            Trick::Twice => [&good[..], &good].concat(),
            Trick::Truncate => good[..good.len() / 2].to_vec(),
            // On TCP noise would break the framing, and with it the link: a case of its own.
            Trick::Noise(noise) if framing == Framing::Rtu => [&noise[..], &good].concat(),
            Trick::Noise(_) => good,
            Trick::Foreign => {
                let mut body = vec![unit ^ 1, 3, 4, 0x77, 0x77, 0x77, 0x77];
                if framing == Framing::Mbap {
                    body.truncate(7);
                }
                framed(framing, &frame, body)
            }
            Trick::Exception => framed(framing, &frame, vec![unit, 0x83, 4]),
            Trick::WrongCount => framed(framing, &frame, vec![unit, 3, 2, 0x77, 0x77]),
        };
        _ = send.send(bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_trick_puts_a_wrong_value_under_a_right_name(tricks in prop::collection::vec(trick(), 100), rtu in any::<bool>()) {
        let framing = if rtu { Framing::Rtu } else { Framing::Mbap };
        let is_plain = |trick: &Trick| matches!(trick, Trick::Answer | Trick::Twice | Trick::Noise(_));
        let plain = tricks.iter().filter(|trick| is_plain(trick)).count();
        let keeps_borders = rtu || !tricks.iter().any(|trick| matches!(trick, Trick::Truncate));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let good = runtime.block_on(async {
            let (near, far) = duplex(4096);
            let mut wire = Wire::new(near, manner(framing), Instant::now());
            tokio::spawn(hostile(framing, far, tricks));
            let mut good = 0;
            for i in 0..100u16 {
                let (unit, address) = (1 + (i % 3) as u8, 1000 + i * 10);
                let mut data = Vec::new();
                // A truncated frame leaves TCP without borders; a real link would be opened anew.
                let Ok(done) = wire.exchange(request(unit, address, 2), PATIENCE, &mut data).await else { break };
                if done.reply == Reply::Data {
                    let [a, b, c, d] = data[..] else { panic!("{data:?}") };
                    assert_eq!([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])], [address, address + 1]);
                    good += 1;
                }
            }
            good
        });
        // Nor does a trick cost another exchange its value.
        prop_assert!(!keeps_borders || good >= plain, "{good} of {plain}");
    }
}
