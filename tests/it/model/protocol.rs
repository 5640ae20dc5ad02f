//! What happens: two workers that may crash anywhere, one reader, a writer, and a network that delivers late.
//!
//! ```text
//! worker   Start ─ head and LIST ─┬─> Tidy ── deletions, one at a time ───────> Start
//!            (or Page ─ LIST)     ├─> (a void is sent) ───────────────────────> Start
//!                                 ├─> Doubt ─ head again ─────────────────────> Start
//!                                 └─> Publish ─ re-check ─> (a commit is sent) > Start
//! reader   Idle ─ head and a page ─> Page ─ the other page, head again ─> (Read ─ what counts ─>) Idle
//! ```
//!
//! An action is one call on storage, or one thing that happens to storage. Interleaving makes pauses, so a delayed
//! deletion is a worker that pauses before it. A create or a publication, once sent, may take effect at any later time
//! and any number of times, also after its sender is dead; answers are never relied upon, so lost ones need no action, and
//! to wait for one is to do nothing for a while. A crash loses what a worker knows and takes it back to where it begins.
//!
//! To read the head and to LIST in one page are one action: whoever finds that the newest record listed is the one that he has
//! read, read it while it was the head, because heads only grow. So nothing happened to it in between, and he might as
//! well have read it together with the LIST. If they differ, he begins again as if he had not looked. With two pages this is not so.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use arc::compaction::observe::Sight;
use foldhash::quality::FixedState;
use stateright::{Model, Property};

use super::rules::{self, Rule};
use super::setup::Setup;
use super::state::{At, Page, Reader, State, Worker};
use super::world::{
    ATTEMPTS, Answer, Files, JANITOR, LATE, Look, OF_A_WORKER, Output, RAW, REPLACED, REUSED, Rec, Rows, World, each,
    once, output, row_of,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    LateFileArrives(Files),
    NameIsUsedAgain,
    PublicationTakesEffect {
        attempt: u8,
    },
    CreateTakesEffect(Rec),
    NewestRecordIsLost,
    /// A file that counts is lost, while what it was made of is still there.
    LiveFileIsLost(Files),
    /// The worker's next call on storage, answered well.
    Works(usize),
    /// The worker reads the head, and LISTs this page.
    Lists(usize, Page),
    /// The worker takes this for the head, and LISTs.
    Guesses(usize, Option<Rec>),
    /// The reader reads the head, and LISTs this page.
    ReaderLists(Page),
    /// The reader takes it for granted that there is no record, and LISTs this page.
    ReaderGuesses(Page),
    /// The worker goes on as if nothing were to be tidied.
    PlansUntidied(usize),
    /// The next deletion fails.
    DeletionFails(usize),
    /// Or gives up.
    Crashes(usize),
    /// The reader LISTs the other page, looks at the records again, and, unless that is a step of its own, reads what counts.
    Reads,
    /// The reader reads what counts.
    ReadsFiles,
}

/// What was seen to happen on the way. A state does not tell, and if it did there would be many times as many states.
#[derive(Debug, Default)]
pub struct Witnessed {
    /// A worker that had committed crashed with files left to delete, and another cleared all away.
    pub handed_over: AtomicBool,
    pub deletion_failed: AtomicBool,
    /// A worker had several records to delete.
    pub several_records: AtomicBool,
    /// A worker saw a file of a generation that cannot exist yet.
    pub gap: AtomicBool,
    /// The reader was done with a look at a partition that has a head.
    pub read: AtomicBool,
}

fn witness(what: &AtomicBool) {
    what.store(true, Ordering::Relaxed);
}

/// The answers of production code, which is asked once for each question.
///
/// Questions are told apart by 64 bits of hash, as states are by the checker.
#[derive(Debug)]
struct Answers<T>(Mutex<HashMap<u64, T, FixedState>>);

impl<T: Copy> Answers<T> {
    fn new() -> Self {
        Self(Mutex::default())
    }

