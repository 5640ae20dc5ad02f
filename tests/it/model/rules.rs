//! The rules that can be switched off, one at a time, and what must then go wrong.

use super::setup::Setup;

/// A rule of the protocol. Without it the model does the obvious other thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Instead: everything listed counts that is not retired.
    R1AllowList,
    /// Instead: LIST, then the head.
    J1HeadBeforeList,
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
pub const MUTATIONS: [(Rule, Setup, &str); 20] = [
    (Rule::R1AllowList, Setup::SMALL, DOUBLED),
    (Rule::J1HeadBeforeList, Setup::PAGED.with_attempts([1, 1]), DOUBLED),
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
];
