use std::path::PathBuf;
use std::sync::Barrier;

use futures::FutureExt;
use futures::executor::block_on;
use tempfile::TempDir;

use super::super::conformance::{self, partition, take};
use super::*;
use crate::clock::ManualClock;
use crate::state::StateError;

const TTL: Duration = Duration::from_mins(1);

struct Fixture {
    folder: TempDir,
    clock: Arc<ManualClock>,
}

impl Fixture {
    fn new() -> Self {
        let time = "2025-10-08T16:00:00Z".parse().unwrap();
        Self { folder: tempfile::tempdir().unwrap(), clock: Arc::new(ManualClock::at(time)) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("data/arc.db")
    }

    fn open(&self) -> CompactionLock {
        CompactionLock::new(StateDb::open(&self.path()).unwrap(), self.clock.clone())
    }

    /// Another program that looks into the file.
    fn raw(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    /// A lease of another worker, written as that worker would.
    fn insert(&self, path: &str, worker_id: &str, expires_at: &str) {
        self.raw()
            .execute(
                "INSERT INTO compaction_locks VALUES (?1, ?2, '2025-10-08 15:59:00', ?3, 900)",
                params![path, worker_id, expires_at],
            )
            .unwrap();
    }
}

/// T22.
#[test]
fn sqlite_leases_conform() {
    let f = Fixture::new();
    block_on(conformance::check(&f.open(), &f.clock));
}

#[test]
fn a_lease_never_ends_before_its_time_and_is_stored_in_whole_seconds() {
    let f = Fixture::new();
    f.clock.advance(TimeDelta::milliseconds(250));
    let lease = block_on(take(&f.open(), &partition("db/cpu/2025/10/08/14")));
    let stored: (String, String) = f
        .raw()
        .query_row("SELECT locked_at, expires_at FROM compaction_locks", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert_eq!(stored, ("2025-10-08 16:00:00".to_owned(), "2025-10-08 16:01:01".to_owned()));
    assert_eq!((text(lease.locked_at), text(lease.expires_at)), stored);
}

#[test]
fn an_endless_time_is_bounded() {
    let f = Fixture::new();
    let p = partition("db/cpu/2025/10/08/14");
    let Acquired::Yes(lease) = block_on(f.open().acquire_lock(&p, Duration::MAX)).unwrap() else { panic!() };
    assert_eq!(lease.expires_at, f.clock.now() + TimeDelta::days(366));
}

/// T54: the statement from the documentation, run by another program, removes what has expired and nothing else.
#[test]
fn the_documented_sql_removes_expired_leases_only() {
    let f = Fixture::new();
    let locks = f.open();
    let expired = block_on(take(&locks, &partition("db/cpu/2025/10/08/14")));
    f.insert("db/cpu/2025/10/08/15", "other", "9999-01-01 00:00:00");

    let raw = f.raw();
    assert_eq!(raw.execute("DELETE FROM compaction_locks WHERE expires_at < datetime('now')", []).unwrap(), 1);

    let left = block_on(locks.active_locks()).unwrap();
    assert_eq!(left.iter().map(|lease| lease.worker_id.to_string()).collect::<Vec<_>>(), ["other"]);
    let again = block_on(take(&locks, &expired.partition));
    assert!(again.token > expired.token, "tokens grow, also after rows were deleted by hand");
}

#[test]
fn of_eight_handles_racing_for_a_partition_one_gets_it() {
    const RACERS: usize = 8;
    const ROUNDS: usize = 5;
    let f = Fixture::new();
    drop(f.open());
    let start = Barrier::new(RACERS);
    let wins: Vec<Vec<Option<Lease>>> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..RACERS)
            .map(|_| {
                scope.spawn(|| {
                    let locks = f.open();
                    (0..ROUNDS)
                        .map(|round| {
                            let p = partition(&format!("db/cpu/2025/10/08/{round:02}"));
                            start.wait();
                            match block_on(locks.acquire_lock(&p, TTL)).unwrap() {
                                Acquired::Yes(lease) => Some(lease),
                                Acquired::HeldBy(_) => None,
                            }
                        })
                        .collect()
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    for round in 0..ROUNDS {
        assert_eq!(wins.iter().filter(|racer| racer[round].is_some()).count(), 1, "round {round}");
    }
    let mut tokens: Vec<u64> = wins.iter().flatten().flatten().map(|lease| lease.token).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, (1..=ROUNDS as u64).collect::<Vec<_>>());
}

/// Several commands started at the same moment on a fresh machine.
#[test]
fn handles_opened_and_closed_at_the_same_time_all_work() {
    for _ in 0..10 {
        let f = Fixture::new();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let f = &f;
                scope.spawn(move || {
                    for round in 0..5 {
                        let locks = f.open();
                        let p = partition(&format!("db/cpu/2025/10/{:02}/{round:02}", number + 1));
                        let lease = block_on(take(&locks, &p));
                        block_on(locks.release_lock(&lease)).unwrap();
                    }
                });
            }
        });
    }
}

#[test]
fn two_handles_on_one_file_see_each_other() {
    let f = Fixture::new();
    let (one, two) = (f.open(), f.open());
    let p = partition("db/cpu/2025/10/08/14");
    let lease = block_on(take(&one, &p));
    assert_eq!(block_on(two.acquire_lock(&p, TTL)).unwrap(), Acquired::HeldBy(lease.clone()));
    drop(one);
    assert_eq!(block_on(two.active_locks()).unwrap(), [lease], "closing a handle releases nothing");
}

#[test]
fn a_dead_process_of_this_machine_is_succeeded_at_once_and_another_machines_is_not() {
    let f = Fixture::new();
    let locks = f.open();
    let this = locks.worker_id().to_string();
    let (machine, _) = this.split_once(':').unwrap();
    let mut ended = std::process::Command::new("/bin/true").spawn().unwrap();
    ended.wait().unwrap();
    let dead_here = format!("{machine}:{}:1:0", ended.id());
    let elsewhere = format!("{machine}0:{}:1:0", ended.id());
    f.insert("db/cpu/2025/10/08/14", &dead_here, "2025-10-08 18:00:00");
    f.insert("db/cpu/2025/10/08/15", &elsewhere, "2025-10-08 18:00:00");

    let taken = block_on(take(&locks, &partition("db/cpu/2025/10/08/14")));
    assert_eq!(taken.worker_id, *locks.worker_id());
    match block_on(locks.acquire_lock(&partition("db/cpu/2025/10/08/15"), TTL)).unwrap() {
        Acquired::HeldBy(holder) => assert_eq!(holder.worker_id.to_string(), elsewhere),
        Acquired::Yes(lease) => panic!("taken from a process that may live: {lease:?}"),
    }
}

#[test]
fn an_acquisition_that_nobody_waits_for_is_undone() {
    let f = Fixture::new();
    let locks = f.open();
    let p = partition("db/cpu/2025/10/08/14");
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let busy = locks.state.write(move |_| {
        let _ = gate.recv();
        Ok(())
    });
    assert!(busy.now_or_never().is_none(), "the thread is held up");
    assert!(locks.acquire_lock(&p, TTL).now_or_never().is_none(), "queued, then its caller goes away");
    drop(open);
    assert_eq!(block_on(locks.active_locks()).unwrap(), []);
}

#[test]
fn a_file_that_is_not_sqlite_is_refused_with_the_remedy_and_left_alone() {
    let f = Fixture::new();
    std::fs::create_dir_all(f.path().parent().unwrap()).unwrap();
    let content = "this is not a database, whatever its name says".repeat(100);
    std::fs::write(f.path(), &content).unwrap();
    let error = CompactionLock::open(&f.path()).unwrap_err();
    assert!(matches!(error, LockError::State(StateError::Unusable { .. })), "{error:?}");
    let message = error.to_string();
    assert!(message.contains(f.path().to_str().unwrap()) && message.contains("move it away"), "{message}");
    assert_eq!(std::fs::read_to_string(f.path()).unwrap(), content);
}

#[test]
fn a_folder_or_an_impossible_path_is_refused_with_its_name() {
    let f = Fixture::new();
    let file = f.folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [f.folder.path().to_owned(), file.join("arc.db")] {
        let error = CompactionLock::open(&path).unwrap_err();
        assert!(matches!(error, LockError::State(StateError::Unusable { .. })), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_row_that_nobody_of_us_wrote_is_named_with_the_remedy() {
    let f = Fixture::new();
    let locks = f.open();
    f.insert("db/cpu/2025/10/08/14", "other", "tomorrow");
    let error = block_on(locks.active_locks()).unwrap_err();
    assert!(error.to_string().contains("expires_at \"tomorrow\" cannot be read: delete that row"), "{error}");
}

#[test]
fn leases_outlive_the_handle_and_the_closed_file_has_no_side_files() {
    let f = Fixture::new();
    let lease = block_on(take(&f.open(), &partition("db/cpu/2025/10/08/14")));
    let files: Vec<_> =
        std::fs::read_dir(f.path().parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(files, ["arc.db"], "the last handle checkpoints and removes the write-ahead log");
    assert_eq!(block_on(f.open().active_locks()).unwrap(), [lease]);
}
