//! I9, I10: whatever is in a file, the program lives, the good files are compacted, and the bad ones stay as they are.
//!
//! A thousand damaged files (`ARC_CORRUPTIONS` sets another number) are generated from seven sound ones, in the kinds of
//! `kinds.rs`, and laid beside good files, one partition for each kind. The real program compacts them, merging in child
//! processes. Of every damaged file one of two things must be true afterwards: it is there, byte for byte, and the report
//! names it with a reason; or it could be read, and then exactly the rows that DuckDB reads from a copy of it are in the
//! outputs, once. The second is nobody's mistake: a file whose flipped byte makes another valid value has no sign of it.
//!
//! Everything is derived from the kind and a number. `ARC_CORRUPTION=kind:number` repeats one file alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Instant;

use duckdb::Connection;
use serde_json::Value;

use self::kinds::{Fate, KINDS, Kind};
use self::pages::Anatomy;
use crate::support::{Arc, PARTITION, strings, telemetry};

mod bases;
mod kinds;
mod lies;
mod pages;
mod thrift;

/// How many files are damaged unless `ARC_CORRUPTIONS` says otherwise.
const CORRUPTIONS: usize = 1000;

/// Good files in each partition, and rows in each of them.
const GOOD: usize = 4;
const GOOD_ROWS: usize = 25;

#[allow(clippy::disallowed_methods, reason = "how somebody who runs the tests asks for more, or for one file again")]
fn asked(variable: &str) -> Option<String> {
    std::env::var(variable).ok()
}

/// A damaged file: which it is, and what is in it.
struct Damaged {
    kind: Kind,
    number: usize,
    bytes: Vec<u8>,
}

impl Damaged {
    fn new(kind: Kind, number: usize, bases: &[Anatomy]) -> Self {
        let seed = blake3::hash(format!("{}:{number}", kind.name).as_bytes());
        let mut rng = fastrand::Rng::with_seed(u64::from_le_bytes(seed.as_bytes()[..8].try_into().unwrap()));
        // Each file is damaged in each way, one after the other.
        let (base, turn) = (number % bases.len(), number / bases.len());
        Self { kind, number, bytes: (kind.damage)(&bases[base], &mut rng, turn) }
    }

    fn name(&self) -> String {
        format!("bad_{:04}.parquet", self.number)
    }

    fn partition(&self) -> String {
        partition_of(self.kind)
    }

    fn again(&self) -> String {
        format!(
            "\nto see it again: ARC_CORRUPTION={}:{} cargo test --release --test it corruption::a_thousand",
            self.kind.name, self.number
        )
    }
}

fn partition_of(kind: Kind) -> String {
    format!("db/{}/2025/10/08/14", kind.name)
}

fn damaged_files() -> Vec<Damaged> {
    let bases = bases::all();
    if let Some(one) = asked("ARC_CORRUPTION") {
        let (name, number) = one.split_once(':').expect("kind:number");
        let kind = *KINDS.iter().find(|kind| kind.name == name).expect("one of the kinds");
        return vec![Damaged::new(kind, number.parse().unwrap(), &bases)];
    }
    let total = asked("ARC_CORRUPTIONS").map_or(CORRUPTIONS, |n| n.parse().unwrap());
    (0..total).map(|n| Damaged::new(KINDS[n % KINDS.len()], n / KINDS.len(), &bases)).collect()
}

/// An Arc with these files beside good ones.
fn arc_with(files: &[Damaged]) -> Arc {
    let arc = Arc::with("min_files = 2");
    let model = Arc::new();
    model.write_telemetry(PARTITION, GOOD, GOOD_ROWS);
    let partitions: BTreeSet<String> = files.iter().map(Damaged::partition).collect();
    for partition in &partitions {
        for entry in fs::read_dir(model.folder(PARTITION)).unwrap() {
            let entry = entry.unwrap();
            arc.put(partition, entry.file_name().to_str().unwrap(), &fs::read(entry.path()).unwrap());
        }
    }
    for file in files {
        arc.put(&file.partition(), &file.name(), &file.bytes);
    }
    arc
}

