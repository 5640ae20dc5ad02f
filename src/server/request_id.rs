//! The name of a request, the same in the answer, in error bodies and in the log.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tower_http::request_id::RequestId;

pub(super) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Characters of a client's own id.
const MAX_CHARS: usize = 64;

/// A new id. It names a request and protects nothing, so it need not be unpredictable.
pub(super) fn new() -> String {
    format!("{:016x}", fastrand::u64(..))
}

/// The id of a request that has passed [`give`].
pub(super) fn of(request: &Request) -> String {
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok());
    id.map_or_else(new, str::to_owned)
}

/// The middleware: keeps the id that a client gave, if it is a plain word of sane length, and makes one otherwise.
pub(super) async fn give(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(&HEADER).filter(|id| is_plain(id.as_bytes())).cloned();
    let id = given.unwrap_or_else(|| HeaderValue::from_str(&new()).expect("hexadecimal digits make a header"));
    request.headers_mut().insert(HEADER, id.clone());
    request.extensions_mut().insert(RequestId::new(id.clone()));
    let mut response = next.run(request).await;
    response.headers_mut().insert(HEADER, id);
    response
}

fn is_plain(id: &[u8]) -> bool {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (1..=MAX_CHARS).contains(&id.len()) && id.iter().all(allowed)
}
