//! A handle to the file: opening it, and the threads that use it.
//!
//! One thread owns a connection and does one piece of work after another. When the last handle goes, the queues end, the
//! threads close the file cleanly and are waited for.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use super::error::{Failure, StateError, describe};
use super::migrations::migrate;
use super::watch::{Access, Watch};

/// How long SQLite waits for another process that is writing, before it reports "busy".
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between attempts to open a busy file.
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// Work waiting for a thread. More callers wait before they may queue theirs.
const QUEUE: usize = 64;

type Work = Box<dyn FnOnce(&mut Connection) + Send>;

/// The state database. Clones are handles to the same connections.
#[derive(Clone)]
pub struct StateDb {
    inner: Arc<Inner>,
    watch: Option<Arc<dyn Watch>>,
}

struct Inner {
    path: String,
    connections: Connections,
}

enum Connections {
    /// A file.
    Threads { writer: Worker, reader: Worker },
    /// In memory: every piece of work is done at once, on the caller's thread.
    Inline(Mutex<Connection>),
}

impl fmt::Debug for StateDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateDb").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl StateDb {
    /// Opens or creates the file, and its folder. Blocks while it does.
    ///
    /// # Errors
    /// [`StateError::Unusable`] when someone must act: not an SQLite file, no permission, read-only, a newer version.
    pub fn open(db_path: &Path) -> Result<Self, StateError> {
        let path = db_path.display().to_string();
        if let Some(folder) = db_path.parent()
            && let Err(error) = std::fs::create_dir_all(folder)
        {
            let detail = format!("its folder cannot be created ({error}): correct the path or the rights");
            return Err(StateError::Unusable { path, detail });
        }
        let connect = |open: fn(&Path) -> Result<Connection, Failure>| {
            patiently(|| open(db_path)).map_err(|failure| describe(&path, failure))
        };
        let no_thread =
            |error| StateError::Unavailable { path: path.clone(), detail: format!("no thread for it: {error}") };
        let writer = Worker::start("arc-state", connect(for_changes)?).map_err(no_thread)?;
        let reader = Worker::start("arc-state-read", connect(for_reading)?).map_err(no_thread)?;
        Ok(Self::over(Inner { path, connections: Connections::Threads { writer, reader } }))
    }

    /// A database that is gone with its last handle. Without threads, so that a program with a simulated clock stays
    /// deterministic.
    ///
    /// # Errors
    /// [`StateError::Unavailable`] when SQLite has no memory for it.
    pub fn in_memory() -> Result<Self, StateError> {
        let path = ":memory:".to_owned();
        let open = || {
            let mut connection = Connection::open_in_memory()?;
            migrate(&mut connection)?;
            Ok(connection)
        };
        let connection = open().map_err(|failure| describe(&path, failure))?;
        Ok(Self::over(Inner { path, connections: Connections::Inline(Mutex::new(connection)) }))
    }

    fn over(inner: Inner) -> Self {
        Self { inner: Arc::new(inner), watch: None }
    }

    /// The same database with something around every piece of work: that counts, records, holds up or injects faults.
    #[must_use]
    pub fn watched(self, watch: Arc<dyn Watch>) -> Self {
        Self { watch: Some(watch), ..self }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.inner.path
    }

    /// Does `work`, which may change something, and waits for the answer.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StateError> {
        self.write_or_undo(work, |_, _| ()).await
    }

    /// The same; when the caller has stopped waiting by the time that it is done, `undo` gets the answer instead.
    pub async fn write_or_undo<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
        undo: impl FnOnce(&mut Connection, T) + Send + 'static,
    ) -> Result<T, StateError> {
        self.before(Access::Write).await?;
        let done = match &self.inner.connections {
            Connections::Threads { writer, .. } => writer.call(&self.inner.path, work, undo).await,
            Connections::Inline(connection) => self.inline(connection, work),
        };
        self.after(Access::Write).await?;
        done
    }

    /// Does `work`, which changes nothing, and waits for the answer. It never waits for a change.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StateError> {
        self.before(Access::Read).await?;
        let done = match &self.inner.connections {
            Connections::Threads { reader, .. } => reader.call(&self.inner.path, work, |_, _| ()).await,
            Connections::Inline(connection) => self.inline(connection, work),
        };
        self.after(Access::Read).await?;
        done
    }

    async fn before(&self, access: Access) -> Result<(), StateError> {
        match &self.watch {
            Some(watch) => watch.before(access).await,
            None => Ok(()),
        }
    }

    async fn after(&self, access: Access) -> Result<(), StateError> {
        match &self.watch {
            Some(watch) => watch.after(access).await,
            None => Ok(()),
        }
    }

    fn inline<T>(
        &self,
        connection: &Mutex<Connection>,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, StateError> {
        let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut connection).map_err(|failure| describe(&self.inner.path, failure))
    }
}

