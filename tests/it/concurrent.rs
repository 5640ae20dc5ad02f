//! I7: any number of workers, one winner, no error, no loss.

use std::thread;

use crate::support::{Arc, Run};

/// T27: two programs at the same time on the same data.
#[test]
fn two_programs_at_once_compact_every_partition_once_without_error_or_loss() {
    let arc = Arc::new();
    let partitions: Vec<String> = (0..8).map(|h| format!("db/cpu/2025/10/08/{h:02}")).collect();
    for partition in &partitions {
        arc.write_telemetry(partition, 5, 200);
    }
    let before: Vec<_> = partitions.iter().map(|p| arc.rows(p)).collect();
    let runs: Vec<Run> = thread::scope(|scope| {
        let runs: Vec<_> = (0..2).map(|_| scope.spawn(|| arc.compact())).collect();
        runs.into_iter().map(|r| r.join().unwrap()).collect()
    });
    let mut completed = 0;
    for run in &runs {
        assert_eq!(run.code, 0, "{run:#?}");
        completed += run.json()["jobs_completed"].as_u64().unwrap();
    }
    // A partition may be skipped as locked by both only if neither took it, so together they did all of them.
    assert_eq!(completed, 8, "{runs:#?}");
    for (partition, before) in partitions.iter().zip(&before) {
        assert_eq!(&arc.rows(partition), before, "{partition}");
        assert_eq!(arc.live(partition).len(), 1, "{partition}");
        arc.assert_nothing_left_over(partition);
    }
}

/// I7 without any lock: the two workers have lock databases of their own, so only the record decides.
#[test]
fn two_programs_that_do_not_share_locks_still_compact_every_partition_once() {
    let arc = Arc::new();
    let partitions: Vec<String> = (0..6).map(|h| format!("db/cpu/2025/10/08/{h:02}")).collect();
    for partition in &partitions {
        arc.write_telemetry(partition, 5, 200);
    }
    let before: Vec<_> = partitions.iter().map(|p| arc.rows(p)).collect();
    thread::scope(|scope| {
        for worker in 0..2 {
            let arc = &arc;
            scope.spawn(move || {
                let mut command = arc.command(&["compact", "--json"]);
                command.env("DB_PATH", arc.dir().join(format!("locks_{worker}.db")));
                command.env("COMPACTION_TEMP_DIR", arc.dir().join(format!("temp_{worker}")));
                command.output().unwrap();
            });
        }
    });
    // Whoever lost a race said so; one more run clears away what the loser left.
    arc.compact_well();
    for (partition, before) in partitions.iter().zip(&before) {
        assert_eq!(&arc.rows(partition), before, "{partition}");
        arc.assert_nothing_left_over(partition);
    }
}
