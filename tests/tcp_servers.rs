//! Modbus TCP servers and serial device servers as they are, on the paused clock: what they are asked, when, and over how many connections.

#![allow(clippy::unwrap_used)]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use taktbus::drivers::modbus::config::Link;
use taktbus::drivers::modbus::framing::crc;
use taktbus::drivers::modbus::transport::Open;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

use sessions::log::Log;
use sessions::{Session, devices, plan};

mod sessions;

const SECOND: Duration = Duration::from_secs(1);

/// What the register holds, everywhere.
const VALUE: u64 = 0x1234;

/// How the server treats its clients.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Well,
    /// Does not take the connection.
    Refuses,
    /// Takes the connection and closes it: it has its one client.
    ClosesAtOnce,
    ClosesAfterReply,
    /// So long between two bytes.
    Dribbles(Duration),
    /// As a server of something else.
    WrongProtocol,
    /// Keeps the connection and says nothing.
    HalfOpen,
}

#[derive(Clone)]
struct Server(Arc<Mutex<State>>);

struct State {
    manner: Manner,
    start: Instant,
    /// When connections were asked for.
    tries: Vec<Duration>,
    open: usize,
    most_open: usize,
    /// When each request came, and when its answer was gone.
    asked: Vec<Duration>,
    answered: Vec<Duration>,
}

impl Server {
    fn new(manner: Manner) -> Self {
        let start = Instant::now();
        let (tries, asked, answered) = (Vec::new(), Vec::new(), Vec::new());
        Self(Arc::new(Mutex::new(State { manner, start, tries, open: 0, most_open: 0, asked, answered })))
    }

    fn set(&self, manner: Manner) {
        self.0.lock().unwrap().manner = manner;
    }

    fn see<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.lock().unwrap())
    }

    fn note(&self, what: impl FnOnce(&mut State, Duration)) {
        let state = &mut *self.0.lock().unwrap();
        let now = state.start.elapsed();
        what(state, now);
    }

    async fn serve(self, mut client: DuplexStream) {
        self.note(|state, _| {
            state.open += 1;
            state.most_open = state.most_open.max(state.open);
        });
        let _ = self.answer_all(&mut client).await;
        drop(client);
        self.note(|state, _| state.open -= 1);
    }

    async fn answer_all(&self, client: &mut DuplexStream) -> io::Result<()> {
        if self.see(|state| state.manner) == Manner::ClosesAtOnce {
            return Ok(());
        }
        loop {
            let mut request = [0; 12];
            client.read_exact(&mut request).await?;
            self.note(|state, now| state.asked.push(now));
            let mut answer =
                [&request[..4], &[0, 5], &request[6..8], &[2], &(VALUE as u16).to_be_bytes()].concat();
            let manner = self.see(|state| state.manner);
            match manner {
                Manner::HalfOpen => continue,
                Manner::WrongProtocol => answer[3] = 1,
                Manner::Dribbles(pause) => {
                    for byte in &answer {
                        sleep(pause).await;
                        client.write_all(std::slice::from_ref(byte)).await?;
                    }
                    answer.clear();
                }
                _ => {}
            }
            client.write_all(&answer).await?;
            self.note(|state, now| state.answered.push(now));
            if manner == Manner::ClosesAfterReply {
                return Ok(());
            }
        }
    }
}

impl Open for Server {
    type Stream = DuplexStream;

