//! The document and the router say the same, and answers look as the document says.

use std::collections::BTreeSet;

use arc::api::{openapi, served};
use serde_json::{Map, Value};

use super::app::{App, Gate, app};
use crate::support::PARTITION;

/// The document as clients get it.
pub fn document() -> Value {
    serde_json::to_value(openapi::document()).unwrap()
}

const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

/// Every operation: method, path, what the document says.
pub fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in METHODS {
            if let Some(operation) = item.get(method) {
                found.push((method.to_uppercase(), path.clone(), operation.clone()));
            }
        }
    }
    found
}

#[test]
fn every_route_is_documented_and_every_documented_route_is_served() {
    let documented: BTreeSet<(String, String)> =
        operations(&document()).into_iter().map(|(method, path, _)| (method, path)).collect();
    let served: BTreeSet<(String, String)> =
        served().into_iter().map(|(method, path)| (method.to_string(), path.to_owned())).collect();
    assert_eq!(documented, served);
}

#[test]
fn the_document_is_openapi_3_1_and_names_how_to_authenticate() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["components"]["securitySchemes"]["api_key"]["name"], "x-api-key");
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    for (method, path, operation) in operations(&document) {
        for status in ["400", "401", "403", "429", "503"] {
            assert!(!operation["responses"][status]["content"].is_null(), "{method} {path}: {status}");
        }
        for name in path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}')) {
            let parameters = operation["parameters"].as_array().unwrap();
            assert!(parameters.iter().any(|p| p["name"] == name && p["in"] == "path"), "{method} {path}: {name}");
        }
    }
}

/// What is wrong with a value, by a schema of the document. Knows the keywords that the document uses, and is stricter
/// than JSON Schema in one respect: a field that the schema does not name is an error.
pub fn faults(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let wrong = |what: String| vec![format!("{at}: {what}: {value}")];
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.strip_prefix("#/components/schemas/").unwrap();
        return faults(document, &document["components"]["schemas"][name], value, at);
    }
    if let Some(all) = schema["allOf"].as_array() {
        // Only flattened structures are made like this: the fields of all parts count.
        let mut properties = Map::new();
        let mut required = Vec::new();
        for part in all {
            let part = match part["$ref"].as_str() {
                Some(name) => &document["components"]["schemas"][name.rsplit('/').next().unwrap()],
                None => part,
            };
            properties.extend(part["properties"].as_object().cloned().unwrap_or_default());
            required.extend(part["required"].as_array().cloned().unwrap_or_default());
        }
        let merged = serde_json::json!({ "type": "object", "properties": properties, "required": required });
        return faults(document, &merged, value, at);
    }
    if let Some(one) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        let fits = one.iter().any(|schema| faults(document, schema, value, at).is_empty());
        return if fits { Vec::new() } else { wrong("fits none of the alternatives".to_owned()) };
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => return Vec::new(),
    };
    let fits = types.iter().any(|kind| match *kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{at}: unknown type {other}"),
    });
    if !fits {
        return wrong(format!("is not {types:?}"));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        return wrong(format!("is none of {allowed:?}"));
    }
    if let (Some("date-time"), Some(text)) = (schema["format"].as_str(), value.as_str()) {
        let whole = chrono::DateTime::parse_from_rfc3339(text).is_ok() && text.ends_with('Z');
        return if whole { Vec::new() } else { wrong("is no UTC time".to_owned()) };
    }
    if let Some(items) = value.as_array() {
        let each = items.iter().enumerate();
        return each.flat_map(|(i, item)| faults(document, &schema["items"], item, &format!("{at}[{i}]"))).collect();
    }
    let Some(fields) = value.as_object() else { return Vec::new() };
    let mut found = Vec::new();
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            found.push(format!("{at}: {name} is missing"));
        }
    }
    let known = schema["properties"].as_object();
    for (name, value) in fields {
        let at = format!("{at}.{name}");
        match (known.and_then(|known| known.get(name)), schema.get("additionalProperties")) {
            (Some(schema), _) => found.extend(faults(document, schema, value, &at)),
            (None, Some(schema)) if schema.is_object() => found.extend(faults(document, schema, value, &at)),
            // A free-form object.
            (None, _) if known.is_none() => {}
            (None, _) => found.push(format!("{at} is not documented")),
        }
    }
    found
}