/// The rows of a file, each as its columns by name, without nulls. Sorted.
fn rows_in(path: &Path) -> duckdb::Result<Vec<String>> {
    let db = Connection::open_in_memory()?;
    let table = crate::support::table(&[path.to_owned()]);
    let mut columns = strings(&db, &format!("SELECT column_name FROM (DESCRIBE SELECT * FROM {table})"))?;
    columns.sort();
    let cells = columns.iter().map(|column| {
        let quoted = format!("\"{}\"", column.replace('"', "\"\""));
        format!("coalesce('{}=' || {quoted}::VARCHAR || ';', '')", column.replace('\'', "''"))
    });
    let row = cells.collect::<Vec<_>>().join(" || ");
    let mut rows = strings(&db, &format!("SELECT {row} FROM {table}"))?;
    rows.sort();
    Ok(rows)
}

/// What became of the damaged files of a partition.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    damaged: usize,
    left_alone: usize,
    read: usize,
}

/// Names with reasons, of everything that a report says was not merged in a partition.
fn named_in(report: &Value, partition: &str) -> BTreeMap<String, String> {
    let mut lists: Vec<&Value> = Vec::new();
    let of_partition = |entry: &&Value| {
        format!("{}/{}", entry["database"].as_str().unwrap(), entry["partition_path"].as_str().unwrap()) == partition
    };
    for job in report["jobs"].as_array().unwrap().iter().filter(of_partition) {
        assert_eq!(job["status"], "completed", "{job:#}");
        lists.extend([&job["inputs_quarantined"], &job["inputs_set_aside"]]);
    }
    let entries = lists.into_iter().flat_map(|list| list.as_array().unwrap());
    entries.map(|entry| (entry["name"].as_str().unwrap().to_owned(), entry["reason"].to_string())).collect()
}

/// Checks one partition after its compaction.
fn check(arc: &Arc, report: &Value, files: &[&Damaged]) -> Tally {
    let partition = files[0].partition();
    let named = named_in(report, &partition);
    let mut tally = Tally::default();
    let mut expected: Vec<String> = Vec::new();
    for i in 0..GOOD {
        assert!(!named.contains_key(&format!("cpu_{i:04}.parquet")), "a good file is blamed: {named:#?}");
    }
    let good = tempfile::tempdir().unwrap();
    let path = good.path().join("good.parquet");
    crate::support::copy(&telemetry(0, GOOD * GOOD_ROWS), &path, "FORMAT parquet");
    expected.extend(rows_in(&path).unwrap());
    for file in files {
        let again = file.again();
        let there = fs::read(arc.folder(&partition).join(file.name())).ok();
        match (there, named.get(&file.name())) {
            (Some(bytes), Some(reason)) => {
                assert_eq!(bytes, file.bytes, "{partition}/{} is not what it was{again}", file.name());
                let detail = reason.len() > 30;
                assert!(detail, "{partition}/{}: no reason: {reason}{again}", file.name());
                if reason.contains("unreadable") { tally.damaged += 1 } else { tally.left_alone += 1 }
            }
            (None, None) => {
                assert_eq!(file.kind.fate, Fate::NamedOrRead, "{partition}/{} was taken for sound{again}", file.name());
                let copy = good.path().join(file.name());
                fs::write(&copy, &file.bytes).unwrap();
                let rows =
                    rows_in(&copy).unwrap_or_else(|e| panic!("{partition}/{} was merged, but {e}{again}", file.name()));
                expected.extend(rows);
                tally.read += 1;
            }
            (there, named) => {
                let there = there.is_some();
                panic!("{partition}/{}: there: {there}, named: {named:?}{again}", file.name());
            }
        }
    }
    let outputs = arc.live_paths(&partition);
    let outputs = outputs.iter().filter(|path| path.to_string_lossy().ends_with("_compacted.parquet"));
    let mut found: Vec<String> = outputs.flat_map(|path| rows_in(path).unwrap()).collect();
    found.sort();
    expected.sort();
    if found != expected {
        let (found, expected): (BTreeSet<_>, BTreeSet<_>) = (found.iter().collect(), expected.iter().collect());
        let lost: Vec<_> = expected.difference(&found).take(5).collect();
        let new: Vec<_> = found.difference(&expected).take(5).collect();
        panic!("{partition}: rows differ; lost {lost:#?}, new {new:#?}{}", files[0].again());
    }
    tally
}

