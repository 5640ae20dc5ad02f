//! Leases in the bucket itself, for workers on several machines: nothing else has to run.
//!
//! ```text
//! {location}/_compaction_locks/
//!     metrics/cpu/2025/10/08/14.json    {"state":"held","worker_id":...,"token":17,"ttl_seconds":7200,...}
//!     metrics/cpu/2025/10/08/15.json    {"state":"released","token":16}
//!     clock                             written to learn the time of the store
//! ```
//!
//! The folder begins with the reserved prefix, so no reader takes it for a database, and nothing in it looks like data.
//!
//! What must hold:
//!
//! - **One object decides.** It is created if absent and from then on only ever replaced under the condition that it still
//!   has the `ETag` that was read (compare-and-swap). It is never deleted: the token of a released lease stays in it, so
//!   tokens of a partition only grow. That is one small object for every partition that was ever compacted.
//! - **No machine's clock is compared with another's.** Of a lease of somebody else two times count, and both are the
//!   store's: when the object was last written, and now. It is over when the second is later than the first by the lease's
//!   TTL and [`STORE_SLACK`]. The holder counts the same TTL on its own clock, from *before* it sent the request, and stops
//!   earlier; that its clock is wrong does not matter, only that it does not stand still. The time of the store is learned by
//!   writing an object and asking when it was written. That is done only where the own clock says that the lease may be over:
//!   a clock that is slow takes over late, one that is fast asks in vain.
//! - **A lease of this worker is judged by its own clock**, and one of a dead process of this machine is over at once.
//! - **A lost answer is no answer.** Whoever does not know whether a write happened reads the object: every acquisition writes
//!   a random number of its own into it.
//!
//! - **A lease that nobody knows of is given up.** An acquisition that failed without anybody knowing whether it was written,
//!   or whose caller stopped waiting, is remembered by its number. Wherever this worker meets that number, the partition is
//!   free: for its next acquisition, and for the cleanup of its next cycle, which also frees it for others.
//! - **What the store said is told in our own words** ([`StorageError`]); its own may quote keys and signatures.
//!
//! Deliberately not here: a listing that costs little. [`LockManager::active_locks`] lists all lease objects, a request for
//! every thousand, and reads those that are held; that is for people who ask, and no cycle does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use futures::FutureExt;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};

use super::{Acquired, Lease, LockError, LockManager, WorkerId};
use crate::clock::Clock;
use crate::partition::PartitionId;
use crate::storage::{Storage, StorageError};

mod entry;
#[cfg(test)]
mod tests;

use entry::{Entry, Held, MAX_RELEASED_BYTES, Standing, key_of, partition_of};

/// Where the leases are. Begins with the reserved prefix.
const FOLDER: &str = "_compaction_locks";
/// What is written to learn the time of the store. Everybody writes the same one: whoever was last, that time has come.
const CLOCK: &str = "_compaction_locks/clock";

/// How far apart the clocks of the store's own machines may be, and what rounding to whole seconds takes, on both sides.
/// So much longer than its TTL a lease of another worker is honoured.
pub const STORE_SLACK: Duration = Duration::from_secs(5);

/// The longest lease. A longer one is shortened to this.
const MAX_TTL: Duration = Duration::from_hours(366 * 24);

/// How often an object is read again after a write was refused or its outcome is unknown. Each refusal means that somebody
/// else got on, so more than a few are a sign of something else.
const ROUNDS: usize = 5;

/// Acquisitions with an unknown outcome that are remembered. Beyond that such a lease ends by itself.
const MAX_UNCLAIMED: usize = 1000;

/// Objects that are read at the same time for a listing.
const READS_AT_ONCE: usize = 16;

/// The leases in one bucket, as one worker sees them.
#[derive(Debug)]
pub struct StorageLocks {
    storage: Storage,
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    worker_id: WorkerId,
    /// The highest token that was given out here.
    last_token: AtomicU64,
    /// The leases that were taken here and not given back, and when they end.
    taken: Mutex<BTreeMap<PartitionId, DateTime<Utc>>>,
    /// Acquisitions of this worker that may have been written, or still may be, and that nobody has; with their end. At most
    /// [`MAX_UNCLAIMED`].
    unclaimed: Mutex<BTreeMap<(PartitionId, u64), DateTime<Utc>>>,
}

/// A lease object as it was read.
struct Seen {
    entry: Entry,
    version: UpdateVersion,
    /// By the clock of the store.
    written_at: DateTime<Utc>,
}

