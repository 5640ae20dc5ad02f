//! What earlier cycles learnt about partitions, for the next ones: which files are damaged, which jobs failed.
//!
//! The two tables, [`Quarantine`] and [`Attempts`], and how a cycle uses them: a scan loads both once, whatever the number
//! of partitions; a job reads its partition's rows anew, under the lease.
//!
//! What must hold: the ledger saves work and is never needed for safety. When the state database does not answer, that is
//! logged and work goes on as if nothing had been learnt: damaged files are found again by the merge, and failing
//! partitions are tried at once. Stopping instead would make a full disk under the database stop all compaction, to spare
//! work that is bounded anyway.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, SecondsFormat, Utc};
use tracing::warn;

use super::attempts::{Attempts, Begun, Ended};
use super::backoff::Failures;
use super::job::LOG;
use super::quarantine::{HeldBack, Quarantine, QuarantineFilter, QuarantinedFile, QuarantinedInput};
use crate::partition::{DataFile, Listing, PartitionId};
use crate::state::{Failure, StateDb, StateError};

/// The program that finds files damaged and jobs failing. Another version may do better, so it tries again. The merge
/// engine is part of the program.
pub const VERSION: &str = concat!("arc ", env!("CARGO_PKG_VERSION"));

/// Longer messages are cut before they are stored.
const MAX_STORED_CHARS: usize = 1000;

/// Whether waits after failures are kept. Somebody who names one partition wants it tried now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    Kept,
    Overridden,
}

/// The tables.
#[derive(Debug, Clone)]
pub struct Ledger {
    quarantine: Quarantine,
    attempts: Attempts,
}

/// What is known of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    pub quarantined: Vec<QuarantinedFile>,
    pub failures: Option<Failures>,
}

impl Known {
    #[must_use]
    pub fn held_back(&self, now: DateTime<Utc>) -> HeldBack {
        HeldBack::of(&self.quarantined, VERSION, now)
    }
}

/// What was known of all partitions when a scan began. Bounded by the limits of the tables.
#[derive(Debug, Default)]
pub struct Standing {
    quarantined: HashMap<String, Vec<QuarantinedFile>>,
    failures: HashMap<String, Failures>,
    /// Entries whose file is gone or replaced, as the scan found.
    obsolete: Mutex<Vec<u64>>,
}

impl Standing {
    /// The paths of the partitions of which something is known.
    #[must_use]
    pub fn partitions(&self) -> BTreeSet<&str> {
        self.quarantined.keys().chain(self.failures.keys()).map(String::as_str).collect()
    }

    /// What is known of the partition. Entries that the listing refutes are noted for [`Ledger::forget_obsolete`].
    #[must_use]
    pub fn of(&self, partition: &PartitionId, listing: &Listing) -> Known {
        if self.quarantined.is_empty() && self.failures.is_empty() {
            return Known::default();
        }
        let path = partition.to_string();
        let quarantined = self.quarantined.get(&path).cloned().unwrap_or_default();
        let (there, gone): (Vec<_>, Vec<_>) =
            quarantined.into_iter().partition(|e| listing.data_file(&e.name).is_some_and(|file| e.is(file)));
        if !gone.is_empty() {
            let mut obsolete = self.obsolete.lock().unwrap_or_else(PoisonError::into_inner);
            obsolete.extend(gone.iter().map(|entry| entry.id));
        }
        Known { quarantined: there, failures: self.failures.get(&path).cloned() }
    }
}

impl Ledger {
    #[must_use]
    pub fn new(state: StateDb) -> Self {
        Self { quarantine: Quarantine::new(state.clone()), attempts: Attempts::new(state) }
    }

    /// Everything that is known, for a scan.
    pub async fn load(&self) -> Standing {
        let quarantined = or_nothing("read", self.quarantine.list(&QuarantineFilter::default()).await);
        let mut by_partition: HashMap<String, Vec<QuarantinedFile>> = HashMap::new();
        for entry in quarantined {
            by_partition.entry(entry.partition.to_string()).or_default().push(entry);
        }
        let failures = or_nothing("read", self.attempts.all().await);
        Standing { quarantined: by_partition, failures, obsolete: Mutex::default() }
    }

