//! Crashes in process: a worker dies before and after each of its durable effects, on storage, on the locks and on the
//! state database; and once more, for requests to storage that others can see, so that the one it died with arrives only
//! when its successor is done. The next cycle brings the partition to rest, the one after that does nothing, and no reader
//! ever sees a wrong row (I1-I8, I12). A damaged file is in quarantine then, and as it was (I9).
//!
//! The worker is the real manager with the simulation's storage in memory and its merge of numbered rows (see
//! [`crate::sim`]). The same with the real program, real disk and SIGKILL is in [`crate::crash`].
//!
//! A reader that takes every `*.parquet` file, which no rule of ours allows, sees rows twice for a while: never fewer than
//! there are, and never longer than from the publishing of the outputs to the deletion of the inputs, or to the end of the
//! next cycle after a crash. How many effects that takes is printed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc::compaction::backoff::FIRST_WAIT;
use arc::compaction::quarantine::{Quarantine, QuarantineFilter};
use arc::compaction::snapshot::live_files;
use arc::compaction::{CompactionSettings, CycleReport, Scope};
use arc::config::Config;
use arc::partition::{FileKind, PartitionId};
use arc::storage::Storage;
use futures::FutureExt;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::sim::machine::{self, Machine, Start};
use crate::sim::rows::decode;
use crate::sim::wire::{Kind, Waiting};
use crate::sim::world::{Planted, World};
use crate::support::{PARTITION, again};

/// When a worker dies. Effects are numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    Never,
    Before(usize),
    After(usize),
    /// Before the effect on storage, which happens all the same when the successor's cycle is over.
    Late(usize),
}

/// What a reader of all files sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Glob {
    Right,
    Doubled,
}

/// One effect of a cycle, and what a reader of all files sees after it.
#[derive(Debug)]
struct Effect {
    kind: Kind,
    what: String,
    glob: Glob,
}

impl Effect {
    /// An output appears under its name.
    fn is_publication(&self) -> bool {
        let appears = self.what.starts_with("complete") || self.what.starts_with("create");
        appears && self.what.ends_with("_compacted.parquet")
    }

    fn is_commit(&self) -> bool {
        self.what.starts_with("create") && self.what.contains("/_compaction/")
    }

    fn is_part(&self) -> bool {
        self.what.starts_with("upload part")
    }

    /// The name of what is deleted, in its partition.
    fn deletes(&self) -> Option<&str> {
        self.what.strip_prefix("delete ")?.strip_prefix(PARTITION)?.strip_prefix('/')
    }
}

/// What a cycle finds, and what it does when nobody dies: what its shape is called after.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shape {
    found: Found,
    /// Void records made.
    voids: u64,
    commits: u64,
    outputs: usize,
    /// Parts in which outputs are uploaded.
    parts: usize,
    deleted: Found,
    /// Files in quarantine afterwards.
    quarantined: usize,
}

/// Objects of a partition.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    raw: usize,
    ours: usize,
    records: usize,
}

impl Found {
    fn of<'a>(partition: &PartitionId, names: impl Iterator<Item = &'a str>) -> Self {
        let mut found = Self::default();
        for name in names {
            if name.starts_with("_compaction/") {
                found.records += 1;
            } else if FileKind::of(partition, name) == FileKind::Raw {
                found.raw += 1;
            } else {
                found.ours += 1;
            }
        }
        found
    }
}

/// A partition and the machine that works on it.
struct Stage {
    world: Arc<World>,
    machine: Machine,
    settings: CompactionSettings,
    partition: PartitionId,
    rows_per_output: usize,
    padding_bytes: usize,
    /// Files that nobody can read.
    damaged: Vec<String>,
    starts: u64,
    _folder: TempDir,
}

/// A cycle that came to its end, or did not.
struct Run {
    effects: Vec<Effect>,
    report: Option<CycleReport>,
    /// The request that was under way.
    late: Option<Waiting>,
}

