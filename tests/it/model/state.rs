//! All that there is at one instant: storage, two workers, a reader. And when two states are the same.

use super::protocol::Protocol;
use super::rules::{self, Rule};
use super::setup::Setup;
use super::world::{
    Files, JANITOR, LATE, OF_A_WORKER, Output, RAW, RAW_FILES, REPLACED, REUSED, Rec, Rows, World, each, exchanged,
    exchanged_attempt, output, row_of,
};

/// What a worker is about to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum At {
    /// To look. Also where it is after a crash, and after whatever it sent: it waits for no answer.
    Start,
    /// To LIST, with this for the head.
    List {
        head: Option<Rec>,
    },
    /// To LIST the other page.
    Page {
        head: Option<Rec>,
        seen: Page,
        listed: Files,
        records: u8,
    },
    /// To see whether the head has changed. If not, it is an error; or, if this was missing, worth another look.
    Doubt {
        head: Option<Rec>,
        missing: Option<Files>,
    },
    Tidy {
        files: Files,
        records: u8,
    },
    /// To see its output, to check its inputs again, and to send this.
    Publish {
        commit: Rec,
    },
    /// To forget everything. Only where it does not.
    Commit {
        generation: u8,
        attempt: u8,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Worker {
    /// Merges that it has attempted.
    pub attempts: u8,
    pub at: At,
    /// The newest record that it has seen, if it may guess.
    pub seen: Option<Rec>,
    /// If its last look could not be explained: the head, and the file that it lacked.
    pub suspects: Option<(u8, Files)>,
}

/// It reads again and again. One that has to begin again is one that begins.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Reader {
    Idle,
    /// `wanted` are the rows that were there when it began.
    Page {
        wanted: Rows,
        head: Option<Rec>,
        seen: Page,
        listed: Files,
        records: u8,
    },
    /// To read what counted at its look: these files with these rows.
    Read {
        wanted: Rows,
        live: Files,
        rows: Rows,
    },
}

/// One of the two pages of a LIST: these files, and the records or not. The other page has the rest.
///
/// Where a page ends is decided by names, which sort in any way beside `_compaction/`, and by how many there are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Page {
    files: Files,
    records: bool,
}

impl Page {
    const RAW: Self = Self { files: RAW, records: false };
    const RECORDS: Self = Self { files: 0, records: true };
    const ONE_FILE: Self = Self { files: LATE, records: false };

    /// The first pages that a LIST may have.
    pub const FIRST: [Self; 6] =
        [Self::RAW, Self::RAW.other(), Self::RECORDS, Self::RECORDS.other(), Self::ONE_FILE, Self::ONE_FILE.other()];

    pub const fn other(self) -> Self {
        Self { files: !self.files, records: !self.records }
    }

