//! What it costs to look through storage and decide about every partition: `cargo bench --bench listing`.
//!
//! The listing of a bucket is generated while it is read, so that nothing is measured but the service. The files on local
//! disk are real. Every scene decides about every partition; in one of them each hundredth partition has work, and the footer
//! of one of its files is read. Memory is the peak of the whole process while a scene runs, beyond what it had before.

#![allow(clippy::unwrap_used, reason = "a bench may stop at the first thing that is wrong")]

use std::fmt;
use std::fs;
use std::io::{Write, stdout};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc::clock::{Clock, SystemClock};
use arc::compaction::events::EventSink;
use arc::compaction::{CompactionManager, CompactionSettings, Components, Finding, Reach, Scope};
use arc::config::Config;
use arc::lock::CompactionLock;
use arc::merge::DuckDbEngine;
use arc::merge::resources::{detect, job_limits};
use arc::partition::Hour;
use arc::state::StateDb;
use arc::storage::Storage;
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio_util::sync::CancellationToken;

/// Raw files of a partition without work, and one more than that: with work.
const FILES: usize = 10;

/// A bucket of one measurement, with so many hours, the last of them two hours ago.
#[derive(Debug)]
struct Generated {
    hours: usize,
    /// One hour in so many has one file more than the others.
    with_work: usize,
    /// Where files are read: there is one, and all are the same.
    file: InMemory,
    size: u64,
}

impl Generated {
    async fn new(hours: usize, with_work: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.parquet");
        let sql = format!("COPY (SELECT now() AS time, 1.5 AS usage) TO '{}' (FORMAT parquet)", path.display());
        duckdb::Connection::open_in_memory().unwrap().execute_batch(&sql).unwrap();
        let bytes = Bytes::from(fs::read(path).unwrap());
        let size = bytes.len() as u64;
        let file = InMemory::new();
        file.put(&Path::from("file"), bytes.into()).await.unwrap();
        Self { hours, with_work, file, size }
    }

    fn objects(&self) -> impl Iterator<Item = ObjectMeta> + Send + 'static {
        let (hours, with_work, size) = (self.hours, self.with_work, self.size);
        let now = SystemClock.now();
        let first = now - TimeDelta::hours(2 + i64::try_from(hours).unwrap());
        let written = now - TimeDelta::hours(1);
        (0..hours).flat_map(move |number| {
            let hour = Hour::containing(first + TimeDelta::hours(i64::try_from(number).unwrap()));
            let files = if number % with_work == 0 { FILES + 1 } else { FILES };
            (0..files).map(move |file| meta(&format!("db/cpu/{hour}/cpu_{file:06}.parquet"), size, written))
        })
    }
}

fn meta(key: &str, size: u64, last_modified: DateTime<Utc>) -> ObjectMeta {
    let e_tag = Some("9b2cf535f27731c974343645a3985328".to_owned());
    ObjectMeta { location: Path::parse(key).unwrap(), last_modified, size, e_tag, version: None }
}

impl fmt::Display for Generated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} generated hours", self.hours)
    }
}

#[async_trait]
impl ObjectStore for Generated {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.file.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.file.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, _: &Path, options: GetOptions) -> Result<GetResult> {
        self.file.get_opts(&Path::from("file"), options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.file.delete_stream(locations)
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        futures::stream::iter(self.objects().map(Ok)).boxed()
    }

    fn list_with_offset(&self, _: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let offset = offset.clone();
        futures::stream::iter(self.objects().filter(move |object| object.location > offset).map(Ok)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let below = if prefix.is_none_or(|p| p.as_ref().is_empty()) { "db" } else { "db/cpu" };
        Ok(ListResult {
            common_prefixes: vec![Path::from(below)],
            objects: Vec::new(),
            extensions: object_store::Extensions::default(),
        })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.file.copy_opts(from, to, options).await
    }
}

fn manager(storage: Storage) -> CompactionManager {
    manager_with(storage, FILES + 1)
}

fn manager_with(storage: Storage, min_files: usize) -> CompactionManager {
    let clock = Arc::new(SystemClock);
    let state = StateDb::in_memory().unwrap();
    let folder = std::env::temp_dir().join("arc-bench-listing");
    let mut settings = CompactionSettings { temp_dir: folder, ..Config::default().compaction };
    settings.partition.policy.min_files = min_files;
    // The files of the disk are written right before.
    settings.partition.policy.settle = Duration::ZERO;
    let components = Components {
        storage,
        locks: Arc::new(CompactionLock::new(state.clone(), clock.clone())),
        state,
        engine: Arc::new(DuckDbEngine),
        clock,
        limits: job_limits(detect(), None, None, settings.max_concurrent_jobs),
        events: EventSink::ignore(),
        seed: 7,
    };
    CompactionManager::new(components, settings)
}

/// Processor seconds of this process so far.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = [fields[11], fields[12]].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

/// The peak of resident memory since the last call of [`forget_peak`], in MiB.
fn peak_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn forget_peak() {
    fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Measures a scene and prints its line.
async fn scene<T: fmt::Display>(name: &str, work: impl Future<Output = T>) {
    forget_peak();
    let (memory, cpu, wall) = (peak_mib(), cpu_seconds(), Instant::now());
    let result = work.await;
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let (peak, more) = (peak_mib(), peak_mib() - memory);
    let line = format!("{name:<66} {wall:>6.2} s wall {cpu:>6.2} s CPU {peak:>6.0} MiB peak (+{more:.0}), {result}");
    stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Decides about everything.
async fn examine(manager: &CompactionManager) -> String {
    let (mut candidates, mut skipped) = (0_u64, 0_u64);
    let mut findings = manager.examine(Scope::default());
    while let Some(finding) = findings.next().await {
        match finding {
            Finding::Candidate(_) => candidates += 1,
            Finding::Skipped(_) => skipped += 1,
            other => panic!("{other:?}"),
        }
    }
    format!("{candidates} with work, {skipped} without")
}

async fn cycle(manager: &CompactionManager, reach: Reach) -> String {
    let scope = Scope { reach, ..Scope::default() };
    let report = manager.run_compaction_cycle(scope, CancellationToken::new()).await.unwrap();
    format!("{} partitions seen", report.partitions_scanned)
}

#[tokio::main]
async fn main() {
    // Given by `cargo bench`, and not by `cargo test --benches`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    for hours in [1_000, 10_000, 100_000] {
        let objects = hours * FILES;
        let bucket = Storage::over(Arc::new(Generated::new(hours, usize::MAX).await), "generated");
        let idle = manager(bucket);
        scene(&format!("bucket, {objects} objects, {hours} hours, no work"), examine(&idle)).await;
    }
    let bucket = Storage::over(Arc::new(Generated::new(100_000, 100).await), "generated");
    let some = manager(bucket);
    scene("bucket, 1001000 objects, 100000 hours, each 100th with work", examine(&some)).await;

    let base = tempfile::tempdir().unwrap();
    for number in 0..1_000 {
        let hour = Hour::containing(SystemClock.now() - TimeDelta::hours(2 + number));
        let folder = base.path().join(format!("db/cpu/{hour}"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..100 {
            fs::write(folder.join(format!("cpu_{file:06}.parquet")), "").unwrap();
        }
    }
    let local = manager_with(Storage::local(base.path()).unwrap(), 101);
    scene("local disk, 100000 files, a cycle over everything", cycle(&local, Reach::Everything)).await;
    scene("local disk, 100000 files, a cycle over recent hours", cycle(&local, Reach::RecentUnlessDue)).await;
}
