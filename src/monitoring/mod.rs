//! What a running service says of itself, besides its log: numbers for Prometheus, and whether it is ready.
//!
//! - [`JobMetrics`] turns events into metrics, after the fact.
//! - [`Scrape`] renders them, with the gauges of the moment.
//! - [`Readiness`] decides whether the service is ready, and says why not.
//!
//! What must hold: nothing here changes what the service does. A fault of a check is a failed check.
//!
//! Deliberately not here: the numbers' names (`metrics`), the HTTP routes that show them.

mod job_metrics;
mod probing;
mod readiness;
mod scrape;
mod verdict;

pub use job_metrics::JobMetrics;
pub use readiness::{LookAtWork, Readiness, ReadinessParts};
pub use scrape::Scrape;
pub use verdict::{Check, SchedulerState, Verdict, Work};
