//! I7: any number of workers, one winner, no error, no loss. And what else may happen to a partition during a job.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc as Shared;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use arc::clock::SystemClock;
use arc::compaction::events::EventSink;
use arc::compaction::settings::Isolation;
use arc::compaction::verify::{Checked, Depth};
use arc::compaction::{CompactionManager, Components, CycleReport, Scope};
use arc::config::{Config, Input};
use arc::lock::CompactionLock;
use arc::merge::resources::{detect, job_limits};
use arc::merge::{DuckDbEngine, MergeEngine, MergeError, MergeOutcome, MergeRequest, ProgressSink};
use arc::state::StateDb;
use arc::storage::Storage;
use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use tokio_util::sync::CancellationToken;

use crate::support::stores::{Hook, Hooked};
use crate::support::{Arc, PARTITION, Run, again, block_on};

/// T27: two programs at the same time on the same data.
#[test]
fn two_programs_at_once_compact_every_partition_once_without_error_or_loss() {
    let arc = Arc::new();
    let partitions: Vec<String> = (0..8).map(|h| format!("db/cpu/2025/10/08/{h:02}")).collect();
    for partition in &partitions {
        arc.write_telemetry(partition, 5, 200);
    }
    let before: Vec<_> = partitions.iter().map(|p| arc.rows(p)).collect();
    let runs: Vec<Run> = thread::scope(|scope| {
        let runs: Vec<_> = (0..2).map(|_| scope.spawn(|| arc.compact())).collect();
        runs.into_iter().map(|r| r.join().unwrap()).collect()
    });
    let mut completed = 0;
    for run in &runs {
        assert_eq!(run.code, 0, "{run:#?}");
        completed += run.json()["jobs_completed"].as_u64().unwrap();
    }
    // A partition may be skipped as locked by both only if neither took it, so together they did all of them.
    assert_eq!(completed, 8, "{runs:#?}");
    for (partition, before) in partitions.iter().zip(&before) {
        assert_eq!(&arc.rows(partition), before, "{partition}");
        assert_eq!(arc.live(partition).len(), 1, "{partition}");
        arc.assert_nothing_left_over(partition);
    }
}

/// I7 without any lock: the two workers have lock databases of their own, so only the record decides.
/// T21, T68: leases that both workers have protect nothing; creating the record decides.
#[test]
fn two_programs_that_do_not_share_locks_still_compact_every_partition_once() {
    let arc = Arc::new();
    let partitions: Vec<String> = (0..6).map(|h| format!("db/cpu/2025/10/08/{h:02}")).collect();
    for partition in &partitions {
        arc.write_telemetry(partition, 5, 200);
    }
    let before: Vec<_> = partitions.iter().map(|p| arc.rows(p)).collect();
    let runs = again::together((0..2).map(|worker| {
        let arc = &arc;
        move || {
            let mut command = arc.command(&["compact", "--json"]);
            command.env("DB_PATH", arc.dir().join(format!("locks_{worker}.db")));
            command.env("COMPACTION_TEMP_DIR", arc.dir().join(format!("temp_{worker}")));
            Run::of(&mut command)
        }
    }));
    let mut completed = 0;
    for run in &runs {
        assert_eq!(run.code, 0, "to lose a race is no failure: {run:#?}");
        completed += run.json()["jobs_completed"].as_u64().unwrap();
    }
    assert_eq!(completed, 6, "each was compacted by one of the two: {runs:#?}");
    // Whoever lost a race said so; one more run clears away what the loser left, and finds no other work.
    let after = arc.compact_well();
    assert_eq!(after["jobs_completed"], 0, "{after:#}");
    for (partition, before) in partitions.iter().zip(&before) {
        assert_eq!(&arc.rows(partition), before, "{partition}");
        assert_eq!(arc.live(partition).len(), 1, "{partition}");
        arc.assert_nothing_left_over(partition);
    }
}

