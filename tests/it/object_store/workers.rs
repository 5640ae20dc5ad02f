//! Several machines over one bucket: processes that share nothing but the bucket and the leases in it. One is killed in the
//! middle of a job, one is frozen for longer than its lease and then goes on.
//!
//! The workers are this test binary, started again with one test selected ([`worker`]); their names are not those of
//! processes, so that nobody can tell that one is dead, as on another machine.
//!
//! Nobody waits for time: a worker that freezes is stopped by a signal and goes on when its standard input says so, what
//! others have done is read from what they say, and that the leases of the dead and of the frozen one are over is shown to
//! their successors by the time of writing, which is an old one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc as Shared;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use arc::clock::SystemClock;
use arc::compaction::events::EventSink;
use arc::compaction::report::JobStatus;
use arc::compaction::settings::{Isolation, LockBackend};
use arc::compaction::{CompactionManager, CompactionSettings, Components, Scope};
use arc::config::{Config, Input};
use arc::lock::{LockManager, StorageLocks};
use arc::merge::resources::{detect, job_limits};
use arc::merge::{DuckDbEngine, MergeEngine, MergeError, MergeOutcome, MergeRequest, ProgressSink};
use arc::state::StateDb;
use arc::storage::Storage;
use arc::storage::settings::Patience;
use async_trait::async_trait;
use object_store::ObjectMeta;
use object_store::path::Path as Key;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process, waitid};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::object_store::remote::{Remote, telemetry_files};
use crate::support::proxy::{Proxy, Wire};
use crate::support::servers::Kind;
use crate::support::stores::{Hook, Hooked};
use crate::support::{again, block_on, tree};

/// What a started worker is told: `name|fate|config file`.
const WORKER: &str = "ARC_TEST_BUCKET_WORKER";
/// Of the worker that is cut off, which is told by nobody but the time that passes.
const SHORT_TTL: Duration = Duration::from_secs(3);
/// What a worker says when a record is there, with the record's key.
const RECORDED: &str = "recorded ";
/// A file of the parent test in the folder of a worker: `ETag`s of the leases that are older than they look.
const LONG_AGO: &str = "long-ago";
const PARTITIONS: usize = 12;

fn partition(number: usize) -> String {
    format!("prod/cpu/2025/10/08/{number:02}")
}

/// What happens to a worker right before its first commit, when its outputs are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lives,
    Dies,
    Freezes,
}

#[derive(Debug)]
struct AroundCommit {
    fate: Fate,
    /// Where the key of the record is written that was not created.
    marker: PathBuf,
    /// Of leases that are shown as written [`AN_AGE`] before.
    long_ago: BTreeSet<String>,
}

/// Longer than any lease here.
const AN_AGE: Duration = Duration::from_hours(24);

impl Hook for AroundCommit {
    fn before(&self, _: usize, _: &str, path: &Key) -> object_store::Result<()> {
        if self.fate == Fate::Lives || !path.as_ref().contains("/_compaction/") {
            return Ok(());
        }
        // Of two jobs of one worker the first.
        let Ok(mut marker) = fs::File::create_new(&self.marker) else { return Ok(()) };
        marker.write_all(path.as_ref().as_bytes()).unwrap();
        let signal = if self.fate == Fate::Dies { Signal::KILL } else { Signal::STOP };
        kill_process(getpid(), signal).unwrap();
        // The signal is on its way; this thread does nothing before the parent says so.
        std::io::stdin().read_exact(&mut [0]).unwrap();
        Ok(())
    }

    fn shows(&self, object: &mut ObjectMeta) {
        if object.e_tag.as_ref().is_some_and(|tag| self.long_ago.contains(tag)) {
            object.last_modified -= AN_AGE;
        }
    }

    fn after(&self, _: usize, _: &str, path: &Key) -> object_store::Result<()> {
        if path.as_ref().contains("/_compaction/") {
            println!("{RECORDED}{path}");
        }
        Ok(())
    }
}