impl StorageLocks {
    /// The leases below the root of `storage`, taken in the name of this process. The store must have create-if-absent and
    /// compare-and-swap; whoever wires this checks that before the first lease is taken.
    #[must_use]
    pub fn new(storage: &Storage, clock: Arc<dyn Clock>) -> Self {
        Self::for_worker(storage, clock, WorkerId::of_this_process())
    }

    /// The same in the name of another worker, for a program that is more than one.
    #[must_use]
    pub fn for_worker(storage: &Storage, clock: Arc<dyn Clock>, worker_id: WorkerId) -> Self {
        Self {
            storage: storage.clone(),
            store: storage.object_store(),
            clock,
            worker_id,
            last_token: AtomicU64::new(0),
            taken: Mutex::default(),
            unclaimed: Mutex::default(),
        }
    }

    fn now(&self) -> DateTime<Utc> {
        self.clock.now().trunc_subsecs(0)
    }

    /// A token above `previous` and above all that were given out here.
    fn next_token(&self, previous: u64) -> u64 {
        let above = |last: u64| Some(last.max(previous) + 1);
        let last = self.last_token.fetch_update(Ordering::Relaxed, Ordering::Relaxed, above);
        last.expect("a next one is always given").max(previous) + 1
    }

    async fn read(&self, key: &Path) -> Result<Option<Seen>, LockError> {
        let found = async {
            let found = self.store.get(key).await?;
            let (version, written_at) = (
                UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() },
                found.meta.last_modified,
            );
            Ok((found.bytes().await?, version, written_at))
        };
        match found.await {
            Ok((bytes, version, written_at)) => {
                let entry = Entry::parse(key, &bytes)?;
                Ok(Some(Seen { entry, version, written_at }))
            }
            // Only in the words of storage: a bucket that is gone says "not found", too.
            Err(error) => match self.storage.understood(key, error) {
                StorageError::NotFound { .. } => Ok(None),
                source => Err(LockError::Store { action: "read", source }),
            },
        }
    }

    /// Replaces what was read, or creates what was absent. An error may mean that it happened all the same.
    async fn swap(&self, key: &Path, seen: Option<&Seen>, entry: &Entry) -> Result<(), Error> {
        let mode = seen.map_or(PutMode::Create, |seen| PutMode::Update(seen.version.clone()));
        let options = PutOptions { mode, ..PutOptions::default() };
        self.store.put_opts(key, entry.to_bytes().into(), options).await.map(drop)
    }

    /// The time of the store.
    async fn store_now(&self) -> Result<DateTime<Utc>, LockError> {
        let key = Path::from(CLOCK);
        let written = async {
            self.store.put(&key, Bytes::from_static(b"now").into()).await?;
            Ok(self.store.head(&key).await?.last_modified)
        };
        written.await.map_err(|error| self.failed("write", &key, error))
    }

    fn failed(&self, action: &'static str, key: &Path, error: Error) -> LockError {
        LockError::Store { action, source: self.storage.understood(key, error) }
    }

    /// Whether somebody else's lease, or an expired one of ours, stands in the way of taking the partition.
    async fn holder(&self, seen: &Seen) -> Result<Option<Lease>, LockError> {
        let Entry::Held(held) = &seen.entry else { return Ok(None) };
        if self.is_unclaimed(&held.partition, held.acquisition) {
            return Ok(None);
        }
        let is_free = match held.standing(&self.worker_id, seen.written_at, self.clock.now()) {
            Standing::Over => true,
            Standing::Holds => false,
            Standing::AskStore => held.is_over(seen.written_at, self.store_now().await?),
        };
        Ok((!is_free).then(|| held.lease()))
    }

    /// Changes a lease of ours to what `change` makes of it. [`LockError::Lost`] when it is not ours any more.
    async fn change(&self, lease: &Lease, change: impl Fn(&Held) -> Entry) -> Result<(), LockError> {
        let key = key_of(&lease.partition)?;
        let mut result = Err(lost(lease));
        for _ in 0..ROUNDS {
            let seen = self.read(&key).await?;
            let held = match &seen {
                Some(Seen { entry: Entry::Held(held), .. }) if held.is(lease) => held,
                // An answer got lost: it was given back in an earlier round.
                Some(Seen { entry: released @ Entry::Released { token }, .. })
                    if matches!(result, Err(LockError::Store { .. })) && *token == lease.token =>
                {
                    return if change(&Held::of(lease, 0)) == *released { Ok(()) } else { Err(lost(lease)) };
                }
                _ => return Err(lost(lease)),
            };
            let wanted = change(held);
            // An answer got lost: it was written in an earlier round. In the first one it is written again all the same, because
            // the store's time of writing counts.
            if wanted == Entry::Held(held.clone()) && matches!(result, Err(LockError::Store { .. })) {
                return Ok(());
            }
            // One that has ended is not renewed. It can still be given back: by a clock that is set it would hold again.
            let is_over = held.expires_at <= self.now();
            if is_over && matches!(wanted, Entry::Held(_)) {
                return Err(lost(lease));
            }
            match self.swap(&key, seen.as_ref(), &wanted).await {
                Ok(()) if is_over => return Err(lost(lease)),
                Ok(()) => return Ok(()),
                Err(error) => result = Err(self.failed("write", &key, error)),
            }
        }
        result
    }

    fn check_ours(&self, lease: &Lease) -> Result<(), LockError> {
        if lease.worker_id == self.worker_id { Ok(()) } else { Err(lost(lease)) }
    }
}

