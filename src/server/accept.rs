//! Accepting connections: a bounded number of them, of all clients and of each, and whatever the system says.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::connection;
use super::limits::Limits;
use super::share::{self, Shares};
use crate::auth::throttle::Client;

/// Pause after the system refused a connection for lack of something: files, memory. Doubled while that lasts.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The connections that are open.
#[derive(Debug)]
pub(super) struct Connections(JoinSet<()>);

/// Accepts and serves connections until `stop` is cancelled. The listener is closed then; the connections finish what they
/// are answering.
pub(super) async fn accept(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) -> Connections {
    let places = Arc::new(Semaphore::new(limits.connections));
    let shares = Shares::new(limits.connections_of_one);
    let mut open = JoinSet::new();
    let mut pause = FIRST_PAUSE;
    loop {
        while open.try_join_next().is_some() {}
        let place = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place.expect("nobody closes the semaphore"),
        };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = FIRST_PAUSE;
                let Some(share) = shares.take(Client::of(Some(peer.ip()))) else {
                    share::refuse(&stream);
                    continue;
                };
                let (router, limits, stop) = (router.clone(), limits.clone(), stop.clone());
                open.spawn(async move {
                    let _held_while_it_is_open = (place, share);
                    connection::serve(stream, peer, router, limits, stop).await;
                });
            }
            Err(error) if concerns_one_client(&error) => {}
            Err(error) => {
                warn!(target: "api", %error, open = open.len(), "No connection can be accepted at the moment: {error}");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    Connections(open)
}

/// The client was gone before it was accepted.
fn concerns_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

impl Connections {
    /// Waits until all have ended, at most until `deadline`. `false`: some have not.
    pub(super) async fn finish(&mut self, deadline: Instant) -> bool {
        let ended = async { while self.0.join_next().await.is_some() {} };
        timeout_at(deadline, ended).await.is_ok()
    }

    /// Ends the rest, in the middle of whatever they are doing.
    pub(super) async fn cut(&mut self) {
        self.0.shutdown().await;
    }
}
