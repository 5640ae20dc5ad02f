//! `arc verify` and `arc adopt`: storage is broken in each way, exactly that is found, the remedy is followed as written,
//! and every row is there exactly once.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::environment::abandoned_folder;
use crate::support::{Arc, PARTITION, Run, again, block_on, copy, telemetry, tree};

/// Three raw files became one compacted file.
fn compacted() -> Arc {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 300);
    keep(&arc, "raw");
    arc.compact_well();
    arc
}

/// A large compacted file, and one small side file for each of `late` later compactions.
fn layered(late: usize) -> Arc {
    let arc = Arc::with("min_files = 2\nlate_rewrite_ratio = 100.0");
    arc.write_telemetry(PARTITION, 3, 5000);
    keep(&arc, "raw");
    arc.compact_well();
    for round in 0..late {
        for file in 0..2 {
            let first = 20_000 + (round * 2 + file) * 10;
            arc.write(PARTITION, &format!("late_{round}_{file}.parquet"), &telemetry(first, first + 5));
        }
        arc.compact_well();
    }
    assert_eq!(arc.live(PARTITION).len(), late + 1, "side files");
    arc
}

/// One compaction wrote several files.
fn several_parts() -> Arc {
    let arc = Arc::with("min_files = 2\ntarget_file_size_mb = 1\nrow_group_size = 10240");
    for number in 0..2 {
        let text = "md5(i::VARCHAR) || md5((i + 7)::VARCHAR) AS text";
        let (first, end) = (number * 50_000, (number + 1) * 50_000);
        let query = format!(
            "SELECT make_timestamp(1759932000000000 + i * 1000) AS time, {text} FROM range({first}, {end}) r(i)"
        );
        arc.write(PARTITION, &format!("wide_{number}.parquet"), &query);
    }
    arc.compact_well();
    assert!(arc.live(PARTITION).len() >= 2, "{:?}", arc.live(PARTITION));
    arc
}

/// Copies the partition's folder aside, as a backup does.
fn keep(arc: &Arc, name: &str) {
    copy_tree(&arc.folder(PARTITION), &arc.dir().join(name));
}

fn copy_tree(from: &Path, to: &Path) {
    for file in tree(from).keys() {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(file, target).unwrap();
    }
}

/// Puts one file, or everything, back from a backup.
fn restore(arc: &Arc, backup: &str, name: &str) {
    let from = arc.dir().join(backup).join(name);
    if from.is_dir() {
        copy_tree(&from, &arc.folder(PARTITION).join(name));
    } else {
        fs::copy(from, arc.folder(PARTITION).join(name)).unwrap();
    }
}

fn move_away(arc: &Arc, name: &str) {
    let away = arc.dir().join("away");
    fs::create_dir_all(&away).unwrap();
    fs::rename(arc.folder(PARTITION).join(name), away.join(name.replace('/', "_"))).unwrap();
}

fn lose_records(arc: &Arc, generations: &[u64]) {
    for generation in generations {
        fs::remove_file(arc.folder(PARTITION).join(format!("_compaction/{generation:08}.json"))).unwrap();
    }
}

fn edit_record(arc: &Arc, generation: u64, edit: impl FnOnce(&mut Value)) {
    let path = arc.folder(PARTITION).join(format!("_compaction/{generation:08}.json"));
    let mut record = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut record);
    fs::write(path, serde_json::to_vec(&record).unwrap()).unwrap();
}

fn live(arc: &Arc) -> String {
    let mut live = arc.live(PARTITION);
    assert_eq!(live.len(), 1);
    live.remove(0)
}

/// Runs `arc verify`, which changes nothing and whose exit code agrees with what it says.
fn verify(arc: &Arc, deep: bool) -> Vec<Value> {
    let before = arc.storage_state();
    let arguments: &[&str] = if deep { &["verify", "--json", "--deep"] } else { &["verify", "--json"] };
    let run = Run::of(&mut arc.command(arguments));
    assert_eq!(arc.storage_state(), before, "verify changed something");
    let findings = run.json()["findings"].as_array().unwrap().clone();
    let serious = findings.iter().any(|f| f["severity"] != "info");
    assert_eq!(run.code, i32::from(serious), "{run:#?}");
    findings
}

