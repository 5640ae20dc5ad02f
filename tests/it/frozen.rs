//! A worker that did not run for longer than its lease (it was stopped, its machine suspended) and then goes on: it finds the
//! lease ended by its own clock, before anybody else has begun, and changes nothing more. Wherever the leases are. And one that runs
//! for longer, and keeps it.

use std::fmt;
use std::sync::Arc as Shared;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use arc::clock::{Clock, ManualClock, SystemClock};
use arc::compaction::events::EventSink;
use arc::compaction::report::JobStatus;
use arc::compaction::settings::{Isolation, LockBackend};
use arc::compaction::{CompactionManager, CompactionSettings, Components, Scope};
use arc::config::{Config, Input};
use arc::lock::{Acquired, CompactionLock, LockManager, StorageLocks};
use arc::merge::resources::{detect, job_limits};
use arc::merge::{DuckDbEngine, MergeEngine, MergeError, MergeOutcome, MergeRequest, ProgressSink};
use arc::state::StateDb;
use arc::storage::Storage;
use async_trait::async_trait;
use chrono::TimeDelta;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio_util::sync::CancellationToken;

use crate::support::stores::{Hook, Hooked};
use crate::support::time::TokioClock;
use crate::support::{Arc, PARTITION, telemetry};

/// When the worker stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// The outputs are merged, and nothing of them is in storage.
    Merged,
    /// The outputs are in storage.
    Published,
    /// The record is.
    Committed,
    /// The partition is about to be listed, to see what an earlier attempt has left.
    Settles,
    /// The footer of an earlier attempt's output is about to be read, to see what it was made from.
    Voids,
    Never,
}

/// A clock that a worker sleeps by, once.
struct Sleep {
    clock: Shared<ManualClock>,
    when: When,
    done: AtomicBool,
    /// Listings of the partition.
    looks: AtomicUsize,
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sleep({:?})", self.when)
    }
}

impl Sleep {
    /// Three hours, when it is time; a lease has two.
    fn at(&self, now: When) {
        if self.when == now && !self.done.swap(true, Ordering::SeqCst) {
            self.clock.advance(TimeDelta::hours(3));
        }
    }
}

impl Hook for Sleep {
    fn before(&self, _: usize, _: &str, _: &Key) -> object_store::Result<()> {
        Ok(())
    }

    fn listing(&self, prefix: Option<&Key>) -> object_store::Result<()> {
        // The first look is the scan's, without a lease.
        let of_it = prefix.is_some_and(|prefix| prefix.as_ref() == PARTITION);
        if of_it && self.looks.fetch_add(1, Ordering::SeqCst) == 1 {
            self.at(When::Settles);
        }
        Ok(())
    }

    fn reading(&self, path: &Key) -> object_store::Result<()> {
        if path.as_ref().ends_with("_compacted.parquet") {
            self.at(When::Voids);
        }
        Ok(())
    }

    fn after(&self, _: usize, effect: &str, path: &Key) -> object_store::Result<()> {
        if effect == "put" && path.as_ref().contains("/_compaction/") {
            self.at(When::Committed);
        } else if effect == "put" && path.as_ref().ends_with("_compacted.parquet") {
            self.at(When::Published);
        }
        Ok(())
    }
}

/// DuckDB, and then a sleep.
#[derive(Debug)]
struct Engine(Shared<Sleep>);

#[async_trait]
impl MergeEngine for Engine {
    async fn merge(
        &self,
        request: MergeRequest,
        progress: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<MergeOutcome, MergeError> {
        let outcome = DuckDbEngine.merge(request, progress, cancel).await;
        self.0.at(When::Merged);
        outcome
    }
}

struct Bucket {
    arc: Arc,
    store: Shared<InMemory>,
    clock: Shared<ManualClock>,
    backend: LockBackend,
    /// How often the worker was started: no two of its attempts may have one name.
    started: AtomicU64,
}

impl Bucket {
    async fn with_work(backend: LockBackend) -> Self {
        let arc = Arc::with("min_files = 2\nsettle_seconds = 0\nrecord_retention_hours = 1");
        let bytes = std::fs::read(arc.write("templates/x/2000/01/01/00", "x.parquet", &telemetry(0, 20))).unwrap();
        let store = Shared::new(InMemory::new());
        for name in ["a", "b", "c"] {
            let key = Key::parse(format!("{PARTITION}/{name}.parquet")).unwrap();
            store.put(&key, bytes.clone().into()).await.unwrap();
        }
        let clock = Shared::new(ManualClock::at(SystemClock.now() + TimeDelta::seconds(1)));
        Self { arc, store, clock, backend, started: AtomicU64::default() }
    }

