//! Damaged files: found once, named, and left out of later compactions until they change or their time is over.
//!
//! ```text
//! a merge sets a file aside ──> quarantined: name, size, ETag, reason, program version, first seen, retry at
//! every plan                ──> made without the files that are held back
//! tried again               <── other size or ETag · retry_at has passed · another version of the program · cleared
//! forgotten                 <── the file is gone, or was merged
//! ```
//!
//! What must hold: nothing here touches a file (T11); a quarantined file keeps nobody else from being compacted (T30), and
//! costs nothing while it is held back: it is neither fetched nor decoded. Losing the table costs a repeated merge.
//!
//! Held back is a file whose defect is its own: it cannot be read, or it can be read but not be rewritten without loss
//! (which is no damage, but would be found out anew, by a merge, in every cycle). A file that was left out because of the
//! settings or of the files beside it (no sort column, no other file of its schema, too little memory) is not held
//! back: it may be welcome as soon as those change. That such files alone are not merged again and again is what [`super::backoff`] sees to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Row, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use super::ledger::{parse_time, shorten, time_text};
use crate::merge::{SetAside, SetAsideReason};
use crate::partition::{DataFile, PartitionId};
use crate::state::{Failure, StateDb, StateError};

/// Files that are remembered. Beyond that those that were seen first are forgotten: they are found again.
pub const MAX_QUARANTINED_FILES: usize = 10_000;

/// An expired entry is kept this long, for its `first_seen_at`, in case the file turns out to be damaged still.
pub const EXPIRED_KEPT: Duration = Duration::from_hours(7 * 24);

const TABLE: &str = "compaction_quarantine";
const COLUMNS: &str = "id, partition_path, name, size_bytes, etag, reason, version, first_seen_at, retry_at";

/// The table.
#[derive(Debug, Clone)]
pub struct Quarantine {
    state: StateDb,
}

/// A file that was found damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedFile {
    pub id: u64,
    pub partition: PartitionId,
    pub name: String,
    pub size_bytes: u64,
    pub etag: String,
    pub reason: SetAsideReason,
    /// The program that found it.
    pub version: String,
    pub first_seen_at: DateTime<Utc>,
    /// From then on it is tried again.
    pub retry_at: DateTime<Utc>,
}

/// An input of a job that the job put into quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedInput {
    pub name: String,
    pub size_bytes: u64,
    pub etag: String,
    pub reason: SetAsideReason,
    pub retry_at: DateTime<Utc>,
}

/// A quarantined file, as the API and `--json` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QuarantineReport {
    pub id: u64,
    pub database: String,
    pub measurement: String,
    /// Relative to the database.
    pub partition_path: String,
    pub name: String,
    pub size_bytes: u64,
    pub etag: String,
    pub reason: SetAsideReason,
    pub version: String,
    pub first_seen_at: DateTime<Utc>,
    pub retry_at: DateTime<Utc>,
}

/// Which entries are meant. The default is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuarantineFilter {
    pub database: Option<String>,
}

/// Whether a file that was left out for this reason is put into quarantine.
#[must_use]
pub fn is_its_own_defect(reason: &SetAsideReason) -> bool {
    match reason {
        SetAsideReason::Unreadable(_) | SetAsideReason::Unsupported(_) => true,
        SetAsideReason::NoSortColumn(_)
        | SetAsideReason::Alone(_)
        | SetAsideReason::TooLarge(_)
        | SetAsideReason::Unexamined(_) => false,
    }
}

/// The files of one partition that are held back at one moment: what the policy needs to know. Pure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldBack {
    files: BTreeMap<String, (u64, String, DateTime<Utc>)>,
}

impl HeldBack {
    /// Those whose time is not over, as this version of the program sees it.
    #[must_use]
    pub fn of(entries: &[QuarantinedFile], version: &str, now: DateTime<Utc>) -> Self {
        let holding = entries.iter().filter(|entry| entry.version == version && now < entry.retry_at);
        Self { files: holding.map(|e| (e.name.clone(), (e.size_bytes, e.etag.clone(), e.retry_at))).collect() }
    }

    /// Until when this very file is held back; another one of its name is not.
    #[must_use]
    pub fn until(&self, file: &DataFile) -> Option<DateTime<Utc>> {
        let (size_bytes, etag, retry_at) = self.files.get(&file.name)?;
        (*size_bytes == file.size_bytes && *etag == file.etag).then_some(*retry_at)
    }
}

impl QuarantinedFile {
    /// Whether this is the file that was found damaged.
    #[must_use]
    pub fn is(&self, file: &DataFile) -> bool {
        self.name == file.name && self.size_bytes == file.size_bytes && self.etag == file.etag
    }

