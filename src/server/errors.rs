//! The body of errors that no handler made: of the router, of the limits, and of the HTTP library itself.
//!
//! All errors have the same body, `{"error","detail"}` and with 5xx also `request_id`, so that a client needs one way to
//! read them.

use axum::Json;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::request_id;

/// Bytes of a plain explanation that are kept as the detail.
const MAX_DETAIL: usize = 1024;
/// When a client that was turned away should come again, in seconds.
const RETRY_AFTER_SECONDS: u64 = 1;

/// Kind and detail by status, for errors without an explanation of their own.
fn known(status: StatusCode) -> (&'static str, &'static str) {
    match status {
        StatusCode::BAD_REQUEST => ("bad_request", "this is not a valid HTTP request"),
        StatusCode::NOT_FOUND => ("not_found", "there is no such path: /openapi.json lists them all"),
        StatusCode::METHOD_NOT_ALLOWED => {
            ("method_not_allowed", "this path has other methods: the header `allow` names them")
        }
        StatusCode::REQUEST_TIMEOUT => {
            ("request_timeout", "the body of the request did not arrive in time: send it again")
        }
        StatusCode::PAYLOAD_TOO_LARGE => ("too_large", "the body is too large: at most 1 MiB is read"),
        StatusCode::URI_TOO_LONG => ("uri_too_long", "the address is too long"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            ("unsupported_media_type", "send JSON, with the header `content-type: application/json`")
        }
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            ("headers_too_large", "the headers are too large, or too many: at most 16 KiB and 64 of them are read")
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            ("busy", "the server has no room for this request, or took too long over it: try again")
        }
        other if other.is_server_error() => {
            ("internal", "something went wrong here: the server's log has the cause under this request_id")
        }
        _ => ("bad_request", "the request cannot be served"),
    }
}

/// The body for a status.
pub(super) fn body(status: StatusCode, detail: Option<&str>, request_id: &str) -> Value {
    let (error, usual) = known(status);
    let mut body = json!({ "error": error, "detail": detail.unwrap_or(usual) });
    if status.is_server_error() {
        body["request_id"] = request_id.into();
    }
    body
}

/// The answer for a status.
pub(super) fn answer(status: StatusCode, request_id: &str) -> Response {
    let mut response = (status, Json(body(status, None, request_id))).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS.into());
    }
    response
}

/// The middleware: gives every error that has no JSON body one.
pub(super) async fn complete(request: Request, next: Next) -> Response {
    let id = request_id::of(&request);
    let response = next.run(request).await;
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) || is(response.headers(), "application/json") {
        return response;
    }
    let (mut parts, old) = response.into_parts();
    // What the framework says about a bad request helps; what it says about a failure of ours is not for clients.
    let plain = status.is_client_error() && is(&parts.headers, "text/plain");
    let text = if plain { to_bytes(old, MAX_DETAIL).await.ok() } else { None };
    let detail = text.as_deref().and_then(|text| str::from_utf8(text).ok()).filter(|text| !text.is_empty());
    let new = Json(body(status, detail, &id)).into_response();
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        parts.headers.remove(name);
    }
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(parts, new.into_body())
}

fn is(headers: &HeaderMap, wanted: &str) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| value.starts_with(wanted))
}
