//! What happens while it happens: for progress bars and live views. Nothing depends on an event being received.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::report::{CycleReport, JobReport};
use crate::merge::MergeProgress;
use crate::partition::PartitionId;

/// The steps of a job, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    Settle,
    Fetch,
    Merge,
    Publish,
    ReadBack,
    Commit,
    Tidy,
}

impl Step {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settle => "settle",
            Self::Fetch => "fetch",
            Self::Merge => "merge",
            Self::Publish => "publish",
            Self::ReadBack => "read_back",
            Self::Commit => "commit",
            Self::Tidy => "tidy",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an earlier attempt had left, and was cleared away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoveryOutcome {
    /// Files that the head retires or that lost were deleted.
    Tidied,
    /// An attempt whose outcome was open was closed by a void record.
    Voided,
    /// The partition contradicts itself, and is left alone until a person has looked.
    FailedClosed,
}

impl RecoveryOutcome {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tidied => "tidied",
            Self::Voided => "voided",
            Self::FailedClosed => "failed_closed",
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Event {
    CycleStarted {
        cycle_id: String,
    },
    /// The scan is over; this many partitions have work.
    CandidatesFound {
        count: usize,
    },
    JobStarted {
        job_id: String,
        partition: PartitionId,
        files: usize,
        bytes: u64,
    },
    JobStep {
        job_id: String,
        step: Step,
    },
    JobProgress {
        job_id: String,
        progress: MergeProgress,
    },
    JobFinished(Box<JobReport>),
    /// An attempt that started from what an earlier one had left.
    Recovered {
        partition: PartitionId,
        outcome: RecoveryOutcome,
    },
    /// A job's lease was lost while it ran.
    LeaseLost {
        partition: PartitionId,
    },
    /// A candidate is done with, with or without a job.
    PartitionDone {
        partition: PartitionId,
    },
    CycleFinished(Box<CycleReport>),
}

/// Receives events. Called from any task; must be quick and must not block.
#[derive(Clone)]
pub struct EventSink(Arc<dyn Fn(Event) + Send + Sync>);

impl EventSink {
    pub fn new(receive: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(receive))
    }

    #[must_use]
    pub fn ignore() -> Self {
        Self::new(|_| ())
    }

    pub fn send(&self, event: Event) {
        (self.0)(event);
    }
}

impl fmt::Debug for EventSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventSink")
    }
}
