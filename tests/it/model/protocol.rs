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
    ATTEMPTS, Answer, EARLY, Files, JANITOR, LATE, Look, Output, RAW, REPLACED, REUSED, Rec, Rows, World, each, once,
    output, row_of,
};

/// What takes part in a history. Everything else is the same in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl Setup {
    pub const WORKERS: Self =
        Self { starts: [2, 2], late_file: true, reused_name: true, reader: false, lost_record: false };
    pub const READER: Self =
        Self { starts: [2, 1], late_file: true, reused_name: false, reader: true, lost_record: false };
    pub const LOST_RECORDS: Self =
        Self { starts: [2, 2], late_file: false, reused_name: false, reader: false, lost_record: true };
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// Before planning.
    First,
    /// After the commit: forget everything, and tidy.
    Last,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum At {
    Start,
    List { head: Option<Rec> },
    /// Without J1: what was listed before the head is read.
    Listed { files: Files, records: u8 },
    Doubt { head: Option<Rec> },
    Tidy { files: Files, records: u8, failed: bool },
    Void { generation: u8 },
    Publish { commit: Rec },
    Commit { generation: u8 },
    Finished,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Worker {
    /// Starts that are used up.
    start: u8,
    phase: Phase,
    at: At,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reader {
    Idle,
    /// To begin again, or without S1 before the head is read.
    Restart { wanted: Rows },
    List { wanted: Rows, head: Option<Rec> },
    Page { wanted: Rows, head: Option<Rec>, raw_first: bool, listed: Files, records: u8 },
    Verify { wanted: Rows, head: Option<Rec>, listed: Files, records: u8 },
    Done,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
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
    PublicationTakesEffect { attempt: u8 },
    CreateTakesEffect(Rec),
    NewestRecordIsLost,
    /// The worker's next call on storage, answered well.
    Works(usize),
    /// The next deletion fails.
    DeletionFails(usize),
    /// The worker gives up a publication.
    GivesUp(usize),
    Crashes(usize),
    Reads { raw_first: bool },
}

/// The answers of production code, which is asked once for each look.
type Answers = HashMap<(Look, u8), Answer>;

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

    fn answer(&self, look: Look, attempt: u8) -> Answer {
        let key = (look, attempt);
        if let Some(answer) = self.answers.lock().unwrap().get(&key) {
            return *answer;
        }
        let answer = key.0.answer(attempt, self.without);
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
        world.rows_in(self.live_in(Look::new(world, world.head(), world.files, world.stored)))
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
            let look = Look::new(world, world.head(), world.files, world.stored);
            match self.answer(look.clone(), JANITOR) {
                Answer::LookAgain | Answer::Doubt => return false,
                Answer::Tidy { files, records } => {
                    world.files &= !files;
                    world.stored &= !records;
                }
                Answer::Void { record, .. } => drop(take_effect(world, record)),
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

/// A create reaches storage. Whether it makes a second head of one generation; below the head it makes no difference.
fn take_effect(world: &mut World, record: Rec) -> bool {
    let slot = usize::from(record.generation) - 1;
    let becomes_head = record.generation > world.head_generation();
    world.stored |= 1 << record.generation;
    if !becomes_head {
        return false;
    }
    world.records.resize(world.records.len().max(slot + 1), None);
    let earlier = world.records[slot].replace(record);
    earlier.is_some_and(|e| e != record)
}

impl State {
    fn violate(&mut self, property: &'static str) {
        if !self.violated.contains(&property) {
            self.violated.push(property);
            self.violated.sort_unstable();
        }
    }

    /// I3: a file may go if some record retired it, or has its slot and does not name it.
    fn delete(&mut self, file: Files, only_this: bool) {
        let world = &mut self.world;
        let file = if file == REPLACED && !only_this && world.files & REUSED != 0 { REUSED } else { file };
        if world.files & file == 0 {
            return;
        }
        world.files &= !file;
        let mut records = world.records.iter().flatten();
        let named = if file & RAW != 0 {
            records.any(|r| r.retired & file != 0)
        } else {
            let generation = world.outputs[file.trailing_zeros() as usize - RAW.count_ones() as usize].generation;
            records.any(|r| r.generation >= generation && r.live & file == 0)
        };
        if !named {
            self.violate(rules::DELETIONS);
        }
    }

    fn delete_record(&mut self, generation: u8) {
        if generation == self.world.head_generation() {
            self.violate(rules::DELETIONS);
        }
        self.world.stored &= !(1 << generation);
    }

    fn nobody_works(&self) -> bool {
        self.workers.iter().all(|w| matches!(w.at, At::Finished) || (w.at == At::Start && w.phase == Phase::First))
    }
}

impl Protocol {
    fn attempt(&self, worker: usize, state: &State) -> u8 {
        worker as u8 * 2 + state.workers[worker].start
    }

    /// The end of a start, well or badly.
    fn end(&self, worker: usize, state: &mut State) {
        let w = &mut state.workers[worker];
        w.start += 1;
        w.phase = Phase::First;
        w.at = if w.start < self.setup.starts[worker] { At::Start } else { At::Finished };
        if w.at == At::Finished {
            w.start = 0;
        }
    }

    fn work(&self, worker: usize, state: &mut State) {
        let attempt = self.attempt(worker, state);
        let world = &mut state.world;
        match state.workers[worker].at {
            At::Start if self.lacks(Rule::J1HeadBeforeList) => {
                state.workers[worker].at = At::Listed { files: world.files, records: world.stored };
            }
            At::Start => state.workers[worker].at = At::List { head: world.head() },
            At::List { head } => {
                let look = Look::new(world, head, world.files, world.stored);
                self.act(worker, state, look);
            }
            At::Listed { files, records } => {
                let look = Look::new(world, world.head(), files, records);
                self.act(worker, state, look);
            }
            At::Doubt { head } => {
                if world.head() == head {
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
                    self.settle_after(worker, state);
                }
            }
            At::Commit { generation } => self.forget(worker, state, attempt, generation),
            At::Finished => unreachable!("a finished worker does nothing"),
        }
    }

    /// What a look leads to.
    fn act(&self, worker: usize, state: &mut State, look: Look) {
        let attempt = self.attempt(worker, state);
        let head = look.head;
        let phase = state.workers[worker].phase;
        let at = match self.answer(look, attempt) {
            Answer::LookAgain => At::Start,
            Answer::Doubt => At::Doubt { head },
            Answer::Tidy { files, records } => At::Tidy { files, records, failed: false },
            Answer::Void { record, .. } => {
                send(&mut state.world, record);
                At::Void { generation: record.generation }
            }
            Answer::Settled { inputs, commit: Some(commit) } if phase == Phase::First => {
                let rows = state.world.rows_in(inputs);
                state.world.outputs[usize::from(attempt)] = Output { generation: commit.generation, inputs, rows };
                At::Publish { commit }
            }
            Answer::Settled { .. } => return self.end(worker, state),
        };
        state.workers[worker].at = at;
    }

    /// C2-C4: files first, one at a time; records only when all files went.
    fn tidy(&self, worker: usize, state: &mut State, mut files: Files, mut records: u8, failed: bool) {
        if files != 0 {
            let file = files & files.wrapping_neg();
            files &= !file;
            state.delete(file, !self.lacks(Rule::C2SameObject));
        } else {
            state.delete_record(u8::try_from(records.trailing_zeros()).expect("eight bits"));
            records &= records - 1;
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
        let won = world.record(generation).map(|r| r.author == attempt);
        let delete = match self.without {
            Some(Rule::J6UnknownIsUnknown) if won.is_none() => output(attempt),
            Some(Rule::J6DeletionsFromTheHead) if world.head_generation() > generation => output(attempt),
            Some(Rule::J6InputsFromTheHead) => inputs,
            _ => 0,
        };
        self.settle_after(worker, state);
        if delete != 0 {
            state.workers[worker].at = At::Tidy { files: delete, records: 0, failed: false };
        }
    }

    fn settle_after(&self, worker: usize, state: &mut State) {
        state.workers[worker].phase = Phase::Last;
        state.workers[worker].at = At::Start;
    }

    fn read(&self, state: &mut State, first: bool) {
        let world = &state.world;
        state.reader = match state.reader {
            Reader::Idle | Reader::Restart { .. } => {
                let wanted = match state.reader {
                    Reader::Restart { wanted } => wanted,
                    _ => world.written,
                };
                Reader::List { wanted, head: world.head() }
            }
            Reader::List { wanted, head } => {
                let (listed, records) = page(world, first);
                Reader::Page { wanted, head, raw_first: first, listed, records }
            }
            Reader::Page { wanted, head, raw_first, listed, records } => {
                let (more, more_records) = page(world, !raw_first);
                let (listed, records) = (listed | more, records | more_records);
                let head = if self.lacks(Rule::S1HeadBeforeList) { world.head() } else { head };
                let unchecked = self.lacks(Rule::S1HeadBeforeList) || self.lacks(Rule::S3ListAgain);
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
            Reader::Verify { wanted, head, .. } if world.head() != head => Reader::Restart { wanted },
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
            if world.outputs[usize::from(attempt)].generation > 0 && world.files & output(attempt) == 0 {
                actions.push(Action::PublicationTakesEffect { attempt });
            }
        }
        for create in &world.creates {
            if world.stored & (1 << create.generation) == 0 || self.lacks(Rule::J5CreateIfAbsent) {
                actions.push(Action::CreateTakesEffect(*create));
            }
        }
        if self.setup.lost_record && world.stored != 0 && !world.reused && state.nobody_works() {
            actions.push(Action::NewestRecordIsLost);
        }
        for worker in 0..2 {
            let Worker { at, phase, .. } = state.workers[worker];
            let attempt = self.attempt(worker, state);
            let waits = match at {
                At::Finished => continue,
                At::Void { generation } => world.stored & (1 << generation) == 0 && world.head_generation() < generation,
                At::Publish { .. } => world.files & output(attempt) == 0 && !self.lacks(Rule::PublishFirst),
                _ => false,
            };
            if !waits {
                actions.push(Action::Works(worker));
            }
            if matches!(at, At::Tidy { files, .. } if files != 0) {
                actions.push(Action::DeletionFails(worker));
            }
            if matches!(at, At::Publish { .. }) {
                actions.push(Action::GivesUp(worker));
            }
            if (at, phase) != (At::Start, Phase::First) {
                actions.push(Action::Crashes(worker));
            }
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
                let live = self.live_in(Look::new(world, world.head(), world.files, world.stored));
                if live & REPLACED != 0 {
                    world.written &= !row_of(REPLACED);
                }
                world.files = world.files & !REPLACED | REUSED;
                world.written |= row_of(REUSED);
                world.reused = true;
            }
            Action::PublicationTakesEffect { attempt } => world.files |= output(attempt),
            Action::CreateTakesEffect(record) => {
                let slot = world.record(record.generation);
                let overwrites = world.stored & (1 << record.generation) != 0 && slot.is_some_and(|r| r != record);
                if overwrites {
                    world.records[usize::from(record.generation) - 1] = Some(record);
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
                world.records.truncate(usize::from(head) - 1);
                world.creates.clear();
            }
            Action::Works(worker) => self.work(worker, &mut state),
            Action::DeletionFails(worker) => {
                let At::Tidy { files, records, .. } = state.workers[worker].at else { return None };
                self.tidied(worker, &mut state, files & (files - 1), records, true);
            }
            Action::GivesUp(worker) => self.settle_after(worker, &mut state),
            Action::Crashes(worker) => self.end(worker, &mut state),
            Action::Reads { raw_first } => self.read(&mut state, raw_first),
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
            Property::always(rules::LOST, |m: &Self, s: &State| s.world.written & !once(m.counting_rows(&s.world)) == 0),
            Property::always(rules::DOUBLED, |m: &Self, s: &State| {
                m.counting_rows(&s.world) & !s.world.written == 0
            }),
            Property::always(rules::ONE_WINNER, |_, s: &State| !s.violated.contains(&rules::ONE_WINNER)),
            Property::always(rules::READER, |_, s: &State| !s.violated.contains(&rules::READER)),
            Property::always(rules::NOT_STUCK, |_, s: &State| !s.violated.contains(&rules::NOT_STUCK)),
            Property::always(rules::RESTS, |m: &Self, s: &State| m.comes_to_rest(&s.world)),
        ]);
        if self.without.is_none() {
            properties.extend([
                Property::sometimes("a void closes an open attempt", |_, s: &State| {
                    s.world.records.iter().flatten().any(|r| r.void)
                }),
                Property::sometimes("a compacted file is merged again", |_, s: &State| {
                    s.world.records.iter().flatten().any(|r| r.retired & !RAW != 0)
                }),
                Property::sometimes("the late file is merged", |_, s: &State| {
                    s.world.records.iter().flatten().any(|r| r.retired & LATE != 0)
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
        properties
    }
}
