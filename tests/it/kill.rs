//! The shipped program, killed by SIGKILL as it is about to make a system call that changes a disk, in whichever of its
//! threads and processes that is: on storage, in the temporary folder, in the state database. Right after it a reader by the
//! snapshot rule sees the same rows, and the next `arc compact` ends the work with the same rows and nothing left over
//! (I1, I4, I5), and with a damaged file in quarantine and as it was (I9). Readers look all the while. The signal goes to
//! the program itself; a child that merges for it has to end on its own (T25).
//!
//! Every call that changes a name or makes something durable is died at, and some of those that write to a file below the
//! test's folder, or open one with leave to make it, of which there are many: `ARC_KILL_FULL=1` takes all. What is written
//! through a mapping of memory is no call, and is not died at.
//!
//! Points are numbers of calls, and threads differ by a few calls from run to run: `ARC_ONLY` goes to the same call or to
//! one near it.
//!
//! [`crate::crash`] has the same for the steps of a job, with the effects by their names; here nothing is put between the
//! program and the kernel. The killer is this test binary itself, started again with one test selected: [`tracer`], which
//! counts system calls with ptrace(2).
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::crash::{Readers, Window, dead_after_last, is_commit, is_publication};
use crate::support::trace::{self, Call};
use crate::support::{Arc, PARTITION, Run, again, each, incompressible, rows_of};

const TRACER: &str = "ARC_TEST_TRACER";

/// Where the tracer writes down the calls that it let pass, beside the configuration.
const CALLS: &str = "calls.txt";

/// Of the effects of which there are many, every so many-th is a point to die at, unless all are asked for.
const OF_MANY: usize = 16;

/// Readers that look without a pause would take most of the processor.
const BETWEEN_LOOKS: Duration = Duration::from_millis(30);

const DAMAGED: &[u8] = b"these are no columns at all, and nobody can read them";

/// The name of a call that changes a disk: what is below this folder, as far as the call tells.
fn effect(call: Call, thread: Pid, folder: &Path) -> Option<&'static str> {
    let Call { number, arguments: [first, second, third] } = call;
    let may_create = |flags: u64| flags & u64::from(libc::O_CREAT.unsigned_abs()) != 0;
    #[cfg(target_arch = "x86_64")]
    match number {
        libc::SYS_creat => return Some("create"),
        libc::SYS_open => return may_create(second).then_some("create"),
        _ => {}
    }
    #[cfg(target_arch = "aarch64")]
    let _ = second;
    let writes_to = |descriptor: u64| {
        let opened = fs::read_link(format!("/proc/{thread}/fd/{descriptor}"));
        opened.is_ok_and(|path| path.starts_with(folder)).then_some("write")
    };
    match number {
        libc::SYS_openat => may_create(third).then_some("create"),
        libc::SYS_ftruncate => Some("truncate"),
        libc::SYS_write
        | libc::SYS_writev
        | libc::SYS_pwrite64
        | libc::SYS_pwritev
        | libc::SYS_pwritev2
        | libc::SYS_sendfile => writes_to(first),
        libc::SYS_copy_file_range => writes_to(third),
        _ => call.change(),
    }
}

/// Not a test of its own: what starts the program and kills it at its n-th effect. Does nothing unless it is started as that.
#[test]
fn tracer() {
    let Some(order) = again::asked(TRACER) else { return };
    let (point, config) = order.split_once(':').unwrap();
    run_traced(Path::new(config), point.parse().unwrap());
}

fn run_traced(config: &Path, point: usize) {
    let mut passed = fs::File::create(config.with_file_name(CALLS)).unwrap();
    let folder = config.parent().expect("it is in a folder").canonicalize().unwrap();
    let mut effects = 0;
    let mut program = Command::new("sh");
    program.args(["-c", "read -r _; exec \"$0\" --config \"$1\" compact --json"]);
    program.arg(assert_cmd::cargo::cargo_bin("arc")).arg(config).stdout(Stdio::null()).stderr(Stdio::null());
    trace::run(&mut program, |main, thread, call| {
        if let Some(effect) = effect(call, thread, &folder) {
            if effects == point {
                kill(main, Signal::SIGKILL).unwrap();
            } else {
                writeln!(passed, "{effect}").unwrap();
            }
            effects += 1;
        }
    });
    writeln!(passed, "{}", if effects > point { "killed" } else { "ended" }).unwrap();
}