    async fn open(&mut self, _: &Link) -> io::Result<DuplexStream> {
        self.note(|state, now| state.tries.push(now));
        if self.see(|state| state.manner) == Manner::Refuses {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = duplex(1024);
        tokio::task::spawn_local(self.clone().serve(far));
        Ok(near)
    }
}

/// A session with a server, and the server.
fn session(manner: Manner, more: &str, devices: &str) -> (Session, Server) {
    let server = Server::new(manner);
    let plan = plan(&format!("tcp: '10.0.0.1:502'{more}"), devices);
    (Session::with(plan, server.clone()), server)
}

#[tokio::test(start_paused = true)]
async fn one_connection_carries_all_units_of_an_endpoint() {
    let test = async {
        let (mut session, server) = session(Manner::Well, "", &devices(&[1, 2, 3, 4, 5], "1s"));
        let values = session.values_for(60 * SECOND).await;
        assert!(values.len() >= 295 && values.iter().all(|value| *value == Ok(VALUE)), "{}", values.len());
        assert_eq!(server.see(|state| (state.tries.len(), state.most_open)), (1, 1));
    };
    LocalSet::new().run_until(test).await;
}

/// A server that takes nobody for five minutes: few tries, at most one connection at a time, one line in the log; and
/// when it takes us, values come by themselves.
async fn is_waited_for_without_a_storm(manner: Manner, reason: &str) {
    let log = Log::kept();
    let (mut session, server) = session(manner, "", &devices(&[1, 2, 3], "1s"));
    let values = session.values_for(300 * SECOND).await;
    assert!(values.iter().all(Result::is_err));
    let tries = server.see(|state| state.tries.clone());
    // After the first few seconds, 7 to 13 s from one to the next.
    let later: Vec<Duration> =
        tries.windows(2).filter(|pair| pair[0] > 15 * SECOND).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        later.len() > 15 && later.iter().all(|wait| *wait >= 7 * SECOND && *wait <= 14 * SECOND),
        "{tries:?}"
    );
    assert_eq!(log.lines_with(reason), 1, "{}", log.text());
    assert_eq!(log.lines_with("device offline"), 0, "once for all of them: {}", log.text());
    server.set(Manner::Well);
    let back = Instant::now();
    session.until(VALUE).await;
    assert!(back.elapsed() <= 15 * SECOND, "{:?}", back.elapsed());
    assert!(server.see(|state| state.most_open) <= 1);
    assert_eq!(log.lines_with("link down"), 1, "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_is_waited_for_without_a_storm() {
    LocalSet::new().run_until(is_waited_for_without_a_storm(Manner::Refuses, "connection refused")).await;
}

#[tokio::test(start_paused = true)]
async fn quirk_11_a_server_whose_one_client_is_another_is_waited_for_without_a_storm() {
    LocalSet::new()
        .run_until(is_waited_for_without_a_storm(Manner::ClosesAtOnce, "closed by the far side"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_of_another_protocol_is_told_once_and_asked_seldom() {
    LocalSet::new()
        .run_until(is_waited_for_without_a_storm(Manner::WrongProtocol, "does not speak Modbus TCP"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_after_each_reply_is_read_in_its_interval_and_not_told() {
    let test = async {
        let log = Log::kept();
        let (mut session, server) = session(Manner::ClosesAfterReply, "", &devices(&[1, 2], "100ms"));
        let values = session.values_for(60 * SECOND).await;
        assert!(values.len() >= 1195 && values.iter().all(|value| *value == Ok(VALUE)), "{}", values.len());
        let asked = server.see(|state| state.asked.clone());
        // Two units, each every 100 ms, and none of them twice or late.
        for pair in asked.windows(3) {
            let interval = pair[2] - pair[0];
            assert!(interval >= SECOND / 11 && interval <= SECOND / 9, "{interval:?}");
        }
        assert_eq!(server.see(|state| state.most_open), 1);
        assert_eq!(log.lines_with("WARN"), 0, "{}", log.text());
        assert!(log.text().lines().count() < 6, "{}", log.text());
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_dribbles_is_understood() {
    let test = async {
        let manner = Manner::Dribbles(SECOND / 100);
        let (mut session, server) = session(manner, "", &devices(&[1, 2], "1s"));
        let values = session.values_for(60 * SECOND).await;
        assert!(values.len() >= 118 && values.iter().all(|value| *value == Ok(VALUE)), "{values:?}");
        assert_eq!(server.see(|state| state.tries.len()), 1);
        assert_eq!(session.metrics.strays.iter().map(|kind| kind.get()).sum::<u64>(), 0);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_dribbles_slower_than_its_timeout_is_no_wrong_value() {
    let test = async {
        let more = ", response_timeout: 80ms";
        let (mut session, server) = session(Manner::Dribbles(SECOND / 100), more, &devices(&[1, 2], "1s"));
        let values = session.values_for(60 * SECOND).await;
        assert!(values.iter().all(|value| value.is_err() || *value == Ok(VALUE)), "{values:?}");
        server.set(Manner::Well);
        session.until(VALUE).await;
        let tries = server.see(|state| state.tries.len());
        assert!(tries < 30, "{tries} connections in a minute");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_half_open_is_replaced_and_never_doubled() {
    let test = async {
        let (mut session, server) = session(Manner::Well, "", &devices(&[1, 2], "1s"));
        session.until(VALUE).await;
        server.set(Manner::HalfOpen);
        session.until_offline().await;
        session.values_for(60 * SECOND).await;
        let tries = server.see(|state| state.tries.len());
        assert!((2..30).contains(&tries), "{tries} connections in a minute");
        server.set(Manner::Well);
        let back = Instant::now();
        session.until(VALUE).await;
        assert!(back.elapsed() <= 30 * SECOND, "{:?}", back.elapsed());
        assert_eq!(server.see(|state| state.most_open), 1);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn quirk_11_the_rests_of_a_connection_are_kept_at_the_far_end() {
    let test = async {
        let more = ", delay_after_connect: 500ms, delay_between_requests: 70ms";
        let (mut session, server) = session(Manner::Well, more, &devices(&[1, 2, 3], "300ms"));
        session.values_for(30 * SECOND).await;
        let (tries, asked, answered) =
            server.see(|state| (state.tries.clone(), state.asked.clone(), state.answered.clone()));
        assert!(asked[0] - tries[0] >= SECOND / 2, "{:?}", asked[0] - tries[0]);
        assert!(answered.len() >= 280, "{}", answered.len());
        for (answered, next) in answered.iter().zip(&asked[1..]) {
            let rest = *next - *answered;
            assert!(rest >= Duration::from_millis(70), "{rest:?}");
        }
    };
    LocalSet::new().run_until(test).await;
}

/// A line behind a serial device server: what its units are asked, and when.
#[derive(Clone, Default)]
struct Line(Arc<Mutex<Vec<(Instant, Instant)>>>);

impl Open for Line {
    type Stream = DuplexStream;

    async fn open(&mut self, _: &Link) -> io::Result<DuplexStream> {
        let (near, mut far) = duplex(1024);
        let times = self.0.clone();
        tokio::task::spawn_local(async move {
            let mut request = [0; 8];
            while far.read_exact(&mut request).await.is_ok() {
                let asked = Instant::now();
                let body = [&request[..2], &[2], &(VALUE as u16).to_be_bytes()].concat();
                let answer = [&body[..], &crc(&body).to_le_bytes()].concat();
                sleep(SECOND / 200).await;
                let _ = far.write_all(&answer).await;
                times.lock().unwrap().push((asked, Instant::now()));
            }
        });
        Ok(near)
    }
}

#[tokio::test(start_paused = true)]
async fn quirk_15_the_frame_gap_of_a_line_is_kept_at_the_far_end() {
    let test = async {
        // At 9600 baud 8E1 the silence is 4 ms where nothing is said.
        for (more, gap) in [(", frame_gap: 25ms", 25), ("", 4)] {
            let line = Line::default();
            let connection = format!("tcp: '10.0.0.1:4196', framing: rtu, baud: 9600{more}");
            let mut session = Session::with(plan(&connection, &devices(&[1, 2, 3], "200ms")), line.clone());
            let values = session.values_for(10 * SECOND).await;
            assert!(
                values.len() >= 145 && values.iter().all(|value| *value == Ok(VALUE)),
                "{}",
                values.len()
            );
            session.end().await;
            let times = line.0.lock().unwrap();
            let rests = times.windows(2).map(|pair| pair[1].0 - pair[0].1);
            let shortest = rests.min().unwrap();
            assert!(shortest >= Duration::from_millis(gap), "{shortest:?}");
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_real_socket_that_is_closed_after_each_reply_loses_nothing() {
    let test = async {
        let log = Log::kept();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut request = [0; 12];
                if client.read_exact(&mut request).await.is_ok() {
                    let answer = [&request[..4], &[0, 5], &request[6..8], &[2, 0x12, 0x34]].concat();
                    let _ = client.write_all(&answer).await;
                }
            }
        });
        let connection = format!("tcp: '127.0.0.1:{port}', response_timeout: 10s");
        let mut session = Session::real(&connection, &devices(&[1], "20ms"));
        for _ in 0..50 {
            assert_eq!(session.value().await, Ok(VALUE));
        }
        assert_eq!(log.lines_with("WARN"), 0, "{}", log.text());
        session.end().await;
    };
    tokio::time::timeout(60 * SECOND, LocalSet::new().run_until(test)).await.unwrap();
}
