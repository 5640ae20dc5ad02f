//! The one world of a simulation: storage as it is, what must be true of it, the wire, and the time line.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc::clock::Clock;
use arc::partition::PartitionId;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, Result};
use tokio::time::Instant;

use super::clock::SimClock;
use super::rows::{Row, encode};
use super::store::LEASES;
use super::timeline::{Line, TimeLine};
use super::truth::{Object, Truth, place};
use super::wire::{Caller, Wire};

/// Errors that are built into this side of the seams, to show that the simulation finds them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Planted {
    #[default]
    Nothing,
    /// A create overwrites what is there.
    CreateOverwrites,
    /// The write of a lease does not look whether it is still what was read.
    SwapOverwrites,
    /// A create is answered with success although another record is there. No row depends on that, but reports do.
    CreateLies,
    /// A LIST leaves out its later pages without an error.
    ListHidesPages,
    /// The merge loses a row, and does not notice.
    MergeLosesRow,
    /// The merge doubles a row, and does not notice.
    MergeDoublesRow,
    /// The merge says that it took in a file that it left out.
    MergeRetiresUnread,
    /// The merge does not sort.
    MergeDoesNotSort,
    /// A deletion takes the next object, too.
    DeleteTakesNeighbour,
    /// A look that fails says that there is nothing.
    ErrorsAreAbsence,
    /// A bug of which a job's panic tells: production code catches it, and reports that the job failed.
    JobPanics,
    /// The same where nobody catches it: a worker's cycle ends, and the worker with it.
    CyclePanics,
    /// The same of a reader.
    ReaderPanics,
    /// Nothing is wrong, and yet callers whose names begin so cannot read. As if the product made up errors.
    LooksFail(&'static str),
    /// Every lease is granted to everybody. Not an error of the product's: nothing may rest on leases.
    LocksAlwaysGrant,
}

/// What the check of storage leaves there, once and for all.
const PROBE: &str = "_compaction_staging/probe";

pub struct World {
    pub bucket: InMemory,
    pub wire: Wire,
    pub clock: SimClock,
    pub planted: Planted,
    /// Objects on a page of a LIST.
    pub page: usize,
    started: Instant,
    /// `InMemory` knows the machine's time only.
    modified: Mutex<BTreeMap<Path, DateTime<Utc>>>,
    truth: Mutex<Truth>,
    time_line: Mutex<TimeLine>,
    /// Changes of storage that others can see.
    changes: Mutex<u64>,
    /// Which of them was a partition's last.
    last_changes: Mutex<HashMap<PartitionId, u64>>,
    /// Calls that something went wrong with.
    faults: Mutex<HashMap<Caller, u64>>,
    written: Mutex<i64>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

impl World {
    pub fn new(planted: Planted, page: usize) -> Arc<Self> {
        let started_at = "2025-10-08T18:00:00Z".parse().unwrap();
        Arc::new(Self {
            bucket: InMemory::new(),
            wire: Wire::default(),
            clock: SimClock::starting_at(started_at),
            planted,
            page,
            started: Instant::now(),
            modified: Mutex::default(),
            truth: Mutex::default(),
            time_line: Mutex::default(),
            changes: Mutex::default(),
            last_changes: Mutex::default(),
            faults: Mutex::default(),
            written: Mutex::default(),
        })
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn truth(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().unwrap()
    }

    pub fn time_line(&self) -> MutexGuard<'_, TimeLine> {
        self.time_line.lock().unwrap()
    }

    /// What is wrong, if anything ever was.
    pub fn broken(&self) -> Option<String> {
        self.truth().broken.clone()
    }

    pub fn changes(&self) -> u64 {
        *self.changes.lock().unwrap()
    }

    /// The number of the last change of a partition, or of all of storage.
    pub fn last_change(&self, partition: Option<&PartitionId>) -> u64 {
        let Some(partition) = partition else { return self.changes() };
        self.last_changes.lock().unwrap().get(partition).copied().unwrap_or_default()
    }

    /// Something goes wrong with a call.
    pub fn fails(&self, caller: &Caller) {
        *self.faults.lock().unwrap().entry(Arc::clone(caller)).or_default() += 1;
    }

