//! `PartitionId`: the identity of a partition, and its path.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, Timelike, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Database and measurement names that start with this belong to the service itself.
pub const RESERVED_PREFIX: &str = "_compaction";

/// The start of an hour, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hour(DateTime<Utc>);

impl Hour {
    /// The hour that contains `time`. Rounds towards the past, also before 1970.
    #[must_use]
    pub fn containing(time: DateTime<Utc>) -> Self {
        let seconds = time.timestamp().div_euclid(3600) * 3600;
        Self(DateTime::from_timestamp(seconds, 0).expect("an earlier second of a valid time is valid"))
    }

    /// The hour `hour` (0-23) of a calendar day, if there is such a day and hour.
    #[must_use]
    pub fn from_ymdh(year: i32, month: u32, day: u32, hour: u32) -> Option<Self> {
        let day = NaiveDate::from_ymd_opt(year, month, day)?;
        Some(Self(day.and_hms_opt(hour, 0, 0)?.and_utc()))
    }

    /// The first instant of the hour.
    #[must_use]
    pub fn start(self) -> DateTime<Utc> {
        self.0
    }

    /// `YYYYMMDD_HH`, as it stands in the names of compacted files.
    #[must_use]
    pub fn compact(self) -> String {
        let t = self.0;
        format!("{:04}{:02}{:02}_{:02}", t.year(), t.month(), t.day(), t.hour())
    }
}

/// `YYYY/MM/DD/HH`, as it stands in paths.
impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.0;
        write!(f, "{:04}/{:02}/{:02}/{:02}", t.year(), t.month(), t.day(), t.hour())
    }
}

/// Why a database or measurement name cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty, `.` or `..`.
    #[error("the name {0:?} is not usable as a folder")]
    NotAFolder(String),
    /// The name has a slash, a backslash or a control character.
    #[error("the name {name:?} contains {found:?}, which a path segment must not contain")]
    Character {
        /// The name as given.
        name: String,
        /// The first offending character.
        found: char,
    },
    /// The name starts with [`RESERVED_PREFIX`].
    #[error("the name {0:?} is reserved: names that start with \"_compaction\" belong to the compaction service")]
    Reserved(String),
}

/// Why a path is not the path of a partition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartitionPathError {
    /// A database or measurement name is not usable.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The path does not have the shape of a partition path.
    #[error("{0:?} is not a partition path: expected database/measurement/YYYY/MM/DD/HH")]
    Shape(String),
}

/// One hour of one measurement of one database.
///
/// Names are path segments exactly as storage has them: nothing is escaped or folded, so two different partitions never
/// share a path, and `Display` and `FromStr` are inverses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    database: String,
    measurement: String,
    hour: Hour,
}

impl PartitionId {
    /// # Errors
    /// When a name cannot be a path segment, or is reserved.
    pub fn new(database: &str, measurement: &str, hour: Hour) -> Result<Self, NameError> {
        check_name(database)?;
        check_name(measurement)?;
        Ok(Self { database: database.to_owned(), measurement: measurement.to_owned(), hour })
    }

    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    #[must_use]
    pub fn measurement(&self) -> &str {
        &self.measurement
    }

    #[must_use]
    pub fn hour(&self) -> Hour {
        self.hour
    }

    /// The path below the database: `{measurement}/{YYYY}/{MM}/{DD}/{HH}`.
    #[must_use]
    pub fn path_in_database(&self) -> String {
        format!("{}/{}", self.measurement, self.hour)
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.database, self.measurement, self.hour)
    }
}

impl FromStr for PartitionId {
    type Err = PartitionPathError;

    fn from_str(path: &str) -> Result<Self, Self::Err> {
        let shape = || PartitionPathError::Shape(path.to_owned());
        let parts: Vec<&str> = path.split('/').collect();
        let [database, measurement, year, month, day, hour] = parts[..] else { return Err(shape()) };
        let hour = Hour::from_ymdh(
            digits(year, 4).and_then(|y| i32::try_from(y).ok()).ok_or_else(shape)?,
            digits(month, 2).ok_or_else(shape)?,
            digits(day, 2).ok_or_else(shape)?,
            digits(hour, 2).ok_or_else(shape)?,
        )
        .ok_or_else(shape)?;
        Ok(Self::new(database, measurement, hour)?)
    }
}

