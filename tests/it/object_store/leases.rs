//! Leases in the bucket, on real servers: the suite that every lock passes, and what people see of them.

use std::sync::{Arc as Shared, Mutex};
use std::time::Duration;

use arc::clock::{ManualClock, SystemClock};
use arc::lock::{Acquired, Lease, LockError, LockManager, StorageLocks, WorkerId};
use arc::merge::DuckDbEngine;
use arc::partition::PartitionId;
use arc::storage::{Storage, StorageError};
use object_store::ObjectMeta;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;

use crate::object_store::remote::{NoHook, PROBE, Remote};
use crate::support::proxy::{Proxy, Wire};
use crate::support::servers::{Bucket, Kind};
use crate::support::stores::{Hook, Hooked, manager_over};
use crate::support::{PARTITION, block_on};

#[path = "../../../src/lock/conformance.rs"]
mod conformance;

const IN_BUCKET: &str = "min_files = 2\nsettle_seconds = 0\nlock_backend = 'storage'";

/// The leases of a bucket as a worker on another machine sees them.
fn elsewhere(bucket: &Bucket, name: &str) -> StorageLocks {
    StorageLocks::for_worker(&bucket.storage(), Shared::new(SystemClock), name.parse().unwrap())
}

#[test]
fn leases_conform_on_every_server() {
    for bucket in Kind::ALL.into_iter().filter_map(Kind::bucket) {
        let clock = Shared::new(ManualClock::at("2025-10-08T16:00:00Z".parse().unwrap()));
        let locks = StorageLocks::new(&bucket.storage(), clock.clone());
        block_on(conformance::check(&locks, &clock));
        let storage = bucket.storage();
        assert_eq!(
            block_on(storage.databases()).unwrap(),
            Vec::<String>::new(),
            "{:?}: leases are no data",
            bucket.kind
        );
    }
}

/// Shows leases as written earlier than they were, as if that much time had gone by since. What time it is now is still for
/// the server to say.
#[derive(Debug, Default)]
struct Earlier(Mutex<Duration>);

impl Earlier {
    fn by(&self, time: Duration) {
        *self.0.lock().unwrap() = time;
    }
}

impl Hook for Earlier {
    fn before(&self, _: usize, _: &str, _: &Key) -> object_store::Result<()> {
        Ok(())
    }

    fn shows(&self, object: &mut ObjectMeta) {
        if !object.location.as_ref().ends_with("/clock") {
            object.last_modified -= *self.0.lock().unwrap();
        }
    }

    fn after(&self, _: usize, _: &str, _: &Key) -> object_store::Result<()> {
        Ok(())
    }
}

/// By the times that real servers write down. Whatever this machine is busy with, it takes less than an hour.
#[test]
fn a_worker_that_is_gone_is_succeeded_after_its_time_and_not_before() {
    const TTL: Duration = Duration::from_hours(2);
    const BEFORE: Duration = Duration::from_hours(1);
    const AFTER: Duration = Duration::from_hours(3);
    Remote::everywhere(|remote| {
        let kind = remote.bucket.kind;
        let earlier = Shared::new(Earlier::default());
        let hook = Shared::clone(&earlier) as Shared<dyn Hook>;
        let storage = remote.bucket.storage().map_store(|inner| Hooked::over(inner, hook));
        let next = StorageLocks::for_worker(&storage, Shared::new(SystemClock), "next".parse().unwrap());
        let gone = elsewhere(&remote.bucket, "gone");
        let partition: PartitionId = PARTITION.parse().unwrap();
        block_on(async {
            let lease = conformance::take(&gone, &partition).await;
            let lease = gone.renew(&lease, TTL).await.unwrap();
            for time in [Duration::ZERO, BEFORE] {
                earlier.by(time);
                let held = next.acquire_lock(&partition, TTL).await.unwrap();
                assert_eq!(held, Acquired::HeldBy(lease.clone()), "{kind:?}: after {time:?}");
            }
            earlier.by(AFTER);
            let Acquired::Yes(taken) = next.acquire_lock(&partition, TTL).await.unwrap() else {
                panic!("{kind:?}: it is never over")
            };
            assert!(taken.token > lease.token, "{kind:?}");
            assert!(matches!(gone.renew(&lease, TTL).await, Err(LockError::Lost { .. })), "{kind:?}");
        });
    });
}

