//! Leases: the exclusive right to work on a partition for a while.
//!
//! A lease saves wasted work and shows who works on what. Correctness does not rest on it: of two workers that both
//! believe to hold a partition at most one creates the next record (I7). That is why a lease may be lost, expire, or be
//! taken over from a dead process without any danger to data.
//!
//! Every statement that changes a lease names its fencing token, so nobody renews or releases what they no longer hold.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

#[cfg(test)]
use crate::clock::ManualClock;
use crate::partition::PartitionId;
use crate::state::StateError;
use crate::storage::StorageError;

#[cfg(test)]
pub(crate) mod conformance;
pub mod sqlite;
pub mod storage;
mod worker_id;

pub use sqlite::CompactionLock;
pub use storage::StorageLocks;
pub use worker_id::{WorkerId, WorkerIdError};

/// Grants leases.
#[async_trait]
pub trait LockManager: Send + Sync + fmt::Debug {
    /// In whose name leases are taken.
    fn worker_id(&self) -> &WorkerId;

    /// Takes the partition if it is free, its lease has expired, or its holder is a dead process of this machine.
    /// Atomic: of any number of callers at the same moment one gets it.
    async fn acquire_lock(&self, partition: &PartitionId, ttl: Duration) -> Result<Acquired, LockError>;

    /// Extends a lease that is still held, to `ttl` from now. Fails with [`LockError::Lost`] when the lease expired or
    /// somebody else holds the partition: expiry is final, also when nobody else has taken it.
    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Lease, LockError>;

    /// Gives the lease back. Releasing a lease that is no longer held changes nothing and is [`LockError::Lost`].
    async fn release_lock(&self, lease: &Lease) -> Result<(), LockError>;

    /// The leases that have not expired, oldest first.
    async fn active_locks(&self) -> Result<Vec<Lease>, LockError>;

    /// Removes expired leases; returns how many.
    async fn cleanup_expired_locks(&self) -> Result<u64, LockError>;
}

/// A lease, as stored. Times have whole seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub partition: PartitionId,
    pub worker_id: WorkerId,
    /// Grows with every acquisition of the partition, and with every one by the same worker.
    pub token: u64,
    pub locked_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// Answer to [`LockManager::acquire_lock`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    /// The partition is yours until `expires_at`.
    Yes(Lease),
    /// Somebody else has it: this lease.
    HeldBy(Lease),
}

/// Why a lock operation failed. Variants are named by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The lease is not held any more: stop working at the next safe point.
    #[error("the lease on {partition} (token {token}) is no longer held")]
    Lost { partition: PartitionId, token: u64 },
    /// The database that keeps the leases is unusable, or did not answer.
    #[error(transparent)]
    State(#[from] StateError),
    /// The bucket that keeps the leases refused, or did not answer.
    #[error("a lease could not be {}: {source}; the next cycle tries again", past(.action))]
    Store { action: &'static str, source: StorageError },
    /// Where a lease should be is something else.
    #[error("{key} is no lease ({detail}); see who wrote it, and delete it while no worker is at the partition")]
    BadLease { key: String, detail: String },
}

fn past(action: &str) -> &str {
    match action {
        "write" => "written",
        "list" => "listed",
        other => other,
    }
}

impl LockError {
    /// The message without the words of a store, which may hold a secret.
    #[must_use]
    pub fn without_store_words(&self) -> String {
        match self {
            Self::Store { action, source } => {
                let source = source.without_store_words();
                format!("a lease could not be {}: {source}; the next cycle tries again", past(action))
            }
            Self::Lost { .. } | Self::State(_) | Self::BadLease { .. } => self.to_string(),
        }
    }
}
