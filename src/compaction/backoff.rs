//! How long a partition whose jobs failed is left alone. Pure.
//!
//! ```text
//! failed in a row    1        2      3       4       5 = max_attempts
//! next attempt       at once  5 min  10 min  20 min  a day after the last start, or when the files change
//! ```
//!
//! One failure proves nothing: a power cut or a restart of the server is no fault of the partition, so the next cycle tries
//! again. From the second on the wait doubles, up to [`LONGEST_WAIT`]. A failure that the same files would only bring about
//! again (T40) is not repeated at all until files, settings or program have changed; time does not heal it.
//!
//! What must hold: an attempt is counted from its start, so that one which takes the whole program down counts, too (T31);
//! an attempt that somebody stopped, or that another worker made needless, does not count.

use std::num::NonZeroU32;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::error::{Disposition, JobError};
use super::plan::{Plan, SkipReason};
use crate::merge::{MergeError, MergeLimits, MergeOptions};

/// The wait after the second failure in a row. It doubles with each further one.
pub const FIRST_WAIT: Duration = Duration::from_mins(5);
/// No wait is longer, and after `max_attempts` none is shorter while the files are the same.
pub const LONGEST_WAIT: Duration = Duration::from_hours(24);

/// The attempts at a partition since its last success. An attempt that is under way is among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failures {
    /// [`fingerprint`] of what the last attempt was given.
    pub inputs: String,
    /// In a row.
    pub attempts: u32,
    pub last_started_at: DateTime<Utc>,
    /// When the wait after the last attempt ends, whatever has changed. Without meaning if `until_changed`.
    pub not_before: DateTime<Utc>,
    pub last_error: String,
    /// The same inputs would fail in the same way.
    pub until_changed: bool,
}

/// What the end of an attempt means for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As if it had not been made.
    DoesNotCount,
    /// Counted; tried again after a wait.
    Counts,
    /// Tried again when something has changed.
    UntilChanged,
}

impl Verdict {
    /// Exhaustive on purpose, like [`JobError::disposition`].
    #[must_use]
    pub fn of(error: &JobError) -> Self {
        match error.disposition() {
            Disposition::Yield => Self::DoesNotCount,
            // A merge whose proof failed will fail it again.
            Disposition::Operator if matches!(error, JobError::Merge(MergeError::ProofFailed(_))) => Self::UntilChanged,
            // What else needs a person is found anew before any work is done, or is not the files' fault.
            Disposition::Retry | Disposition::Operator => Self::Counts,
            Disposition::UntilChanged => Self::UntilChanged,
        }
    }
}

/// Everything that a repetition of a job would have in common with it: files, settings of the merge, its limits, and the
/// program.
#[must_use]
pub fn fingerprint(plan: &Plan, options: &MergeOptions, limits: &MergeLimits, version: &str) -> String {
    let mut hash = blake3::Hasher::new();
    let mut add = |part: &[u8]| {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    for file in &plan.inputs {
        add(file.name.as_bytes());
        add(&file.size_bytes.to_le_bytes());
        add(file.etag.as_bytes());
    }
    add(&serde_json::to_vec(options).expect("plain data is always JSON"));
    add(&limits.memory_bytes.to_le_bytes());
    add(&(limits.threads.get() as u64).to_le_bytes());
    add(version.as_bytes());
    hash.finalize().to_hex().to_string()
}

/// The number of the next attempt. A changed partition that waited for a change begins anew; one whose failures may have
/// had any cause does not, or a file that comes in every hour would undo every wait.
#[must_use]
pub fn next_number(previous: Option<&Failures>, inputs: &str) -> u32 {
    match previous {
        Some(failures) if failures.until_changed && failures.inputs != inputs => 1,
        Some(failures) => failures.attempts.saturating_add(1),
        None => 1,
    }
}

/// The wait after this many failures in a row.
#[must_use]
pub fn wait_after(attempts: u32) -> Duration {
    let Some(doublings) = attempts.checked_sub(2) else { return Duration::ZERO };
    FIRST_WAIT.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST_WAIT)
}

