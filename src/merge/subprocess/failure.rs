//! The ways in which one child process can fail, and what to do about each.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;

use crate::merge::MergeError;

/// Why one child gave no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// It answered with an error.
    Reported(MergeError),
    /// It ended without an answer: a signal, an abort, a panic. How, in words.
    Crashed(String),
    /// It was killed because its resident memory went beyond the ceiling.
    TooMuchMemory { resident_bytes: u64, ceiling_bytes: u64, limit_bytes: u64 },
    /// Somebody else told it to end. How, in words.
    Stopped(String),
    /// What it wrote is no answer. Why, in words.
    Nonsense(String),
    /// It was killed because all attempts together took longer than this.
    TooLate(Duration),
    /// The caller cancelled.
    Cancelled,
    /// No child was started: this side could not.
    NotStarted(MergeError),
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disposition {
    /// Another attempt would end alike, or nobody wants it.
    GiveUp,
    /// Smaller slices may do.
    Retry,
    /// Smaller slices may do; if not, one of the inputs may be to blame.
    RetryThenSearch,
}

impl Failure {
    /// What the end of a child that gave no answer means. `last_words` is the end of its stderr.
    pub(super) fn of_exit(status: ExitStatus, last_words: &str) -> Self {
        let how = if last_words.is_empty() { status.to_string() } else { format!("{status}: {last_words}") };
        // These are requests of a person or a service manager. A crash or the out-of-memory killer sends others.
        let requests = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];
        let requested = status.signal().is_some_and(|signal| requests.iter().any(|r| r.as_raw() == signal));
        if requested { Self::Stopped(how) } else { Self::Crashed(how) }
    }

    pub(super) fn disposition(&self) -> Disposition {
        match self {
            Self::Reported(MergeError::OutOfMemory { .. }) => Disposition::Retry,
            // A file that explodes when it is read is as guilty as one that crashes.
            Self::Crashed(_) | Self::TooMuchMemory { .. } => Disposition::RetryThenSearch,
            // The child's own answer is final; nonsense and lateness are bugs or overload that files do not explain; the
            // others are somebody's wish or a fault on this side.
            Self::Reported(_)
            | Self::Nonsense(_)
            | Self::TooLate(_)
            | Self::Stopped(_)
            | Self::Cancelled
            | Self::NotStarted(_) => Disposition::GiveUp,
        }
    }

    /// Whether the child was brought down by what it did, so that a file may be to blame.
    pub(super) fn is_crash(&self) -> bool {
        self.disposition() == Disposition::RetryThenSearch
    }

    /// What happened, for a message about a file or a log line.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Reported(error) | Self::NotStarted(error) => error.to_string(),
            Self::Crashed(how) => how.clone(),
            Self::TooMuchMemory { resident_bytes, ceiling_bytes, .. } => {
                format!("killed at {resident_bytes} bytes of resident memory ({ceiling_bytes} allowed)")
            }
            Self::Stopped(how) => format!("stopped from outside: {how}"),
            Self::Nonsense(what) => format!("spoke nonsense: {what}"),
            Self::TooLate(deadline) => format!("not done within {} s", deadline.as_secs_f64()),
            Self::Cancelled => "cancelled".into(),
        }
    }
}

impl From<Failure> for MergeError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Reported(error) | Failure::NotStarted(error) => error,
            Failure::TooMuchMemory { limit_bytes, .. } => Self::OutOfMemory { detail: failure.describe(), limit_bytes },
            Failure::Cancelled => Self::Cancelled,
            Failure::Crashed(_) | Failure::Stopped(_) | Failure::Nonsense(_) | Failure::TooLate(_) => {
                Self::Worker(failure.describe())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ends_that_the_child_brought_about_count_as_crashes() {
        for (raw, crash) in [(9, true), (11, true), (6, true), (1 << 8, true), (0, true), (15, false), (2, false)] {
            let failure = Failure::of_exit(ExitStatus::from_raw(raw), "");
            assert_eq!(failure.is_crash(), crash, "{failure:?}");
        }
    }

    #[test]
    fn a_crash_is_described_by_its_signal_and_the_last_words() {
        let failure = Failure::of_exit(ExitStatus::from_raw(11), "bad page");
        assert_eq!(failure.describe(), "signal: 11 (SIGSEGV): bad page");
    }
}
