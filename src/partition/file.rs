//! Data files and their names.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::PartitionId;

/// The number of a record, and of the compacted files that belong to it. The first record has generation 1; 0 means
/// "no record yet".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u64);

impl Generation {
    /// The one generation that may follow this one. The last one, which only a forged record can have, is followed by
    /// itself, so that its partition never gets another record.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who wrote a data file, as far as its name tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// Written by ingestion, or by anyone else.
    Raw,
    /// Named `*_compacted.parquet`, but not by this service: an ordinary data file for the record protocol, a compacted
    /// one for the policy.
    CompactedElsewhere,
    /// Written by this service, for a record of this generation. Live only if the head says so.
    Ours(Generation),
}

/// One Parquet object directly in a partition's folder, as a LIST showed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// The file name: the last segment of the key.
    pub name: String,
    pub size_bytes: u64,
    /// Storage's entity tag. Every supported store has one.
    pub etag: String,
    pub last_modified: DateTime<Utc>,
    pub kind: FileKind,
}

/// The parts of the name that we give to a compacted file:
/// `{measurement}_{YYYYMMDD}_{HH}_g{generation}_{unique}[_{part}]_compacted.parquet`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactedName {
    pub generation: Generation,
    /// 12 lower-case hexadecimal digits, the same as at the end of the job id: unique per attempt.
    pub unique: String,
    /// 1-based part number, when the job wrote several files.
    pub part: Option<u32>,
}

const UNIQUE_DIGITS: usize = 12;
/// How much of a measurement's name goes into the names of files and jobs.
const MEASUREMENT_BYTES_IN_NAMES: usize = 120;
const COMPACTED_SUFFIX: &str = "_compacted.parquet";

impl CompactedName {
    /// The name without part and suffix, from which the names of all outputs of an attempt are built.
    #[must_use]
    pub fn stem(partition: &PartitionId, generation: Generation, unique: &str) -> String {
        format!("{}_g{generation}_{unique}", name_prefix(partition))
    }

    /// The name of output `part` (1-based) of `parts`.
    #[must_use]
    pub fn from_stem(stem: &str, part: u32, parts: u32) -> String {
        if parts == 1 { format!("{stem}{COMPACTED_SUFFIX}") } else { format!("{stem}_{part}{COMPACTED_SUFFIX}") }
    }

    /// Reads a name. `None` when it is not one that we would give to a file of this partition.
    #[must_use]
    pub fn parse(partition: &PartitionId, name: &str) -> Option<Self> {
        let rest = name.strip_suffix(COMPACTED_SUFFIX)?;
        let rest = rest.strip_prefix(&name_prefix(partition))?.strip_prefix("_g")?;
        let mut fields = rest.split('_');
        let generation = canonical_number(fields.next()?)?;
        let unique = fields.next()?;
        let part = match fields.next() {
            Some(part) => Some(u32::try_from(canonical_number(part)?).ok()?),
            None => None,
        };
        let well_formed = unique.len() == UNIQUE_DIGITS
            && unique.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            && fields.next().is_none();
        well_formed.then(|| Self { generation: Generation(generation), unique: unique.to_owned(), part })
    }
}

/// `{measurement}_{YYYYMMDD}_{HH}`. A measurement so long that the name would not fit into the 255 bytes that file systems
/// allow is cut short; the folder that the file lies in still says which one it is.
fn name_prefix(partition: &PartitionId) -> String {
    format!("{}_{}", short(partition.measurement()), partition.hour().compact())
}

/// The first [`MEASUREMENT_BYTES_IN_NAMES`] bytes of a measurement, at most, cut at a character's border.
pub(crate) fn short(measurement: &str) -> &str {
    &measurement[..measurement.floor_char_boundary(MEASUREMENT_BYTES_IN_NAMES)]
}

/// A positive number without sign or leading zeros, so that every number has one spelling.
fn canonical_number(text: &str) -> Option<u64> {
    let plain = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

impl FileKind {
    /// What the name of a Parquet file in `partition` says about who wrote it.
    #[must_use]
    pub fn of(partition: &PartitionId, name: &str) -> Self {
        match CompactedName::parse(partition, name) {
            Some(ours) => Self::Ours(ours.generation),
            None if name.ends_with(COMPACTED_SUFFIX) => Self::CompactedElsewhere,
            None => Self::Raw,
        }
    }
}

/// Whether `name` is a plain file name: what a record may name, and nothing that could leave the partition's folder.
#[must_use]
pub fn is_plain_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(measurement: &str) -> PartitionId {
        format!("db/{measurement}/2025/10/08/14").parse().unwrap()
    }

    #[test]
    fn our_names_parse_back_with_and_without_a_part() {
        for measurement in ["cpu", "cpu_total", "g1_9f3a", "it's 5%"] {
            let p = partition(measurement);
            let stem = CompactedName::stem(&p, Generation(12), "9f3a51c2b7d0");
            for (part, parts, expected) in [(1, 1, None), (3, 7, Some(3))] {
                let name = CompactedName::from_stem(&stem, part, parts);
                let parsed = CompactedName::parse(&p, &name).unwrap();
                assert_eq!(
                    parsed,
                    CompactedName { generation: Generation(12), unique: "9f3a51c2b7d0".into(), part: expected }
                );
                assert_eq!(FileKind::of(&p, &name), FileKind::Ours(Generation(12)));
            }
        }
    }

    #[test]
    fn names_of_very_long_measurements_fit_into_a_file_name_and_parse_back() {
        let p = partition(&"ü".repeat(127));
        let name = CompactedName::from_stem(&CompactedName::stem(&p, Generation(u64::MAX), "9f3a51c2b7d0"), 999, 999);
        assert!(name.len() <= 255, "{}", name.len());
        assert_eq!(FileKind::of(&p, &name), FileKind::Ours(Generation(u64::MAX)));
    }

    #[test]
    fn foreign_and_foreign_compacted_names_are_not_ours() {
        let p = partition("cpu");
        assert_eq!(FileKind::of(&p, "cpu_20251008_140001.parquet"), FileKind::Raw);
        for name in [
            "cpu_20251008_14_compacted.parquet",
            "cpu_20251008_15_g1_9f3a51c2b7d0_compacted.parquet",
            "mem_20251008_14_g1_9f3a51c2b7d0_compacted.parquet",
            "cpu_20251008_14_g0_9f3a51c2b7d0_compacted.parquet",
            "cpu_20251008_14_g01_9f3a51c2b7d0_compacted.parquet",
            "cpu_20251008_14_g1_9F3A51C2B7D0_compacted.parquet",
            "cpu_20251008_14_g1_9f3a51c2b7d0_0_compacted.parquet",
            "cpu_20251008_14_g1_9f3a51c2b7d0_1_2_compacted.parquet",
        ] {
            assert_eq!(FileKind::of(&p, name), FileKind::CompactedElsewhere, "{name}");
        }
    }

    /// Beginning again at 0 would make a job commit under a number that no reader takes for a record.
    #[test]
    fn no_generation_follows_the_last_one() {
        assert_eq!(Generation(u64::MAX).next(), Generation(u64::MAX));
    }

    /// T16: nothing that leaves the folder passes for a file name.
    #[test]
    fn only_plain_names_are_plain() {
        for bad in ["", ".", "..", "../x", "a/b", "s3://bucket/x", "a\\b", "a\0", "a\n"] {
            assert!(!is_plain_file_name(bad), "{bad:?}");
        }
        for good in ["a.parquet", "it's 5%.parquet", "ü*?.parquet", "..parquet"] {
            assert!(is_plain_file_name(good), "{good:?}");
        }
    }
}
