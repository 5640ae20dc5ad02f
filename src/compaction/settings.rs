//! The settings of the compaction service, typed and validated. `config` builds them; nothing here reads a file.

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

pub use crate::merge::{Compression, MergeOptions, ParquetVersion, Verify};
use crate::partition::PartitionId;

/// Everything the manager and its jobs need to know.
#[derive(Debug, Clone, PartialEq)]
pub struct CompactionSettings {
    pub enabled: bool,
    /// Databases that are never compacted, by exact name.
    pub exclude_databases: Vec<String>,
    /// Partitions worked on at the same time.
    pub max_concurrent_jobs: NonZeroUsize,
    pub lock_ttl: Duration,
    pub lock_backend: LockBackend,
    /// Where jobs keep their private folders.
    pub temp_dir: PathBuf,
    /// Bytes that all jobs together may use in `temp_dir`. `None`: what the disk has.
    pub max_temp_bytes: Option<u64>,
    /// After this long a cycle starts no further job. `None`: no limit.
    pub cycle_timeout: Option<Duration>,
    pub isolation: Isolation,
    /// Memory for all merges together. `None`: derived from the cgroup or host.
    pub memory_limit_bytes: Option<u64>,
    /// Threads for all merges together. `None`: derived from the cgroup or host.
    pub threads: Option<NonZeroUsize>,
    /// Reports of jobs that are kept.
    pub history_limit: usize,
    /// Records below the head are kept this long.
    pub record_retention: Duration,
    /// Failed jobs in a row after which a partition waits for [`super::backoff::LONGEST_WAIT`].
    pub max_attempts: NonZeroU32,
    /// A damaged file is left out of compactions this long, unless it changes.
    pub quarantine_retry: Duration,
    /// Most cycles look only at hours so far back, counted from the youngest that may be compacted. `None`: at all of them.
    pub recent_window: Option<Duration>,
    /// At the latest so long after the last time a cycle looks at all hours of a measurement.
    pub full_scan: Duration,
    /// What holds for every partition that no override names.
    pub partition: PartitionSettings,
    /// In file order; the last match wins, key by key.
    pub overrides: Vec<PartitionOverride>,
}

/// Where leases are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockBackend {
    /// In the state database, for the processes of one machine.
    Sqlite,
    /// In the bucket, for workers on several machines.
    Storage,
}

/// Where merges run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Each in a child process of its own.
    Process,
    /// In this process, for embedders and tests.
    InProcess,
}

/// What may differ from partition to partition.
#[derive(Debug, Clone, PartialEq)]
pub struct PartitionSettings {
    pub policy: PolicySettings,
    pub merge: MergeOptions,
    /// The level for a codec that has levels. Kept beside `merge.compression`, so that an override which changes only
    /// the codec, or only the level, finds the other one.
    pub compression_level: u8,
    /// The text of the cron schedule that the partition is compacted by. Here it is only a name: a partition belongs to
    /// exactly one schedule, and a cycle works on those whose turn it is.
    pub schedule: String,
}

/// A compression codec, without its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    Zstd,
    Snappy,
    Lz4,
    Gzip,
    None,
}

/// What the policy decides by.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicySettings {
    /// A partition is left alone until this long after the *start* of its hour. 0: the current hour is allowed.
    pub min_age: Duration,
    /// Raw files that make a compaction worth while.
    pub min_files: usize,
    /// Raw files younger than this (by storage's last-modified) are left out: their writer may not be done.
    pub settle: Duration,
    /// Fewer late files than `min_files` are compacted once the oldest has waited this long.
    pub late_data_max_wait: Duration,
    /// Compacted files join a late merge when the late bytes are at least this fraction of theirs.
    pub late_rewrite_ratio: f64,
    /// More compacted files than this below the target size are merged together.
    pub max_side_files: usize,
    /// Compacted files of this size or more are never rewritten.
    pub target_file_size_bytes: u64,
}

/// Settings for the partitions that a pattern names. Absent keys keep what an earlier match or the default says.
#[derive(Debug, Clone, PartialEq)]
pub struct PartitionOverride {
    /// A name, or `*` for every database.
    pub database: String,
    /// A name, or `*` for every measurement.
    pub measurement: String,
    /// Applies the override's keys.
    pub set: PartitionPatch,
}

/// The keys that an override may set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PartitionPatch {
    pub min_age: Option<Duration>,
    pub min_files: Option<usize>,
    pub settle: Option<Duration>,
    pub late_data_max_wait: Option<Duration>,
    pub late_rewrite_ratio: Option<f64>,
    pub max_side_files: Option<usize>,
    pub target_file_size_bytes: Option<u64>,
    pub codec: Option<Codec>,
    pub compression_level: Option<u8>,
    pub parquet_version: Option<ParquetVersion>,
    pub row_group_size: Option<NonZeroUsize>,
    pub sort_by: Option<Vec<String>>,
    pub time_column: Option<String>,
    pub verify: Option<Verify>,
    pub schedule: Option<String>,
}

impl CompactionSettings {
    /// The settings that hold for one partition: the defaults, then every matching override in order.
    #[must_use]
    pub fn for_partition(&self, partition: &PartitionId) -> PartitionSettings {
        let mut settings = self.partition.clone();
        for o in &self.overrides {
            if matches(&o.database, partition.database()) && matches(&o.measurement, partition.measurement()) {
                o.set.apply(&mut settings);
            }
        }
        settings
    }

