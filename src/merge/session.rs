//! One DuckDB instance for one merge: opened, closed off, watched.
//!
//! What must hold: it opens nothing but the inputs it was given and the work folder, no network, no extension that is not
//! linked in; it stays within its memory, threads and temporary space; a running statement ends soon after the token is
//! cancelled. An instance that met an internal error is dead, so none outlives its merge.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ::duckdb::{Config, Connection};
use tokio_util::sync::CancellationToken;

use super::budget::Budget;
use super::verify::Fingerprint;
use super::{MergeError, MergeLimits, sql};

/// How often the token is looked at. An interrupt that arrives just before its statement starts is lost, so it is repeated
/// at this pace until the statement has given up.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);

/// Instances opened by this process: gives each a spill folder of its own.
static OPENED: AtomicUsize = AtomicUsize::new(0);

/// Why a statement failed, as far as it decides what to do next.
#[derive(Debug)]
pub(super) enum StatementError {
    Cancelled,
    OutOfMemory(String),
    /// The temporary space that the request allows is used up.
    SpillFull(String),
    /// The disk is full.
    DiskFull(String),
    /// Anything else; most often a file that cannot be read.
    Other(String),
}

/// An open, closed-off DuckDB.
#[derive(Debug)]
pub(super) struct Session {
    /// Ends before the connection does.
    _watch: Watch,
    connection: Connection,
    cancel: CancellationToken,
}

impl Session {
    /// Opens an instance that can read `files` (real, absolute paths), also through links in `work_dir`, and write in `work_dir`.
    pub(super) fn open(
        work_dir: &str,
        files: &[String],
        limits: &MergeLimits,
        budget: &Budget,
        cancel: &CancellationToken,
    ) -> Result<Self, MergeError> {
        // DuckDB names spill files by size and number alone, and opens what is there: instances that shared a folder would
        // overwrite each other's. It makes and removes this one itself.
        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        let spill = PathBuf::from(work_dir).join("spill").join(number.to_string());
        let config = [
            ("threads", budget.threads.to_string()),
            ("memory_limit", format!("{} B", budget.duckdb_bytes)),
            ("temp_directory", utf8(&spill)?.to_owned()),
            // A stray cast must not reach for the network to find an extension.
            ("autoinstall_known_extensions", "false".to_owned()),
            ("autoload_known_extensions", "false".to_owned()),
        ]
        .into_iter()
        .try_fold(Config::default(), |config, (key, value)| config.with(key, value))
        .map_err(|e| MergeError::Engine(format!("configure duckdb: {e}")))?;
        let connection = Connection::open_in_memory_with_flags(config)
            .map_err(|e| MergeError::Engine(format!("open duckdb: {e}")))?;
        let watch = Watch::start(&connection, cancel.clone());
        let session = Self { _watch: watch, connection, cancel: cancel.clone() };
        let setup = session.in_utc().and_then(|()| {
            sql::lock_down(files, work_dir, limits.temp_bytes).iter().try_for_each(|s| session.execute(s).map(|_| ()))
        });
        setup.map_err(|e| match e {
            StatementError::Cancelled => MergeError::Cancelled,
            StatementError::OutOfMemory(m)
            | StatementError::SpillFull(m)
            | StatementError::DiskFull(m)
            | StatementError::Other(m) => MergeError::Engine(format!("set up duckdb: {m}")),
        })?;
        Ok(session)
    }

    /// Runs a statement; the number of rows it wrote.
    pub(super) fn execute(&self, statement: &str) -> Result<u64, StatementError> {
        self.run(|c| c.execute(statement, [])).map(|rows| rows as u64)
    }

    /// Runs a statement that returns one fingerprint.
    pub(super) fn fingerprint(&self, statement: &str) -> Result<Fingerprint, StatementError> {
        self.run(|c| {
            c.query_row(statement, [], |row| Ok(Fingerprint { rows: row.get(0)?, xor: row.get(1)?, sum: row.get(2)? }))
        })
    }

    /// Runs a statement that returns one number.
    pub(super) fn number(&self, statement: &str) -> Result<u64, StatementError> {
        self.run(|c| c.query_row(statement, [], |row| row.get(0)))
    }

