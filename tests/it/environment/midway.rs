//! Faults in the middle of a job of the shipped program: when it is about to make its n-th system call that changes a name
//! or makes something durable, in whichever of its threads and processes, something happens around it. Then it goes on, for
//! better or worse. Nothing is put between the program and the kernel.
//!
//! What brings the fault is this test binary itself, started again with one test selected: [`tracer`], which counts system
//! calls with ptrace(2). Points are numbers of calls, and threads differ by a few calls from run to run.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::libc;
use nix::unistd::Pid;
use rusqlite::Connection;

use crate::support::trace::{self, Call};
use crate::support::{Arc, PARTITION, again};

const TRACER: &str = "ARC_TEST_MIDWAY";

/// How often the program waits for a database that is held before it is let go.
const WAITS: usize = 3;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The state database is deleted, with the files beside it.
    DatabaseDeleted,
    /// It is overwritten in place.
    DatabaseOverwritten,
    /// Another connection holds it, until the program has waited for it a few times.
    DatabaseHeld,
    /// The folder of the partition may neither be read nor written any more.
    PartitionClosed,
    /// No folder of storage and of the temporary files may be written any more.
    EverythingReadOnly,
}

/// How far the job had come when it happened, and how the program ended.
#[derive(Debug, Clone)]
pub struct Midway {
    /// `None`: there are fewer calls than that, and nothing happened.
    pub phase: Option<Phase>,
    /// How often it waited for the database that was held.
    pub waits: usize,
    pub code: i32,
    pub said: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Merging,
    Published,
    Committed,
    Tidied,
}

/// Runs `arc compact`, without the superuser's privileges, and lets this happen at a call.
pub fn compact_with(arc: &Arc, fault: Fault, point: usize) -> Midway {
    let status = again::child("environment::midway::tracer")
        .env(TRACER, format!("{point}:{fault:?}:{}", arc.config_file().display()))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "the tracer failed: {status}");
    let read = |name: &str| fs::read_to_string(arc.dir().join(name)).unwrap();
    let outcome = read("outcome");
    let [phase, waits, code] = outcome.split(' ').collect::<Vec<_>>()[..] else { panic!("{outcome}") };
    let phases = [Phase::Merging, Phase::Published, Phase::Committed, Phase::Tidied];
    Midway {
        phase: phases.into_iter().find(|known| format!("{known:?}") == phase),
        waits: waits.parse().unwrap(),
        code: code.parse().unwrap(),
        said: format!("{}{}", read("said.out"), read("said.err")),
    }
}

/// Not a test of its own. Does nothing unless it is started as the tracer.
#[test]
fn tracer() {
    let Some(order) = again::asked(TRACER) else { return };
    let [point, fault, config] = order.splitn(3, ':').collect::<Vec<_>>()[..] else { panic!("{order}") };
    let fault = match fault {
        "DatabaseDeleted" => Fault::DatabaseDeleted,
        "DatabaseOverwritten" => Fault::DatabaseOverwritten,
        "DatabaseHeld" => Fault::DatabaseHeld,
        "PartitionClosed" => Fault::PartitionClosed,
        "EverythingReadOnly" => Fault::EverythingReadOnly,
        _ => panic!("{order}"),
    };
    let config = Path::new(config);
    let place = Place(config.parent().expect("it is in a folder").to_owned());
    place.run_traced(config, fault, point.parse().unwrap());
}

/// The folder of a test, as [`Arc`] lays it out.
struct Place(PathBuf);

