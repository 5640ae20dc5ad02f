//! What a job and an idle cycle ask of a bucket: every request costs money and time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc as Shared, Mutex};
use std::time::Duration;

use arc::clock::{Clock, ManualClock, SystemClock};
use arc::compaction::events::{Event, EventSink, Step};
use arc::compaction::settings::{Isolation, LockBackend};
use arc::compaction::{CompactionManager, CompactionSettings, Components, CycleReport, Reach, Scope};
use arc::config::{Config, Input};
use arc::lock::{Acquired, CompactionLock, LockManager, StorageLocks};
use arc::merge::resources::{detect, job_limits};
use arc::merge::{DuckDbEngine, MergeEngine, MergeError, MergeOutcome, MergeRequest, ProgressSink};
use arc::partition::Hour;
use arc::state::StateDb;
use arc::storage::Storage;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::recording::{Log, Recording, Request, by_operation, by_phase};
use crate::support::{Arc, PARTITION, telemetry};

/// A bucket in memory, and a manager that works on it.
struct Bucket {
    arc: Arc,
    store: Shared<InMemory>,
    log: Shared<Log>,
    lock_backend: LockBackend,
    /// The steps of jobs, and when they began.
    began: Shared<Mutex<Vec<(Step, Instant)>>>,
}

impl Bucket {
    /// With these lines in the `[compaction]` section. Files count as quiet at once.
    fn with(settings: &str) -> Self {
        let arc = Arc::with(&format!("settle_seconds = 0\n{settings}"));
        Self {
            arc,
            store: Shared::new(InMemory::new()),
            log: Log::new(),
            lock_backend: LockBackend::Sqlite,
            began: Shared::default(),
        }
    }

    fn manager_at(&self, now: DateTime<Utc>) -> CompactionManager {
        self.manager_over(now, Shared::new(DuckDbEngine))
    }

    fn manager_over(&self, now: DateTime<Utc>, engine: Shared<dyn MergeEngine>) -> CompactionManager {
        let config = Config::load(&Input { file: Some(self.arc.config_file()), ..Input::default() }).unwrap();
        let state = StateDb::open(&config.state.db_path).unwrap();
        let clock = Shared::new(ManualClock::at(now));
        let settings = CompactionSettings {
            isolation: Isolation::InProcess,
            lock_backend: self.lock_backend,
            ..config.compaction
        };
        let store: Shared<dyn ObjectStore> = self.store.clone();
        let (log, began) = (Shared::clone(&self.log), Shared::clone(&self.began));
        let (storage, _) = Storage::over(Recording::over(store, &self.log), "memory://bucket").tallied();
        // As the composition root does it.
        let locks: Shared<dyn LockManager> = match settings.lock_backend {
            LockBackend::Sqlite => Shared::new(CompactionLock::new(state.clone(), clock.clone())),
            LockBackend::Storage => Shared::new(StorageLocks::new(&storage, clock.clone())),
        };
        let components = Components {
            storage,
            locks,
            state,
            engine,
            clock,
            limits: job_limits(detect(), None, None, settings.max_concurrent_jobs),
            events: EventSink::new(move |event| match event {
                Event::CycleStarted { .. } => log.enter("scan"),
                Event::CandidatesFound { .. } => log.enter("plan"),
                Event::JobStep { step, .. } => {
                    began.lock().unwrap().push((step, Instant::now()));
                    log.enter(step.as_str());
                }
                _ => {}
            }),
            seed: 7,
        };
        CompactionManager::new(components, settings)
    }

    async fn cycle(&self) -> CycleReport {
        self.cycle_of(Reach::Everything).await
    }

    async fn cycle_of(&self, reach: Reach) -> CycleReport {
        self.run(self.manager_at(now()), reach).await
    }

    /// A cycle by the schedule, at this time.
    async fn cycle_at(&self, now: DateTime<Utc>) -> CycleReport {
        self.run(self.manager_at(now), Reach::RecentUnlessDue).await
    }

    async fn run(&self, manager: CompactionManager, reach: Reach) -> CycleReport {
        let scope = Scope { reach, ..Scope::default() };
        let report = manager.run_compaction_cycle(scope, CancellationToken::new()).await.unwrap();
        assert!(!report.needs_attention(), "{report:#?}");
        report
    }