    #[must_use]
    pub fn to_report(&self) -> QuarantineReport {
        QuarantineReport {
            id: self.id,
            database: self.partition.database().to_owned(),
            measurement: self.partition.measurement().to_owned(),
            partition_path: self.partition.path_in_database(),
            name: self.name.clone(),
            size_bytes: self.size_bytes,
            etag: self.etag.clone(),
            reason: self.reason.clone(),
            version: self.version.clone(),
            first_seen_at: self.first_seen_at,
            retry_at: self.retry_at,
        }
    }
}

/// Splits what a job left out: those with a defect of their own, and the rest. `inputs` are the job's, sorted by name.
#[must_use]
pub fn sort_out(
    inputs: &[DataFile],
    set_aside: Vec<SetAside>,
    retry_at: DateTime<Utc>,
) -> (Vec<QuarantinedInput>, Vec<SetAside>) {
    let (mut defective, mut sound) = (Vec::new(), Vec::new());
    for left_out in set_aside {
        let input = inputs.binary_search_by(|file| file.name.cmp(&left_out.name)).ok().map(|at| &inputs[at]);
        match input.filter(|_| is_its_own_defect(&left_out.reason)) {
            Some(file) => defective.push(QuarantinedInput {
                name: left_out.name,
                size_bytes: file.size_bytes,
                etag: file.etag.clone(),
                reason: left_out.reason,
                retry_at,
            }),
            None => sound.push(left_out),
        }
    }
    (defective, sound)
}

impl Quarantine {
    #[must_use]
    pub fn new(state: StateDb) -> Self {
        Self { state }
    }

