//! I9, I10: whatever is in a file, the program lives, the good files are compacted, and the bad ones stay as they are.
//!
//! A thousand damaged files (`ARC_CORRUPTIONS` sets another number) are generated from seven sound ones: each cut off at each
//! of its boundaries, and then damaged in the kinds of `kinds.rs`, and laid beside good files, one partition for each
//! kind. The real program compacts them, merging in child processes. Of every damaged file one of two things must be
//! true afterwards: it is there, byte for byte, and the report names it with a reason; or it could be read, and then
//! exactly the rows that DuckDB reads from a copy of it are in the outputs, once. The second is nobody's mistake: a
//! file whose flipped byte makes another valid value has no sign of it.
//!
//! Everything is derived from the kind and a number. `ARC_ONLY=kind:number` repeats one file alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Instant;

use duckdb::Connection;
use serde_json::Value;

use self::kinds::{CUT_AT_A_BOUNDARY, Fate, KINDS, Kind};
use self::pages::Anatomy;
use crate::support::{Arc, PARTITION, again, strings, telemetry};

mod bases;
mod kinds;
mod lies;
mod pages;
mod thrift;

/// How many files are damaged unless `ARC_CORRUPTIONS` says otherwise.
const CORRUPTIONS: usize = 1000;

/// Of a thousand: how many may at most be read though a stricter reader than the engine refuses them. It may not become more.
const MOST_READ_BY_ENGINE_ONLY: usize = 10;

/// Good files in each partition, and rows in each of them.
const GOOD: usize = 4;
const GOOD_ROWS: usize = 25;

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
        let base = rng.usize(..bases.len());
        Self { kind, number, bytes: (kind.damage)(&bases[base], &mut rng, number) }
    }

    /// Number `number` of the sound files cut off at each of their boundaries, all boundaries of all files in a row.
    fn cut(number: usize, bases: &[Anatomy]) -> Self {
        let mut cuts = bases.iter().flat_map(|file| file.boundaries().into_iter().map(move |at| &file.bytes[..at]));
        Self { kind: CUT_AT_A_BOUNDARY, number, bytes: cuts.nth(number).expect("a boundary").to_vec() }
    }

    fn name(&self) -> String {
        format!("bad_{:04}.parquet", self.number)
    }

    fn partition(&self) -> String {
        partition_of(self.kind)
    }

    /// From now on it is about this file.
    fn at(&self) -> again::At {
        again::at(&format!("{}:{}", self.kind.name, self.number))
    }
}

fn partition_of(kind: Kind) -> String {
    format!("db/{}/2025/10/08/14", kind.name)
}

fn damaged_files() -> Vec<Damaged> {
    let bases = bases::all();
    if let Some(one) = again::asked(again::ONLY) {
        let (name, number) = one.split_once(':').expect("kind:number");
        let number = number.parse().unwrap();
        if name == CUT_AT_A_BOUNDARY.name {
            return vec![Damaged::cut(number, &bases)];
        }
        let kind = *KINDS.iter().find(|kind| kind.name == name).expect("one of the kinds");
        return vec![Damaged::new(kind, number, &bases)];
    }
    let total = again::asked_number("ARC_CORRUPTIONS").map_or(CORRUPTIONS, |n| usize::try_from(n).unwrap());
    let cuts = bases.iter().map(|file| file.boundaries().len()).sum::<usize>().min(total);
    let cut = (0..cuts).map(|number| Damaged::cut(number, &bases));
    let others = (0..total - cuts).map(|n| Damaged::new(KINDS[n % KINDS.len()], n / KINDS.len(), &bases));
    cut.chain(others).collect()
}

/// An Arc with these files beside good ones.
fn arc_with(files: &[Damaged]) -> Arc {
    arc_with_settings(files, "min_files = 2")
}

fn arc_with_settings(files: &[Damaged], settings: &str) -> Arc {
    let arc = Arc::with(settings);
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

/// Whether a reader that checks more than the engine does can read every value.
fn strictly_readable(bytes: &[u8]) -> bool {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    let bytes = bytes::Bytes::copy_from_slice(bytes);
    let read =
        || ParquetRecordBatchReaderBuilder::try_new(bytes).ok()?.build().ok()?.all(|batch| batch.is_ok()).then_some(());
    again::silently(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))).is_ok_and(|read| read.is_some())
}

/// What became of the damaged files of a partition.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    damaged: usize,
    left_alone: usize,
    read: usize,
    /// Of those read: how many a stricter reader than the engine refuses.
    read_by_engine_only: usize,
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

