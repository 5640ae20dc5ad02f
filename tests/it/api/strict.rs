//! Whatever a client sends, the answer is never a 5xx. Requests are made from the document: valid ones, and ones that are
//! wrong in every way that comes to mind.

use axum::body::Body;
use axum::http::Request;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngSeed, TestRunner};
use serde_json::{Value, json};

use super::app::{App, app};
use super::document::{document, operations};
use crate::support::{PARTITION, again};

/// Names the number of requests; continuous integration has a few hundred.
const CASES_VARIABLE: &str = "ARC_API_CASES";
const DEFAULT_CASES: u32 = 500;
/// Names the seed of the requests, for those who search on.
const SEED_VARIABLE: &str = "ARC_API_SEED";

/// One request, not yet built: what to take from the document, and how to spoil it.
#[derive(Debug, Clone)]
struct Wish {
    operation: Index,
    /// For path parameters, one after another.
    path: Vec<Piece>,
    /// For query parameters. `None`: leave it out.
    query: Vec<Option<Piece>>,
    /// Query parameters that no route knows.
    extra: Option<(String, String)>,
    body: Vec<u8>,
    content_type: Option<&'static str>,
    method: Option<&'static str>,
    suffix: &'static str,
}

/// A value: what the document would allow, or anything.
#[derive(Debug, Clone)]
enum Piece {
    Valid,
    Raw(String),
}

/// Already percent-encoded where it has to be.
fn nasty() -> impl Strategy<Value = String> {
    let known = select(vec![
        "",
        ".",
        "..",
        "%2e%2e",
        "%2E%2E%2F",
        "%2F",
        "/",
        "//",
        "%5C",
        "%00",
        "%ff",
        "%C3%28",
        "%ED%A0%80",
        "%",
        "%4",
        "%zz",
        "+",
        "-1",
        "0",
        "1",
        "1001",
        "1e9",
        "0x10",
        "18446744073709551616",
        "-9223372036854775809",
        "NaN",
        "1.5",
        "true",
        "null",
        "db",
        "cpu",
        "2025",
        "10",
        "08",
        "14",
        "24",
        "99",
        "_compaction",
        "completed",
        "%F0%9F%92%A5",
        "%E2%80%AE",
        "%0a",
        "%0d%0aX:1",
        "'%20OR%201=1--",
        "%3Cscript%3E",
        "db/cpu/2025/10/08/14",
        "%7B%7D",
        "[]",
        "*",
        "~",
        "%EF%BB%BF",
        "%25",
    ]);
    let bytes = prop::collection::vec(any::<u8>(), 0..12)
        .prop_map(|bytes| bytes.iter().map(|b| format!("%{b:02x}")).collect::<Vec<_>>().concat());
    let long = (1_usize..40).prop_map(|n| "long%20".repeat(n * 50));
    let text = "[a-z0-9._~-]{0,16}";
    prop_oneof![8 => known.prop_map(str::to_owned), 3 => bytes, 1 => long, 3 => text]
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![1 => Just(Piece::Valid), 2 => nasty().prop_map(Piece::Raw)]
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        select(vec!["db", "cpu", "..", "a/b", "a\0b", "cpu/2025/10/08/14", PARTITION]).prop_map(Value::from),
        (100_usize..3000).prop_map(|n| Value::from("x".repeat(n))),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        4 => select(vec!["database", "measurement", "partition_path", "dry_run"]).prop_map(str::to_owned),
        1 => ".{0,10}",
    ];
    let object = prop::collection::btree_map(name, json_value(), 0..4).prop_map(|map| json!(map));
    let valid = select(vec![
        json!({}),
        json!({"dry_run": true}),
        json!({"dry_run": true, "database": "db"}),
        json!({"dry_run": true, "partition_path": PARTITION}),
    ]);
    let whole = prop_oneof![2 => object, 2 => valid, 1 => json_value()].prop_map(|v| v.to_string().into_bytes());
    let cut = (whole.clone(), any::<Index>()).prop_map(|(bytes, at)| bytes[..at.index(bytes.len() + 1)].to_vec());
    prop_oneof![2 => Just(Vec::new()), 4 => whole, 2 => cut, 1 => prop::collection::vec(any::<u8>(), 0..64)]
}