impl Stage {
    fn new(rows_per_output: usize) -> Self {
        let folder = machine::disk();
        fastrand::seed(1);
        let world = World::new(Planted::Nothing, 1_000);
        let mut settings = Config::default().compaction;
        settings.record_retention = Duration::ZERO;
        settings.partition.policy.min_files = 2;
        settings.partition.policy.settle = Duration::ZERO;
        let machine = Machine::new(world.clock.off_by(chrono::TimeDelta::zero()), folder.path().join("temp"), true);
        let partition = PARTITION.parse().unwrap();
        let damaged = Vec::new();
        Self {
            world,
            machine,
            settings,
            partition,
            rows_per_output,
            padding_bytes: 0,
            damaged,
            starts: 0,
            _folder: folder,
        }
    }

    fn write_damaged(&mut self) {
        self.damaged.push(self.world.ingest_damaged(&self.partition));
    }

    /// Files with five rows each.
    fn write(&self, files: i64) {
        let start = self.partition.hour().start().timestamp_micros();
        for file in 0..files {
            let times: Vec<i64> = (0..5).map(|row| start + row * 1_000 + file).collect();
            self.world.ingest(&self.partition, &times);
        }
    }

    fn next_start(&mut self) -> Start {
        self.starts += 1;
        Start {
            caller: format!("w.{}", self.starts).into(),
            seed: self.starts,
            rows_per_output: self.rows_per_output,
            padding_bytes: self.padding_bytes,
        }
    }

    /// One cycle that nobody ends, and what it was.
    async fn clean_cycle(&mut self) -> (Shape, Vec<Effect>) {
        let names =
            |stage: &Self| stage.world.objects(&stage.partition).into_iter().map(|o| o.name).collect::<Vec<_>>();
        let found = Found::of(&self.partition, names(self).iter().map(String::as_str));
        let before = self.world.truth().past;
        let run = self.cycle(Death::Never).await;
        self.check_rest(&run.report.expect("nobody ended it")).await;
        let after = self.world.truth().past;
        let shape = Shape {
            found,
            voids: after.voids - before.voids,
            commits: after.commits - before.commits,
            outputs: run.effects.iter().filter(|e| e.is_publication()).count(),
            parts: run.effects.iter().filter(|e| e.is_part()).count(),
            deleted: Found::of(&self.partition, run.effects.iter().filter_map(Effect::deletes)),
            quarantined: self.quarantined().await.len(),
        };
        (shape, run.effects)
    }

