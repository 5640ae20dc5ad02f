//! How much of each kind of work goes on at the same time, in all jobs of a manager together.
//!
//! ```text
//! job 1   fetch ▒▒▒▒ merge ██████████████ publish ▒▒
//! job 2        fetch ▒▒▒▒ · · · · · · · · merge ████████████ publish ▒▒
//!                         waits for a permit to merge; its temp space is reserved
//! ```
//!
//! Merges need processors and memory, transfers need the network; they overlap when more jobs are under way than may merge.
//! So with storage that is not local disk [`Permits::jobs_at_once`] is twice `max_concurrent_jobs`: while each merge runs,
//! the inputs of one job to come are fetched, if the disk has room for both (`TempBudget`). Where inputs are read in place
//! there is nothing to fetch ahead.
//!
//! What must hold: a permit is taken before the work begins and given back when it ends, however it ends. Nobody who holds
//! one waits for another kind, except for transfers, whose holders wait for nobody.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Objects that are fetched or read back at the same time. A request is mostly waiting: with 20 ms to the store and back, so
/// many hide the waiting of files from some 50 KB on. Each holds what came in one piece from the network in memory.
pub(super) const TRANSFERS_AT_ONCE: usize = 32;

/// See the module documentation.
#[derive(Debug, Clone)]
pub(super) struct Permits {
    merges: Arc<Semaphore>,
    transfers: Arc<Semaphore>,
    jobs_at_once: usize,
}

impl Permits {
    pub(super) fn new(max_concurrent_jobs: NonZeroUsize, inputs_are_fetched: bool) -> Self {
        let merges = max_concurrent_jobs.get();
        Self {
            merges: Arc::new(Semaphore::new(merges)),
            transfers: Arc::new(Semaphore::new(TRANSFERS_AT_ONCE)),
            jobs_at_once: if inputs_are_fetched { 2 * merges } else { merges },
        }
    }

    /// Jobs that may be under way.
    pub(super) fn jobs_at_once(&self) -> usize {
        self.jobs_at_once
    }

    /// Waits until there is a merge less.
    pub(super) async fn to_merge(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.merges).acquire_owned().await.expect("it is never closed")
    }

    /// Waits until there is a transfer less.
    pub(super) async fn to_transfer(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.transfers).acquire_owned().await.expect("it is never closed")
    }
}