fn wish() -> impl Strategy<Value = Wish> {
    let extra = prop::option::weighted(0.15, (nasty(), nasty()));
    let content_type =
        select(vec![None, Some("application/json"), Some("text/plain"), Some("application/json; charset=latin1")]);
    let method = prop::option::weighted(
        0.1,
        select(vec!["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"]),
    );
    let suffix = prop_oneof![9 => Just(""), 1 => select(vec!["/", "//", "/..", "/%2e%2e", "%00", ";a=b"])];
    let path = prop::collection::vec(piece(), 6);
    let query = prop::collection::vec(prop::option::of(piece()), 4);
    (any::<Index>(), path, query, extra, body(), content_type, method, suffix).prop_map(
        |(operation, path, query, extra, body, content_type, method, suffix)| Wish {
            operation,
            path,
            query,
            extra,
            body,
            content_type,
            method,
            suffix,
        },
    )
}

/// A value that the document allows for a parameter.
fn valid(parameter: &Value) -> String {
    let name = parameter["name"].as_str().unwrap();
    let schema = &parameter["schema"];
    if let Some(first) = schema["enum"].as_array().and_then(|all| all.first()) {
        return first.as_str().unwrap().to_owned();
    }
    match name {
        "db" | "database" | "cursor" => "db".to_owned(),
        "measurement" => "cpu".to_owned(),
        "y" => "2025".to_owned(),
        "m" => "10".to_owned(),
        "d" => "08".to_owned(),
        "h" => "14".to_owned(),
        _ if schema["type"] == "boolean" => "true".to_owned(),
        _ => schema["minimum"].as_u64().unwrap_or(1).to_string(),
    }
}

/// `None`: not even the start of an HTTP request.
fn request(wish: &Wish, operations: &[(String, String, Value)]) -> Option<Request<Body>> {
    let (method, path, operation) = &operations[wish.operation.index(operations.len())];
    let parameters: Vec<&Value> = operation["parameters"].as_array().into_iter().flatten().collect();
    let of = |place: &'static str| parameters.iter().copied().filter(move |p| p["in"] == place);
    let mut uri = path.clone();
    for (parameter, piece) in of("path").zip(&wish.path) {
        let value = match piece {
            Piece::Valid => valid(parameter),
            Piece::Raw(raw) => raw.clone(),
        };
        uri = uri.replace(&format!("{{{}}}", parameter["name"].as_str().unwrap()), &value);
    }
    uri.push_str(wish.suffix);
    let mut separator = '?';
    let mut add = |name: &str, value: &str| {
        uri.push(separator);
        uri.extend([name, "=", value]);
        separator = '&';
    };
    for (parameter, piece) in of("query").zip(&wish.query) {
        match piece {
            None => {}
            Some(Piece::Valid) => add(parameter["name"].as_str().unwrap(), &valid(parameter)),
            Some(Piece::Raw(raw)) => add(parameter["name"].as_str().unwrap(), raw),
        }
    }
    if let Some((name, value)) = &wish.extra {
        add(name, value);
    }
    let mut request = Request::builder().method(wish.method.unwrap_or(method)).uri(uri);
    if let Some(content_type) = wish.content_type {
        request = request.header("content-type", content_type);
    }
    request.body(Body::from(wish.body.clone())).ok()
}

async fn hold(app: &App, wish: &Wish, operations: &[(String, String, Value)]) -> Result<(), TestCaseError> {
    let Some(request) = request(wish, operations) else { return Ok(()) };
    let shown = format!("{} {}", request.method(), request.uri());
    let is_head = request.method() == "HEAD";
    if request.uri().path() == "/api/compaction/events" && matches!(request.method().as_str(), "GET" | "HEAD") {
        // A stream has no end; only its beginning is asked for.
        let response = tower::ServiceExt::oneshot(app.router.clone(), request).await.unwrap();
        prop_assert!(!response.status().is_server_error(), "{}", shown);
        return Ok(());
    }
    let answer = app.answer(request).await;
    prop_assert!(!answer.status.is_server_error(), "{}: {:#?}", shown, answer);
    prop_assert!(answer.headers.contains_key("x-request-id"), "{}", shown);
    if answer.status.is_client_error() && !is_head {
        let (kind, detail) = answer.refused(answer.status.as_u16());
        prop_assert!(kind.len() <= 32 && detail.chars().count() <= 700, "{}: {}", shown, detail);
    }
    Ok(())
}

#[test]
fn no_request_that_the_document_could_suggest_gets_a_5xx() {
    let cases = again::asked_number(CASES_VARIABLE).map_or(DEFAULT_CASES, |cases| cases.try_into().unwrap());
    let rng_seed = RngSeed::Fixed(again::asked_number(SEED_VARIABLE).unwrap_or_default());
    let operations = operations(&document());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let app = runtime.block_on(app().build());
    app.arc.write_telemetry(PARTITION, 3, 20);
    let config = Config { cases, rng_seed, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let hold = |wish| runtime.block_on(hold(&app, &wish, &operations));
    // It panics again and again until the request is as small as can be.
    let outcome = again::silently(|| runner.run(&wish(), hold));
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
