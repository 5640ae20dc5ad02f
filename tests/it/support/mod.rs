//! A small Arc to test with: a folder with data, state and temporary files, and the real program to run on it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread;
use std::time::{Duration, SystemTime};

use arc::compaction::snapshot::{self, Snapshot};
use arc::partition::PartitionId;
use arc::storage::Storage;
use assert_cmd::Command;
use duckdb::Connection;
use serde_json::Value;
use tempfile::TempDir;

pub mod again;
pub mod canned;
pub mod fake_gcs;
pub mod gate;
pub mod http1;
pub mod log;
pub mod proxy;
pub mod recording;
pub mod served;
pub mod servers;
pub mod stores;
pub mod time;
pub mod trace;

/// An hour long over.
pub const PARTITION: &str = "db/cpu/2025/10/08/14";

/// Serialises the making and sweeping of staging folders; never removed.
pub const STAGING_LOCK: &str = "_compaction_staging/.arc-lock";

/// Data, state and temp folder of one test.
#[derive(Debug)]
pub struct Arc {
    dir: TempDir,
}

impl Arc {
    /// Two files are enough for a compaction; everything else is as shipped.
    pub fn new() -> Self {
        Self::with("min_files = 2")
    }

    /// With these lines in the `[compaction]` section.
    pub fn with(settings: &str) -> Self {
        let arc = Self { dir: TempDir::new().unwrap() };
        fs::create_dir(arc.data()).unwrap();
        arc.configure(settings);
        arc
    }

    /// Replaces the lines of the `[compaction]` section.
    pub fn configure(&self, settings: &str) {
        let text = format!(
            "[storage.local]\nbase_path = '{}'\n[state]\ndb_path = '{}'\n[compaction]\ntemp_dir = '{}'\n{settings}\n",
            self.data().display(),
            self.dir.path().join("arc.db").display(),
            self.temp().display(),
        );
        fs::write(self.config_file(), text).unwrap();
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn temp(&self) -> PathBuf {
        self.dir.path().join("temp")
    }

    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("arc.conf")
    }

    pub fn storage(&self) -> Storage {
        Storage::local(&self.data()).unwrap()
    }

    /// The folder of a partition.
    pub fn folder(&self, partition: &str) -> PathBuf {
        self.data().join(partition)
    }

    /// Writes the result of a query as a raw Parquet file, as ingestion does, an hour ago.
    pub fn write(&self, partition: &str, name: &str, query: &str) -> PathBuf {
        let path = self.folder(partition).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        copy(query, &path, "FORMAT parquet, COMPRESSION snappy");
        age(&path);
        path
    }

    /// Puts bytes there as a raw file.
    pub fn put(&self, partition: &str, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder(partition).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        age(&path);
        path
    }

    /// Ten files of telemetry in the usual partition: sorted, consecutive, `rows` rows each.
    pub fn write_telemetry(&self, partition: &str, files: usize, rows: usize) {
        for number in 0..files {
            let (first, end) = (number * rows, (number + 1) * rows);
            self.write(partition, &format!("cpu_{number:04}.parquet"), &telemetry(first, end));
        }
    }

    /// The program, with this configuration and none of the environment's.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("arc").unwrap();
        command.env_clear();
        #[allow(clippy::disallowed_methods, reason = "a test that links a shared DuckDB has to find it")]
        if let Ok(path) = std::env::var("LD_LIBRARY_PATH") {
            command.env("LD_LIBRARY_PATH", path);
        }
        command.current_dir(self.dir.path()).arg("--config").arg(self.config_file()).args(arguments);
        command
    }

    /// `arc compact --json`, whatever its exit code.
    pub fn compact(&self) -> Run {
        Run::of(&mut self.command(&["compact", "--json"]))
    }

    /// `arc compact --json` that must end with exit code 0.
    pub fn compact_well(&self) -> Value {
        let run = self.compact();
        assert_eq!(run.code, 0, "{run:#?}");
        run.json()
    }

    /// Names of the data files that count.
    pub fn live(&self, partition: &str) -> Vec<String> {
        self.snapshot(partition).files.into_iter().map(|f| f.name).collect()
    }

    pub fn snapshot(&self, partition: &str) -> Snapshot {
        let id: PartitionId = partition.parse().unwrap();
        let storage = self.storage();
        // On a thread of its own: some tests that ask are asynchronous themselves.
        thread::scope(|s| s.spawn(|| block_on(snapshot::live_files(&storage, &id))).join().unwrap()).unwrap()
    }

    /// Paths of the data files that count.
    pub fn live_paths(&self, partition: &str) -> Vec<PathBuf> {
        self.live(partition).into_iter().map(|name| self.folder(partition).join(name)).collect()
    }

    /// Every row of the files that count, as text, sorted: a multiset that can be compared.
    pub fn rows(&self, partition: &str) -> Vec<String> {
        rows_of(&self.live_paths(partition))
    }

    /// Everything below the data folder: path, size, modification time. The empty lock file of the staging area, which
    /// stays when a job had to publish once, says nothing.
    pub fn storage_state(&self) -> BTreeMap<PathBuf, (u64, SystemTime)> {
        tree(&self.data()).into_iter().filter(|(path, _)| !path.ends_with(STAGING_LOCK)).collect()
    }

    /// I5: nothing is left of any attempt: no temp folder, no staging folder, no dead file, no fragment.
    pub fn assert_nothing_left_over(&self, partition: &str) {
        let ids =
            |dir: PathBuf| -> Vec<PathBuf> { tree(&dir).into_keys().filter(|p| !p.ends_with(".arc-lock")).collect() };
        assert_eq!(ids(self.temp()), Vec::<PathBuf>::new(), "temp folder");
        assert_eq!(ids(self.data().join("_compaction_staging")), Vec::<PathBuf>::new(), "staging folder");
        let live = self.live(partition);
        let listed: Vec<String> = fs::read_dir(self.folder(partition))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "_compaction")
            .collect();
        for name in &listed {
            assert!(live.contains(name), "{name} is left over; live are {live:?}");
        }
    }
}