/// Not a test of its own: what a worker runs. Does nothing unless it is started as that.
#[test]
fn worker() {
    let Some(order) = again::asked(WORKER) else { return };
    let [name, fate, config] = order.split('|').collect::<Vec<_>>()[..] else { panic!("{order}") };
    let fate = match fate {
        "Dies" => Fate::Dies,
        "Freezes" => Fate::Freezes,
        _ => Fate::Lives,
    };
    let folder = Path::new(config).with_file_name(name);
    let manager = manager(name, fate, Path::new(config), &folder);
    let mut reports = fs::File::options().append(true).create(true).open(folder.join("reports")).unwrap();
    // As a schedule would, only without the hours between, while there is something to do that no other worker does.
    for _ in 0..=PARTITIONS {
        let report = block_on(manager.run_compaction_cycle(Scope::default(), CancellationToken::new())).unwrap();
        writeln!(reports, "{}", serde_json::to_string(&report).unwrap()).unwrap();
        if report.jobs_completed == 0 {
            return;
        }
    }
    panic!("there is no end to the work");
}

/// As the composition root does it, with a name of its own.
fn manager(name: &str, fate: Fate, config: &Path, folder: &Path) -> CompactionManager {
    let config = Config::load(&Input { file: Some(config.to_owned()), ..Input::default() }).unwrap();
    assert_eq!(config.compaction.lock_backend, LockBackend::Storage);
    let settings = CompactionSettings {
        isolation: Isolation::InProcess,
        temp_dir: folder.join("temp"),
        ..config.compaction.clone()
    };
    let storage = arc::server::open_storage(&config).unwrap();
    let long_ago = fs::read_to_string(folder.join(LONG_AGO)).unwrap_or_default().lines().map(str::to_owned).collect();
    let hook = Shared::new(AroundCommit { fate, marker: folder.join("marker"), long_ago });
    let hooked = storage.map_store(|inner| Hooked::over(inner, hook));
    let locks = StorageLocks::for_worker(&hooked, Shared::new(SystemClock), name.parse().unwrap());
    // No two attempts may have one name, also of a worker that is started again.
    let seed = blake3::hash(format!("{name} {fate:?}").as_bytes());
    let seed = u64::from_le_bytes(seed.as_bytes()[..8].try_into().unwrap());
    manager_of(settings, hooked, locks, Shared::new(DuckDbEngine), (folder, seed))
}

fn manager_of(
    settings: CompactionSettings,
    storage: Storage,
    locks: StorageLocks,
    engine: Shared<dyn MergeEngine>,
    (folder, seed): (&Path, u64),
) -> CompactionManager {
    let components = Components {
        storage,
        locks: Shared::new(locks),
        state: StateDb::open(&folder.join("arc.db")).unwrap(),
        engine,
        clock: Shared::new(SystemClock),
        limits: job_limits(detect(), None, None, settings.max_concurrent_jobs),
        events: EventSink::ignore(),
        seed,
    };
    CompactionManager::new(components, settings)
}

/// A worker in a process of its own, ended when dropped.
struct Worker {
    name: &'static str,
    process: Child,
    folder: PathBuf,
}

impl Worker {
    fn start(remote: &Remote, name: &'static str, fate: Fate) -> Self {
        Self::start_after(&[], &mpsc::channel().0, remote, name, fate)
    }

