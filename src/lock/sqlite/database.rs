//! The SQLite file behind the leases: opening, migrations, and the one thread that uses the connection.
//!
//! SQLite blocks, so it never runs on an async thread. One thread owns the connection and does one piece of work after
//! another; the queue to it is bounded. When the handle goes, the queue ends, the thread closes the file cleanly and is
//! waited for.

use std::fmt;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::super::LockError;

/// How long SQLite waits for another process that is writing, before it reports "busy".
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between attempts to open a busy file.
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// Work waiting for the thread. More callers wait before they may queue theirs.
const QUEUE: usize = 64;

/// Migration `n` (from 0) takes the file from version `n` to `n + 1`. Never edited, only appended to.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE compaction_locks (
        partition_path TEXT PRIMARY KEY NOT NULL,
        worker_id      TEXT NOT NULL,
        locked_at      TEXT NOT NULL,
        expires_at     TEXT NOT NULL,
        token          INTEGER NOT NULL
    );
    CREATE TABLE compaction_lock_tokens (
        only_row   INTEGER PRIMARY KEY CHECK (only_row = 1),
        last_token INTEGER NOT NULL
    );
    INSERT INTO compaction_lock_tokens VALUES (1, 0);
"];

type Work = Box<dyn FnOnce(&mut Connection) + Send>;

/// A handle to the thread that owns the connection.
pub(super) struct Database {
    path: String,
    /// `None` only while dropping.
    queue: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

/// Why a piece of work failed.
pub(super) enum Failure {
    Sqlite(rusqlite::Error),
    /// A row that nobody of us wrote.
    Row {
        partition_path: String,
        column: String,
        value: String,
    },
}

impl Failure {
    pub(super) fn row(partition_path: &str, column: &str, value: &str) -> Self {
        Self::Row { partition_path: partition_path.to_owned(), column: column.to_owned(), value: value.to_owned() }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Database {
    pub(super) fn open(db_path: &Path) -> Result<Self, LockError> {
        let path = db_path.display().to_string();
        if let Some(folder) = db_path.parent()
            && let Err(error) = std::fs::create_dir_all(folder)
        {
            let detail = format!("its folder cannot be created ({error}): correct the path or the rights");
            return Err(LockError::Unusable { path, detail });
        }
        let mut connection = connect_patiently(db_path).map_err(|failure| describe(&path, failure))?;
        let (queue, mut works) = mpsc::channel::<Work>(QUEUE);
        let thread = std::thread::Builder::new().name("arc-locks".to_owned()).spawn(move || {
            while let Some(work) = works.blocking_recv() {
                work(&mut connection);
            }
        });
        match thread {
            Ok(thread) => Ok(Self { path, queue: Some(queue), thread: Some(thread) }),
            Err(error) => Err(LockError::Unavailable { path, detail: format!("no thread for it: {error}") }),
        }
    }

    /// Does `work` on the thread and waits for the answer.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, LockError> {
        self.call_or_undo(work, |_, _| ()).await
    }

    /// The same; when the caller has stopped waiting by the time that it is done, `undo` gets the answer instead.
    pub(super) async fn call_or_undo<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
        undo: impl FnOnce(&mut Connection, T) + Send + 'static,
    ) -> Result<T, LockError> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            let done = work(connection);
            if let Err(Ok(unclaimed)) = reply.send(done) {
                undo(connection, unclaimed);
            }
        });
        let ended = || LockError::Unavailable { path: self.path.clone(), detail: "its thread has ended".to_owned() };
        let queue = self.queue.as_ref().ok_or_else(ended)?;
        queue.send(work).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?.map_err(|failure| describe(&self.path, failure))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, and then there is nothing left to close.
            let _ = thread.join();
        }
    }
}

/// Connects, again and again while the file is busy, for as long as a statement would wait.
///
/// SQLite waits by itself almost everywhere, but not while another process switches a new file to the write-ahead log or
/// removes that log as the last to leave: then it answers "locked" at once.
fn connect_patiently(path: &Path) -> Result<Connection, Failure> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match connect(path) {
            Err(Failure::Sqlite(error)) if is_busy(&error) && Instant::now() < deadline => {
                std::thread::sleep(BUSY_PAUSE);
            }
            result => return result,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn connect(path: &Path) -> Result<Connection, Failure> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // Without a sync per commit a power cut may take back the last leases, but with them their holders.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    migrate(&mut connection)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> Result<(), Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Some(pending) = usize::try_from(version).ok().and_then(|version| MIGRATIONS.get(version..)) else {
        return Err(Failure::Sqlite(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_SCHEMA),
            Some(format!("version {version}, this program knows up to {}", MIGRATIONS.len())),
        )));
    };
    if pending.is_empty() {
        return Ok(());
    }
    for migration in pending {
        transaction.execute_batch(migration)?;
        version += 1;
    }
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()?;
    Ok(())
}

/// Says what happened and what to do. A failure that time may heal is `Unavailable`.
fn describe(path: &str, failure: Failure) -> LockError {
    const MOVE_AWAY: &str = "move it away and a new one is created (deleting it loses history, never data)";
    let path = path.to_owned();
    let error = match failure {
        Failure::Sqlite(error) => error,
        Failure::Row { partition_path, column, value } => {
            let detail = format!(
                "table compaction_locks, partition_path {partition_path:?}: {column} {value:?} cannot be read: delete that row"
            );
            return LockError::Unusable { path, detail };
        }
    };
    let unusable = |what: &str| LockError::Unusable { path: path.clone(), detail: format!("{what} ({error})") };
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => unusable(&format!("not an SQLite file: {MOVE_AWAY}")),
        Some(ErrorCode::DatabaseCorrupt) => unusable(&format!("damaged: {MOVE_AWAY}")),
        Some(ErrorCode::SchemaChanged) => {
            unusable(&format!("written by a newer version: use that version, or {MOVE_AWAY}"))
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            unusable("cannot be opened: it must be a file that the service may read and write, in a folder likewise")
        }
        Some(ErrorCode::ReadOnly) => unusable("read-only: make the file and its folder writable for the service"),
        Some(ErrorCode::DiskFull) => unusable("no space left on its disk: free space"),
        _ => LockError::Unavailable { detail: error.to_string(), path },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::ffi;

    fn described(code: i32) -> LockError {
        describe("/data/arc.db", Failure::Sqlite(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)))
    }

    #[test]
    fn what_someone_must_act_on_is_unusable_and_what_time_heals_is_unavailable() {
        for code in
            [ffi::SQLITE_NOTADB, ffi::SQLITE_CORRUPT, ffi::SQLITE_CANTOPEN, ffi::SQLITE_READONLY, ffi::SQLITE_FULL]
        {
            assert!(matches!(described(code), LockError::Unusable { .. }), "{code}");
        }
        for code in [ffi::SQLITE_BUSY, ffi::SQLITE_LOCKED, ffi::SQLITE_IOERR] {
            assert!(matches!(described(code), LockError::Unavailable { .. }), "{code}");
        }
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("arc.db");
        let newer = 1_000;
        Connection::open(&path).unwrap().pragma_update(None, "user_version", newer).unwrap();
        let error = Database::open(&path).unwrap_err();
        assert!(error.to_string().contains("newer version"), "{error}");
        let kept: i64 =
            Connection::open(&path).unwrap().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(kept, newer);
    }
}