fn kinds(findings: &[Value]) -> Vec<&str> {
    findings.iter().map(|f| f["kind"].as_str().unwrap()).collect()
}

/// The command in the remedy, run as it stands there.
fn follow(arc: &Arc, finding: &Value) {
    let remedy = finding["remedy"].as_str().unwrap();
    let command = remedy.split('`').find_map(|part| part.strip_prefix("arc ")).unwrap_or_else(|| panic!("{remedy}"));
    let mut words: Vec<&str> = command.split_whitespace().collect();
    if words[0] == "adopt" {
        words.push("--yes");
    }
    let run = Run::of(&mut arc.command(&words));
    assert_eq!(run.code, 0, "arc {command}: {run:#?}");
}

/// Moves away the files that the finding names, which its remedy says to do.
fn move_named_away(arc: &Arc, finding: &Value) {
    assert!(finding["remedy"].as_str().unwrap().contains("move"), "{finding:#}");
    for file in finding["files"].as_array().unwrap() {
        move_away(arc, file.as_str().unwrap());
    }
}

/// Does nothing but run the program as usual, when records have been kept for as long as they are kept.
fn wait_for_its_deletion(arc: &Arc, finding: &Value) {
    assert_eq!(finding["remedy"], "none needed: it is deleted in its time");
    let record = arc.folder(PARTITION).join(finding["files"][0].as_str().unwrap());
    let file = fs::File::options().write(true).open(&record).unwrap();
    let written = file.metadata().unwrap().modified().unwrap();
    arc.compact_well();
    assert!(record.exists(), "not before its time");
    file.set_modified(written - Duration::from_hours(31 * 24)).unwrap();
    arc.compact_well();
    assert!(!record.exists(), "it is deleted in its time");
}

/// Puts back what the remedy names.
fn restore_named(arc: &Arc, finding: &Value) {
    let remedy = finding["remedy"].as_str().unwrap();
    assert!(remedy.starts_with("restore"), "{remedy}");
    let record = remedy.split([' ', ',']).find(|word| word.starts_with("_compaction/"));
    for file in finding["files"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).chain(record) {
        restore(arc, "backup", file);
    }
}

/// A Parquet file of exactly the size of the one that it replaces, with other rows.
fn same_size_other_rows(path: &Path) {
    let want = fs::metadata(path).unwrap().len();
    let mut pad = 100_u64;
    for _ in 0..8 {
        let text = "x".repeat(usize::try_from(pad).unwrap());
        copy(&telemetry(0, 3), path, &format!("FORMAT parquet, KV_METADATA {{pad: '{text}'}}"));
        let size = fs::metadata(path).unwrap().len();
        if size == want {
            return;
        }
        pad = (pad + want).checked_sub(size).expect("three rows are smaller");
    }
    panic!("no padding gives {want} bytes");
}

struct Case {
    name: &'static str,
    prepare: fn() -> Arc,
    damage: fn(&Arc),
    deep: bool,
    kind: &'static str,
    severity: &'static str,
    remedy: fn(&Arc, &Value),
}