impl Place {
    fn run_traced(&self, config: &Path, fault: Fault, point: usize) {
        let script = r#"read -r _; exec unshare --user --map-root-user \
            setpriv --bounding-set=-all --inh-caps=-all -- "$0" --config "$1" compact --json"#;
        let mut program = Command::new("sh");
        program.args(["-c", script]).arg(assert_cmd::cargo::cargo_bin("arc")).arg(config).current_dir(&self.0);
        program.stdout(fs::File::create(self.0.join("said.out")).unwrap());
        program.stderr(fs::File::create(self.0.join("said.err")).unwrap());
        let (mut effects, mut waits) = (0, 0);
        let (mut phase, mut held) = (None, None);
        let code = trace::run(&mut program, |_, thread, call| {
            let is_change = call.change().is_some();
            if phase.is_none() && (effects > point || effects == point && is_change) {
                let here = self.phase();
                held = self.bring(fault);
                // A transaction of the program's own may be in the way: then it is held at one of the next calls.
                phase = Some(here).filter(|_| held.is_some() || fault != Fault::DatabaseHeld);
            }
            effects += usize::from(is_change);
            if held.is_some() && is_sleep(call) && is_of_the_database(thread) {
                waits += 1;
                held = held.take().filter(|_| waits < WAITS);
            }
        });
        let phase = phase.map_or("none".to_owned(), |phase| format!("{phase:?}"));
        fs::write(self.0.join("outcome"), format!("{phase} {waits} {}", code.unwrap_or(-1))).unwrap();
    }

    fn partition(&self) -> PathBuf {
        self.0.join("data").join(PARTITION)
    }

    /// How far a first compaction is.
    fn phase(&self) -> Phase {
        let names = |folder: PathBuf| -> Vec<String> {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
        };
        let data = names(self.partition());
        if names(self.partition().join("_compaction")).iter().any(|name| name == "00000001.json") {
            let raw = data.iter().any(|name| name.starts_with("cpu_0"));
            if raw { Phase::Committed } else { Phase::Tidied }
        } else if data.iter().any(|name| name.ends_with("_compacted.parquet")) {
            Phase::Published
        } else {
            Phase::Merging
        }
    }

    fn bring(&self, fault: Fault) -> Option<Connection> {
        match fault {
            Fault::DatabaseDeleted => self.database().iter().for_each(|path| drop(fs::remove_file(path))),
            Fault::DatabaseOverwritten => {
                for path in self.database() {
                    // Those that are there, where they are: the program has them open.
                    let Ok(mut file) = fs::File::options().write(true).open(path) else { continue };
                    let length = file.metadata().unwrap().len();
                    let garbage = b"no page of SQLite".repeat(usize::try_from(length / 17 + 300).unwrap());
                    file.write_all(&garbage).unwrap();
                }
            }
            Fault::DatabaseHeld => {
                let other = Connection::open(self.0.join("arc.db")).unwrap();
                other.busy_timeout(std::time::Duration::ZERO).unwrap();
                return other.execute_batch("BEGIN IMMEDIATE").is_ok().then_some(other);
            }
            Fault::PartitionClosed => set_mode(&self.partition(), 0),
            Fault::EverythingReadOnly => {
                for path in folders_below(&[self.0.join("data"), self.0.join("temp")]) {
                    set_mode(&path, 0o555);
                }
            }
        }
        None
    }

    fn database(&self) -> [PathBuf; 3] {
        ["", "-wal", "-shm"].map(|side| self.0.join(format!("arc.db{side}")))
    }
}

/// Deletes what is left of the state database.
pub fn remove_database(arc: &Arc) {
    // SQLite may have removed the files beside it.
    Place(arc.dir().to_owned()).database().iter().for_each(|path| drop(fs::remove_file(path)));
}

/// Everything may be read and written again.
pub fn give_rights_back(arc: &Arc) {
    set_mode(&arc.folder(PARTITION), 0o755);
    for path in folders_below(&[arc.data(), arc.temp()]) {
        set_mode(&path, 0o755);
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// These, as far as they are there, and every folder in them.
fn folders_below(roots: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = roots.iter().filter(|path| path.is_dir()).cloned().collect();
    let mut at = 0;
    while at < found.len() {
        let entries = fs::read_dir(&found[at]).unwrap().map(|entry| entry.unwrap().path());
        let inner: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
        found.extend(inner);
        at += 1;
    }
    found
}

fn is_sleep(call: Call) -> bool {
    [libc::SYS_nanosleep, libc::SYS_clock_nanosleep].contains(&call.number)
}

/// Whether this is the thread that opens the database, or one of those that own a connection.
fn is_of_the_database(thread: Pid) -> bool {
    fs::read_to_string(format!("/proc/{thread}/comm")).is_ok_and(|name| name.starts_with("arc"))
}
