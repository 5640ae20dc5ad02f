//! The published shapes: field names and types, drawn. A field may be added here; none may be renamed or removed.

use serde_json::Value;

use super::app::app;
use crate::support::PARTITION;

/// A value with types in the place of contents.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(n) if n.is_f64() => "float".into(),
        Value::Number(_) => "integer".into(),
        Value::String(text) if chrono::DateTime::parse_from_rfc3339(text).is_ok() => "time".into(),
        Value::String(_) => "text".into(),
        Value::Array(items) => items.first().map(shape).into_iter().collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), shape(value))).collect())
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_stats_history_and_candidates_have_the_published_shapes() {
    let app = app().build().await;
    app.arc.write_telemetry(PARTITION, 3, 50);
    app.cycle().await;
    app.arc.write_telemetry("db/cpu/2025/10/08/15", 3, 50);
    app.arc.write_telemetry("db/cpu/2025/10/08/16", 1, 50);
    for (name, uri) in [
        ("status", "/api/compaction/status"),
        ("stats", "/api/compaction/stats"),
        ("history", "/api/compaction/history"),
        ("candidates", "/api/compaction/candidates?explain=true"),
    ] {
        let drawn = serde_json::to_string_pretty(&shape(&app.get(uri).await.expect(200))).unwrap();
        insta::assert_snapshot!(name, drawn);
    }
}
