//! The rules that can be switched off, one at a time, and what must then go wrong.

use super::setup::Setup;

/// A rule of the protocol. Without it the model does the obvious other thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Instead: everything listed counts that is not retired.
    R1AllowList,
    /// Instead: LIST, then the head.
    J1HeadBeforeList,
    /// J1, C1. Instead: whoever misses a file that counts goes on without it.
    C1LiveFilesThere,
    /// Instead: one worker leaves a number out.
    J1NextGeneration,
    /// Instead: what was merged is what was listed, whatever is there now.
    J4Recheck,
    /// Instead: the record overwrites.
    J5CreateIfAbsent,
    /// Instead: only this job's inputs are retired.
    J5RetiredKept,
    /// T68. Instead: the record is created while the outputs are on their way.
    PublishFirst,
    /// T19. Instead: no answer means that it did not happen, and the outputs are deleted.
    J6UnknownIsUnknown,
    /// T69. Instead: who is no longer the newest deletes his outputs.
    J6DeletionsFromTheHead,
    /// T4. Instead: a job deletes what it merged, whoever won.
    J6InputsFromTheHead,
    /// Instead: by name alone.
    C2SameObject,
    /// Instead: whatever the head does not name is dead.
    C3TakenGenerationsOnly,
    /// Instead: all records go.
    C4HeadStays,
    /// Instead: an open attempt's files are deleted.
    V1VoidFirst,
    /// Instead: a void record retires nothing.
    V1RetiredCarriedOn,
    /// Instead: a void record says that nothing counts.
    V1LiveCarriedOn,
    /// Instead: an open attempt is voided whatever it was made of.
    V2InputsCount,
    /// Instead: LIST, then the head.
    S1HeadBeforeList,
    /// Instead: what was listed is read.
    S3ListAgain,
    /// Instead: a guess at the head is believed, whatever is listed.
    S1GuessIsChecked,
    /// Instead: a file that vanishes while it is read is left out.
    S4Vanished,
    /// See [`NOT_NEEDED`]. Instead: a worker believes whatever it takes for the head.
    R0Head,
    /// See [`NOT_NEEDED`]. Instead: highest first.
    C4LowestFirst,
    /// See [`NOT_NEEDED`]. Instead: attempts far above the head are closed like others.
    V2NoGap,
}

pub const LOST: &str = "no row is lost (I1, I4)";
pub const DOUBLED: &str = "no row is doubled (I1, I4)";
pub const DESTROYED: &str = "no row is destroyed (I2)";
pub const ONE_WINNER: &str = "one record a generation (I7)";
pub const DELETIONS: &str = "deletions are named by a record (I3)";
pub const READER: &str = "the reader sees every row once (I4)";
pub const RESTS: &str = "whatever was left over, one undisturbed tidy clears it (I5)";
pub const NOT_STUCK: &str = "nobody fails closed without a cause";
pub const FOUND_OUT: &str = "the newest record listed is the head, so a wrong guess at it is found out";

/// Rule, where it matters, and a property that is violated without it.
pub const MUTATIONS: [(Rule, Setup, &str); 22] = [
    (Rule::R1AllowList, Setup::SMALL, DOUBLED),
    (Rule::J1HeadBeforeList, Setup::PAGED.with_attempts([1, 1]), DOUBLED),
    (Rule::C1LiveFilesThere, Setup::LOST_FILE, DESTROYED),
    (Rule::J1NextGeneration, Setup::SMALL, LOST),
    (Rule::J4Recheck, Setup::REUSED_NAME, DOUBLED),
    (Rule::J5CreateIfAbsent, Setup::SMALL, ONE_WINNER),
    (Rule::J5RetiredKept, Setup::UNTIDIED, DOUBLED),
    (Rule::PublishFirst, Setup::SMALL, LOST),
    (Rule::J6UnknownIsUnknown, Setup::SMALL, LOST),
    (Rule::J6DeletionsFromTheHead, Setup::SMALL, LOST),
    (Rule::J6InputsFromTheHead, Setup::SMALL, LOST),
    (Rule::C2SameObject, Setup::REUSED_NAME, LOST),
    (Rule::C3TakenGenerationsOnly, Setup::SMALL, LOST),
    (Rule::C4HeadStays, Setup::SMALL, LOST),
    (Rule::V1VoidFirst, Setup::SMALL, LOST),
    (Rule::V1RetiredCarriedOn, Setup::UNTIDIED, DOUBLED),
    (Rule::V1LiveCarriedOn, Setup::SMALL, LOST),
    (Rule::V2InputsCount, Setup::LOST_RECORD, DESTROYED),
    (Rule::S1HeadBeforeList, Setup::READER.with_attempts([1, 1]), READER),
    (Rule::S3ListAgain, Setup::READER.with_attempts([1, 1]), READER),
    (Rule::S1GuessIsChecked, Setup::GUESSING_READER, READER),
    (Rule::S4Vanished, Setup::VANISHING, READER),
];

/// Rules that guard a second time against what others guard against, or against what is not in the model. Tests of
/// production code need them, by the names in `mutations/partition.rs`.
///
/// - R0, the head that is taken is the newest record that was listed and has its tag. Without it somebody takes for the
///   head an older record, or that there is none. A worker who believes that creates a record of a generation that is taken
///   or below the head (J5), and deletes only what was retired or dead already. A reader must not believe it
///   ([`Rule::S1GuessIsChecked`]). Records that change or that cannot be parsed, and errors, are not in the model.
///   `another_version_of_the_head_is_taken`, `a_newer_head_is_overlooked`, `a_head_that_was_replaced_is_taken`,
///   `an_error_is_no_record`.
/// - C4, lowest first. Records below the head decide nothing, and of those that remain the head is the highest in either
///   order. What the order keeps is a history without holes, for people who restore a head that somebody lost.
///   [`crate::crash_matrix`] checks it of every deletion, also with several records to delete.
/// - V2, no generation above head + 1. What such a file was made of is gone, or there and counts; in the first case the
///   rule about inputs ([`Rule::V2InputsCount`]) keeps the file, in the second nobody needs it. What the rule adds is that
///   nobody works on in a folder without its records. `lost_records_are_overlooked`.
pub const NOT_NEEDED: [(Rule, Setup); 3] = [
    (Rule::R0Head, Setup::GUESSES.with_attempts([1, 1])),
    (Rule::C4LowestFirst, Setup::UNTIDIED.with_attempts([2, 1])),
    (Rule::V2NoGap, Setup::LOST_RECORD),
];
