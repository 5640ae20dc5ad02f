//! Plans and decisions: plain data, always with the numbers that led to them.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::merge::SetAside;
use crate::partition::{DataFile, Generation, PartitionId};

/// What the policy says about a partition.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    Compact(Plan),
    Skip(SkipReason),
}

/// The intent to merge these files of a partition. Nothing has happened yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub partition: PartitionId,
    /// The generation that the job's record will have: the head's plus one.
    pub generation: Generation,
    pub trigger: Trigger,
    /// Sorted by name: the order decides ties between equal rows, and makes a merge repeatable.
    pub inputs: Vec<DataFile>,
}

impl Plan {
    #[must_use]
    pub fn input_bytes(&self) -> u64 {
        self.inputs.iter().map(|f| f.size_bytes).sum()
    }
}

/// Why a partition is compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// Enough raw files and no compacted one.
    First,
    /// Enough raw files beside compacted ones.
    LateFiles,
    /// Fewer raw files than that, but the oldest has waited long enough.
    LateFilesWaited,
    /// Too many small compacted files.
    SideFiles,
}

/// Why a partition is not compacted now.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "reason", content = "detail")]
pub enum SkipReason {
    /// The database is on the list of those that are never compacted.
    Excluded { database: String },
    /// The hour is not over for long enough.
    TooYoung { ready_at: DateTime<Utc> },
    /// Fewer raw files than needed.
    TooFewFiles {
        have: usize,
        need: usize,
        /// Files left out because their writer may not be done.
        settling: usize,
        /// When the late files will have waited long enough, if there are compacted files beside them.
        waits_until: Option<DateTime<Utc>>,
    },
    /// Without the files in quarantine there is too little left.
    Quarantined {
        /// Files in quarantine.
        files: usize,
        /// When the first of them is tried again.
        retry_at: DateTime<Utc>,
        /// Other raw files.
        have: usize,
        need: usize,
        /// Files left out because their writer may not be done.
        settling: usize,
        /// When the late files will have waited long enough, if there are compacted files beside them.
        waits_until: Option<DateTime<Utc>>,
    },
    /// Jobs failed: it is tried again later.
    BackingOff { attempts: u32, until: DateTime<Utc>, last_error: String },
    /// A job failed, and would fail again with the same files, settings and program.
    UntilChanged { since: DateTime<Utc>, last_error: String },
    /// A rewrite would leave as many files as before.
    NothingToGain { raw_files: usize, compacted_files: usize },
    /// No file has a column to sort by.
    NoSortColumn { column: String, files: usize },
    /// Every input would be set aside.
    NothingToMerge { set_aside: Vec<SetAside> },
    /// The job's files would not fit on the disk of `temp_dir`, or into `max_temp_mb`.
    NoTempSpace { need_bytes: u64, free_bytes: u64, path: String },
    /// Another worker has the lease.
    Locked { worker_id: String, until: DateTime<Utc> },
}

impl SkipReason {
    /// The stable name, as in JSON and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Excluded { .. } => "excluded",
            Self::TooYoung { .. } => "too_young",
            Self::TooFewFiles { .. } => "too_few_files",
            Self::Quarantined { .. } => "quarantined",
            Self::BackingOff { .. } => "backing_off",
            Self::UntilChanged { .. } => "until_changed",
            Self::NothingToGain { .. } => "nothing_to_gain",
            Self::NoSortColumn { .. } => "no_sort_column",
            Self::NothingToMerge { .. } => "nothing_to_merge",
            Self::NoTempSpace { .. } => "no_temp_space",
            Self::Locked { .. } => "locked",
        }
    }

    /// Whether files are left out only because they were written a moment ago.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        matches!(self, Self::TooFewFiles { settling: 1.., .. } | Self::Quarantined { settling: 1.., .. })
    }

    /// Whether the partition waits because something went wrong there earlier. Cycles report that, as long as it lasts.
    #[must_use]
    pub fn is_trouble(&self) -> bool {
        matches!(self, Self::Quarantined { .. } | Self::BackingOff { .. } | Self::UntilChanged { .. })
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Excluded { database } => write!(f, "database {database} is excluded"),
            Self::TooYoung { ready_at } => write!(f, "hour too young, ready at {}", ready_at.format("%FT%TZ")),
            Self::TooFewFiles { have, need, settling, waits_until } => {
                write!(f, "too few files: ")?;
                counted(f, *have, *need, *settling, *waits_until)
            }
            Self::Quarantined { files, retry_at, have, need, settling, waits_until } => {
                let s = if *files == 1 { "" } else { "s" };
                write!(f, "{files} file{s} in quarantine until {}; of the others: ", retry_at.format("%FT%TZ"))?;
                counted(f, *have, *need, *settling, *waits_until)
            }
            Self::BackingOff { attempts, until, last_error } => {
                let times = if *attempts == 1 { "once".to_owned() } else { format!("{attempts} times in a row") };
                write!(f, "failed {times}, tried again from {}: {last_error}", until.format("%FT%TZ"))
            }
            Self::UntilChanged { since, last_error } => write!(
                f,
                "failed on {} and is not tried again until its files, the settings or the program change: {last_error}",
                since.format("%FT%TZ")
            ),
            Self::NothingToGain { raw_files, compacted_files } => {
                write!(f, "nothing to gain: {raw_files} raw and {compacted_files} compacted files")
            }
            Self::NoSortColumn { column, files } => write!(f, "none of the {files} files has the column {column:?}"),
            Self::NothingToMerge { set_aside } => {
                write!(f, "nothing to merge: all {} files were set aside", set_aside.len())?;
                match set_aside.first() {
                    Some(first) => write!(f, " (first: {}: {})", first.name, first.reason),
                    None => Ok(()),
                }
            }
            Self::NoTempSpace { need_bytes, free_bytes, path } => {
                write!(f, "no temp space: need {need_bytes} bytes, {free_bytes} free in {path}")
            }
            Self::Locked { worker_id, until } => {
                write!(f, "partition already locked by {worker_id} until {}", until.format("%FT%TZ"))
            }
        }
    }
}

fn counted(
    f: &mut fmt::Formatter<'_>,
    have: usize,
    need: usize,
    settling: usize,
    waits_until: Option<DateTime<Utc>>,
) -> fmt::Result {
    write!(f, "have {have}, need {need}")?;
    if settling > 0 {
        write!(f, ", {settling} more just written")?;
    }
    match waits_until {
        Some(t) => write!(f, "; compacted anyway from {}", t.format("%FT%TZ")),
        None => Ok(()),
    }
}
