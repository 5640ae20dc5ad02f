//! What a client is told when it is not let in.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Why a request goes no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    NoToken,
    WrongToken,
    NotAdmin {
        name: String,
    },
    TooManyFailures {
        wait: Duration,
    },
    /// The tokens could not be looked at. The reason is in the log.
    CannotTell {
        request_id: Option<String>,
    },
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error, detail) = match &self {
            Self::NoToken => (
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "this needs a token: send it as `x-api-key: TOKEN` or `Authorization: Bearer TOKEN`".to_owned(),
            ),
            Self::WrongToken => (
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "this token is not known, or it was revoked: `arc token create` makes a new one".to_owned(),
            ),
            Self::NotAdmin { name } => (
                StatusCode::FORBIDDEN,
                "forbidden",
                format!("the token {name:?} has the role read and may only look: this needs the role admin"),
            ),
            Self::TooManyFailures { wait } => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_requests",
                format!(
                    "this token is not known, and too many wrong ones came from this address: correct it, or wait {} seconds",
                    whole_seconds(*wait)
                ),
            ),
            Self::CannotTell { .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "tokens cannot be checked at the moment: try again, and see the log of the server".to_owned(),
            ),
        };
        let mut body = json!({ "error": error, "detail": detail });
        if let Self::CannotTell { request_id } = &self {
            body["request_id"] = json!(request_id);
        }
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        match self {
            Self::NoToken => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::WrongToken => {
                let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            Self::TooManyFailures { wait } => {
                headers.insert(header::RETRY_AFTER, whole_seconds(wait).into());
            }
            Self::CannotTell { .. } => {
                headers.insert(header::RETRY_AFTER, 1.into());
            }
            Self::NotAdmin { .. } => {}
        }
        response
    }
}

/// Rounded up: after that time a wrong token is a 401 again.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}