/// T2: names do not rest on the time alone: here are eight attempts at the same work in about one second, on four machines that
/// know nothing of each other.
#[test]
fn attempts_at_the_same_work_at_the_same_time_have_different_names() {
    let hours = ["db/cpu/2025/10/08/14", "db/cpu/2025/10/08/15"];
    let machines: Vec<Arc> = (0..4).map(|_| Arc::new()).collect();
    for (arc, hour) in machines.iter().flat_map(|arc| hours.map(|hour| (arc, hour))) {
        arc.write_telemetry(hour, 2, 10);
    }
    let reports = again::together(machines.iter().map(|arc| || arc.compact_well()));
    let jobs: BTreeSet<String> = reports
        .iter()
        .flat_map(|report| report["jobs"].as_array().unwrap())
        .map(|job| job["job_id"].as_str().unwrap().to_owned())
        .collect();
    // What is left of a name without the hour and the generation, which are the same.
    let unique = |name: &String| name.rsplit('_').nth(1).unwrap().to_owned();
    let live = machines.iter().flat_map(|arc| hours.map(|hour| arc.live(hour)));
    let outputs: BTreeSet<String> = live.flatten().map(|name| unique(&name)).collect();
    assert_eq!((jobs.len(), outputs.len()), (8, 8), "{jobs:#?} {outputs:#?}");
    assert!(outputs.iter().all(|unique| jobs.iter().any(|job| job.ends_with(unique))), "{jobs:#?} {outputs:#?}");
}

/// A worker in this process with a lock database of its own.
fn worker(arc: &Arc, worker: &str, storage: Storage, engine: Shared<dyn MergeEngine>) -> CompactionManager {
    let config = Config::load(&Input { file: Some(arc.config_file()), ..Input::default() }).unwrap();
    let settings = arc::compaction::CompactionSettings {
        isolation: Isolation::InProcess,
        temp_dir: arc.dir().join(format!("temp_{worker}")),
        ..config.compaction
    };
    let clock = Shared::new(SystemClock);
    let state = StateDb::open(&arc.dir().join(format!("state_{worker}.db"))).unwrap();
    let components = Components {
        storage,
        locks: Shared::new(CompactionLock::new(state.clone(), clock.clone())),
        state,
        engine,
        clock,
        limits: job_limits(detect(), None, None, settings.max_concurrent_jobs),
        events: EventSink::ignore(),
        seed: worker.bytes().map(u64::from).sum(),
    };
    CompactionManager::new(components, settings)
}

/// Runs one cycle of it.
fn cycle(arc: &Arc, name: &str, storage: Storage, engine: Shared<dyn MergeEngine>) -> CycleReport {
    let manager = worker(arc, name, storage, engine);
    block_on(manager.run_compaction_cycle(Scope::default(), CancellationToken::new())).unwrap()
}

/// Lets another worker run a whole cycle, once, from inside of somebody's storage call.
struct Rival {
    config: PathBuf,
    run: Box<dyn Fn() + Send + Sync>,
    done: AtomicBool,
}

impl fmt::Debug for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rival").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Rival {
    fn once(&self) {
        if !self.done.swap(true, Ordering::SeqCst) {
            thread::scope(|scope| scope.spawn(|| (self.run)()).join().unwrap());
        }
    }

    fn compacts(arc: &Shared<Arc>) -> Self {
        let (config, arc) = (arc.config_file(), Shared::clone(arc));
        let run = move || {
            let report = cycle(&arc, "rival", arc.storage(), Shared::new(DuckDbEngine));
            assert_eq!(report.jobs_completed, 1, "{report:#?}");
        };
        Self { config, run: Box::new(run), done: AtomicBool::new(false) }
    }
}

/// The rival commits right before the first record is created.
#[derive(Debug)]
struct BeforeCommit(Rival);

impl Hook for BeforeCommit {
    fn before(&self, _: usize, _: &str, path: &Key) -> Result<()> {
        if path.as_ref().ends_with("_compaction/00000001.json") {
            self.0.once();
        }
        Ok(())
    }