/// Asks, and holds the answer against the document.
async fn check(app: &App, document: &Value, method: &str, route: &str, uri: &str, body: &str, status: u16) -> Value {
    let answer = if method == "POST" {
        app.post(uri, body).await
    } else if method == "DELETE" {
        app.delete(uri).await
    } else {
        app.get(uri).await
    };
    let value = answer.expect(status);
    let response = &document["paths"][route][method.to_lowercase()]["responses"][status.to_string()];
    assert!(response.is_object(), "{method} {route}: {status} is not documented");
    let schema = &response["content"]["application/json"]["schema"];
    assert!(schema.is_object(), "{method} {route}: {status} has no schema");
    assert_eq!(faults(document, schema, &value, route), Vec::<String>::new(), "{answer:#?}");
    value
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_answer_of_every_route_fits_its_schema() {
    let document = &document();
    let gate = Gate::closed();
    let app = &app().gated(&gate).build().await;
    app.arc.write_telemetry(PARTITION, 3, 50);
    app.arc.write_telemetry("other/mem/2025/10/08/14", 1, 50);
    app.arc.put(PARTITION, "cpu_bad.parquet", b"PAR1 this is no Parquet file PAR1");
    let c = "/api/compaction";
    let get = async |path: &str, status: u16| check(app, document, "GET", path, path, "", status).await;
    let query = async |path: &str, query: &str, status: u16| {
        check(app, document, "GET", path, &format!("{path}?{query}"), "", status).await
    };
    let post = async |path: &str, body: &str, status: u16| check(app, document, "POST", path, path, body, status).await;
    let trigger = format!("{c}/trigger");

    query(&format!("{c}/candidates"), "explain=true&limit=1", 200).await;
    query(&format!("{c}/candidates"), "database=nothing", 404).await;
    post(&trigger, r#"{"dry_run":true}"#, 200).await;
    post(&trigger, r#"{"databases":1}"#, 422).await;
    post(&trigger, "{", 400).await;
    post(&trigger, "", 202).await;
    gate.arrived().await;
    post(&trigger, "", 409).await;
    get(&format!("{c}/status"), 200).await;
    get(&format!("{c}/stats"), 200).await;
    get(&format!("{c}/locks"), 200).await;
    let jobs = get(&format!("{c}/jobs"), 200).await;
    let id = jobs["jobs"][0]["job_id"].as_str().unwrap().to_owned();
    let (one, route) = (format!("{c}/jobs/{id}"), format!("{c}/jobs/{{id}}"));
    check(app, document, "GET", &route, &one, "", 200).await;
    gate.open();
    app.cycle_ended().await;
    check(app, document, "GET", &route, &one, "", 200).await;
    check(app, document, "DELETE", &route, &one, "", 409).await;
    check(app, document, "GET", &route, &format!("{c}/jobs/x"), "", 404).await;
    check(app, document, "DELETE", &route, &format!("{c}/jobs/x"), "", 404).await;
    get(&format!("{c}/status"), 200).await;
    get(&format!("{c}/stats"), 200).await;
    query(&format!("{c}/history"), "limit=5&status=completed&database=db", 200).await;
    query(&format!("{c}/history"), "limit=0", 400).await;

    let quarantine = get(&format!("{c}/quarantine"), 200).await;
    let id = quarantine["files"][0]["id"].as_u64().unwrap();
    let (one, route) = (format!("{c}/quarantine/{id}"), format!("{c}/quarantine/{{id}}"));
    check(app, document, "GET", &route, &one, "", 200).await;
    check(app, document, "DELETE", &route, &one, "", 200).await;
    check(app, document, "DELETE", &route, &one, "", 404).await;
    check(app, document, "GET", &route, &format!("{c}/quarantine/x"), "", 400).await;
    let all = format!("{c}/quarantine");
    check(app, document, "DELETE", &all, &all, "", 200).await;

    post(&format!("{c}/pause"), "", 200).await;
    post(&trigger, "", 409).await;
    post(&format!("{c}/resume"), "", 200).await;
    let route = "/api/partitions/{db}/{measurement}/{y}/{m}/{d}/{h}/files";
    check(app, document, "GET", route, &format!("/api/partitions/{PARTITION}/files"), "", 200).await;
    check(app, document, "GET", route, "/api/partitions/db/cpu/2024/01/01/00/files", "", 404).await;
    check(app, document, "GET", route, "/api/partitions/db/cpu/2024/01/01/24/files", "", 400).await;
    get("/api/connections/storage", 200).await;
    get("/health", 200).await;
    get("/ready", 200).await;
    get("/openapi.json", 200).await;
    assert!(app.get("/metrics").await.text.contains("arc_compaction_active_jobs"));
    assert!(app.get("/").await.text.contains("<html"));
}
