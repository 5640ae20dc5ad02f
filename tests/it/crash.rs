//! Crashes: a process dies by SIGKILL right before or right after each of its effects, on storage, on the locks and on the
//! state database, and so at every border between the steps of its job; the next `arc compact` ends wholly old or wholly
//! new, with the same rows, and nothing left over; and a reader that follows the snapshot rule never sees anything else
//! meanwhile (I4, I5).
//!
//! The dying process is this test binary itself, started again with one test selected: [`victim`]. It runs the real
//! manager with real locks, files and DuckDB on a store that kills its own process at effect n.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc as Shared;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arc::compaction::Scope;
use arc::storage::Storage;
use duckdb::Connection;
use object_store::Result;
use object_store::path::Path as Key;
use tokio_util::sync::CancellationToken;

use crate::support::stores::{Hook, manager};
use crate::support::{Arc, PARTITION, again, block_on, fingerprint, incompressible};

/// Many more than any run has.
const MOST_POINTS: usize = 1000;

const VICTIM: &str = "ARC_TEST_VICTIM";

/// Where a victim writes down its effects, beside its configuration.
const PASSED: &str = "passed.txt";

/// Kills the process around an effect: `2n` before effect n, `2n + 1` after it. Writes down the effects that it lets pass.
#[derive(Debug)]
pub struct KillAt {
    pub point: usize,
    pub passed: PathBuf,
}

impl KillAt {
    fn at(&self, point: usize) {
        if point == self.point {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
            // The signal is on its way; nothing may happen any more.
            loop {
                thread::park();
            }
        }
    }
}

impl Hook for KillAt {
    fn before(&self, number: usize, effect: &str, path: &Key) -> Result<()> {
        self.at(2 * number);
        let mut passed = fs::File::options().append(true).create(true).open(&self.passed).unwrap();
        writeln!(passed, "{effect} {path}").unwrap();
        Ok(())
    }

    fn after(&self, number: usize, _: &str, _: &Key) -> Result<()> {
        self.at(2 * number + 1);
        Ok(())
    }
}

/// Not a test of its own: what the dying process runs. Does nothing unless it is started as that.
#[test]
fn victim() {
    let Some(order) = again::asked(VICTIM) else { return };
    let (point, config) = order.split_once(':').unwrap();
    run_dying(Path::new(config), point.parse().unwrap());
}

fn run_dying(config: &Path, point: usize) {
    let passed = config.with_file_name(PASSED);
    let manager = manager(config, Shared::new(KillAt { point, passed }));
    block_on(manager.run_compaction_cycle(Scope::default(), CancellationToken::new())).unwrap();
}

/// What a job leaves that died right after the last of its effects of a kind: of as many partitions as are asked for, each
/// prepared by `prepare`. A run of the same that nobody kills shows which effect that is.
pub fn dead_after_last(kind: impl Fn(&str) -> bool, prepare: impl Fn() -> Arc) -> impl Fn() -> Arc {
    let clean = prepare();
    assert!(!dies_at(&clean, usize::MAX));
    let passed = fs::read_to_string(clean.dir().join(PASSED)).unwrap();
    let last = passed.lines().collect::<Vec<_>>().into_iter().rposition(kind);
    let last = last.unwrap_or_else(|| panic!("no such effect among these:\n{passed}"));
    move || {
        let arc = prepare();
        assert!(dies_at(&arc, 2 * last + 1), "it was to die after effect {last}");
        arc
    }
}

/// A job's outputs become visible to those who list.
pub fn is_publication(effect: &str) -> bool {
    effect.starts_with("copy") && effect.ends_with("_compacted.parquet")
}

/// A record of the partition is made, which decides.
pub fn is_commit(effect: &str) -> bool {
    effect.starts_with("copy") && effect.contains("/_compaction/")
}

/// Starts the victim; `true` if it died on the way, `false` if it came to the end.
fn dies_at(arc: &Arc, point: usize) -> bool {
    let order = format!("{point}:{}", arc.config_file().display());
    died(again::child("crash::victim").env(VICTIM, order))
}

/// Runs a victim to its end; `true` if it was killed.
pub fn died(victim: &mut Command) -> bool {
    let output = victim.stdin(Stdio::null()).output().unwrap();
    let status = output.status;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(status.success() || status.code().is_none(), "the victim failed instead of dying: {status}\n{said}");
    !status.success()
}

