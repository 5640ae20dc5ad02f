//! The actors: two workers that may crash anywhere, one reader, a writer, and a network that delivers late.
//!
//! ```text
//! worker   Start ─ head ─> List ─ LIST ─┬─> Tidy ── deletions, one at a time ──────────┐
//!            ^                          ├─> Void ── its create is under way ───────────┤
//!            │                          ├─> Doubt ─ head again ────────────────────────┤
//!            │                          └─> Publish ─ re-check ─> Commit ─ (any answer)│
//!            └─────────────────────────────────────────────────────────────────────────┘
//! reader   Idle ─ head ─> List ─ two pages, in either order ─> Verify ─ head again ─> Done
//! ```
//!
//! An action is one call on storage, or one thing that happens to storage. Interleaving makes pauses, so a delayed
//! deletion is a worker that pauses before it. A create or a publication, once sent, may take effect at any later time
//! and any number of times, also after its sender is dead; answers are never relied upon, so lost ones need no action.

use std::collections::HashMap;
use std::sync::Mutex;

use arc::compaction::observe::Sight;
use stateright::{Model, Property};

use super::rules::{self, Rule};
use super::world::{
    ATTEMPTS, Answer, EARLY, Files, JANITOR, LATE, Look, Output, RAW, RAW_FILES, REPLACED, REUSED, Rec, Rows, World,
    each, exchanged, once, output, row_of,
};

/// What takes part in a history. Everything else is the same in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is independent of the others")]
pub struct Setup {
    /// How often each of the two workers starts.
    pub starts: [u8; 2],
    /// A file that arrives at any time.
    pub late_file: bool,
    /// The name of an early file is used again at any time, but not while a create that retires it is under way: within
    /// that time no re-check can help, which is why writers must not do this.
    pub reused_name: bool,
    pub reader: bool,
    /// While nobody works, the newest record is lost: a folder restored in part.
    pub lost_record: bool,
    /// Creates may take effect below the head, and publications twice.
    pub very_late_writes: bool,
    /// Workers may plan, and void, while there is still something to tidy. Ours do not; safety must not rest on it.
    pub untidied: bool,
    /// Who begins may take for the head what it saw last, or that there is none, as `observe_from` does: the LIST that
    /// follows must tell.
    pub guesses: bool,
}

impl Setup {
    /// Two workers with two starts each, and a late file.
    pub const WORKERS: Self = Self {
        starts: [2, 2],
        late_file: true,
        reused_name: false,
        reader: false,
        lost_record: false,
        very_late_writes: false,
        untidied: false,
        guesses: false,
    };
    /// One start each.
    pub const SMALL: Self = Self { starts: [1, 1], ..Self::WORKERS };
    pub const REUSED_NAME: Self = Self { reused_name: true, ..Self::SMALL };
    pub const VERY_LATE: Self = Self { very_late_writes: true, untidied: true, ..Self::SMALL };
    pub const UNTIDIED: Self = Self { untidied: true, ..Self::SMALL };
    pub const READER: Self = Self { reader: true, ..Self::SMALL };
    pub const GUESSES: Self = Self { guesses: true, starts: [2, 1], ..Self::WORKERS };
    pub const GUESSING_READER: Self = Self { guesses: true, ..Self::READER };
    pub const LOST_RECORD: Self = Self { late_file: false, lost_record: true, ..Self::WORKERS };