/// Makes a file an hour old, so that its writer is taken to be done.
#[allow(clippy::disallowed_methods, reason = "a file's age is measured by the machine's clock")]
pub fn age(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_hours(1)).unwrap();
}

/// What a run of the program left.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn of(command: &mut Command) -> Self {
        Self::from(command.output().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Telemetry rows `first..end`, one a millisecond from the start of the hour.
pub fn telemetry(first: usize, end: usize) -> String {
    format!(
        "SELECT make_timestamp(1759932000000000 + i * 1000) AS time, printf('server-%03d', i % 100) AS host, \
         round((hash(i) % 10000) / 100.0, 2) AS usage_idle, (i * 7)::BIGINT AS counter FROM range({first}, {end}) r(i)"
    )
}

/// The same with three columns that do not compress: 24 bytes a row.
pub fn incompressible(first: usize, end: usize) -> String {
    format!(
        "SELECT *, hash(counter) AS h1, hash(counter + 1) AS h2, hash(counter + 2) AS h3 FROM ({})",
        telemetry(first, end)
    )
}

pub fn copy(query: &str, path: &Path, options: &str) {
    let path = path.display().to_string().replace('\'', "''");
    let db = Connection::open_in_memory().unwrap();
    db.execute_batch(&format!("COPY ({query}) TO '{path}' ({options})")).unwrap_or_else(|e| panic!("{query}: {e}"));
}

/// `read_parquet` over exactly these files. A literal path that exists is not taken for a pattern.
pub fn table(files: &[PathBuf]) -> String {
    let names: Vec<String> =
        files.iter().map(|f| format!("'{}'", f.display().to_string().replace('\'', "''"))).collect();
    format!("read_parquet([{}], union_by_name = true, hive_partitioning = false)", names.join(", "))
}

/// Every row as text, columns by name, sorted.
pub fn rows_of(files: &[PathBuf]) -> Vec<String> {
    try_rows_of(files).unwrap()
}

pub fn try_rows_of(files: &[PathBuf]) -> duckdb::Result<Vec<String>> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let db = Connection::open_in_memory()?;
    let table = table(files);
    let mut columns = strings(&db, &format!("SELECT column_name FROM (DESCRIBE SELECT * FROM {table})"))?;
    columns.sort();
    let columns: Vec<String> = columns.iter().map(|c| format!("\"{}\"", c.replace('"', "\"\""))).collect();
    let mut rows = strings(&db, &format!("SELECT row({})::VARCHAR FROM {table}", columns.join(", ")))?;
    rows.sort();
    Ok(rows)
}

/// Row count, xor and sum of row hashes: quick to compare.
pub fn fingerprint(files: &[PathBuf]) -> duckdb::Result<String> {
    let db = Connection::open_in_memory()?;
    let sql = format!(
        "SELECT printf('%d %x %s', count(*), bit_xor(hash(t)), sum(hash(t)::HUGEINT)::VARCHAR) FROM {} t",
        table(files)
    );
    db.query_row(&sql, [], |row| row.get(0))
}

/// The one text column of a query.
pub fn strings(db: &Connection, sql: &str) -> duckdb::Result<Vec<String>> {
    let mut statement = db.prepare(sql)?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// One text value of a query in a database of its own.
pub fn value(sql: &str) -> String {
    Connection::open_in_memory().unwrap().query_row(sql, [], |row| row.get(0)).unwrap_or_else(|e| panic!("{sql}: {e}"))
}

/// Files below `dir`, with size and modification time. An absent folder has none.
pub fn tree(dir: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let metadata = entry.metadata().unwrap();
                found.insert(entry.path(), (metadata.len(), metadata.modified().unwrap()));
            }
        }
    }
    found
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// Cases under way at a time: each waits for a server most of its time.
const CASES_IN_FLIGHT: usize = 3;

/// Runs a case with each of these numbers, several at a time.
pub fn each(numbers: impl IntoIterator<Item = usize>, case: impl Fn(usize) + Sync) {
    again::each_at_once(CASES_IN_FLIGHT, numbers, usize::to_string, case);
}
