//! The compaction service's core: what to compact, how a job goes, and what makes it safe.
//!
//! # How it hangs together
//!
//! ```text
//! manager ── scan ──> policy ──> queue ──> job ──────────────────────────────────┐
//!   cycles   LIST      pure      fair      lease · settle · merge · publish · commit · tidy
//!                                             │                             │
//! record, tidy, recovery, snapshot (pure) <───┴── observe, settle, commit (storage)
//! ```
//!
//! Deciding is pure: [`policy`], [`backoff`], [`record`], [`tidy`], [`recovery`], [`snapshot::live_in`], [`queue`]. Doing is in `job`,
//! `settle`, `commit`, `observe` and [`manager`]. What earlier cycles learnt, damaged files and failed jobs, is in [`ledger`].
//!
//! # The commit protocol
//!
//! Object stores have no transactions over several objects. The atomic switch is built from the one primitive that local
//! disk, S3, GCS and Azure share: create this key if it does not exist. Publish first; one create decides; an allow list
//! says what counts; all deletions come from a stored record. There is no pending state: a record exists, and only
//! tidying is left, or it does not, and nothing has happened.
//!
//! - *Head* (R0): the record with the highest generation. *Live* (R1): the files that the head names, and every file that
//!   is not ours and not retired by the head. Nothing else ever counts.
//! - *Job* (J1-J6): read the head, then LIST; merge live files only; publish under unique names; read back, re-check the
//!   inputs; create the record of generation head + 1. Won, lost or unknown: forget everything, and tidy.
//! - *Tidy* (C1-C5): from a head and a LIST made after it, delete retired files (same size and ETag), our files of a taken
//!   generation that are not live, and old records below the head. Never the head, and nothing by age.
//! - *Recovery* (V1-V2): a file of generation head + 1 is an attempt whose outcome is open. Under the lease, and only if
//!   every input of its lineage is there and live, close the slot with a void record; whoever creates first wins.
//! - *Readers* (S1-S4): head, LIST, LIST the records again; a changed head or a vanished file means: start again.
//!
//! A worker that wakes up late needs no rule: it loses the create, or tidies from an old head, which is still right,
//! because retired and dead are for ever. An earlier design (record first, then publish, undo by an abort record) lost data
//! in a model of two workers: the check must be the write.
//!
//! # Invariants
//!
//! - **I1 Conservation.** The rows of a job's outputs are the rows of its consumed inputs, as multisets.
//! - **I2 Proof before deletion.** No input is deleted before every output is durable, read back from storage, proven equal
//!   to the inputs, and the record is durable.
//! - **I3 Delete only what a stored record names.** Never from memory, by age, prefix or glob.
//! - **I4 Exactly once for readers** that follow the snapshot rule, at every instant.
//! - **I5 All or nothing.** After a crash and the next cycle a partition is wholly old or wholly new, with nothing left over.
//! - **I6 Idempotence.** A cycle after a finished cycle writes and deletes nothing.
//! - **I7 One winner** per generation, even if every lock fails.
//! - **I8 Order.** Rows of an output are sorted; the outputs of one job (per schema group) cover disjoint ascending ranges.
//! - **I9 A bad file stops nobody**, is never deleted, and never skipped silently.
//! - **I10 The server outlives every job.**
//! - **I11 Bounded** memory, disk, tasks, queues, retries.
//! - **I12 An error stays an error**; an unknown outcome is treated as "may have happened".

pub mod adopt;
pub mod attempts;
mod backlog;
pub mod backoff;
mod commit;
mod cycle;
pub mod error;
pub mod events;
mod footer;
pub mod history;
mod job;
mod lease_guard;
pub mod ledger;
pub mod live;
pub mod manager;
pub mod observe;
mod permits;
pub mod plan;
pub mod policy;
pub mod quarantine;
pub mod queue;
pub mod record;
pub mod recovery;
pub mod report;
pub mod scan;
mod scratch;
pub mod settings;
mod settle;
pub mod snapshot;
mod sweep;
mod temp_space;
#[cfg(test)]
mod testing;
pub mod tidy;
mod turn;
pub mod verify;

pub use backlog::Backlog;
pub use error::{Disposition, JobError};
pub use history::{History, HistoryQuery};
pub use job::{Attempt, AttemptReport};
pub use live::{CancelOutcome, LiveJob};
pub use manager::{CompactionManager, Components, CycleError, RunningCycle};
pub use report::{CycleReport, JobReport, JobStatus};
pub use scan::{Candidate, Finding, Reach, Scope};
pub use settings::CompactionSettings;
