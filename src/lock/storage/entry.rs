//! A lease object: where it lies, what it says, and what follows from that. Pure.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::{FOLDER, STORE_SLACK};
use crate::lock::{Lease, LockError, WorkerId};
use crate::partition::PartitionId;

/// An object of at most so many bytes is a released lease, and a held one is always larger: a listing tells them apart.
pub(super) const MAX_RELEASED_BYTES: u64 = 64;

/// Tokens beyond this were never given out.
const MAX_TOKEN: u64 = u64::MAX >> 1;

const SUFFIX: &str = ".json";

/// What a lease object says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum Entry {
    Held(Held),
    /// Nobody has the partition; the last who had it had this token.
    Released {
        token: u64,
    },
}

/// A lease. Fields may be added with a default, never renamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    pub partition: PartitionId,
    pub worker_id: String,
    pub token: u64,
    /// By the clock of its holder.
    pub locked_at: DateTime<Utc>,
    /// By the clock of its holder, which nobody else goes by.
    pub expires_at: DateTime<Utc>,
    /// From the last writing on.
    pub ttl_seconds: u64,
    /// The same for all writings of one acquisition, and for no other.
    pub acquisition: u64,
}

/// What a worker can tell of a lease without asking anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Holds,
    Over,
    /// By our clock it is over, and only the store's counts.
    AskStore,
}

/// The key of a partition's lease.
pub(super) fn key_of(partition: &PartitionId) -> Result<Path, LockError> {
    let key = format!("{FOLDER}/{partition}{SUFFIX}");
    // `Path::parse` keeps names as they are; `Path::from` would escape them.
    Path::parse(&key).map_err(|error| LockError::BadLease { key, detail: error.to_string() })
}

/// The partition whose lease lies at this key. `None`: it is something else.
pub(super) fn partition_of(key: &Path) -> Option<PartitionId> {
    let path = key.as_ref().strip_prefix(FOLDER)?.strip_prefix('/')?;
    path.strip_suffix(SUFFIX)?.parse().ok()
}

impl Entry {
    /// # Errors
    /// [`LockError::BadLease`] when this is no lease of the partition that the key names.
    pub(super) fn parse(key: &Path, bytes: &[u8]) -> Result<Self, LockError> {
        let bad = |detail: String| LockError::BadLease { key: key.to_string(), detail };
        let entry: Self = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        if entry.token() > MAX_TOKEN {
            return Err(bad(format!("the token {} was never given out", entry.token())));
        }
        if let Self::Held(held) = &entry {
            if Some(&held.partition) != partition_of(key).as_ref() {
                return Err(bad(format!("it is the lease of {}", held.partition)));
            }
            if let Err(error) = held.worker_id.parse::<WorkerId>() {
                return Err(bad(error.to_string()));
            }
        }
        Ok(entry)
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        serde_json::to_vec(self).expect("texts, numbers and times can be written as JSON").into()
    }

    pub(super) fn token(&self) -> u64 {
        match self {
            Self::Held(held) => held.token,
            Self::Released { token } => *token,
        }
    }
}

impl Held {
    pub(super) fn of(lease: &Lease, acquisition: u64) -> Self {
        Self {
            partition: lease.partition.clone(),
            worker_id: lease.worker_id.to_string(),
            token: lease.token,
            locked_at: lease.locked_at,
            expires_at: lease.expires_at,
            ttl_seconds: (lease.expires_at - lease.locked_at).num_seconds().unsigned_abs(),
            acquisition,
        }
    }

    /// Extended to `expires_at`, which is `ttl_seconds` from now.
    pub(super) fn until(&self, expires_at: DateTime<Utc>, ttl_seconds: u64) -> Self {
        Self { expires_at, ttl_seconds, ..self.clone() }
    }

    pub(super) fn lease(&self) -> Lease {
        Lease {
            partition: self.partition.clone(),
            worker_id: self.worker_id.parse().expect("checked when it was read"),
            token: self.token,
            locked_at: self.locked_at,
            expires_at: self.expires_at,
        }
    }

    /// Whether this is the same acquisition, renewed or not.
    pub(super) fn is(&self, lease: &Lease) -> bool {
        self.token == lease.token && self.worker_id == lease.worker_id.to_string()
    }

    /// What `me` makes of a lease that the store says was written at `written_at`, when its own clock says `now`.
    pub(super) fn standing(&self, me: &WorkerId, written_at: DateTime<Utc>, now: DateTime<Utc>) -> Standing {
        let holder = self.lease().worker_id;
        if holder == *me {
            return if now < self.expires_at { Standing::Holds } else { Standing::Over };
        }
        if holder.is_dead_here() {
            Standing::Over
        } else if self.is_over(written_at, now) {
            Standing::AskStore
        } else {
            Standing::Holds
        }
    }

    /// Whether it is over at `now`, when it was written at `written_at`: both by the same clock.
    pub(super) fn is_over(&self, written_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        let honoured = Duration::from_secs(self.ttl_seconds).saturating_add(STORE_SLACK);
        // A TTL that no calendar has is never over.
        let end = TimeDelta::from_std(honoured).ok().and_then(|honoured| written_at.checked_add_signed(honoured));
        end.is_some_and(|end| now >= end)
    }
}
