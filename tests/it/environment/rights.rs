//! Permissions that are lost while a job runs: its folders may be read, but one of them not be written any more.
//!
//! The superuser may write everywhere, so the program runs without that privilege, by whatever user the tests run.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::{finishes_the_work, in_namespace};
use crate::support::{Arc, PARTITION, Run};

fn compact_without_privileges(arc: &Arc) -> Run {
    in_namespace(arc, r#"exec setpriv --bounding-set=-all --inh-caps=-all -- "$ARC" --config "$CONF" compact --json"#)
}

fn set_mode(path: &std::path::Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Publishing is refused, or, with the folder of the records, the commit after it.
#[test]
fn a_folder_that_may_not_be_written_fails_the_job_with_its_name_at_either_step() {
    for folder in ["", "_compaction"] {
        let arc = Arc::new();
        arc.write_telemetry(PARTITION, 3, 20);
        let rows = arc.rows(PARTITION);
        let closed = arc.folder(PARTITION).join(folder);
        fs::create_dir_all(&closed).unwrap();
        set_mode(&closed, 0o555);

        let run = compact_without_privileges(&arc);

        assert_eq!(run.code, 1, "{folder:?}: {run:#?}");
        let said = format!("{}{}", run.stdout, run.stderr);
        assert!(said.contains("ermission") && said.contains(PARTITION), "{folder:?}: {run:#?}");
        let raw = arc.live(PARTITION).iter().filter(|name| name.starts_with("cpu_0")).count();
        assert_eq!(raw, 3, "{folder:?}: every input counts");
        set_mode(&closed, 0o755);
        finishes_the_work(&arc, &rows);
    }
}

/// The folder of the temporary files, and that of the state.
#[test]
fn a_temp_folder_that_may_not_be_written_is_named_and_changes_nothing() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 20);
    let rows = arc.rows(PARTITION);
    fs::create_dir_all(arc.temp()).unwrap();
    set_mode(&arc.temp(), 0o555);
    let before = arc.storage_state();

    let run = compact_without_privileges(&arc);

    assert_eq!(run.code, 1, "{run:#?}");
    let said = format!("{}{}", run.stdout, run.stderr);
    assert!(said.contains("ermission") && said.contains(&arc.temp().display().to_string()), "{run:#?}");
    assert_eq!(arc.storage_state(), before);
    set_mode(&arc.temp(), 0o755);
    finishes_the_work(&arc, &rows);
}

/// An input that may not be read is not known to be damaged by anybody who could; it stays, and the others go on.
#[test]
fn a_file_that_may_not_be_read_is_named_and_stays() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 4, 20);
    let rows = arc.rows(PARTITION);
    let closed = arc.folder(PARTITION).join("cpu_0002.parquet");
    set_mode(&closed, 0);
    let run = compact_without_privileges(&arc);
    assert_eq!(run.code, 1, "{run:#?}");
    assert!(run.stdout.contains("cpu_0002.parquet") && run.stdout.contains("ermission"), "{run:#?}");
    assert!(closed.exists());
    set_mode(&closed, 0o644);
    assert_eq!(arc.rows(PARTITION), rows);
}

/// Lost when the job has begun already, before each of its steps in turn, and given back when it has ended.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[test]
fn rights_that_are_lost_at_any_step_of_a_job_cost_no_rows() {
    use super::midway::{Fault, Phase, compact_with, give_rights_back};

    for fault in [Fault::PartitionClosed, Fault::EverythingReadOnly] {
        let phases = super::at_every_step(fault, |arc, point| {
            let midway = compact_with(arc, fault, point);
            give_rights_back(arc);
            let done = matches!(midway.phase, Some(Phase::Committed | Phase::Tidied) | None);
            assert!(midway.code != 0 || done, "who could not commit has failed: {midway:#?}");
            assert!(midway.code == 0 || midway.said.contains("ermission"), "the reason is named: {midway:#?}");
            midway
        });
        for phase in [Phase::Merging, Phase::Published, Phase::Committed] {
            assert!(phases.iter().any(|midway| midway.phase == Some(phase)), "{fault:?}: never {phase:?}: {phases:#?}");
        }
        let failed = phases.iter().filter(|midway| midway.code != 0).count();
        println!("{fault:?} at {} steps; {failed} runs failed", phases.len());
    }
}