impl Tally {
    fn line(&self, kind: &str, files: usize) -> String {
        let Self { damaged, left_alone, read, read_by_engine_only } = self;
        assert_eq!(damaged + left_alone + read, files, "every file is accounted for");
        format!("{kind:<24}{files:>6}{damaged:>10}{left_alone:>12}{read:>6}{read_by_engine_only:>14}\n")
    }
}

/// Checks one partition after its compaction.
fn check(arc: &Arc, report: &Value, files: &[&Damaged]) -> Tally {
    let partition = files[0].partition();
    let named = named_in(report, &partition);
    let mut tally = Tally::default();
    let mut expected: Vec<String> = Vec::new();
    // Rows of files in which the engine overlooks damage: their values may be whatever lay in memory.
    let mut uncertain = 0;
    for i in 0..GOOD {
        assert!(!named.contains_key(&format!("cpu_{i:04}.parquet")), "a good file is blamed: {named:#?}");
    }
    let good = tempfile::tempdir().unwrap();
    let path = good.path().join("good.parquet");
    crate::support::copy(&telemetry(0, GOOD * GOOD_ROWS), &path, "FORMAT parquet");
    expected.extend(rows_in(&path).unwrap());
    for file in files {
        let _here = file.at();
        let there = fs::read(arc.folder(&partition).join(file.name())).ok();
        match (there, named.get(&file.name())) {
            (Some(bytes), Some(reason)) => {
                assert_eq!(bytes, file.bytes, "{partition}/{} is not what it was", file.name());
                let detail = reason.len() > 30;
                assert!(detail, "{partition}/{}: no reason: {reason}", file.name());
                if reason.contains("unreadable") { tally.damaged += 1 } else { tally.left_alone += 1 }
            }
            (None, None) => {
                assert_eq!(file.kind.fate, Fate::NamedOrRead, "{partition}/{} was taken for sound", file.name());
                let copy = good.path().join(file.name());
                fs::write(&copy, &file.bytes).unwrap();
                let rows = rows_in(&copy).unwrap_or_else(|e| panic!("{partition}/{} was merged, but {e}", file.name()));
                tally.read += 1;
                if strictly_readable(&file.bytes) {
                    expected.extend(rows);
                } else {
                    tally.read_by_engine_only += 1;
                    uncertain += rows.len();
                }
            }
            (there, named) => {
                let there = there.is_some();
                panic!("{partition}/{}: there: {there}, named: {named:?}", file.name());
            }
        }
    }
    let outputs = arc.live_paths(&partition);
    let outputs = outputs.iter().filter(|path| path.to_string_lossy().ends_with("_compacted.parquet"));
    let mut found: Vec<String> = outputs.flat_map(|path| rows_in(path).unwrap()).collect();
    let rows = found.len();
    let mut lost: Vec<String> = Vec::new();
    found.sort();
    for row in &expected {
        match found.binary_search(row) {
            Ok(at) => drop(found.remove(at)),
            Err(_) => lost.push(row.clone()),
        }
    }
    assert!(
        lost.is_empty() && found.len() == uncertain,
        "{partition}: {rows} rows for {} and {uncertain}; lost {:#?}, left {:#?}",
        expected.len(),
        &lost[..lost.len().min(5)],
        &found[..found.len().min(5)],
    );
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
        table += &tally.line(kind, files.len());
        sum.read_by_engine_only += tally.read_by_engine_only;
        sum.damaged += tally.damaged;
        sum.left_alone += tally.left_alone;
        sum.read += tally.read;
    }
    assert_eq!(run.code, i32::from(sum.damaged > 0), "a damaged file needs a person: {}", run.stderr);
    let total = sum.line("all", files.len());
    println!(
        "{:<24}{:>6}{:>10}{:>12}{:>6}{:>14}\n{table}{total}",
        "kind", "files", "damaged", "left alone", "read", "(engine only)"
    );
    let replaced = run.stderr.matches("merge worker failed, trying once more").count();
    assert!(
        sum.read_by_engine_only * 1000 <= MOST_READ_BY_ENGINE_ONLY * files.len().max(CORRUPTIONS),
        "{} damaged files are overlooked",
        sum.read_by_engine_only
    );
    if files.len() >= CORRUPTIONS {
        assert_eq!(by_partition.len(), KINDS.len() + 1, "every kind is among them");
    }
    println!("{replaced} merges needed another child because theirs died");
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
    let footers = [
        ("long_schema", thrift::footer_with_a_list_of(2, i32::MAX.unsigned_abs())),
        ("long_key_values", thrift::footer_with_a_list_of(5, i32::MAX.unsigned_abs())),
        ("many_children", thrift::footer_with_a_group_of(i32::MAX)),
        ("deep_schema", thrift::footer_nested(200_000)),
    ];
    for (what, footer) in again::each(footers, |(what, _)| (*what).to_owned()) {
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

#[test]
fn the_readme_states_how_many_kinds_there_are() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let stated = format!("1,000 files in {} kinds", KINDS.len() + 1);
    assert!(readme.contains(&stated), "{stated}, one of them made apart");
}

