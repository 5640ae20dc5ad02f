//! The shipped program, killed by SIGKILL at every system call that changes a name on disk or makes something durable, and at
//! some of those that write, in whichever of its threads and processes that happens: on storage, in the temporary folder,
//! in the state database. Right after it a reader by the snapshot rule sees the same rows, and the next `arc compact` ends
//! the work with the same rows and nothing left over (I1, I4, I5).
//!
//! [`crate::crash`] has the same for the steps of a job, with the effects by their names; here nothing is put between the
//! program and the kernel. The killer is this test binary itself, started again with one test selected: [`tracer`], which
//! counts system calls with ptrace(2).
//!
//! `ARC_KILL_FULL=1` takes every write, too.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::libc::{self, c_long};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::support::{Arc, PARTITION, again, each, incompressible};

const TRACER: &str = "ARC_TEST_TRACER";

/// Where the tracer writes down the calls that it let pass, beside the configuration.
const CALLS: &str = "calls.txt";

/// Of the writes, every so many-th is a point to die at, unless all are asked for.
const WRITES: usize = 8;

/// The call that a thread is about to make, by its number.
#[cfg(target_arch = "x86_64")]
fn number(thread: Pid) -> nix::Result<c_long> {
    Ok(c_long::try_from(ptrace::getregs(thread)?.orig_rax).unwrap_or(-1))
}

#[cfg(target_arch = "aarch64")]
fn number(thread: Pid) -> nix::Result<c_long> {
    Ok(c_long::try_from(ptrace::getregs(thread)?.regs[8]).unwrap_or(-1))
}

/// The name of a call that changes a disk.
fn effect(number: c_long) -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    match number {
        libc::SYS_mkdir => return Some("mkdir"),
        libc::SYS_rmdir => return Some("rmdir"),
        libc::SYS_link => return Some("link"),
        libc::SYS_rename => return Some("rename"),
        libc::SYS_unlink => return Some("unlink"),
        _ => {}
    }
    match number {
        libc::SYS_mkdirat => Some("mkdir"),
        libc::SYS_linkat => Some("link"),
        libc::SYS_renameat | libc::SYS_renameat2 => Some("rename"),
        libc::SYS_unlinkat => Some("unlink"),
        libc::SYS_fsync | libc::SYS_fdatasync => Some("sync"),
        libc::SYS_ftruncate => Some("truncate"),
        libc::SYS_pwrite64 => Some("write"),
        _ => None,
    }
}

/// Not a test of its own: what starts the program and kills it at its n-th effect. Does nothing unless it is started as that.
#[test]
fn tracer() {
    let Some(order) = again::asked(TRACER) else { return };
    let (point, config) = order.split_once(':').unwrap();
    run_traced(Path::new(config), point.parse().unwrap());
}

#[allow(clippy::zombie_processes, reason = "waited for by its process id, with everything that it starts")]
fn run_traced(config: &Path, point: usize) {
    // The shell waits for a line, and so for the tracer, before it becomes the program.
    let mut program = Command::new("sh")
        .args(["-c", "read -r _; exec \"$0\" --config \"$1\" compact --json"])
        .arg(assert_cmd::cargo::cargo_bin("arc"))
        .arg(config)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let main = Pid::from_raw(i32::try_from(program.id()).unwrap());
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(main, options).unwrap();
    ptrace::interrupt(main).unwrap();
    let mut passed = fs::File::create(config.with_file_name(CALLS)).unwrap();
    let mut effects = 0;
    let mut inside = HashSet::new();
    let mut line = program.stdin.take();
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
            Ok(status) => status,
            Err(Errno::ECHILD) => break,
            Err(error) => panic!("{error}"),
        };
        // The first stop is the one that was asked for.
        if let Some(mut line) = line.take() {
            line.write_all(b"\n").unwrap();
        }
        let (thread, signal) = match status {
            WaitStatus::PtraceSyscall(thread) => {
                // Calls are reported twice, when they begin and when they end.
                if !inside.remove(&thread) {
                    inside.insert(thread);
                    if let Some(effect) = number(thread).ok().and_then(effect) {
                        if effects == point {
                            kill(main, Signal::SIGKILL).unwrap();
                        } else {
                            writeln!(passed, "{effect}").unwrap();
                        }
                        effects += 1;
                    }
                }
                (thread, None)
            }
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            WaitStatus::PtraceEvent(thread, ..) => (thread, None),
            _ => continue,
        };
        match ptrace::syscall(thread, signal) {
            // It was killed meanwhile.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => panic!("{error}"),
        }
    }
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

/// The points to die at: with every change of a name and every sync, and with some writes.
fn points(effects: &[String]) -> Vec<usize> {
    let all = again::asked("ARC_KILL_FULL").is_some_and(|full| full == "1");
    let mut writes = 0;
    let mut is_one = |effect: &str| {
        writes += usize::from(effect == "write");
        effect != "write" || all || writes % WRITES == 0
    };
    (0..effects.len()).filter(|number| is_one(&effects[*number])).collect()
}

fn survives_every_kill(outputs: usize, prepare: impl Fn() -> Arc + Sync) {
    let clean = prepare();
    let Passed { effects, killed } = kill_at(&clean, usize::MAX);
    assert!(!killed);
    assert_eq!(clean.live(PARTITION).len(), outputs);
    for kind in ["mkdir", "link", "rename", "unlink", "sync", "write"] {
        assert!(effects.iter().any(|effect| effect == kind), "no {kind} among {effects:?}: they are not counted");
    }
    let points = points(&effects);
    let kills = AtomicUsize::new(0);
    each(points.iter().copied(), |point| {
        let arc = prepare();
        let before = arc.rows(PARTITION);
        kills.fetch_add(usize::from(kill_at(&arc, point).killed), Ordering::SeqCst);
        assert_eq!(arc.rows(PARTITION), before, "a reader right after a kill at effect {point}");
        arc.compact_well();
        assert_eq!(arc.rows(PARTITION), before, "killed at effect {point}");
        assert!(arc.live(PARTITION).iter().all(|name| name.ends_with("_compacted.parquet")), "effect {point}");
        arc.assert_nothing_left_over(PARTITION);
        let state = arc.storage_state();
        arc.compact_well();
        assert_eq!(arc.storage_state(), state, "a further run changes nothing (killed at effect {point})");
    });
    let kills = kills.into_inner();
    println!("{kills} kills of the shipped program, at {} of {} effects", points.len(), effects.len());
    // How often its threads sync and sweep differs by a few calls from run to run, and so does where the end is.
    assert!(kills * 10 >= points.len() * 9 || again::is_one_point(), "only {kills} of {}", points.len());
}

/// T17.
#[test]
fn the_program_survives_a_kill_at_every_system_call_of_a_first_compaction() {
    survives_every_kill(1, || {
        let arc = Arc::new();
        arc.write_telemetry(PARTITION, 3, 20);
        arc
    });
}

#[test]
fn the_program_survives_a_kill_at_every_system_call_of_a_late_compaction_into_two_files() {
    survives_every_kill(2, || {
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
