//! What a request can be refused with: the only table of status codes.
//!
//! Every answer that is not a success has the body `{"error":"short kind","detail":"what and what to do"}`. The kind is
//! stable, for programs; the detail is for people. A detail never has what the server should keep to itself: the cause of a
//! 5xx goes to the log, once, and the body names the request under which it stands there.
//!
//! ```text
//! handler ── ApiError ──> into_response ── carried in the response ──> finish ── request_id, log line ──> client
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Json, http};
use serde::Serialize;
use tower_http::request_id::RequestId;
use tracing::error;
use utoipa::ToSchema;

use crate::compaction::observe::ObserveError;
use crate::lock::LockError;
use crate::state::StateError;
use crate::storage::StorageError;

/// The header that names a request, in every answer.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Characters of a detail. What a client sent comes back in it, and may be a megabyte long.
const MAX_DETAIL_CHARS: usize = 600;
/// Characters of a client's value that are shown.
const MAX_SHOWN_CHARS: usize = 80;
/// When a client that was refused for lack of room or time should come again.
const RETRY_AFTER_SECONDS: u64 = 5;

/// The cause of a failure, for the log.
pub type Cause = Box<dyn Error + Send + Sync + 'static>;

/// Why a request is not answered as wished. The message is the detail.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// A parameter or the form of the body is wrong.
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    Unauthorized(String),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    MethodNotAllowed(String),
    #[error("cycle {cycle_id} is running; wait for its end, or watch /api/compaction/jobs")]
    CycleRunning { cycle_id: String },
    #[error("compaction is paused; POST /api/compaction/resume lets jobs start again")]
    Paused,
    #[error("job {job_id} is committed and cannot be cancelled any more; it ends by itself")]
    Committed { job_id: String },
    #[error("job {job_id} has ended ({status}); there is nothing to cancel")]
    Ended { job_id: String, status: &'static str },
    #[error("{0}")]
    TooLarge(String),
    /// The body is JSON, and does not say what it should.
    #[error("{0}")]
    InvalidBody(String),
    #[error("{0}")]
    TooManyRequests(String),
    #[error("compaction is disabled by the configuration; set compaction.enabled = true and restart the server")]
    Disabled,
    #[error("the scheduler does not run: the server is stopping, or /ready says what is wrong; ask again later")]
    Stopping,
    /// A limit that protects the server is reached.
    #[error("{0}")]
    Busy(String),
    /// Looking through storage takes long, and goes on.
    #[error(
        "looking through storage takes longer than {} s; once it has begun it goes on, and its answer is kept for a while: ask the same again, or name a database",
        waited.as_secs()
    )]
    StillLooking { waited: Duration },
    /// Something that the answer needs does not work now.
    #[error("{what} did not answer, or answered with an error; the server's log has the cause under this request_id")]
    Unavailable { what: &'static str, cause: Cause },
    /// The partition contradicts itself. Readers get no answer rather than a wrong one.
    #[error(
        "this partition contradicts itself and is left alone until a person has looked: see `arc verify`, and the server's log under this request_id"
    )]
    Unreadable { cause: Cause },
}

impl ApiError {
    /// Status and kind.
    #[must_use]
    pub fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::Unauthorized(_) => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::CycleRunning { .. } => (StatusCode::CONFLICT, "cycle_running"),
            Self::Paused => (StatusCode::CONFLICT, "paused"),
            Self::Committed { .. } => (StatusCode::CONFLICT, "committed"),
            Self::Ended { .. } => (StatusCode::CONFLICT, "ended"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::InvalidBody(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_body"),
            Self::TooManyRequests(_) => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests"),
            Self::Disabled => (StatusCode::SERVICE_UNAVAILABLE, "disabled"),
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
            Self::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Self::StillLooking { .. } => (StatusCode::SERVICE_UNAVAILABLE, "still_looking"),
            Self::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::Unreadable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "unreadable"),
        }
    }

    /// What goes to the log, if that is more than the client gets to see.
    fn hidden_cause(&self) -> Option<&Cause> {
        match self {
            Self::Unavailable { cause, .. } | Self::Unreadable { cause } => Some(cause),
            _ => None,
        }
    }

    fn body(&self, request_id: Option<&str>) -> ErrorBody {
        let (status, error) = self.kind();
        let cycle_id = match self {
            Self::CycleRunning { cycle_id } => Some(cycle_id.clone()),
            _ => None,
        };
        let request_id = if status.is_server_error() { request_id.map(str::to_owned) } else { None };
        ErrorBody { error: error.to_owned(), detail: cut(&self.to_string(), MAX_DETAIL_CHARS), request_id, cycle_id }
    }

    fn render(&self, request_id: Option<&str>) -> Response {
        let mut response = (self.kind().0, Json(self.body(request_id))).into_response();
        let headers = response.headers_mut();
        match self {
            Self::TooManyRequests(_) | Self::Busy(_) | Self::StillLooking { .. } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
            }
            Self::Unauthorized(_) => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorBody {
    /// A short kind that does not change.
    #[schema(example = "bad_request")]
    pub error: String,
    /// What happened, and what to do.
    pub detail: String,
    /// The name of the request in the server's log; with 5xx.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub request_id: Option<String>,
    /// The cycle that is running; with `cycle_running`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub cycle_id: Option<String>,
}

/// An error on its way through the response to [`finish`].
#[derive(Clone)]
struct Carried(Arc<ApiError>);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.render(None);
        response.extensions_mut().insert(Carried(Arc::new(self)));
        response
    }
}