/// The sound files have every part that can be cut off.
#[test]
fn the_boundaries_are_also_those_of_indexes_and_filters() {
    let bases = bases::all();
    for has in [
        |file: &Anatomy| file.metadata.row_group(0).column(0).column_index_offset(),
        |file: &Anatomy| file.metadata.row_group(0).column(0).offset_index_offset(),
        |file: &Anatomy| file.metadata.row_group(0).column(0).bloom_filter_offset(),
    ] {
        let with: Vec<(&Anatomy, usize)> =
            bases.iter().filter_map(|file| Some((file, usize::try_from(has(file)?).unwrap()))).collect();
        assert!(!with.is_empty());
        for (file, at) in with {
            assert!(file.boundaries().contains(&at), "{at}");
        }
    }
}

/// I9: files that pyarrow has encrypted, with keys that are known to nobody: one whole, and one of which a single column is,
/// with a footer that everybody can read.
#[test]
fn an_encrypted_file_is_named_and_stays_and_the_others_are_compacted() {
    let files: [(&str, &[u8], &str); 2] = [
        ("footer.parquet", include_bytes!("corruption/encrypted/footer.parquet"), "the file is encrypted"),
        (
            "columns.parquet",
            include_bytes!("corruption/encrypted/columns.parquet"),
            "columns of the file are encrypted",
        ),
    ];
    for (name, bytes, reason) in again::each(files, |(name, ..)| (*name).to_owned()) {
        let arc = Arc::new();
        arc.write_telemetry(PARTITION, 3, 10);
        let rows = arc.rows(PARTITION);
        let path = arc.put(PARTITION, name, bytes);

        let run = arc.compact();

        let report = run.json();
        let named = named_in(&report, PARTITION);
        assert!(run.code == 0 && named[name].contains(reason), "{name}: {} {report:#}", run.code);
        assert_eq!(fs::read(&path).unwrap(), bytes, "{name}");
        let state = arc.storage_state();
        assert_eq!(arc.compact().json()["jobs_completed"], 0, "{name}");
        assert_eq!(arc.storage_state(), state, "{name}");
        fs::remove_file(path).unwrap();
        assert_eq!(arc.rows(PARTITION), rows, "{name}: every row of the others is there once");
        assert_eq!(arc.live(PARTITION).len(), 1, "{name}");
    }
}

/// One file of each kind, in the server: it answers, goes on, and lists what it found.
#[test]
fn a_server_lives_through_every_kind_of_damage() {
    let bases = bases::all();
    let kinds = again::each(KINDS, |kind| kind.name.to_owned());
    let files: Vec<Damaged> = kinds.map(|kind| Damaged::new(kind, 0, &bases)).collect();
    let arc = arc_with(&files);
    let mut server = arc.serve();
    assert_eq!(server.post("/api/compaction/trigger", "").status, 202);
    server.wait_for("Compaction cycle completed");
    assert_eq!(server.get("/health").status, 200);
    let listed = server.get("/api/compaction/quarantine").json().to_string();
    let history = server.get("/api/compaction/history?limit=1000").json();
    let jobs = serde_json::json!({ "jobs": history["recent_jobs"] });
    for file in &files {
        let _here = again::at(file.kind.name);
        let partition = file.partition();
        let there = fs::read(arc.folder(&partition).join(file.name())).ok();
        let named = named_in(&jobs, &partition);
        assert_eq!(there.is_some(), named.contains_key(&file.name()), "{partition}: named is what stays: {named:#?}");
        if let Some(bytes) = there {
            assert!(bytes == file.bytes, "{partition}: it is not what it was");
            // What only does not fit today is in the job's report alone.
            let is_damaged = file.kind.fate == Fate::Named || named[&file.name()].contains("unreadable");
            assert!(!is_damaged || listed.contains(&partition[3..]), "{partition}: {listed}");
        } else {
            assert_eq!(file.kind.fate, Fate::NamedOrRead, "{partition}: it was taken for sound");
        }
        let compacted = arc.live(&partition).iter().filter(|name| name.ends_with("_compacted.parquet")).count();
        assert!(compacted >= 1, "{partition}: the good files are not compacted");
    }
}

