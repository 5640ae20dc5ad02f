//! The example of embedding does what it says, and the library can be used without its server.

use std::sync::Arc as Shared;

use arc::clock::SystemClock;
use arc::compaction::events::{Event, EventSink};
use arc::compaction::history::HistoryFilter;
use arc::compaction::snapshot::live_files;
use arc::compaction::{CompactionManager, Components, HistoryQuery, JobStatus, Scope};
use arc::config::{Config, Input};
use arc::lock::CompactionLock;
use arc::merge::DuckDbEngine;
use arc::merge::resources::{detect, job_limits};
use arc::schedule::Schedule;
use arc::scheduler::CompactionScheduler;
use arc::state::StateDb;
use arc::storage::Storage;

use crate::support::{Arc, PARTITION};

#[allow(dead_code, reason = "its main function is for `cargo run`")]
#[path = "../../examples/embed.rs"]
mod example;

#[test]
fn an_application_with_arc_inside_compacts_through_the_api_and_stops_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = crate::support::block_on(example::run(folder.path())).unwrap();
    assert_eq!(outcome.hello, "hello");
    assert_eq!(outcome.history["total_jobs"], 1, "{outcome:#?}");
    assert_eq!(outcome.history["recent_jobs"][0]["status"], "completed", "{outcome:#?}");
    assert_eq!(outcome.history["recent_jobs"][0]["files_compacted"], 5, "{outcome:#?}");
    assert!(outcome.stopped.is_clean(), "{outcome:#?}");
}

/// The library without its server: the documented types, put together by hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_wires_manager_and_scheduler_by_itself_compacts_and_reads_the_history() {
    let folder = Arc::with("min_files = 2");
    folder.write_telemetry(PARTITION, 3, 50);
    let config = Config::load(&Input { file: Some(folder.config_file()), ..Input::default() }).unwrap();
    let (told, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let manager = Shared::new(CompactionManager::new(
        Components {
            storage: Storage::local(&config.storage.local.base_path).unwrap(),
            locks: Shared::new(CompactionLock::open(&config.state.db_path).unwrap()),
            state: StateDb::open(&config.state.db_path).unwrap(),
            engine: Shared::new(DuckDbEngine),
            clock: Shared::new(SystemClock),
            limits: job_limits(detect(), None, None, config.compaction.max_concurrent_jobs),
            events: EventSink::new(move |event| {
                if let Event::CycleFinished(report) = event {
                    told.send(report).unwrap();
                }
            }),
            seed: 1,
        },
        config.compaction,
    ));
    let scheduler = CompactionScheduler::new(Shared::clone(&manager), Schedule::parse("0 0 29 2 *").unwrap(), true);
    scheduler.start().await.unwrap();
    assert!(scheduler.next_run().is_some());
    scheduler.trigger_now(Scope::default()).await.unwrap();
    assert_eq!(ended.recv().await.unwrap().jobs_completed, 1);
    let history = manager.history(HistoryQuery::default()).await.unwrap();
    assert_eq!((history.len(), history[0].files_compacted), (1, 3));
    let failed = HistoryFilter { status: Some(JobStatus::Failed), ..HistoryFilter::default() };
    assert!(manager.history(HistoryQuery { filter: failed, limit: 10 }).await.unwrap().is_empty());
    let partition = PARTITION.parse().unwrap();
    assert_eq!(live_files(manager.storage(), &partition).await.unwrap().files.len(), 1);
    scheduler.stop(std::time::Duration::from_mins(1)).await;
}
