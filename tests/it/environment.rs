//! Broken surroundings: full disks, read-only storage, missing folders, a lock database that is none. The error names the
//! place and the remedy, and nothing is lost.
//!
//! Full and read-only disks are real ones: small file systems mounted in a mount namespace of the test's own.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Arc, PARTITION, Run, STAGING_LOCK, incompressible};

mod clock;
mod disks;
#[cfg(target_os = "linux")]
mod limits;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod midway;
mod rights;
mod state;

/// Runs a shell script in a mount namespace of its own, in which it may mount. `$ARC` is the program.
fn in_namespace(arc: &Arc, script: &str) -> Run {
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-euc", script])
        .env("ARC", assert_cmd::cargo::cargo_bin("arc"))
        .env("CONF", arc.config_file())
        .env("DATA", arc.data())
        .env("TEMP", arc.temp())
        .current_dir(arc.dir());
    Run::from(command.output().expect("unshare(1) of util-linux is needed to mount small disks for this test"))
}

/// What must be true after a fault is over: the next run, with nothing in its way, finishes the work, and every row is there
/// once.
fn finishes_the_work(arc: &Arc, rows: &[String]) {
    assert_eq!(arc.rows(PARTITION), rows, "no row is lost or doubled by the fault");
    arc.compact_well();
    assert_eq!(arc.rows(PARTITION), rows, "nor by what came after it");
    assert!(arc.live(PARTITION).iter().all(|name| name.ends_with("_compacted.parquet")), "the work is done");
    arc.assert_nothing_left_over(PARTITION);
}

/// Brings a fault at every second step of a first compaction in turn, until there are no more, and lets the next run end the work.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
fn at_every_step(fault: midway::Fault, bring: impl Fn(&Arc, usize) -> midway::Midway + Sync) -> Vec<midway::Midway> {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    // Threads differ by a few calls from run to run.
    const MOST: usize = 200;
    let (found, is_over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    crate::support::each((0..MOST).step_by(2), |point| {
        if is_over.load(Ordering::SeqCst) && !crate::support::again::is_one_point() {
            return;
        }
        let arc = Arc::new();
        arc.write_telemetry(PARTITION, 3, 20);
        let rows = arc.rows(PARTITION);
        let midway = bring(&arc, point);
        assert_eq!(arc.rows(PARTITION), rows, "{fault:?} at {point}: {midway:#?}");
        finishes_the_work(&arc, &rows);
        let state = arc.storage_state();
        arc.compact_well();
        assert_eq!(arc.storage_state(), state, "{fault:?} at {point}: a further run changes nothing");
        if midway.phase.is_none() {
            is_over.store(true, Ordering::SeqCst);
        } else {
            found.lock().unwrap().push(midway);
        }
    });
    assert!(is_over.into_inner() || crate::support::again::is_one_point(), "more than {MOST} steps");
    found.into_inner().unwrap()
}

/// An hour whose rows do not compress: about 4 MB.
fn write_incompressible(arc: &Arc) {
    for i in 0..4 {
        arc.write(PARTITION, &format!("{i}.parquet"), &incompressible(i * 40_000, (i + 1) * 40_000));
    }
}

/// T38.
#[test]
fn a_full_temp_disk_is_noticed_before_any_work_and_nothing_is_lost() {
    let arc = Arc::new();
    write_incompressible(&arc);
    let before = arc.storage_state();
    let run = in_namespace(
        &arc,
        r#"mkdir "$TEMP"; mount -t tmpfs -o size=1m tmpfs "$TEMP"; "$ARC" --config "$CONF" compact --json"#,
    );
    assert_eq!(run.code, 0, "{run:#?}");
    let report = run.json();
    let skipped = &report["skipped"][0];
    assert_eq!(skipped["reason"], "no_temp_space", "{report:#}");
    assert!(skipped["detail"]["need_bytes"].as_u64() > skipped["detail"]["free_bytes"].as_u64());
    assert_eq!(skipped["detail"]["path"], arc.temp().display().to_string());
    assert_eq!(arc.storage_state(), before);
}

#[test]
fn full_storage_fails_the_job_with_the_place_and_remedy_and_loses_nothing() {
    let arc = Arc::new();
    write_incompressible(&arc);
    // Storage has room for its data and nothing more; what is left of it afterwards is copied out.
    let run = in_namespace(
        &arc,
        r#"cp -a "$DATA" original; size=$(du -sk original | cut -f1)
           mount -t tmpfs -o size=$((size + 600))k tmpfs "$DATA"; cp -a original/. "$DATA"/
           code=0; "$ARC" --config "$CONF" compact --json || code=$?
           cp -a "$DATA" after; exit $code"#,
    );
    assert_eq!(run.code, 1, "{run:#?}");
    let report = run.json();
    let error = report["jobs"][0]["error"].as_str().unwrap_or_else(|| panic!("{report:#}"));
    assert!(error.contains("no space left") && error.contains("free space"), "{error}");
    let files = |dir: &str| -> Vec<_> {
        crate::support::tree(&arc.dir().join(dir))
            .into_iter()
            .map(|(p, state)| (p.strip_prefix(arc.dir().join(dir)).unwrap().to_owned(), state))
            .filter(|(p, _)| !p.ends_with(STAGING_LOCK))
            .collect()
    };
    assert_eq!(files("after"), files("original"), "storage is as it was");
}

#[test]
fn read_only_storage_fails_with_the_place_and_remedy() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 100);
    let before = arc.storage_state();
    let run = in_namespace(
        &arc,
        r#"mount --bind "$DATA" "$DATA"; mount -o remount,bind,ro "$DATA"; "$ARC" --config "$CONF" compact --json"#,
    );
    assert_eq!(run.code, 1, "{run:#?}");
    let report = run.json();
    let text = report.to_string();
    assert!(text.contains("read-only") && text.contains("remount"), "{report:#}");
    assert_eq!(arc.storage_state(), before);
}