    /// The schedule that a measurement belongs to: the last match wins.
    #[must_use]
    pub fn schedule_of(&self, database: &str, measurement: &str) -> &str {
        let matching = |o: &&PartitionOverride| matches(&o.database, database) && matches(&o.measurement, measurement);
        let last = self.overrides.iter().filter(matching).filter_map(|o| o.set.schedule.as_deref()).next_back();
        last.unwrap_or(&self.partition.schedule)
    }

    /// The schedules that measurements of a database can belong to, whatever their names are.
    #[must_use]
    pub fn schedules_in(&self, database: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::from([self.partition.schedule.as_str()]);
        for o in self.overrides.iter().filter(|o| matches(&o.database, database)) {
            let Some(schedule) = &o.set.schedule else { continue };
            if o.measurement == ANY {
                found.clear();
            }
            found.insert(schedule);
        }
        found
    }
}

impl PartitionSettings {
    /// The codec of `merge.compression`.
    #[must_use]
    pub fn codec(&self) -> Codec {
        match self.merge.compression {
            Compression::Zstd(_) => Codec::Zstd,
            Compression::Snappy => Codec::Snappy,
            Compression::Lz4 => Codec::Lz4,
            Compression::Gzip => Codec::Gzip,
            Compression::None => Codec::None,
        }
    }

    /// Sets codec and level. The level is remembered, and without effect, where the codec has none.
    pub fn set_compression(&mut self, codec: Codec, level: u8) {
        self.compression_level = level;
        self.merge.compression = match codec {
            Codec::Zstd => Compression::Zstd(level),
            Codec::Snappy => Compression::Snappy,
            Codec::Lz4 => Compression::Lz4,
            Codec::Gzip => Compression::Gzip,
            Codec::None => Compression::None,
        };
    }
}

/// The pattern that every name matches.
const ANY: &str = "*";

fn matches(pattern: &str, name: &str) -> bool {
    pattern == ANY || pattern == name
}

impl PartitionPatch {
    fn apply(&self, to: &mut PartitionSettings) {
        fn set<T: Clone>(slot: &mut T, value: Option<&T>) {
            if let Some(value) = value {
                slot.clone_from(value);
            }
        }
        to.set_compression(self.codec.unwrap_or(to.codec()), self.compression_level.unwrap_or(to.compression_level));
        set(&mut to.schedule, self.schedule.as_ref());
        let (policy, merge) = (&mut to.policy, &mut to.merge);
        set(&mut policy.min_age, self.min_age.as_ref());
        set(&mut policy.min_files, self.min_files.as_ref());
        set(&mut policy.settle, self.settle.as_ref());
        set(&mut policy.late_data_max_wait, self.late_data_max_wait.as_ref());
        set(&mut policy.late_rewrite_ratio, self.late_rewrite_ratio.as_ref());
        set(&mut policy.max_side_files, self.max_side_files.as_ref());
        set(&mut policy.target_file_size_bytes, self.target_file_size_bytes.as_ref());
        set(&mut merge.target_file_size_bytes, self.target_file_size_bytes.as_ref());
        set(&mut merge.parquet_version, self.parquet_version.as_ref());
        set(&mut merge.row_group_size, self.row_group_size.as_ref());
        set(&mut merge.sort_by, self.sort_by.as_ref());
        set(&mut merge.time_column, self.time_column.as_ref());
        set(&mut merge.verify, self.verify.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn settings(overrides: &[(&str, &str, &str)]) -> CompactionSettings {
        let mut settings = Config::default().compaction;
        settings.partition.schedule = "default".to_owned();
        settings.overrides = overrides
            .iter()
            .map(|(database, measurement, schedule)| PartitionOverride {
                database: (*database).to_owned(),
                measurement: (*measurement).to_owned(),
                set: PartitionPatch { schedule: Some((*schedule).to_owned()), ..PartitionPatch::default() },
            })
            .collect();
        settings
    }

    #[test]
    fn a_measurement_belongs_to_the_schedule_of_the_last_override_that_matches() {
        let settings = settings(&[("staging", "*", "often"), ("*", "cpu", "cpu"), ("staging", "disk", "disk")]);
        for (database, measurement, schedule) in [
            ("prod", "mem", "default"),
            ("prod", "cpu", "cpu"),
            ("staging", "mem", "often"),
            ("staging", "cpu", "cpu"),
            ("staging", "disk", "disk"),
        ] {
            assert_eq!(settings.schedule_of(database, measurement), schedule, "{database}/{measurement}");
            assert!(settings.schedules_in(database).contains(schedule), "{database}/{measurement}");
        }
    }

    #[test]
    fn a_databases_schedules_leave_out_what_a_later_override_replaces_for_all_its_measurements() {
        let settings = settings(&[("db", "cpu", "first"), ("db", "*", "all"), ("db", "mem", "mem")]);
        assert_eq!(settings.schedules_in("db"), BTreeSet::from(["all", "mem"]));
        assert_eq!(settings.schedules_in("other"), BTreeSet::from(["default"]));
    }
}