    fn after(&self, _: usize, _: &str, _: &Key) -> Result<()> {
        Ok(())
    }
}

/// I7: the loser of a race reports that there was nothing left to do, not a failure: the rows are compacted.
#[test]
fn a_worker_that_another_one_was_faster_than_has_not_failed() {
    let arc = Shared::new(Arc::new());
    arc.write_telemetry(PARTITION, 3, 100);
    let before = arc.rows(PARTITION);
    let hook = Shared::new(BeforeCommit(Rival::compacts(&arc)));
    let storage = arc.storage().map_store(|inner| Hooked::over(inner, hook));

    let report = cycle(&arc, "loser", storage, Shared::new(DuckDbEngine));

    assert_eq!((report.jobs_completed, report.jobs_failed, report.jobs_skipped), (0, 0, 1), "{report:#?}");
    assert!(report.jobs[0].error.as_deref().unwrap().contains("another worker compacted"), "{report:#?}");
    assert!(!report.needs_attention(), "{report:#?}");
    assert_eq!(arc.rows(PARTITION), before);
    arc.assert_nothing_left_over(PARTITION);
}

/// The rival compacts everything, and deletes what then is dead, right before the first output is read back.
#[derive(Debug)]
struct BeforeReadingBack(Rival);

impl Hook for BeforeReadingBack {
    fn before(&self, _: usize, _: &str, _: &Key) -> Result<()> {
        Ok(())
    }

    fn after(&self, _: usize, _: &str, _: &Key) -> Result<()> {
        Ok(())
    }

    fn reading(&self, path: &Key) -> Result<()> {
        if path.as_ref().ends_with("_compacted.parquet") {
            self.0.once();
        }
        Ok(())
    }
}

/// I7: nor does it fail when the winner has deleted its outputs before it could look at them.
#[test]
fn a_worker_whose_outputs_another_one_has_deleted_has_not_failed() {
    let arc = Shared::new(Arc::new());
    arc.write_telemetry(PARTITION, 3, 100);
    let before = arc.rows(PARTITION);
    let hook = Shared::new(BeforeReadingBack(Rival::compacts(&arc)));
    let storage = arc.storage().map_store(|inner| Hooked::over(inner, hook));

    let report = cycle(&arc, "loser", storage, Shared::new(DuckDbEngine));

    assert_eq!((report.jobs_completed, report.jobs_failed, report.jobs_skipped), (0, 0, 1), "{report:#?}");
    assert_eq!(report.jobs[0].step.as_str(), "read_back", "{report:#?}");
    assert!(report.jobs[0].error.as_deref().unwrap().contains("another worker compacted"), "{report:#?}");
    assert!(!report.needs_attention(), "{report:#?}");
    assert_eq!(arc.rows(PARTITION), before);
    arc.assert_nothing_left_over(PARTITION);
}

/// A store in which the rival works between the two halves of the first listing of a partition: records first, files last.
#[derive(Debug)]
struct Torn {
    inner: Shared<dyn ObjectStore>,
    rival: Shared<Rival>,
}