    /// What it shows now.
    pub fn of(self, world: &World) -> (Files, u8) {
        (world.files & self.files, if self.records { world.stored } else { 0 })
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct State {
    pub world: World,
    pub workers: [Worker; 2],
    pub reader: Reader,
    /// The properties about steps that a step has violated.
    pub violated: Vec<&'static str>,
}

impl State {
    pub fn violate(&mut self, property: &'static str) {
        if !self.violated.contains(&property) {
            self.violated.push(property);
            self.violated.sort_unstable();
        }
    }

    /// I3: a raw file may go if some record retired it, ours if its slot is taken and the head does not name it.
    pub fn delete(&mut self, file: Files, only_this: bool) {
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

    pub fn delete_record(&mut self, generation: u8) {
        let world = &mut self.world;
        world.stored &= !(1 << generation);
        if generation == world.head_generation() {
            world.head = None;
            self.violate(rules::DELETIONS);
        }
    }

    /// The attempt that a worker would make next.
    pub fn next_attempt(&self, worker: usize) -> u8 {
        (worker * OF_A_WORKER) as u8 + self.workers[worker].attempts
    }

    pub fn nobody_works(&self) -> bool {
        self.workers.iter().all(|w| w.at == At::Start)
    }

    /// Forgets what can make no difference any more, so that fewer states differ.
    pub fn forget_the_irrelevant(&mut self, setup: Setup, without: Option<Rule>) {
        let lacks = |rule| without == Some(rule);
        // Generations only grow, so whoever holds a record for the head that is not the head will find that out, whatever it
        // does before. (Property [`rules::FOUND_OUT`].)
        let finds_out = !setup.guesses;
        if let Reader::Page { head, .. } = self.reader
            && head != self.world.head
            && finds_out
            && !lacks(Rule::S1HeadBeforeList)
            && !lacks(Rule::S3ListAgain)
        {
            self.reader = Reader::Idle;
        }
        // It will begin again.
        if let Reader::Read { live, .. } = self.reader
            && live & !self.world.files != 0
            && !lacks(Rule::S4Vanished)
        {
            self.reader = Reader::Idle;
        }
        for worker in &mut self.workers {
            if let At::List { head } | At::Page { head, .. } = worker.at
                && head != self.world.head
                && finds_out
                && !lacks(Rule::J1HeadBeforeList)
            {
                worker.at = At::Start;
            }
            worker.suspects = worker.suspects.filter(|&(generation, _)| generation == self.world.head_generation());
            if matches!(worker.at, At::Doubt { head, .. } if head != self.world.head) {
                worker.at = At::Start;
            }
            // A record that is gone cannot be read again.
            let stored = self.world.stored;
            worker.seen = worker.seen.filter(|r| setup.guesses && stored & (1 << r.generation) != 0);
        }
        let world = &mut self.world;
        if !setup.very_late_writes && !lacks(Rule::J5CreateIfAbsent) {
            let head = world.head_generation();
            world.creates.retain(|c| c.generation > head);
        }
        if without.is_none() && !setup.lost_record && !setup.lost_file {
            self.forget_the_past(setup);
        }
        let world = &mut self.world;
        let of = |r: &Rec| r.live | r.retired;
        let mut named = world.files | world.head.as_ref().map_or(0, of);
        named |= world.creates.iter().fold(0, |a, c| a | of(c));
        for worker in &self.workers {
            named |= worker.seen.as_ref().map_or(0, of);
            named |= match worker.at {
                At::List { head } => head.as_ref().map_or(0, of),
                At::Page { head, listed, .. } => head.as_ref().map_or(0, of) | listed,
                At::Tidy { files, .. } => files,
                At::Publish { commit } => of(&commit),
                At::Commit { attempt, .. } => output(attempt),
                At::Start | At::Doubt { .. } => 0,
            };
        }
        named |= match &self.reader {
            Reader::Page { head, listed, .. } => head.as_ref().map_or(0, of) | listed,
            Reader::Read { live, .. } => *live,
            Reader::Idle => 0,
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

    /// What is below the head decides nothing. Only where every rule holds and no head is ever lost.
    fn forget_the_past(&mut self, setup: Setup) {
        let world = &mut self.world;
        let head = world.head_generation();
        // Of a record that comes too late it matters that it is there, and not what it says.
        for create in world.creates.iter_mut().filter(|c| c.generation <= head) {
            *create = Rec { generation: create.generation, void: false, author: JANITOR, live: 0, retired: 0 };
        }
        world.creates.sort_unstable();
        world.creates.dedup();
        // A raw file that is gone does not come back.
        world.retired &= world.files;
        let mut live = world.head.map_or(0, |h| h.live) | world.creates.iter().fold(0, |a, c| a | c.live);
        let mut publishing = 0;
        for worker in &mut self.workers {
            worker.at = match worker.at {
                // To delete what is gone is to do nothing.
                At::Tidy { files, records } if !setup.very_late_writes => {
                    match (files & world.files, records & world.stored) {
                        (0, 0) => At::Start,
                        (files, records) => At::Tidy { files, records },
                    }
                }
                // Its record would come too late.
                At::Publish { commit } if !setup.very_late_writes && commit.generation <= head => At::Start,
                At::Publish { commit } => {
                    live |= commit.live;
                    publishing |= output(commit.author);
                    At::Publish { commit }
                }
                same => same,
            };
        }
        // What our file was made of is asked as long as nobody knows whether it will count; what is in it, as long as it may.
        for (k, made) in (0..).zip(&mut world.outputs) {
            if made.generation <= head && publishing & output(k) == 0 {
                made.inputs = 0;
                if live & output(k) == 0 {
                    made.rows = 0;
                }
            }
        }
    }

    /// The same state, with the workers' names exchanged.
    pub fn exchanged(&self) -> Self {
        let exchange = |w: Worker| Worker {
            at: match w.at {
                At::List { head } => At::List { head: head.map(Rec::exchanged) },
                At::Page { head, seen, listed, records } => {
                    At::Page { head: head.map(Rec::exchanged), seen, listed: exchanged(listed), records }
                }
                At::Doubt { head, missing } => {
                    At::Doubt { head: head.map(Rec::exchanged), missing: missing.map(exchanged) }
                }
                At::Tidy { files, records } => At::Tidy { files: exchanged(files), records },
                At::Publish { commit } => At::Publish { commit: commit.exchanged() },
                At::Commit { generation, attempt } => At::Commit { generation, attempt: exchanged_attempt(attempt) },
                At::Start => At::Start,
            },
            seen: w.seen.map(Rec::exchanged),
            suspects: w.suspects.map(|(generation, missing)| (generation, exchanged(missing))),
            ..w
        };
        let reader = match self.reader {
            Reader::Page { wanted, head, seen, listed, records } => {
                Reader::Page { wanted, head: head.map(Rec::exchanged), seen, listed: exchanged(listed), records }
            }
            Reader::Read { wanted, live, rows } => Reader::Read { wanted, live: exchanged(live), rows },
            Reader::Idle => Reader::Idle,
        };
        Self {
            world: self.world.exchanged(),
            workers: [exchange(self.workers[1]), exchange(self.workers[0])],
            reader,
            violated: self.violated.clone(),
        }
    }

    pub fn first(setup: Setup) -> Self {
        let written = each(setup.early).map(row_of).sum();
        let worker = Worker { attempts: 0, at: At::Start, seen: None, suspects: None };
        Self {
            world: World { files: setup.early, written, ..World::default() },
            workers: [worker; 2],
            reader: Reader::Idle,
            violated: Vec::new(),
        }
    }

    /// Whether nobody will do anything any more, unless something happens to storage.
    pub fn is_over(&self, protocol: &Protocol) -> bool {
        let done = |(w, most): (&Worker, u8)| w.at == At::Start && w.attempts == most;
        self.reader == Reader::Idle
            && self.workers.iter().zip(protocol.setup.attempts).all(done)
            && protocol.is_settled(&self.world)
    }
}