/// Readers in a loop, until they are stopped: one by the snapshot rule, which never sees anything but what counted when it
/// began; and two of all `*.parquet` files, which no rule of ours allows. One of these reads the rows, of which it never
/// misses any; the other only counts them, as fast as it can, to see for how long some are there twice. All know which files
/// nobody can read, and leave these out.
#[derive(Debug)]
pub struct Readers {
    stop: Shared<AtomicBool>,
    looks: Shared<AtomicUsize>,
    rows: thread::JoinHandle<()>,
    window: thread::JoinHandle<Window>,
}

/// For how long rows were there twice, at a stretch.
#[derive(Debug, Clone, Copy, Default)]
pub struct Window {
    pub doubled: Duration,
    /// The longest time between two looks: what `doubled` may be wrong by.
    between_looks: Duration,
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0?} (looking every {:.0?} or more often)", self.doubled, self.between_looks)
    }
}

impl Readers {
    /// `pause` is the time between two looks of each reader, for tests in which looking would cost more than all else.
    pub fn start(arc: &Arc, damaged: &'static [&'static str], pause: Duration) -> Self {
        let (stop, looks) = (Shared::new(AtomicBool::new(false)), Shared::new(AtomicUsize::new(0)));
        let folder = Folder { data: arc.data(), damaged };
        let live = folder.readable(arc.live_paths(PARTITION));
        let expected = fingerprint(&live).unwrap();
        // Before anything happens, however late the threads begin. Of another who died, rows may be there twice already.
        let db = Connection::open_in_memory().unwrap();
        let (distinct, rows) = (folder.distinct_of_all().unwrap(), rows_of(&db, &live).unwrap());
        let (looked, stopped, counted) = (folder.clone(), Shared::clone(&stop), Shared::clone(&looks));
        let reading = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                if let Some(seen) = looked.look() {
                    assert_eq!(seen, expected, "a reader saw other rows");
                    counted.fetch_add(1, Ordering::SeqCst);
                }
                if let Some(seen) = looked.distinct_of_all() {
                    assert_eq!(seen, distinct, "a reader of all files misses rows");
                }
                thread::park_timeout(pause);
            }
        });
        let stopped = Shared::clone(&stop);
        let window = thread::spawn(move || watch(&db, &folder, rows, pause, &stopped));
        Self { stop, looks, rows: reading, window }
    }

    /// Stops the readers, which must have had at least one good look.
    pub fn stop(self) -> Window {
        while self.looks.load(Ordering::SeqCst) == 0 && !self.rows.is_finished() {
            thread::yield_now();
        }
        self.stop.store(true, Ordering::SeqCst);
        self.rows.join().unwrap();
        self.window.join().unwrap()
    }
}

fn watch(db: &Connection, folder: &Folder, right: u64, pause: Duration, stopped: &AtomicBool) -> Window {
    let (mut window, mut since, mut last) = (Window::default(), None, Instant::now());
    while !stopped.load(Ordering::SeqCst) {
        let Some(rows) = rows_of(db, &folder.all()) else { continue };
        assert!(rows >= right, "a reader of all files misses rows");
        if rows > right || since.is_some() {
            window.doubled = window.doubled.max(since.get_or_insert_with(Instant::now).elapsed());
        }
        if rows == right {
            since = None;
        }
        window.between_looks = window.between_looks.max(last.elapsed());
        last = Instant::now();
        thread::park_timeout(pause);
    }
    assert_eq!(rows_of(db, &folder.all()), Some(right), "rows stay doubled");
    window
}

/// The rows of these files, by their footers; `None` if a file vanished meanwhile, an error to whoever asked.
fn rows_of(db: &Connection, files: &[PathBuf]) -> Option<u64> {
    let sql = format!("SELECT sum(num_rows)::UBIGINT FROM parquet_file_metadata([{}])", quoted(files));
    db.query_row(&sql, [], |row| row.get(0)).ok()
}

fn quoted(files: &[PathBuf]) -> String {
    let quoted = files.iter().map(|file| format!("'{}'", file.display().to_string().replace('\'', "''")));
    quoted.collect::<Vec<_>>().join(", ")
}

/// The partition's folder, as readers look at it.
#[derive(Debug, Clone)]
struct Folder {
    data: PathBuf,
    /// Files that nobody can read.
    damaged: &'static [&'static str],
}

impl Folder {
    fn readable(&self, mut files: Vec<PathBuf>) -> Vec<PathBuf> {
        files.retain(|file| !self.damaged.iter().any(|damaged| file.ends_with(damaged)));
        files
    }

