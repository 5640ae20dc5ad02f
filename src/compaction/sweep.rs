//! How much of storage a cycle looks at: all of it now and then, usually only the recent hours.
//!
//! ```text
//!   oldest hour                                       now - min_age - recent_window           now
//!   |──────────────────────────────────────────────────────|───────────────────────────────────|
//!                        a sweep sees all of it            |     most cycles LIST from here on
//! ```
//!
//! What must hold: a measurement is swept at the latest `full_scan` after its last sweep, and at once when none is known, so
//! the window never hides late data, or what a crash left behind, for longer than that. A sweep counts only when its listing
//! came to its end and everything that it found outside the window was done: what failed, what was locked, what did not fit
//! into the cycle and files that were still being written are looked for again by the next cycle, with another sweep.
//! Partitions with damaged files or failed jobs are looked at in every cycle, one by one, wherever they are.
//!
//! When the last sweeps were is kept in the state database. Losing it costs one more sweep, nothing else.
//!
//! Deliberately not here: the listing itself, and what is found by it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::{TransactionBehavior, params};
use tracing::warn;

use super::job::LOG;
use super::ledger::{Standing, parse_time, time_text};
use super::scan::{Reach, Scope};
use super::settings::CompactionSettings;
use crate::partition::{Hour, PartitionId};
use crate::state::{StateDb, StateError};

/// Measurements whose last sweep is remembered. Beyond that those swept longest ago are forgotten, and swept again.
pub const MAX_MEASUREMENTS: usize = 100_000;
/// Partitions outside the window that one cycle looks at one by one. More wait for the next sweep.
const MAX_REVISITS: usize = 1_000;

const TABLE: &str = "compaction_sweeps";

/// A measurement of a database.
pub(super) type Place = (String, String);

/// When measurements were last swept.
#[derive(Debug, Clone)]
pub(super) struct Sweeps {
    state: StateDb,
}

impl Sweeps {
    pub(super) fn new(state: StateDb) -> Self {
        Self { state }
    }

    async fn all(&self) -> Result<HashMap<Place, DateTime<Utc>>, StateError> {
        self.state
            .read(|connection| {
                let sql = format!("SELECT database, measurement, swept_at FROM {TABLE}");
                let mut statement = connection.prepare_cached(&sql)?;
                let mut rows = statement.query([])?;
                let mut all = HashMap::new();
                while let Some(row) = rows.next()? {
                    let (database, measurement, at): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
                    let at = parse_time(TABLE, &measurement, "swept_at", &at)?;
                    all.insert((database, measurement), at);
                }
                Ok(all)
            })
            .await
    }

    /// Notes that these measurements were swept. Where that cannot be written down, the next cycle sweeps again.
    pub(super) async fn note(&self, swept: Vec<Place>, at: DateTime<Utc>) {
        if swept.is_empty() {
            return;
        }
        let written = self.state.write(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            {
                let mut put = transaction.prepare_cached(&format!("INSERT OR REPLACE INTO {TABLE} VALUES (?1, ?2, ?3)"))?;
                for (database, measurement) in &swept {
                    put.execute(params![database, measurement, time_text(at)])?;
                }
            }
            let limit = i64::try_from(MAX_MEASUREMENTS).unwrap_or(i64::MAX);
            let keep = format!(
                "DELETE FROM {TABLE} WHERE rowid IN (SELECT rowid FROM {TABLE} ORDER BY swept_at DESC LIMIT -1 OFFSET ?1)"
            );
            transaction.execute(&keep, [limit])?;
            transaction.commit()?;
            Ok(())
        });
        if let Err(error) = written.await {
            warn!(target: LOG, %error, "Cannot write down what was looked at; the next cycle looks at all of it again: {error}");
        }
    }

    /// What a cycle that begins now looks at.
    pub(super) async fn extent(&self, reach: Reach, now: DateTime<Utc>) -> Extent {
        let swept = match reach {
            Reach::Everything => HashMap::new(),
            Reach::RecentUnlessDue => self.all().await.unwrap_or_else(|error| {
                warn!(target: LOG, %error, "Cannot read when storage was last looked at; this cycle looks at all of it: {error}");
                HashMap::new()
            }),
        };
        Extent { now, swept, listed: Mutex::default() }
    }
}

/// What one cycle looks at, and what it has looked at so far.
#[derive(Debug)]
pub(super) struct Extent {
    now: DateTime<Utc>,
    /// Empty where everything is to be looked at.
    swept: HashMap<Place, DateTime<Utc>>,
    /// Measurements whose whole listing came to its end.
    listed: Mutex<BTreeSet<Place>>,
}

impl Extent {
    /// All of storage, for whoever is not a cycle.
    pub(super) fn everything() -> Self {
        Self { now: DateTime::UNIX_EPOCH, swept: HashMap::new(), listed: Mutex::default() }
    }

    /// From which hour on a measurement is looked at. `None`: all of it.
    pub(super) fn since(&self, settings: &CompactionSettings, database: &str, measurement: &str) -> Option<Hour> {
        let swept_at = *self.swept.get(&(database.to_owned(), measurement.to_owned()))?;
        // A sweep in the future was noted by a clock that was wrong.
        let age = (self.now - swept_at).to_std().ok()?;
        if age >= settings.full_scan {
            return None;
        }
        self.window_start(settings, database, measurement)
    }

