//! The tables of the state database, as numbered migrations.
//!
//! Migration `n` (from 0) takes the file from version `n` to `n + 1`. Never edited, only appended to: files of every
//! earlier version are out there. Times are UTC text, `YYYY-MM-DD HH:MM:SS` in the locks (so that the documented
//! `DELETE … WHERE expires_at < datetime('now')` works) and RFC 3339 with milliseconds everywhere else.

use rusqlite::{Connection, TransactionBehavior};

use super::Failure;

const MIGRATIONS: &[&str] = &[
    // 1: leases.
    "
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
    ",
    // 2: history and totals, attempts, quarantine, the service's own switches, tokens of the API.
    "
    CREATE TABLE compaction_jobs (
        number         INTEGER PRIMARY KEY AUTOINCREMENT,
        job_id         TEXT UNIQUE NOT NULL,
        database       TEXT NOT NULL,
        partition_path TEXT NOT NULL,
        status         TEXT NOT NULL,
        completed_at   TEXT NOT NULL,
        report         TEXT NOT NULL
    );
    CREATE INDEX compaction_jobs_by_database ON compaction_jobs (database, number);
    CREATE INDEX compaction_jobs_by_status ON compaction_jobs (status, number);
    CREATE TABLE compaction_totals (
        database        TEXT PRIMARY KEY NOT NULL,
        jobs_completed  INTEGER NOT NULL,
        jobs_failed     INTEGER NOT NULL,
        jobs_cancelled  INTEGER NOT NULL,
        files_compacted INTEGER NOT NULL,
        files_written   INTEGER NOT NULL,
        rows            INTEGER NOT NULL,
        bytes_before    INTEGER NOT NULL,
        bytes_after     INTEGER NOT NULL,
        last_success_at TEXT
    );
    CREATE TABLE compaction_attempts (
        partition_path  TEXT PRIMARY KEY NOT NULL,
        inputs          TEXT NOT NULL,
        attempts        INTEGER NOT NULL,
        last_started_at TEXT NOT NULL,
        not_before      TEXT,
        last_error      TEXT,
        until_changed   INTEGER NOT NULL
    );
    CREATE TABLE compaction_quarantine (
        id             INTEGER PRIMARY KEY AUTOINCREMENT,
        database       TEXT NOT NULL,
        partition_path TEXT NOT NULL,
        name           TEXT NOT NULL,
        size_bytes     INTEGER NOT NULL,
        etag           TEXT NOT NULL,
        reason         TEXT NOT NULL,
        version        TEXT NOT NULL,
        first_seen_at  TEXT NOT NULL,
        retry_at       TEXT NOT NULL,
        UNIQUE (partition_path, name)
    );
    CREATE TABLE service_switches (
        name  TEXT PRIMARY KEY NOT NULL,
        value TEXT NOT NULL
    );
    CREATE TABLE api_tokens (
        name       TEXT PRIMARY KEY NOT NULL,
        hash       BLOB UNIQUE NOT NULL,
        role       TEXT NOT NULL,
        created_at TEXT NOT NULL
    );
    ",
    // 3: when measurements were last looked at as a whole.
    "
    CREATE TABLE compaction_sweeps (
        database    TEXT NOT NULL,
        measurement TEXT NOT NULL,
        swept_at    TEXT NOT NULL,
        PRIMARY KEY (database, measurement)
    );
    ",
];

/// Brings the file to this program's version. A file of a newer version is refused and left alone.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), Failure> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_first_version_keeps_its_leases() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(MIGRATIONS[0]).unwrap();
        connection.execute("INSERT INTO compaction_locks VALUES ('a/b/2025/10/08/14', 'w', 'x', 'y', 7)", []).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        migrate(&mut connection).unwrap();
        let token: i64 = connection.query_row("SELECT token FROM compaction_locks", [], |r| r.get(0)).unwrap();
        let jobs: i64 = connection.query_row("SELECT count(*) FROM compaction_jobs", [], |r| r.get(0)).unwrap();
        assert_eq!((token, jobs), (7, 0));
    }

    #[test]
    fn a_file_of_this_version_is_left_as_it_is() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        connection.execute("INSERT INTO service_switches VALUES ('paused', 'true')", []).unwrap();
        migrate(&mut connection).unwrap();
        let value: String = connection.query_row("SELECT value FROM service_switches", [], |r| r.get(0)).unwrap();
        assert_eq!(value, "true");
    }
}
