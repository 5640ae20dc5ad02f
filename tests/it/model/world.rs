//! The model's storage, and the way from it to the types that production code decides on.
//!
//! A file is a bit, a set of files a word, a record two sets. [`Look`] turns a head and a listing made of these into the
//! real [`Head`] and [`Listing`], asks the real functions, and turns their answers back.

use std::path::PathBuf;
use std::time::Duration;

use arc::compaction::observe::{Sight, View, compare};
use arc::compaction::plan::Decision;
use arc::compaction::policy::Situation;
use arc::compaction::quarantine::HeldBack;
use arc::compaction::record::{Author, Head, LiveFile, Record, RecordKind, RetiredFile, Totals};
use arc::compaction::recovery::{Fault, Lineage, NextStep, may_void, next_step};
use arc::compaction::settings::PolicySettings;
use arc::compaction::{policy, snapshot, tidy};
use arc::merge::{MergeOutcome, MergedFile};
use arc::partition::{CompactedName, DataFile, FileKind, Generation, Listing, PartitionId, RecordEntry};
use chrono::{DateTime, TimeDelta, Utc};

use super::rules::Rule;

/// A set of files, one bit each: raw files first, then the output of each attempt.
pub type Files = u16;
/// How often each row occurs, four bits a row.
pub type Rows = u16;

pub const RAW_FILES: usize = 4;
/// There from the beginning.
pub const EARLY: Files = 0b0011;
/// Written while workers are at it.
pub const LATE: Files = 0b0100;
/// The first early file's name, used again for other rows by a writer that should not do so.
pub const REUSED: Files = 0b1000;
pub const REPLACED: Files = 0b0001;
pub const RAW: Files = 0b1111;

/// Attempts that a worker can make: of the first worker these come first.
pub const OF_A_WORKER: usize = 3;
pub const ATTEMPTS: usize = 2 * OF_A_WORKER;
/// Who does not plan; and the author of all void records: nobody asks whose one is, so they need not be told apart.
pub const JANITOR: u8 = 15;

/// The output of an attempt. Each writes one file.
pub fn output(attempt: u8) -> Files {
    1 << (RAW_FILES + usize::from(attempt))
}

/// The same set, with the workers' names exchanged.
pub fn exchanged(files: Files) -> Files {
    let outputs = files >> RAW_FILES;
    files & RAW | ((outputs << OF_A_WORKER | outputs >> OF_A_WORKER) & ((1 << ATTEMPTS) - 1)) << RAW_FILES
}

/// The attempt of the other worker.
pub fn exchanged_attempt(attempt: u8) -> u8 {
    (attempt + OF_A_WORKER as u8) % ATTEMPTS as u8
}

/// The members of a set.
pub fn each(files: Files) -> impl Iterator<Item = Files> {
    (0..Files::BITS).map(|bit| 1 << bit).filter(move |f| files & f != 0)
}

/// The row that a raw file holds.
pub fn row_of(raw: Files) -> Rows {
    1 << (4 * raw.trailing_zeros())
}

/// The rows that occur at all, once each.
pub fn once(rows: Rows) -> Rows {
    (0..4).map(|row| 1 << (4 * row)).filter(|row| rows & (row * 0xf) != 0).sum()
}

/// A record: what counts of ours, what was consumed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Rec {
    pub generation: u8,
    pub void: bool,
    pub author: u8,
    pub live: Files,
    pub retired: Files,
}

impl Rec {
    pub fn exchanged(self) -> Self {
        let author = if self.author == JANITOR { JANITOR } else { exchanged_attempt(self.author) };
        Self { author, live: exchanged(self.live), retired: exchanged(self.retired), ..self }
    }
}

/// What an attempt wrote, or is about to. Nothing if its generation is 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct Output {
    pub generation: u8,
    pub inputs: Files,
    pub rows: Rows,
    /// Its publication may take effect at any time.
    pub under_way: bool,
}

/// Everything that outlives a crash.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct World {
    pub files: Files,
    pub outputs: [Output; ATTEMPTS],
    /// The record with the highest generation. Those below decide nothing.
    pub head: Option<Rec>,
    /// The record objects that are there: bit g for generation g.
    pub stored: u8,
    /// The highest generation that ever was the head's.
    pub highest: u8,
    /// The raw files that ever were retired.
    pub retired: Files,
    /// Creates under way. Each may take effect at any time, or never, or twice: the answer says nothing.
    pub creates: Vec<Rec>,
    /// The rows that ingestion has written and not replaced.
    pub written: Rows,
    pub reused: bool,
}

