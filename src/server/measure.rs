//! Counts requests and their time, by route template: paths would be as many as there are clients' mistakes.

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use tokio::time::Instant;

use crate::metrics::Metrics;

/// What a request is counted as that no route matches.
const UNMATCHED: &str = "unmatched";

/// Puts the counting around the routes. The time ends when the answer begins.
pub(super) fn requests(router: Router, metrics: Metrics) -> Router {
    router.layer(from_fn_with_state(metrics, measure))
}

async fn measure(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
    metrics.http_request(method.as_str(), route, response.status().as_u16(), begun.elapsed());
    response
}