    /// The names of the files in quarantine, as a worker that starts now reads them.
    async fn quarantined(&mut self) -> Vec<String> {
        let start = self.next_start();
        let state = self.machine.start(&self.world, &start, &self.settings).state().clone();
        let list = async move { Quarantine::new(state).list(&QuarantineFilter::default()).await.unwrap() };
        let task = tokio::spawn(list);
        while !task.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            for call in self.world.wire.take() {
                let (deliver, _) = call.run(None);
                deliver();
            }
        }
        task.await.unwrap().into_iter().map(|file| file.name).collect()
    }

    /// One cycle of a new worker.
    async fn cycle(&mut self, death: Death) -> Run {
        let start = self.next_start();
        let manager = self.machine.start(&self.world, &start, &self.settings);
        let task = tokio::spawn(async move {
            manager.run_compaction_cycle(Scope::default(), CancellationToken::new()).await.unwrap()
        });
        let mut run = Run { effects: Vec::new(), report: None, late: None };
        let mut waiting: Vec<Waiting> = Vec::new();
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            waiting.extend(self.world.wire.take());
            if task.is_finished() {
                run.report = Some(task.await.unwrap());
                return run;
            }
            if waiting.is_empty() {
                continue;
            }
            let call = waiting.remove(0);
            let (kind, what, object) = (call.kind, call.what, call.object.clone());
            let effect = kind.is_effect(what);
            let number = run.effects.len();
            if effect && (death == Death::Before(number) || death == Death::Late(number)) {
                run.late = Some(call);
                break;
            }
            let (deliver, outcome) = call.run(None);
            self.world.say(&start.caller, what, &object, &outcome);
            let dies = effect && death == Death::After(number);
            // A change of the state database is made by whoever is told to go on.
            if !dies || kind == Kind::State {
                deliver();
            }
            if kind == Kind::State {
                tokio::time::sleep(Duration::from_millis(1)).await;
                waiting.extend(self.world.wire.take());
            }
            if effect {
                let glob = self.look();
                run.effects.push(Effect { kind, what: format!("{what} {object}"), glob });
            }
            if dies {
                break;
            }
        }
        let folders = self.machine.remember_folders();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(waiting);
        self.machine.bury(&start, &folders);
        self.world.say(&start.caller, "DIES", "", &format!("{death:?}"));
        run
    }

    /// Both readers look. The one that follows the rule is never wrong.
    fn look(&self) -> Glob {
        assert_eq!(self.world.broken(), None, "{}", self.world.time_line());
        let expected = self.world.truth().rows(&self.partition);
        let storage = Storage::over(Arc::new(self.world.bucket.clone()), "memory");
        let snapshot = live_files(&storage, &self.partition).now_or_never().unwrap().unwrap();
        let counts: BTreeSet<&str> = snapshot.files.iter().map(|f| f.name.as_str()).collect();
        let (mut by_rule, mut all) = (Vec::new(), Vec::new());
        for object in self.world.objects(&self.partition) {
            if object.name.contains('/') {
                continue;
            }
            let Ok(rows) = decode(object.bytes) else { continue };
            all.extend(rows.iter().map(|r| r.number));
            if counts.contains(object.name.as_str()) {
                by_rule.extend(rows.iter().map(|r| r.number));
            }
        }
        by_rule.sort_unstable();
        assert!(by_rule.iter().eq(&expected), "a reader saw {by_rule:?}\n{}", self.world.time_line());
        let distinct: BTreeSet<i64> = all.iter().copied().collect();
        assert_eq!(distinct, expected, "a reader of all files misses rows\n{}", self.world.time_line());
        if all.len() == expected.len() { Glob::Right } else { Glob::Doubled }
    }

    /// I5, I6: a cycle brings the partition to rest, whatever was before it; a further one changes nothing.
    async fn comes_to_rest(&mut self, late: Option<Waiting>) {
        // Of two attempts in a row that died, one may be under suspicion.
        tokio::time::sleep(FIRST_WAIT).await;
        let report = self.cycle(Death::Never).await.report.unwrap();
        self.check_rest(&report).await;
        if let Some(late) = late {
            let (_, outcome) = late.run(None);
            self.world.say("w.0", "late", "", &outcome);
            self.look();
            let report = self.cycle(Death::Never).await.report.unwrap();
            self.check_rest(&report).await;
        }
        // The lease of a worker that died when nothing was left to do is in nobody's way, and goes when it has expired.
        tokio::time::sleep(self.settings.lock_ttl + Duration::from_secs(1)).await;
        let before = self.world.changes();
        let report = self.cycle(Death::Never).await.report.unwrap();
        assert_eq!(self.world.changes(), before, "{report:#?}\n{}", self.world.time_line());
        assert_eq!(self.machine.leases(), [""; 0], "{}", self.world.time_line());
    }

    async fn check_rest(&mut self, report: &CycleReport) {
        assert_eq!(report.problems, [], "{}", self.world.time_line());
        assert_eq!(report.jobs_failed, 0, "{}", self.world.time_line());
        assert_eq!(self.look(), Glob::Right, "{}", self.world.time_line());
        self.world.check_rest(self.settings.partition.policy.min_files);
        assert_eq!(self.world.broken(), None, "{}", self.world.time_line());
        assert_eq!(self.machine.folders(), [""; 0], "{}", self.world.time_line());
        // I9. That they are as they were is among what the world checks after every change, and here once more.
        assert_eq!(self.quarantined().await, self.damaged, "{}", self.world.time_line());
        let objects = self.world.objects(&self.partition);
        for name in &self.damaged {
            let object = objects.iter().find(|o| o.name == *name);
            let bytes = object.map(|o| o.bytes.as_ref());
            assert_eq!(bytes, Some(damaged(name).as_bytes()), "{}", self.world.time_line());
        }
    }
}