    /// Starts it when these leases were given long ago. What it says goes to the channel, too.
    fn start_after(
        leases: &[String],
        said: &mpsc::Sender<String>,
        remote: &Remote,
        name: &'static str,
        fate: Fate,
    ) -> Self {
        let folder = remote.arc.dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(LONG_AGO), leases.join("\n")).unwrap();
        let log = fs::File::options().append(true).create(true).open(folder.join("log")).unwrap();
        let mut process = again::child("object_store::workers::worker")
            .env(WORKER, format!("{name}|{fate:?}|{}", remote.arc.config_file().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().unwrap())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let said = said.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                writeln!(&log, "{line}").unwrap();
                // Perhaps nobody listens.
                let _ = said.send(line);
            }
        });
        Self { name, process, folder }
    }

    /// Waits until it is stopped, and leaves its end to [`Self::wait`].
    fn wait_for_the_freeze(&self) {
        let events = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(Pid::from_child(&self.process)), events).unwrap();
        assert!(status.is_some_and(|status| status.stopped()), "{} has ended: {}", self.name, self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    /// The partition at which something happened to it.
    fn struck_at(&self) -> Option<String> {
        let key = fs::read_to_string(self.folder.join("marker")).ok()?;
        key.split_once("/_compaction/").map(|(partition, _)| partition.to_owned())
    }

    fn go_on(&mut self) {
        kill_process(Pid::from_child(&self.process), Signal::CONT).unwrap();
        self.process.stdin.as_mut().unwrap().write_all(b"!").unwrap();
    }

    /// Its work has an end, and its requests have limits of time, so this has, too.
    fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    fn wait_well(&mut self) {
        let status = self.wait();
        assert!(status.success(), "{}: {status}\n{}", self.name, self.log());
    }

    fn reports(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join("reports")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn completed(&self) -> u64 {
        self.reports().iter().map(|report| report["jobs_completed"].as_u64().unwrap()).sum()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn a_bucket_with_work(kind: Kind) -> Option<(Remote, BTreeMap<String, Vec<String>>)> {
    let remote =
        Remote::with(kind, "min_files = 2\nsettle_seconds = 0\nmax_concurrent_jobs = 1\nlock_backend = 'storage'")?;
    let files = telemetry_files(3, 200);
    for number in 0..PARTITIONS {
        for (file, bytes) in files.iter().enumerate() {
            remote.put(&partition(number), &format!("cpu_{file}.parquet"), bytes.clone());
        }
    }
    let rows = (0..PARTITIONS).map(|number| (partition(number), remote.rows_in(&partition(number)))).collect();
    Some((remote, rows))
}

/// I1, I5: every row once, everything compacted, and nothing left over; all leases are given back.
fn assert_all_done(remote: &Remote, rows: &BTreeMap<String, Vec<String>>) {
    let mut live = Vec::new();
    for (partition, rows) in rows {
        assert!(remote.rows_in(partition) == *rows, "{partition} has other rows");
        let names = remote.live_in(partition);
        assert!(matches!(&names[..], [one] if one.ends_with("_compacted.parquet")), "{partition}: {names:?}");
        live.extend(names.into_iter().map(|name| format!("{partition}/{name}")));
    }
    for key in remote.objects().into_keys() {
        let own = key.contains("/_compaction/") || key.starts_with("_compaction_locks/");
        assert!(own || key == "_compaction_staging/probe" || live.contains(&key), "{key} is left over");
    }
    let locks = StorageLocks::new(&remote.storage(), Shared::new(SystemClock));
    assert_eq!(block_on(locks.active_locks()).unwrap(), []);
}

/// The `ETag`s of the leases that are there.
fn leases_in(remote: &Remote) -> Vec<String> {
    let leases = remote.objects().into_iter().filter(|(key, _)| key.starts_with("_compaction_locks/"));
    leases.map(|(_, (_, tag))| tag.unwrap()).collect()
}

/// I1, I5, I7, T21, T22, T27.
fn survives_a_death_and_a_freeze(kind: Kind) {
    let Some((remote, rows)) = a_bucket_with_work(kind) else { return };
    let mut dying = Worker::start(&remote, "dying", Fate::Dies);
    let mut freezing = Worker::start(&remote, "freezing", Fate::Freezes);
    let status = dying.wait();
    assert!(status.code().is_none(), "{status}");
    freezing.wait_for_the_freeze();
    let (died_at, froze_at) = (dying.struck_at().unwrap(), freezing.struck_at().unwrap());
    assert_ne!(died_at, froze_at, "of two workers one has a partition");

    let leases = leases_in(&remote);
    let (sender, said) = mpsc::channel();
    let mut others = ["third", "fourth"].map(|name| Worker::start_after(&leases, &sender, &remote, name, Fate::Lives));
    drop(sender);
    let record = format!("{froze_at}/_compaction/");
    let successor = said.iter().find(|line| line.contains(RECORDED) && line.contains(&record));
    assert!(successor.is_some(), "nobody succeeds it: {}{}", others[0].log(), others[1].log());
    assert!(remote.objects().into_keys().any(|key| key.starts_with(&record)));
    // It has published, holds that it has the lease, and is about to commit.
    freezing.go_on();
    for worker in &mut others {
        worker.wait_well();
    }
    freezing.wait_well();

    // What the dead one left in its own folder is for the next process there.
    let mut again = Worker::start(&remote, "dying", Fate::Lives);
    again.wait_well();
    assert_all_done(&remote, &rows);
    let workers = [&again, &freezing, &others[0], &others[1]];
    for worker in workers {
        let temp = tree(&worker.folder.join("temp"));
        let left: Vec<_> = temp.keys().filter(|path| !path.ends_with(".arc-lock")).collect();
        assert!(left.is_empty(), "{}: {left:?}", worker.name);
        for report in worker.reports() {
            assert!(report["jobs_failed"] == 0 && report["problems"] == serde_json::json!([]), "{report:#}");
        }
    }
    let completed = workers.map(Worker::completed);
    println!("{kind:?}: jobs by worker {completed:?}");
    assert_eq!(completed.iter().sum::<u64>(), PARTITIONS as u64, "every partition was compacted once: {completed:?}");
    assert!(completed.iter().filter(|jobs| **jobs > 0).count() > 1, "the work was not spread: {completed:?}");
    for report in freezing.reports() {
        let paths = report["jobs"].as_array().unwrap().iter().filter(|job| job["status"] == "completed");
        let paths: Vec<_> = paths.map(|job| format!("prod/{}", job["partition_path"].as_str().unwrap())).collect();
        assert!(!paths.contains(&froze_at), "a frozen worker has committed: {report:#}");
    }
}

#[test]
fn workers_on_several_machines_survive_a_death_and_a_freeze_on_moto() {
    survives_a_death_and_a_freeze(Kind::Moto);
}

#[test]
fn workers_on_several_machines_survive_a_death_and_a_freeze_on_ministack() {
    survives_a_death_and_a_freeze(Kind::Ministack);
}

#[test]
fn workers_on_several_machines_survive_a_death_and_a_freeze_on_azurite() {
    survives_a_death_and_a_freeze(Kind::Azurite);
}

/// An engine that merges until it is told to stop.
#[derive(Debug)]
struct Endless(Shared<AtomicBool>);

#[async_trait]
impl MergeEngine for Endless {
    async fn merge(
        &self,
        _: MergeRequest,
        _: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<MergeOutcome, MergeError> {
        self.0.store(true, Ordering::SeqCst);
        cancel.cancelled().await;
        Err(MergeError::Cancelled)
    }
}

/// T22: nobody tells it that the lease is over; its own clock does.
#[test]
fn a_worker_that_is_cut_off_stops_when_its_lease_ends() {
    let settings = "min_files = 2\nsettle_seconds = 0\nlock_backend = 'storage'";
    let Some(remote) = Remote::with(Kind::Moto, settings) else { return };
    remote.write_telemetry(3, 100);
    let is_cut_off = Shared::new(AtomicBool::new(false));
    let cut = Shared::clone(&is_cut_off);
    let proxy =
        Proxy::start(
            &remote.bucket.address,
            move |_, _| {
                if cut.load(Ordering::SeqCst) { Wire::Stalls } else { Wire::Good }
            },
        );
    // Longer than the lease: no request fails before it ends.
    let storage = remote.bucket.through(&proxy.address).patient(&Patience { retries: 0, ..Patience::default() });
    let settings =
        CompactionSettings { isolation: Isolation::InProcess, lock_ttl: SHORT_TTL, ..remote.config().compaction };
    let locks = StorageLocks::for_worker(&storage, Shared::new(SystemClock), "cut off".parse().unwrap());
    let manager = manager_of(settings, storage, locks, Shared::new(Endless(is_cut_off)), (remote.arc.dir(), 1));

    let since = Instant::now();
    let report = block_on(manager.run_compaction_cycle(Scope::default(), CancellationToken::new())).unwrap();

    assert!(since.elapsed() < SHORT_TTL + Duration::from_secs(20), "{:?}", since.elapsed());
    let job = &report.jobs[0];
    assert_eq!(job.status, JobStatus::Cancelled, "{job:#?}");
    assert!(job.error.as_ref().unwrap().contains("the lease was lost"), "{job:#?}");
    assert_eq!(remote.live().len(), 3);
}

/// The real program, as it is installed on several machines: each with its own state, all at once.
#[test]
fn four_programs_with_leases_in_the_bucket_do_nothing_twice() {
    let Some((remote, rows)) = a_bucket_with_work(Kind::Moto) else { return };
    let programs: Vec<Child> = (0..4)
        .map(|number| {
            let folder = remote.arc.dir().join(format!("machine-{number}"));
            fs::create_dir(&folder).unwrap();
            let mut command = remote.arc.server_command();
            command
                .arg("compact")
                .env("DB_PATH", folder.join("arc.db"))
                .env("COMPACTION_TEMP_DIR", folder.join("temp"));
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut completed = Vec::new();
    for program in programs {
        let output = program.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["jobs_failed"], 0, "{report:#}");
        completed.push(report["jobs_completed"].as_u64().unwrap());
    }
    println!("jobs by program {completed:?}");
    assert_eq!(completed.iter().sum::<u64>(), PARTITIONS as u64, "{completed:?}");
    assert!(completed.iter().filter(|jobs| **jobs > 0).count() > 1, "the work was not spread: {completed:?}");
    assert_all_done(&remote, &rows);
}