/// A footer that states fewer rows than there are, alike everywhere, is believed by every reader, and then a proof that
/// compares what was read with what was written holds, too. So the pages are asked, whatever merges them.
#[test]
fn rows_that_a_footer_hides_are_not_lost_and_those_it_invents_are_not_made_up_by_any_means() {
    let bases = bases::all();
    for settings in [
        "verify = 'content'",
        "verify = 'footers'",
        // Only DuckDB sorts by these.
        "sort_by = ['host', 'time']",
        "sort_by = ['host', 'time']\nverify = 'footers'",
    ] {
        for name in ["footer_states_fewer_rows", "fewer_rows_at_no_offset", "footer_states_more_rows"] {
            let kind = *KINDS.iter().find(|kind| kind.name == name).unwrap();
            let files: Vec<Damaged> = (0..24).map(|number| Damaged::new(kind, number, &bases)).collect();
            let arc = arc_with_settings(&files, &format!("min_files = 2\n{settings}"));
            let report = arc.compact().json();
            let tally = check(&arc, &report, &files.iter().collect::<Vec<_>>());
            assert_eq!(tally, Tally { damaged: files.len(), ..Tally::default() }, "{name}, {settings}");
        }
    }
}

/// Many damaged files cost a few looks each, and not a merge each.
#[test]
fn twenty_damaged_files_among_two_hundred_are_found_together() {
    let bases = bases::all();
    let page_data = *KINDS.iter().find(|kind| kind.name == "garbage").unwrap();
    let unreadable: Vec<Vec<u8>> = (0..)
        .map(|number| Damaged::new(page_data, number, &bases).bytes)
        .filter(|bytes| !strictly_readable(bytes))
        .take(20)
        .collect();
    for verify in ["content", "footers"] {
        for bad in [0, 1, 2, 20] {
            let arc = Arc::with(&format!("min_files = 2\nverify = '{verify}'"));
            let model = arc.write("db/model/2025/10/08/14", "model.parquet", &telemetry(0, 500));
            let good = fs::read(&model).unwrap();
            fs::remove_file(model).unwrap();
            for number in 0..200 {
                let bytes = if number % 10 == 7 && number / 10 < bad { &unreadable[number / 10] } else { &good };
                arc.put(PARTITION, &format!("{number:03}.parquet"), bytes);
            }
            let began = Instant::now();
            let run = arc.compact();
            let report = run.json();
            let job = &report["jobs"][0];
            assert_eq!(job["status"], "completed", "{verify}, {bad} bad: {report:#}");
            let named = job["inputs_quarantined"].as_array().unwrap().len();
            println!("{verify}, {bad} damaged: {:.1?}, {named} named", began.elapsed());
            assert!(named <= bad, "{report:#}");
            assert_eq!(job["files_compacted"].as_u64().unwrap() + named as u64, 200, "{report:#}");
        }
    }
}

/// A file that is small on disk and, with a single value, larger than all memory when it is read.
#[test]
fn a_value_larger_than_all_memory_costs_its_file_and_not_its_partition() {
    let arc = Arc::with("min_files = 2\nmemory_limit_mb = 256");
    arc.write_telemetry(PARTITION, 3, 10);
    let bomb = arc.put(PARTITION, "bomb.parquet", &bases::bomb(200 << 20));
    assert!(fs::metadata(&bomb).unwrap().len() < 1 << 20);
    let run = arc.compact();
    let report = run.json();
    let named = named_in(&report, PARTITION);
    assert!(named["bomb.parquet"].contains("too_large"), "{report:#}");
    assert!(bomb.exists());
    assert_eq!(report["jobs"][0]["rows"], 30, "{report:#}");
}

/// A gzip stream has no length that it keeps to: a decoder that reads to its end takes as much memory as somebody likes. The
/// first child dies of it, at the latest; what looks at the files before the second may not.
#[test]
fn a_page_that_never_ends_costs_its_file_and_not_its_partition() {
    let bytes = bases::endless_gzip(4 << 30);
    for verify in ["content", "footers"] {
        let arc = Arc::with(&format!("min_files = 2\nmemory_limit_mb = 256\nverify = '{verify}'"));
        arc.write_telemetry(PARTITION, 3, 10);
        let bad = arc.put(PARTITION, "endless.parquet", &bytes);
        let run = arc.compact();
        let report = run.json();
        println!("{verify}: {} children died", run.stderr.matches("merge worker failed").count());
        assert_eq!(report["jobs"][0]["rows"], 30, "{verify}: {report:#} {}", run.stderr);
        assert_eq!(report["jobs"][0]["inputs_quarantined"][0]["name"], "endless.parquet", "{verify}: {report:#}");
        assert_eq!(fs::read(&bad).unwrap(), bytes, "{verify}");
    }
}