/// What [`World::ingest_damaged`] writes.
fn damaged(name: &str) -> String {
    format!("PAR1 {name} PAR1")
}

/// Dies at every effect of the cycle that follows `prepare`.
#[allow(clippy::print_stdout, reason = "the figures are for people who run this with --nocapture")]
fn survives(name: &str, shape: &Shape, at_least: usize, prepare: impl AsyncFn() -> Stage) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (clean, effects) = prepare().await.clean_cycle().await;
        let listed: Vec<&str> = effects.iter().map(|e| e.what.as_str()).collect();
        assert_eq!(clean, *shape, "this is no {name}: {listed:#?}");
        assert!(effects.len() >= at_least, "only {} effects: {listed:#?}", effects.len());
        check_window(&effects);
        let records: Vec<&str> = effects.iter().filter_map(Effect::deletes).filter(|n| n.starts_with("_compaction/")).collect();
        assert!(records.is_sorted(), "C4, lowest first: {records:?}");
        let doubled = effects.iter().filter(|e| e.glob == Glob::Doubled).count();
        let deaths: Vec<Death> = effects.iter().enumerate().flat_map(|(n, effect)| deaths_at(n, effect)).collect();
        let (points, late) = (deaths.len(), deaths.iter().filter(|d| matches!(d, Death::Late(_))).count());
        for death in again::each(deaths, |death| format!("{death:?}")) {
            let mut stage = prepare().await;
            let run = stage.cycle(death).await;
            assert!(run.report.is_none(), "{death:?}: it did not die: {listed:#?}");
            let late = run.late.filter(|_| matches!(death, Death::Late(_)));
            assert!(late.as_ref().is_none_or(|call| call.kind.changes_storage()), "{death:?}: {listed:#?}");
            stage.comes_to_rest(late).await;
        }
        println!(
            "{name}: {} effects, {points} crash points, {late} of them with a request that arrives late; a reader of all \
             files sees rows twice after {doubled} effects, after a crash until the end of the next cycle",
            effects.len()
        );
    });
}

/// Only a request to storage can still be under way when its sender is dead: locks and state are on the machine's own disk,
/// and what is prepared nobody sees before it is completed.
fn deaths_at(number: usize, effect: &Effect) -> impl Iterator<Item = Death> + use<> {
    let late = effect.kind.changes_storage().then_some(Death::Late(number));
    [Death::Before(number), Death::After(number)].into_iter().chain(late)
}

/// What the README promises to those who read all files: twice only between the first output and the last deletion.
fn check_window(effects: &[Effect]) {
    let doubled = |effect: &Effect| effect.glob == Glob::Doubled;
    let last = effects.iter().rposition(doubled);
    let deleted = effects.iter().rposition(|e| e.what.starts_with("delete") && e.what.ends_with(".parquet"));
    assert!(last.is_none() || last < deleted, "{effects:#?}");
    // Otherwise they were published by the one before, who died.
    if !doubled(&effects[0]) {
        let published = effects.iter().position(Effect::is_publication);
        assert_eq!(effects.iter().position(doubled), published, "{effects:#?}");
    }
}

#[test]
fn a_first_compaction_survives_a_crash_at_every_effect() {
    let shape = Shape {
        found: Found { raw: 4, ..Found::default() },
        commits: 1,
        outputs: 1,
        deleted: Found { raw: 4, ..Found::default() },
        ..Shape::default()
    };
    survives("first compaction", &shape, 15, async || {
        let stage = Stage::new(100);
        stage.write(4);
        stage
    });
}

