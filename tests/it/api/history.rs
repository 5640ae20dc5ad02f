//! The past: newest first, filtered, counted for ever, also after a restart.

use std::sync::Arc as Shared;

use super::app::{app, over};
use crate::support::PARTITION;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_and_totals_are_per_database_and_survive_a_restart() {
    let first = app().build().await;
    first.arc.write_telemetry(PARTITION, 3, 50);
    first.arc.write_telemetry("other/mem/2025/10/08/14", 2, 50);
    assert_eq!(first.cycle().await.jobs_completed, 2);
    let arc = Shared::clone(&first.arc);
    let before = first.get("/api/compaction/stats").await.expect(200);
    drop(first);

    let app = over(arc).build().await;
    let stats = app.get("/api/compaction/stats").await.expect(200);
    assert_eq!(stats, before);
    assert_eq!((&stats["total_jobs_completed"], &stats["total_files_compacted"]), (&2.into(), &5.into()));
    assert_eq!(stats["databases"]["db"]["total_files_compacted"], 3);
    assert_eq!(stats["databases"]["other"]["total_files_compacted"], 2);
    let all = app.get("/api/compaction/history").await.expect(200);
    assert_eq!((&all["total_jobs"], all["recent_jobs"].as_array().unwrap().len()), (&2.into(), 2));
    let one = app.get("/api/compaction/history?database=other&status=completed").await.expect(200);
    assert_eq!((&one["total_jobs"], &one["recent_jobs"][0]["measurement"]), (&1.into(), &"mem".into()));
    let newest = app.get("/api/compaction/history?limit=1").await.expect(200);
    assert_eq!((&newest["total_jobs"], &newest["recent_jobs"][0]), (&2.into(), &all["recent_jobs"][0]));
    let none = app.get("/api/compaction/history?status=failed").await.expect(200);
    assert_eq!((&none["total_jobs"], &none["recent_jobs"]), (&0.into(), &serde_json::json!([])));
}