    /// The first hour that a cycle looks at which does not look at everything. `None`: all of them do.
    fn window_start(&self, settings: &CompactionSettings, database: &str, measurement: &str) -> Option<Hour> {
        let window = settings.recent_window?;
        let any = PartitionId::new(database, measurement, Hour::containing(self.now)).ok()?;
        let reach = TimeDelta::from_std(window + settings.for_partition(&any).policy.min_age).ok()?;
        self.now.checked_sub_signed(reach).map(Hour::containing)
    }

    /// Whether the cycle looks at the partition: it is in the window, or there is none for its measurement.
    pub(super) fn reaches(&self, settings: &CompactionSettings, partition: &PartitionId) -> bool {
        let since = self.since(settings, partition.database(), partition.measurement());
        since.is_none_or(|since| partition.hour() >= since)
    }

    /// Whether the next cycle would miss the partition, if this one counted as a sweep.
    pub(super) fn would_hide(&self, settings: &CompactionSettings, partition: &PartitionId) -> bool {
        let start = self.window_start(settings, partition.database(), partition.measurement());
        start.is_some_and(|start| partition.hour() < start)
    }

    /// Partitions outside the window that are looked at nevertheless, because of what happened there.
    pub(super) fn revisits(
        &self,
        settings: &CompactionSettings,
        scope: &Scope,
        standing: &Standing,
    ) -> Vec<PartitionId> {
        if self.swept.is_empty() {
            return Vec::new();
        }
        let known = standing.partitions();
        let partitions = known.iter().filter_map(|path| path.parse().ok());
        partitions.filter(|p| scope.covers(settings, p) && !self.reaches(settings, p)).take(MAX_REVISITS).collect()
    }

    /// Notes that the whole of a measurement was listed.
    pub(super) fn listed(&self, database: &str, measurement: &str) {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if listed.len() < MAX_MEASUREMENTS {
            listed.insert((database.to_owned(), measurement.to_owned()));
        }
    }

    /// The measurements that were swept: listed, and with nothing left to do.
    pub(super) fn swept(&self, unfinished: &HashSet<Place>) -> Vec<Place> {
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        listed.iter().filter(|place| !unfinished.contains(*place)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::compaction::testing::at;
    use crate::config::Config;

    const HOUR: Duration = Duration::from_hours(1);

    fn extent(now: DateTime<Utc>, swept_at: DateTime<Utc>) -> Extent {
        let swept = HashMap::from([(("db".to_owned(), "cpu".to_owned()), swept_at)]);
        Extent { now, swept, listed: Mutex::default() }
    }

    #[test]
    fn a_measurement_is_looked_at_from_the_window_on_until_its_sweep_is_too_long_ago() {
        let settings =
            CompactionSettings { recent_window: Some(2 * HOUR), full_scan: 3 * HOUR, ..Config::default().compaction };
        let hour = |h| Some(Hour::containing(at(h, 0)));
        let since = |now, swept| extent(now, swept).since(&settings, "db", "cpu");
        // The youngest hour that may be compacted is one hour old; the window is counted from there.
        assert_eq!(since(at(14, 30), at(14, 0)), hour(11));
        assert_eq!(since(at(16, 59), at(14, 0)), hour(13));
        assert_eq!(since(at(17, 0), at(14, 0)), None, "the sweep is due");
        assert_eq!(since(at(13, 0), at(14, 0)), None, "the clock was turned back");
        assert_eq!(extent(at(14, 30), at(14, 0)).since(&settings, "db", "mem"), None, "never swept");
        let always = CompactionSettings { recent_window: None, ..settings.clone() };
        assert_eq!(extent(at(14, 30), at(14, 0)).since(&always, "db", "cpu"), None);
    }

    #[tokio::test]
    async fn sweeps_are_remembered_by_measurement() {
        let sweeps = Sweeps::new(StateDb::in_memory().unwrap());
        let place = |m: &str| ("db".to_owned(), m.to_owned());
        sweeps.note(vec![place("cpu"), place("mem")], at(14, 0)).await;
        sweeps.note(vec![place("cpu")], at(15, 0)).await;
        let expected = HashMap::from([(place("cpu"), at(15, 0)), (place("mem"), at(14, 0))]);
        assert_eq!(sweeps.all().await.unwrap(), expected);
        assert!(sweeps.extent(Reach::Everything, at(15, 0)).await.swept.is_empty());
        assert_eq!(sweeps.extent(Reach::RecentUnlessDue, at(15, 0)).await.swept, expected);
    }

    #[test]
    fn what_is_unfinished_was_not_swept() {
        let extent = extent(at(14, 0), at(14, 0));
        extent.listed("db", "cpu");
        extent.listed("db", "mem");
        let cpu = ("db".to_owned(), "cpu".to_owned());
        assert_eq!(extent.swept(&HashSet::from([cpu])), [("db".to_owned(), "mem".to_owned())]);
    }
}