    /// Puts a file of telemetry there under each of these names; gives its length.
    async fn put(&self, partition: &str, names: impl IntoIterator<Item = String>) -> u32 {
        let template = self.arc.write("templates/x/2000/01/01/00", "template.parquet", &telemetry(0, 20));
        let bytes = bytes::Bytes::from(std::fs::read(template).unwrap());
        for name in names {
            let key = Key::parse(format!("{partition}/{name}")).unwrap();
            self.store.put(&key, bytes.clone().into()).await.unwrap();
        }
        u32::try_from(bytes.len()).unwrap()
    }
}

fn raw(numbers: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    numbers.map(|n| format!("cpu_{n:06}.parquet"))
}

/// An engine that merges nothing.
#[derive(Debug)]
struct Refuses;

#[async_trait]
impl MergeEngine for Refuses {
    async fn merge(&self, _: MergeRequest, _: ProgressSink, _: CancellationToken) -> Result<MergeOutcome, MergeError> {
        Err(MergeError::Worker("a test".into()))
    }
}

/// Without the check at start that a store has conditional writes: once for each process.
fn of_work(requests: Vec<Request>) -> Vec<Request> {
    requests.into_iter().filter(|r| !r.path.starts_with("_compaction_staging/")).collect()
}

/// What the budget allows for a job of 720 files, the check at start aside. An output read back whole is a small GET here.
fn assert_within_budget(requests: &[Request], files: usize) {
    let counts = by_operation(requests);
    let of = |operations: &[&str]| operations.iter().filter_map(|o| counts.get(o)).sum::<usize>();
    let inputs = requests.iter().filter(|r| r.operation == "get" && r.phase == "fetch").count();
    assert!(inputs <= files, "{counts:?}");
    assert!(of(&["get", "get_part", "head"]) - inputs <= 6, "{counts:?}");
    assert!(of(&["list"]) <= 8, "{counts:?}");
    assert!(of(&["put", "create_multipart", "complete_multipart", "copy"]) <= 8, "{counts:?}");
    assert!(of(&["delete"]) <= 1, "{counts:?}");
}

#[tokio::test]
async fn compacting_720_files_stays_within_its_budget_of_requests() {
    let bucket = Bucket::with("");
    bucket.put(PARTITION, raw(0..720)).await;

    let report = bucket.cycle().await;

    assert_eq!((report.jobs_completed, report.files_compacted), (1, 720));
    let all = bucket.log.take();
    let requests = of_work(all.clone());
    assert_within_budget(&requests, 720);
    let phases = [
        "scan: 1 get_part, 3 list",
        "plan: 1 get_part, 1 list",
        "fetch: 720 get",
        "publish: 1 list, 1 put",
        "read_back: 1 get, 1 list",
        "commit: 1 put",
        "tidy: 1 delete, 1 get, 1 list",
    ];
    assert_eq!(by_phase(&requests), phases);
    // The report says the same as the store saw.
    let reported: u64 = report.storage.requests.values().sum();
    assert_eq!(reported, all.len() as u64, "{:?}", report.storage);
    assert_eq!(report.storage.requests["list"], 7);
    assert!(report.storage.bytes_read > report.bytes_before, "{report:#?}");
    assert!(report.storage.bytes_written > report.bytes_after, "{report:#?}");
}

/// A lease costs two reads and two writes, which are in the report like all others; the numbers allowed are the same.
#[tokio::test]
async fn leases_in_the_bucket_are_in_the_report_and_within_the_same_budget() {
    let bucket = Bucket { lock_backend: LockBackend::Storage, ..Bucket::with("") };
    bucket.put(PARTITION, raw(0..720)).await;

    let report = bucket.cycle().await;

    assert_eq!((report.jobs_completed, report.files_compacted), (1, 720));
    let all = bucket.log.take();
    let leases: Vec<_> = all.iter().filter(|r| r.path.starts_with("_compaction_locks/")).cloned().collect();
    assert_eq!(by_operation(&leases).into_iter().collect::<Vec<_>>(), [("get", 2), ("put", 2)]);
    assert_within_budget(&of_work(all.clone()), 720);
    assert_eq!(report.storage.total_requests(), all.len() as u64, "{:?}", report.storage);
}