#[async_trait]
impl LockManager for StorageLocks {
    fn worker_id(&self) -> &WorkerId {
        &self.worker_id
    }

    async fn acquire_lock(&self, partition: &PartitionId, ttl: Duration) -> Result<Acquired, LockError> {
        let key = key_of(partition)?;
        let mut pending = Pending {
            locks: self,
            partition,
            acquisition: fastrand::u64(..),
            ends_at: DateTime::UNIX_EPOCH,
            was_sent: false,
        };
        let mut refusal = None;
        // The last round only reads what became of the writes before.
        for round in 0..=ROUNDS {
            // Before anything is asked: what the store writes down is later than this.
            let now = self.now();
            let expires_at = expiry(self.clock.now(), ttl);
            let seen = self.read(&key).await?;
            let mut previous = 0;
            if let Some(seen) = &seen {
                // The answer got lost, and this is our own writing.
                if let Entry::Held(held) = &seen.entry
                    && held.acquisition == pending.acquisition
                {
                    pending.was_sent = false;
                    return Ok(self.took(held.lease()));
                }
                if let Some(holder) = self.holder(seen).await? {
                    // The object is not the one any more that a write of ours would replace.
                    pending.was_sent = false;
                    return Ok(Acquired::HeldBy(holder));
                }
                previous = seen.entry.token();
            }
            if round == ROUNDS {
                break;
            }
            let lease = Lease {
                partition: partition.clone(),
                worker_id: self.worker_id.clone(),
                token: self.next_token(previous),
                locked_at: now,
                expires_at,
            };
            (pending.ends_at, pending.was_sent) = (expires_at, true);
            match self.swap(&key, seen.as_ref(), &Entry::Held(Held::of(&lease, pending.acquisition))).await {
                Ok(()) => {
                    pending.was_sent = false;
                    return Ok(self.took(lease));
                }
                Err(error) => refusal = Some(error),
            }
        }
        Err(self.failed("write", &key, refusal.expect("every round that did not return was refused")))
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Lease, LockError> {
        self.check_ours(lease)?;
        let (now, expires_at) = (self.now(), expiry(self.clock.now(), ttl));
        let ttl_seconds = (expires_at - now).num_seconds().unsigned_abs();
        let renewed = Lease { expires_at, ..lease.clone() };
        let result = self.change(lease, |held| Entry::Held(held.until(expires_at, ttl_seconds))).await;
        self.keep_track(lease, &result, Some(expires_at));
        result.map(|()| renewed)
    }

    async fn release_lock(&self, lease: &Lease) -> Result<(), LockError> {
        self.check_ours(lease)?;
        let result = self.change(lease, |held| Entry::Released { token: held.token }).await;
        self.keep_track(lease, &result, None);
        result
    }

    async fn active_locks(&self) -> Result<Vec<Lease>, LockError> {
        let now = self.clock.now();
        let held = self.held_keys().await?;
        let looks = held.into_iter().map(|key| self.active(key, now).boxed());
        let found: Vec<Option<Lease>> = stream::iter(looks).buffered(READS_AT_ONCE).try_collect().await?;
        let mut leases: Vec<Lease> = found.into_iter().flatten().collect();
        leases.sort_by_key(|lease| (lease.locked_at, lease.token));
        Ok(leases)
    }

    /// Only those of this worker, which cost no listing. Nobody has to wait for the others to be removed.
    async fn cleanup_expired_locks(&self) -> Result<u64, LockError> {
        let now = self.now();
        let mut over: BTreeSet<PartitionId> = {
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            taken.extract_if(.., |_, expires_at| *expires_at <= now).map(|(partition, _)| partition).collect()
        };
        over.extend(self.unclaimed().keys().map(|(partition, _)| partition.clone()));
        let mut released = 0;
        for partition in over {
            let key = key_of(&partition)?;
            let seen = self.read(&key).await?;
            if let Some(seen) = &seen
                && let Entry::Held(held) = &seen.entry
                && (self.is_unclaimed(&partition, held.acquisition)
                    || held.standing(&self.worker_id, seen.written_at, now) == Standing::Over)
            {
                // Whoever was faster has it; what was over is so all the same.
                if self.swap(&key, Some(seen), &Entry::Released { token: held.token }).await.is_ok() {
                    released += 1;
                    // Whatever is still under way was to replace another object than this one, and is refused.
                    self.forget_unclaimed(&partition);
                }
            }
        }
        // What was not found may be on its way still.
        self.unclaimed().retain(|_, ends_at| *ends_at > now);
        Ok(released)
    }
}

/// An acquisition under way. One that ends without an answer, also because its caller stops waiting, is noted as unclaimed.
struct Pending<'a> {
    locks: &'a StorageLocks,
    partition: &'a PartitionId,
    /// The number that its writings have.
    acquisition: u64,
    /// When what was written last ends by itself.
    ends_at: DateTime<Utc>,
    /// Something was written, perhaps, and the lease has not been given to the caller.
    was_sent: bool,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.was_sent {
            let mut unclaimed = self.locks.unclaimed();
            if unclaimed.len() < MAX_UNCLAIMED {
                unclaimed.insert((self.partition.clone(), self.acquisition), self.ends_at);
            }
        }
    }
}

