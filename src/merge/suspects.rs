//! Finding the files at fault when an attempt fails, so that the merge can go on without them.
//!
//! What must hold: a file is named for a defect that it shows on its own, never for one of its neighbours'. Searches halve or
//! look at each file once, so their cost is bounded by that of a few attempts.
//!
//! Not here: files that bring the process down; those are searched for from outside (`scan.rs`).

use tokio_util::sync::CancellationToken;

use super::attempt::{Attempt, LeftOut, Member, members, sources};
use super::columnar::{self, SourceFile};
use super::schema::SchemaGroup;
use super::session::StatementError;
use super::slices::Range;
use super::sql;
use super::work_dir::remove_slice;
use super::{Means, MergeError, MergeRequest, SetAsideReason};

/// Files that are found too large in one attempt, each by running out of memory. The attempt without them finds the others.
const MAX_TOO_LARGE: usize = 8;

impl Attempt<'_> {
    /// The files that cannot be scanned on their own, found by halving.
    pub(super) fn find_damaged(&self, group: &SchemaGroup, suspects: &[Member<'_>]) -> Result<LeftOut, MergeError> {
        match self.scan(group, suspects) {
            Ok(_) => Ok(Vec::new()),
            Err(error) if is_of_files(&error) => match suspects {
                [] => Ok(Vec::new()),
                [one] => {
                    let input = &self.request.inputs[one.file.input];
                    let named = |text: &str| text.replace(&self.work.input(one.file.input), &input.name);
                    let reason = match &error {
                        StatementError::OutOfMemory(detail) => self.too_large("reading it", &named(detail)),
                        StatementError::Other(message) => SetAsideReason::Unreadable(named(message)),
                        other => SetAsideReason::Unreadable(format!("{other:?}")),
                    };
                    Ok(vec![(one.file.input, reason)])
                }
                many => {
                    let (left, right) = many.split_at(many.len() / 2);
                    let mut found = self.find_damaged(group, left)?;
                    found.extend(self.find_damaged(group, right)?);
                    Ok(found)
                }
            },
            Err(error) => Err(self.failure(error)),
        }
    }

    /// The files of which another number of rows is read than their footers state, found by halving. A proof that compares
    /// what was read with what was written would not notice rows that the reader overlooks.
    pub(super) fn find_miscounted(&self, group: &SchemaGroup, suspects: &[Member<'_>]) -> Result<LeftOut, MergeError> {
        let read = self.scan(group, suspects).map_err(|error| self.failure(error))?.rows;
        let stated = stated_rows(suspects);
        match suspects {
            [one] if read != stated => {
                let reason = format!("its footer states {stated} rows, and {read} can be read");
                Ok(vec![(one.file.input, SetAsideReason::Unreadable(reason))])
            }
            // Two that make up for each other are still two.
            [] | [_] => Ok(Vec::new()),
            many => {
                let (left, right) = many.split_at(many.len() / 2);
                let mut found = self.find_miscounted(group, left)?;
                found.extend(self.find_miscounted(group, right)?);
                Ok(found)
            }
        }
    }

    /// An attempt with less memory than the job has says nothing about the file: the next job tries it with all of it.
    fn too_large(&self, what: &str, detail: &str) -> SetAsideReason {
        let limit = self.request.limits.memory_bytes;
        let first = detail.lines().next().unwrap_or_default();
        let fails = format!("{what} alone does not fit into {limit} bytes");
        match self.request.limits.means {
            Means::All => SetAsideReason::TooLarge(format!("{fails}: {first}")),
            Means::DuckDb => {
                let part = "the part of the job's memory with which it was tried again";
                SetAsideReason::Unexamined(format!("{fails}, {part}: {first}"))
            }
        }
    }

    /// Of files whose rows of `range` cannot be sorted together, those that cannot be sorted even alone, the largest first. In
    /// the last attempt there is an answer also when each of them can: the larger half waits for the next merge.
    pub(super) fn find_too_large(
        &self,
        group: &SchemaGroup,
        range: Range,
        suspects: &[Member<'_>],
    ) -> Result<LeftOut, MergeError> {
        let mut largest = suspects.to_vec();
        largest.sort_by_key(|member| std::cmp::Reverse((member.file.uncompressed_bytes, member.file.input)));
        let mut found = Vec::new();
        for member in &largest {
            match self.sort_alone(group, range, *member) {
                Ok(_) => {}
                Err(StatementError::OutOfMemory(detail)) => {
                    found.push((member.file.input, self.too_large("sorting it", &detail)));
                }
                Err(error) => return Err(self.failure(error)),
            }
            if found.len() == MAX_TOO_LARGE {
                break;
            }
        }
        if found.is_empty() && self.request.limits.means == Means::DuckDb {
            let (limit, others) = (self.request.limits.memory_bytes, largest.len().saturating_sub(1));
            let why = format!("its rows and those of {others} other files do not fit into {limit} bytes together");
            let larger = largest.iter().take(largest.len() / 2);
            found.extend(larger.map(|member| (member.file.input, SetAsideReason::Unexamined(why.clone()))));
        }
        Ok(found)
    }

    /// Sorts the rows of one file into a file that nobody needs.
    fn sort_alone(&self, group: &SchemaGroup, range: Range, member: Member<'_>) -> Result<u64, StatementError> {
        let path = self.work.trial();
        let sources = sources(self.work, &[member]);
        let copy = sql::copy_slice(group, &sources, range, sql::Order::Sorted, &self.request.options, &path);
        let sorted = self.session.execute(&copy);
        // One that stays is written over by the next, and goes with the folder.
        let _ = remove_slice(path.as_ref());
        sorted
    }
}

/// The files of a group whose pages contradict themselves, with the reason; DuckDB may read them all the same. None where the
/// columns do not suit that look.
///
/// # Errors
/// When cancelled.
pub(super) fn contradictions(
    request: &MergeRequest,
    group: &SchemaGroup,
    cancel: &CancellationToken,
) -> Result<LeftOut, MergeError> {
    if !columnar::suits(group) {
        return Ok(Vec::new());
    }
    let look = |member: Member<'_>| {
        let input = &request.inputs[member.file.input];
        let (path, projection) = (input.path.clone(), &member.class.projection[..]);
        let file = SourceFile { path, size_bytes: input.size_bytes, projection };
        let why = columnar::damage(file, request.limits.memory_bytes, cancel)?;
        Ok(why.map(|why| (member.file.input, SetAsideReason::Unreadable(why))))
    };
    members(group).filter_map(|member| look(member).transpose()).collect()
}

pub(super) fn stated_rows(files: &[Member<'_>]) -> u64 {
    files.iter().map(|member| member.file.rows).sum()
}

/// Whether a file may be the cause. A scan keeps no rows, so one that runs out of memory over a single file met a page that
/// claims to be larger than everything that a merge may use.
pub(super) fn is_of_files(error: &StatementError) -> bool {
    match error {
        StatementError::Other(_) | StatementError::OutOfMemory(_) => true,
        StatementError::Cancelled | StatementError::SpillFull(_) | StatementError::DiskFull(_) => false,
    }
}

#[cfg(test)]
mod tests;
