//! The server's limits over real sockets, with routes made for the purpose.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::Response;
use axum::routing::{get, post};
use futures::{StreamExt, stream};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::accept::{Connections, accept};
use super::limits::Limits;
use super::shell::Shell;
use crate::auth::{AuthSettings, Guard, Tokens};
use crate::metrics::Metrics;
use crate::state::StateDb;

/// Long enough for everything that must happen, on the slowest machine.
const LONG: Duration = Duration::from_mins(2);
/// Short enough to be waited for.
const SHORT: Duration = Duration::from_millis(50);

/// Limits that no test comes near by accident.
fn limits() -> Limits {
    Limits {
        body_bytes: 1000,
        header_wait: LONG,
        body_wait: LONG,
        request: LONG,
        stuck_write: LONG,
        linger: SHORT,
        ..Limits::default()
    }
}

/// Events of the handlers that tests wait for.
struct Signals {
    entered: mpsc::UnboundedReceiver<()>,
    /// Lets one waiting handler go on.
    go_on: Arc<Notify>,
    /// A body that goes on for ever was given up.
    dropped: mpsc::UnboundedReceiver<()>,
}

struct Site {
    address: String,
    stop: CancellationToken,
    accepting: JoinHandle<Connections>,
    shell: Arc<Shell>,
    signals: Signals,
}

struct Drops(mpsc::UnboundedSender<()>);

impl Drop for Drops {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

fn routes() -> (Router, Signals) {
    let (enter, entered) = mpsc::unbounded_channel();
    let (drops, dropped) = mpsc::unbounded_channel();
    let go_on = Arc::new(Notify::new());
    let waiting = Arc::clone(&go_on);
    let wait = move || async move {
        let _ = enter.send(());
        waiting.notified().await;
        "done"
    };
    let endless = move || async move {
        let guard = Drops(drops);
        let chunks = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from(vec![b'x'; 64 * 1024])));
        Response::new(Body::from_stream(chunks.inspect(move |_| {
            let _held = &guard;
        })))
    };
    let slow_stream = || async {
        let late = stream::once(async {
            tokio::time::sleep(SHORT * 4).await;
            Ok::<_, Infallible>(Bytes::from("late"))
        });
        Response::new(Body::from_stream(late))
    };
    let routes = Router::new()
        .route("/", get(async || "shell"))
        .route("/health", get(async || "well"))
        .route("/echo", post(async |body: Bytes| body))
        .route("/wait", get(wait))
        .route("/panic", get(async || if true { panic!("secret thing") } else { "" }))
        .route("/endless", get(endless))
        .route("/stream", get(slow_stream));
    (routes, Signals { entered, go_on, dropped })
}

impl Site {
    async fn with(limits: Limits) -> Self {
        let settings = AuthSettings { enabled: false, default_token: None, allowlist: Vec::new() };
        let guard = Guard::new(&settings, Tokens::new(StateDb::in_memory().unwrap(), None));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (routes, signals) = routes();
        let shell = Shell::new(limits.clone(), Metrics::new());
        let (site, stop) = (shell.around(routes, guard), CancellationToken::new());
        let accepting = tokio::spawn(accept(listener, site, limits, stop.clone()));
        Self { address, stop, accepting, shell, signals }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    /// Sends bytes and reads until the server closes.
    async fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        Answer::read(&mut stream).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.raw(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await
    }

    async fn post(&self, headers: &str, body: &[u8]) -> Answer {
        let head = format!("POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n\r\n");
        self.raw(&[head.as_bytes(), body].concat()).await
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    async fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?} is no answer"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")))
    }

    /// Every error has this form.
    fn assert_error(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        assert!(self.header("x-request-id").is_some(), "{self:?}");
        assert_eq!(self.header("content-length"), Some(self.body.len().to_string().as_str()), "{self:?}");
        let body: Value = serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        assert_eq!(body["error"], kind, "{self:?}");
        assert!(body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{self:?}");
        let id = body.get("request_id").and_then(Value::as_str);
        assert_eq!(id, if status >= 500 { self.header("x-request-id") } else { None }, "{self:?}");
        body
    }
}

#[tokio::test]
async fn what_is_no_http_gets_an_explanation_and_harms_nobody() {
    let site = Site::with(limits()).await;
    let long_name = format!("GET / HTTP/1.1\r\n{}: x\r\n\r\n", "n".repeat(70_000));
    let nonsense: [&[u8]; 9] = [
        b"\0\x01\x02\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 client hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n\xff: \xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\0b\r\n\r\n",
        b"POST /echo HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\nzz\r\n",
    ];
    for bytes in nonsense {
        let answer = site.raw(bytes).await;
        answer.assert_error(400, "bad_request");
    }
    site.raw(long_name.as_bytes()).await.assert_error(431, "headers_too_large");
    assert_eq!(site.get("/health").await.body, "well");
}