impl World {
    /// The same world, with the workers' names exchanged.
    pub fn exchanged(&self) -> Self {
        let mut outputs = self.outputs.map(|made| Output { inputs: exchanged(made.inputs), ..made });
        outputs.rotate_left(OF_A_WORKER);
        let mut creates: Vec<Rec> = self.creates.iter().map(|c| c.exchanged()).collect();
        creates.sort_unstable();
        Self { files: exchanged(self.files), outputs, head: self.head.map(Rec::exchanged), creates, ..self.clone() }
    }

    pub fn head_generation(&self) -> u8 {
        self.head.map_or(0, |h| h.generation)
    }

    /// The generation that a LIST of the records shows as the newest.
    pub fn newest_stored(&self) -> u8 {
        self.stored.checked_ilog2().unwrap_or_default() as u8
    }

    /// The rows of these files, each as often as it occurs.
    pub fn rows_in(&self, files: Files) -> Rows {
        let raw = each(files & RAW).map(row_of);
        let ours = (0..ATTEMPTS).filter(|&k| files & output(k as u8) != 0).map(|k| self.outputs[k].rows);
        raw.chain(ours).fold(0, Rows::wrapping_add)
    }
}

/// What a worker or reader has seen.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Look {
    pub head: Option<Rec>,
    pub listed: Files,
    pub listed_records: u8,
    /// What the names and footers of the files say. Only of files that are named or listed.
    outputs: [Output; ATTEMPTS],
}

/// What production code makes of a look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Another record is the head: look again.
    LookAgain,
    /// A file that counts is missing. An error, unless the head has changed.
    Doubt,
    /// What is left over cannot be explained, because of this file, if any. An error, unless another look can explain it.
    Fault {
        missing: Files,
    },
    Tidy {
        files: Files,
        records: u8,
    },
    /// Create this record.
    Void {
        record: Rec,
    },
    /// Nothing is left over; merge these inputs, if any, and create this record.
    Settled {
        inputs: Files,
        commit: Option<Rec>,
    },
}

impl Look {
    /// Of everything, at one instant.
    pub fn now(world: &World) -> Self {
        Self::new(world, world.head, world.files, world.stored)
    }

    pub fn new(world: &World, head: Option<Rec>, listed: Files, listed_records: u8) -> Self {
        let named = head.map_or(0, |h| h.live | h.retired) | listed;
        let lineage = (0..ATTEMPTS).filter(|&k| listed & output(k as u8) != 0).map(|k| world.outputs[k].inputs);
        let named = named | lineage.fold(0, |a, i| a | i);
        let mut outputs = [Output::default(); ATTEMPTS];
        for (k, made) in (0..).zip(&mut outputs) {
            if named & output(k) != 0 {
                *made = Output { rows: 0, under_way: false, ..world.outputs[usize::from(k)] };
            }
        }
        Self { head, listed, listed_records, outputs }
    }

    /// J1, C1: whether head and listing make a view.
    pub fn sight(&self) -> Sight {
        compare(&self.head(), &self.listing())
    }

    /// R1: the files that count.
    pub fn live(&self, without: Option<Rule>) -> Files {
        if without == Some(Rule::R1AllowList) {
            return self.listed & !self.head.map_or(0, |h| h.retired);
        }
        let names = snapshot::live_in(&self.view());
        self.find(names.files.iter().map(|f| (f.name.as_str(), f.size_bytes)))
    }

    /// Whether there is a file of a generation that cannot exist yet.
    pub fn has_gap(&self) -> bool {
        let next = self.head.map_or(0, |h| h.generation) + 1;
        each(self.listed & !RAW).any(|f| self.output(f).generation > next)
    }

    /// One look of a worker that is `attempt`, as `settle` and `policy` go about it. Or, if `untidied`, as if nothing were
    /// to be tidied.
    pub fn answer(&self, attempt: u8, untidied: bool, without: Option<Rule>) -> Answer {
        let is = |rule| without == Some(rule);
        match self.sight() {
            Sight::Consistent => {}
            Sight::OtherHead if is(Rule::R0Head) => {}
            Sight::OtherHead => return Answer::LookAgain,
            Sight::LiveFileMissing { .. } if is(Rule::C1LiveFilesThere) => {}
            Sight::LiveFileMissing { .. } => return Answer::Doubt,
        }
        let view = self.view();
        let (mut files, mut records) = self.tidy(&view);
        let head_generation = self.head.map_or(0, |h| h.generation);
        let open = each(self.listed & !RAW).filter(|&f| self.output(f).generation > head_generation);
        if is(Rule::C3TakenGenerationsOnly) {
            files |= open.fold(0, |a, f| a | f);
        }
        if is(Rule::C4HeadStays) {
            records = self.listed_records;
        }
        match next_step(&view, !untidied && (files != 0 || records != 0)) {
            NextStep::Tidy => Answer::Tidy { files, records },
            NextStep::FailClosed(Fault::GenerationGap { .. }) if is(Rule::V2NoGap) => {
                let later = |f: &&DataFile| matches!(f.kind, FileKind::Ours(g) if g.0 > u64::from(head_generation));
                let open: Vec<DataFile> = view.listing.data.iter().filter(later).cloned().collect();
                self.close(&view, &open, without)
            }
            NextStep::FailClosed(_) => Answer::Fault { missing: 0 },
            NextStep::CloseOpenAttempt { files } => self.close(&view, &files, without),
            NextStep::Settled => self.plan(&view, attempt, without),
        }
    }

