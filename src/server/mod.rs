//! The server: wires the parts together, serves HTTP, and stops without breaking anything.
//!
//! ```text
//!           Config ──> build ──> manager, scheduler, tokens, …
//!                                   │
//! socket ─> accept ─> connection ─> shell ─> routes (`api`)
//!                                   └ request id, error bodies, panics, room, time, token, body
//! ```
//!
//! What must hold: nothing that a client sends, or does not send, takes the process down or holds it for ever; every
//! resource that a client takes has a limit, all of them in [`limits`]. Stopping ends within the configured time; a stop
//! that does not, like a crash, loses nothing.
//!
//! Deliberately not here: TLS and HTTP/2, which a proxy in front adds, and what the routes answer (`api`).

mod accept;
mod build;
mod connection;
mod errors;
mod limits;
mod listen;
mod request_id;
mod share;
mod shell;
mod shutdown;
mod socket;
#[cfg(test)]
mod tests;

pub use build::{BuildError, build_manager, look_at, open_locks, open_state, open_storage};
pub use listen::{ListenError, listen};
pub use shutdown::ShutdownReport;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::build::{Parts, build_server};
use self::limits::Limits;
use self::shell::Shell;
use crate::auth::{Guard, SHORT_BYTES, Tokens, is_short};
use crate::compaction::CompactionManager;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::scheduler::CompactionScheduler;
use crate::state::StateError;
use crate::storage::StorageError;

/// How long a start waits for storage.
const STORAGE_CHECK: Duration = Duration::from_secs(15);

/// A compaction service with its HTTP interface.
///
/// On its own: [`Server::run`]. Inside of another axum application: mount [`Server::router`], call [`Server::start`], and
/// [`Server::stop`] at the end; see `examples/embed.rs`.
///
/// A program that embeds it has no merge workers: with `compaction.isolation = "process"` this program's own file would be
/// started as one. Set `in_process`, or call [`crate::cli::main`] when the first argument is `merge-worker`.
pub struct Server {
    manager: Arc<CompactionManager>,
    scheduler: Arc<CompactionScheduler>,
    metrics: Metrics,
    tokens: Tokens,
    routes: Router,
    shell: Arc<Shell>,
    guard: Arc<Guard>,
    limits: Limits,
    shutdown_timeout: Duration,
    stop: CancellationToken,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("manager", &self.manager).finish_non_exhaustive()
    }
}

/// Stops a server from elsewhere. Clones stop the same server.
#[derive(Debug, Clone)]
pub struct ServerHandle {
    stop: CancellationToken,
}

impl ServerHandle {
    /// Asks the server to stop; returns at once.
    pub fn shutdown(&self) {
        self.stop.cancel();
    }

    /// Waits until somebody has asked the server to stop.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }
}

impl Server {
    /// Puts the parts together. Blocks while it opens the state database; starts nothing.
    ///
    /// # Errors
    /// Storage or state that cannot be opened.
    pub fn new(config: &Config) -> Result<Self, BuildError> {
        let stop = CancellationToken::new();
        let Parts { manager, scheduler, tokens, metrics, routes } = build_server(config, stop.clone())?;
        let limits = Limits::default();
        if !config.auth.enabled && !listen::is_loopback(&config.server.host) {
            warn!(target: "api", host = config.server.host,
                "Authentication is off (auth.enabled = false) and the server can be reached from elsewhere ({}): whoever reaches it may do everything",
                config.server.host);
        }
        if config.auth.enabled && config.auth.default_token.as_ref().is_some_and(is_short) {
            warn!(target: "api",
                "auth.default_token is short enough to be guessed: give it {SHORT_BYTES} bytes or more, or use tokens of `arc token create`");
        }
        Ok(Self {
            manager,
            scheduler,
            guard: Guard::new(&config.auth, tokens.clone()),
            tokens,
            routes,
            shell: Shell::new(limits.clone(), metrics.clone()),
            metrics,
            limits,
            shutdown_timeout: config.server.shutdown_timeout,
            stop,
        })
    }

    /// Every route, with authentication and limits around it, to be served by [`Server::run`] or mounted elsewhere.
    ///
    /// Wrong tokens are counted by the address that axum's `ConnectInfo<SocketAddr>` names; without that by all clients
    /// together.
    pub fn router(&self) -> Router {
        self.shell.around(self.routes.clone(), Arc::clone(&self.guard))
    }

    /// The tokens that the router knows.
    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The manager, for a program that also compacts by itself.
    #[must_use]
    pub fn manager(&self) -> &Arc<CompactionManager> {
        &self.manager
    }

    /// Stops this server from elsewhere.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        ServerHandle { stop: self.stop.clone() }
    }

    pub(crate) fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Looks whether storage can be used, so that a mistake in the configuration shows at the start. What may pass by itself
    /// (a store that does not answer) is logged and no reason not to start: `/ready` says so, and every cycle asks again.
    ///
    /// # Errors
    /// What somebody has to put right: no such bucket, wrong keys, missing rights, no conditional writes.
    pub async fn check_storage(&self) -> Result<(), StorageError> {
        let location = self.manager.storage().location().to_owned();
        let answer = timeout(STORAGE_CHECK, self.manager.probe()).await.unwrap_or_else(|_| {
            let reason = format!("no answer within {} s", STORAGE_CHECK.as_secs()).into();
            Err(StorageError::Unavailable { path: location, source: reason })
        });
        match answer {
            Err(error @ StorageError::Unavailable { .. }) => {
                warn!(target: "api", %error, "Storage does not answer yet: {error}");
                Ok(())
            }
            answer => answer,
        }
    }

    /// Serves until the handle says stop, then stops: no new connections, no new jobs; requests are answered, jobs end at
    /// their next safe point, event streams end. What is not done within `server.shutdown_timeout_seconds` is abandoned.
    ///
    /// # Errors
    /// When the state database cannot be read at the start: then nothing was served.
    pub async fn run(self, listener: TcpListener) -> Result<ShutdownReport, StateError> {
        self.start().await?;
        let mut connections = accept::accept(listener, self.router(), self.limits.clone(), self.stop.clone()).await;
        let begun = Instant::now();
        let requests = async {
            if connections.finish(begun + self.shutdown_timeout).await {
                return 0;
            }
            let abandoned = self.shell.in_flight();
            connections.cut().await;
            abandoned
        };
        let (requests_abandoned, jobs_abandoned) = tokio::join!(requests, self.stop_jobs());
        let report = ShutdownReport { duration: begun.elapsed(), requests_abandoned, jobs_abandoned };
        report.log();
        Ok(report)
    }

    /// Stops what runs behind the router, for a program that serves the router itself.
    pub async fn stop(self) -> ShutdownReport {
        let begun = Instant::now();
        self.stop.cancel();
        let jobs_abandoned = self.stop_jobs().await;
        let report = ShutdownReport { duration: begun.elapsed(), requests_abandoned: 0, jobs_abandoned };
        report.log();
        report
    }

    /// Starts what runs behind the router, the scheduler. [`Server::run`] does this by itself.
    ///
    /// # Errors
    /// When the state database cannot be read: it says whether compaction is paused.
    pub async fn start(&self) -> Result<(), StateError> {
        if let Some(at) = self.manager.past().totals().await?.last_success_at {
            #[allow(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
            self.metrics.last_success(at.timestamp() as f64);
        }
        self.scheduler.start().await
    }

    /// Ends the scheduler and the cycle that runs; the jobs that did not end in time.
    async fn stop_jobs(&self) -> Vec<String> {
        self.scheduler.stop(self.shutdown_timeout).await.abandoned_jobs
    }
}