    /// The entries, those first seen last first. At most [`MAX_QUARANTINED_FILES`].
    pub async fn list(&self, filter: &QuarantineFilter) -> Result<Vec<QuarantinedFile>, StateError> {
        let database = filter.database.clone();
        self.state
            .read(move |connection| {
                let order = "ORDER BY first_seen_at DESC, id DESC LIMIT ?2";
                let sql = format!("SELECT {COLUMNS} FROM {TABLE} WHERE ?1 IS NULL OR database = ?1 {order}");
                let mut statement = connection.prepare_cached(&sql)?;
                let rows = statement.query_map(params![database, limit(MAX_QUARANTINED_FILES)], |row| Ok(read(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// How many entries there are.
    pub async fn count(&self) -> Result<u64, StateError> {
        let count = |connection: &mut Connection| {
            let sql = format!("SELECT count(*) FROM {TABLE}");
            Ok(connection.prepare_cached(&sql)?.query_row([], |row| row.get::<_, i64>(0))?.unsigned_abs())
        };
        self.state.read(count).await
    }

    /// The entries of one partition.
    pub async fn of(&self, partition: &PartitionId) -> Result<Vec<QuarantinedFile>, StateError> {
        let path = partition.to_string();
        self.state
            .read(move |connection| {
                let sql = format!("SELECT {COLUMNS} FROM {TABLE} WHERE partition_path = ?1 ORDER BY name");
                let mut statement = connection.prepare_cached(&sql)?;
                let rows = statement.query_map([&path], |row| Ok(read(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// Forgets one entry, so that its file is tried again. `false`: there is none.
    pub async fn clear(&self, id: u64) -> Result<bool, StateError> {
        Ok(self.forget(vec![id]).await? == 1)
    }

    /// Forgets entries, so that their files are tried again; how many.
    pub async fn clear_all(&self, filter: &QuarantineFilter) -> Result<u64, StateError> {
        let database = filter.database.clone();
        self.state
            .write(move |connection| {
                let sql = "DELETE FROM compaction_quarantine WHERE ?1 IS NULL OR database = ?1";
                Ok(connection.prepare_cached(sql)?.execute([database])? as u64)
            })
            .await
    }

    /// Forgets these entries; how many there were.
    pub(super) async fn forget(&self, ids: Vec<u64>) -> Result<u64, StateError> {
        self.state
            .write(move |connection| {
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let mut forgotten = 0;
                for id in ids {
                    let mut delete = transaction.prepare_cached("DELETE FROM compaction_quarantine WHERE id = ?1")?;
                    // An id beyond SQLite's integers was never given.
                    forgotten += delete.execute([i64::try_from(id).unwrap_or(-1)])? as u64;
                }
                transaction.commit()?;
                Ok(forgotten)
            })
            .await
    }

    /// Forgets what expired long ago.
    pub(super) async fn forget_expired(&self, now: DateTime<Utc>) -> Result<(), StateError> {
        let before = time_text(now - EXPIRED_KEPT);
        self.state
            .write(move |connection| {
                let sql = "DELETE FROM compaction_quarantine WHERE retry_at < ?1";
                connection.prepare_cached(sql)?.execute([before])?;
                Ok(())
            })
            .await
    }

    /// Takes in what a job found: `defective` are held back from now on, and of its other inputs nothing is remembered.
    pub(super) async fn take_in(
        &self,
        partition: &PartitionId,
        inputs: &[DataFile],
        defective: &[QuarantinedInput],
        version: &str,
        now: DateTime<Utc>,
    ) -> Result<(), StateError> {
        let partition = partition.clone();
        let names: BTreeSet<&str> = defective.iter().map(|file| file.name.as_str()).collect();
        let sound: Vec<String> =
            inputs.iter().filter(|f| !names.contains(f.name.as_str())).map(|f| f.name.clone()).collect();
        let (defective, version) = (defective.to_vec(), version.to_owned());
        self.state
            .write(move |connection| {
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let path = partition.to_string();
                for name in sound {
                    transaction
                        .prepare_cached("DELETE FROM compaction_quarantine WHERE partition_path = ?1 AND name = ?2")?
                        .execute(params![path, name])?;
                }
                for file in &defective {
                    put(&transaction, &partition, file, &version, now)?;
                }
                transaction
                    .prepare_cached(
                        "DELETE FROM compaction_quarantine WHERE id IN (SELECT id FROM compaction_quarantine
                         ORDER BY first_seen_at DESC, id DESC LIMIT -1 OFFSET ?1)",
                    )?
                    .execute([limit(MAX_QUARANTINED_FILES)])?;
                transaction.commit()?;
                Ok(())
            })
            .await
    }
}

fn limit(files: usize) -> i64 {
    i64::try_from(files).expect("a limit of this module")
}

fn put(
    connection: &Connection,
    partition: &PartitionId,
    file: &QuarantinedInput,
    version: &str,
    now: DateTime<Utc>,
) -> Result<(), Failure> {
    let reason = serde_json::to_string(&shortened(&file.reason)).expect("plain data is always JSON");
    connection
        .prepare_cached(
            "INSERT INTO compaction_quarantine
             (database, partition_path, name, size_bytes, etag, reason, version, first_seen_at, retry_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (partition_path, name) DO UPDATE SET
                 first_seen_at = CASE WHEN size_bytes = excluded.size_bytes AND etag = excluded.etag
                                      THEN first_seen_at ELSE excluded.first_seen_at END,
                 size_bytes = excluded.size_bytes, etag = excluded.etag, reason = excluded.reason,
                 version = excluded.version, retry_at = excluded.retry_at",
        )?
        .execute(params![
            partition.database(),
            partition.to_string(),
            file.name,
            i64::try_from(file.size_bytes).unwrap_or(i64::MAX),
            file.etag,
            reason,
            version,
            time_text(now),
            time_text(file.retry_at),
        ])?;
    Ok(())
}

fn shortened(reason: &SetAsideReason) -> SetAsideReason {
    match reason {
        SetAsideReason::Unreadable(detail) => SetAsideReason::Unreadable(shorten(detail)),
        SetAsideReason::Unsupported(detail) => SetAsideReason::Unsupported(shorten(detail)),
        SetAsideReason::TooLarge(detail) => SetAsideReason::TooLarge(shorten(detail)),
        SetAsideReason::NoSortColumn(_) | SetAsideReason::Alone(_) | SetAsideReason::Unexamined(_) => reason.clone(),
    }
}

fn read(row: &Row<'_>) -> Result<QuarantinedFile, Failure> {
    let id: i64 = row.get(0)?;
    let (path, reason): (String, String) = (row.get(1)?, row.get(5)?);
    let unreadable = |column: &str, value: &str| Failure::row(TABLE, &id.to_string(), column, value);
    let time = |column: &str| parse_time(TABLE, &id.to_string(), column, &row.get::<_, String>(column)?);
    let size_bytes: i64 = row.get(3)?;
    Ok(QuarantinedFile {
        id: u64::try_from(id).map_err(|_| unreadable("id", &id.to_string()))?,
        partition: path.parse().map_err(|_| unreadable("partition_path", &path))?,
        name: row.get(2)?,
        size_bytes: u64::try_from(size_bytes).map_err(|_| unreadable("size_bytes", &size_bytes.to_string()))?,
        etag: row.get(4)?,
        reason: serde_json::from_str(&reason).map_err(|_| unreadable("reason", &reason))?,
        version: row.get(6)?,
        first_seen_at: time("first_seen_at")?,
        retry_at: time("retry_at")?,
    })
}

#[cfg(test)]
mod tests;