    fn tidy(&self, view: &View) -> (Files, u8) {
        // No retention: records below the head go at once, which is the hardest case.
        let plan = tidy::plan(&view.head, &view.listing, now(), TimeDelta::zero());
        let files = plan.retired.iter().chain(&plan.dead);
        let records = plan.old_records.iter().fold(0, |a, r| a | 1 << r.generation.0);
        (self.find(files.map(|f| (f.name.as_str(), f.size_bytes))), records)
    }

    fn close(&self, view: &View, files: &[DataFile], without: Option<Rule>) -> Answer {
        let open = self.find(files.iter().map(|f| (f.name.as_str(), f.size_bytes)));
        let lineages: Vec<Lineage> = each(open)
            .map(|f| Lineage {
                file: self.file(f).name,
                inputs: Ok(each(self.output(f).inputs).map(|i| self.file(i).name).collect()),
            })
            .collect();
        if without != Some(Rule::V2InputsCount)
            && let Err(fault) = may_void(view, &lineages)
        {
            let Fault::InputOfOpenAttemptMissing { input, .. } = fault else { return Answer::Fault { missing: 0 } };
            let inputs = each(open).fold(0, |a, f| a | self.output(f).inputs);
            let missing = each(inputs).filter(|&i| self.file(i).name == input).fold(0, |a, i| a | i);
            return Answer::Fault { missing };
        }
        if without == Some(Rule::V1VoidFirst) {
            return Answer::Tidy { files: open, records: 0 };
        }
        let mut record = self.read_back(&view.head.void(author(JANITOR), &view.listing), JANITOR);
        match without {
            Some(Rule::V1RetiredCarriedOn) => record.retired = 0,
            Some(Rule::V1LiveCarriedOn) => record.live = 0,
            _ => {}
        }
        Answer::Void { record }
    }

    fn plan(&self, view: &View, attempt: u8, without: Option<Rule>) -> Answer {
        let nothing = Answer::Settled { inputs: 0, commit: None };
        if attempt == JANITOR {
            return nothing;
        }
        let (partition_id, held_back) = (partition(), HeldBack::default());
        let situation = Situation { partition: &partition_id, view, held_back: &held_back, now: now() };
        let Decision::Compact(plan) = policy::decide(situation, &settings()) else { return nothing };
        let outcome = outcome(&CompactedName::stem(&partition(), plan.generation, &unique(attempt)), &plan.inputs);
        let record = view.head.commit(author(attempt), &view.listing, &plan.inputs, &outcome);
        let inputs = self.find(plan.inputs.iter().map(|f| (f.name.as_str(), f.size_bytes)));
        let mut with_output = self.clone();
        with_output.outputs[usize::from(attempt)] =
            Output { generation: u8::try_from(plan.generation.0).expect("few"), inputs, rows: 0, under_way: false };
        let mut commit = with_output.read_back(&record, attempt);
        match without {
            Some(Rule::J5RetiredKept) => commit.retired = inputs,
            // One of the workers leaves one number out.
            Some(Rule::J1NextGeneration) => commit.generation += attempt / OF_A_WORKER as u8,
            _ => {}
        }
        Answer::Settled { inputs, commit: Some(commit) }
    }

    fn output(&self, file: Files) -> Output {
        self.outputs[file.trailing_zeros() as usize - RAW_FILES]
    }

    fn view(&self) -> View {
        View { head: self.head(), listing: self.listing() }
    }

    fn listing(&self) -> Listing {
        let mut data: Vec<DataFile> = each(self.listed).map(|f| self.file(f)).collect();
        data.sort_by(|a, b| a.name.cmp(&b.name));
        let entry = |g| RecordEntry {
            generation: Generation(g),
            name: RecordEntry::file_name(Generation(g)),
            size_bytes: 1,
            etag: format!("etag of {g}"),
            last_modified: written_at(),
        };
        let records = (1..8).filter(|g| self.listed_records & (1 << g) != 0).map(entry).collect();
        Listing { data, records, foreign: Vec::new() }
    }

