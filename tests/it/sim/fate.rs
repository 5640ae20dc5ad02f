//! Fate: decides, from one seed, what happens next, until it is calm.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arc::compaction::{CompactionManager, CompactionSettings, Scope};
use arc::partition::PartitionId;
use fastrand::Rng;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::excuse::Work;
use super::machine::{self, Machine, Start};
use super::panics::Panics;
use super::reader;
use super::store::LIST_ON;
use super::timeline::TimeLine;
use super::truth::{Past, place};
use super::weather::{self, Weather, some_offset, some_time};
use super::wire::{Caller, Deliver, Fault, Waiting};
use super::world::{Planted, World};

/// Virtual time that a step takes. Tokio's clock moves on only when every task and every thread is at rest.
const STEP: Duration = Duration::from_millis(1);
const MAX_FILES: usize = 60;

/// What came of a simulation.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    /// The invariant that was broken, and how.
    pub broken: Option<String>,
    pub time_line: TimeLine,
    pub steps: usize,
    pub effects: u64,
    pub past: Past,
    pub faults: BTreeMap<&'static str, u64>,
    pub good_looks: u64,
}

/// An answer under way to its caller.
pub(super) struct Answer {
    deliver: Deliver,
    caller: Caller,
    ready: Duration,
}

pub(super) struct Worker {
    machine: usize,
    start: Start,
    number: usize,
    starts: u64,
    pause: Duration,
    /// `None` while it is down.
    task: Option<JoinHandle<Infallible>>,
    back_at: Duration,
    frozen_until: Duration,
    /// Since when it is frozen in the middle of a job.
    frozen_with_lease: Option<Duration>,
}

pub struct Fate {
    random: Rng,
    pub(super) world: Arc<World>,
    pub(super) weather: Weather,
    pub(super) settings: CompactionSettings,
    pub(super) machines: Vec<Machine>,
    pub(super) workers: Vec<Worker>,
    pub(super) readers: Vec<(Caller, JoinHandle<Infallible>)>,
    pub(super) partitions: Vec<PartitionId>,
    pub(super) waiting: Vec<(Waiting, Duration)>,
    pub(super) answers: Vec<Answer>,
    pub(super) burst_until: Duration,
    files: usize,
    effects: u64,
    faults: BTreeMap<&'static str, u64>,
    good_looks: reader::Looks,
    panics: Panics,
    _folder: TempDir,
}

impl Fate {
    /// Everything that the seed says about who is there.
    pub fn new(seed: u64, planted: Planted, panics: Panics) -> Self {
        let folder = machine::disk();
        // The names of probes come from here.
        fastrand::seed(seed);
        let mut random = Rng::with_seed(seed);
        let weather = Weather::of(&mut random);
        let page = if random.u8(..3) > 0 { 1_000 } else { random.usize(3..=8) };
        let page = if planted == Planted::ListHidesPages { 3 } else { page };
        let world = World::new(planted, page);
        let settings = weather::settings(&mut random);
        let leases_in_storage = random.bool() && planted != Planted::LocksAlwaysGrant;
        let machines: Vec<Machine> = (0..random.usize(1..=3))
            .map(|number| {
                let offset = some_offset(&mut random);
                let folder = folder.path().join(number.to_string());
                let machine = Machine::new(world.clock.off_by(offset), folder, random.bool());
                if leases_in_storage { machine.with_leases_in_storage() } else { machine }
            })
            .collect();
        // Few, because they take long: outputs that are uploaded in parts.
        let padding_bytes = if random.u8(..25) == 0 { 9 << 20 } else { 0 };
        let workers = (1..=random.usize(2..=5))
            .map(|number| Worker {
                machine: random.usize(..machines.len()),
                start: Start {
                    caller: format!("w{number}.0").into(),
                    seed: 0,
                    rows_per_output: random.usize(2..40),
                    padding_bytes,
                },
                number,
                starts: 0,
                pause: Duration::from_millis(random.u64(100..20_000)),
                task: None,
                back_at: Duration::from_millis(random.u64(0..5_000)),
                frozen_until: Duration::ZERO,
                frozen_with_lease: None,
            })
            .collect();
        let partitions =
            (14..14 + random.u32(1..=3)).map(|hour| format!("db/cpu/2025/10/08/{hour}").parse().unwrap()).collect();
        Self {
            random,
            world,
            weather,
            settings,
            machines,
            workers,
            readers: Vec::new(),
            partitions,
            waiting: Vec::new(),
            answers: Vec::new(),
            burst_until: Duration::ZERO,
            files: 0,
            effects: 0,
            faults: BTreeMap::new(),
            good_looks: reader::Looks::default(),
            panics,
            _folder: folder,
        }
    }

