//! Starting, watching and cancelling.

use std::sync::{Arc as Shared, Barrier};

use axum::body::Body;
use object_store::Result;
use object_store::path::Path as Key;

use super::app::{Gate, app};
use crate::support::PARTITION;
use crate::support::stores::{Hook, Hooked};

const TRIGGER: &str = "/api/compaction/trigger";

/// T65.
/// T63: what has not happened yet is null.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_answers_while_the_cycle_runs_and_jobs_show_it() {
    let gate = Gate::closed();
    let app = app().gated(&gate).build().await;
    app.arc.write_telemetry(PARTITION, 3, 50);

    let answer = app.post(TRIGGER, "").await.expect(202);
    assert_eq!((&answer["message"], &answer["status"]), (&"Compaction triggered".into(), &"running".into()));
    gate.arrived().await;
    let jobs = app.get("/api/compaction/jobs").await.expect(200);
    let job = &jobs["jobs"][0];
    assert_eq!((&jobs["active_jobs"], &job["status"], &job["step"]), (&1.into(), &"running".into(), &"merge".into()));
    assert_eq!((&job["partition_path"], &job["files_planned"]), (&"cpu/2025/10/08/14".into(), &3.into()));
    assert!((0.0..1.0).contains(&job["progress"].as_f64().unwrap()), "{job}");
    // T63: what has not happened yet is null.
    for unknown in ["files_compacted", "bytes_after", "compression_ratio", "completed_at", "error"] {
        assert!(job.as_object().unwrap()[unknown].is_null(), "{unknown}: {job}");
    }
    let status = app.get("/api/compaction/status").await.expect(200);
    assert_eq!(status["manager"]["cycle_id"], answer["cycle_id"]);
    assert_eq!(status["manager"]["cycle_running"], true);
    let locks = app.get("/api/compaction/locks").await.expect(200);
    assert_eq!((&locks["active_locks"], &locks["locks"][0]["database"]), (&1.into(), &"db".into()));

    let again = app.post(TRIGGER, "").await;
    assert_eq!(again.refused(409).0, "cycle_running");
    assert_eq!(again.json()["cycle_id"], answer["cycle_id"]);

    gate.open();
    assert_eq!(app.cycle_ended().await.jobs_completed, 1);
    let past = app.get(&format!("/api/compaction/jobs/{}", job["job_id"].as_str().unwrap())).await.expect(200);
    assert_eq!((&past["status"], &past["files_compacted"]), (&"completed".into(), &3.into()));
    assert_eq!(app.get("/api/compaction/jobs").await.expect(200)["active_jobs"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_job_stops_and_leaves_its_files() {
    let gate = Gate::closed();
    let app = app().gated(&gate).build().await;
    app.arc.write_telemetry(PARTITION, 3, 50);
    app.post(TRIGGER, "").await.expect(202);
    gate.arrived().await;
    let jobs = app.get("/api/compaction/jobs").await.expect(200);
    let job = format!("/api/compaction/jobs/{}", jobs["jobs"][0]["job_id"].as_str().unwrap());

    assert_eq!(app.delete(&job).await.expect(202)["status"], "cancelling");
    app.cycle_ended().await;

    assert_eq!(app.get(&job).await.expect(200)["status"], "cancelled");
    assert_eq!(app.delete(&job).await.refused(409).0, "ended");
    assert_eq!(app.delete("/api/compaction/jobs/nothing").await.refused(404).0, "not_found");
    assert_eq!(app.arc.live(PARTITION).len(), 3);
    let stats = app.get("/api/compaction/stats").await.expect(200);
    assert_eq!((&stats["total_jobs_cancelled"], &stats["total_jobs_completed"]), (&1.into(), &0.into()));
}

/// Holds a job at the creation of its record.
#[derive(Debug)]
struct AtCommit(Shared<Barrier>);

impl Hook for AtCommit {
    fn before(&self, _: usize, _: &str, path: &Key) -> Result<()> {
        if path.as_ref().ends_with("_compaction/00000001.json") {
            tokio::task::block_in_place(|| {
                self.0.wait();
                self.0.wait();
            });
        }
        Ok(())
    }

    fn after(&self, _: usize, _: &str, _: &Key) -> Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_job_that_is_committing_is_not_cancelled_any_more() {
    let barrier = Shared::new(Barrier::new(2));
    let hook = Shared::new(AtCommit(Shared::clone(&barrier)));
    let app = app().storage(move |s| s.map_store(|inner| Hooked::over(inner, hook))).build().await;
    app.arc.write_telemetry(PARTITION, 3, 50);
    app.post(TRIGGER, "").await.expect(202);
    tokio::task::block_in_place(|| barrier.wait());
    let jobs = app.get("/api/compaction/jobs").await.expect(200);
    let job = format!("/api/compaction/jobs/{}", jobs["jobs"][0]["job_id"].as_str().unwrap());

    assert_eq!(app.delete(&job).await.refused(409).0, "committed");

    tokio::task::block_in_place(|| barrier.wait());
    assert_eq!(app.cycle_ended().await.jobs_completed, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_what_would_be_done_and_starts_nothing() {
    let app = app().build().await;
    app.arc.write_telemetry(PARTITION, 3, 50);
    app.arc.write_telemetry("db/mem/2025/10/08/14", 2, 50);
    let before = app.arc.storage_state();

    let all = app.post(TRIGGER, r#"{"dry_run": true}"#).await.expect(200);
    assert_eq!((&all["count"], &all["candidates"][0]["file_count"]), (&2.into(), &3.into()));
    for one in [
        r#"{"dry_run":true,"database":"db","measurement":"mem"}"#,
        r#"{"dry_run":true,"partition_path":"db/mem/2025/10/08/14"}"#,
        r#"{"dry_run":true,"database":"db","partition_path":"mem/2025/10/08/14"}"#,
    ] {
        assert_eq!(app.post(TRIGGER, one).await.expect(200)["candidates"][0]["measurement"], "mem", "{one}");
    }

    assert_eq!(app.arc.storage_state(), before);
    assert_eq!(app.get("/api/compaction/status").await.expect(200)["manager"]["cycle_running"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_or_not_understood_starts_nothing() {
    let app = app().build().await;
    app.arc.write_telemetry(PARTITION, 3, 50);
    for (body, status, word) in [
        (r#"{"database":"dbx"}"#, 404, "dbx"),
        (r#"{"measurement":"cpux"}"#, 404, "cpux"),
        (r#"{"database":"db","measurement":"cpux"}"#, 404, "cpux"),
        (r#"{"database":"db","partition_path":"cpu/2025/10/08/15"}"#, 404, "cpu/2025/10/08/15"),
        (r#"{"database":"db","partition_path":"cpu/2025/10/08"}"#, 422, "partition_path"),
        (r#"{"database":"db","partition_path":"../cpu/2025/10/08/14"}"#, 422, "partition_path"),
        (r#"{"database":"db","measurement":"mem","partition_path":"cpu/2025/10/08/14"}"#, 422, "partition_path"),
        (r#"{"database":".."}"#, 422, "database"),
        (r#"{"database":7}"#, 422, "database"),
        (r#"{"dry_run":"yes"}"#, 422, "dry_run"),
        (r#"{"databse":"db"}"#, 422, "databse"),
        ("[1]", 422, "body"),
        ("null", 422, "body"),
        ("{", 400, "JSON"),
        ("{}{}", 400, "JSON"),
    ] {
        let (_, detail) = app.post(TRIGGER, body).await.refused(status);
        assert!(detail.contains(word), "{body}: {detail}");
    }
    let wrong_type = app.send("POST", TRIGGER, Some("text/plain"), Body::from("{}")).await;
    assert!(wrong_type.refused(400).1.contains("application/json"));
    let long = format!(r#"{{"database":"{}"}}"#, "x".repeat(2 * 1024 * 1024));
    assert_eq!(app.post(TRIGGER, &long).await.refused(413).0, "too_large");
    assert_eq!(app.get("/api/compaction/status").await.expect(200)["manager"]["cycle_running"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_body_an_empty_one_and_an_empty_object_mean_everything() {
    let app = app().build().await;
    for (content_type, body) in [
        (None, ""),
        (None, "{}"),
        (Some("application/json"), ""),
        (Some("application/json; charset=utf-8"), "{}"),
        (Some("application/x-www-form-urlencoded"), ""),
    ] {
        let answer = app.send("POST", TRIGGER, content_type, Body::from(body)).await;
        answer.expect(202);
        app.cycle_ended().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disabled_compaction_is_not_triggered() {
    let app = app().with("enabled = false").build().await;
    let answer = app.post(TRIGGER, "").await;
    let (kind, detail) = answer.refused(503);
    assert_eq!(kind, "disabled");
    assert!(detail.contains("compaction.enabled"), "{detail}");
    assert!(answer.json()["request_id"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_starts_nothing_and_survives_a_restart() {
    let first = app().build().await;
    assert_eq!(first.post("/api/compaction/pause", "").await.expect(200)["paused"], true);
    assert_eq!(first.post(TRIGGER, "").await.refused(409).0, "paused");
    let arc = Shared::clone(&first.arc);
    drop(first);

    let second = super::app::over(arc).build().await;
    assert_eq!(second.get("/api/compaction/status").await.expect(200)["scheduler"]["paused"], true);
    assert_eq!(second.post("/api/compaction/resume", "").await.expect(200)["paused"], false);
    assert_eq!(second.get("/api/compaction/status").await.expect(200)["scheduler"]["paused"], false);
}