#[test]
fn a_thousand_damaged_files_are_named_or_read_and_no_row_of_a_good_one_is_lost() {
    let began = Instant::now();
    let files = damaged_files();
    let arc = arc_with(&files);
    let generated = began.elapsed();

    let run = arc.compact();
    let compacted = began.elapsed();

    assert!(run.code == 0 || run.code == 1, "the program died: {run:#?}{}", files[0].again());
    let report = run.json();
    let mut by_partition: BTreeMap<String, Vec<&Damaged>> = BTreeMap::new();
    for file in &files {
        by_partition.entry(file.partition()).or_default().push(file);
    }
    let mut table = String::new();
    let mut sum = Tally::default();
    for (partition, files) in &by_partition {
        let tally = check(&arc, &report, files);
        let kind = partition.split('/').nth(1).unwrap();
        table +=
            &format!("{kind:<24}{:>6}{:>10}{:>12}{:>6}\n", files.len(), tally.damaged, tally.left_alone, tally.read);
        sum.damaged += tally.damaged;
        sum.left_alone += tally.left_alone;
        sum.read += tally.read;
    }
    let total = format!("{:<24}{:>6}{:>10}{:>12}{:>6}", "all", files.len(), sum.damaged, sum.left_alone, sum.read);
    println!("{:<24}{:>6}{:>10}{:>12}{:>6}\n{table}{total}", "kind", "files", "damaged", "left alone", "read");
    println!("generated in {generated:.1?}, compacted by {compacted:.1?}, checked by {:.1?}", began.elapsed());

    // I6: nothing of this is done again.
    let state = arc.storage_state();
    let again = arc.compact();
    assert_eq!(again.json()["jobs"], Value::Array(Vec::new()), "{again:#?}");
    assert_eq!(arc.storage_state(), state);
}

/// Footers at which the Parquet library asks for memory that is not there, or calls itself until the stack ends. Neither is
/// a panic that could be caught.
#[test]
fn a_footer_that_would_bring_the_parquet_library_down_costs_its_file_and_not_the_program() {
    for (what, footer) in [
        ("long_schema", thrift::footer_with_a_list_of(2, i32::MAX.unsigned_abs())),
        ("long_key_values", thrift::footer_with_a_list_of(5, i32::MAX.unsigned_abs())),
        ("many_children", thrift::footer_with_a_group_of(i32::MAX)),
        ("deep_schema", thrift::footer_nested(200_000)),
    ] {
        let arc = Arc::new();
        arc.write_telemetry(PARTITION, 3, 10);
        let rows = arc.rows(PARTITION);
        // The first in order of names, so that the program itself looks at its footer before any child does.
        let bytes = thrift::file_of(&footer);
        let bad = arc.put(PARTITION, "a_hostile.parquet", &bytes);

        let run = arc.compact();

        assert_eq!(run.code, 1, "{what}: {run:#?}");
        let report = run.json();
        assert_eq!(report["jobs"][0]["files_compacted"], 3, "{what}: {report:#}");
        assert_eq!(report["jobs"][0]["inputs_quarantined"][0]["name"], "a_hostile.parquet", "{what}: {report:#}");
        assert_eq!(fs::read(&bad).unwrap(), bytes, "{what}");
        fs::remove_file(bad).unwrap();
        assert_eq!(arc.rows(PARTITION), rows, "{what}");
    }
}
