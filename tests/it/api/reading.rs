//! Looking: candidates and their pages, live files, quarantine, storage, the service itself.

use std::fs;

use object_store::path::Path as Key;
use serde_json::Value;

use super::app::app;
use crate::support::PARTITION;
use crate::support::stores::{Hook, Hooked};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_candidates_show_every_place_once() {
    let app = app().build().await;
    for hour in 0..5 {
        app.arc.write_telemetry(&format!("db/cpu/2025/10/08/{hour:02}"), 2 - hour % 2, 10);
    }
    let all = app.get("/api/compaction/candidates").await.expect(200);
    assert_eq!((&all["count"], all["candidates"].as_array().unwrap().len()), (&3.into(), 3));
    assert!(all.get("skipped").is_none() && all["next_cursor"].is_null(), "{all}");

    let mut seen = Vec::new();
    let mut uri = "/api/compaction/candidates?explain=true&limit=2".to_owned();
    loop {
        let page = app.get(&uri).await.expect(200);
        assert_eq!(page["count"], 3);
        let places = |list: &Value, prefix: &str| -> Vec<String> {
            let list = list.as_array().unwrap().iter();
            list.map(|place| format!("{prefix}{}", place["partition_path"].as_str().unwrap())).collect()
        };
        let page_places = [places(&page["candidates"], "db/"), places(&page["skipped"], "")].concat();
        assert!(page_places.len() <= 2, "{page}");
        seen.extend(page_places);
        match page["next_cursor"].as_str() {
            Some(cursor) => uri = format!("/api/compaction/candidates?explain=true&limit=2&cursor={cursor}"),
            None => break,
        }
    }
    seen.sort();
    assert_eq!(seen, (0..5).map(|h| format!("db/cpu/2025/10/08/{h:02}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_live_files_of_a_partition_follow_its_compaction() {
    let app = app().build().await;
    app.arc.write_telemetry(PARTITION, 3, 50);
    let uri = format!("/api/partitions/{PARTITION}/files");
    let before = app.get(&uri).await.expect(200);
    assert_eq!((&before["generation"], before["files"].as_array().unwrap().len()), (&0.into(), 3));
    app.cycle().await;
    let after = app.get(&uri).await.expect(200);
    assert_eq!((&after["generation"], after["files"].as_array().unwrap().len()), (&1.into(), 1));
    assert_eq!(after["files"][0]["name"], app.arc.live(PARTITION)[0]);

    for (path, status) in [
        ("db/cpu/2025/10/08/15", 404),
        ("nothing/cpu/2025/10/08/14", 404),
        ("db/cpu/2025/10/08/24", 400),
        ("db/cpu/2025/2/8/14", 400),
        ("db/cpu/+025/10/08/14", 400),
        ("../cpu/2025/10/08/14", 400),
        ("%2e%2e/cpu/2025/10/08/14", 400),
        ("db%2Fcpu/x/2025/10/08/14", 400),
        ("db%00/cpu/2025/10/08/14", 400),
        ("db%ff/cpu/2025/10/08/14", 400),
        ("_compaction/cpu/2025/10/08/14", 400),
        ("/cpu/2025/10/08/14", 400),
        ("db//2025/10/08/14", 400),
    ] {
        app.get(&format!("/api/partitions/{path}/files")).await.refused(status);
    }
    let long = app.get(&format!("/api/partitions/{}/cpu/2025/10/08/14/files", "x".repeat(5000))).await;
    assert!(long.refused(400).1.len() < 1000);
    let too_long_for_a_folder = app.get(&format!("/api/partitions/{}/cpu/2025/10/08/14/files", "x".repeat(300))).await;
    too_long_for_a_folder.refused(400);
}

/// A partition that fails closed is no secret and no empty answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_contradicts_itself_is_not_answered() {
    let app = app().build().await;
    app.arc.write_telemetry(PARTITION, 3, 50);
    app.cycle().await;
    fs::remove_file(&app.arc.live_paths(PARTITION)[0]).unwrap();
    let answer = app.get(&format!("/api/partitions/{PARTITION}/files")).await;
    assert_eq!(answer.refused(503).0, "unreadable");
    assert_eq!(answer.json()["request_id"], answer.headers["x-request-id"].to_str().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quarantined_files_are_listed_and_cleared() {
    let app = app().build().await;
    app.arc.write_telemetry(PARTITION, 3, 50);
    app.arc.put(PARTITION, "cpu_bad.parquet", b"PAR1 this is no Parquet file PAR1");
    app.cycle().await;
    let listed = app.get("/api/compaction/quarantine").await.expect(200);
    assert_eq!((&listed["count"], &listed["files"][0]["name"]), (&1.into(), &"cpu_bad.parquet".into()));
    assert_eq!(app.get("/api/compaction/quarantine?database=other").await.expect(200)["count"], 0);
    let history = app.get("/api/compaction/history").await.expect(200);
    assert_eq!(history["recent_jobs"][0]["inputs_quarantined"][0]["name"], "cpu_bad.parquet");
    let one = format!("/api/compaction/quarantine/{}", listed["files"][0]["id"]);
    assert_eq!(app.get(&one).await.expect(200), listed["files"][0]);
    assert_eq!(app.delete("/api/compaction/quarantine?database=other").await.expect(200)["cleared"], 0);
    assert_eq!(app.delete(&one).await.expect(200)["cleared"], 1);
    app.get(&one).await.refused(404);
    app.delete(&one).await.refused(404);
    for bad in ["x", "-1", "+1", "1.0", "18446744073709551616", "9223372036854775808"] {
        app.delete(&format!("/api/compaction/quarantine/{bad}")).await.refused(400);
    }
}

/// A store whose lists fail with a message that nobody outside may see.
#[derive(Debug)]
struct Unreachable;

impl Hook for Unreachable {
    fn before(&self, _: usize, _: &str, _: &Key) -> object_store::Result<()> {
        Ok(())
    }

    fn listing(&self, _: Option<&Key>) -> object_store::Result<()> {
        Err(object_store::Error::Generic { store: "test", source: "https://host/?sig=SECRET".into() })
    }

    fn after(&self, _: usize, _: &str, _: &Key) -> object_store::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_is_shown_with_what_it_can_do() {
    let app = app().build().await;
    let storage = app.get("/api/connections/storage").await.expect(200);
    assert_eq!((&storage["backend"], &storage["reachable"]), (&"local".into(), &true.into()));
    assert_eq!((&storage["conditional_put"], &storage["error"]), (&true.into(), &Value::Null));
    assert!(storage["latency_ms"].as_f64().unwrap() >= 0.0);
    fs::remove_dir_all(app.arc.data()).unwrap();
    let gone = app.get("/api/connections/storage").await.expect(200);
    assert_eq!((&gone["reachable"], &gone["latency_ms"]), (&false.into(), &Value::Null));
    assert!(gone["error"].as_str().unwrap().len() > 10, "{gone}");
    let candidates = app.get("/api/compaction/candidates").await;
    assert_eq!(candidates.refused(503).0, "unavailable", "storage that is gone is not empty (T24)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_store_says_about_a_failure_stays_here() {
    let app =
        app().storage(|s| s.map_store(|inner| Hooked::over(inner, std::sync::Arc::new(Unreachable)))).build().await;
    app.arc.write_telemetry(PARTITION, 3, 50);
    let files = format!("/api/partitions/{PARTITION}/files");
    for uri in ["/api/connections/storage", "/api/compaction/candidates", &files, "/ready", "/metrics"] {
        let answer = app.get(uri).await;
        assert!(!answer.text.contains("SECRET"), "{uri}: {answer:#?}");
    }
    app.get(&format!("/api/partitions/{PARTITION}/files")).await.refused(503);
}

/// A store that takes no record, and says so in words that nobody outside may see.
#[derive(Debug)]
struct NoRecords;

impl Hook for NoRecords {
    fn before(&self, _: usize, _: &str, path: &Key) -> object_store::Result<()> {
        if path.as_ref().ends_with("00000001.json") {
            return Err(object_store::Error::Generic { store: "test", source: "https://host/?sig=SECRET".into() });
        }
        Ok(())
    }

    fn after(&self, _: usize, _: &str, _: &Key) -> object_store::Result<()> {
        Ok(())
    }
}

/// Reports and attempts are kept for years, copied and shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_error_of_a_job_is_kept_and_shown_without_the_words_of_the_store() {
    let app = app().storage(|s| s.map_store(|inner| Hooked::over(inner, std::sync::Arc::new(NoRecords)))).build().await;
    app.arc.write_telemetry(PARTITION, 3, 50);
    let report = app.cycle().await;
    assert_eq!(report.jobs_failed, 1, "{report:#?}");
    let history = app.get("/api/compaction/history").await;
    let job = &history.expect(200)["recent_jobs"][0];
    assert_eq!(job["status"], "failed");
    let error = job["error"].as_str().unwrap();
    assert!(
        error.contains("unknown whether the record was created") && error.contains("the log has its words"),
        "{error}"
    );
    let one = format!("/api/compaction/jobs/{}", job["job_id"].as_str().unwrap());
    for uri in ["/api/compaction/history", &one, "/api/compaction/stats", "/api/compaction/candidates?explain=true"] {
        let answer = app.get(uri).await;
        assert!(!answer.text.contains("SECRET"), "{uri}: {answer:#?}");
    }
    for file in fs::read_dir(app.arc.dir()).unwrap().map(|entry| entry.unwrap().path()) {
        if file.is_file() {
            let bytes = fs::read(&file).unwrap();
            assert!(!bytes.windows(6).any(|window| window == b"SECRET"), "{}", file.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_says_that_it_lives_and_is_ready() {
    let app = app().build().await;
    assert_eq!(app.get("/health?probe=7").await.expect(200)["status"], "ok");
    let ready = app.get("/ready").await.expect(200);
    assert_eq!((&ready["status"], &ready["checks"]["storage"]["ok"]), (&"ready".into(), &true.into()));
    let metrics = app.get("/metrics").await;
    assert!(metrics.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    assert_eq!(app.get("/openapi.json").await.expect(200)["openapi"], "3.1.0");
    assert!(app.get("/").await.headers["content-type"].to_str().unwrap().starts_with("text/html"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_route_is_refused_with_a_hint() {
    let app = app().build().await;
    assert!(app.get("/api/nothing").await.refused(404).1.contains("openapi.json"));
    let wrong = app.get("/api/compaction/trigger").await;
    assert_eq!(wrong.refused(405).0, "method_not_allowed");
    assert_eq!(wrong.headers["allow"], "POST");
    assert!(wrong.headers.contains_key("x-request-id"));
    for (uri, word) in [
        ("/api/compaction/status?x=1", "x"),
        ("/api/compaction/history?limt=1", "limt"),
        ("/api/compaction/history?limit=1&limit=2", "limit"),
        ("/api/compaction/history?limit=-1", "limit"),
        ("/api/compaction/history?limit=1001", "1000"),
        ("/api/compaction/history?limit=99999999999999999999999", "limit"),
        ("/api/compaction/history?limit=", "limit"),
        ("/api/compaction/history?status=done", "status"),
        ("/api/compaction/history?database=..", "database"),
        ("/api/compaction/history?database=%ff", "UTF-8"),
        ("/api/compaction/history?database=a%00b", "NUL"),
        ("/api/compaction/candidates?explain=maybe", "explain"),
        ("/api/compaction/candidates?cursor=a/b", "cursor"),
        ("/api/compaction/candidates?database=a%2Fb", "database"),
    ] {
        let (_, detail) = app.get(uri).await.refused(400);
        assert!(detail.contains(word), "{uri}: {detail}");
    }
}
