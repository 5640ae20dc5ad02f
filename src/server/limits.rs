//! What one client, and all of them together, may take from the server.

use std::time::Duration;

/// The limits. They are not configurable: none of them is in the way of a client that means well.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Open connections; more wait to be accepted. Half of the 1024 files that a process may usually have open, so that
    /// jobs and the database always find some.
    pub connections: usize,
    /// Open connections of one address; more are answered with 503 and closed, so that no single client keeps the others
    /// out. Half of all: a proxy in front is one address, too.
    pub connections_of_one: usize,
    /// Requests that are being answered at the same time; more are turned away at once, with 503.
    pub requests: usize,
    /// Bytes of a request's line and headers; more is a 431.
    pub header_bytes: usize,
    /// Number of a request's headers; more is a 431.
    pub headers: usize,
    /// Bytes of a request's body; more is a 413.
    pub body_bytes: usize,
    /// From the end of one request to the last header of the next: closes idle connections and clients that send their
    /// headers byte by byte.
    pub header_wait: Duration,
    /// From the headers of a request to the end of its body; after that it is a 408.
    pub body_wait: Duration,
    /// From the headers of a request to the headers of its answer; after that it is a 503.
    pub request: Duration,
    /// Without a client taking a single byte of what is written to it; then the connection is closed.
    pub stuck_write: Duration,
    /// How long a closed connection still takes in what a client sends, so that the client gets to read why it was closed.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            connections_of_one: 256,
            requests: 256,
            header_bytes: 16 * 1024,
            headers: 64,
            body_bytes: 1024 * 1024,
            header_wait: Duration::from_secs(30),
            body_wait: Duration::from_secs(10),
            request: Duration::from_secs(30),
            stuck_write: Duration::from_secs(30),
            linger: Duration::from_secs(2),
        }
    }
}
