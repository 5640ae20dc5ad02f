//! Server-sent events.

use arc::api::{HEARTBEAT, MAX_SUBSCRIBERS, MAX_WAITING_EVENTS};
use arc::compaction::events::Event;
use axum::body::{Body, BodyDataStream};
use axum::http::Request;
use futures::StreamExt;
use tower::ServiceExt;

use super::app::{App, Gate, app};
use crate::support::PARTITION;

const EVENTS: &str = "/api/compaction/events";

/// A client that reads one message after another.
struct Client {
    stream: BodyDataStream,
    read: String,
}

impl Client {
    async fn of(app: &App) -> Self {
        let request = Request::get(EVENTS).body(Body::empty()).unwrap();
        let response = app.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { stream: response.into_body().into_data_stream(), read: String::new() }
    }

    /// The next message as it is sent. `None`: the stream has ended.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((message, rest)) = self.read.split_once("\n\n") {
                let (message, rest) = (message.to_owned(), rest.to_owned());
                self.read = rest;
                return Some(message);
            }
            let bytes = self.stream.next().await?.unwrap();
            self.read.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    /// The names of all messages up to this one.
    async fn until(&mut self, last: &str) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let message = self.next().await.unwrap();
            let name = message.lines().find_map(|line| line.strip_prefix("event: ")).unwrap().to_owned();
            names.push(name.clone());
            if name == last {
                return names;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_sees_a_cycle_and_its_job_from_begin_to_end() {
    let gate = Gate::closed();
    let app = app().gated(&gate).build().await;
    app.arc.write_telemetry(PARTITION, 3, 50);
    let mut client = Client::of(&app).await;
    assert_eq!(client.until("jobs").await, ["jobs"]);
    app.post("/api/compaction/trigger", "").await.expect(202);
    gate.arrived().await;
    gate.open();
    let names = client.until("cycle_finished").await;
    let at = |name: &str| names.iter().position(|n| n == name).unwrap_or_else(|| panic!("no {name}: {names:?}"));
    assert!(at("cycle_started") < at("candidates_found") && at("candidates_found") < at("job_finished"), "{names:?}");
}

#[tokio::test]
async fn a_client_that_is_too_slow_is_told_what_it_missed() {
    let app = app().build().await;
    let mut client = Client::of(&app).await;
    assert_eq!(client.until("jobs").await, ["jobs"]);
    for count in 0..MAX_WAITING_EVENTS + 5 {
        app.events.send(Event::CandidatesFound { count }).unwrap();
    }
    let message = client.next().await.unwrap();
    assert!(message.contains("event: lagged") && message.contains(r#"{"missed":"#), "{message}");
    assert_eq!(client.until("candidates_found").await, ["jobs", "candidates_found"]);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_comes_when_nothing_happens() {
    // Built on real time: opening the state database waits for threads.
    tokio::time::resume();
    let app = app().build().await;
    let mut client = Client::of(&app).await;
    assert_eq!(client.until("jobs").await, ["jobs"]);
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    assert_eq!(client.next().await.unwrap(), ": heartbeat");
    assert!(before.elapsed() >= HEARTBEAT);
}

#[tokio::test]
async fn clients_beyond_the_limit_are_turned_away_until_one_leaves() {
    let app = app().build().await;
    let mut clients = Vec::new();
    for _ in 0..MAX_SUBSCRIBERS {
        clients.push(Client::of(&app).await);
    }
    let refused = app.get(EVENTS).await;
    assert_eq!(refused.refused(503).0, "busy");
    assert!(refused.headers.contains_key("retry-after"));
    clients.pop();
    Client::of(&app).await;
}

#[tokio::test]
async fn the_stream_ends_when_the_server_stops() {
    let app = app().build().await;
    let mut client = Client::of(&app).await;
    client.until("jobs").await;
    app.stopping.cancel();
    assert_eq!(client.next().await, None);
}