impl fmt::Display for Torn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "torn {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Torn {
    async fn put_opts(&self, location: &Key, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Key, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        if prefix.is_none_or(|p| p.as_ref() != PARTITION) {
            return self.inner.list(prefix);
        }
        let (inner, rival, prefix) = (Shared::clone(&self.inner), Shared::clone(&self.rival), prefix.cloned());
        futures::stream::once(async move {
            let is_record = |o: &ObjectMeta| o.location.as_ref().contains("/_compaction/");
            let first: Vec<ObjectMeta> = inner.list(prefix.as_ref()).try_collect().await?;
            rival.once();
            let second: Vec<ObjectMeta> = inner.list(prefix.as_ref()).try_collect().await?;
            let torn = first.into_iter().filter(is_record).chain(second.into_iter().filter(|o| !is_record(o)));
            Ok::<_, object_store::Error>(futures::stream::iter(torn.map(Ok).collect::<Vec<_>>()))
        })
        .try_flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A listing is no snapshot. One that shows another worker's new files, without their record and with the inputs already
/// deleted, looks like a partition that only a person may touch; another look shows that it is in order.
#[test]
fn a_listing_torn_by_another_workers_commit_is_looked_at_again() {
    let arc = Shared::new(Arc::new());
    arc.write_telemetry(PARTITION, 3, 100);
    let before = arc.rows(PARTITION);
    let rival = Shared::new(Rival::compacts(&arc));
    let storage = arc.storage().map_store(|inner| Shared::new(Torn { inner, rival: Shared::clone(&rival) }));

    let report = cycle(&arc, "slow", storage, Shared::new(DuckDbEngine));

    assert!(rival.done.load(Ordering::SeqCst));
    assert!(!report.needs_attention(), "{report:#?}");
    assert_eq!((report.jobs_failed, report.problems.len()), (0, 0), "{report:#?}");
    assert_eq!(arc.rows(PARTITION), before);
    arc.assert_nothing_left_over(PARTITION);
}

/// The same for a check: nobody is called to a partition that was compacted while somebody looked.
#[test]
fn a_check_whose_listing_is_torn_by_a_commit_finds_nothing() {
    let arc = Shared::new(Arc::new());
    arc.write_telemetry(PARTITION, 3, 100);
    let rival = Shared::new(Rival::compacts(&arc));
    let storage = arc.storage().map_store(|inner| Shared::new(Torn { inner, rival: Shared::clone(&rival) }));
    let manager = worker(&arc, "checker", storage, Shared::new(DuckDbEngine));

    let checked: Vec<Checked> = block_on(manager.verify(Scope::default(), Depth::Footers).collect());

    assert!(rival.done.load(Ordering::SeqCst));
    let findings: Vec<_> = checked.iter().flat_map(|checked| &checked.findings).collect();
    assert!(findings.is_empty(), "{findings:#?}");
}

/// DuckDB, and what others do right before and right after it merges.
struct Around<B, A> {
    before: B,
    after: A,
}

impl<B, A> fmt::Debug for Around<B, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Around")
    }
}

#[async_trait]
impl<B: Fn() + Send + Sync, A: Fn() + Send + Sync> MergeEngine for Around<B, A> {
    async fn merge(
        &self,
        request: MergeRequest,
        progress: ProgressSink,
        cancel: CancellationToken,
    ) -> std::result::Result<MergeOutcome, MergeError> {
        (self.before)();
        let outcome = DuckDbEngine.merge(request, progress, cancel).await;
        (self.after)();
        outcome
    }
}

/// "Damaged" would send a person to look for a file that is not there.
#[test]
fn an_input_deleted_before_it_was_read_is_not_called_damaged() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 4, 100);
    let delete = arc.folder(PARTITION).join("cpu_0001.parquet");
    let engine = Around { before: move || fs::remove_file(&delete).unwrap(), after: || {} };

    let report = cycle(&arc, "first", arc.storage(), Shared::new(engine));

    assert_eq!(report.jobs_completed, 1, "{report:#?}");
    assert!(!report.needs_attention(), "{report:#?}");
    assert_eq!(arc.rows(PARTITION).len(), 300);
    arc.assert_nothing_left_over(PARTITION);
}

