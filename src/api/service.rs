//! The server itself: is it alive, is it ready, its numbers, and the description of this API.
//!
//! Query parameters of the first three are ignored: probes and scrapers add their own.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::input::{NoParameters, Query};
use super::{AppState, openapi};
use crate::metrics;
use crate::monitoring::Verdict;

/// The process answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Health {
    #[schema(example = "ok")]
    pub status: &'static str,
    #[schema(example = "0.1.0")]
    pub version: &'static str,
}

/// Whether the process is alive
///
/// Says nothing about storage or the scheduler: that is `/ready`.
#[utoipa::path(get, path = "/health", tag = "service", security(()),
    responses((status = 200, description = "Alive", body = Health)))]
pub async fn health() -> Json<Health> {
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// Whether the service can do its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Ready {
    /// `ready` or `not_ready`.
    #[schema(example = "ready")]
    pub status: &'static str,
    /// Each aspect, and what is to be said about it.
    pub checks: BTreeMap<&'static str, ReadyCheck>,
}

/// One aspect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReadyCheck {
    pub ok: bool,
    pub detail: String,
}

impl From<Verdict> for Ready {
    fn from(verdict: Verdict) -> Self {
        let check = |(name, check): (&'static str, crate::monitoring::Check)| {
            (name, ReadyCheck { ok: check.ok, detail: check.detail })
        };
        Self { status: verdict.status, checks: verdict.checks.into_iter().map(check).collect() }
    }
}

/// Whether the service can do its work, and if not, why
#[utoipa::path(get, path = "/ready", tag = "service", security(()),
    responses((status = 200, description = "Ready", body = Ready), (status = 503, description = "Not ready", body = Ready)))]
pub async fn ready(State(app): State<AppState>) -> (StatusCode, Json<Ready>) {
    let verdict = app.readiness.check().await;
    let status = if verdict.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(verdict.into()))
}

/// Numbers for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "service",
    responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain; version=0.0.4; charset=utf-8")))]
pub async fn metrics(State(app): State<AppState>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], app.scrape.render().await).into_response()
}

/// The dashboard
#[utoipa::path(get, path = "/", tag = "service", security(()),
    responses((status = 200, description = "A page that asks for a token and shows what the API says", body = String, content_type = "text/html; charset=utf-8")))]
pub async fn dashboard() -> Response {
    super::dashboard::page()
}

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "service",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub async fn openapi(Query(NoParameters {}): Query<NoParameters>) -> Response {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| openapi::document().to_json().expect("the document has text keys and finite numbers"));
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}