/// The effects before the point at which the program was killed, or all of them if that point was never reached.
#[derive(Debug)]
struct Passed {
    effects: Vec<String>,
    killed: bool,
}

fn kill_at(arc: &Arc, point: usize) -> Passed {
    let status = again::child("kill::tracer")
        .env(TRACER, format!("{point}:{}", arc.config_file().display()))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "the tracer failed: {status}");
    let passed = fs::read_to_string(arc.dir().join(CALLS)).unwrap();
    let mut effects: Vec<String> = passed.lines().map(ToOwned::to_owned).collect();
    let killed = effects.pop().expect("its last line says how it ended") == "killed";
    Passed { effects, killed }
}

/// Whether a call writes bytes, or opens a file that it makes if there is none: of these there are many.
fn is_one_of_many(effect: &str) -> bool {
    matches!(effect, "write" | "create")
}

/// The points to die at: every change of a name and every sync, and some of the others.
fn points(effects: &[String]) -> Vec<usize> {
    let all = again::asked("ARC_KILL_FULL").is_some_and(|full| full == "1");
    let mut many = 0;
    let mut is_one = |effect: &str| {
        many += usize::from(is_one_of_many(effect));
        !is_one_of_many(effect) || all || many % OF_MANY == 0
    };
    (0..effects.len()).filter(|number| is_one(&effects[*number])).collect()
}

/// What is so of a partition when the work is done, and what was done to get there.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Files that nobody can read, which stay as they are.
    damaged: &'static [&'static str],
    outputs: usize,
    /// Kinds of effects that the program has on the way.
    effects: &'static [&'static str],
    /// Whether an attempt has died before.
    has_died: bool,
}

const COMPACTION: Shape = Shape {
    damaged: &[],
    outputs: 1,
    effects: &["mkdir", "create", "link", "rename", "unlink", "sync", "write"],
    has_died: false,
};

impl Shape {
    fn is_damaged(&self, path: &Path) -> bool {
        path.file_name().is_some_and(|name| self.damaged.iter().any(|damaged| name == *damaged))
    }

    /// What a reader by the snapshot rule sees of the files that can be read.
    fn rows(&self, arc: &Arc) -> Vec<String> {
        let live = arc.live_paths(PARTITION);
        let damaged: Vec<&PathBuf> = live.iter().filter(|path| self.is_damaged(path)).collect();
        assert_eq!(damaged.len(), self.damaged.len(), "a damaged file counts until somebody takes it away: {live:?}");
        assert!(damaged.iter().all(|path| fs::read(path).unwrap() == DAMAGED), "a damaged file is left as it is");
        rows_of(&live.into_iter().filter(|path| !self.is_damaged(path)).collect::<Vec<_>>())
    }

    /// `arc compact`, which may find the damaged files only now, or wait for them because the killed one has. Nothing else
    /// may be wrong.
    fn compact(&self, arc: &Arc) {
        let mut run = arc.compact();
        if run.code == 0 && run.json()["skipped"][0]["reason"] == "backing_off" {
            // Two attempts in a row have died, so it waits unless somebody asks for it.
            assert!(self.has_died, "{run:#?}");
            run = Run::of(&mut arc.command(&["compact", "--json", "--partition", PARTITION]));
        }
        let report = run.json();
        let jobs = report["jobs"].as_array().unwrap();
        assert!(jobs.iter().all(|job| job["status"] == "completed"), "{run:#?}");
        assert_eq!(report["problems"], json!([]), "{run:#?}");
        let mut skipped = report["skipped"].as_array().unwrap().iter();
        // Tidied, and nothing more to do; or nothing to do but for the damaged file.
        let rests = if self.damaged.is_empty() { "nothing_to_gain" } else { "quarantined" };
        assert!(skipped.all(|s| s["reason"] == rests), "{run:#?}");
        let named: Vec<&Value> = jobs.iter().flat_map(|j| j["inputs_quarantined"].as_array().unwrap()).collect();
        if run.code == 0 {
            assert!(named.is_empty(), "{run:#?}");
        } else {
            let named: Vec<&str> = named.iter().map(|input| input["name"].as_str().unwrap()).collect();
            assert!(run.code == 1 && named == self.damaged && !named.is_empty(), "{run:#?}");
        }
    }

