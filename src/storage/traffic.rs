//! What went to and from storage in a stretch of time, for reports.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::metered::Counter;

/// Requests and bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// By operation, whatever their outcome; see the metric `arc_storage_requests_total` for that.
    pub requests: BTreeMap<&'static str, u64>,
    pub bytes_read: u64,
    pub bytes_written: u64,
}

impl Traffic {
    /// All requests together.
    #[must_use]
    pub fn total_requests(&self) -> u64 {
        self.requests.values().sum()
    }
}

/// Counts traffic between two looks at it. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Mutex<Traffic>>);

impl Tally {
    /// What was counted since the last call.
    #[must_use]
    pub fn take(&self) -> Traffic {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Traffic> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counter for Tally {
    fn request(&self, operation: &'static str, _outcome: &'static str) {
        *self.lock().requests.entry(operation).or_default() += 1;
    }

    fn read(&self, bytes: u64) {
        self.lock().bytes_read += bytes;
    }

    fn written(&self, bytes: u64) {
        self.lock().bytes_written += bytes;
    }
}