    /// From the first file to rest.
    pub async fn run(mut self, seed: u64) -> Outcome {
        for _ in 0..self.random.usize(3..=9) {
            self.ingest();
        }
        for number in 1..=self.random.usize(1..=2) {
            let caller: Caller = format!("r{number}").into();
            let (partitions, looks) = (self.partitions.clone(), self.good_looks.clone());
            let reading = reader::read_for_ever(Arc::clone(&self.world), Arc::clone(&caller), partitions, looks);
            self.readers.push((caller, tokio::spawn(reading)));
        }
        if self.random.bool() {
            let start = Start { caller: "v".into(), seed: 0, rows_per_output: 1, padding_bytes: 0 };
            let manager = self.machines[0].start(&self.world, &start, &self.settings);
            let verifying = reader::verify_for_ever(Arc::clone(&self.world), Arc::clone(&start.caller), manager);
            self.readers.push((start.caller, tokio::spawn(verifying)));
        }
        let steps = self.random.usize(400..1_000);
        let mut done = 0;
        while done < steps && self.world.broken().is_none() {
            self.step().await;
            done += 1;
        }
        if self.world.broken().is_none() {
            self.come_to_rest().await;
        }
        self.check_panics();
        let time_line = std::mem::take(&mut *self.world.time_line());
        let past = self.world.truth().past;
        Outcome {
            seed,
            broken: self.world.broken(),
            steps: time_line.len(),
            time_line,
            effects: self.effects,
            past,
            faults: self.faults,
            good_looks: self.good_looks.count(),
        }
    }

    /// Everybody goes on as far as they can; new calls are queued.
    pub(super) async fn settle(&mut self) {
        tokio::time::sleep(STEP).await;
        self.check_panics();
        // What a task began that was being ended: whether it came that far is decided by how fast its thread was.
        let came = self.world.wire.take().into_iter().filter(|call| !call.is_abandoned());
        for call in came.collect::<Vec<_>>() {
            let is_reader = call.caller.starts_with('r');
            // Between two pages a whole compaction may happen, and only readers who are this slow need to look at the head again.
            let between_pages = is_reader && call.what == LIST_ON;
            let of_a_reader = if between_pages { 0.5 } else { self.weather.slow.max(self.weather.slow_readers) };
            let chance = if is_reader { of_a_reader } else { self.weather.slow };
            let slow = self.random.f64() < chance;
            let ready = if slow { self.world.elapsed() + some_time(&mut self.random) } else { Duration::ZERO };
            if slow {
                self.count("slow call");
            }
            self.waiting.push((call, ready));
        }
    }

    /// Whatever panics is a bug, whoever catches it; and nobody's work ends by itself.
    fn check_panics(&self) {
        if let Some(panicked) = self.panics.first() {
            self.world.truth().breaks("panic", &panicked);
        }
        let workers = self.workers.iter().filter_map(|worker| Some((&worker.start.caller, worker.task.as_ref()?)));
        let readers = self.readers.iter().map(|(caller, task)| (caller, task));
        for (caller, _) in workers.chain(readers).filter(|(_, task)| task.is_finished()) {
            self.world.truth().breaks("panic", &format!("the task of {caller} has ended by itself"));
        }
    }

    /// Ends a task, which must not have panicked before that, nor while it goes.
    pub(super) async fn end(&self, caller: &str, task: JoinHandle<Infallible>) {
        task.abort();
        let Err(ended) = task.await;
        if ended.is_panic() {
            self.world.truth().breaks("panic", &format!("the task of {caller}: {ended}"));
        }
    }

    async fn step(&mut self) {
        self.settle().await;
        self.start_workers();
        self.wake();
        let roll = self.random.f64();
        let mut below = 0.0;
        let mut hits = |chance: f64| {
            below += chance;
            roll < below
        };
        let weather = self.weather.clone();
        if hits(weather.ingest) {
            self.ingest();
        } else if hits(weather.retention) {
            self.remove_a_file();
        } else if hits(weather.crash) {
            let worker = self.somebody();
            self.crash(worker).await;
        } else if hits(weather.freeze) {
            self.freeze();
        } else if hits(weather.clock_jump) {
            self.jump_a_clock();
        } else if hits(weather.burst) {
            self.burst_until = self.world.elapsed() + Duration::from_millis(self.random.u64(1..60_000));
            self.count("burst of 503");
            self.world.say("storage", "503 burst", "", &format!("until {:?}", self.burst_until));
        } else if hits(weather.idle) {
            let time = some_time(&mut self.random);
            tokio::time::sleep(time).await;
        } else {
            self.go_on().await;
        }
    }

