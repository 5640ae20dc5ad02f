use futures::executor::block_on;
use object_store::memory::InMemory;

use super::super::conformance;
use super::*;
use crate::clock::ManualClock;

#[test]
fn leases_in_storage_conform() {
    let clock = Arc::new(ManualClock::at("2025-10-08T16:00:00Z".parse().unwrap()));
    let locks = StorageLocks::new(Arc::new(InMemory::new()), clock.clone());
    block_on(conformance::check(&locks, &clock));
}