    /// The worker, also when it is started again.
    fn worker(&self, when: When) -> CompactionManager {
        let (clock, done, looks) = (self.clock.clone(), AtomicBool::new(false), AtomicUsize::new(0));
        let sleep = Shared::new(Sleep { clock, when, done, looks });
        let store: Shared<dyn ObjectStore> = self.store.clone();
        self.worker_over(Hooked::over(store, sleep.clone()), Shared::new(Engine(sleep)))
    }

    fn worker_over(&self, store: Shared<dyn ObjectStore>, engine: Shared<dyn MergeEngine>) -> CompactionManager {
        let config = Config::load(&Input { file: Some(self.arc.config_file()), ..Input::default() }).unwrap();
        let state = StateDb::open(&config.state.db_path).unwrap();
        let settings =
            CompactionSettings { isolation: Isolation::InProcess, lock_backend: self.backend, ..config.compaction };
        let clock = self.clock.clone();
        let storage = Storage::over(store, "memory://bucket");
        let locks: Shared<dyn LockManager> = match self.backend {
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
            events: EventSink::ignore(),
            seed: self.started.fetch_add(1, Ordering::SeqCst),
        };
        CompactionManager::new(components, settings)
    }

    /// Names in the partition: of the raw files, of ours, of records.
    async fn names(&self) -> [Vec<String>; 3] {
        let partition = Key::parse(PARTITION).unwrap();
        let found: Vec<_> = self.store.list(Some(&partition)).try_collect().await.unwrap();
        let mut names = [vec![], vec![], vec![]];
        for meta in found {
            let name = meta.location.as_ref()[PARTITION.len() + 1..].to_owned();
            let at = if name.starts_with("_compaction/") { 2 } else { usize::from(name.contains("_compacted")) };
            names[at].push(name);
        }
        names
    }
}

/// I5, T22.
#[tokio::test]
async fn a_worker_that_thaws_after_its_lease_has_ended_changes_nothing_more() {
    for backend in [LockBackend::Sqlite, LockBackend::Storage] {
        for (when, ours, records) in [(When::Merged, 0, 0), (When::Published, 1, 0), (When::Committed, 1, 1)] {
            let what = format!("{backend:?}, {when:?}");
            let bucket = Bucket::with_work(backend).await;

            let manager = bucket.worker(when);
            let report = manager.run_compaction_cycle(Scope::default(), CancellationToken::new()).await.unwrap();

            let names = bucket.names().await;
            assert_eq!(names.each_ref().map(Vec::len), [3, ours, records], "{what}: {names:?}");
            let job = &report.jobs[0];
            if when == When::Committed {
                assert_eq!(job.status, JobStatus::Completed, "{what}: {job:#?}");
            } else {
                assert_eq!(job.status, JobStatus::Cancelled, "{what}: {job:#?}");
                assert!(job.error.as_ref().unwrap().contains("the lease was lost"), "{what}: {job:#?}");
            }
            assert!(!report.needs_attention(), "{what}: {report:#?}");
            drop(manager);

            let again = bucket.worker(When::Never);
            let report = again.run_compaction_cycle(Scope::default(), CancellationToken::new()).await.unwrap();
            assert!(!report.needs_attention(), "{what}: {report:#?}");
            let [raw, ours, records] = bucket.names().await;
            assert_eq!((raw.len(), ours.len()), (0, 1), "{what}: {ours:?}, {records:?}");
        }
    }
}

/// T26: what an earlier attempt has left is for whoever holds the lease now.
#[tokio::test]
async fn a_worker_that_thaws_while_it_clears_up_changes_nothing_more() {
    for (left_by, when) in [(When::Committed, When::Settles), (When::Published, When::Voids)] {
        for backend in [LockBackend::Sqlite, LockBackend::Storage] {
            let what = format!("{backend:?}, {when:?}");
            let bucket = Bucket::with_work(backend).await;
            let cycle = async |when| {
                let manager = bucket.worker(when);
                manager.run_compaction_cycle(Scope::default(), CancellationToken::new()).await.unwrap()
            };
            cycle(left_by).await;
            let before = bucket.names().await;

            let report = cycle(when).await;

            assert_eq!(bucket.names().await, before, "{what}: {report:#?}");
            assert_eq!((report.jobs_completed, report.jobs_failed), (0, 0), "{what}: {report:#?}");
            cycle(When::Never).await;
            let [raw, ours, _] = bucket.names().await;
            assert_eq!((raw.len(), ours.len()), (0, 1), "{what}: {ours:?}");
        }
    }
}

/// When the record is about to be created, the lease ends, and others do everything that they may.
struct Others {
    clock: Shared<ManualClock>,
    work: Box<dyn Fn() + Send + Sync>,
    done: AtomicBool,
}

impl fmt::Debug for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Others").field("done", &self.done).finish_non_exhaustive()
    }
}