    /// How often something went wrong with a call of a caller's.
    pub fn faults_of(&self, caller: &Caller) -> u64 {
        self.faults.lock().unwrap().get(caller).copied().unwrap_or_default()
    }

    /// A line of the time line.
    pub fn say(&self, who: &str, what: &str, object: &str, outcome: &str) {
        let line = Line {
            at: self.elapsed(),
            who: who.to_owned(),
            what: what.to_owned(),
            object: object.to_owned(),
            outcome: outcome.to_owned(),
        };
        self.time_line().push(line);
    }

    /// Ingestion writes a file.
    pub fn ingest(&self, partition: &PartitionId, times: &[i64]) -> String {
        let number = self.next_number(times.len());
        let rows: Vec<Row> = times.iter().zip(number..).map(|(time, number)| Row { time: *time, number }).collect();
        let name = raw_name(number);
        self.truth().wrote(partition, &rows);
        self.put(partition, &name, encode(&rows, &[]));
        self.say("ingestion", "write", &format!("{partition}/{name}"), &format!("{} rows", rows.len()));
        name
    }

    /// Ingestion writes a file that cannot be read.
    pub fn ingest_damaged(&self, partition: &PartitionId) -> String {
        let name = raw_name(self.next_number(1));
        let bytes = Bytes::from(format!("PAR1 {name} PAR1"));
        self.truth().wrote_untouchable(partition, &name, bytes.clone());
        self.put(partition, &name, bytes);
        self.say("ingestion", "write", &format!("{partition}/{name}"), "damaged");
        name
    }

    /// Files of a partition that somebody with a limited time of keeping data may remove: all that ingestion wrote.
    pub fn removable(&self, partition: &PartitionId) -> Vec<String> {
        let objects = self.objects(partition);
        self.truth().sound_raw(partition, &objects)
    }

    /// Somebody removes a file, without asking anybody.
    pub fn remove(&self, partition: &PartitionId, name: &str) {
        let objects = self.objects(partition);
        let rows = self.truth().removed(partition, name, objects);
        let key = Path::parse(format!("{partition}/{name}")).unwrap();
        self.bucket.delete(&key).now_or_never().unwrap().unwrap();
        self.say("retention", "remove", &format!("{partition}/{name}"), &format!("{rows} rows"));
        self.changed(&key);
    }

    /// What the service asks a person for whose file was removed when an attempt had published its rows and not committed:
    /// puts the file back.
    pub fn restore(&self, partition: &PartitionId) {
        let objects = self.objects(partition);
        let missing = self.truth().missing_inputs(partition, objects);
        for name in missing {
            let bytes = self.truth().restored(partition, &name);
            self.say("a person", "restore", &format!("{partition}/{name}"), "ok");
            self.put(partition, &name, bytes);
        }
    }

    fn next_number(&self, rows: usize) -> i64 {
        let mut written = self.written.lock().unwrap();
        let first = *written;
        *written += i64::try_from(rows).unwrap();
        first
    }

    fn put(&self, partition: &PartitionId, name: &str, bytes: Bytes) {
        let key = Path::parse(format!("{partition}/{name}")).unwrap();
        let put = self.bucket.put_opts(&key, bytes.into(), PutMode::Create.into());
        put.now_or_never().unwrap().unwrap();
        self.changed(&key);
    }

    /// To be called after every change of an object: gives it its time, and checks what must be true.
    pub fn changed(&self, key: &Path) {
        if *key != Path::from(PROBE) && !key.as_ref().starts_with(LEASES) {
            *self.changes.lock().unwrap() += 1;
        }
        self.modified.lock().unwrap().insert(key.clone(), self.clock.now());
        if let Some((partition, _)) = place(key.as_ref()) {
            self.last_changes.lock().unwrap().insert(partition.clone(), self.changes());
            let objects = self.objects(&partition);
            self.truth().check(&partition, objects);
        }
    }

