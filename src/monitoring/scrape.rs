//! What `/metrics` answers: the counters, and the gauges as they are at this moment.

use std::fmt;
use std::sync::Arc;

use super::readiness::LookAtWork;
use crate::clock::Clock;
use crate::compaction::quarantine::Quarantine;
use crate::metrics::Metrics;

/// Renders metrics. Ages grow while nothing happens, so they are computed when somebody asks.
#[derive(Clone)]
pub struct Scrape {
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    quarantine: Quarantine,
    work: LookAtWork,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Scrape {
    #[must_use]
    pub fn new(metrics: Metrics, clock: Arc<dyn Clock>, quarantine: Quarantine, work: LookAtWork) -> Self {
        Self { metrics, clock, quarantine, work }
    }

    /// All metrics in Prometheus' text format. Works without the state database, too: then the number of quarantined
    /// files is the last one known.
    pub async fn render(&self) -> String {
        let work = (self.work)();
        self.metrics.active_jobs(work.active_jobs);
        if let Some(backlog) = work.backlog {
            let age = backlog.oldest_ready_at.map(|at| (self.clock.now() - at).to_std().unwrap_or_default());
            self.metrics.backlog(backlog.partitions, backlog.bytes, age.unwrap_or_default());
        }
        if let Ok(files) = self.quarantine.count().await {
            self.metrics.quarantined_files(files);
        }
        self.metrics.render()
    }
}