    fn file(&self, file: Files) -> DataFile {
        let (name, size_bytes) = match file {
            REUSED => ("raw_0.parquet".to_owned(), 101),
            raw if raw & RAW != 0 => (format!("raw_{}.parquet", raw.trailing_zeros()), 100),
            ours => {
                let generation = Generation(self.output(ours).generation.into());
                let attempt = ours.trailing_zeros() as u8 - RAW_FILES as u8;
                let stem = CompactedName::stem(&partition(), generation, &unique(attempt));
                (CompactedName::from_stem(&stem, 1, 1), OUTPUT_BYTES)
            }
        };
        DataFile {
            kind: FileKind::of(&partition(), &name),
            etag: format!("etag of {name} {size_bytes}"),
            last_modified: written_at(),
            name,
            size_bytes,
        }
    }

    fn head(&self) -> Head {
        let Some(rec) = self.head else { return Head::none() };
        let live = each(rec.live).map(|f| self.file(f));
        let retired = each(rec.retired).map(|f| self.file(f));
        let Author { job_id, worker_id, lease_token, created_at } = author(rec.author);
        let record = Record {
            format: 1,
            generation: Generation(rec.generation.into()),
            kind: if rec.void { RecordKind::Void } else { RecordKind::Commit },
            job_id,
            worker_id,
            lease_token,
            created_at,
            live: live
                .map(|f| LiveFile {
                    name: f.name,
                    size_bytes: f.size_bytes,
                    rows: 1,
                    min_time: None,
                    max_time: None,
                    checksum: String::new(),
                })
                .collect(),
            retired: retired.map(|f| RetiredFile { name: f.name, size_bytes: f.size_bytes, etag: f.etag }).collect(),
            inputs: Totals::default(),
            outputs: Totals::default(),
            fingerprint: None,
            engine: None,
        };
        Head::of(record, format!("{} by {}", rec.generation, rec.author))
    }

    /// What a real record says, read from its bytes as everybody else will read it.
    fn read_back(&self, record: &Record, author: u8) -> Rec {
        let read = Record::parse(&record.to_bytes(), record.generation).expect("what we write can be read");
        Rec {
            generation: u8::try_from(read.generation.0).expect("few"),
            void: read.kind == RecordKind::Void,
            author,
            live: self.find(read.live.iter().map(|f| (f.name.as_str(), f.size_bytes))),
            retired: self.find(read.retired.iter().map(|f| (f.name.as_str(), f.size_bytes))),
        }
    }

    fn find<'a>(&self, files: impl Iterator<Item = (&'a str, u64)>) -> Files {
        let known: Vec<(Files, DataFile)> = each(RAW)
            .chain((0..ATTEMPTS as u8).map(output).filter(|&f| self.output(f).generation > 0))
            .map(|f| (f, self.file(f)))
            .collect();
        files.fold(0, |found, (name, size_bytes)| {
            let file = known.iter().find(|(_, f)| f.name == name && f.size_bytes == size_bytes);
            found | file.unwrap_or_else(|| panic!("{name} of {size_bytes} bytes is not in the model")).0
        })
    }
}

const OUTPUT_BYTES: u64 = 200;

fn outcome(stem: &str, inputs: &[DataFile]) -> MergeOutcome {
    MergeOutcome {
        outputs: vec![MergedFile {
            name: CompactedName::from_stem(stem, 1, 1),
            path: PathBuf::new(),
            size_bytes: OUTPUT_BYTES,
            rows: 1,
            min_time: None,
            max_time: None,
            checksum: String::new(),
        }],
        consumed: inputs.iter().map(|f| f.name.clone()).collect(),
        set_aside: Vec::new(),
        rows: 1,
        fingerprint: None,
        slices: 1,
        peak_memory_bytes: 0,
        engine: "model".to_owned(),
    }
}

/// Two files are worth a merge, and late files take the compacted one with them.
fn settings() -> PolicySettings {
    PolicySettings {
        min_age: Duration::ZERO,
        min_files: 1,
        settle: Duration::ZERO,
        late_data_max_wait: Duration::ZERO,
        late_rewrite_ratio: 0.0,
        max_side_files: 1,
        target_file_size_bytes: 1 << 30,
    }
}

fn author(attempt: u8) -> Author {
    Author {
        job_id: format!("attempt {attempt}"),
        worker_id: format!("worker {}", attempt / OF_A_WORKER as u8),
        lease_token: 1,
        created_at: now(),
    }
}

fn unique(attempt: u8) -> String {
    format!("{attempt:012x}")
}

fn partition() -> PartitionId {
    "db/cpu/2025/10/08/14".parse().expect("a partition")
}

fn written_at() -> DateTime<Utc> {
    partition().hour().start() + TimeDelta::minutes(30)
}

fn now() -> DateTime<Utc> {
    partition().hour().start() + TimeDelta::hours(30)
}