/// Why these inputs are not tried now, if so.
#[must_use]
pub fn reason_to_wait(
    failures: &Failures,
    inputs: &str,
    max_attempts: NonZeroU32,
    now: DateTime<Utc>,
) -> Option<SkipReason> {
    let same = failures.inputs == inputs;
    let last_error = || failures.last_error.clone();
    if failures.until_changed {
        let since = failures.last_started_at;
        return same.then(|| SkipReason::UntilChanged { since, last_error: last_error() });
    }
    // The clock was set back: nobody can say how long ago it was.
    if failures.last_started_at > now {
        return None;
    }
    let exhausted = same && failures.attempts >= max_attempts.get();
    let a_day_later = failures.last_started_at + LONGEST_WAIT;
    let until = if exhausted { failures.not_before.max(a_day_later) } else { failures.not_before };
    (now < until).then(|| SkipReason::BackingOff { attempts: failures.attempts, until, last_error: last_error() })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use chrono::TimeDelta;

    use super::*;
    use crate::compaction::plan::Trigger;
    use crate::compaction::testing::{at, partition, raw};
    use crate::merge::{Compression, ParquetVersion, Verify};
    use crate::partition::Generation;

    const MAX: NonZeroU32 = NonZeroU32::new(5).unwrap();

    fn failures(attempts: u32, until_changed: bool) -> Failures {
        Failures {
            inputs: "same".into(),
            attempts,
            last_started_at: at(15, 0),
            not_before: at(15, 0) + wait_after(attempts),
            last_error: "out of luck".into(),
            until_changed,
        }
    }

    /// Minutes that a partition waits after so many failures.
    fn waits(attempts: u32, inputs: &str) -> Option<i64> {
        let reason = reason_to_wait(&failures(attempts, false), inputs, MAX, at(15, 0))?;
        let SkipReason::BackingOff { until, .. } = reason else { panic!("{reason}") };
        assert_eq!(reason_to_wait(&failures(attempts, false), inputs, MAX, until), None, "then it is tried again");
        Some((until - at(15, 0)).num_minutes())
    }

    /// T31, T40.
    #[test]
    fn the_first_failure_is_repeated_at_once_then_the_wait_doubles_then_it_is_a_day() {
        assert_eq!(
            (1..=7).map(|n| waits(n, "same")).collect::<Vec<_>>(),
            [None, Some(5), Some(10), Some(20), Some(24 * 60), Some(24 * 60), Some(24 * 60)]
        );
    }

    #[test]
    fn changed_files_end_the_long_wait_and_not_the_doubling_one() {
        assert_eq!((4..=6).map(|n| waits(n, "other")).collect::<Vec<_>>(), [Some(20), Some(40), Some(80)]);
        assert_eq!(waits(u32::MAX, "other"), Some(24 * 60), "no wait is longer than the longest");
    }

    #[test]
    fn a_deterministic_failure_is_not_repeated_at_any_time_until_something_changed() {
        let failed = failures(1, true);
        let years_later = at(15, 0) + TimeDelta::days(1000);
        let reason = reason_to_wait(&failed, "same", MAX, years_later).unwrap();
        assert_eq!(reason, SkipReason::UntilChanged { since: at(15, 0), last_error: "out of luck".into() });
        assert_eq!(reason_to_wait(&failed, "other", MAX, at(15, 0)), None);
    }

    #[test]
    fn a_change_begins_the_count_anew_only_where_it_was_waited_for() {
        assert_eq!(next_number(None, "same"), 1);
        assert_eq!(next_number(Some(&failures(3, false)), "other"), 4);
        assert_eq!(next_number(Some(&failures(3, true)), "other"), 1);
        assert_eq!(next_number(Some(&failures(3, true)), "same"), 4, "somebody insisted");
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nobody_wait() {
        assert_eq!(reason_to_wait(&failures(9, false), "same", MAX, at(14, 59)), None);
    }

    #[test]
    fn files_settings_limits_and_version_all_count_as_a_change() {
        let plan = |inputs| Plan { partition: partition(), generation: Generation(1), trigger: Trigger::First, inputs };
        let options = MergeOptions {
            compression: Compression::None,
            parquet_version: ParquetVersion::V2,
            row_group_size: NonZeroUsize::MIN,
            target_file_size_bytes: 1,
            sort_by: vec!["time".into()],
            time_column: "time".into(),
            verify: Verify::Content,
        };
        let limits = MergeLimits {
            memory_bytes: 1,
            threads: NonZeroUsize::MIN,
            temp_bytes: None,
            means: crate::merge::Means::All,
        };
        let mut touched = raw(2);
        touched[1].etag.push('2');
        let mut grown = raw(2);
        grown[1].size_bytes += 1;
        let prints = [
            fingerprint(&plan(raw(2)), &options, &limits, "v"),
            fingerprint(&plan(raw(3)), &options, &limits, "v"),
            fingerprint(&plan(touched), &options, &limits, "v"),
            fingerprint(&plan(grown), &options, &limits, "v"),
            fingerprint(&plan(raw(2)), &MergeOptions { verify: Verify::Footers, ..options.clone() }, &limits, "v"),
            fingerprint(&plan(raw(2)), &options, &MergeLimits { memory_bytes: 2, ..limits }, "v"),
            fingerprint(&plan(raw(2)), &options, &limits, "w"),
        ];
        let distinct: std::collections::BTreeSet<_> = prints.iter().collect();
        assert_eq!(distinct.len(), prints.len());
        assert_eq!(prints[0], fingerprint(&plan(raw(2)), &options, &limits, "v"));
    }
}
