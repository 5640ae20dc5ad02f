//! Metrics against the truth: after real cycles, every documented name is there, and every value is what the report says.

use std::sync::{Arc as Shared, Mutex};

use arc::clock::SystemClock;
use arc::compaction::events::{Event, EventSink};
use arc::compaction::quarantine::Quarantine;
use arc::compaction::{Backlog, CompactionManager, Components, CycleReport, Scope};
use arc::config::{Config, Input};
use arc::lock::CompactionLock;
use arc::merge::resources::{detect, job_limits};
use arc::merge::{DuckDbEngine, MergeEngine, MergeError, MergeOutcome, MergeRequest, ProgressSink};
use arc::metrics::Metrics;
use arc::monitoring::{JobMetrics, SchedulerState, Scrape, Work};
use arc::state::StateDb;
use arc::storage::Storage;
use prometheus_parse::{Scrape as Parsed, Value};
use tokio_util::sync::CancellationToken;

use crate::support::{Arc, PARTITION, block_on};

const DOCUMENTED: [&str; 17] = [
    "arc_compaction_jobs_total",
    "arc_compaction_job_duration_seconds",
    "arc_compaction_step_duration_seconds",
    "arc_compaction_files_total",
    "arc_compaction_bytes_total",
    "arc_compaction_rows_total",
    "arc_compaction_active_jobs",
    "arc_compaction_backlog_partitions",
    "arc_compaction_backlog_bytes",
    "arc_compaction_oldest_candidate_age_seconds",
    "arc_compaction_last_success_timestamp_seconds",
    "arc_compaction_peak_memory_bytes",
    "arc_compaction_recoveries_total",
    "arc_compaction_quarantined_files",
    "arc_compaction_lease_lost_total",
    "arc_storage_requests_total",
    "arc_storage_bytes_total",
];

/// A manager whose events and storage are counted.
struct Counted {
    manager: CompactionManager,
    scrape: Scrape,
    backlog: Shared<Mutex<Option<Backlog>>>,
}

impl Counted {
    /// `also` sees every event after it was counted.
    fn new(arc: &Arc, also: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self::with(arc, Shared::new(DuckDbEngine), also)
    }

    fn with(arc: &Arc, engine: Shared<dyn MergeEngine>, also: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        let config = Config::load(&Input { file: Some(arc.config_file()), ..Input::default() }).unwrap();
        let metrics = Metrics::new();
        let clock = Shared::new(SystemClock);
        let state = StateDb::open(&config.state.db_path).unwrap();
        let counting = JobMetrics::new(metrics.clone());
        let components = Components {
            storage: Storage::local(&config.storage.local.base_path).unwrap().metered(metrics.clone()),
            locks: Shared::new(CompactionLock::new(state.clone(), clock.clone())),
            state: state.clone(),
            engine,
            clock: clock.clone(),
            limits: job_limits(detect(), None, None, config.compaction.max_concurrent_jobs),
            events: EventSink::new(move |event| {
                counting.notice(&event);
                also(&event);
            }),
            seed: 7,
        };
        let backlog: Shared<Mutex<Option<Backlog>>> = Shared::default();
        let seen = Shared::clone(&backlog);
        let work = Shared::new(move || Work {
            scheduler: SchedulerState::Running,
            cycle_running: false,
            active_jobs: 0,
            backlog: *seen.lock().unwrap(),
        });
        let scrape = Scrape::new(metrics, clock, Quarantine::new(state), work);
        Self { manager: CompactionManager::new(components, config.compaction), scrape, backlog }
    }

    async fn cycle(&self, cancel: CancellationToken) -> CycleReport {
        let report = self.manager.run_compaction_cycle(Scope::default(), cancel).await.unwrap();
        *self.backlog.lock().unwrap() = self.manager.backlog();
        report
    }

    async fn parsed(&self) -> Parsed {
        let text = self.scrape.render().await;
        Parsed::parse(text.lines().map(|line| Ok(line.to_owned()))).unwrap()
    }
}

