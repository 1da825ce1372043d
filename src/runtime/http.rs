//! The listener that is asked how the gateway is: `/metrics`, `/health/live`, `/health/ready`, `/api/v1/status`. It only tells.
//!
//! - It has a thread and a runtime of its own, and reads what is counted: no request ever waits for the thread that polls, nor holds
//!   it up.
//! - At most [`MOST_CONNECTIONS`] at once: one more closes the oldest, so that who says nothing keeps nobody out. Each has one
//!   request, [`PATIENCE`] in all, and a head of at most [`LARGEST_HEAD`] bytes; bodies are not read.
//! - An address that can't be had is logged once and tried again every [`RETRY`]; the gateway works without it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::apart::{Apart, apart};
use super::explain::Explainer;
use super::health::{self, Health};
use crate::metrics::Current;

/// Connections at once.
const MOST_CONNECTIONS: usize = 64;
/// How long a connection may last: a scrape takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a request's head may take to arrive.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a request's head; hyper takes no less than 8 KiB.
const LARGEST_HEAD: usize = 8 * 1024;
/// Headers of a request.
const MOST_HEADERS: usize = 64;
/// How often an address that can't be had is tried.
const RETRY: Duration = Duration::from_secs(5);

/// What is answered, for whoever asks for something else.
const PATHS: &str = "/metrics, /health/live, /health/ready, /api/v1/status";

/// Answers at this address, until it's dropped.
pub fn start(address: SocketAddr, explainer: Arc<Current<Explainer>>) -> Apart {
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "whoever reaches this address may read metrics and status");
    }
    apart("http", move || listen(address, explainer))
}

async fn listen(address: SocketAddr, explainer: Arc<Current<Explainer>>) {
    let mut told = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !told => {
                told = true;
                tracing::error!(%address, %error, "no HTTP listener: the address can't be had; it's tried again");
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    };
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "HTTP listener up");
    }
    serve(listener, explainer).await;
}

/// Answers for ever.
async fn serve(listener: TcpListener, explainer: Arc<Current<Explainer>>) {
    let mut open: VecDeque<AbortOnDropHandle<()>> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, for instance: not at full speed.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= MOST_CONNECTIONS {
            open.pop_front();
        }
        open.push_back(AbortOnDropHandle::new(tokio::spawn(answer(stream, Arc::clone(&explainer)))));
    }
}

async fn answer(stream: TcpStream, explainer: Arc<Current<Explainer>>) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = response(request.method(), request.uri().path(), &explainer.get());
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Whoever sends nonsense, or nothing, gets what hyper says to that, and nobody needs to hear of it.
    let _ = timeout(PATIENCE, connection).await;
}

fn response(method: &Method, path: &str, explainer: &Explainer) -> Response<Full<Bytes>> {
    const JSON: &str = "application/json";
    const TEXT: &str = "text/plain; charset=utf-8";
    if ![Method::GET, Method::HEAD].contains(method) {
        let mut refusal = with(StatusCode::METHOD_NOT_ALLOWED, TEXT, "nothing can be changed here\n".into());
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    let now = Instant::now();
    let verdict = |Health { is_good, json }| {
        let status = if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        with(status, JSON, format!("{json}\n"))
    };
    match path {
        "/metrics" => with(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            super::exposition::render(explainer),
        ),
        "/health/live" => verdict(health::live(explainer, now)),
        "/health/ready" => verdict(health::ready(explainer, now)),
        "/api/v1/status" => with(StatusCode::OK, JSON, format!("{}\n", explainer.status())),
        _ => with(StatusCode::NOT_FOUND, TEXT, format!("there are {PATHS}\n")),
    }
}

fn with(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::explain::tests::explainer;
    use crate::runtime::limits::raise_open_files;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// A machine may stall for seconds.
    const SOON: Duration = Duration::from_secs(60);

    async fn served() -> (SocketAddr, AbortOnDropHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (address, AbortOnDropHandle::new(tokio::spawn(serve(listener, Arc::new(Current::new(explainer()))))))
    }

    async fn said(stream: &mut TcpStream, request: &str) -> String {
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("it ends");
        String::from_utf8(answer).unwrap()
    }

    async fn get(address: SocketAddr, what: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        said(&mut stream, &format!("{what} HTTP/1.1\r\nhost: x\r\n\r\n")).await
    }

    #[tokio::test]
    async fn each_path_has_its_answer_and_nothing_can_be_changed() {
        let (address, _serving) = served().await;
        for (what, status, part) in [
            ("GET /metrics", "200 OK", "# TYPE taktbus_polls_total counter\n"),
            ("GET /health/live", "200 OK", r#""status":"ok""#),
            ("GET /health/ready", "503 Service Unavailable", "oven: no values in the"),
            ("GET /api/v1/status", "200 OK", r#""site":"bakery""#),
            ("GET /api/v1/status?x=1", "200 OK", r#""version":""#),
            ("GET /", "404 Not Found", "/metrics"),
            ("POST /metrics", "405 Method Not Allowed", "allow: GET, HEAD"),
        ] {
            let answer = get(address, what).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{what}: {answer}");
            assert!(answer.contains(part), "{what}: {answer}");
        }
        assert!(get(address, "HEAD /metrics").await.ends_with("\r\n\r\n"));
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused_and_bodies_are_not_read() {
        let (address, _serving) = served().await;
        let large = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(LARGEST_HEAD * 2));
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MOST_HEADERS + 1));
        for request in [large, many, "\0\r\n\r\n".to_string()] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let answer = said(&mut stream, &request).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = "GET /health/live HTTP/1.1\r\nhost: x\r\ncontent-length: 4000000000\r\n\r\n";
        assert!(said(&mut stream, request).await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "GET /health/live").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_thousand_that_say_nothing_keep_nobody_out() {
        raise_open_files();
        let (address, _serving) = served().await;
        let mut slow = Vec::new();
        for _ in 0..1_000 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let _ = stream.write_all(b"GET /metr").await;
            slow.push(stream);
        }
        assert!(get(address, "GET /metrics").await.starts_with("HTTP/1.1 200"));
        // All but the last few have been closed by now, long before their time.
        let mut byte = [0];
        let ended = timeout(SOON, slow[0].read(&mut byte)).await.expect("the oldest is closed");
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_had_when_it_is_free() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let _http = start(address, Arc::new(Current::new(explainer())));
        drop(taken);
        let answered = async {
            // Nobody listens at first.
            while TcpStream::connect(address).await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
            get(address, "GET /metrics").await
        };
        let answer = timeout(SOON, answered).await.expect("it's tried again");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}