#[test]
fn a_database_on_another_disk_than_the_base_folder_is_named_with_the_remedy() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 100);
    let before = arc.storage_state();
    let run = in_namespace(
        &arc,
        r#"cp -a "$DATA" original; mount -t tmpfs tmpfs "$DATA/db"; cp -a original/db/. "$DATA/db"/
           "$ARC" --config "$CONF" compact --json"#,
    );
    assert_eq!(run.code, 1, "{run:#?}");
    let report = run.json();
    let error = report["jobs"][0]["error"].as_str().unwrap_or_else(|| panic!("{report:#}"));
    assert!(error.contains("nothing was written") && error.contains("another disk"), "{error}");
    assert_eq!(arc.storage_state(), before);
}

#[test]
fn a_missing_data_folder_is_named_with_the_remedy() {
    let arc = Arc::new();
    fs::remove_dir(arc.data()).unwrap();
    let run = arc.compact();
    assert_eq!(run.code, 1, "{run:#?}");
    assert!(run.stderr.contains(&arc.data().display().to_string()), "{run:#?}");
    assert!(run.stderr.contains("base_path"), "{run:#?}");
    assert!(!arc.data().exists(), "it is not created: an unmounted disk must not look like an empty one");
}

#[test]
fn a_lock_database_that_is_not_sqlite_is_named_with_the_remedy_and_left_as_it_is() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 100);
    let path = arc.dir().join("arc.db");
    let content = b"these are somebody's notes, and not a database at all".repeat(100);
    fs::write(&path, &content).unwrap();
    let before = arc.storage_state();
    let run = arc.compact();
    assert_eq!(run.code, 1, "{run:#?}");
    assert!(run.stderr.contains(&path.display().to_string()), "{run:#?}");
    assert!(run.stderr.contains("move"), "the remedy: {run:#?}");
    assert_eq!(fs::read(&path).unwrap(), content);
    assert_eq!(arc.storage_state(), before);
}

/// What a job that was killed leaves: its folder with its files, and beside it the mark that the folder has an owner, whose
/// lock is gone with its process.
pub fn abandoned_folder(root: &Path) {
    fs::create_dir_all(root.join("dead")).unwrap();
    for file in ["dead/part", "dead.arc-owner", ".arc-lock"] {
        fs::write(root.join(file), "").unwrap();
    }
}

/// The job's private files are gone after every run, and a dead job's are removed by the next one (T9, T38).
#[test]
fn a_dead_jobs_folders_are_removed_and_folders_of_others_are_not() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 100);
    let roots = [arc.temp(), arc.data().join("_compaction_staging")];
    for root in &roots {
        abandoned_folder(root);
        fs::create_dir(root.join("notes")).unwrap();
        fs::write(root.join("notes/todo.txt"), "mine").unwrap();
    }
    arc.compact_well();
    for root in &roots {
        for gone in ["dead", "dead.arc-owner"] {
            assert!(!root.join(gone).exists(), "{gone} is still in {}", root.display());
        }
        let others = fs::read_to_string(root.join("notes/todo.txt")).unwrap();
        assert_eq!(others, "mine", "not a job's folder: {}", root.display());
    }
}