    /// Deletes an object, if it is there, and checks that it may go.
    pub fn delete(&self, key: &Path) {
        if self.bucket.head(key).now_or_never().unwrap().is_err() {
            return;
        }
        self.truth().judge_deletion(key.as_ref(), |partition| self.objects(partition));
        self.bucket.delete(key).now_or_never().unwrap().unwrap();
        self.changed(key);
    }

    /// The same object with the simulation's time.
    pub fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        if let Some(time) = self.modified.lock().unwrap().get(&meta.location) {
            meta.last_modified = *time;
        }
        meta
    }

    /// The leases in storage that somebody holds, or held: of whom, and when they were written.
    pub fn leases(&self) -> Vec<(String, DateTime<Utc>)> {
        let written = self.list(Some(&Path::from(LEASES))).into_iter();
        let held = written.filter_map(|meta| Some((self.lease(&meta.location)?, meta.last_modified)));
        held.map(|((worker, _), written_at)| (worker, written_at)).collect()
    }

    /// Who holds a lease, or held it, and for how long from when it was written.
    fn lease(&self, key: &Path) -> Option<(String, TimeDelta)> {
        let bytes = self.bucket.get(key).now_or_never().unwrap().ok()?.bytes().now_or_never().unwrap().unwrap();
        let lease: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        let ttl = TimeDelta::seconds(lease.get("ttl_seconds")?.as_i64()?);
        Some((lease.get("worker_id")?.as_str()?.to_owned(), ttl))
    }

    /// Writes a lease by `write`, and checks that nobody else's is replaced that holds still, whatever clocks say.
    pub fn write_lease<T>(&self, key: &Path, write: impl FnOnce() -> Result<T>) -> Result<T> {
        let (before, written_at) = (self.lease(key), self.modified.lock().unwrap().get(key).copied());
        let done = write()?;
        if let (Some((holder, ttl)), Some(written_at)) = (before, written_at)
            && let Some((now_of, _)) = self.lease(key).filter(|(now_of, _)| *now_of != holder)
            && self.clock.now() < written_at + ttl
        {
            let what = format!("{now_of} took {key}, which is still that of {holder}");
            self.truth().breaks("lease", &what);
        }
        self.changed(key);
        Ok(done)
    }

    /// All objects below a prefix, as they are.
    pub fn list(&self, prefix: Option<&Path>) -> Vec<ObjectMeta> {
        let listed = self.bucket.list(prefix).collect::<Vec<_>>().now_or_never().unwrap();
        listed.into_iter().map(|meta| self.dated(meta.unwrap())).collect()
    }

    /// The objects of a partition, as they are.
    pub fn objects(&self, partition: &PartitionId) -> Vec<Object> {
        let prefix = Path::parse(partition.to_string()).unwrap();
        let read = |meta: ObjectMeta| {
            let got = self.bucket.get(&meta.location).now_or_never().unwrap().unwrap();
            let GetResultPayload::Stream(chunks) = got.payload else { panic!("memory is not on disk") };
            // Memory gives an object in one piece.
            let chunks: Vec<Bytes> = chunks.map(Result::unwrap).collect().now_or_never().unwrap();
            let name = meta.location.as_ref()[prefix.as_ref().len() + 1..].to_owned();
            Object { name, etag: meta.e_tag.unwrap(), bytes: chunks.into_iter().next().unwrap_or_default() }
        };
        self.list(Some(&prefix)).into_iter().map(read).collect()
    }

    /// I5: nothing is left anywhere.
    pub fn check_rest(&self, min_files: usize) {
        let partitions = self.truth().partitions();
        for partition in partitions {
            let objects = self.objects(&partition);
            self.truth().check(&partition, objects.clone());
            self.truth().check_rest(&partition, objects, min_files);
        }
        let staging = self.list(Some(&Path::from("_compaction_staging")));
        for meta in staging.iter().filter(|meta| meta.location != Path::from(PROBE)) {
            self.truth().breaks("I5", &format!("{} is left over", meta.location));
        }
    }
}

/// Some names come before those of compacted files in a LIST, and some behind them: a page may end anywhere.
fn raw_name(number: i64) -> String {
    let writer = if number % 2 == 0 { "cpu" } else { "writer" };
    format!("{writer}_{number:06}.parquet")
}