/// A thread with a connection.
struct Worker {
    /// `None` only while dropping.
    queue: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(name: &str, mut connection: Connection) -> std::io::Result<Self> {
        let (queue, mut works) = mpsc::channel::<Work>(QUEUE);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Some(work) = works.blocking_recv() {
                work(&mut connection);
            }
        })?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    async fn call<T: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
        undo: impl FnOnce(&mut Connection, T) + Send + 'static,
    ) -> Result<T, StateError> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            let done = work(connection);
            if let Err(Ok(unclaimed)) = reply.send(done) {
                undo(connection, unclaimed);
            }
        });
        let ended = || StateError::Unavailable { path: path.to_owned(), detail: "its thread has ended".to_owned() };
        let queue = self.queue.as_ref().ok_or_else(ended)?;
        queue.send(work).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?.map_err(|failure| describe(path, failure))
    }
}

impl Drop for Worker {
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
fn patiently(connect: impl Fn() -> Result<Connection, Failure>) -> Result<Connection, Failure> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match connect() {
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

fn for_changes(path: &Path) -> Result<Connection, Failure> {
    let mut connection = connect(path)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    migrate(&mut connection)?;
    Ok(connection)
}

fn for_reading(path: &Path) -> Result<Connection, Failure> {
    let connection = connect(path)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn connect(path: &Path) -> Result<Connection, Failure> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Without a sync per commit a power cut may take back the last changes. Of leases it takes the holders with them.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("arc.db");
        let newer = 1_000;
        Connection::open(&path).unwrap().pragma_update(None, "user_version", newer).unwrap();
        let error = StateDb::open(&path).unwrap_err();
        assert!(error.to_string().contains("newer version"), "{error}");
        let kept: i64 =
            Connection::open(&path).unwrap().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(kept, newer);
    }

    #[test]
    fn the_reading_side_sees_changes_at_once_and_can_make_none() {
        let folder = tempfile::tempdir().unwrap();
        for state in [StateDb::open(&folder.path().join("arc.db")).unwrap(), StateDb::in_memory().unwrap()] {
            block_on(state.write(|c| Ok(c.execute("INSERT INTO service_switches VALUES ('a', 'b')", [])?))).unwrap();
            let query = |c: &mut Connection| Ok(c.query_row("SELECT value FROM service_switches", [], |r| r.get(0))?);
            assert_eq!(block_on(state.read::<String>(query)).unwrap(), "b");
        }
        let state = StateDb::open(&folder.path().join("arc.db")).unwrap();
        let refused = block_on(state.read(|c| Ok(c.execute("DELETE FROM service_switches", [])?)));
        assert!(matches!(refused, Err(StateError::Unusable { .. })), "{refused:?}");
    }

    #[test]
    fn reading_does_not_wait_for_a_change_of_another_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("arc.db");
        let state = StateDb::open(&path).unwrap();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE; INSERT INTO service_switches VALUES ('a', 'b')").unwrap();
        let started = Instant::now();
        let count: i64 =
            block_on(state.read(|c| Ok(c.query_row("SELECT count(*) FROM service_switches", [], |r| r.get(0))?)))
                .unwrap();
        assert_eq!(count, 0);
        assert!(started.elapsed() < BUSY_TIMEOUT);
    }
}