/// I7: who finds its inputs gone because another worker's record retired them has lost a race, and nothing else.
#[test]
fn a_worker_whose_inputs_were_compacted_meanwhile_has_not_failed() {
    for before_reading in [true, false] {
        let arc = Shared::new(Arc::new());
        arc.write_telemetry(PARTITION, 3, 100);
        let before = arc.rows(PARTITION);
        let (early, late) = (Shared::new(Rival::compacts(&arc)), Shared::new(Rival::compacts(&arc)));
        let engine = Around {
            before: move || {
                if before_reading {
                    early.once();
                }
            },
            after: move || {
                if !before_reading {
                    late.once();
                }
            },
        };

        let report = cycle(&arc, "slow", arc.storage(), Shared::new(engine));

        assert_eq!((report.jobs_completed, report.jobs_failed, report.jobs_skipped), (0, 0, 1), "{report:#?}");
        assert!(!report.needs_attention(), "{report:#?}");
        assert_eq!(arc.rows(PARTITION), before);
        arc.assert_nothing_left_over(PARTITION);
    }
}

/// A retention process deletes a file while it is being merged. Published outputs would name an input that is gone, which
/// only a person may resolve (V2), so nothing is published, and the next run compacts what is left.
#[test]
fn an_input_deleted_during_the_merge_fails_that_job_and_not_the_partition() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 4, 100);
    let delete = arc.folder(PARTITION).join("cpu_0001.parquet");
    let engine = Around { before: || {}, after: move || fs::remove_file(&delete).unwrap() };

    let report = cycle(&arc, "first", arc.storage(), Shared::new(engine));

    assert_eq!(report.jobs_failed, 1, "{report:#?}");
    assert!(report.jobs[0].error.as_deref().unwrap().contains("cpu_0001.parquet vanished"), "{report:#?}");
    let left = arc.rows(PARTITION);
    assert_eq!(left.len(), 300);
    arc.compact_well();
    assert_eq!(arc.rows(PARTITION), left);
    arc.assert_nothing_left_over(PARTITION);
}

/// Refuses to delete data files.
#[derive(Debug)]
struct Undeletable;

impl Hook for Undeletable {
    fn before(&self, _: usize, effect: &str, path: &Key) -> Result<()> {
        if effect == "delete" && path.as_ref().ends_with(".parquet") {
            return Err(object_store::Error::Generic { store: "test", source: "no".into() });
        }
        Ok(())
    }

    fn after(&self, _: usize, _: &str, _: &Key) -> Result<()> {
        Ok(())
    }
}

/// The job has happened, and its inputs lie there still: both are said, and the next run deletes them.
#[test]
fn inputs_that_could_not_be_deleted_are_reported_beside_the_completed_job() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 100);
    let before = arc.rows(PARTITION);
    let storage = arc.storage().map_store(|inner| Hooked::over(inner, Shared::new(Undeletable)));

    let report = cycle(&arc, "first", storage, Shared::new(DuckDbEngine));

    assert_eq!((report.jobs_completed, report.jobs_failed), (1, 0), "{report:#?}");
    assert!(report.problems.iter().any(|p| p.place == PARTITION && p.error.contains("3 files")), "{report:#?}");
    assert!(report.needs_attention());
    assert_eq!(arc.rows(PARTITION), before);
    arc.compact_well();
    assert_eq!(arc.rows(PARTITION), before);
    arc.assert_nothing_left_over(PARTITION);
}

/// A file written again under the name of a consumed one, with the same size, cannot be told from a copy of it, so it does
/// not count. Nobody would notice that its rows are missing unless it is said.
#[test]
fn a_file_that_does_not_count_because_its_name_was_reused_is_reported_in_every_run() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 100);
    let copy = fs::read(arc.folder(PARTITION).join("cpu_0001.parquet")).unwrap();
    arc.compact_well();
    let before = arc.rows(PARTITION);
    arc.put(PARTITION, "cpu_0001.parquet", &copy);
    let state = arc.storage_state();

    for _ in 0..2 {
        let run = arc.compact();
        assert_eq!(run.code, 1, "{run:#?}");
        assert!(run.json()["problems"][0]["error"].as_str().unwrap().contains("cpu_0001.parquet"), "{run:#?}");
    }

    assert_eq!(arc.rows(PARTITION), before);
    assert_eq!(arc.storage_state(), state);
}
