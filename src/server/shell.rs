//! What lies around the routes: every request passes these layers, from the outside in.
//!
//! ```text
//! count ─> request id ─> error bodies ─> panics ─> room ─> time ─> token ─> body ─> route
//!                                          500     503     503   401 403 429  408 413
//! ```
//!
//! What must hold: a request without a token costs next to nothing, so its body is not read. No panic and no slow handler
//! leaves a client without an answer, or anyone else without the server.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::{Router, http};
use futures::FutureExt;
use http_body_util::LengthLimitError;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::{error, warn};

use super::limits::Limits;
use super::{errors, request_id};
use crate::auth::Guard;
use crate::auth::layer::guard;
use crate::metrics::Metrics;

const LOG: &str = "api";

/// Answered even when there is no room for anything else: a server that is busy is alive.
const ALWAYS_ROOM: &str = "/health";

/// The shell's own state, shared by all requests.
#[derive(Debug)]
pub(super) struct Shell {
    limits: Limits,
    metrics: Metrics,
    room: Semaphore,
    in_flight: AtomicUsize,
}

impl Shell {
    pub(super) fn new(limits: Limits, metrics: Metrics) -> Arc<Self> {
        let room = Semaphore::new(limits.requests);
        Arc::new(Self { limits, metrics, room, in_flight: AtomicUsize::new(0) })
    }

    /// Requests whose answer has not begun.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Puts the layers around the routes.
    pub(super) fn around(self: &Arc<Self>, routes: Router, guard_state: Arc<Guard>) -> Router {
        routes
            .layer(from_fn_with_state(Arc::clone(self), body))
            .layer(from_fn_with_state(guard_state, guard))
            .layer(from_fn_with_state(Arc::clone(self), time))
            .layer(from_fn_with_state(Arc::clone(self), room))
            .layer(from_fn(panics))
            .layer(from_fn(errors::complete))
            .layer(from_fn(request_id::give))
            .layer(from_fn_with_state(Arc::clone(self), count))
    }
}

/// Counts answers by route, and how long they took, after the fact.
async fn count(State(shell): State<Arc<Shell>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    shell.metrics.http_request(method.as_str(), route, response.status().as_u16(), begun.elapsed());
    response
}

/// Reads the body before the handler runs, so that one place knows how much and how long. Requests that only look have
/// none: what they send is not read.
async fn body(State(shell): State<Arc<Shell>>, request: Request, next: Next) -> Response {
    let id = request_id::of(&request);
    let (parts, body) = request.into_parts();
    let limit = shell.limits.body_bytes;
    let read = if matches!(parts.method, Method::GET | Method::HEAD) {
        Ok(Body::empty())
    } else if declared_length(&parts).is_some_and(|length| length > limit as u64) {
        Err(StatusCode::PAYLOAD_TOO_LARGE)
    } else {
        match timeout(shell.limits.body_wait, to_bytes(body, limit)).await {
            Ok(Ok(bytes)) => Ok(Body::from(bytes)),
            Ok(Err(error)) if too_long(&error) => Err(StatusCode::PAYLOAD_TOO_LARGE),
            Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
            Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
        }
    };
    match read {
        Ok(body) => next.run(Request::from_parts(parts, body)).await,
        Err(status) => {
            let mut response = errors::answer(status, &id);
            // The rest of the body is still on its way and would be taken for the next request.
            response.headers_mut().insert(header::CONNECTION, http::HeaderValue::from_static("close"));
            response
        }
    }
}

fn declared_length(parts: &http::request::Parts) -> Option<u64> {
    parts.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_long(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if current.is::<LengthLimitError>() {
            return true;
        }
        cause = current.source();
    }
    false
}

/// Of streams only the beginning counts: they may go on.
async fn time(State(shell): State<Arc<Shell>>, request: Request, next: Next) -> Response {
    let (id, path) = (request_id::of(&request), request.uri().path().to_owned());
    if let Ok(response) = timeout(shell.limits.request, next.run(request)).await {
        return response;
    }
    warn!(target: LOG, request_id = id, path, "A request took longer than {:?} and was given up", shell.limits.request);
    errors::answer(StatusCode::SERVICE_UNAVAILABLE, &id)
}

/// Turns requests away when there are too many. They do not queue: a client that has to wait should know it.
async fn room(State(shell): State<Arc<Shell>>, request: Request, next: Next) -> Response {
    let place = shell.room.try_acquire();
    if place.is_err() && request.uri().path() != ALWAYS_ROOM {
        return errors::answer(StatusCode::SERVICE_UNAVAILABLE, &request_id::of(&request));
    }
    let _counted = Counted::new(&shell.in_flight);
    next.run(request).await
}

struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A handler that panics is a bug of ours, and the end of this one request.
async fn panics(request: Request, next: Next) -> Response {
    let (id, path) = (request_id::of(&request), request.uri().path().to_owned());
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let cause = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            error!(target: LOG, request_id = id, path, cause, "A request handler panicked: {cause}");
            errors::answer(StatusCode::INTERNAL_SERVER_ERROR, &id)
        }
    }
}