    /// All `*.parquet` files.
    fn all(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.data.join(PARTITION)) else { return Vec::new() };
        let files = entries.map(|entry| entry.unwrap().path());
        self.readable(files.filter(|path| path.extension().is_some_and(|e| e == "parquet")).collect())
    }

    /// The different rows of all `*.parquet` files.
    fn distinct_of_all(&self) -> Option<u64> {
        let db = Connection::open_in_memory().unwrap();
        let table = format!("read_parquet([{}], union_by_name = true)", quoted(&self.all()));
        db.query_row(&format!("SELECT count(DISTINCT hash(t)) FROM {table} t"), [], |row| row.get(0)).ok()
    }

    /// What a reader sees; `None` if a file vanished under it, upon which the rule says to look again.
    fn look(&self) -> Option<String> {
        let storage = Storage::local(&self.data).unwrap();
        let partition = PARTITION.parse().unwrap();
        let snapshot = block_on(arc::compaction::snapshot::live_files(&storage, &partition)).unwrap();
        let files = snapshot.files.iter().map(|f| self.data.join(PARTITION).join(&f.name)).collect();
        let files = self.readable(files);
        match fingerprint(&files) {
            Ok(seen) => Some(seen),
            Err(_) if files.iter().any(|f| !f.exists()) => None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The effects at the borders between a job's steps, in order: lease, attempt written down, published, committed, its end
/// written down, tidied, lease given back, history.
fn assert_every_step(passed: &str) {
    let steps: [fn(&str) -> bool; 9] = [
        |line| line.starts_with("change state"),
        |line| line.starts_with("change state"),
        |line| line.starts_with("change state"),
        is_publication,
        is_commit,
        |line| line.starts_with("change state"),
        |line| line.starts_with("delete") && line.ends_with(".parquet"),
        |line| line.starts_with("change state"),
        |line| line.starts_with("change state"),
    ];
    let mut lines = passed.lines();
    for (number, step) in steps.iter().enumerate() {
        assert!(lines.any(step), "step {number} has no effect of its own:\n{passed}");
    }
}

/// Runs `prepare` and a victim for every point until one comes through, and checks what the next run makes of it.
#[allow(clippy::print_stdout, reason = "the figures are for people who run this with --nocapture")]
fn survives_every_crash(outputs: usize, prepare: impl Fn() -> Arc) {
    let mut longest = Window::default();
    for point in again::each(0..MOST_POINTS, ToString::to_string) {
        let arc = prepare();
        let before = fingerprint(&arc.live_paths(PARTITION)).unwrap();
        let readers = Readers::start(&arc, &[], Duration::ZERO);
        let died = dies_at(&arc, point);
        arc.compact_well();
        let window = readers.stop();
        assert_eq!(fingerprint(&arc.live_paths(PARTITION)).unwrap(), before, "killed at point {point}");
        arc.assert_nothing_left_over(PARTITION);
        let raw = arc.live(PARTITION).iter().filter(|n| !n.ends_with("_compacted.parquet")).count();
        assert_eq!(raw, 0, "everything is compacted after the run that follows a crash at point {point}");
        let state = arc.storage_state();
        arc.compact_well();
        assert_eq!(arc.storage_state(), state, "a further run changes nothing (killed at point {point})");
        if window.doubled > longest.doubled {
            longest = window;
        }
        if !died {
            assert_eq!(arc.live(PARTITION).len(), outputs);
            let passed = fs::read_to_string(arc.dir().join(PASSED)).unwrap();
            assert_eq!(
                passed.lines().count(),
                point / 2,
                "every effect was died at, before it and after it:\n{passed}"
            );
            assert_every_step(&passed);
            println!(
                "{point} crash points around {} effects; a reader of all files saw rows twice for {window} without \
                 a crash, and for at most {longest} with one and the next run",
                point / 2
            );
            return;
        }
    }
    assert!(again::is_one_point(), "there is no end to the effects");
}

/// T17, T43: two readers look all the while.
#[test]
fn a_first_compaction_survives_a_kill_around_every_effect() {
    survives_every_crash(1, || {
        let arc = Arc::new();
        arc.write_telemetry(PARTITION, 4, 50);
        arc
    });
}

#[test]
fn a_late_compaction_into_several_outputs_survives_a_kill_around_every_effect() {
    survives_every_crash(2, || {
        let arc = Arc::with("min_files = 2\ntarget_file_size_mb = 1\nrow_group_size = 2048\nlate_rewrite_ratio = 0.0");
        for part in 0..2 {
            let rows = incompressible(part * 25_000, (part + 1) * 25_000);
            arc.write(PARTITION, &format!("cpu_{part}.parquet"), &rows);
        }
        arc.compact_well();
        arc.write(PARTITION, "late_1.parquet", &incompressible(100, 300));
        arc.write(PARTITION, "late_2.parquet", &incompressible(70_000, 70_100));
        arc
    });
}