#[allow(clippy::too_many_lines, clippy::needless_update, reason = "a table")]
fn cases() -> Vec<Case> {
    let base = Case {
        name: "",
        prepare: compacted,
        damage: |_| (),
        deep: false,
        kind: "",
        severity: "error",
        remedy: restore_named,
    };
    macro_rules! case {
        ($name:expr, $kind:expr, $damage:expr $(, $field:ident: $value:expr)*) => {
            Case { name: $name, kind: $kind, damage: $damage, $($field: $value,)* ..base }
        };
    }
    vec![
        case!("a file of an attempt that lost", "dead_file", |arc| {
            let folder = arc.folder(PARTITION);
            fs::copy(folder.join(live(arc)), folder.join("cpu_20251008_14_g1_aaaaaaaaaaaa_compacted.parquet")).unwrap();
        }, severity: "info", remedy: follow),
        case!("a consumed file that was not deleted yet", "retired_file", |arc| {
            restore(arc, "raw", "cpu_0001.parquet");
            let listing = block_on(arc.storage().list_partition(&PARTITION.parse().unwrap())).unwrap();
            let etag = listing.data.into_iter().find(|f| f.name == "cpu_0001.parquet").unwrap().etag;
            edit_record(arc, 1, |record| record["retired"][1]["etag"] = etag.into());
        }, severity: "info", remedy: follow),
        case!("a backup between publishing and commit", "undecided_attempt", |arc| {
            restore(arc, "raw", "");
            lose_records(arc, &[1]);
        }, severity: "info", remedy: follow),
        case!("the newest record is lost", "undecided_attempt_without_inputs", |arc| lose_records(arc, &[2]),
            prepare: || layered(1), remedy: follow),
        case!("the two newest records are lost", "generation_gap", |arc| lose_records(arc, &[2, 3]),
            prepare: || layered(2), remedy: follow),
        case!("a partition copied without its records", "records_missing", |arc| lose_records(arc, &[1]), remedy: follow),
        case!("a partition of several files copied without its records", "records_missing",
            |arc| lose_records(arc, &[1, 2, 3]), prepare: || layered(2), remedy: follow),
        case!("records lost and one input restored", "records_missing", |arc| {
            lose_records(arc, &[1]);
            restore(arc, "raw", "cpu_0002.parquet");
        }, remedy: |arc, finding| {
            assert!(finding["remedy"].as_str().unwrap().contains("move out of the partition: cpu_0002.parquet"));
            move_away(arc, "cpu_0002.parquet");
            follow(arc, finding);
        }),
        case!("an adoption that was interrupted", "unfinished_adoption", |arc| {
            lose_records(arc, &[1, 2, 3]);
            follow(arc, &verify(arc, false)[0]);
            lose_records(arc, &[2, 3]);
        }, prepare: || layered(2), remedy: follow),
        case!("a live file is gone", "live_file_missing", |arc| fs::remove_file(arc.folder(PARTITION).join(live(arc)))
            .unwrap()),
        case!("a live file was cut", "live_file_changed", |arc| {
            let path = arc.folder(PARTITION).join(live(arc));
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        }),
        case!("a live file was overwritten with zeros", "unreadable_file", |arc| {
            let path = arc.folder(PARTITION).join(live(arc));
            fs::write(&path, vec![0; fs::read(&path).unwrap().len()]).unwrap();
        }),
        case!("a live file was replaced by another of its size", "rows_differ", |arc| same_size_other_rows(
            &arc.folder(PARTITION).join(live(arc))
        )),
        case!("a byte of a live file flipped", "checksum_mismatch", |arc| {
            let path = arc.folder(PARTITION).join(live(arc));
            let mut bytes = fs::read(&path).unwrap();
            bytes[100] ^= 1;
            fs::write(path, bytes).unwrap();
        }, deep: true),
        case!("the proof is another one", "fingerprint_mismatch",
            |arc| edit_record(arc, 1, |record| record["fingerprint"] = "900-0-0".into()), deep: true),
        case!("rows are out of order", "unsorted_output", forge_unsorted, deep: true, severity: "warning"),
        case!("parts overlap", "overlapping_outputs", |arc| edit_record(arc, 1, |record| {
            record["live"][1]["min_time"] = record["live"][0]["min_time"].clone();
        }), prepare: several_parts, severity: "warning"),
        case!("a consumed file was restored while its record knows it", "reused_name",
            |arc| restore(arc, "raw", "cpu_0000.parquet"), remedy: move_named_away),
        case!("a consumed file was restored long after", "consumed_file_counts",
            |arc| restore(arc, "raw", "cpu_0000.parquet"), prepare: || layered(1), remedy: move_named_away),
        case!("the newest record is damaged", "unreadable_record", |arc| fs::write(
            arc.folder(PARTITION).join("_compaction/00000001.json"),
            "{"
        )
        .unwrap()),
        case!("the newest record is damaged and there is no backup", "unreadable_record",
        |arc| fs::write(arc.folder(PARTITION).join("_compaction/00000001.json"), "{").unwrap(),
        remedy: |arc, finding| {
            move_named_away(arc, finding);
            follow(arc, &verify(arc, false)[0]);
        }),
        case!("an old record is damaged", "unreadable_record",
            |arc| fs::write(arc.folder(PARTITION).join("_compaction/00000001.json"), "{").unwrap(),
            prepare: || layered(1), deep: true, severity: "info",
            remedy: wait_for_its_deletion),
        case!("a temp folder of a dead job", "leftover_folder", |arc| abandoned_folder(&arc.temp()),
            severity: "info", remedy: follow),
        case!("a staging folder of a dead job", "leftover_folder",
            |arc| abandoned_folder(&arc.data().join("_compaction_staging")), severity: "info", remedy: follow),
        case!("a raw file that is no Parquet", "unreadable_file", |arc| {
            arc.put(PARTITION, "garbage.parquet", b"PAR1 this is no Parquet file PAR1");
        }, deep: true, severity: "warning", remedy: move_named_away),
        case!("a name that storage cannot address", "unchecked", |arc| {
            fs::write(arc.folder(PARTITION).join("a\nb.parquet"), "").unwrap();
        }, remedy: |arc, finding| {
            assert!(finding["detail"].as_str().unwrap().contains("a\\nb.parquet"), "{finding:#}");
            move_away(arc, "a\nb.parquet");
        }),
    ]
}

