//! The server itself: is it alive, and the description of this API.

use std::sync::LazyLock;

use axum::Json;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::input::{NoParameters, Query};
use super::openapi;

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
/// Says nothing about storage or the scheduler: that is `/ready`. Query parameters are ignored.
#[utoipa::path(get, path = "/health", tag = "service", security(()),
    responses((status = 200, description = "Alive", body = Health)))]
pub async fn health() -> Json<Health> {
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "service",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub async fn openapi(Query(NoParameters {}): Query<NoParameters>) -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        openapi::document().to_json().expect("the document has text keys and finite numbers")
    });
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}