    /// Lets one call, or one answer, go on; or time pass, when there is none.
    async fn go_on(&mut self) {
        let now = self.world.elapsed();
        let frozen: BTreeSet<Caller> = self
            .workers
            .iter()
            .filter(|worker| worker.frozen_until > now)
            .map(|worker| Arc::clone(&worker.start.caller))
            .collect();
        let calls: Vec<usize> = (0..self.waiting.len())
            .filter(|at| {
                let (call, ready) = &self.waiting[*at];
                *ready <= now && (call.is_abandoned() || !frozen.contains(&call.caller))
            })
            .collect();
        let answers: Vec<usize> = (0..self.answers.len())
            .filter(|at| self.answers[*at].ready <= now && !frozen.contains(&self.answers[*at].caller))
            .collect();
        if calls.is_empty() && answers.is_empty() {
            let most = Duration::from_millis(self.random.u64(100..30_000));
            let world = Arc::clone(&self.world);
            // Whichever is first: there is something new, or somebody's time has come.
            let _ = tokio::time::timeout(most, world.wire.came()).await;
            return;
        }
        let choice = self.random.usize(..calls.len() + answers.len());
        if let Some(at) = calls.get(choice) {
            let (call, ready) = self.waiting.remove(*at);
            let dies = call.kind.changes_storage() && self.random.f64() < self.weather.crash_at_change;
            let caller = dies.then(|| self.workers.iter().position(|w| w.start.caller == call.caller)).flatten();
            match caller.filter(|_| !call.is_abandoned()) {
                None => self.carry_out(call),
                Some(worker) => {
                    self.waiting.push((call, ready));
                    self.crash(worker).await;
                }
            }
        } else {
            let answer = self.answers.remove(answers[choice - calls.len()]);
            (answer.deliver)();
        }
    }

    pub(super) fn carry_out(&mut self, call: Waiting) {
        let abandoned = call.is_abandoned();
        if abandoned && !call.kind.changes_storage() {
            return; // nobody would notice
        }
        let (kind, what, caller, object) = (call.kind, call.what, Arc::clone(&call.caller), call.object.clone());
        let in_burst = self.world.elapsed() < self.burst_until;
        let fault = self.weather.fault(&mut self.random, kind, in_burst);
        self.effects += u64::from(kind.is_effect(what));
        let (deliver, mut outcome) = call.run(fault);
        if let Some(fault) = fault.filter(|fault| fault.happened(&outcome)) {
            self.count(weather::name((kind, what), fault));
        }
        if fault.is_some_and(|fault| fault != Fault::Stale || fault.happened(&outcome)) {
            self.world.fails(&caller);
        }
        if abandoned {
            self.count("request for nobody");
            outcome.push_str(", FOR NOBODY");
        }
        self.world.say(&caller, what, &object, &outcome);
        if self.random.f64() < self.weather.slow {
            self.count("slow answer");
            let ready = self.world.elapsed() + some_time(&mut self.random);
            self.answers.push(Answer { deliver, caller, ready });
        } else {
            deliver();
        }
    }

    fn count(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }

    fn ingest(&mut self) {
        if self.files >= MAX_FILES {
            return;
        }
        self.files += 1;
        let partition = self.partitions[self.random.usize(..self.partitions.len())].clone();
        if self.random.u8(..) < 8 {
            self.world.ingest_damaged(&partition);
            return;
        }
        let start = partition.hour().start().timestamp_micros();
        let times: Vec<i64> = (0..self.random.usize(1..8)).map(|_| start + self.random.i64(0..3_600_000_000)).collect();
        self.world.ingest(&partition, &times);
    }

    /// Somebody removes a raw file for good: often one of a partition in which outputs are just coming in.
    fn remove_a_file(&mut self) {
        let is_output = |call: &Waiting| call.kind.changes_storage() && call.object.ends_with("_compacted.parquet");
        let busy = self.waiting.iter().find(|(call, _)| is_output(call) && !call.is_abandoned());
        let busy = busy.and_then(|(call, _)| Some(place(&call.object)?.0));
        let any = self.partitions[self.random.usize(..self.partitions.len())].clone();
        let partition = busy.filter(|_| self.random.u8(..4) > 0).unwrap_or(any);
        let files = self.world.removable(&partition);
        if !files.is_empty() {
            self.world.remove(&partition, &files[self.random.usize(..files.len())]);
            self.count("file removed by others");
        }
    }

    /// One at a time: a start is at work on its machine's disk before its first call.
    fn start_workers(&mut self) {
        let now = self.world.elapsed();
        for worker in 0..self.workers.len() {
            if self.workers[worker].task.is_none() && self.workers[worker].back_at <= now {
                let manager = self.start(worker);
                let (world, now) = (Arc::clone(&self.world), &mut self.workers[worker]);
                let work = work_for_ever(world, Arc::clone(&now.start.caller), manager, now.pause);
                now.task = Some(tokio::spawn(work));
                return;
            }
        }
    }

