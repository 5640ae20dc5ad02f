//! Leases in an SQLite file: the default, for the processes of one machine.
//!
//! ```text
//! compaction_locks
//!   partition_path                  worker_id           locked_at            expires_at           token
//!   metrics/cpu/2025/10/08/14       3f..-40..:71:9:c2   2025-10-08 16:00:01  2025-10-08 18:00:01  17
//! ```
//!
//! What must hold: every decision and its change are one `IMMEDIATE` transaction or one statement, so they are atomic
//! among all processes that use the file; every change names token and worker; tokens only grow, also after rows were
//! deleted by hand. Times are UTC text that SQLite's `datetime('now')` can be compared with, so that the documented
//! `DELETE FROM compaction_locks WHERE expires_at < datetime('now')` works.
//!
//! Deleting the file loses leases and history, never data. No transaction is held across a merge: each method is one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, NaiveDateTime, SubsecRound, TimeDelta, Utc};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::{Acquired, Lease, LockError, LockManager, WorkerId};
use crate::clock::{Clock, SystemClock};
use crate::partition::PartitionId;
use crate::state::{Failure, StateDb};

#[cfg(test)]
mod tests;

/// The longest lease. A longer one is shortened to this.
pub const MAX_TTL: Duration = Duration::from_hours(366 * 24);

const TIME_FORMAT: &str = "%Y-%m-%d %H:%M:%S";

/// The leases in one SQLite file, as this process sees them. The file may be shared with other processes, and opened more
/// than once in one process: all handles of a process are the same worker, and exclude each other like any other.
#[derive(Debug)]
pub struct CompactionLock {
    state: StateDb,
    clock: Arc<dyn Clock>,
    worker_id: WorkerId,
}

impl CompactionLock {
    /// The leases of a state database, taken in the name of this process.
    #[must_use]
    pub fn new(state: StateDb, clock: Arc<dyn Clock>) -> Self {
        Self::for_worker(state, clock, WorkerId::of_this_process())
    }

    /// The same in the name of another worker, for a program that is more than one: a simulation of several machines.
    #[must_use]
    pub fn for_worker(state: StateDb, clock: Arc<dyn Clock>, worker_id: WorkerId) -> Self {
        Self { state, clock, worker_id }
    }

    /// Opens or creates the file, and its folder; by the clock of the system. Blocks while it does.
    ///
    /// # Errors
    /// [`StateError::Unusable`](crate::state::StateError::Unusable) when someone must act: not an SQLite file, no
    /// permission, read-only, a newer version.
    pub fn open(db_path: &Path) -> Result<Self, LockError> {
        Ok(Self::new(StateDb::open(db_path)?, Arc::new(SystemClock)))
    }

    /// Now, in the resolution that leases have.
    fn now(&self) -> DateTime<Utc> {
        self.clock.now().trunc_subsecs(0)
    }

    /// When a lease taken or renewed now ends: never before `ttl` has passed, in whole seconds.
    fn expiry(&self, ttl: Duration) -> DateTime<Utc> {
        let ttl = TimeDelta::from_std(ttl.min(MAX_TTL)).expect("bounded above");
        let exact = self.clock.now() + ttl;
        let whole = exact.trunc_subsecs(0);
        if whole < exact { whole + TimeDelta::seconds(1) } else { whole }
    }
}

#[async_trait]
impl LockManager for CompactionLock {
    fn worker_id(&self) -> &WorkerId {
        &self.worker_id
    }