/// Completes the answer to a request: its id in the header, and with a 5xx in the body and, with the cause, in the log.
pub async fn finish(request: Request, next: Next) -> Response {
    let id = id_of(&request);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    if let Some(Carried(failure)) = response.extensions_mut().remove::<Carried>()
        && failure.kind().0.is_server_error()
    {
        if let Some(cause) = failure.hidden_cause() {
            let (status, _) = failure.kind();
            let path = cut(&path, MAX_SHOWN_CHARS);
            error!(target: "api", request_id = id, %method, path, status = status.as_u16(), cause = chain(cause.as_ref()),
                "A request could not be answered");
        }
        response = failure.render(Some(&id));
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().entry(REQUEST_ID).or_insert(value);
    }
    response
}

/// The id that an outer layer has given the request, or a new one.
fn id_of<B>(request: &http::Request<B>) -> String {
    let given = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok());
    given.map_or_else(|| format!("{:016x}", fastrand::u64(..)), str::to_owned)
}

/// An error and what is below it, without saying anything twice.
fn chain(error: &(dyn Error + 'static)) -> String {
    const MAX_LINKS: usize = 16;
    let mut text = error.to_string();
    let mut link = error.source();
    for _ in 0..MAX_LINKS {
        let Some(current) = link else { break };
        let said = current.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        link = current.source();
    }
    text
}

/// A client's value in a message: quoted, escaped, and not longer than a message should be.
#[must_use]
pub fn shown(value: &str) -> String {
    format!("{:?}", cut(value, MAX_SHOWN_CHARS))
}

fn cut(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        match error {
            // Only names that a client gave are not known to be usable.
            StorageError::InvalidName { name, detail } => {
                Self::BadRequest(format!("{} cannot be used as a name in storage ({detail})", shown(&name)))
            }
            other => Self::Unavailable { what: "storage", cause: Box::new(other) },
        }
    }
}

impl From<StateError> for ApiError {
    fn from(error: StateError) -> Self {
        Self::Unavailable { what: "the state database", cause: Box::new(error) }
    }
}

impl From<LockError> for ApiError {
    fn from(error: LockError) -> Self {
        let what = match error {
            LockError::Store { .. } | LockError::BadLease { .. } => "the place of the leases in storage",
            LockError::Lost { .. } | LockError::State(_) => "the state database",
        };
        Self::Unavailable { what, cause: Box::new(error) }
    }
}

impl From<ObserveError> for ApiError {
    fn from(error: ObserveError) -> Self {
        match error {
            ObserveError::Storage(error) => error.into(),
            ObserveError::Unsettled { .. } => {
                Self::Busy("the partition keeps changing while it is being read; ask again".to_owned())
            }
            error @ (ObserveError::BadRecord { .. } | ObserveError::LiveFileMissing { .. }) => {
                Self::Unreadable { cause: Box::new(error) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_sent_comes_back_cut() {
        let error = ApiError::BadRequest("ä".repeat(1_000_000));
        assert_eq!(error.body(None).detail.chars().count(), MAX_DETAIL_CHARS + 1);
        assert_eq!(shown("a\n\"b\""), "\"a\\n\\\"b\\\"\"");
    }

    #[test]
    fn who_asks_for_what_takes_long_is_told_to_ask_again() {
        let answer = ApiError::StillLooking { waited: Duration::from_secs(20) };
        let response = answer.render(Some("7"));
        assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (503, &HeaderValue::from(5)));
        let ErrorBody { error, detail, .. } = answer.body(Some("7"));
        assert!(
            error == "still_looking" && detail.contains("ask the same again") && detail.contains("20 s"),
            "{detail}"
        );
    }

    #[test]
    fn the_cause_of_a_5xx_is_not_in_its_body() {
        let error = ApiError::Unavailable { what: "storage", cause: "secret".into() };
        let body = serde_json::to_string(&error.body(Some("7"))).unwrap();
        assert!(body.contains(r#""request_id":"7""#) && !body.contains("secret"), "{body}");
    }
}