/// Pages that claim two gigabytes are not believed by anything: no child dies of them, whatever decodes them.
#[test]
fn a_page_that_claims_more_than_it_can_become_kills_no_child() {
    let bases = bases::all();
    let kind = *KINDS.iter().find(|kind| kind.name == "bomb_page_claims").unwrap();
    for settings in ["verify = 'content'", "verify = 'footers'", "verify = 'footers'\nsort_by = ['host', 'time']"] {
        let files: Vec<Damaged> = (0..16).map(|number| Damaged::new(kind, number, &bases)).collect();
        let arc = arc_with_settings(&files, &format!("min_files = 2\nmemory_limit_mb = 256\n{settings}"));
        let run = arc.compact();
        let tally = check(&arc, &run.json(), &files.iter().collect::<Vec<_>>());
        assert_eq!(tally.damaged + tally.left_alone + tally.read, files.len());
        assert!(!run.stderr.contains("merge worker failed"), "{settings}: {}", run.stderr);
    }
}

/// Rows that can be read one by one, but not be sorted: their file is sound, so it is left where it is, named with the limit
/// that it hit, and not put into quarantine; with more memory it is merged like any other. The others do not wait for it.
#[test]
fn a_file_that_cannot_be_sorted_in_memory_is_named_with_the_limit_and_the_others_are_compacted() {
    let arc = Arc::with("min_files = 2\nmemory_limit_mb = 256");
    arc.write_telemetry(PARTITION, 3, 10);
    let bomb = arc.put(PARTITION, "bomb.parquet", &bases::bomb(20 << 20));
    let bytes = fs::read(&bomb).unwrap();
    let run = arc.compact();
    let report = run.json();
    let job = &report["jobs"][0];
    assert_eq!((&job["status"], &job["rows"]), (&"completed".into(), &30.into()), "{report:#}");
    assert_eq!(job["inputs_quarantined"], serde_json::json!([]), "{report:#}");
    let aside = &job["inputs_set_aside"][0];
    assert_eq!((&aside["name"], &aside["reason"]["kind"]), (&"bomb.parquet".into(), &"too_large".into()), "{report:#}");
    assert!(aside["reason"]["detail"].as_str().unwrap().contains("does not fit into"), "{report:#}");
    assert_eq!(fs::read(&bomb).unwrap(), bytes);

    // I6, and the partition is not busy for ever with what cannot be done.
    let state = arc.storage_state();
    assert_eq!(arc.compact().json()["jobs"], Value::Array(Vec::new()));
    assert_eq!(arc.storage_state(), state);
}

/// More of them than one attempt looks for, and together more than fits into anything: the good files are compacted, and after
/// a few cycles nothing is tried any more.
#[test]
fn a_partition_with_ten_files_too_large_for_memory_comes_to_rest_and_loses_nothing() {
    let arc = Arc::with("min_files = 2\nmemory_limit_mb = 256");
    arc.write_telemetry(PARTITION, 3, 10);
    let bytes = bases::bomb(20 << 20);
    let names: Vec<String> = (0..10).map(|number| format!("bomb_{number}.parquet")).collect();
    for name in &names {
        arc.put(PARTITION, name, &bytes);
    }
    let mut cycles = 0;
    loop {
        let report = arc.compact().json();
        if report["jobs"] == Value::Array(Vec::new()) {
            break;
        }
        assert_eq!(report["jobs"][0]["status"], "completed", "{report:#}");
        cycles += 1;
        assert!(cycles < 6, "{report:#}");
    }
    let live = arc.live_paths(PARTITION);
    assert!(!live.iter().any(|path| path.ends_with("cpu_0000.parquet")), "the good files are compacted: {live:?}");
    let db = Connection::open_in_memory().unwrap();
    let count = format!("SELECT count(*)::VARCHAR FROM {}", crate::support::table(&live));
    assert_eq!(strings(&db, &count).unwrap(), ["1030"]);
    for name in names {
        let path = arc.folder(PARTITION).join(name);
        assert!(!path.exists() || fs::read(&path).unwrap() == bytes, "{}", path.display());
    }
}
