//! Holding a lease while a job runs: renewed in the background, given back at the end.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::job::LOG;
use crate::lock::{Lease, LockError, LockManager};

/// A lease is renewed when this part of its time has passed, so that two renewals may fail before it expires.
const RENEWALS_PER_TTL: u32 = 3;

/// A held lease. `lost` is cancelled as soon as it is known to be gone.
#[derive(Debug)]
pub struct LeaseGuard {
    locks: Arc<dyn LockManager>,
    lease: Lease,
    lost: CancellationToken,
    renewing: JoinSet<()>,
}

impl LeaseGuard {
    /// Starts to renew `lease`. `lost` must be a token of the job's, which stops at its next safe point.
    #[must_use]
    pub fn hold(locks: Arc<dyn LockManager>, lease: Lease, ttl: Duration, lost: CancellationToken) -> Self {
        let mut renewing = JoinSet::new();
        renewing.spawn(renew_until_lost(Arc::clone(&locks), lease.clone(), ttl, lost.clone()));
        Self { locks, lease, lost, renewing }
    }

    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Gives the lease back. A failure is logged: the lease then expires by itself.
    pub async fn release(mut self) {
        self.renewing.shutdown().await;
        match self.locks.release_lock(&self.lease).await {
            Ok(()) => {}
            Err(LockError::Lost { .. }) => {
                debug!(target: LOG, partition = %self.lease.partition, "The lease was already gone when it was released");
            }
            Err(error) => {
                warn!(target: LOG, partition = %self.lease.partition, %error, "The lease could not be released and will expire");
            }
        }
    }
}

async fn renew_until_lost(locks: Arc<dyn LockManager>, mut lease: Lease, ttl: Duration, lost: CancellationToken) {
    loop {
        tokio::time::sleep(ttl / RENEWALS_PER_TTL).await;
        match locks.renew(&lease, ttl).await {
            Ok(renewed) => lease = renewed,
            Err(LockError::Lost { .. }) => {
                warn!(target: LOG, partition = %lease.partition, "The lease was lost, the job stops at the next safe point");
                lost.cancel();
                return;
            }
            // The lease still has time; if the database stays away, the next renewals say that it expired.
            Err(error) => warn!(target: LOG, partition = %lease.partition, %error, "The lease could not be renewed"),
        }
    }
}