#[tokio::test]
async fn compacting_720_late_files_beside_compacted_ones_stays_within_the_same_budget() {
    let bucket = Bucket::with("");
    bucket.put(PARTITION, raw(0..10)).await;
    bucket.cycle().await;
    bucket.log.take();
    bucket.put(PARTITION, raw(10..730)).await;

    let report = bucket.cycle().await;

    assert_eq!((report.jobs_completed, report.files_compacted), (1, 721));
    let requests = of_work(bucket.log.take());
    assert_within_budget(&requests, 721);
}

/// I6, in money.
#[tokio::test]
async fn a_cycle_after_a_finished_cycle_only_lists() {
    let bucket = Bucket::with("");
    bucket.put(PARTITION, raw(0..20)).await;
    bucket.cycle().await;
    bucket.log.take();

    bucket.cycle().await;

    assert_eq!(by_phase(&bucket.log.take()), ["scan: 3 list"]);
}

/// A moment after everything that was written until now: the clock of cycles counts in milliseconds.
fn now() -> DateTime<Utc> {
    SystemClock.now() + TimeDelta::seconds(1)
}

/// An hour, counted back from now.
fn hour_ago(hours: i64) -> Hour {
    Hour::containing(now() - TimeDelta::hours(hours))
}

/// 100,000 objects, 1,000 of them in the recent hours: a page of a bucket holds 1,000.
#[tokio::test]
async fn an_idle_cycle_over_a_large_bucket_lists_only_recent_hours() {
    let bucket = Bucket::with("min_files = 1000");
    for hour in 0..1000 {
        let partition = format!("db/cpu/{}", hour_ago(100 + hour));
        for name in raw(0..99) {
            bucket.store.put(&Key::parse(format!("{partition}/{name}")).unwrap(), "x".into()).await.unwrap();
        }
    }
    for hour in 2..12 {
        let partition = format!("db/cpu/{}", hour_ago(hour));
        for name in raw(0..100) {
            bucket.store.put(&Key::parse(format!("{partition}/{name}")).unwrap(), "x".into()).await.unwrap();
        }
    }
    let first = bucket.cycle_of(Reach::RecentUnlessDue).await;
    assert_eq!((first.partitions_scanned, first.jobs_completed), (1010, 0), "nothing is known yet: a sweep");
    assert_eq!(by_operation(&bucket.log.take())["list"], 2 + 100);

    let idle = bucket.cycle_of(Reach::RecentUnlessDue).await;

    assert_eq!(idle.partitions_scanned, 10);
    // Databases, measurements, and the one page with what is in the window.
    assert_eq!(by_phase(&bucket.log.take()), ["scan: 3 list"]);
    assert_eq!(bucket.cycle_of(Reach::Everything).await.partitions_scanned, 1010, "by hand");
}

/// Late data in an old hour waits for the next sweep, and not longer.
#[tokio::test]
async fn late_data_outside_the_window_is_found_by_the_next_sweep() {
    let bucket = Bucket::with("min_files = 2");
    bucket.put(PARTITION, raw(0..3)).await;
    let now = now();
    assert_eq!(bucket.cycle_at(now).await.jobs_completed, 1, "the first cycle is a sweep");
    bucket.put(PARTITION, raw(3..6)).await;
    assert_eq!(bucket.cycle_at(now + TimeDelta::hours(23)).await.partitions_scanned, 0);
    assert_eq!(bucket.cycle_at(now + TimeDelta::hours(24)).await.jobs_completed, 1);
    assert_eq!(bucket.cycle_at(now + TimeDelta::hours(25)).await.partitions_scanned, 0);
}

/// What a sweep finds and does not finish is not left to the next one: it is looked for again at once.
#[tokio::test]
async fn what_a_sweep_could_not_finish_is_found_by_the_next_cycle() {
    let bucket = Bucket::with("min_files = 2");
    bucket.put(PARTITION, raw(0..3)).await;
    let now = now();
    let manager = bucket.manager_at(now);
    let lease = manager.locks().acquire_lock(&PARTITION.parse().unwrap(), Duration::from_mins(10)).await.unwrap();
    let Acquired::Yes(lease) = lease else { panic!("{lease:?}") };
    let locked = bucket.cycle_at(now).await;
    assert_eq!((locked.jobs_completed, locked.jobs_skipped), (0, 1), "{locked:#?}");
    manager.locks().release_lock(&lease).await.unwrap();

    assert_eq!(bucket.cycle_at(now).await.jobs_completed, 1);
}