    fn assert_done(&self, arc: &Arc, at: &str) {
        let live = arc.live_paths(PARTITION);
        let is_output = |path: &PathBuf| path.to_string_lossy().ends_with("_compacted.parquet");
        assert!(live.iter().all(|path| is_output(path) || self.is_damaged(path)), "{at}: {live:?}");
        for path in live.iter().filter(|path| self.is_damaged(path)) {
            assert_eq!(fs::read(path).unwrap(), DAMAGED, "{at}");
        }
        arc.assert_nothing_left_over(PARTITION);
        let list = Run::of(&mut arc.command(&["quarantine", "list", "--json"])).json();
        let listed: Vec<&str> = list["files"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
        assert_eq!(listed, self.damaged, "in quarantine, {at}");
    }
}

fn survives_every_kill(shape: Shape, prepare: impl Fn() -> Arc + Sync) {
    let clean = prepare();
    let Passed { effects, killed } = kill_at(&clean, usize::MAX);
    assert!(!killed);
    shape.assert_done(&clean, "without a kill");
    assert_eq!(clean.live(PARTITION).len(), shape.outputs + shape.damaged.len());
    for kind in shape.effects {
        assert!(effects.iter().any(|effect| effect == kind), "no {kind} among {effects:?}: they are not counted");
    }
    let points = points(&effects);
    let kills = AtomicUsize::new(0);
    let longest = Mutex::new(Window::default());
    each(points.iter().copied(), |point| {
        let arc = prepare();
        let before = shape.rows(&arc);
        let readers = Readers::start(&arc, shape.damaged, BETWEEN_LOOKS);
        kills.fetch_add(usize::from(kill_at(&arc, point).killed), Ordering::SeqCst);
        assert_eq!(shape.rows(&arc), before, "a reader right after a kill at effect {point}");
        shape.compact(&arc);
        let window = readers.stop();
        {
            let mut longest = longest.lock().unwrap();
            if window.doubled > longest.doubled {
                *longest = window;
            }
        }
        assert_eq!(shape.rows(&arc), before, "killed at effect {point}");
        let state = arc.storage_state();
        assert_eq!(arc.compact_well()["jobs"], json!([]), "killed at effect {point}");
        assert_eq!(arc.storage_state(), state, "a further run changes nothing (killed at effect {point})");
        shape.assert_done(&arc, &format!("killed at effect {point}"));
    });
    let kills = kills.into_inner();
    println!("{kills} kills of the shipped program, at {} of {} effects", points.len(), effects.len());
    let longest = longest.into_inner().unwrap();
    println!("a reader of all files saw rows twice for at most {longest}, with a kill and the next run");
    // How often its threads sync and sweep differs by a few calls from run to run, and so does where the end is.
    assert!(kills * 10 >= points.len() * 9 || again::is_one_point(), "only {kills} of {}", points.len());
}

fn three_files() -> Arc {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 20);
    arc
}

/// T17, T43.
#[test]
fn the_program_survives_a_kill_at_every_system_call_of_a_first_compaction() {
    survives_every_kill(COMPACTION, three_files);
}

#[test]
fn the_program_survives_a_kill_at_every_system_call_of_a_late_compaction_into_two_files() {
    survives_every_kill(Shape { outputs: 2, ..COMPACTION }, || {
        let arc = Arc::with("min_files = 2\ntarget_file_size_mb = 1\nrow_group_size = 2048\nlate_rewrite_ratio = 0.0");
        for part in 0..2 {
            let rows = incompressible(part * 25_000, (part + 1) * 25_000);
            arc.write(PARTITION, &format!("cpu_{part}.parquet"), &rows);
        }
        arc.compact_well();
        for i in 0..2 {
            arc.write(PARTITION, &format!("late_{i}.parquet"), &incompressible(100 + i, 101 + i));
        }
        arc
    });
}

#[test]
fn the_program_survives_a_kill_at_every_system_call_while_it_tidies_after_the_commit_of_another_that_died() {
    let tidying = Shape { has_died: true, effects: &["create", "unlink", "sync", "write"], ..COMPACTION };
    survives_every_kill(tidying, dead_after_last(is_commit, three_files));
}

#[test]
fn the_program_survives_a_kill_at_every_system_call_while_it_voids_the_attempt_of_another_that_died_undecided() {
    survives_every_kill(Shape { has_died: true, ..COMPACTION }, dead_after_last(is_publication, three_files));
}

#[test]
fn the_program_survives_a_kill_at_every_system_call_of_a_compaction_that_finds_a_damaged_file() {
    survives_every_kill(Shape { damaged: &["bad.parquet"], ..COMPACTION }, || {
        let arc = three_files();
        arc.put(PARTITION, "bad.parquet", DAMAGED);
        arc
    });
}
