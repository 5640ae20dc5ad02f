use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::TimeDelta;
use tempfile::TempDir;

use super::*;
use crate::clock::ManualClock;
use crate::compaction::Backlog;
use crate::metrics::Metrics;
use crate::monitoring::SchedulerState;

struct Service {
    dir: TempDir,
    clock: Arc<ManualClock>,
    work: Arc<std::sync::Mutex<Work>>,
    looks: Arc<AtomicUsize>,
    metrics: Metrics,
    readiness: Readiness,
}

fn now() -> DateTime<Utc> {
    "2025-10-08T16:10:00Z".parse().unwrap()
}

fn backlog(oldest_ready_at: Option<DateTime<Utc>>, seen_at: DateTime<Utc>) -> Backlog {
    Backlog { partitions: 1, bytes: 1, oldest_ready_at, seen_at }
}

impl Service {
    fn start() -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::create_dir_all(dir.path().join("data/db")).unwrap();
        let clock = Arc::new(ManualClock::at(now()));
        let work = Arc::new(std::sync::Mutex::new(Work {
            scheduler: SchedulerState::Running,
            cycle_running: false,
            active_jobs: 0,
            backlog: Some(backlog(None, now())),
        }));
        let looks = Arc::new(AtomicUsize::new(0));
        let metrics = Metrics::new();
        let (seen, counted) = (Arc::clone(&work), Arc::clone(&looks));
        let readiness = Readiness::new(ReadinessParts {
            storage: Storage::local(&dir.path().join("data")).unwrap().metered(metrics.clone()),
            state: StateDb::open(&dir.path().join("arc.db")).unwrap(),
            clock: clock.clone(),
            schedules: vec![Schedule::parse("5 * * * *").unwrap()],
            timezone: Tz::UTC,
            work: Arc::new(move || {
                counted.fetch_add(1, Ordering::SeqCst);
                *seen.lock().unwrap()
            }),
        });
        Self { dir, clock, work, looks, metrics, readiness }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        Path::new(self.dir.path()).join(name)
    }

    fn change(&self, change: impl FnOnce(&mut Work)) {
        change(&mut self.work.lock().unwrap());
    }

    /// The checks that are red, with what they say.
    async fn red(&self) -> Vec<(&'static str, String)> {
        let verdict = self.readiness.check().await;
        let red: Vec<_> = verdict.checks.into_iter().filter(|(_, c)| !c.ok).map(|(n, c)| (n, c.detail)).collect();
        assert_eq!(verdict.status == "ready", red.is_empty());
        red
    }
}

#[tokio::test]
async fn a_service_in_order_is_ready_and_says_what_was_checked() {
    let service = Service::start();
    let verdict = service.readiness.check().await;
    assert!(verdict.is_ready(), "{verdict:?}");
    assert_eq!(verdict.checks.keys().copied().collect::<Vec<_>>(), ["backlog", "scheduler", "state", "storage"]);
}

#[tokio::test]
async fn storage_that_went_away_is_named() {
    let service = Service::start();
    std::fs::rename(service.path("data"), service.path("gone")).unwrap();
    let [("storage", detail)] = &service.red().await[..] else { panic!("storage only") };
    assert!(detail.contains(&service.path("data").display().to_string()), "{detail}");
}

#[tokio::test]
async fn a_state_database_that_was_removed_is_named_although_it_still_answers() {
    let service = Service::start();
    std::fs::remove_file(service.path("arc.db")).unwrap();
    let [("state", detail)] = &service.red().await[..] else { panic!("state only") };
    assert!(detail.contains("removed or replaced"), "{detail}");
}

#[tokio::test]
async fn a_state_database_that_somebody_keeps_locked_is_named() {
    let service = Service::start();
    let other = rusqlite::Connection::open(service.path("arc.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let [("state", detail)] = &service.red().await[..] else { panic!("state only") };
    assert!(detail.contains("did not answer"), "{detail}");
}

/// Beginning a change is not enough: with a full disk that still works, and no job can take a lease.
#[tokio::test]
async fn a_state_database_that_takes_no_change_is_named() {
    let service = Service::start();
    let other = rusqlite::Connection::open(service.path("arc.db")).unwrap();
    let refusal = "BEGIN SELECT RAISE(ABORT, 'no room'); END";
    other.execute_batch(&format!("CREATE TRIGGER refuse BEFORE INSERT ON service_switches {refusal}")).unwrap();
    let [("state", detail)] = &service.red().await[..] else { panic!("state only") };
    assert!(detail.contains("no room"), "{detail}");
}

#[tokio::test]
async fn a_dead_scheduler_is_named() {
    let service = Service::start();
    service.change(|work| work.scheduler = SchedulerState::Dead);
    let [("scheduler", detail)] = &service.red().await[..] else { panic!("scheduler only") };
    assert!(detail.contains("started again"), "{detail}");
}

/// T37.
#[tokio::test]
async fn a_candidate_far_behind_schedule_is_named() {
    let service = Service::start();
    service.change(|work| work.backlog = Some(backlog(Some(now()), now() + TimeDelta::hours(4))));
    assert_eq!(service.red().await, []);
    service.clock.advance(TimeDelta::hours(4));
    let [("backlog", detail)] = &service.red().await[..] else { panic!("backlog only") };
    assert!(detail.contains("far behind schedule: 1 partition waits"), "{detail}");
}

#[tokio::test]
async fn many_questions_at_once_ask_storage_once() {
    let service = Service::start();
    let questions = (0..100).map(|_| service.readiness.check());
    let verdicts = futures::future::join_all(questions).await;
    assert!(verdicts.iter().all(Verdict::is_ready));
    assert_eq!(service.looks.load(Ordering::SeqCst), 100);
    let text = service.metrics.render();
    assert!(text.contains("arc_storage_requests_total{operation=\"list\",outcome=\"ok\"} 1\n"), "{text}");
}
