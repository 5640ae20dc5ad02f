//! The `OpenAPI` 3.1 document, generated from the handlers and the types that they answer with.
//!
//! A handler documents what is its own. What every route has in common (the errors, which of them need which token) is
//! added here once.

use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi as _};

use super::error::ErrorBody;
use super::{candidates, connections, cycle, events, job, jobs, locks, partitions, quarantine, service, status};

/// The document.
#[must_use]
pub fn document() -> OpenApi {
    Document::openapi()
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Arc compaction", description = "Merges the small Parquet files of each finished hour into few large ones.\n\n\
        Tokens with the role `read` may use GET, those with the role `admin` everything."),
    paths(
        status::status, status::stats, candidates::list, cycle::trigger, jobs::list, jobs::one, jobs::cancel, jobs::history,
        cycle::pause, cycle::resume, locks::list, quarantine::list, quarantine::one, quarantine::clear_all, quarantine::clear, events::follow, partitions::files, connections::storage,
        service::health, service::ready, service::metrics, service::openapi, service::dashboard,
    ),
    components(schemas(ErrorBody, job::Job, events::CycleSummary)),
    security(("api_key" = []), ("bearer" = [])),
    modifiers(&SecuritySchemes, &CommonAnswers),
)]
struct Document;

struct SecuritySchemes;

impl Modify for SecuritySchemes {
    fn modify(&self, document: &mut OpenApi) {
        let components = document.components.get_or_insert_default();
        let header = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("x-api-key")));
        components.add_security_scheme("api_key", header);
        components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

struct CommonAnswers;

impl Modify for CommonAnswers {
    fn modify(&self, document: &mut OpenApi) {
        for item in document.paths.paths.values_mut() {
            for (operation, admin) in [
                (&mut item.get, false),
                (&mut item.post, true),
                (&mut item.put, true),
                (&mut item.delete, true),
                (&mut item.patch, true),
            ] {
                if let Some(operation) = operation {
                    complete(operation, admin);
                }
            }
        }
    }
}

/// The errors that any route may answer with.
const EVERYWHERE: [u16; 6] = [400, 401, 403, 429, 503, 500];

fn complete(operation: &mut Operation, admin: bool) {
    if admin {
        let text = "Needs a token with the role `admin`.";
        let description = operation.description.take();
        operation.description = Some(description.map_or_else(|| text.to_owned(), |said| format!("{said}\n\n{text}")));
    }
    let answers = &mut operation.responses.responses;
    for status in EVERYWHERE {
        answers.entry(status.to_string()).or_insert_with(|| RefOr::T(Response::new("")));
    }
    for (status, answer) in answers.iter_mut() {
        if let (true, RefOr::T(answer)) = (status.starts_with(['4', '5']), answer)
            && answer.content.is_empty()
        {
            let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
            *answer = ResponseBuilder::new().description(said(status)).content("application/json", body).build();
        }
    }
}

fn said(status: &str) -> &'static str {
    match status {
        "400" => "A parameter, or the form of the body, is wrong",
        "401" => "No valid token",
        "403" => "The token's role does not allow this",
        "404" => "There is no such thing",
        "409" => "The present state does not allow this",
        "413" => "The body is too large",
        "422" => "The body is JSON, and does not say what it should",
        "429" => "Too many requests, or too many failed attempts to authenticate",
        "503" => "Not possible now",
        _ => "A fault of the server",
    }
}
