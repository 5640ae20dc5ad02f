//! I9: a bad file stops nobody, is never deleted, and is named with the reason.

use std::fs;

use crate::support::{Arc, PARTITION, Run, rows_of, telemetry};

/// Damages a good file; `None` when the damage is not possible for it.
type Damage = fn(Vec<u8>) -> Vec<u8>;

const DAMAGES: [(&str, Damage); 8] = [
    ("empty", |_| Vec::new()),
    ("not_parquet", |_| b"time,host\n1,2\n".to_vec()),
    ("only_magic", |_| b"PAR1PAR1".to_vec()),
    ("truncated_tail", |b| b[..b.len() - 10].to_vec()),
    ("truncated_head", |b| b[b.len() / 2..].to_vec()),
    ("garbage_footer", |mut b| {
        let n = b.len();
        b[n - 200..n - 8].fill(0xA5);
        b
    }),
    ("huge_footer_length", |mut b| {
        let n = b.len();
        b[n - 8..n - 4].fill(0xFF);
        b
    }),
    ("zeroed_pages", |mut b| {
        let half = b.len() / 2;
        b[4..half].fill(0);
        b
    }),
];

/// T11.
#[test]
fn good_files_are_compacted_and_every_kind_of_bad_file_stays_untouched_and_is_named() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 6, 3000);
    let good_rows = arc.rows(PARTITION);
    let sound = fs::read(arc.write(PARTITION, "sound.parquet", &telemetry(50_000, 53_000))).unwrap();
    fs::remove_file(arc.folder(PARTITION).join("sound.parquet")).unwrap();
    let bad: Vec<_> =
        DAMAGES.iter().map(|(name, damage)| (format!("bad_{name}.parquet"), damage(sound.clone()))).collect();
    for (name, bytes) in &bad {
        arc.put(PARTITION, name, bytes);
    }

    let run = arc.compact();

    assert_eq!(run.code, 1, "{run:#?}");
    let report = run.json();
    assert_eq!((&report["jobs_completed"], &report["jobs_failed"]), (&1.into(), &0.into()), "{report:#}");
    assert_eq!(report["jobs"][0]["files_compacted"], 6);
    let left_out = report["jobs"][0]["inputs_quarantined"].as_array().unwrap();
    assert_eq!(left_out.len(), bad.len(), "{left_out:#?}");
    for (name, bytes) in &bad {
        assert_eq!(&fs::read(arc.folder(PARTITION).join(name)).unwrap(), bytes, "{name} is untouched");
        let named =
            left_out.iter().find(|l| l["name"] == name.as_str()).unwrap_or_else(|| panic!("{name} is not named"));
        assert_eq!(named["reason"]["kind"], "unreadable", "{named}");
        assert!(!named["reason"]["detail"].as_str().unwrap().is_empty());
    }
    let compacted: Vec<_> =
        arc.live_paths(PARTITION).into_iter().filter(|p| p.to_string_lossy().contains("_compacted")).collect();
    assert_eq!(rows_of(&compacted), good_rows);
}

#[test]
fn a_partition_of_bad_files_only_is_left_alone_and_the_others_are_compacted() {
    let arc = Arc::new();
    for i in 0..3 {
        arc.put("db/bad/2025/10/08/14", &format!("{i}.parquet"), b"not parquet at all");
    }
    arc.write_telemetry(PARTITION, 3, 10);
    let before = arc.storage_state();
    let run = arc.compact();
    assert_eq!(run.code, 1, "{run:#?}");
    let report = run.json();
    assert_eq!(report["jobs_completed"], 1);
    assert_eq!(report["skipped"][0]["reason"], "nothing_to_merge", "{report:#}");
    assert_eq!(report["skipped"][0]["detail"]["set_aside"].as_array().unwrap().len(), 3);
    let bad = |state: &std::collections::BTreeMap<std::path::PathBuf, _>| -> Vec<_> {
        state.keys().filter(|p| p.starts_with(arc.folder("db/bad/2025/10/08/14"))).cloned().collect()
    };
    assert_eq!(bad(&arc.storage_state()), bad(&before));
}

/// T34: found out from footers, before a job folder is made or a lease is used up, the same in every cycle.
#[test]
fn a_partition_without_the_time_column_is_skipped_with_the_reason_before_any_work() {
    let arc = Arc::new();
    for i in 0..4 {
        arc.write(PARTITION, &format!("{i}.parquet"), "SELECT 1 AS a, 2 AS b");
    }
    let state = arc.storage_state();
    for _ in 0..2 {
        let report = arc.compact_well();
        assert_eq!((&report["jobs_completed"], &report["jobs_failed"]), (&0.into(), &0.into()));
        assert_eq!(arc.storage_state(), state);
        assert!(!arc.temp().exists(), "no job folder was made");
    }
    let plan = Run::of(&mut arc.command(&["plan", "--json"])).json();
    assert_eq!(plan["skipped"][0]["reason"], "no_sort_column");
    assert_eq!(plan["skipped"][0]["detail"]["column"], "time");
}

#[test]
fn a_file_without_the_time_column_is_left_out_and_the_others_are_compacted() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 10);
    let path = arc.write(PARTITION, "a_timeless.parquet", "SELECT 1 AS a");
    let bytes = fs::read(&path).unwrap();
    let report = arc.compact_well();
    assert_eq!(report["jobs"][0]["files_compacted"], 3);
    assert_eq!(report["jobs"][0]["inputs_set_aside"][0]["reason"]["kind"], "no_sort_column");
    assert_eq!(fs::read(path).unwrap(), bytes);
}

/// T16, I12: a record that cannot be trusted stops everything in its partition, and only there.
#[test]
fn a_record_that_cannot_be_used_stops_its_partition_and_no_other() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 10);
    arc.put(PARTITION, "_compaction/00000001.json", br#"{"format":1,"live":[{"name":"../../x"}]}"#);
    arc.write_telemetry("db/mem/2025/10/08/14", 3, 10);
    let before: Vec<_> =
        arc.storage_state().into_iter().filter(|(p, _)| p.starts_with(arc.folder(PARTITION))).collect();
    let run = arc.compact();
    assert_eq!(run.code, 1);
    let report = run.json();
    assert_eq!(report["jobs_completed"], 1);
    assert!(report["problems"][0]["error"].as_str().unwrap().contains("00000001.json"), "{report:#}");
    let after: Vec<_> = arc.storage_state().into_iter().filter(|(p, _)| p.starts_with(arc.folder(PARTITION))).collect();
    assert_eq!(after, before);
}

/// I6: damaged files that stay beside a compacted one are enough in number to be looked at again, but merging the
/// compacted file with nothing would only write the same rows anew. Here they are tried again in every run.
#[test]
fn a_compacted_file_is_not_rewritten_because_of_bad_files_beside_it() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 2, 100);
    for name in ["bad_1.parquet", "bad_2.parquet"] {
        arc.put(PARTITION, name, &vec![b'x'; 20_000]);
    }
    assert_eq!(arc.compact().code, 1);
    let state = arc.storage_state();

    assert_eq!(Run::of(&mut arc.command(&["quarantine", "clear", "--all"])).code, 0);
    let again = arc.compact();

    assert_eq!(again.code, 1, "the bad files are still named: {again:#?}");
    assert!(again.stdout.contains("bad_1.parquet") && again.stdout.contains("bad_2.parquet"), "{again:#?}");
    assert_eq!(arc.storage_state(), state, "{again:#?}");
}
