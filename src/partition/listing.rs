//! What a LIST of a partition showed.

use chrono::{DateTime, Utc};

use super::{DataFile, Generation};

/// One object in a partition's record folder whose name has the form of a record's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordEntry {
    pub generation: Generation,
    pub name: String,
    pub size_bytes: u64,
    pub etag: String,
    pub last_modified: DateTime<Utc>,
}

impl RecordEntry {
    /// The name of the record of a generation: `{generation:08}.json`.
    #[must_use]
    pub fn file_name(generation: Generation) -> String {
        format!("{:08}.json", generation.0)
    }

    /// Reads a name. `None` when it is not exactly the one that a record of some generation has.
    #[must_use]
    pub fn parse_file_name(name: &str) -> Option<Generation> {
        let generation = Generation(name.strip_suffix(".json")?.parse().ok()?);
        (generation.0 > 0 && Self::file_name(generation) == name).then_some(generation)
    }
}

/// The objects of one partition, each list sorted by name (records by generation). Storage lists in any order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// `*.parquet` directly in the partition's folder.
    pub data: Vec<DataFile>,
    /// Records, lowest generation first.
    pub records: Vec<RecordEntry>,
    /// Everything else, as keys relative to the partition. Never read, never touched, only counted and shown.
    pub foreign: Vec<String>,
}

impl Listing {
    /// The data file of this name.
    #[must_use]
    pub fn data_file(&self, name: &str) -> Option<&DataFile> {
        let at = self.data.binary_search_by(|file| file.name.as_str().cmp(name)).ok()?;
        Some(&self.data[at])
    }

    /// The highest generation of a record; 0 without records.
    #[must_use]
    pub fn newest_generation(&self) -> Generation {
        self.records.iter().map(|record| record.generation).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_names_parse_back_and_have_one_spelling() {
        for generation in [1, 12, 99_999_999, 100_000_000, u64::MAX].map(Generation) {
            assert_eq!(RecordEntry::parse_file_name(&RecordEntry::file_name(generation)), Some(generation));
        }
        for bad in ["00000000.json", "1.json", "+0000001.json", "000000001.json", "00000001.JSON", "00000001", "a.json"]
        {
            assert_eq!(RecordEntry::parse_file_name(bad), None, "{bad}");
        }
    }
}