    /// The engine's name and version.
    pub(super) fn version(&self) -> Result<String, MergeError> {
        let version = self.connection.version().map_err(|error| {
            // An interrupt may reach this statement like any other.
            if self.cancel.is_cancelled() {
                MergeError::Cancelled
            } else {
                MergeError::Engine(format!("read duckdb's version: {error}"))
            }
        })?;
        Ok(format!("duckdb {version}"))
    }

    /// Times without a zone are UTC. The setting exists only where the ICU extension is linked in.
    fn in_utc(&self) -> Result<(), StatementError> {
        let find = "SELECT count(*) FROM duckdb_settings() WHERE name = 'TimeZone'";
        let found: u64 = self.run(|c| c.query_row(find, [], |row| row.get(0)))?;
        if found > 0 {
            self.execute("SET TimeZone = 'UTC'")?;
        }
        Ok(())
    }

    fn run<T>(&self, statement: impl FnOnce(&Connection) -> ::duckdb::Result<T>) -> Result<T, StatementError> {
        if self.cancel.is_cancelled() {
            return Err(StatementError::Cancelled);
        }
        statement(&self.connection).map_err(|error| {
            if self.cancel.is_cancelled() { StatementError::Cancelled } else { classify(&error.to_string()) }
        })
    }
}

/// DuckDB's C interface gives an error's class only as the beginning of its text.
fn classify(message: &str) -> StatementError {
    let has = |part: &str| message.contains(part);
    // Temporary space that ran out is reported as memory that ran out; so it is looked for first.
    if has("No space left") || has("Disk quota exceeded") {
        StatementError::DiskFull(message.to_owned())
    } else if has("max_temp_directory_size") {
        StatementError::SpillFull(message.to_owned())
    } else if has("Out of Memory Error") || has("std::bad_alloc") || has("failed to allocate") {
        StatementError::OutOfMemory(message.to_owned())
    } else {
        StatementError::Other(message.to_owned())
    }
}

/// A path as text: DuckDB knows no other.
pub(super) fn utf8(path: &Path) -> Result<&str, MergeError> {
    path.to_str().ok_or_else(|| MergeError::Engine(format!("path {} is not valid UTF-8", path.display())))
}