    fn get(&self, question: &impl Hash, ask: impl FnOnce() -> T) -> T {
        let key = FixedState::with_seed(1).hash_one(question);
        if let Some(answer) = self.0.lock().unwrap().get(&key) {
            return *answer;
        }
        let answer = ask();
        self.0.lock().unwrap().insert(key, answer);
        answer
    }
}

#[derive(Debug)]
pub struct Protocol {
    pub setup: Setup,
    without: Option<Rule>,
    pub witnessed: Witnessed,
    answers: Answers<Answer>,
    live: Answers<Files>,
    rests: Answers<bool>,
}

impl Protocol {
    pub fn new(setup: Setup, without: Option<Rule>) -> Self {
        Self {
            setup,
            without,
            witnessed: Witnessed::default(),
            answers: Answers::new(),
            live: Answers::new(),
            rests: Answers::new(),
        }
    }

    fn lacks(&self, rule: Rule) -> bool {
        self.without == Some(rule)
    }

    fn answer(&self, look: &Look, attempt: u8, untidied: bool) -> Answer {
        self.answers.get(&(look, attempt, untidied), || {
            if look.has_gap() {
                witness(&self.witnessed.gap);
            }
            look.answer(attempt, untidied, self.without)
        })
    }

    fn live_in(&self, look: &Look) -> Files {
        self.live.get(look, || look.live(self.without))
    }

    /// The rows that count, at this instant.
    fn counting_rows(&self, world: &World) -> Rows {
        world.rows_in(self.live_in(&Look::now(world)))
    }

    /// Whether there is nothing to tidy or to close.
    pub fn is_settled(&self, world: &World) -> bool {
        matches!(self.answer(&Look::now(world), JANITOR, false), Answer::Settled { .. })
    }

    /// What an undisturbed tidy leaves: exactly what counts, and one record.
    fn comes_to_rest(&self, world: &World) -> bool {
        let mut world = World { creates: Vec::new(), ..world.clone() };
        self.rests.get(&world.clone(), || self.run_to_rest(&mut world))
    }

