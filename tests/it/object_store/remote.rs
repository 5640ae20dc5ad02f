//! A small Arc whose data lies in a bucket: configuration, state and temp folder of one test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc as Shared;

use arc::clock::SystemClock;
use arc::compaction::{CycleReport, Scope, snapshot};
use arc::config::{Config, Input};
use arc::merge::DuckDbEngine;
use arc::partition::PartitionId;
use arc::storage::Storage;
use arc::storage::settings::Patience;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::conformance::raw;
use crate::support::servers::{Bucket, Kind};
use crate::support::stores::{Hook, manager_over};
use crate::support::{Arc, PARTITION, again, block_on, copy, fingerprint, rows_of, table, telemetry, tree, value};

/// A file that cannot be compressed: about 64 bytes a row. `number` decides what is in it, and its place in the hour.
pub fn random_file(number: usize, rows: usize) -> Vec<u8> {
    let first = number * rows;
    let columns: Vec<String> = (0..7).map(|c| format!("hash(i * 7 + {c}) AS value_{c}")).collect();
    // Half of the files overlap with their neighbour.
    let first_time = 1_759_932_000_000_000_i64;
    parquet(&format!(
        "SELECT make_timestamp({first_time} + ((i - {}) * 100)) AS time, {} FROM range({first}, {}) r(i)",
        (number % 2) * rows / 2,
        columns.join(", "),
        first + rows,
    ))
}

/// The settings of most tests.
pub const PLAIN: &str = "min_files = 2\nsettle_seconds = 0";

/// What probes of a remote store leave, however many there were.
pub const PROBE: &str = "_compaction_staging/probe";

/// Nothing special happens.
#[derive(Debug)]
pub struct NoHook;

impl Hook for NoHook {
    fn before(&self, _: usize, _: &str, _: &Path) -> object_store::Result<()> {
        Ok(())
    }

    fn after(&self, _: usize, _: &str, _: &Path) -> object_store::Result<()> {
        Ok(())
    }
}

/// The result of a query as a Parquet file.
fn parquet(query: &str) -> Vec<u8> {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("x.parquet");
    copy(query, &file, "FORMAT parquet, COMPRESSION snappy");
    fs::read(file).unwrap()
}

/// Files of telemetry: sorted, consecutive, `rows` rows each.
pub fn telemetry_files(files: usize, rows: usize) -> Vec<Vec<u8>> {
    (0..files).map(|number| parquet(&telemetry(number * rows, (number + 1) * rows))).collect()
}

/// An Arc over a bucket.
#[derive(Debug)]
pub struct Remote {
    pub arc: Arc,
    pub bucket: Bucket,
}

impl Remote {
    /// Two files are enough for a compaction, however new: objects cannot be made to look old.
    pub fn new(kind: Kind) -> Option<Self> {
        Self::with(kind, PLAIN)
    }

    /// With these lines in the `[compaction]` section. `None`: there is no such server here, which has been said.
    pub fn with(kind: Kind, settings: &str) -> Option<Self> {
        let bucket = kind.bucket()?;
        let arc = Arc::new();
        let remote = Self { arc, bucket };
        remote.configure(&remote.bucket, settings);
        Some(remote)
    }

    /// On every server that can be had here, at the same time.
    pub fn everywhere(check: impl Fn(Self) + Sync) {
        again::each_at_once(
            Kind::ALL.len(),
            Kind::ALL,
            |kind| format!("{kind:?}"),
            |kind| {
                Self::new(kind).map(&check);
            },
        );
    }

    /// Rewrites the configuration, with the bucket seen as it is given here.
    pub fn configure(&self, bucket: &Bucket, settings: &str) {
        let text = format!(
            "{}[state]\ndb_path = '{}'\n[compaction]\ntemp_dir = '{}'\n{settings}\n",
            bucket.section(self.arc.dir()),
            self.arc.dir().join("arc.db").display(),
            self.arc.temp().display(),
        );
        fs::write(self.arc.config_file(), text).unwrap();
    }

    pub fn config(&self) -> Config {
        Config::load(&Input { file: Some(self.arc.config_file()), ..Input::default() }).unwrap()
    }

    pub fn storage(&self) -> Storage {
        self.bucket.storage()
    }

    /// The store of the bucket below the prefix, not through our verbs.
    pub fn raw(&self) -> Shared<dyn ObjectStore> {
        raw(&self.storage())
    }

    /// Writes the result of a query as a raw Parquet object, as ingestion does.
    pub fn write(&self, partition: &str, name: &str, query: &str) {
        self.put(partition, name, parquet(query));
    }