/// The thread that turns a cancelled token into interrupts. It ends when this is dropped.
#[derive(Debug)]
struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn start(connection: &Connection, cancel: CancellationToken) -> Self {
        let interrupt = connection.interrupt_handle();
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(WATCH_INTERVAL) {
                if cancel.is_cancelled() {
                    interrupt.interrupt();
                }
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Closing the channel wakes the thread at once.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and a merge that has its result must not fail for it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    const LIMITS: MergeLimits = MergeLimits {
        memory_bytes: 256 << 20,
        threads: NonZeroUsize::MIN,
        temp_bytes: Some(1 << 20),
        means: crate::merge::Means::All,
    };
    const BUDGET: Budget = Budget { threads: 1, duckdb_bytes: 128 << 20 };

    fn open(work_dir: &Path, files: &[String], cancel: &CancellationToken) -> Session {
        Session::open(work_dir.to_str().expect("a UTF-8 path"), files, &LIMITS, &BUDGET, cancel).expect("opens")
    }

    /// DuckDB names spill files by size and number alone, and opens what is there: two instances must not share a folder.
    #[test]
    fn each_instance_spills_into_a_folder_of_its_own() {
        let dir = tempfile::tempdir().expect("a folder");
        let work = dir.path().canonicalize().expect("exists");
        std::fs::create_dir(work.join("spill")).expect("created");
        let limits = MergeLimits { temp_bytes: None, ..LIMITS };
        let text = work.to_str().expect("UTF-8");
        let sessions =
            [(); 2].map(|()| Session::open(text, &[], &limits, &BUDGET, &CancellationToken::new()).expect("opens"));
        let folders = sessions.each_ref().map(|session| {
            let folder: String = session
                .run(|c| c.query_row("SELECT current_setting('temp_directory')", [], |row| row.get(0)))
                .expect("a setting");
            // 300 MB of text do not fit into 128 MiB.
            let large = "CREATE TEMP TABLE large AS SELECT repeat(md5(i::VARCHAR), 16) AS text FROM range(600000) r(i)";
            session.execute(large).expect("spilled");
            assert!(std::fs::read_dir(&folder).expect("a folder").count() > 0, "nothing was spilled into {folder}");
            folder
        });
        assert_ne!(folders[0], folders[1]);
        assert!(folders.iter().all(|folder| Path::new(folder).starts_with(work.join("spill"))), "{folders:?}");
    }

    /// T52: DuckDB can reach no other folder, so nothing spills elsewhere.
    #[test]
    fn only_the_inputs_and_the_work_folder_can_be_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().canonicalize().expect("exists");
        let (work, other) = (root.join("work[1]*"), root.join("other"));
        std::fs::create_dir_all(work.join("in")).expect("created");
        std::fs::create_dir(&other).expect("created");
        let connection = Connection::open_in_memory().expect("opens");
        let real: Vec<String> = ["allowed'*", "secret"]
            .iter()
            .map(|name| {
                let path = other.join(format!("{name}.parquet")).to_str().expect("UTF-8").to_owned();
                let copy = format!("COPY (SELECT 7 AS v) TO {} (FORMAT parquet)", sql::literal(&path));
                connection.execute_batch(&copy).expect("written");
                path
            })
            .collect();
        let session = open(&work, &real[..1], &CancellationToken::new());
        let open_file = |path: &str| {
            let list = sql::literals([sql::without_glob(path).as_str()]);
            session.fingerprint(&format!("SELECT count(*), 0::UBIGINT, 0::HUGEINT FROM read_parquet({list})"))
        };
        for (name, target) in ["good", "bad"].iter().zip(&real) {
            std::os::unix::fs::symlink(target, work.join(format!("in/{name}.parquet"))).expect("linked");
        }
        let link = |name: &str| format!("{}/in/{name}.parquet", work.display());
        assert_eq!(open_file(&link("good")).expect("allowed").rows, 1);
        let refused = [
            link("bad"),
            real[1].clone(),
            format!("{}/../other/secret.parquet", work.display()),
            "/etc/passwd".to_owned(),
            "https://127.0.0.1:1/x.parquet".to_owned(),
        ];
        for path in refused {
            assert!(matches!(open_file(&path), Err(StatementError::Other(_))), "{path} was not refused");
        }
        for statement in [
            "SET enable_external_access = true".to_owned(),
            "SET threads = 8".to_owned(),
            "INSTALL httpfs".to_owned(),
            format!("COPY (SELECT 1) TO {}", sql::literal(&format!("{}/x.parquet", other.display()))),
        ] {
            assert!(session.execute(&statement).is_err(), "{statement} was not refused");
        }
        session
            .execute(&format!("COPY (SELECT 1) TO {}", sql::literal(&link("own"))))
            .expect("the work folder is ours");
    }

    #[test]
    fn a_running_statement_ends_when_the_token_is_cancelled() {
        let dir = tempfile::tempdir().expect("a folder");
        let cancel = CancellationToken::new();
        let session = open(dir.path(), &[], &cancel);
        let canceller = thread::spawn(move || cancel.cancel());
        let endless = "SELECT count(*), 0::UBIGINT, 0::HUGEINT FROM range(1000000000000) a, range(1000000) b";
        assert!(matches!(session.fingerprint(endless), Err(StatementError::Cancelled)));
        canceller.join().expect("ended");
    }

    #[test]
    fn errors_are_told_apart_by_what_can_be_done() {
        let kind = |message: &str| match classify(message) {
            StatementError::Cancelled => "cancelled",
            StatementError::OutOfMemory(_) => "memory",
            StatementError::SpillFull(_) => "spill",
            StatementError::DiskFull(_) => "disk",
            StatementError::Other(_) => "other",
        };
        assert_eq!(kind("Out of Memory Error: could not allocate block of size 256.0 KiB"), "memory");
        assert_eq!(
            kind(
                "Out of Memory Error: failed to offload data block. This limit was set by the 'max_temp_directory_size' setting"
            ),
            "spill"
        );
        assert_eq!(kind("IO Error: Could not write all bytes to file: No space left on device"), "disk");
        assert_eq!(kind("Invalid Input Error: No magic bytes found at end of file"), "other");
    }
}