impl Serialize for PartitionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PartitionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Exactly `width` ASCII digits. `u32::from_str` alone would also take `+7`.
fn digits(text: &str, width: usize) -> Option<u32> {
    (text.len() == width && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// Whether `name` may be a database or measurement.
fn check_name(name: &str) -> Result<(), NameError> {
    if matches!(name, "" | "." | "..") {
        return Err(NameError::NotAFolder(name.to_owned()));
    }
    if let Some(found) = name.chars().find(|c| c.is_control() || matches!(c, '/' | '\\')) {
        return Err(NameError::Character { name: name.to_owned(), found });
    }
    if name.starts_with(RESERVED_PREFIX) {
        return Err(NameError::Reserved(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hours() -> impl Strategy<Value = Hour> {
        // Years 0001 to 9999, the ones that four digits can say.
        (-62_135_596_800_i64..253_402_300_800).prop_map(|s| Hour::containing(DateTime::from_timestamp(s, 0).unwrap()))
    }

    proptest! {
        #[test]
        fn path_and_id_are_inverses(database in "[^/\\\\\\p{Cc}]{1,12}", measurement in "[^/\\\\\\p{Cc}]{1,12}", hour in hours()) {
            prop_assume!(check_name(&database).is_ok() && check_name(&measurement).is_ok());
            let id = PartitionId::new(&database, &measurement, hour).unwrap();
            prop_assert_eq!(id.to_string().parse::<PartitionId>().unwrap(), id);
        }

        #[test]
        fn every_path_that_parses_formats_back_to_itself(path in "[a-c%_./]{1,6}/[a-c]{1,3}/[0-9+]{4}/[0-9]{2}/[0-9]{2}/[0-9]{2}") {
            if let Ok(id) = path.parse::<PartitionId>() {
                prop_assert_eq!(id.to_string(), path);
            }
        }
    }

    /// T8: no two different triples share a path, also when names contain the separators of other schemes.
    #[test]
    fn names_that_concatenate_alike_stay_apart() {
        let hour = Hour::from_ymdh(2025, 10, 8, 14).unwrap();
        let one = PartitionId::new("a", "a_cpu", hour).unwrap();
        let two = PartitionId::new("a_a", "cpu", hour).unwrap();
        assert_ne!(one.to_string(), two.to_string());
    }

    /// T56, T57, T16.
    #[test]
    fn names_that_are_no_folder_or_are_reserved_are_refused() {
        let hour = Hour::from_ymdh(2025, 10, 8, 14).unwrap();
        for bad in ["", ".", "..", "a/b", "a\\b", "a\nb", "a\0b", "_compaction", "_compaction_staging"] {
            assert!(PartitionId::new(bad, "cpu", hour).is_err(), "{bad:?} as database");
            assert!(PartitionId::new("db", bad, hour).is_err(), "{bad:?} as measurement");
        }
        for good in ["it's", "a b", "50%", "a*b?[c]{d}", "größe", "\"q\"", "a;DROP TABLE x", "k=v", "compaction"] {
            assert!(PartitionId::new(good, good, hour).is_ok(), "{good:?}");
        }
    }

    /// T58: hours before 1970 are rounded down, not towards zero.
    #[test]
    fn hours_before_1970_round_down() {
        let just_before_epoch = DateTime::from_timestamp(-1, 999_000_000).unwrap();
        assert_eq!(Hour::containing(just_before_epoch).to_string(), "1969/12/31/23");
    }

    /// T29: a lease, a job and a record are for an hour; there is no partition of a day that could overlap one.
    #[test]
    fn paths_of_another_shape_are_refused() {
        for bad in [
            "a/b",
            "a/b/2025/10/08",
            "a/b/2025/10/08/24",
            "a/b/2025/02/30/01",
            "a/b/+025/10/08/14",
            "a/b/2025/10/8/14",
            "a/b/2025/10/08/14/x",
        ] {
            assert!(bad.parse::<PartitionId>().is_err(), "{bad}");
        }
    }
}