    /// What is known of one partition now.
    pub async fn of(&self, partition: &PartitionId) -> Known {
        Known {
            quarantined: or_nothing("read", self.quarantine.of(partition).await),
            failures: or_nothing("read", self.attempts.of(partition).await),
        }
    }

    /// Forgets what a scan refuted, and what expired long ago.
    pub async fn forget_obsolete(&self, standing: &Standing, now: DateTime<Utc>) {
        let obsolete = std::mem::take(&mut *standing.obsolete.lock().unwrap_or_else(PoisonError::into_inner));
        if !obsolete.is_empty() {
            or_nothing("change", self.quarantine.forget(obsolete).await);
        }
        if !standing.quarantined.is_empty() {
            or_nothing("change", self.quarantine.forget_expired(now).await);
        }
    }

    /// Writes down that a job begins. `None` when that was not possible; the job goes on.
    pub async fn begin(&self, partition: &PartitionId, inputs: &str, now: DateTime<Utc>) -> Option<Begun> {
        or_nothing("change", self.attempts.begin(partition, inputs, now).await.map(Some))
    }

    /// Writes down how a job ended.
    pub async fn end(&self, begun: Option<Begun>, ended: Ended, now: DateTime<Utc>) {
        if let Some(begun) = begun {
            or_nothing("change", self.attempts.end(begun, ended, now).await);
        }
    }

    /// Writes down what a job found out about its inputs. `false` when that was not possible.
    pub async fn take_in(
        &self,
        partition: &PartitionId,
        inputs: &[DataFile],
        defective: &[QuarantinedInput],
        now: DateTime<Utc>,
    ) -> bool {
        or_nothing("change", self.quarantine.take_in(partition, inputs, defective, VERSION, now).await.map(|()| true))
    }
}

fn or_nothing<T: Default>(what: &str, result: Result<T, StateError>) -> T {
    result.unwrap_or_else(|error| {
        warn!(target: LOG, %error,
            "Cannot {what} what is known of damaged files and failed jobs; work goes on without: {error}");
        T::default()
    })
}

/// A message, cut to what is stored.
pub(super) fn shorten(message: &str) -> String {
    match message.char_indices().nth(MAX_STORED_CHARS) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

/// UTC text that sorts like the time.
pub(super) fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

pub(super) fn parse_time(table: &'static str, key: &str, column: &str, value: &str) -> Result<DateTime<Utc>, Failure> {
    value.parse().map_err(|_| Failure::row(table, key, column, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compaction::testing::{listing, partition, raw};
    use crate::merge::SetAsideReason;

    fn entry(id: u64, file: &DataFile) -> QuarantinedFile {
        QuarantinedFile {
            id,
            partition: partition(),
            name: file.name.clone(),
            size_bytes: file.size_bytes,
            etag: file.etag.clone(),
            reason: SetAsideReason::Unreadable("no footer".into()),
            version: VERSION.into(),
            first_seen_at: DateTime::UNIX_EPOCH,
            retry_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn entries_of_files_that_are_gone_or_replaced_are_found_obsolete() {
        let mut files = raw(3);
        let entries = vec![entry(1, &files[0]), entry(2, &files[1]), entry(3, &files[2])];
        files[1].etag.push('2');
        files.remove(0);
        let standing =
            Standing { quarantined: HashMap::from([(partition().to_string(), entries)]), ..Standing::default() };
        let known = standing.of(&partition(), &listing(files, []));
        assert_eq!(known.quarantined.iter().map(|e| e.id).collect::<Vec<_>>(), [3]);
        assert_eq!(*standing.obsolete.lock().unwrap(), [1, 2]);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        assert_eq!(shorten("short"), "short");
        assert_eq!(shorten(&"é".repeat(2000)).chars().count(), MAX_STORED_CHARS + 1);
    }
}