/// Replaces the live file by one that declares an order and does not keep it, as a faulty engine would have recorded it.
fn forge_unsorted(arc: &Arc) {
    use parquet::file::metadata::SortingColumn;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    let name = live(arc);
    let path = arc.folder(PARTITION).join(&name);
    let schema = parse_message_type("message schema { required int64 time; }").unwrap();
    let lineage = parquet::file::metadata::KeyValue::new("arc.inputs".to_owned(), "[\"cpu_0000.parquet\"]".to_owned());
    let properties = WriterProperties::builder()
        .set_key_value_metadata(Some(vec![lineage]))
        .set_sorting_columns(Some(vec![SortingColumn { column_idx: 0, descending: false, nulls_first: false }]))
        .build();
    let file = fs::File::create(&path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema.into(), properties.into()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<parquet::data_type::Int64Type>().write_batch(&[1, 3, 2], None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    let bytes = fs::read(&path).unwrap();
    edit_record(arc, 1, |record| {
        let entry = &mut record["live"][0];
        entry["size_bytes"] = bytes.len().into();
        entry["rows"] = 3.into();
        entry["checksum"] = format!("blake3:{}", blake3::hash(&bytes).to_hex()).into();
        record["fingerprint"] = Value::Null;
    });
}

/// T28: among them are folders restored in parts.
#[test]
fn each_defect_is_the_one_finding_and_its_remedy_brings_every_row_back_once() {
    for case in again::each(cases(), |case| case.name.to_owned()) {
        let arc = (case.prepare)();
        let rows = arc.rows(PARTITION);
        keep(&arc, "backup");
        (case.damage)(&arc);
        let findings = verify(&arc, case.deep);
        assert_eq!(kinds(&findings), [case.kind], "{}: {findings:#?}", case.name);
        assert_eq!(findings[0]["severity"], case.severity, "{}", case.name);
        for key in ["detail", "remedy"] {
            assert!(findings[0][key].as_str().is_some_and(|text| !text.is_empty()), "{}: {key}", case.name);
        }
        (case.remedy)(&arc, &findings[0]);
        assert_eq!(kinds(&verify(&arc, true)), Vec::<&str>::new(), "{}: after its remedy", case.name);
        assert!(arc.rows(PARTITION) == rows, "{}: other rows after its remedy", case.name);
        arc.compact_well();
        assert!(arc.rows(PARTITION) == rows, "{}: other rows after the next cycle", case.name);
    }
}

/// Every kind that the program knows is broken above.
#[test]
fn the_table_of_defects_is_complete() {
    let source =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/compaction/verify/mod.rs")).unwrap();
    let kinds = source.split("pub enum Kind {").nth(1).unwrap().split('}').next().unwrap();
    let tested: Vec<String> = cases().iter().map(|c| c.kind.replace('_', "")).collect();
    for kind in kinds.lines().filter_map(|l| l.trim().strip_suffix(',')) {
        assert!(tested.contains(&kind.to_lowercase()), "no case breaks storage by {kind}");
    }
}

#[test]
fn healthy_storage_has_no_findings_before_and_after_compaction_and_idle() {
    let arc = Arc::new();
    assert!(verify(&arc, true).is_empty(), "empty storage");
    arc.write_telemetry(PARTITION, 3, 100);
    arc.write("other/it's 5%/2025/10/08/15", "a.parquet", "SELECT 1::BIGINT AS time, [1, NULL] AS list");
    arc.write("other/it's 5%/2025/10/08/15", "b.parquet", "SELECT 2::BIGINT AS time, {'a': 1.5} AS other");
    assert!(verify(&arc, true).is_empty(), "raw files only");
    for state in ["compacted", "idle"] {
        arc.compact_well();
        assert!(verify(&arc, true).is_empty(), "{state}");
    }
    let text = Run::of(&mut arc.command(&["verify", "--deep", "--database", "db"]));
    assert_eq!(text.stdout, "checked 1 partition, 1 file (records, footers, bytes and rows): nothing found\n");
    assert!(verify(&several_parts(), true).is_empty(), "several parts");
    assert!(verify(&layered(2), true).is_empty(), "side files");
}

#[test]
fn findings_read_well() {
    let arc = compacted();
    let name = live(&arc);
    fs::remove_file(arc.folder(PARTITION).join(&name)).unwrap();
    let run = Run::of(&mut arc.command(&["verify"]));
    let expected = format!(
        "{PARTITION}\n  ERROR live_file_missing\n    {name}\n    why:    its 900 rows are in no other file, and nothing is \
         done here\n    remedy: restore {name} from a backup, under the same name\n\nchecked 1 partition, 0 files (records and \
         footers; --deep also reads every row): 1 error, 0 warnings, 0 that the next cycle clears\n"
    );
    assert_eq!(run.stdout, expected);
}

fn adopt(arc: &Arc, files: &[&str]) -> Run {
    Run::of(arc.command(&["adopt", PARTITION]).args(files).arg("--yes"))
}

/// Refused, for this reason, and nothing changed.
fn refused(arc: &Arc, files: &[&str], reason: &str) {
    let before = arc.storage_state();
    let run = adopt(arc, files);
    assert_eq!(run.code, 1, "{run:#?}");
    assert!(run.stderr.contains(reason), "not {reason:?}: {run:#?}");
    assert_eq!(arc.storage_state(), before, "a refusal changed something");
}

#[test]
fn without_a_terminal_and_without_yes_nothing_is_adopted() {
    let arc = compacted();
    lose_records(&arc, &[1]);
    let name = "cpu_20251008_14_g1_aaaaaaaaaaaa_compacted.parquet";
    let before = arc.storage_state();
    let run = Run::of(&mut arc.command(&["adopt", PARTITION, name]));
    assert_eq!((run.code, arc.storage_state()), (2, before), "{}", run.stderr);
}

/// T28: no row is doubled and no file dies by an adoption.
#[test]
fn an_adoption_that_could_double_or_lose_rows_is_refused() {
    let arc = layered(1);
    let (first, second) = (arc.live(PARTITION)[0].clone(), arc.live(PARTITION)[1].clone());
    lose_records(&arc, &[1, 2]);
    refused(&arc, &["cpu_0000.parquet"], "is not in the partition");
    arc.write(PARTITION, "new.parquet", &telemetry(90_000, 90_005));
    refused(&arc, &["new.parquet"], "counts without a record");
    refused(&arc, &[&second], "would become dead");
    // A second attempt at the same inputs.
    let twin = "cpu_20251008_14_g1_aaaaaaaaaaaa_compacted.parquet";
    fs::copy(arc.folder(PARTITION).join(&first), arc.folder(PARTITION).join(twin)).unwrap();
    refused(&arc, &[&first, twin, &second], "were both made from");
    move_away(&arc, twin);
    restore(&arc, "raw", "cpu_0000.parquet");
    refused(&arc, &[&first, &second], "which is in the partition too");
    move_away(&arc, "cpu_0000.parquet");
    fs::write(arc.folder(PARTITION).join(&second), "PAR1").unwrap();
    refused(&arc, &[&first, &second], "cannot be read");

    let arc = compacted();
    let name = live(&arc);
    fs::copy(arc.folder(PARTITION).join(&name), arc.folder(PARTITION).join(twin)).unwrap();
    refused(&arc, &[twin], "it is dead");

    let arc = several_parts();
    let parts = arc.live(PARTITION);
    lose_records(&arc, &[1]);
    refused(&arc, &[&parts[0]], "another part of the same attempt");
}

/// What a file was made from may itself have been made from files that are back: rows are compared, not names.
#[test]
fn a_file_that_was_merged_two_compactions_ago_is_recognised_by_its_rows() {
    let arc = Arc::with("min_files = 2\nlate_rewrite_ratio = 0.0");
    arc.write_telemetry(PARTITION, 3, 300);
    keep(&arc, "raw");
    arc.compact_well();
    arc.write(PARTITION, "late_0.parquet", &telemetry(2000, 2010));
    arc.write(PARTITION, "late_1.parquet", &telemetry(2010, 2020));
    arc.compact_well();
    let name = live(&arc);
    assert!(name.contains("_g2_"), "{name}");
    let rows = arc.rows(PARTITION).len();
    for record in fs::read_dir(arc.folder(PARTITION).join("_compaction")).unwrap() {
        fs::remove_file(record.unwrap().path()).unwrap();
    }
    restore(&arc, "raw", "cpu_0001.parquet");
    refused(&arc, &[&name], "was probably merged into it");
    move_away(&arc, "cpu_0001.parquet");
    arc.write(PARTITION, "new.parquet", &telemetry(1_000_000, 1_000_007));
    let run = adopt(&arc, &[&name]);
    assert_eq!(run.code, 0, "{run:#?}");
    assert_eq!(arc.rows(PARTITION).len(), rows + 7);
    assert!(verify(&arc, true).is_empty());
}

/// What a tidy deletes after an adoption is what it would have deleted before: nothing of ours that no record named.
#[test]
fn after_an_adoption_the_next_cycles_delete_nothing_and_later_jobs_go_on() {
    let arc = layered(2);
    let rows = arc.rows(PARTITION);
    let names = arc.live(PARTITION);
    lose_records(&arc, &[1, 2, 3]);
    let run = adopt(&arc, &names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(run.code, 0, "{run:#?}");
    let again = adopt(&arc, &[&names[0]]);
    assert!(again.code == 0 && again.stdout.contains("nothing was changed"), "{again:#?}");
    assert_eq!(arc.snapshot(PARTITION).generation.0, 3, "every slot up to the highest adopted one is taken");
    let state = arc.storage_state();
    arc.compact_well();
    arc.compact_well();
    assert_eq!(arc.storage_state(), state);
    assert!(arc.rows(PARTITION) == rows);
    // A later job consumes what was adopted, and its inputs go.
    arc.configure("min_files = 2\nlate_rewrite_ratio = 0.0");
    arc.write(PARTITION, "more_0.parquet", &telemetry(50_000, 50_010));
    arc.write(PARTITION, "more_1.parquet", &telemetry(50_010, 50_020));
    arc.compact_well();
    assert_eq!(arc.live(PARTITION).len(), 1);
    arc.assert_nothing_left_over(PARTITION);
    assert_eq!(arc.rows(PARTITION).len(), rows.len() + 20);
    assert!(verify(&arc, true).is_empty());
}
