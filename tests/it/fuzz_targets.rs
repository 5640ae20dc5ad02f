//! What is fuzzed: everything that reads bytes which somebody else may have written. Each target takes any bytes and fails
//! only by a panic, a crash or a broken promise.
//!
//! One home for two users: `fuzz/` runs these under libFuzzer (`just fuzz TARGET`), and `fuzz.rs` runs them in every test run
//! over mutations of the same seeds.

use std::io::Write;

use arc::compaction::record::Record;
use arc::config::{Config, Input};
use arc::merge::footer_guard;
use arc::partition::{CompactedName, FileKind, Generation, PartitionId, is_plain_file_name};

/// A footer: looked at by the guard and by the survey, as the end of a file.
pub fn survey(bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("inputs are small").to_le_bytes();
    let file = [b"PAR1", bytes, &length, b"PAR1"].concat();
    assert_eq!(footer_guard::within(&file), Some(bytes));
    let guarded = footer_guard::check(bytes);
    let mut local = tempfile::NamedTempFile::new().expect("a temporary file");
    local.write_all(&file).expect("room for a temporary file");
    let surveyed = arc::merge::survey_one(local.path());
    assert!(guarded.is_ok() || surveyed.is_err(), "the survey read what the guard refuses: {guarded:?}");
}

/// Memory for the values of a file.
const MEMORY_BYTES: u64 = 16 << 20;

/// A whole file: surveyed, decoded and merged column by column. What is written is sound, and has as many rows.
pub fn file(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (path, out) = (dir.path().join("in.parquet"), dir.path().join("out.parquet"));
    std::fs::write(&path, bytes).expect("room for a temporary file");
    let Some(alone) = arc::merge::merge_alone(&path, &out, MEMORY_BYTES) else { return };
    let Ok(merged) = alone.merged else { return };
    assert_eq!(alone.damage, None, "a damaged file was merged");
    assert_eq!(merged, alone.rows, "rows merged, and rows by the footer");
    if merged > 0 {
        assert_eq!(arc::merge::survey_one(&out), Ok(merged), "what was written");
    }
}

/// The pages of a column chunk: each lies within the chunk, behind the one before it, whatever their headers say.
pub fn pages(bytes: &[u8]) {
    assert!(arc::merge::count_pages(bytes) <= bytes.len());
}

/// A record: what was parsed names plain files only, each once, and stays the same when it is written and read again.
pub fn record(bytes: &[u8]) {
    for generation in [1, 7, u64::MAX] {
        let Ok(record) = Record::parse(bytes, Generation(generation)) else { continue };
        let names = || record.live.iter().map(|f| &f.name).chain(record.retired.iter().map(|f| &f.name));
        assert!(names().all(|name| is_plain_file_name(name)));
        assert_eq!(names().collect::<std::collections::BTreeSet<_>>().len(), names().count());
        assert_eq!(Record::parse(&record.to_bytes(), Generation(generation)).as_ref(), Ok(&record));
    }
}

/// The path of a partition and the name of a file in it: exact inverses of how they are written.
pub fn path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (folder, name) = text.rsplit_once('\n').unwrap_or((text, "x.parquet"));
    if let Ok(partition) = folder.parse::<PartitionId>() {
        assert_eq!(partition.to_string(), folder, "two texts for one partition");
        check_name(&partition, name);
    }
    check_name(&"db/cpu/2025/10/08/14".parse().expect("a partition"), name);
}

fn check_name(partition: &PartitionId, name: &str) {
    let parsed = CompactedName::parse(partition, name);
    if let Some(compacted) = &parsed {
        let stem = CompactedName::stem(partition, compacted.generation, &compacted.unique);
        let (part, parts) = compacted.part.map_or((1, 1), |part| (part, part.max(2)));
        assert_eq!(CompactedName::from_stem(&stem, part, parts), name, "two names for one file");
    }
    let kind = FileKind::of(partition, name);
    assert_eq!(matches!(kind, FileKind::Ours(_)), parsed.is_some());
    if is_plain_file_name(name) {
        assert!(!name.contains('/') && name != "." && name != ".." && !name.is_empty());
    }
}

/// A configuration file: settings, or problems that each say something.
pub fn configuration(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("room for a temporary file");
    match Config::load(&Input { file: Some(file.path().to_owned()), ..Input::default() }) {
        Ok(config) => assert!(!config.entries().is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