    async fn acquire_lock(&self, partition: &PartitionId, ttl: Duration) -> Result<Acquired, LockError> {
        let now = self.now();
        let wanted = Lease {
            partition: partition.clone(),
            worker_id: self.worker_id.clone(),
            token: 0,
            locked_at: now,
            expires_at: self.expiry(ttl),
        };
        // A caller that stopped waiting does not know of its lease: nobody would renew or release it.
        let unclaimed = move |connection: &mut Connection, acquired: Acquired| {
            if let Acquired::Yes(lease) = acquired {
                // On failure the lease expires by itself.
                let _ = release(connection, &lease, now);
            }
        };
        Ok(self.state.write_or_undo(move |connection| acquire(connection, wanted, now), unclaimed).await?)
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Lease, LockError> {
        self.check_ours(lease)?;
        let now = self.now();
        let renewed = Lease { expires_at: self.expiry(ttl), ..lease.clone() };
        self.state.write(move |connection| renew(connection, renewed, now)).await?.ok_or_else(|| lost(lease))
    }

    async fn release_lock(&self, lease: &Lease) -> Result<(), LockError> {
        self.check_ours(lease)?;
        let (held, now) = (lease.clone(), self.now());
        let released = self.state.write(move |connection| release(connection, &held, now)).await?;
        if released { Ok(()) } else { Err(lost(lease)) }
    }

    async fn active_locks(&self) -> Result<Vec<Lease>, LockError> {
        let now = self.now();
        Ok(self.state.read(move |connection| active(connection, now)).await?)
    }

    async fn cleanup_expired_locks(&self) -> Result<u64, LockError> {
        let now = self.now();
        Ok(self.state.write(move |connection| cleanup(connection, now)).await?)
    }
}

impl CompactionLock {
    /// Leases of others can be listed, but only their holder renews or releases them.
    fn check_ours(&self, lease: &Lease) -> Result<(), LockError> {
        if lease.worker_id == self.worker_id { Ok(()) } else { Err(lost(lease)) }
    }
}

fn lost(lease: &Lease) -> LockError {
    LockError::Lost { partition: lease.partition.clone(), token: lease.token }
}

fn acquire(connection: &mut Connection, wanted: Lease, now: DateTime<Utc>) -> Result<Acquired, Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let path = wanted.partition.to_string();
    let holder = transaction
        .prepare_cached(
            "SELECT partition_path, worker_id, token, locked_at, expires_at FROM compaction_locks
             WHERE partition_path = ?1 AND expires_at > ?2",
        )?
        .query_row(params![path, text(now)], |row| Ok(read_lease(row)))
        .optional()?
        .transpose()?;
    if let Some(holder) = holder
        && !holder.worker_id.is_dead_here()
    {
        return Ok(Acquired::HeldBy(holder));
    }
    let token: i64 = transaction
        .prepare_cached("UPDATE compaction_lock_tokens SET last_token = last_token + 1 RETURNING last_token")?
        .query_row([], |row| row.get(0))?;
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO compaction_locks (partition_path, worker_id, locked_at, expires_at, token)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![path, wanted.worker_id.to_string(), text(now), text(wanted.expires_at), token])?;
    transaction.commit()?;
    let token = u64::try_from(token).map_err(|_| Failure::row("compaction_locks", &path, "token", "negative"))?;
    Ok(Acquired::Yes(Lease { token, ..wanted }))
}

/// `None` when the lease is no longer held.
fn renew(connection: &mut Connection, renewed: Lease, now: DateTime<Utc>) -> Result<Option<Lease>, Failure> {
    let changed = connection
        .prepare_cached(
            "UPDATE compaction_locks SET expires_at = ?1
             WHERE partition_path = ?2 AND token = ?3 AND worker_id = ?4 AND expires_at > ?5",
        )?
        .execute(params![
            text(renewed.expires_at),
            renewed.partition.to_string(),
            stored_token(&renewed),
            renewed.worker_id.to_string(),
            text(now)
        ])?;
    Ok((changed == 1).then_some(renewed))
}

/// Whether the lease was still held. One that has ended is removed, too: by a clock that is set it would hold again.
fn release(connection: &mut Connection, lease: &Lease, now: DateTime<Utc>) -> Result<bool, Failure> {
    let was_held = connection
        .prepare_cached(
            "DELETE FROM compaction_locks WHERE partition_path = ?1 AND token = ?2 AND worker_id = ?3
             RETURNING expires_at > ?4",
        )?
        .query_row(
            params![lease.partition.to_string(), stored_token(lease), lease.worker_id.to_string(), text(now)],
            |row| row.get(0),
        )
        .optional()?;
    Ok(was_held.unwrap_or(false))
}

fn active(connection: &mut Connection, now: DateTime<Utc>) -> Result<Vec<Lease>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT partition_path, worker_id, token, locked_at, expires_at FROM compaction_locks
         WHERE expires_at > ?1 ORDER BY locked_at, token",
    )?;
    let rows = statement.query_map([text(now)], |row| Ok(read_lease(row)))?;
    rows.map(|row| row?).collect()
}

fn cleanup(connection: &mut Connection, now: DateTime<Utc>) -> Result<u64, Failure> {
    let removed =
        connection.prepare_cached("DELETE FROM compaction_locks WHERE expires_at <= ?1")?.execute([text(now)])?;
    Ok(removed as u64)
}

fn read_lease(row: &Row<'_>) -> Result<Lease, Failure> {
    let path: String = row.get(0)?;
    let worker_id: String = row.get(1)?;
    let token: i64 = row.get(2)?;
    let time = |column: &str| -> Result<DateTime<Utc>, Failure> {
        let value: String = row.get(column)?;
        let parsed = NaiveDateTime::parse_from_str(&value, TIME_FORMAT);
        Ok(parsed.map_err(|_| Failure::row("compaction_locks", &path, column, &value))?.and_utc())
    };
    Ok(Lease {
        partition: path.parse().map_err(|_| Failure::row("compaction_locks", &path, "partition_path", &path))?,
        worker_id: worker_id.parse().map_err(|_| Failure::row("compaction_locks", &path, "worker_id", &worker_id))?,
        token: u64::try_from(token)
            .map_err(|_| Failure::row("compaction_locks", &path, "token", &token.to_string()))?,
        locked_at: time("locked_at")?,
        expires_at: time("expires_at")?,
    })
}

/// SQLite's integers are signed. A token beyond them was never given out, and matches no row as -1.
fn stored_token(lease: &Lease) -> i64 {
    i64::try_from(lease.token).unwrap_or(-1)
}

/// UTC text that sorts like the time, and that SQLite's own functions understand.
fn text(time: DateTime<Utc>) -> String {
    time.format(TIME_FORMAT).to_string()
}