/// The value of the series with these labels; 0 when there is none.
fn value(parsed: &Parsed, name: &str, labels: &[(&str, &str)]) -> f64 {
    let of_labels = |s: &&prometheus_parse::Sample| labels.iter().all(|(k, v)| s.labels.get(k) == Some(*v));
    match parsed.samples.iter().filter(|s| s.metric == name).find(of_labels).map(|s| &s.value) {
        None => 0.0,
        Some(Value::Counter(n) | Value::Gauge(n) | Value::Untyped(n)) => *n,
        Some(Value::Histogram(buckets)) => buckets.last().map_or(0.0, |all| all.count),
        Some(other) => panic!("{name}: {other:?}"),
    }
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn equal(parsed: &Parsed, name: &str, labels: &[(&str, &str)], expected: u64) {
    let found = value(parsed, name, labels);
    assert!((found - expected as f64).abs() < 0.5, "{name}{labels:?}: {found} instead of {expected}");
}

#[test]
fn every_documented_metric_is_there_after_a_cycle_and_equals_the_report() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 1000);
    arc.write_telemetry("other/mem/2025/10/08/14", 2, 500);
    let counted = Counted::new(&arc, |_| ());
    block_on(async {
        let report = counted.cycle(CancellationToken::new()).await;
        assert_eq!((report.jobs_completed, report.jobs_failed), (2, 0), "{report:#?}");
        let parsed = counted.parsed().await;
        for name in DOCUMENTED {
            // Something was left to recover, or it is not there to be counted.
            let known = parsed.samples.iter().any(|s| s.metric == name);
            assert!(known || name == "arc_compaction_recoveries_total", "{name} is missing");
            assert!(parsed.docs.contains_key(name) || !known, "{name} has no help text");
        }
        for database in ["db", "other"] {
            equal(&parsed, "arc_compaction_jobs_total", &[("status", "completed"), ("database", database)], 1);
        }
        equal(&parsed, "arc_compaction_files_total", &[("direction", "in")], report.files_compacted);
        equal(&parsed, "arc_compaction_files_total", &[("direction", "out")], report.files_written);
        equal(&parsed, "arc_compaction_bytes_total", &[("direction", "in")], report.bytes_before);
        equal(&parsed, "arc_compaction_bytes_total", &[("direction", "out")], report.bytes_after);
        equal(&parsed, "arc_compaction_rows_total", &[], report.rows);
        equal(&parsed, "arc_compaction_job_duration_seconds", &[], 2);
        for step in ["fetch", "merge", "publish", "read_back", "commit", "tidy"] {
            equal(&parsed, "arc_compaction_step_duration_seconds", &[("step", step)], 2);
        }
        let last = report.jobs.iter().map(|job| job.completed_at.timestamp()).max().unwrap();
        equal(&parsed, "arc_compaction_backlog_partitions", &[], 0);
        equal(&parsed, "arc_compaction_oldest_candidate_age_seconds", &[], 0);
        let success = value(&parsed, "arc_compaction_last_success_timestamp_seconds", &[]);
        #[allow(clippy::cast_precision_loss, reason = "seconds since 1970")]
        let late = success - last as f64;
        assert!((0.0..1.0).contains(&late), "{success} {last}");
        // On local disk the deletions of the inputs are requests, one each.
        equal(
            &parsed,
            "arc_storage_requests_total",
            &[("operation", "delete"), ("outcome", "ok")],
            report.files_compacted,
        );
        assert!(value(&parsed, "arc_storage_bytes_total", &[("direction", "read")]) > 0.0);
    });
}

/// Fails when it has begun.
#[derive(Debug)]
struct Failing;

#[async_trait::async_trait]
impl MergeEngine for Failing {
    async fn merge(&self, _: MergeRequest, _: ProgressSink, _: CancellationToken) -> Result<MergeOutcome, MergeError> {
        Err(MergeError::Worker("killed".to_owned()))
    }
}

/// T62.
#[test]
fn of_a_failed_job_only_its_status_is_counted_and_its_partition_stays_in_the_backlog() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 1000);
    let counted = Counted::with(&arc, Shared::new(Failing), |_| ());
    block_on(async {
        let report = counted.cycle(CancellationToken::new()).await;
        assert_eq!((report.jobs_completed, report.jobs_failed), (0, 1), "{report:#?}");
        let parsed = counted.parsed().await;
        equal(&parsed, "arc_compaction_jobs_total", &[("status", "failed"), ("database", "db")], 1);
        equal(&parsed, "arc_compaction_backlog_partitions", &[], 1);
        assert!(value(&parsed, "arc_compaction_oldest_candidate_age_seconds", &[]) > 0.0);
        assert_nothing_but_the_status(&parsed);
    });
}

/// Sums and times are those of completed jobs.
fn assert_nothing_but_the_status(parsed: &Parsed) {
    for name in ["arc_compaction_files_total", "arc_compaction_bytes_total", "arc_compaction_rows_total"] {
        assert!(parsed.samples.iter().filter(|s| s.metric == name).all(|s| s.value == Value::Counter(0.0)), "{name}");
    }
    for name in [
        "arc_compaction_job_duration_seconds",
        "arc_compaction_step_duration_seconds",
        "arc_compaction_last_success_timestamp_seconds",
    ] {
        assert!(!parsed.samples.iter().any(|s| s.metric == name), "{name}");
    }
}

/// T62.
#[test]
fn of_a_cancelled_job_only_its_status_is_counted() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 1000);
    let cancel = CancellationToken::new();
    let trigger = cancel.clone();
    let counted = Counted::new(&arc, move |event| {
        if matches!(event, Event::JobStep { .. }) {
            trigger.cancel();
        }
    });
    block_on(async {
        let report = counted.cycle(cancel).await;
        assert_eq!(report.jobs_completed, 0, "{report:#?}");
        let parsed = counted.parsed().await;
        equal(&parsed, "arc_compaction_jobs_total", &[("status", "cancelled"), ("database", "db")], 1);
        assert_nothing_but_the_status(&parsed);
    });
}