#[tokio::test]
async fn headers_and_bodies_have_a_limit_and_are_refused_by_name() {
    let site = Site::with(limits()).await;
    let many: String = (0..65).map(|n| format!("h{n}: x\r\n")).collect::<Vec<_>>().concat();
    site.raw(format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()).await.assert_error(431, "headers_too_large");
    let large = "x".repeat(17 * 1024);
    site.raw(format!("GET / HTTP/1.1\r\nh: {large}\r\n\r\n").as_bytes()).await.assert_error(431, "headers_too_large");
    assert_eq!(site.post("content-length: 1000", &[b'x'; 1000]).await.body.len(), 1000);
    site.post("content-length: 1001", &[b'x'; 1001]).await.assert_error(413, "too_large");
    site.post("content-length: 99999999999999", b"x").await.assert_error(413, "too_large");
    let chunks = [format!("{:x}\r\n", 600).as_bytes(), &[b'x'; 600], b"\r\n"].concat().repeat(2);
    site.post("transfer-encoding: chunked", &chunks).await.assert_error(413, "too_large");
}

/// The rest of the body would otherwise meet a closed socket, and the client a reset instead of the answer.
#[tokio::test]
async fn a_client_that_sends_a_megabyte_too_much_reads_why() {
    let site = Site::with(Limits { linger: LONG, ..limits() }).await;
    let mut stream = site.connect().await;
    let body = vec![b'x'; 3 * 1024 * 1024];
    stream
        .write_all(format!("POST /echo HTTP/1.1\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes())
        .await
        .unwrap();
    stream.write_all(&body).await.unwrap();
    Answer::read(&mut stream).await.assert_error(413, "too_large");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let site = Site::with(Limits { body_wait: SHORT, ..limits() }).await;
    site.post("content-length: 10", b"12345").await.assert_error(408, "request_timeout");
    assert_eq!(site.get("/health").await.body, "well");
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_and_given_up() {
    let mut site = Site::with(Limits { request: SHORT, ..limits() }).await;
    let answer = site.get("/wait").await;
    answer.assert_error(503, "busy");
    assert_eq!(answer.header("retry-after"), Some("1"));
    site.signals.entered.recv().await.unwrap();
    assert_eq!(site.shell.in_flight(), 0);
}

#[tokio::test]
async fn a_stream_may_take_longer_than_a_request() {
    let site = Site::with(Limits { request: SHORT, ..limits() }).await;
    let answer = site.get("/stream").await;
    assert!(answer.status == 200 && answer.body.contains("late"), "{answer:?}");
}

#[tokio::test]
async fn a_panic_ends_one_request_and_tells_nothing() {
    let site = Site::with(limits()).await;
    let answer = site.get("/panic").await;
    answer.assert_error(500, "internal");
    assert!(!answer.body.contains("secret"), "{answer:?}");
    assert_eq!(site.get("/health").await.body, "well");
}

#[tokio::test]
async fn too_many_requests_at_once_are_turned_away_but_the_server_still_says_that_it_lives() {
    let mut site = Site::with(Limits { requests: 1, ..limits() }).await;
    let first = async { site.get("/wait").await };
    let others = async {
        let answer = loop {
            // The first may not have come through yet.
            let answer = site.get("/").await;
            if answer.status != 200 {
                break answer;
            }
        };
        let health = site.get("/health").await;
        site.signals.go_on.notify_one();
        (answer, health)
    };
    let (first, (refused, health)) = tokio::join!(first, others);
    assert_eq!((first.body.as_str(), health.body.as_str()), ("done", "well"));
    refused.assert_error(503, "busy");
    assert_eq!(refused.header("retry-after"), Some("1"));
    site.signals.entered.recv().await.unwrap();
}

#[tokio::test]
async fn a_plain_request_id_is_kept_and_any_other_is_replaced() {
    let site = Site::with(limits()).await;
    let ask = async |id: &str| {
        let request = format!("GET / HTTP/1.1\r\nx-request-id: {id}\r\nconnection: close\r\n\r\n");
        site.raw(request.as_bytes()).await.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(ask("7f-a.b_9").await, "7f-a.b_9");
    for odd in ["", "a b", "<script>", &"x".repeat(65), "a\"b"] {
        let given = ask(odd).await;
        assert!(given.len() == 16 && given.bytes().all(|b| b.is_ascii_hexdigit()), "{odd:?}: {given}");
    }
    assert_ne!(ask("").await, ask("").await);
}

#[tokio::test]
async fn unknown_paths_and_methods_have_the_same_kind_of_body() {
    let site = Site::with(limits()).await;
    for path in ["/nothing", "//", "/..", "/%2e%2e/", "/health/"] {
        site.get(path).await.assert_error(404, "not_found");
    }
    let answer = site.raw(b"DELETE /health HTTP/1.1\r\nconnection: close\r\n\r\n").await;
    answer.assert_error(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("get,head"));
}

#[tokio::test]
async fn connections_without_a_request_and_headers_that_drip_are_closed() {
    let site = Site::with(Limits { header_wait: SHORT, ..limits() }).await;
    let mut rest = Vec::new();
    for begun in [&b""[..], b"GET / HTTP/1.1\r\nhost: x\r\n"] {
        let mut stream = site.connect().await;
        stream.write_all(begun).await.unwrap();
        // Closed or reset: either way there is nothing to read and an end.
        let _ = stream.read_to_end(&mut rest).await;
        assert_eq!(rest, b"");
    }
    let mut stream = site.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.starts_with(b"HTTP/1.1 200"), "a request that is complete is answered before the idle time begins");
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_off() {
    let mut site = Site::with(Limits { stuck_write: SHORT, ..limits() }).await;
    let mut stream = site.connect().await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    site.signals.dropped.recv().await.unwrap();
}

#[tokio::test]
async fn an_address_with_too_many_connections_is_told_so_until_it_closes_one() {
    let site = Site::with(Limits { connections_of_one: 2, ..limits() }).await;
    let held = (site.connect().await, site.connect().await);
    let refused = Answer::read(&mut site.connect().await).await;
    assert!(refused.assert_error(503, "busy")["detail"].as_str().unwrap().contains("too many connections"));
    drop(held);
    loop {
        // The server may not have seen the end of the others yet; a refused client may be cut while it still writes.
        let mut stream = site.connect().await;
        let _ = stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        if bytes.starts_with(b"HTTP/1.1 200") {
            break;
        }
    }
}

/// Not by the gaps between bytes, which an attacker chooses, but by the time for all of them.
#[tokio::test]
async fn headers_and_bodies_that_come_byte_by_byte_are_cut_by_the_time_for_all_of_them() {
    let site = Site::with(Limits { header_wait: SHORT * 4, body_wait: SHORT * 4, ..limits() }).await;
    let drip = async |begin: &str| {
        let (mut read, mut write) = site.connect().await.into_split();
        let begun = Instant::now();
        write.write_all(begin.as_bytes()).await.unwrap();
        let drops = async {
            let mut pace = tokio::time::interval(SHORT / 10);
            loop {
                pace.tick().await;
                if write.write_all(b"x").await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut bytes = Vec::new();
        tokio::select! {
            _ = read.read_to_end(&mut bytes) => {}
            () = drops => unreachable!(),
        }
        assert!(begun.elapsed() < LONG, "cut although a byte came every few milliseconds");
        String::from_utf8(bytes).unwrap()
    };
    assert_eq!(drip("GET / HTTP/1.1\r\nh: ").await, "");
    let answer = drip("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(site.get("/health").await.body, "well");
}

#[tokio::test]
async fn a_connection_too_many_waits_until_another_is_closed() {
    let mut site = Site::with(Limits { connections: 1, ..limits() }).await;
    let mut first = site.connect().await;
    first.write_all(b"GET /wait HTTP/1.1\r\nconnection: close\r\n\r\n").await.unwrap();
    site.signals.entered.recv().await.unwrap();
    let mut second = site.connect().await;
    second.write_all(b"GET /wait HTTP/1.1\r\nconnection: close\r\n\r\n").await.unwrap();
    // Were the second one served, its handler would have been entered before the first was let go.
    tokio::task::yield_now().await;
    assert!(site.signals.entered.try_recv().is_err());
    site.signals.go_on.notify_one();
    assert_eq!(Answer::read(&mut first).await.body, "done");
    drop(first);
    site.signals.entered.recv().await.unwrap();
    site.signals.go_on.notify_one();
    assert_eq!(Answer::read(&mut second).await.body, "done");
}

#[tokio::test]
async fn stopping_answers_what_was_asked_and_closes_everything_else() {
    let mut site = Site::with(limits()).await;
    let mut idle = site.connect().await;
    let mut kept_alive = site.connect().await;
    kept_alive.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut asking = site.connect().await;
    asking.write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    site.signals.entered.recv().await.unwrap();
    site.stop.cancel();
    let mut connections = site.accepting.await.unwrap();
    assert!(TcpStream::connect(&site.address).await.is_err(), "nobody is let in any more");
    let mut rest = Vec::new();
    let _ = idle.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
    assert_eq!(Answer::read(&mut kept_alive).await.body, "well");
    assert!(!connections.finish(Instant::now()).await);
    assert_eq!(site.shell.in_flight(), 1);
    site.signals.go_on.notify_one();
    assert_eq!(Answer::read(&mut asking).await.body, "done");
    assert!(connections.finish(Instant::now() + LONG).await);
    assert_eq!(site.shell.in_flight(), 0);
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut() {
    let mut site = Site::with(limits()).await;
    let mut asking = site.connect().await;
    asking.write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    site.signals.entered.recv().await.unwrap();
    site.stop.cancel();
    let mut connections = site.accepting.await.unwrap();
    assert!(!connections.finish(Instant::now() + SHORT).await);
    connections.cut().await;
    let mut rest = Vec::new();
    let _ = asking.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
    assert_eq!(site.shell.in_flight(), 0);
}

#[test]
fn who_waits_for_a_look_through_storage_hears_of_it_before_the_request_is_given_up() {
    assert!(crate::api::SCAN_PATIENCE + SHORT < Limits::default().request);
}