    /// One start more.
    pub const fn larger(self) -> Self {
        Self { starts: [2, if self.starts[0] == 1 { 1 } else { 2 }], ..self }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Phase {
    /// Before planning.
    First,
    /// After the commit: forget everything, and tidy.
    Last,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum At {
    Start,
    List { head: Option<Rec> },
    Doubt { head: Option<Rec> },
    Tidy { files: Files, records: u8, failed: bool },
    Void { generation: u8 },
    Publish { commit: Rec },
    Commit { generation: u8 },
    Finished,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Worker {
    /// Starts that are used up.
    start: u8,
    phase: Phase,
    at: At,
    /// The newest record that it has seen, if it may guess.
    seen: Option<Rec>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Reader {
    Idle,
    /// To begin again, or without S1 before the head is read.
    Restart {
        wanted: Rows,
    },
    List {
        wanted: Rows,
        head: Option<Rec>,
    },
    Page {
        wanted: Rows,
        head: Option<Rec>,
        raw_first: bool,
        listed: Files,
        records: u8,
    },
    Verify {
        wanted: Rows,
        head: Option<Rec>,
        listed: Files,
        records: u8,
    },
    Done,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct State {
    pub world: World,
    workers: [Worker; 2],
    reader: Reader,
    /// The properties about steps that a step has violated.
    violated: Vec<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    LateFileArrives,
    NameIsUsedAgain,
    PublicationTakesEffect {
        attempt: u8,
    },
    CreateTakesEffect(Rec),
    NewestRecordIsLost,
    /// The worker's next call on storage, answered well.
    Works(usize),
    /// The worker takes this for the head, and LISTs.
    Guesses(usize, Option<Rec>),
    /// The reader takes it for granted that there is no record, and LISTs.
    ReaderGuesses,
    /// The worker goes on as if nothing were to be tidied.
    PlansUntidied(usize),
    /// The next deletion fails.
    DeletionFails(usize),
    /// Or gives up: the next start does the same as its last tidy.
    Crashes(usize),
    Reads {
        raw_first: bool,
    },
}

/// The answers of production code, which is asked once for each look.
type Answers = HashMap<(Look, u8, bool), Answer>;

#[derive(Debug)]
pub struct Protocol {
    setup: Setup,
    without: Option<Rule>,
    answers: Mutex<Answers>,
    live: Mutex<HashMap<Look, Files>>,
    rests: Mutex<HashMap<World, bool>>,
}

impl Protocol {
    pub fn new(setup: Setup, without: Option<Rule>) -> Self {
        Self { setup, without, answers: Mutex::default(), live: Mutex::default(), rests: Mutex::default() }
    }

    fn lacks(&self, rule: Rule) -> bool {
        self.without == Some(rule)
    }

    fn answer(&self, look: Look, attempt: u8, untidied: bool) -> Answer {
        let key = (look, attempt, untidied);
        if let Some(answer) = self.answers.lock().unwrap().get(&key) {
            return *answer;
        }
        let answer = key.0.answer(attempt, untidied, self.without);
        self.answers.lock().unwrap().insert(key, answer);
        answer
    }

    fn live_in(&self, look: Look) -> Files {
        if let Some(live) = self.live.lock().unwrap().get(&look) {
            return *live;
        }
        let live = look.live(self.without);
        self.live.lock().unwrap().insert(look, live);
        live
    }

    /// The rows that count, at this instant.
    fn counting_rows(&self, world: &World) -> Rows {
        world.rows_in(self.live_in(Look::now(world)))
    }

    /// What an undisturbed tidy leaves: exactly what counts, and one record.
    fn comes_to_rest(&self, world: &World) -> bool {
        let mut world = World { creates: Vec::new(), ..world.clone() };
        if let Some(rests) = self.rests.lock().unwrap().get(&world) {
            return *rests;
        }
        let key = world.clone();
        let rests = self.run_to_rest(&mut world);
        self.rests.lock().unwrap().insert(key, rests);
        rests
    }

    fn run_to_rest(&self, world: &mut World) -> bool {
        const MAX_STEPS: usize = 8;
        for _ in 0..MAX_STEPS {
            let look = Look::now(world);
            match self.answer(look.clone(), JANITOR, false) {
                Answer::LookAgain | Answer::Doubt => return false,
                Answer::Tidy { files, records } => {
                    world.files &= !files;
                    world.stored &= !records;
                }
                Answer::Void { record } => drop(take_effect(world, record)),
                Answer::Settled { .. } => {
                    let live = self.live_in(look);
                    return world.files == live
                        && world.stored.count_ones() <= 1
                        && world.rows_in(live) == world.written;
                }
            }
        }
        false
    }
}

/// A create reaches storage. Returns whether it makes a second head of one generation. Below the head it changes nothing.
fn take_effect(world: &mut World, record: Rec) -> bool {
    world.stored |= 1 << record.generation;
    if record.generation <= world.head_generation() {
        return false;
    }
    let second = record.generation <= world.highest;
    become_head(world, record);
    second
}

fn become_head(world: &mut World, record: Rec) {
    world.head = Some(record);
    world.highest = world.highest.max(record.generation);
    world.retired |= record.retired & RAW;
}

impl State {
    fn violate(&mut self, property: &'static str) {
        if !self.violated.contains(&property) {
            self.violated.push(property);
            self.violated.sort_unstable();
        }
    }

    /// I3: a raw file may go if some record retired it, ours if its slot is taken and the head does not name it.
    fn delete(&mut self, file: Files, only_this: bool) {
        let world = &mut self.world;
        let file = if file == REPLACED && !only_this && world.files & REUSED != 0 { REUSED } else { file };
        if world.files & file == 0 {
            return;
        }
        world.files &= !file;
        let named = if file & RAW != 0 {
            world.retired & file != 0
        } else {
            let generation = world.outputs[file.trailing_zeros() as usize - RAW_FILES].generation;
            world.head.is_some_and(|h| generation <= h.generation && h.live & file == 0)
        };
        if !named {
            self.violate(rules::DELETIONS);
        }
    }

    fn delete_record(&mut self, generation: u8) {
        let world = &mut self.world;
        world.stored &= !(1 << generation);
        if generation == world.head_generation() {
            world.head = None;
            self.violate(rules::DELETIONS);
        }
    }

    /// Forgets what can make no difference any more, so that fewer states differ.
    fn forget_the_irrelevant(&mut self, setup: Setup, reader_lists_again: bool, creates_overwrite: bool) {
        // Generations only grow: a reader whose head is no longer the head will find that out, whatever it does before.
        if let Reader::List { wanted, head } | Reader::Page { wanted, head, .. } | Reader::Verify { wanted, head, .. } =
            self.reader
            && head != self.world.head
            && reader_lists_again
            && !setup.guesses
        {
            self.reader = Reader::Restart { wanted };
        }
        let world = &mut self.world;
        if !setup.very_late_writes && !creates_overwrite {
            let head = world.head_generation();
            world.creates.retain(|c| c.generation > head);
        }
        let of = |r: &Rec| r.live | r.retired;
        let mut named = world.files | world.head.as_ref().map_or(0, of);
        named |= world.creates.iter().fold(0, |a, c| a | of(c));
        for worker in &mut self.workers {
            // A record that is gone cannot be read again.
            worker.seen = worker.seen.filter(|r| setup.guesses && world.stored & (1 << r.generation) != 0);
            named |= worker.seen.as_ref().map_or(0, of);
            named |= match worker.at {
                At::List { head } | At::Doubt { head } => head.as_ref().map_or(0, of),
                At::Tidy { files, .. } => files,
                At::Publish { commit } => of(&commit),
                At::Start | At::Void { .. } | At::Commit { .. } | At::Finished => 0,
            };
        }
        named |= match &self.reader {
            Reader::List { head, .. } => head.as_ref().map_or(0, of),
            Reader::Page { head, listed, .. } | Reader::Verify { head, listed, .. } => {
                head.as_ref().map_or(0, of) | listed
            }
            Reader::Idle | Reader::Restart { .. } | Reader::Done => 0,
        };
        for (k, made) in (0..).zip(&world.outputs) {
            if made.under_way || named & output(k) != 0 {
                named |= made.inputs | output(k);
            }
        }
        for (k, made) in (0..).zip(&mut world.outputs) {
            if named & output(k) == 0 {
                *made = Output::default();
            }
        }
    }

    /// The attempt that a worker's start is.
    fn attempt(&self, worker: usize) -> u8 {
        worker as u8 * 2 + self.workers[worker].start
    }

    fn settle_after(&mut self, worker: usize) {
        self.workers[worker].phase = Phase::Last;
        self.workers[worker].at = At::Start;
    }

    /// The same state, with the workers' names exchanged.
    fn exchanged(&self) -> Self {
        let exchange = |w: Worker| Worker {
            at: match w.at {
                At::List { head } => At::List { head: head.map(Rec::exchanged) },
                At::Doubt { head } => At::Doubt { head: head.map(Rec::exchanged) },
                At::Tidy { files, records, failed } => At::Tidy { files: exchanged(files), records, failed },
                At::Publish { commit } => At::Publish { commit: commit.exchanged() },
                same @ (At::Start | At::Void { .. } | At::Commit { .. } | At::Finished) => same,
            },
            seen: w.seen.map(Rec::exchanged),
            ..w
        };
        let reader = match self.reader {
            Reader::List { wanted, head } => Reader::List { wanted, head: head.map(Rec::exchanged) },
            Reader::Page { wanted, head, raw_first, listed, records } => {
                Reader::Page { wanted, head: head.map(Rec::exchanged), raw_first, listed: exchanged(listed), records }
            }
            Reader::Verify { wanted, head, listed, records } => {
                Reader::Verify { wanted, head: head.map(Rec::exchanged), listed: exchanged(listed), records }
            }
            same @ (Reader::Idle | Reader::Restart { .. } | Reader::Done) => same,
        };
        Self {
            world: self.world.exchanged(),
            workers: [exchange(self.workers[1]), exchange(self.workers[0])],
            reader,
            violated: self.violated.clone(),
        }
    }

    fn nobody_works(&self) -> bool {
        self.workers.iter().all(|w| matches!(w.at, At::Finished) || (w.at == At::Start && w.phase == Phase::First))
    }
}

impl Protocol {
    /// The end of a start, well or badly.
    fn end(&self, worker: usize, state: &mut State) {
        let w = &mut state.workers[worker];
        w.start += 1;
        w.phase = Phase::First;
        w.at = if w.start < self.setup.starts[worker] { At::Start } else { At::Finished };
        if w.at == At::Finished {
            w.start = 0;
            w.seen = None;
        }
    }

    fn work(&self, worker: usize, state: &mut State, untidied: bool) {
        let attempt = state.attempt(worker);
        let world = &mut state.world;
        match state.workers[worker].at {
            At::Start => state.workers[worker].at = At::List { head: world.head },
            At::List { head } => {
                let look = Look::new(world, head, world.files, world.stored);
                // What is listed as the newest, and was the head at that moment.
                state.workers[worker].seen = world.head;
                self.act(worker, state, look, untidied);
            }
            At::Doubt { head } => {
                if world.head == head {
                    state.violate(rules::NOT_STUCK);
                    self.end(worker, state);
                } else {
                    state.workers[worker].at = At::Start;
                }
            }
            At::Tidy { files, records, failed } => self.tidy(worker, state, files, records, failed),
            At::Void { .. } => state.workers[worker].at = At::Start,
            At::Publish { commit } => {
                let inputs = world.outputs[usize::from(attempt)].inputs;
                let there = world.files & output(attempt) != 0 || self.lacks(Rule::PublishFirst);
                let unchanged = world.files & inputs == inputs || self.lacks(Rule::J4Recheck);
                if there && unchanged {
                    send(world, commit);
                    state.workers[worker].at = At::Commit { generation: commit.generation };
                } else {
                    state.settle_after(worker);
                }
            }
            At::Commit { generation } => self.forget(worker, state, attempt, generation),
            At::Finished => unreachable!("a finished worker does nothing"),
        }
    }

    /// What a look leads to.
    fn act(&self, worker: usize, state: &mut State, look: Look, untidied: bool) {
        let attempt = state.attempt(worker);
        let head = look.head;
        let phase = state.workers[worker].phase;
        let at = match self.answer(look, if phase == Phase::First { attempt } else { JANITOR }, untidied) {
            Answer::LookAgain => At::Start,
            Answer::Doubt => At::Doubt { head },
            Answer::Tidy { files, records } => At::Tidy { files, records, failed: false },
            Answer::Void { record } => {
                send(&mut state.world, record);
                At::Void { generation: record.generation }
            }
            Answer::Settled { inputs, commit: Some(commit) } => {
                let rows = state.world.rows_in(inputs);
                state.world.outputs[usize::from(attempt)] =
                    Output { generation: commit.generation, inputs, rows, under_way: true };
                At::Publish { commit }
            }
            Answer::Settled { .. } => return self.end(worker, state),
        };
        state.workers[worker].at = at;
    }

    /// C2-C4: files first, one at a time; then, if all went, the records, which decide nothing any more.
    fn tidy(&self, worker: usize, state: &mut State, mut files: Files, mut records: u8, failed: bool) {
        if files != 0 {
            let file = files & files.wrapping_neg();
            files &= !file;
            state.delete(file, !self.lacks(Rule::C2SameObject));
        } else {
            (1..=state.world.highest).filter(|g| records & (1 << g) != 0).for_each(|g| state.delete_record(g));
            records = 0;
        }
        self.tidied(worker, state, files, records, failed);
    }

    fn tidied(&self, worker: usize, state: &mut State, files: Files, records: u8, failed: bool) {
        if files == 0 && failed {
            self.end(worker, state);
        } else if files == 0 && records == 0 {
            state.workers[worker].at = At::Start;
        } else {
            state.workers[worker].at = At::Tidy { files, records, failed };
        }
    }

    /// J6: won, lost or unknown, the worker does the same.
    fn forget(&self, worker: usize, state: &mut State, attempt: u8, generation: u8) {
        let world = &state.world;
        let inputs = world.outputs[usize::from(attempt)].inputs;
        let head = world.head_generation();
        let delete = match self.without {
            Some(Rule::J6UnknownIsUnknown) if head < generation => output(attempt),
            Some(Rule::J6DeletionsFromTheHead) if head > generation => output(attempt),
            Some(Rule::J6InputsFromTheHead) => inputs,
            _ => 0,
        };
        state.settle_after(worker);
        if delete != 0 {
            state.workers[worker].at = At::Tidy { files: delete, records: 0, failed: false };
        }
    }

    fn read(&self, state: &mut State, first: bool) {
        let world = &state.world;
        state.reader = match state.reader {
            Reader::Idle | Reader::Restart { .. } => {
                let wanted = match state.reader {
                    Reader::Restart { wanted } => wanted,
                    _ => world.written,
                };
                Reader::List { wanted, head: world.head }
            }
            Reader::List { wanted, head } => {
                let (listed, records) = page(world, first);
                Reader::Page { wanted, head, raw_first: first, listed, records }
            }
            Reader::Page { wanted, head, raw_first, listed, records } => {
                let (more, more_records) = page(world, !raw_first);
                let (listed, records) = (listed | more, records | more_records);
                let head = if self.lacks(Rule::S1HeadBeforeList) { world.head } else { head };
                let believed = self.lacks(Rule::S1GuessIsChecked) && head.is_none();
                let unchecked = self.lacks(Rule::S1HeadBeforeList) || self.lacks(Rule::S3ListAgain) || believed;
                let look = Look::new(world, head, listed, records);
                if unchecked {
                    return self.read_files(state, look, wanted);
                }
                match look.sight() {
                    Sight::OtherHead => Reader::Restart { wanted },
                    Sight::Consistent | Sight::LiveFileMissing { .. } => {
                        Reader::Verify { wanted, head, listed, records }
                    }
                }
            }
            Reader::Verify { wanted, head, .. } if world.head != head => Reader::Restart { wanted },
            Reader::Verify { wanted, head, listed, records } => {
                let look = Look::new(world, head, listed, records);
                if look.sight() == Sight::Consistent {
                    return self.read_files(state, look, wanted);
                }
                state.violate(rules::NOT_STUCK);
                Reader::Done
            }
            Reader::Done => Reader::Done,
        };
    }

    /// S4. A file that vanishes while it is read makes the reader begin again, so only the case that none does matters.
    fn read_files(&self, state: &mut State, look: Look, wanted: Rows) {
        let seen = state.world.rows_in(self.live_in(look));
        let wanted = wanted & state.world.written;
        if seen != once(seen) || wanted & !seen != 0 {
            state.violate(rules::READER);
        }
        state.reader = Reader::Done;
    }
}

fn send(world: &mut World, record: Rec) {
    if !world.creates.contains(&record) {
        world.creates.push(record);
        world.creates.sort_unstable();
    }
}

/// A page of a listing: the raw files, or ours and the records.
fn page(world: &World, raw: bool) -> (Files, u8) {
    if raw { (world.files & RAW, 0) } else { (world.files & !RAW, world.stored) }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let written = each(EARLY).map(row_of).sum();
        let worker = |w: usize| Worker {
            start: 0,
            phase: Phase::First,
            at: if self.setup.starts[w] == 0 { At::Finished } else { At::Start },
            seen: None,
        };
        vec![State {
            world: World { files: EARLY, written, ..World::default() },
            workers: [worker(0), worker(1)],
            reader: if self.setup.reader { Reader::Idle } else { Reader::Done },
            violated: Vec::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let world = &state.world;
        if self.setup.late_file && world.written & row_of(LATE) == 0 {
            actions.push(Action::LateFileArrives);
        }
        let retiring = |r: &Rec| r.retired & REPLACED != 0 && r.generation > world.head_generation();
        if self.setup.reused_name && !world.reused && !world.creates.iter().any(retiring) {
            actions.push(Action::NameIsUsedAgain);
        }
        for attempt in 0..ATTEMPTS as u8 {
            if world.outputs[usize::from(attempt)].under_way && world.files & output(attempt) == 0 {
                actions.push(Action::PublicationTakesEffect { attempt });
            }
        }
        for create in &world.creates {
            if world.stored & (1 << create.generation) == 0 || self.lacks(Rule::J5CreateIfAbsent) {
                actions.push(Action::CreateTakesEffect(*create));
            }
        }
        if self.setup.lost_record && world.stored.is_power_of_two() && !world.reused && state.nobody_works() {
            actions.push(Action::NewestRecordIsLost);
        }
        for worker in 0..2 {
            let Worker { at, phase, seen, .. } = state.workers[worker];
            let attempt = state.attempt(worker);
            let waits = match at {
                At::Finished => continue,
                At::Void { generation } => {
                    world.stored & (1 << generation) == 0 && world.head_generation() < generation
                }
                At::Publish { .. } => world.files & output(attempt) == 0 && !self.lacks(Rule::PublishFirst),
                _ => false,
            };
            if !waits {
                actions.push(Action::Works(worker));
            }
            if self.setup.guesses && at == At::Start {
                // The same as to read it, if it is right.
                let guesses = [None, seen];
                actions.extend(guesses.into_iter().filter(|g| *g != world.head).map(|g| Action::Guesses(worker, g)));
            }
            if self.setup.untidied && matches!(at, At::List { .. }) {
                actions.push(Action::PlansUntidied(worker));
            }
            if matches!(at, At::Tidy { files, .. } if files != 0) {
                actions.push(Action::DeletionFails(worker));
            }
            // A worker that crashes while it only reads is one that has crashed before, or one that goes on.
            if !matches!((at, phase), (At::Start, Phase::First) | (At::List { .. } | At::Doubt { .. }, _)) {
                actions.push(Action::Crashes(worker));
            }
        }
        if self.setup.guesses && matches!(state.reader, Reader::Idle | Reader::Restart { .. }) && world.head.is_some() {
            actions.push(Action::ReaderGuesses);
        }
        match state.reader {
            Reader::Done => {}
            Reader::List { .. } => {
                actions.extend([Action::Reads { raw_first: true }, Action::Reads { raw_first: false }]);
            }
            _ => actions.push(Action::Reads { raw_first: false }),
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let world = &mut state.world;
        match action {
            Action::LateFileArrives => {
                world.files |= LATE;
                world.written |= row_of(LATE);
            }
            Action::NameIsUsedAgain => {
                // Rows that still count from this file are replaced by the writer; rows that were merged stay.
                let live = self.live_in(Look::now(world));
                if live & REPLACED != 0 {
                    world.written &= !row_of(REPLACED);
                }
                world.files = world.files & !REPLACED | REUSED;
                world.written |= row_of(REUSED);
                world.reused = true;
            }
            Action::PublicationTakesEffect { attempt } => {
                world.files |= output(attempt);
                world.outputs[usize::from(attempt)].under_way = self.setup.very_late_writes;
            }
            Action::CreateTakesEffect(record) => {
                let overwrites = world.head.filter(|h| h.generation == record.generation).is_some_and(|h| h != record);
                if overwrites {
                    become_head(world, record);
                }
                if take_effect(world, record) || overwrites {
                    state.violate(rules::ONE_WINNER);
                }
            }
            Action::NewestRecordIsLost => {
                // Once, and nothing of it is under way any more.
                world.reused = true;
                let head = world.head_generation();
                world.stored &= !(1 << head);
                world.head = None;
                world.creates.clear();
            }
            Action::Works(worker) => self.work(worker, &mut state, false),
            Action::PlansUntidied(worker) => self.work(worker, &mut state, true),
            Action::DeletionFails(worker) => {
                let At::Tidy { files, records, .. } = state.workers[worker].at else { return None };
                self.tidied(worker, &mut state, files & (files - 1), records, true);
            }
            Action::Guesses(worker, head) => state.workers[worker].at = At::List { head },
            Action::ReaderGuesses => {
                let wanted = match state.reader {
                    Reader::Restart { wanted } => wanted,
                    _ => world.written,
                };
                state.reader = Reader::List { wanted, head: None };
            }
            Action::Crashes(worker) => self.end(worker, &mut state),
            Action::Reads { raw_first } => self.read(&mut state, raw_first),
        }
        let reader_lists_again = !matches!(self.without, Some(Rule::S1HeadBeforeList | Rule::S3ListAgain));
        state.forget_the_irrelevant(self.setup, reader_lists_again, self.lacks(Rule::J5CreateIfAbsent));
        if self.without.is_none() && self.setup.starts[0] == self.setup.starts[1] {
            // Workers that do the same are told apart by nothing but their number. A trace may exchange them on the way.
            state = state.exchanged().min(state);
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(rules::DESTROYED, |_, s: &State| {
                s.world.written & !once(s.world.rows_in(s.world.files)) == 0
            }),
            Property::always(rules::DELETIONS, |_, s: &State| !s.violated.contains(&rules::DELETIONS)),
        ];
        if self.setup.lost_record {
            // Whoever loses records may be stuck, and his rows may not count, until a person has looked.
            properties.truncate(1);
            return properties;
        }
        properties.extend([
            Property::always(rules::LOST, |m: &Self, s: &State| {
                s.world.written & !once(m.counting_rows(&s.world)) == 0
            }),
            Property::always(rules::DOUBLED, |m: &Self, s: &State| m.counting_rows(&s.world) & !s.world.written == 0),
            Property::always(rules::ONE_WINNER, |_, s: &State| !s.violated.contains(&rules::ONE_WINNER)),
            Property::always(rules::READER, |_, s: &State| !s.violated.contains(&rules::READER)),
            Property::always(rules::NOT_STUCK, |_, s: &State| !s.violated.contains(&rules::NOT_STUCK)),
            Property::always(rules::RESTS, |m: &Self, s: &State| m.comes_to_rest(&s.world)),
        ]);
        if self.without.is_none() {
            properties.extend([
                Property::sometimes("a void closes an open attempt", |_, s: &State| {
                    s.world.head.is_some_and(|r| r.void)
                }),
                Property::sometimes("two attempts reach for one generation", |_, s: &State| {
                    let creates = &s.world.creates;
                    creates.iter().any(|a| creates.iter().any(|b| a.generation == b.generation && a.author != b.author))
                }),
                Property::sometimes("everything ends", |_, s: &State| {
                    s.reader == Reader::Done && s.workers.iter().all(|w| w.at == At::Finished)
                }),
            ]);
        }
        if self.without.is_none() && self.setup.late_file {
            properties.push(Property::sometimes("a compacted file is merged with a late one", |_, s: &State| {
                s.world.head.is_some_and(|r| r.retired & LATE != 0 && r.retired & !RAW != 0)
            }));
        }
        properties
    }
}