/// T59: with the same lease in the bucket, one backend waits and the other does not look.
#[test]
fn the_backend_of_the_locks_decides_whether_a_lease_in_the_bucket_counts() {
    let Some(remote) = Remote::with(Kind::Moto, IN_BUCKET) else { return };
    remote.write_telemetry(3, 100);
    let other = elsewhere(&remote.bucket, "a worker elsewhere");
    let lease = block_on(conformance::take(&other, &PARTITION.parse().unwrap()));

    let report = remote.compact_well();
    assert_eq!(report["jobs_completed"], 0, "{report:#}");
    assert_eq!(report["skipped"][0]["detail"]["worker_id"], "a worker elsewhere", "{report:#}");

    remote.configure(&remote.bucket, "min_files = 2\nsettle_seconds = 0\nlock_backend = 'sqlite'");
    assert_eq!(remote.compact_well()["jobs_completed"], 1);
    block_on(other.release_lock(&lease)).unwrap();
}

#[test]
fn leases_in_the_bucket_are_listed_by_command_and_api() {
    let Some(remote) = Remote::with(Kind::Moto, IN_BUCKET) else { return };
    let other = elsewhere(&remote.bucket, "a worker elsewhere");
    let lease = block_on(conformance::take(&other, &PARTITION.parse().unwrap()));
    let given_back = block_on(conformance::take(&other, &"prod/mem/2025/10/08/14".parse().unwrap()));
    block_on(other.release_lock(&given_back)).unwrap();

    let listed = remote.arc.command(&["locks", "--json"]).output().unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["count"], 1, "{listed:#}");
    let lock = &listed["locks"][0];
    assert_eq!((&lock["worker_id"], &lock["token"]), (&"a worker elsewhere".into(), &lease.token.into()), "{listed:#}");

    let running = remote.arc.command(&["jobs", "--json"]).output().unwrap();
    let running: serde_json::Value = serde_json::from_slice(&running.stdout).unwrap();
    assert_eq!(running["running"][0]["worker_id"], "a worker elsewhere", "{running:#}");

    let server = remote.arc.serve();
    let reply = server.get("/api/compaction/locks").json();
    assert_eq!((&reply["active_locks"], &reply["locks"][0]["worker_id"]), (&1.into(), &"a worker elsewhere".into()));
}

/// What the program says of its requests is what went over the wire, leases and all.
#[test]
fn the_report_of_the_program_counts_the_requests_for_leases() {
    let Some(remote) = Remote::with(Kind::Moto, IN_BUCKET) else { return };
    remote.write_telemetry(3, 100);
    let asked = Shared::new(Mutex::new(Vec::<String>::new()));
    let seen = Shared::clone(&asked);
    let proxy = Proxy::start(&remote.bucket.address, move |_, request| {
        seen.lock().unwrap().push(format!("{} {}", request.method(), request.target()));
        Wire::Good
    });
    remote.configure(&remote.bucket.through(&proxy.address), IN_BUCKET);

    let report = remote.compact_well();

    let asked = asked.lock().unwrap();
    let leases = asked.iter().filter(|request| request.contains("_compaction_locks")).count();
    assert_eq!(leases, 4, "{asked:#?}");
    let reported: u64 = report["storage"]["requests"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(reported, asked.len() as u64, "{:#}\n{asked:#?}", report["storage"]);
}

/// `GET /api/connections/storage` says of compare-and-swap what it says of create-if-absent, where something rests on it.
#[test]
fn the_connection_says_whether_leases_can_be_in_the_bucket() {
    Remote::everywhere(|remote| {
        let kind = remote.bucket.kind;
        let of = |settings: &str| {
            remote.configure(&remote.bucket, settings);
            remote.arc.serve().get("/api/connections/storage").json()
        };
        let connection = of(IN_BUCKET);
        assert_eq!((&connection["compare_and_swap"], &connection["error"]), (&true.into(), &().into()), "{kind:?}");
        let connection = of("lock_backend = 'sqlite'");
        assert!(connection["compare_and_swap"].is_null(), "{kind:?}: {connection}");
        assert_eq!(remote.objects().into_keys().collect::<Vec<_>>(), [PROBE], "{kind:?}: nothing is left of it");
    });
}

/// The start asks for compare-and-swap exactly when something rests on it.
#[test]
fn a_store_without_compare_and_swap_is_refused_for_leases_only() {
    let Some(remote) = Remote::with(Kind::Moto, IN_BUCKET) else { return };
    let folder = tempfile::tempdir().unwrap();
    let probe = || {
        // It creates if absent and has no updates.
        let store = Shared::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
        let storage = Storage::over(store, "somewhere");
        let clock = Shared::new(SystemClock);
        let manager = manager_over(&remote.config(), storage, Shared::new(NoHook), Shared::new(DuckDbEngine), clock);
        block_on(manager.probe())
    };
    let refused = probe().unwrap_err();
    assert!(matches!(refused, StorageError::Unsuitable { .. }), "{refused}");
    remote.configure(&remote.bucket, "lock_backend = 'sqlite'");
    probe().unwrap();
}