    fn run_to_rest(&self, world: &mut World) -> bool {
        const MAX_STEPS: usize = 8;
        for _ in 0..MAX_STEPS {
            let look = Look::now(world);
            match self.answer(&look, JANITOR, false) {
                Answer::LookAgain | Answer::Doubt | Answer::Fault { .. } => return false,
                Answer::Tidy { files, records } => {
                    world.files &= !files;
                    world.stored &= !records;
                }
                Answer::Void { record } => drop(take_effect(world, record)),
                Answer::Settled { .. } => {
                    let live = self.live_in(&look);
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

fn send(world: &mut World, record: Rec) {
    if !world.creates.contains(&record) {
        world.creates.push(record);
        world.creates.sort_unstable();
    }
}

impl Protocol {
    fn work(&self, worker: usize, state: &mut State, untidied: bool) {
        let world = &mut state.world;
        let at = match state.workers[worker].at {
            At::Start => {
                let look = Look::now(world);
                self.act(worker, state, &look, untidied)
            }
            At::List { head } => {
                let look = Look::new(world, head, world.files, world.stored);
                self.act(worker, state, &look, untidied)
            }
            At::Page { head, seen, listed, records } => {
                let (more, more_records) = seen.other().of(world);
                let head = if self.lacks(Rule::J1HeadBeforeList) { world.head } else { head };
                let look = Look::new(world, head, listed | more, records | more_records);
                self.act(worker, state, &look, untidied)
            }
            At::Doubt { head, missing } => {
                let unchanged = world.head == head;
                state.workers[worker].suspects =
                    missing.filter(|_| unchanged).map(|missing| (world.head_generation(), missing));
                if unchanged && missing.is_none() {
                    state.violate(rules::NOT_STUCK);
                }
                At::Start
            }
            At::Tidy { files, records } => self.tidy(state, files, records),
            At::Publish { commit } => {
                let inputs = world.outputs[usize::from(commit.author)].inputs;
                let there = world.files & output(commit.author) != 0 || self.lacks(Rule::PublishFirst);
                let unchanged = world.files & inputs == inputs || self.lacks(Rule::J4Recheck);
                let forgets = matches!(
                    self.without,
                    Some(Rule::J6UnknownIsUnknown | Rule::J6DeletionsFromTheHead | Rule::J6InputsFromTheHead)
                );
                if there && unchanged {
                    send(world, commit);
                }
                if there && unchanged && forgets {
                    At::Commit { generation: commit.generation, attempt: commit.author }
                } else {
                    At::Start
                }
            }
            At::Commit { generation, attempt } => self.remember(&state.world, generation, attempt),
        };
        state.workers[worker].at = at;
    }

    /// What a look leads to.
    fn act(&self, worker: usize, state: &mut State, look: &Look, untidied: bool) -> At {
        // What is listed as the newest, and was the head at that moment.
        state.workers[worker].seen = state.world.head;
        let may_plan = state.workers[worker].attempts < self.setup.attempts[worker];
        let attempt = if may_plan { state.next_attempt(worker) } else { JANITOR };
        let suspects = state.workers[worker].suspects.take();
        match self.answer(look, attempt, untidied) {
            Answer::LookAgain | Answer::Settled { commit: None, .. } => At::Start,
            Answer::Doubt => At::Doubt { head: look.head, missing: None },
            Answer::Fault { missing } => {
                let again = suspects.is_some_and(|(_, suspected)| suspected == missing);
                At::Doubt { head: look.head, missing: Some(missing).filter(|&file| file != 0 && !again) }
            }
            Answer::Tidy { files, records } => At::Tidy { files, records },
            Answer::Void { record } => {
                send(&mut state.world, record);
                At::Start
            }
            Answer::Settled { inputs, commit: Some(commit) } => {
                let rows = state.world.rows_in(inputs);
                state.world.outputs[usize::from(attempt)] =
                    Output { generation: commit.generation, inputs, rows, under_way: true };
                state.workers[worker].attempts += 1;
                At::Publish { commit }
            }
        }
    }

    /// C2-C4: files first, one at a time; then, if all went, the records, which decide nothing any more, lowest first.
    fn tidy(&self, state: &mut State, mut files: Files, records: u8) -> At {
        if files == 0 {
            if !records.is_power_of_two() {
                witness(&self.witnessed.several_records);
            }
            let highest_first = self.lacks(Rule::C4LowestFirst);
            let record = if highest_first { records.ilog2() } else { records.trailing_zeros() } as u8;
            state.delete_record(record);
            return tidying(0, records & !(1 << record));
        }
        let file = files & files.wrapping_neg();
        files &= !file;
        state.delete(file, !self.lacks(Rule::C2SameObject));
        tidying(files, records)
    }

    /// J6: won, lost or unknown, a worker forgets everything. This one does not.
    fn remember(&self, world: &World, generation: u8, attempt: u8) -> At {
        let head = world.head_generation();
        let files = match self.without {
            Some(Rule::J6UnknownIsUnknown) if head < generation => output(attempt),
            Some(Rule::J6DeletionsFromTheHead) if head > generation => output(attempt),
            Some(Rule::J6InputsFromTheHead) => world.outputs[usize::from(attempt)].inputs,
            _ => 0,
        };
        tidying(files, 0)
    }

    /// The second page, and the look at the records after it (S3).
    fn read(&self, state: &mut State) {
        let Reader::Page { wanted, head, seen, listed, records } = state.reader else { return };
        state.reader = Reader::Idle;
        let world = &state.world;
        let (more, more_records) = seen.other().of(world);
        let head = if self.lacks(Rule::S1HeadBeforeList) { world.head } else { head };
        let look = Look::new(world, head, listed | more, records | more_records);
        let believed = self.lacks(Rule::S1GuessIsChecked) && head.is_none();
        if self.lacks(Rule::S1HeadBeforeList) || self.lacks(Rule::S3ListAgain) || believed {
            return self.read_files(state, &look, wanted);
        }
        match look.sight() {
            Sight::OtherHead => {}
            _ if head != world.head => {}
            Sight::Consistent if self.setup.reads_later => {
                let live = self.live_in(&look);
                state.reader = Reader::Read { wanted, live, rows: world.rows_in(live) };
            }
            Sight::Consistent => self.read_files(state, &look, wanted),
            Sight::LiveFileMissing { .. } => state.violate(rules::NOT_STUCK),
        }
    }

    /// S4. A file that vanishes while it is read makes the reader begin again, so only the case that none does matters.
    fn read_files(&self, state: &mut State, look: &Look, wanted: Rows) {
        if look.head.is_some() {
            witness(&self.witnessed.read);
        }
        has_read(state, wanted, state.world.rows_in(self.live_in(look)));
    }

    /// A worker has just crashed with these files left to delete. Whether the other, alone, clears all away.
    fn hands_over(&self, crashed: usize, state: &State, files: Files) {
        const MAX_STEPS: usize = 24;
        let committed =
            state.world.head.filter(|h| usize::from(h.author) / OF_A_WORKER == crashed && h.retired & files != 0);
        if committed.is_none() || self.witnessed.handed_over.load(Ordering::Relaxed) {
            return;
        }
        let other = 1 - crashed;
        let mut state = state.clone();
        for _ in 0..MAX_STEPS {
            if state.world.files & files == 0 && self.is_settled(&state.world) {
                return witness(&self.witnessed.handed_over);
            }
            let mut actions = Vec::new();
            self.actions_of(other, &state, &mut actions);
            let mut goes_on = actions.into_iter().filter(|a| matches!(a, Action::Works(_) | Action::Lists(..)));
            let Some(next) = goes_on.next().and_then(|action| self.step(&state, action)) else { return };
            state = next;
        }
    }
}

fn has_read(state: &mut State, wanted: Rows, seen: Rows) {
    let wanted = wanted & state.world.written;
    if seen != once(seen) || wanted & !seen != 0 {
        state.violate(rules::READER);
    }
}

fn tidying(files: Files, records: u8) -> At {
    if files == 0 && records == 0 { At::Start } else { At::Tidy { files, records } }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(self.setup)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let world = &state.world;
        let arrives = |file: &Files| world.written & row_of(*file) == 0;
        actions.extend(each(self.setup.late).filter(arrives).map(Action::LateFileArrives));
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
        if self.setup.lost_file && !world.reused && state.nobody_works() {
            let of_head = each(world.head.map_or(0, |h| h.live) & world.files);
            let merged_anew = |file: &Files| world.written & !once(world.rows_in(world.files & !file)) == 0;
            actions.extend(of_head.filter(merged_anew).map(Action::LiveFileIsLost));
        }
        for worker in 0..2 {
            self.actions_of(worker, state, actions);
        }
        match state.reader {
            Reader::Page { .. } => actions.push(Action::Reads),
            Reader::Read { .. } => actions.push(Action::ReadsFiles),
            Reader::Idle if self.setup.reader => {
                actions.extend(Page::FIRST.map(Action::ReaderLists));
                if self.setup.guesses && world.head.is_some() {
                    actions.extend(Page::FIRST.map(Action::ReaderGuesses));
                }
            }
            Reader::Idle => {}
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = self.step(last, action)?;
        if self.without.is_none() && self.setup.attempts[0] == self.setup.attempts[1] {
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
        if self.setup.lost_record || self.setup.lost_file {
            // Whoever loses records or files may be stuck, and his rows may not count, until a person has looked.
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
            Property::always(rules::FOUND_OUT, |_, s: &State| s.world.newest_stored() == s.world.head_generation()),
        ]);
        if self.without.is_some() {
            return properties;
        }
        properties.extend([
            Property::sometimes("a void closes an open attempt", |_, s: &State| s.world.head.is_some_and(|r| r.void)),
            Property::sometimes("two attempts reach for one generation", |_, s: &State| {
                let creates = &s.world.creates;
                creates.iter().any(|a| creates.iter().any(|b| a.generation == b.generation && a.author != b.author))
            }),
            Property::sometimes("everything ends", |m: &Self, s: &State| s.is_over(m)),
        ]);
        if self.setup.late & LATE != 0 {
            properties.push(Property::sometimes("a compacted file is merged with a late one", |_, s: &State| {
                s.world.head.is_some_and(|r| r.retired & LATE != 0 && r.retired & !RAW != 0)
            }));
        }
        properties
    }
}

impl Protocol {
    /// What an action leads to, with the workers as they are numbered.
    fn step(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let world = &mut state.world;
        match action {
            Action::LateFileArrives(file) => {
                world.files |= file;
                world.written |= row_of(file);
            }
            Action::NameIsUsedAgain => {
                // Rows that still count from this file are replaced by the writer; rows that were merged stay.
                let live = self.live_in(&Look::now(world));
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
            Action::LiveFileIsLost(file) => {
                world.reused = true;
                world.files &= !file;
            }
            Action::Works(worker) => self.work(worker, &mut state, false),
            Action::PlansUntidied(worker) => self.work(worker, &mut state, true),
            Action::Lists(worker, seen) => {
                let (listed, records) = seen.of(world);
                state.workers[worker].at = At::Page { head: world.head, seen, listed, records };
            }
            Action::DeletionFails(worker) => {
                let At::Tidy { files, .. } = state.workers[worker].at else { return None };
                witness(&self.witnessed.deletion_failed);
                state.workers[worker].at = tidying(files & (files - 1), 0);
            }
            Action::Guesses(worker, head) => state.workers[worker].at = At::List { head },
            Action::ReaderLists(seen) | Action::ReaderGuesses(seen) => {
                let head = world.head.filter(|_| matches!(action, Action::ReaderLists(_)));
                let (listed, records) = seen.of(world);
                state.reader = Reader::Page { wanted: world.written, head, seen, listed, records };
            }
            Action::Crashes(worker) => state.workers[worker].at = At::Start,
            Action::Reads => self.read(&mut state),
            Action::ReadsFiles => {
                let Reader::Read { wanted, live, rows } = state.reader else { return None };
                state.reader = Reader::Idle;
                let all_there = world.files & live == live;
                if self.lacks(Rule::S4Vanished) {
                    let seen = world.rows_in(live & world.files);
                    has_read(&mut state, wanted, seen);
                } else if all_there {
                    witness(&self.witnessed.read);
                    has_read(&mut state, wanted, rows);
                }
            }
        }
        state.forget_the_irrelevant(self.setup, self.without);
        if let Action::Crashes(worker) = action
            && let At::Tidy { files, .. } = last.workers[worker].at
        {
            self.hands_over(worker, &state, files);
        }
        Some(state)
    }

    fn actions_of(&self, worker: usize, state: &State, actions: &mut Vec<Action>) {
        let world = &state.world;
        let Worker { at, seen, .. } = state.workers[worker];
        match at {
            At::Start if self.setup.paged => actions.extend(Page::FIRST.map(|first| Action::Lists(worker, first))),
            At::Publish { commit } if world.files & output(commit.author) == 0 && !self.lacks(Rule::PublishFirst) => {}
            _ => actions.push(Action::Works(worker)),
        }
        if self.setup.guesses && at == At::Start {
            // The same as to read it, if it is right.
            let guesses = [None, seen];
            actions.extend(guesses.into_iter().filter(|g| *g != world.head).map(|g| Action::Guesses(worker, g)));
        }
        let looks = match at {
            At::Start => !self.setup.paged,
            At::List { .. } | At::Page { .. } => true,
            _ => false,
        };
        if self.setup.untidied && looks {
            actions.push(Action::PlansUntidied(worker));
        }
        if matches!(at, At::Tidy { files, .. } if files != 0) {
            actions.push(Action::DeletionFails(worker));
        }
        // Who crashes while he only reads might as well go on.
        if matches!(at, At::Tidy { .. } | At::Publish { .. } | At::Commit { .. }) {
            actions.push(Action::Crashes(worker));
        }
    }
}