/// A partition with a known failure is looked at in every cycle, wherever it is.
#[tokio::test]
async fn a_failed_job_outside_the_window_is_tried_again_when_its_wait_is_over() {
    let bucket = Bucket::with("min_files = 2");
    bucket.put(PARTITION, raw(0..3)).await;
    let now = now();
    // The first failure is followed by another try in the next cycle, the second one by a wait.
    for second in 0..2 {
        let failing = bucket.manager_over(now + TimeDelta::seconds(second), Shared::new(Refuses));
        let scope = Scope { reach: Reach::RecentUnlessDue, ..Scope::default() };
        let failed = failing.run_compaction_cycle(scope, CancellationToken::new()).await.unwrap();
        assert_eq!(failed.jobs_failed, 1, "{failed:#?}");
    }
    // Looked at as a whole once more, and left alone: it waits. From now on only the window is looked at.
    for second in 2..4 {
        let waits = bucket.cycle_at(now + TimeDelta::seconds(second)).await;
        assert_eq!((waits.jobs_completed, waits.partitions_scanned), (0, 1), "{waits:#?}");
        assert_eq!(waits.skipped.len(), 1, "{waits:#?}");
    }
    assert_eq!(bucket.cycle_at(now + TimeDelta::hours(3)).await.jobs_completed, 1);
}

/// With 20 ms to the store and back, 720 files are fetched in at most three times what the line needs for their bytes: here
/// half a millisecond for each, as for files of 50 KB at 100 MB/s. One after the other they would take 15 seconds.
#[tokio::test(start_paused = true)]
async fn files_of_a_distant_store_are_fetched_at_the_speed_of_the_line() {
    let mut bucket = Bucket::with("");
    let bytes = bucket.put(PARTITION, raw(0..720)).await;
    let per_file = Duration::from_micros(500);
    bucket.log = Log::of_distant_store(Duration::from_millis(20), per_file / bytes);

    assert_eq!(bucket.cycle().await.jobs_completed, 1);

    let began = bucket.began.lock().unwrap().clone();
    let of = |step| began.iter().find(|(s, _)| *s == step).unwrap().1;
    let (took, line) = (of(Step::Merge) - of(Step::Fetch), per_file * 720);
    assert!(took <= 3 * line, "{took:?} against {line:?}");
    assert!(took >= line * 9 / 10, "the line is shared: {took:?} against {line:?}");
}

/// DuckDB, which begins no merge before the inputs of both partitions have been fetched.
struct Patient {
    log: Shared<Log>,
    partitions: [String; 2],
    files: usize,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl std::fmt::Debug for Patient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Patient")
    }
}

#[async_trait]
impl MergeEngine for Patient {
    async fn merge(
        &self,
        request: MergeRequest,
        progress: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<MergeOutcome, MergeError> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        while self.partitions.iter().any(|partition| self.log.count("get", partition) < self.files) {
            tokio::task::yield_now().await;
        }
        let outcome = DuckDbEngine.merge(request, progress, cancel).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        outcome
    }
}

/// While one job merges, the inputs of the next one are fetched; merges stay as many as were configured.
#[tokio::test]
async fn inputs_of_the_next_job_are_fetched_while_one_merges() {
    let bucket = Bucket::with("max_concurrent_jobs = 1");
    let partitions = ["db/cpu/2025/10/08/14", "db/cpu/2025/10/08/15"].map(str::to_owned);
    for partition in &partitions {
        bucket.put(partition, raw(0..20)).await;
    }
    let engine = Shared::new(Patient {
        log: Shared::clone(&bucket.log),
        partitions,
        files: 20,
        now: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
    });

    let report = bucket.run(bucket.manager_over(now(), engine.clone()), Reach::Everything).await;

    assert_eq!(report.jobs_completed, 2);
    assert_eq!(engine.most.load(Ordering::SeqCst), 1);
}
