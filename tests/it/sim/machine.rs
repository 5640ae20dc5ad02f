//! Machines and their workers: the real manager with the real locks and state, each on its machine's clock, disk and
//! state database, behind the wire. Leases are in that database, where other machines do not see them, or in storage.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc::clock::Clock;
use arc::compaction::events::{Event, EventSink};
use arc::compaction::{CompactionManager, CompactionSettings, Components};
use arc::lock::{Acquired, CompactionLock, Lease, LockError, LockManager, StorageLocks, WorkerId};
use arc::merge::{Means, MergeLimits};
use arc::partition::PartitionId;
use arc::state::{Access, StateDb, StateError, Watch};
use arc::storage::Storage;
use async_trait::async_trait;
use futures::FutureExt;
use tempfile::TempDir;

use super::clock::SimClock;
use super::engine::SimEngine;
use super::store::SimStore;
use super::wire::{Caller, Fault, Kind};
use super::world::{Planted, World};

/// One machine: what its workers share.
#[derive(Debug)]
pub struct Machine {
    pub clock: Arc<SimClock>,
    pub temp_dir: PathBuf,
    state: StateDb,
    /// Where its workers' leases are: all machines of a simulation have the same.
    leases: Leases,
    /// Whether workers can tell that a worker of this machine has died.
    knows_its_dead: bool,
}

/// Where leases are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leases {
    /// In the machine's own state database: other machines do not see them.
    Machine,
    /// In storage, for everybody. That a worker has died is not known then.
    Storage,
}

/// What tells workers apart.
#[derive(Debug, Clone)]
pub struct Start {
    /// `w2.3` is the third start of the second worker.
    pub caller: Caller,
    /// Of the names of its attempts.
    pub seed: u64,
    pub rows_per_output: usize,
    pub padding_bytes: usize,
}

impl Machine {
    pub fn new(clock: SimClock, temp_dir: PathBuf, knows_its_dead: bool) -> Self {
        let state = StateDb::in_memory().unwrap();
        Self { clock: Arc::new(clock), temp_dir, state, leases: Leases::Machine, knows_its_dead }
    }

    /// The same machine with the leases of its workers in storage.
    pub fn with_leases_in_storage(self) -> Self {
        Self { leases: Leases::Storage, knows_its_dead: false, ..self }
    }

    /// The worker's id: while it lives, and when others can see that it is dead.
    fn worker_id(&self, start: &Start, alive: bool) -> WorkerId {
        let this = WorkerId::of_this_process().to_string();
        let parts: Vec<&str> = this.split(':').collect();
        let text = if self.knows_its_dead {
            // A process number with another start time is a process that has ended.
            let started = if alive { parts[2] } else { "1" };
            format!("{}:{}:{started}:{}", parts[0], parts[1], start.caller)
        } else {
            format!("elsewhere:{}", start.caller)
        };
        text.parse().unwrap()
    }

    /// The manager of a worker that starts on this machine.
    pub fn start(&self, world: &Arc<World>, start: &Start, settings: &CompactionSettings) -> CompactionManager {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let id = self.worker_id(start, true);
        let storage = Storage::over(Arc::new(SimStore::new(world, &start.caller)), "sim");
        let caller = &start.caller;
        let locks: Arc<dyn LockManager> = match self.leases {
            Leases::Machine => {
                let locks = Arc::new(CompactionLock::for_worker(self.state.clone(), Arc::clone(&clock), id));
                Arc::new(SimLocks { world: Arc::clone(world), caller: Arc::clone(caller), locks })
            }
            Leases::Storage => Arc::new(StorageLocks::for_worker(&storage, Arc::clone(&clock), id)),
        };
        let watch = SimWatch { world: Arc::clone(world), caller: Arc::clone(caller) };
        let components = Components {
            storage,
            locks,
            state: self.state.clone().watched(Arc::new(watch)),
            engine: Arc::new(SimEngine {
                world: Arc::clone(world),
                caller: Arc::clone(caller),
                rows_per_output: start.rows_per_output,
                padding_bytes: start.padding_bytes,
            }),
            clock,
            limits: MergeLimits {
                memory_bytes: 1 << 30,
                threads: NonZeroUsize::MIN,
                temp_bytes: None,
                means: Means::All,
            },
            events: EventSink::new({
                let world = Arc::clone(world);
                move |event| {
                    if let Event::JobFinished(report) = event {
                        world.truth().check_report(&report);
                    }
                }
            }),
            seed: start.seed,
        };
        CompactionManager::new(components, CompactionSettings { temp_dir: self.temp_dir.clone(), ..settings.clone() })
    }

    /// What a crash leaves, told before the worker's memory goes: its folders, which nobody owns any more.
    pub fn remember_folders(&self) -> Vec<String> {
        files_in(&self.temp_dir).iter().filter_map(|name| name.strip_suffix(".arc-owner").map(str::to_owned)).collect()
    }

    /// Called when the worker's memory is gone. In this process its folders went with it; on a real machine they stay.
    pub fn bury(&self, start: &Start, folders_before: &[String]) {
        let left = self.remember_folders();
        for folder in folders_before.iter().filter(|folder| !left.contains(folder)) {
            fs::create_dir(self.temp_dir.join(folder)).unwrap();
            fs::write(self.temp_dir.join(folder).join("part"), "half").unwrap();
            fs::write(self.temp_dir.join(format!("{folder}.arc-owner")), "").unwrap();
        }
        let (alive, dead) = (self.worker_id(start, true).to_string(), self.worker_id(start, false).to_string());
        let renamed = self.state.write(move |connection| {
            let sql = "UPDATE compaction_locks SET worker_id = ?1 WHERE worker_id = ?2";
            Ok(connection.execute(sql, [dead, alive])?)
        });
        now(renamed).unwrap();
    }

