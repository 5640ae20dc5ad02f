//! Each client's share of the connections.
//!
//! Without it one client that opens connections and reads slowly, or sends nothing, would hold all of them, and everyone
//! else would wait for theirs to be accepted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use tokio::net::TcpStream;

use super::{errors, request_id};
use crate::auth::throttle::Client;

/// How many connections each client has open. As large as there are connections.
#[derive(Debug, Clone)]
pub(super) struct Shares {
    most: usize,
    open: Arc<Mutex<HashMap<Client, usize>>>,
}

/// A connection of a client, until dropped.
#[derive(Debug)]
pub(super) struct Share {
    client: Client,
    shares: Shares,
}

impl Shares {
    pub(super) fn new(most: usize) -> Self {
        Self { most, open: Arc::default() }
    }

    /// `None`: this client has as many as it may have.
    pub(super) fn take(&self, client: Client) -> Option<Share> {
        let mut open = self.lock();
        let count = open.entry(client).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Share { client, shares: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Client, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut open = self.shares.lock();
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

/// Says why, as far as that goes without waiting for anything.
pub(super) fn refuse(stream: &TcpStream) {
    let (status, id) = (StatusCode::SERVICE_UNAVAILABLE, request_id::new());
    let detail = "this address has too many connections open already: close some, or use them for more requests";
    let body = errors::body(status, Some(detail), &id).to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n{}: {id}\r\ncontent-length: {}\r\n\r\n",
        request_id::HEADER,
        body.len()
    );
    let _ = stream.try_write(format!("{head}{body}").as_bytes());
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_client_has_its_share_back_when_a_connection_ends_and_others_have_theirs() {
        let shares = Shares::new(2);
        let (one, two) = (Client::of(Some(IpAddr::from([10, 0, 0, 1]))), Client::of(Some(IpAddr::from([10, 0, 0, 2]))));
        let held = (shares.take(one).unwrap(), shares.take(one).unwrap());
        assert!(shares.take(one).is_none());
        assert!(shares.take(two).is_some());
        drop(held.0);
        let again = shares.take(one).unwrap();
        drop((held.1, again));
        assert_eq!(shares.lock().len(), 0, "nobody who has left is remembered");
    }
}
