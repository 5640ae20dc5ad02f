//! Tidying: deleting what the head says is over.
//!
//! Anyone may tidy at any time, any number at once, without a lock: what is retired or dead is so for ever, so even a
//! tidy from an old head deletes nothing that counts. Every deletion is computed here from a head freshly read from
//! storage (I3), never from a job's memory, never by age, prefix or glob. (The one age in here only *keeps* old records
//! longer; records below the head decide nothing.)

use chrono::{DateTime, TimeDelta, Utc};

use super::record::Head;
use crate::partition::{DataFile, FileKind, Listing, RecordEntry};

/// What may be deleted from a partition now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TidyPlan {
    /// C2: listed files that the head retires, unchanged in size and ETag.
    pub retired: Vec<DataFile>,
    /// C3: our files of a taken generation that the head does not name: their attempt lost, or they were consumed.
    pub dead: Vec<DataFile>,
    /// C4: records below the head that have been kept long enough, lowest first.
    pub old_records: Vec<RecordEntry>,
    /// Files with the name and size of a retired one, but another ETag: somebody reused the name or copied the folder.
    /// They do not count and are not deleted; a person should look.
    pub reused: Vec<DataFile>,
}

impl TidyPlan {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.retired.is_empty() && self.dead.is_empty() && self.old_records.is_empty()
    }
}

/// C1-C5. `listing` was made after `head` was read, and shows every file of `head.live` (see [`super::observe`]).
#[must_use]
pub fn plan(head: &Head, listing: &Listing, now: DateTime<Utc>, record_retention: TimeDelta) -> TidyPlan {
    let mut plan = TidyPlan::default();
    for file in &listing.data {
        match file.kind {
            FileKind::Ours(generation) => {
                if generation <= head.generation() && head.live_file(&file.name).is_none() {
                    plan.dead.push(file.clone());
                }
            }
            FileKind::Raw | FileKind::CompactedElsewhere => match head.retired_file(&file.name) {
                Some(retired) if retired.size_bytes != file.size_bytes => {}
                Some(retired) if retired.etag != file.etag => plan.reused.push(file.clone()),
                Some(_) => plan.retired.push(file.clone()),
                None => {}
            },
        }
    }
    plan.old_records = listing
        .records
        .iter()
        .filter(|r| r.generation < head.generation() && now - r.last_modified >= record_retention)
        .cloned()
        .collect();
    plan
}

#[cfg(test)]
mod tests;
