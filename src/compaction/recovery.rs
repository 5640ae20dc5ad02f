//! What a partition's past still asks for, before anything new may be planned.
//!
//! [`next_step`] is pure: it looks at a consistent [`View`] and, where an attempt's outcome is open, at the lineage of the
//! files it left. There is no rolling forward and no rolling back: a record exists, and only tidying is left; or it does
//! not, and nothing has happened.

use std::collections::HashSet;

use super::observe::View;
use crate::partition::{DataFile, FileKind, Generation};

/// The one thing to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextStep {
    /// Nothing is left over: plan.
    Settled,
    /// The head retires listed files, or there are dead ones.
    Tidy,
    /// An attempt published files and nobody knows whether its record will still come. Close its slot by a void record;
    /// whoever creates the record of that generation first wins.
    CloseOpenAttempt {
        /// The files of the attempt.
        files: Vec<DataFile>,
    },
    /// Somebody must look; nothing may be deleted or decided here.
    FailClosed(Fault),
}

/// Why a partition is left alone until a person has looked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Compacted files of a generation that cannot exist yet: records were lost, or the folder was copied in part.
    #[error(
        "{file} is of generation {found}, but the newest record is {head}: records are missing (a partial copy or restore?); \
         restore the partition's _compaction folder, or decide with a person which files count"
    )]
    GenerationGap { file: String, found: Generation, head: Generation },
    /// The files of an open attempt may be the only copy of some rows.
    #[error(
        "{file} was written by an unfinished attempt whose input {input} is missing or no longer counts: deleting it could \
         lose rows; restore the input or the partition's _compaction folder"
    )]
    InputOfOpenAttemptMissing { file: String, input: String },
    /// The lineage of a file of an open attempt cannot be read.
    #[error("{file} was written by an unfinished attempt and does not say what from: {detail}")]
    NoLineage { file: String, detail: String },
}

/// Decides by the head and the listing alone; V2's lineage check is [`may_void`].
#[must_use]
pub fn next_step(view: &View, tidy_is_due: bool) -> NextStep {
    let head = view.head.generation();
    let mut open = Vec::new();
    for file in &view.listing.data {
        if let FileKind::Ours(found) = file.kind {
            if found > head.next() {
                return NextStep::FailClosed(Fault::GenerationGap { file: file.name.clone(), found, head });
            }
            if found == head.next() {
                open.push(file.clone());
            }
        }
    }
    // Tidying needs no decision about the open attempt, and makes the view smaller.
    if tidy_is_due {
        NextStep::Tidy
    } else if open.is_empty() {
        NextStep::Settled
    } else {
        NextStep::CloseOpenAttempt { files: open }
    }
}

/// What a file of an open attempt says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    pub file: String,
    /// The names of the inputs that its rows come from, or why they cannot be read.
    pub inputs: Result<Vec<String>, String>,
}

/// V2: an open attempt may be voided, and its files thereby become dead, only if every input of every file is there and
/// counts.
pub fn may_void(view: &View, lineages: &[Lineage]) -> Result<(), Fault> {
    let counting: HashSet<&str> =
        view.listing.data.iter().filter(|f| view.head.counts(f)).map(|f| f.name.as_str()).collect();
    for lineage in lineages {
        let inputs = lineage
            .inputs
            .as_ref()
            .map_err(|detail| Fault::NoLineage { file: lineage.file.clone(), detail: detail.clone() })?;
        if let Some(missing) = inputs.iter().find(|i| !counting.contains(i.as_str())) {
            return Err(Fault::InputOfOpenAttemptMissing { file: lineage.file.clone(), input: missing.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
