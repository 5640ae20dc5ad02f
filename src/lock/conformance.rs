//! What every [`LockManager`] must do. Each implementation runs this one suite.

use std::time::Duration;

use chrono::TimeDelta;

// Only from the module around: the tests on real servers run the same suite.
use super::{Acquired, Lease, LockError, LockManager, ManualClock, PartitionId, WorkerId};

const TTL: Duration = Duration::from_mins(1);

/// Runs the suite on an empty lock store whose manager reads `clock`, which stands at a whole second.
pub(crate) async fn check(locks: &dyn LockManager, clock: &ManualClock) {
    one_holder_at_a_time(locks).await;
    renewal_extends_and_keeps_the_token(locks, clock).await;
    expiry_is_final(locks, clock).await;
    only_the_holder_renews_and_releases(locks).await;
    names_that_look_alike_are_different_partitions(locks).await;
    listing_and_cleanup_tell_live_from_expired(locks, clock).await;
}

pub(crate) fn partition(path: &str) -> PartitionId {
    path.parse().unwrap()
}

pub(crate) async fn take(locks: &dyn LockManager, partition: &PartitionId) -> Lease {
    match locks.acquire_lock(partition, TTL).await.unwrap() {
        Acquired::Yes(lease) => lease,
        Acquired::HeldBy(holder) => panic!("held by {holder:?}"),
    }
}

async fn one_holder_at_a_time(locks: &dyn LockManager) {
    let p = partition("db/cpu/2025/10/08/14");
    let first = take(locks, &p).await;
    assert_eq!(locks.acquire_lock(&p, TTL).await.unwrap(), Acquired::HeldBy(first.clone()));
    locks.release_lock(&first).await.unwrap();
    let second = take(locks, &p).await;
    assert!(second.token > first.token, "tokens grow, also after a release");
    locks.release_lock(&second).await.unwrap();
}

async fn renewal_extends_and_keeps_the_token(locks: &dyn LockManager, clock: &ManualClock) {
    let p = partition("db/cpu/2025/10/08/14");
    let lease = take(locks, &p).await;
    clock.advance(TimeDelta::seconds(59));
    let renewed = locks.renew(&lease, TTL).await.unwrap();
    assert_eq!(renewed, Lease { expires_at: lease.expires_at + TimeDelta::seconds(59), ..lease.clone() });
    clock.advance(TimeDelta::seconds(59));
    assert_eq!(locks.acquire_lock(&p, TTL).await.unwrap(), Acquired::HeldBy(renewed.clone()), "still held");
    locks.release_lock(&renewed).await.unwrap();
}

/// T21, T22: at the very second of expiry the lease is over, whether or not somebody else took the partition.
async fn expiry_is_final(locks: &dyn LockManager, clock: &ManualClock) {
    let p = partition("db/cpu/2025/10/08/14");
    let expired = take(locks, &p).await;
    clock.advance(TimeDelta::seconds(60));
    assert_lost(locks.renew(&expired, TTL).await, &expired);
    assert_lost(locks.release_lock(&expired).await, &expired);
    clock.advance(TimeDelta::seconds(-60));
    assert_eq!(locks.active_locks().await.unwrap(), [], "given back, it does not hold again when the clock is set");

    let next = take(locks, &p).await;
    assert!(next.token > expired.token);
    assert_lost(locks.renew(&expired, TTL).await, &expired);
    assert_lost(locks.release_lock(&expired).await, &expired);
    assert_eq!(locks.active_locks().await.unwrap(), std::slice::from_ref(&next), "the new holder is not disturbed");
    locks.release_lock(&next).await.unwrap();
    assert_lost(locks.release_lock(&next).await, &next);
}

/// T22: the token or the worker alone is not enough.
async fn only_the_holder_renews_and_releases(locks: &dyn LockManager) {
    let p = partition("db/cpu/2025/10/08/14");
    let held = take(locks, &p).await;
    let other_worker: WorkerId = "somebody else".parse().unwrap();
    for not_held in [
        Lease { token: held.token + 1, ..held.clone() },
        Lease { token: u64::MAX, ..held.clone() },
        Lease { worker_id: other_worker, ..held.clone() },
        Lease { partition: partition("db/cpu/2025/10/08/15"), ..held.clone() },
    ] {
        assert_lost(locks.renew(&not_held, TTL).await, &not_held);
        assert_lost(locks.release_lock(&not_held).await, &not_held);
    }
    assert_eq!(locks.active_locks().await.unwrap(), std::slice::from_ref(&held));
    locks.release_lock(&held).await.unwrap();
}

/// T8, T56.
async fn names_that_look_alike_are_different_partitions(locks: &dyn LockManager) {
    let mut leases = Vec::new();
    for path in ["a/a_cpu", "a_a/cpu", "A/a_cpu", "it's/\"x\"", "%/_", "größe/*"] {
        leases.push(take(locks, &partition(&format!("{path}/2025/10/08/14"))).await);
    }
    assert_eq!(locks.active_locks().await.unwrap(), leases, "in the order in which they were taken");
    for lease in &leases {
        locks.release_lock(lease).await.unwrap();
    }
    assert_eq!(locks.active_locks().await.unwrap(), []);
}

async fn listing_and_cleanup_tell_live_from_expired(locks: &dyn LockManager, clock: &ManualClock) {
    let old = take(locks, &partition("db/cpu/2025/10/08/14")).await;
    clock.advance(TimeDelta::seconds(30));
    let young = take(locks, &partition("db/cpu/2025/10/08/15")).await;
    assert_eq!(locks.active_locks().await.unwrap(), [old, young.clone()]);
    clock.advance(TimeDelta::seconds(30));
    assert_eq!(locks.active_locks().await.unwrap(), std::slice::from_ref(&young));
    assert_eq!(locks.cleanup_expired_locks().await.unwrap(), 1);
    assert_eq!(locks.cleanup_expired_locks().await.unwrap(), 0);
    locks.release_lock(&young).await.unwrap();
}

fn assert_lost<T: std::fmt::Debug>(result: Result<T, LockError>, lease: &Lease) {
    match result {
        Err(LockError::Lost { partition, token }) => {
            assert_eq!((&partition, token), (&lease.partition, lease.token));
        }
        other => panic!("expected a lost lease, got {other:?}"),
    }
}