    /// A new start of a worker, with nothing in its memory.
    pub(super) fn start(&mut self, worker: usize) -> CompactionManager {
        let seed = self.random.u64(..);
        let worker = &mut self.workers[worker];
        worker.starts += 1;
        worker.start.caller = format!("w{}.{}", worker.number, worker.starts).into();
        worker.start.seed = seed;
        self.world.say(&worker.start.caller, "starts", "", &format!("machine {}", worker.machine));
        self.machines[worker.machine].start(&self.world, &worker.start, &self.settings)
    }

    /// A worker for whom it is a bad moment: often one that is about to change storage.
    fn somebody(&mut self) -> usize {
        let (any, at_any_moment) = (self.random.usize(..self.workers.len()), self.random.bool());
        let busy = self.waiting.iter().find(|(call, _)| call.kind.changes_storage() && !call.is_abandoned());
        let busy = busy.and_then(|(call, _)| self.workers.iter().position(|w| w.start.caller == call.caller));
        busy.filter(|_| !at_any_moment).unwrap_or(any)
    }

    /// A worker dies where it stands. What it had asked for may still arrive.
    pub(super) async fn crash(&mut self, worker: usize) {
        let Some(task) = self.workers[worker].task.take() else { return };
        let (start, machine) = (self.workers[worker].start.clone(), self.workers[worker].machine);
        let folders = self.machines[machine].remember_folders();
        self.end(&start.caller, task).await;
        // Its own tasks go when they are looked at next.
        tokio::time::sleep(STEP).await;
        self.machines[machine].bury(&start, &folders);
        self.answers.retain(|answer| answer.caller != start.caller);
        for (call, ready) in std::mem::take(&mut self.waiting) {
            if call.caller != start.caller {
                self.waiting.push((call, ready));
            } else if call.kind.changes_storage() && self.random.f64() < self.weather.haunted {
                let late = some_time(&mut self.random) * self.random.u32(1..4);
                self.waiting.push((call, self.world.elapsed() + late));
            }
        }
        self.workers[worker].back_at = self.world.elapsed() + some_time(&mut self.random);
        self.workers[worker].frozen_until = Duration::ZERO;
        self.workers[worker].frozen_with_lease = None;
        self.count("crash");
        self.world.say(&start.caller, "CRASHES", "", "");
    }

    fn freeze(&mut self) {
        let now = self.world.elapsed();
        let is_at_work = |w: &Worker| {
            w.task.is_some() && w.frozen_until <= now && self.machines[w.machine].has_a_lease(&self.world, &w.start)
        };
        let at_work: Vec<bool> = self.workers.iter().map(is_at_work).collect();
        let busy = at_work.iter().position(|at_work| *at_work).filter(|_| self.random.bool());
        let worker = busy.unwrap_or_else(|| self.somebody());
        let at_least = if self.random.bool() { self.settings.lock_ttl } else { Duration::ZERO };
        let until = now + at_least + some_time(&mut self.random) * 2;
        let frozen = &mut self.workers[worker];
        frozen.frozen_until = until;
        if at_work[worker] {
            frozen.frozen_with_lease = Some(now);
        }
        self.count("frozen worker");
        self.world.say(&self.workers[worker].start.caller, "FREEZES", "", &format!("until {until:?}"));
    }

    /// Counts those who go on after their lease has run out.
    fn wake(&mut self) {
        let now = self.world.elapsed();
        for worker in 0..self.workers.len() {
            let woken = &mut self.workers[worker];
            if woken.frozen_until <= now
                && let Some(since) = woken.frozen_with_lease.take()
                && woken.frozen_until.saturating_sub(since) > self.settings.lock_ttl
            {
                self.count("worker that slept through its lease");
            }
        }
    }

    fn jump_a_clock(&mut self) {
        let machine = self.random.usize(..self.machines.len());
        let by = some_offset(&mut self.random);
        self.machines[machine].clock.jump(by);
        self.count("clock jump");
        self.world.say("storage", "clock jumps", &format!("machine {machine}"), &format!("{}s", by.num_seconds()));
    }
}

async fn work_for_ever(world: Arc<World>, caller: Caller, manager: CompactionManager, pause: Duration) -> Infallible {
    loop {
        let work = Work::begins(&world, &caller);
        match manager.run_compaction_cycle(Scope::default(), CancellationToken::new()).await {
            Ok(report) => work.check(&report),
            Err(error) => world.truth().breaks("no excuse", &format!("{caller} is alone and cannot begin: {error}")),
        }
        tokio::time::sleep(pause).await;
    }
}
