//! Leases in the bucket, on real servers: the suite that every lock passes, and what people see of them.

use std::sync::{Arc as Shared, Mutex};
use std::time::{Duration, Instant};

use arc::clock::{ManualClock, SystemClock};
use arc::lock::{Acquired, Lease, LockError, LockManager, StorageLocks, WorkerId};
use arc::merge::DuckDbEngine;
use arc::partition::PartitionId;
use arc::storage::{Storage, StorageError};
use object_store::local::LocalFileSystem;

use crate::object_store::remote::{NoHook, PROBE, Remote};
use crate::support::proxy::{Proxy, Wire};
use crate::support::servers::{Bucket, Kind};
use crate::support::stores::manager_over;
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

/// By the real clocks of real servers. A worker that waits asks again and again.
#[test]
fn a_worker_that_is_gone_is_succeeded_after_its_time_and_not_before() {
    const TTL: Duration = Duration::from_secs(1);
    let waits = Kind::ALL.into_iter().filter_map(Kind::bucket).map(|bucket| {
        std::thread::spawn(move || {
            block_on(async {
                let partition: PartitionId = PARTITION.parse().unwrap();
                let (gone, next) = (elsewhere(&bucket, "gone"), elsewhere(&bucket, "next"));
                let lease = conformance::take(&gone, &partition).await;
                let lease = gone.renew(&lease, TTL).await.unwrap();
                let since = Instant::now();
                let taken = loop {
                    match next.acquire_lock(&partition, TTL).await.unwrap() {
                        Acquired::Yes(taken) => break taken,
                        Acquired::HeldBy(holder) => assert_eq!(holder, lease),
                    }
                    assert!(since.elapsed() < Duration::from_mins(1), "{:?}: it is never over", bucket.kind);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                };
                assert!(since.elapsed() > TTL, "{:?}: after {:?}", bucket.kind, since.elapsed());
                assert!(taken.token > lease.token, "{:?}", bucket.kind);
                assert!(matches!(gone.renew(&lease, TTL).await, Err(LockError::Lost { .. })), "{:?}", bucket.kind);
            });
        })
    });
    for wait in waits.collect::<Vec<_>>() {
        wait.join().unwrap();
    }
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