impl Hook for Others {
    fn before(&self, _: usize, effect: &str, path: &Key) -> object_store::Result<()> {
        let creates = effect == "put" && path.as_ref().contains("/_compaction/");
        if creates && !self.done.swap(true, Ordering::SeqCst) {
            self.clock.advance(TimeDelta::hours(3));
            thread::scope(|scope| scope.spawn(|| (self.work)()).join().unwrap());
        }
        Ok(())
    }

    fn after(&self, _: usize, _: &str, _: &Key) -> object_store::Result<()> {
        Ok(())
    }
}

/// T23, T67: a create that comes so late that the record in its way is gone already makes one that decides nothing. The job
/// must not say that it has happened.
#[test]
fn a_record_that_is_created_below_the_head_is_no_success() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bucket = Shared::new(runtime().block_on(Bucket::with_work(LockBackend::Storage)));
    let others = {
        let bucket = Shared::clone(&bucket);
        move || {
            runtime().block_on(async {
                let store: Shared<dyn ObjectStore> = bucket.store.clone();
                for _ in 0..2 {
                    let manager = bucket.worker_over(store.clone(), Shared::new(DuckDbEngine));
                    manager.run_compaction_cycle(Scope::default(), CancellationToken::new()).await.unwrap();
                }
                // The attempt is closed, its rows are merged by others, and the record of that was deleted.
                let [raw, ours, records] = bucket.names().await;
                assert_eq!((raw.len(), ours.len()), (0, 1));
                assert_eq!(records, ["_compaction/00000002.json"]);
            });
        }
    };
    let hook = Others { clock: bucket.clock.clone(), work: Box::new(others), done: AtomicBool::new(false) };
    let store: Shared<dyn ObjectStore> = bucket.store.clone();
    let manager = bucket.worker_over(Hooked::over(store, Shared::new(hook)), Shared::new(DuckDbEngine));

    let report = runtime().block_on(manager.run_compaction_cycle(Scope::default(), CancellationToken::new())).unwrap();

    let job = &report.jobs[0];
    assert_eq!(job.status, JobStatus::Failed, "{job:#?}");
    assert!(job.error.as_ref().unwrap().contains("it is unknown whether the record was created"), "{job:#?}");
    let [raw, ours, _] = runtime().block_on(bucket.names());
    assert_eq!((raw.len(), ours.len()), (0, 1), "what counts is untouched");
}

/// DuckDB, after three times as long as a lease lasts, when somebody else asks for the partition.
#[derive(Debug)]
struct Slow {
    other: CompactionLock,
    refused: Shared<AtomicBool>,
}

/// Of the worker that is slow.
const TTL: Duration = Duration::from_mins(1);

#[async_trait]
impl MergeEngine for Slow {
    async fn merge(
        &self,
        request: MergeRequest,
        progress: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<MergeOutcome, MergeError> {
        tokio::time::sleep(3 * TTL).await;
        let asked = self.other.acquire_lock(&PARTITION.parse().unwrap(), TTL).await.unwrap();
        self.refused.store(matches!(asked, Acquired::HeldBy(_)), Ordering::SeqCst);
        DuckDbEngine.merge(request, progress, cancel).await
    }
}

/// T21.
#[tokio::test(start_paused = true)]
async fn a_job_that_takes_longer_than_a_lease_renews_it_and_nobody_else_gets_the_partition() {
    let bucket = Bucket::with_work(LockBackend::Sqlite).await;
    let config = Config::load(&Input { file: Some(bucket.arc.config_file()), ..Input::default() }).unwrap();
    let settings = CompactionSettings { isolation: Isolation::InProcess, lock_ttl: TTL, ..config.compaction };
    let tomorrow = SystemClock.now() + TimeDelta::days(1);
    let clock = Shared::new(TokioClock::at(&tomorrow.format("%Y-%m-%d %H:%M:%S").to_string()));
    let state = StateDb::in_memory().unwrap();
    let refused = Shared::new(AtomicBool::new(false));
    let slow = Slow { other: CompactionLock::new(state.clone(), clock.clone()), refused: refused.clone() };
    let components = Components {
        storage: Storage::over(bucket.store.clone(), "memory://bucket"),
        locks: Shared::new(CompactionLock::new(state.clone(), clock.clone())),
        state,
        engine: Shared::new(slow),
        clock,
        limits: job_limits(detect(), None, None, settings.max_concurrent_jobs),
        events: EventSink::ignore(),
        seed: 1,
    };
    let manager = CompactionManager::new(components, settings);

    let report = manager.run_compaction_cycle(Scope::default(), CancellationToken::new()).await.unwrap();

    assert_eq!((report.jobs_completed, report.jobs_failed, report.jobs_skipped), (1, 0, 0), "{report:#?}");
    assert!(refused.load(Ordering::SeqCst), "another worker got the partition while it was at work");
    let [raw, ours, _] = bucket.names().await;
    assert_eq!((raw.len(), ours.len()), (0, 1), "{ours:?}");
}