    pub fn put(&self, partition: &str, name: &str, bytes: Vec<u8>) {
        let key = Path::parse(format!("{partition}/{name}")).unwrap();
        block_on(async { self.raw().put(&key, bytes.into()).await }).unwrap();
    }

    /// Files of telemetry in the usual partition: sorted, consecutive, `rows` rows each.
    pub fn write_telemetry(&self, files: usize, rows: usize) {
        self.put_telemetry(&telemetry_files(files, rows));
    }

    /// The same with files that were made before.
    pub fn put_telemetry(&self, files: &[Vec<u8>]) {
        let raw = self.raw();
        block_on(async {
            for (number, bytes) in files.iter().enumerate() {
                let key = Path::parse(format!("{PARTITION}/cpu_{number:04}.parquet")).unwrap();
                raw.put(&key, bytes.clone().into()).await.unwrap();
            }
        });
    }

    /// `arc compact --json` in a process of its own, merging in another, that must end with exit code 0.
    pub fn compact_well(&self) -> Value {
        self.arc.compact_well()
    }

    /// A cycle in this process, over the storage that a bucket is reached by.
    pub fn cycle_through(&self, storage: Storage, hook: Shared<dyn Hook>) -> CycleReport {
        let manager = manager_over(&self.config(), storage, hook, Shared::new(DuckDbEngine), Shared::new(SystemClock));
        block_on(manager.run_compaction_cycle(Scope::default(), CancellationToken::new())).unwrap()
    }

    /// A cycle in this process that must go well.
    pub fn cycle(&self) -> CycleReport {
        let report = self.cycle_through(self.bucket.patient(&Patience::default()), Shared::new(NoHook));
        assert!(!report.needs_attention(), "{:?}: {report:#?}", self.bucket.kind);
        report
    }

    /// Names of the data files that count.
    pub fn live(&self) -> Vec<String> {
        self.live_in(PARTITION)
    }

    /// The same of another partition.
    pub fn live_in(&self, partition: &str) -> Vec<String> {
        let id: PartitionId = partition.parse().unwrap();
        let snapshot = block_on(snapshot::live_files(&self.storage(), &id)).unwrap();
        snapshot.files.into_iter().map(|file| file.name).collect()
    }

    /// Copies of the data files that count.
    fn fetch_live(&self, partition: &str, to: &FsPath) -> Vec<PathBuf> {
        let (raw, live) = (self.raw(), self.live_in(partition));
        block_on(async {
            let mut paths = Vec::new();
            for name in live {
                let key = Path::parse(format!("{partition}/{name}")).unwrap();
                let bytes = raw.get(&key).await.unwrap().bytes().await.unwrap();
                fs::write(to.join(&name), bytes).unwrap();
                paths.push(to.join(name));
            }
            paths
        })
    }

    /// Every row of the files that count, as text, sorted.
    pub fn rows(&self) -> Vec<String> {
        self.rows_in(PARTITION)
    }

    /// The same of another partition.
    pub fn rows_in(&self, partition: &str) -> Vec<String> {
        let folder = TempDir::new().unwrap();
        rows_of(&self.fetch_live(partition, folder.path()))
    }

    /// Rows of the files that count.
    pub fn row_count(&self) -> usize {
        let folder = TempDir::new().unwrap();
        let files = table(&self.fetch_live(PARTITION, folder.path()));
        value(&format!("SELECT count(*)::VARCHAR FROM {files}")).parse().unwrap()
    }

    pub fn fingerprint(&self) -> String {
        let folder = TempDir::new().unwrap();
        fingerprint(&self.fetch_live(PARTITION, folder.path())).unwrap()
    }

    /// Every object below the prefix: size and `ETag`.
    pub fn objects(&self) -> BTreeMap<String, (u64, Option<String>)> {
        let metas: Vec<_> = block_on(self.raw().list(None).try_collect()).unwrap();
        metas.into_iter().map(|meta| (meta.location.to_string(), (meta.size, meta.e_tag))).collect()
    }

    /// I5: nothing is left of any attempt: no temp folder, no dead object. Probes leave the one object of all probes, and leases
    /// in the bucket their released objects.
    pub fn assert_nothing_left_over(&self) {
        let left: Vec<PathBuf> =
            tree(&self.arc.temp()).into_keys().filter(|path| !path.ends_with(".arc-lock")).collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "temp folder");
        let live = self.live();
        for key in self.objects().into_keys() {
            let rest = key.strip_prefix(PARTITION).unwrap_or(&key).trim_start_matches('/');
            assert!(
                key == PROBE
                    || key.starts_with("_compaction_locks/")
                    || rest.starts_with("_compaction/")
                    || live.iter().any(|name| name == rest),
                "{:?}: {key} is left over; live are {live:?}",
                self.bucket.kind
            );
        }
    }
}