impl StorageLocks {
    /// The objects that are no released lease, by their size.
    async fn held_keys(&self) -> Result<Vec<Path>, LockError> {
        let folder = Path::from(FOLDER);
        let mut objects = self.store.list(Some(&folder));
        let mut keys = Vec::new();
        while let Some(meta) = objects.try_next().await.map_err(|error| self.failed("list", &folder, error))? {
            if meta.size > MAX_RELEASED_BYTES && partition_of(&meta.location).is_some() {
                keys.push(meta.location);
            }
        }
        Ok(keys)
    }

    async fn active(&self, key: Path, now: DateTime<Utc>) -> Result<Option<Lease>, LockError> {
        let Some(Seen { entry: Entry::Held(held), written_at, .. }) = self.read(&key).await? else { return Ok(None) };
        Ok((held.standing(&self.worker_id, written_at, now) == Standing::Holds).then(|| held.lease()))
    }

    fn unclaimed(&self) -> MutexGuard<'_, BTreeMap<(PartitionId, u64), DateTime<Utc>>> {
        self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_unclaimed(&self, partition: &PartitionId, acquisition: u64) -> bool {
        self.unclaimed().contains_key(&(partition.clone(), acquisition))
    }

    fn forget_unclaimed(&self, partition: &PartitionId) {
        self.unclaimed().retain(|(unclaimed, _), _| unclaimed != partition);
    }

    fn took(&self, lease: Lease) -> Acquired {
        // What was written before is not there any more, and what is still under way is refused.
        self.forget_unclaimed(&lease.partition);
        self.note(&lease.partition, Some(lease.expires_at));
        Acquired::Yes(lease)
    }

    /// Notes how a renewal (with its end) or a release went. What failed may have happened or not, so its end stays noted.
    fn keep_track(&self, lease: &Lease, result: &Result<(), LockError>, expires_at: Option<DateTime<Utc>>) {
        if result.is_ok() {
            self.note(&lease.partition, expires_at);
        }
    }

    fn note(&self, partition: &PartitionId, expires_at: Option<DateTime<Utc>>) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match expires_at {
            Some(expires_at) => taken.insert(partition.clone(), expires_at),
            None => taken.remove(partition),
        };
    }
}

/// When a lease taken or renewed now ends: never before `ttl` has passed, in whole seconds.
fn expiry(now: DateTime<Utc>, ttl: Duration) -> DateTime<Utc> {
    let exact = now + TimeDelta::from_std(ttl.min(MAX_TTL)).expect("bounded above");
    let whole = exact.trunc_subsecs(0);
    if whole < exact { whole + TimeDelta::seconds(1) } else { whole }
}

fn lost(lease: &Lease) -> LockError {
    LockError::Lost { partition: lease.partition.clone(), token: lease.token }
}