/// The late files take the compacted one with them.
#[test]
fn a_compaction_of_late_files_survives_a_crash_at_every_effect() {
    let all = || Found { raw: 3, ours: 1, records: 1 };
    let shape = Shape { found: all(), commits: 1, outputs: 1, deleted: all(), ..Shape::default() };
    survives("compaction of late files", &shape, 15, async || {
        let mut stage = Stage::new(100);
        stage.write(4);
        stage.cycle(Death::Never).await;
        stage.write(3);
        stage
    });
}

#[test]
fn a_compaction_into_two_outputs_survives_a_crash_at_every_effect() {
    let shape = Shape {
        found: Found { raw: 4, ..Found::default() },
        commits: 1,
        outputs: 2,
        deleted: Found { raw: 4, ..Found::default() },
        ..Shape::default()
    };
    survives("compaction into two outputs", &shape, 16, async || {
        let stage = Stage::new(12);
        stage.write(4);
        stage
    });
}

#[test]
fn a_compaction_into_an_output_uploaded_in_parts_survives_a_crash_at_every_effect() {
    let shape = Shape {
        found: Found { raw: 3, ..Found::default() },
        commits: 1,
        outputs: 1,
        parts: 2,
        deleted: Found { raw: 3, ..Found::default() },
        ..Shape::default()
    };
    survives("compaction into an output in parts", &shape, 18, async || {
        let mut stage = Stage::new(100);
        stage.padding_bytes = 9 << 20;
        stage.write(3);
        stage
    });
}

#[test]
fn a_compaction_beside_a_damaged_file_survives_a_crash_at_every_effect() {
    let shape = Shape {
        found: Found { raw: 4, ..Found::default() },
        commits: 1,
        outputs: 1,
        deleted: Found { raw: 3, ..Found::default() },
        quarantined: 1,
        ..Shape::default()
    };
    survives("compaction with quarantine", &shape, 15, async || {
        let mut stage = Stage::new(100);
        stage.write(3);
        stage.write_damaged();
        stage
    });
}

/// A partition whose worker died right after the last effect of this kind, in a cycle that merged four files into two.
async fn died_after(wanted: fn(&Effect) -> bool) -> Stage {
    let prepare = || {
        let stage = Stage::new(12);
        stage.write(4);
        stage
    };
    let effects = prepare().cycle(Death::Never).await.effects;
    let mut stage = prepare();
    stage.cycle(Death::After(effects.iter().rposition(wanted).expect("it came to its end"))).await;
    stage
}

#[test]
fn tidying_after_anothers_commit_survives_a_crash_at_every_effect() {
    let shape = Shape {
        found: Found { raw: 4, ours: 2, records: 1 },
        deleted: Found { raw: 4, ..Found::default() },
        ..Shape::default()
    };
    survives("tidying after another's commit", &shape, 8, async || died_after(Effect::is_commit).await);
}

/// The void record is below the head when the cycle is over, and goes.
#[test]
fn voiding_an_undecided_attempt_survives_a_crash_at_every_effect() {
    let shape = Shape {
        found: Found { raw: 4, ours: 2, records: 0 },
        voids: 1,
        commits: 1,
        outputs: 2,
        deleted: Found { raw: 4, ours: 2, records: 1 },
        ..Shape::default()
    };
    survives("void, then first compaction", &shape, 18, async || died_after(Effect::is_publication).await);
}

/// Records that were kept for a while, and are no longer: the lowest goes first.
#[test]
fn deleting_old_records_survives_a_crash_at_every_effect() {
    let shape = Shape {
        found: Found { ours: 1, records: 3, ..Found::default() },
        deleted: Found { records: 2, ..Found::default() },
        ..Shape::default()
    };
    survives("deletion of old records", &shape, 8, async || {
        let mut stage = Stage::new(100);
        stage.settings.record_retention = Duration::from_hours(24);
        for _ in 0..3 {
            stage.write(3);
            stage.cycle(Death::Never).await;
        }
        stage.settings.record_retention = Duration::ZERO;
        stage
    });
}
