//! A state database that somebody else holds, that is damaged, or that goes away under a running server. It holds locks and
//! history, never data: what counts is in the records.

use std::fs;

use rusqlite::Connection;

use super::finishes_the_work;
use crate::support::{Arc, PARTITION};

fn database(arc: &Arc) -> std::path::PathBuf {
    arc.dir().join("arc.db")
}

#[test]
fn a_database_that_another_process_holds_is_named_and_nothing_happens_until_it_is_free() {
    for mode in ["NORMAL", "EXCLUSIVE"] {
        let arc = Arc::new();
        // Makes the database.
        arc.compact_well();
        arc.write_telemetry(PARTITION, 3, 20);
        let rows = arc.rows(PARTITION);
        let before = arc.storage_state();
        let other = Connection::open(database(&arc)).unwrap();
        other
            .execute_batch(&format!("PRAGMA locking_mode = {mode}; BEGIN EXCLUSIVE; DELETE FROM compaction_locks"))
            .unwrap();

        let run = arc.compact();

        assert_eq!(run.code, 1, "{mode}: {run:#?}");
        let said = format!("{}{}", run.stdout, run.stderr);
        assert!(said.contains(&database(&arc).display().to_string()) && said.contains("locked"), "{mode}: {run:#?}");
        assert_eq!(arc.storage_state(), before, "{mode}");
        drop(other);
        finishes_the_work(&arc, &rows);
    }
}

#[test]
fn a_database_that_is_deleted_under_a_server_costs_history_and_no_rows() {
    let arc = Arc::new();
    let mut server = arc.serve();
    for side in ["", "-wal", "-shm"] {
        fs::remove_file(arc.dir().join(format!("arc.db{side}"))).unwrap();
    }
    arc.write_telemetry(PARTITION, 3, 20);
    let rows = arc.rows(PARTITION);
    assert_eq!(server.post("/api/compaction/trigger", "").status, 202);
    server.wait_for("Compaction cycle completed");
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(arc.rows(PARTITION), rows);
    drop(server);
    finishes_the_work(&arc, &rows);
}

#[test]
fn a_database_that_is_damaged_under_a_server_is_named_with_the_remedy_and_costs_no_rows() {
    let arc = Arc::new();
    let mut server = arc.serve();
    arc.write_telemetry(PARTITION, 3, 20);
    let rows = arc.rows(PARTITION);
    for side in ["", "-wal", "-shm"] {
        let path = arc.dir().join(format!("arc.db{side}"));
        let length = fs::metadata(&path).unwrap().len();
        // In place: the server has these files open.
        let garbage = b"no page of SQLite".repeat(usize::try_from(length / 17 + 300).unwrap());
        let file = fs::File::options().write(true).open(&path).unwrap();
        std::io::Write::write_all(&mut &file, &garbage).unwrap();
    }
    let answer = server.post("/api/compaction/trigger", "").status;
    if answer == 202 {
        server.wait_for("Compaction cycle completed");
    }
    assert_eq!(server.get("/health").status, 200);
    server.signal("INT");
    let (_, said) = server.end();
    let said = said.join("\n");
    assert!(said.contains("arc.db"), "the database is named: {said}");
    assert_eq!(arc.rows(PARTITION), rows);

    let run = arc.compact();
    assert!(run.code == 1 && run.stderr.contains("move it away"), "{run:#?}");
    assert_eq!(arc.rows(PARTITION), rows);
    for side in ["", "-wal", "-shm"] {
        // SQLite may have removed the files beside it.
        let _ = fs::remove_file(arc.dir().join(format!("arc.db{side}")));
    }
    finishes_the_work(&arc, &rows);
}

/// I1, I10: the database goes, or is damaged, or is another's for a while, at each step of a job of the shipped program.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[test]
fn a_database_that_goes_is_damaged_or_is_held_at_any_step_of_a_job_costs_no_rows() {
    use super::midway::{Fault, Phase, compact_with, remove_database};

    for fault in [Fault::DatabaseDeleted, Fault::DatabaseOverwritten, Fault::DatabaseHeld] {
        let phases = super::at_every_step(fault, |arc, point| {
            let midway = compact_with(arc, fault, point);
            if fault == Fault::DatabaseHeld {
                assert_eq!(midway.code, 0, "it waits for {} times: {midway:#?}", midway.waits);
            }
            if fault == Fault::DatabaseOverwritten {
                remove_database(arc);
            }
            midway
        });
        for phase in [Phase::Merging, Phase::Published, Phase::Committed, Phase::Tidied] {
            assert!(phases.iter().any(|midway| midway.phase == Some(phase)), "{fault:?}: never {phase:?}: {phases:#?}");
        }
        let waited = phases.iter().filter(|midway| midway.waits > 0).count();
        let failed = phases.iter().filter(|midway| midway.code != 0).count();
        println!("{fault:?} at {} steps; {failed} runs failed, {waited} waited", phases.len());
        assert!(waited > 0 || fault != Fault::DatabaseHeld, "nobody waited for the database");
        assert!(failed > 0 || fault != Fault::DatabaseOverwritten, "nobody noticed");
    }
}
