//! Builders for the tests of the pure parts: a partition drawn as a few short words.

use chrono::{DateTime, TimeDelta, Utc};

use super::observe::View;
use super::record::{Author, Head, LiveFile, Record, RecordKind, RetiredFile, Totals};
use crate::partition::{DataFile, FileKind, Generation, Listing, PartitionId, RecordEntry};

pub(super) fn partition() -> PartitionId {
    "db/cpu/2025/10/08/14".parse().unwrap()
}

/// A moment of the day of the partition's hour.
pub(super) fn at(hour: u32, minute: u32) -> DateTime<Utc> {
    partition().hour().start() - TimeDelta::hours(14) + TimeDelta::minutes(i64::from(hour * 60 + minute))
}

/// A listed file of 100 bytes, written at 14:30.
pub(super) fn file(name: &str) -> DataFile {
    DataFile {
        name: name.to_owned(),
        size_bytes: 100,
        etag: format!("etag of {name}"),
        last_modified: at(14, 30),
        kind: FileKind::of(&partition(), name),
    }
}

/// The name of a compacted file of ours. `unique` is a hexadecimal digit.
pub(super) fn ours(generation: u64, unique: char) -> String {
    format!("cpu_20251008_14_g{generation}_{}_compacted.parquet", unique.to_string().repeat(12))
}

pub(super) fn raw(count: usize) -> Vec<DataFile> {
    (0..count).map(|i| file(&format!("r{i:03}.parquet"))).collect()
}

pub(super) fn record_entry(generation: u64, last_modified: DateTime<Utc>) -> RecordEntry {
    let name = RecordEntry::file_name(Generation(generation));
    RecordEntry { generation: Generation(generation), size_bytes: 1, etag: name.clone(), name, last_modified }
}

pub(super) fn listing(mut data: Vec<DataFile>, generations: impl IntoIterator<Item = u64>) -> Listing {
    data.sort_by(|a, b| a.name.cmp(&b.name));
    let records = generations.into_iter().map(|g| record_entry(g, at(15, 0))).collect();
    Listing { data, records, foreign: Vec::new() }
}

pub(super) fn author() -> Author {
    Author { job_id: "job".into(), worker_id: "worker".into(), lease_token: 7, created_at: at(16, 0) }
}

pub(super) fn head(generation: u64, live: &[DataFile], retired: &[DataFile]) -> Head {
    let live_file = |f: &DataFile| LiveFile {
        name: f.name.clone(),
        size_bytes: f.size_bytes,
        rows: 1,
        min_time: None,
        max_time: None,
        checksum: "blake3:0".into(),
    };
    let retired_file =
        |f: &DataFile| RetiredFile { name: f.name.clone(), size_bytes: f.size_bytes, etag: f.etag.clone() };
    let record = Record {
        format: 1,
        generation: Generation(generation),
        kind: RecordKind::Commit,
        job_id: "earlier".into(),
        worker_id: "worker".into(),
        lease_token: 1,
        created_at: at(15, 0),
        live: live.iter().map(live_file).collect(),
        retired: retired.iter().map(retired_file).collect(),
        inputs: Totals::default(),
        outputs: Totals::default(),
        fingerprint: None,
        engine: None,
    };
    Head::of(record, "etag".into())
}

pub(super) fn view(head: Head, listing: Listing) -> View {
    View { head, listing }
}
