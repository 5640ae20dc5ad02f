//! Whether storage answers. Never says a secret: what a store says about a failure may hold one, and goes to the log only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Serialize;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tracing::warn;
use utoipa::ToSchema;

use super::AppState;
use super::error::ApiError;
use super::input::{NoParameters, Query};
use crate::compaction::settings::LockBackend;
use crate::storage::{Storage, StorageError};

/// How long storage may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

const NO_CREATE: &str = "use a store (or a version of it) with conditional writes";
const NO_SWAP: &str =
    "use a store (or a version of it) with updates under a condition (If-Match), or set lock_backend = \"sqlite\"";

/// What is known about the storage besides what it says itself. Clones share it.
#[derive(Debug, Clone)]
pub struct StorageInfo {
    backend: &'static str,
    /// Whether create-if-absent is real, once storage has shown it. Finding out writes, so it is asked once.
    conditional_put: Arc<OnceCell<bool>>,
    /// The same of compare-and-swap.
    compare_and_swap: Arc<OnceCell<bool>>,
}

impl StorageInfo {
    /// `backend` is the name that the configuration has for it.
    #[must_use]
    pub fn new(backend: &'static str) -> Self {
        Self { backend, conditional_put: Arc::default(), compare_and_swap: Arc::default() }
    }
}

/// The connection to storage.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct StorageConnection {
    #[schema(example = "local")]
    pub backend: String,
    pub location: String,
    pub reachable: bool,
    /// How long a listing of the databases took. Null when it did not succeed.
    pub latency_ms: Option<f64>,
    /// Whether the store can create a key only if it does not exist, which safety rests on. Null when that is not known.
    pub conditional_put: Option<bool>,
    /// Whether the store can replace an object only while it is the one that was read, which leases in the bucket rest on.
    /// Null when that is not known, and where the leases are elsewhere (`lock_backend = "sqlite"`).
    pub compare_and_swap: Option<bool>,
    /// What is wrong and what to do.
    pub error: Option<String>,
}

/// Whether storage answers, and can do what is needed
#[utoipa::path(get, path = "/api/connections/storage", tag = "connections",
    responses((status = 200, description = "The connection", body = StorageConnection)))]
pub async fn storage(
    State(app): State<AppState>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Json<StorageConnection>, ApiError> {
    let (storage, info) = (app.manager.storage(), &app.storage_info);
    let started = Instant::now();
    let reached = patiently(storage, async { storage.databases().await.map(drop) }).await;
    #[allow(clippy::cast_precision_loss, reason = "milliseconds of a few seconds")]
    let elapsed_ms = started.elapsed().as_micros() as f64 / 1000.0;
    let reachable = reached.is_ok();
    let (conditional_put, mut error) = match reached {
        Ok(()) => verdict(probed(storage, &info.conditional_put, storage.probe().boxed()).await, NO_CREATE),
        Err(error) => (None, Some(told(&error))),
    };
    let mut compare_and_swap = None;
    if app.manager.settings().lock_backend == LockBackend::Storage && conditional_put == Some(true) {
        let swaps = probed(storage, &info.compare_and_swap, storage.probe_update().boxed()).await;
        (compare_and_swap, error) = verdict(swaps, NO_SWAP);
    }
    Ok(Json(StorageConnection {
        backend: info.backend.to_owned(),
        location: storage.location().to_owned(),
        reachable,
        latency_ms: reachable.then_some(elapsed_ms),
        conditional_put,
        compare_and_swap,
        error,
    }))
}

/// What is known then, and what is to be done.
fn verdict(probed: Result<bool, StorageError>, remedy: &str) -> (Option<bool>, Option<String>) {
    match probed {
        Ok(true) => (Some(true), None),
        Ok(false) => (Some(false), Some(remedy.to_owned())),
        Err(error) => (None, Some(told(&error))),
    }
}

/// Whether storage passes a probe. Asked until there is an answer, then never again.
async fn probed(
    storage: &Storage,
    known: &OnceCell<bool>,
    probe: BoxFuture<'_, Result<(), StorageError>>,
) -> Result<bool, StorageError> {
    let passes = || async {
        match probe.await {
            Ok(()) => Ok(true),
            Err(StorageError::Unsuitable { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    };
    patiently(storage, async { known.get_or_try_init(passes).await.copied() }).await
}

async fn patiently<T>(
    storage: &Storage,
    work: impl Future<Output = Result<T, StorageError>>,
) -> Result<T, StorageError> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| {
        let source = format!("no answer within {} s", PATIENCE.as_secs()).into();
        Err(StorageError::Unavailable { path: storage.location().to_owned(), source })
    })
}

/// The failure for a client; in full for the log.
fn told(error: &StorageError) -> String {
    warn!(target: "api", %error, "Storage does not answer as it should");
    error.without_store_words()
}
