//! What can go wrong with the state database, in words that say what to do.

use rusqlite::ErrorCode;

/// Why the state database could not do something. Variants are named by what the caller can do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The file is unusable: wrong format, corrupt, no permission. Someone must act; the message says what.
    #[error("state database {path}: {detail}")]
    Unusable {
        /// The file.
        path: String,
        /// What is wrong and what to do.
        detail: String,
    },
    /// The database did not answer in time or failed for now; the operation may have happened.
    #[error("state database {path} did not answer: {detail}")]
    Unavailable {
        /// The file.
        path: String,
        /// What SQLite said.
        detail: String,
    },
}

/// Why a piece of work failed.
#[derive(Debug)]
pub enum Failure {
    Sqlite(rusqlite::Error),
    /// A row that nobody of us wrote.
    Row {
        table: &'static str,
        /// Which row: the value of its key.
        key: String,
        column: String,
        value: String,
    },
}

impl Failure {
    #[must_use]
    pub fn row(table: &'static str, key: &str, column: &str, value: &str) -> Self {
        Self::Row { table, key: key.to_owned(), column: column.to_owned(), value: value.to_owned() }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Says what happened and what to do. A failure that time may heal is `Unavailable`.
pub(super) fn describe(path: &str, failure: Failure) -> StateError {
    const MOVE_AWAY: &str = "move it away and a new one is created (deleting it loses history, never data)";
    let path = path.to_owned();
    let error = match failure {
        Failure::Sqlite(error) => error,
        Failure::Row { table, key, column, value } => {
            let detail = format!("table {table}, row {key:?}: {column} {value:?} cannot be read: delete that row");
            return StateError::Unusable { path, detail };
        }
    };
    let unusable = |what: &str| StateError::Unusable { path: path.clone(), detail: format!("{what} ({error})") };
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
        _ => StateError::Unavailable { detail: error.to_string(), path },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::ffi;

    fn described(code: i32) -> StateError {
        describe("/data/arc.db", Failure::Sqlite(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)))
    }

    #[test]
    fn what_someone_must_act_on_is_unusable_and_what_time_heals_is_unavailable() {
        for code in
            [ffi::SQLITE_NOTADB, ffi::SQLITE_CORRUPT, ffi::SQLITE_CANTOPEN, ffi::SQLITE_READONLY, ffi::SQLITE_FULL]
        {
            assert!(matches!(described(code), StateError::Unusable { .. }), "{code}");
        }
        for code in [ffi::SQLITE_BUSY, ffi::SQLITE_LOCKED, ffi::SQLITE_IOERR] {
            assert!(matches!(described(code), StateError::Unavailable { .. }), "{code}");
        }
    }
}