    /// Partitions with a lease. That of a dead worker stays until it expires, if nobody has anything to do there.
    pub fn leases(&self) -> Vec<String> {
        let any = WorkerId::of_this_process();
        let locks = CompactionLock::for_worker(self.state.clone(), self.clock.clone(), any);
        now(locks.active_locks()).unwrap().iter().map(|lease| lease.partition.to_string()).collect()
    }

    /// Whether this start of a worker has a partition.
    pub fn has_a_lease(&self, world: &World, start: &Start) -> bool {
        let id = self.worker_id(start, true);
        if self.leases == Leases::Storage {
            return world.leases().iter().any(|(of, _)| *of == id.to_string());
        }
        let locks = CompactionLock::for_worker(self.state.clone(), self.clock.clone(), id.clone());
        now(locks.active_locks()).unwrap().iter().any(|lease| lease.worker_id == id)
    }

    /// Folders of jobs that are still there.
    pub fn folders(&self) -> Vec<String> {
        files_in(&self.temp_dir).into_iter().filter(|name| name != ".arc-lock").collect()
    }
}

/// The disk of machines that live for a moment: memory, where the system offers it as a folder.
pub fn disk() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

fn files_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The locks of a machine, as one worker reaches them.
#[derive(Debug)]
struct SimLocks {
    world: Arc<World>,
    caller: Caller,
    locks: Arc<CompactionLock>,
}

impl SimLocks {
    async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        object: String,
        effect: impl FnOnce(&CompactionLock) -> Result<T, LockError> + Send + 'static,
    ) -> Result<T, LockError> {
        let locks = Arc::clone(&self.locks);
        let unavailable = || Err(busy().into());
        let carry_out = move |fault| match fault {
            Some(Fault::Refused) => (unavailable(), "BUSY".to_owned()),
            Some(_) => {
                let done = effect(&locks);
                (unavailable(), format!("ANSWER LOST ({})", if done.is_ok() { "ok" } else { "error" }))
            }
            None => {
                let done = effect(&locks);
                let outcome = match &done {
                    Ok(_) => "ok".to_owned(),
                    Err(LockError::Lost { .. }) => "lost".to_owned(),
                    Err(error) => error.to_string(),
                };
                (done, outcome)
            }
        };
        self.world.wire.call(&self.caller, (Kind::Lock, what, object), carry_out).await
    }
}

fn busy() -> StateError {
    StateError::Unavailable { path: "sim".to_owned(), detail: "database is locked".to_owned() }
}

/// SQLite in memory answers at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("a database in memory answers at once")
}

#[async_trait]
impl LockManager for SimLocks {
    fn worker_id(&self) -> &WorkerId {
        self.locks.worker_id()
    }

    async fn acquire_lock(&self, partition: &PartitionId, ttl: Duration) -> Result<Acquired, LockError> {
        let (wanted, grants) = (partition.clone(), self.world.planted == Planted::LocksAlwaysGrant);
        let me = self.worker_id().clone();
        self.call("acquire", partition.to_string(), move |locks| match now(locks.acquire_lock(&wanted, ttl))? {
            Acquired::HeldBy(lease) if grants => Ok(Acquired::Yes(Lease { worker_id: me, ..lease })),
            answer => Ok(answer),
        })
        .await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Lease, LockError> {
        let (held, grants) = (lease.clone(), self.world.planted == Planted::LocksAlwaysGrant);
        self.call("renew", lease.partition.to_string(), move |locks| match now(locks.renew(&held, ttl)) {
            Err(LockError::Lost { .. }) if grants => Ok(held),
            answer => answer,
        })
        .await
    }

    async fn release_lock(&self, lease: &Lease) -> Result<(), LockError> {
        let held = lease.clone();
        self.call("release", lease.partition.to_string(), move |locks| now(locks.release_lock(&held))).await
    }

    async fn active_locks(&self) -> Result<Vec<Lease>, LockError> {
        now(self.locks.active_locks())
    }

    async fn cleanup_expired_locks(&self) -> Result<u64, LockError> {
        self.call("remove expired", String::new(), move |locks| now(locks.cleanup_expired_locks())).await
    }
}

/// Holds up every piece of work of the state database, before and after it.
#[derive(Debug)]
struct SimWatch {
    world: Arc<World>,
    caller: Caller,
}

impl SimWatch {
    async fn call(&self, kind: Kind, what: &'static str, bad: &'static str) -> Result<(), StateError> {
        let unavailable = || Err(busy());
        let carry_out = move |fault: Option<Fault>| match fault {
            None => (Ok(()), "ok".to_owned()),
            Some(_) => (unavailable(), bad.to_owned()),
        };
        self.world.wire.call(&self.caller, (kind, what, String::new()), carry_out).await
    }
}

#[async_trait]
impl Watch for SimWatch {
    async fn before(&self, access: Access) -> Result<(), StateError> {
        match access {
            Access::Read => self.call(Kind::State, "read state", "BUSY").await,
            Access::Write => self.call(Kind::State, "change state", "BUSY").await,
        }
    }

    async fn after(&self, access: Access) -> Result<(), StateError> {
        match access {
            Access::Read => Ok(()),
            Access::Write => self.call(Kind::StateAnswer, "state answers", "ANSWER LOST").await,
        }
    }
}
