//! What `/metrics` answers: the counters, and the gauges as they are at this moment.

use std::fmt;
use std::sync::Arc;

use super::readiness::LookAtWork;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::state::{Failure, StateDb, StateError};

/// Renders metrics. Ages grow while nothing happens, so they are computed when somebody asks.
#[derive(Clone)]
pub struct Scrape {
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    state: StateDb,
    work: LookAtWork,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Scrape {
    #[must_use]
    pub fn new(metrics: Metrics, clock: Arc<dyn Clock>, state: StateDb, work: LookAtWork) -> Self {
        Self { metrics, clock, state, work }
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
        if let Ok(files) = self.quarantined_files().await {
            self.metrics.quarantined_files(files.unsigned_abs());
        }
        self.metrics.render()
    }

    async fn quarantined_files(&self) -> Result<i64, StateError> {
        const COUNT: &str = "SELECT count(*) FROM compaction_quarantine";
        self.state
            .read(|connection| connection.query_row(COUNT, [], |row| row.get::<_, i64>(0)).map_err(Failure::from))
            .await
    }
}
