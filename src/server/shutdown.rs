//! What a stop left undone.

use std::time::Duration;

use tracing::{info, warn};

/// How a stop went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutdownReport {
    /// From the wish to stop to the end.
    pub duration: Duration,
    /// Requests that were cut off without an answer.
    pub requests_abandoned: usize,
    /// Jobs that had not ended. The next start, or another worker, settles what they left; no data is lost.
    pub jobs_abandoned: Vec<String>,
}

impl ShutdownReport {
    /// Whether everything ended in time.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.requests_abandoned == 0 && self.jobs_abandoned.is_empty()
    }

    /// Says it in one line.
    pub(super) fn log(&self) {
        let duration_seconds = self.duration.as_secs_f64();
        if self.is_clean() {
            info!(target: "api", duration_seconds, "Server stopped in {duration_seconds:.1}s, nothing was abandoned");
            return;
        }
        let jobs = if self.jobs_abandoned.is_empty() { "none".to_owned() } else { self.jobs_abandoned.join(", ") };
        warn!(target: "api", duration_seconds, requests = self.requests_abandoned, jobs,
            "Server stopped after {duration_seconds:.1}s, abandoned: {} requests, jobs: {jobs}; the next start settles what they left",
            self.requests_abandoned);
    }
}
