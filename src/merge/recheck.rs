//! Looking again at files that were merged long ago: are their rows still the ones that were proven, and in order?
//!
//! Used by whoever checks storage, never by a merge. It reads with the engine's own means (the same survey, the same
//! projections, the same fingerprint), so what it says can be compared with what a record says. Nothing is written but
//! links and spill files in the work folder.
//!
//! What must hold: a file that cannot be read costs itself, not the others; no finding is made up where the file was not
//! examined. Deliberately not here: what a difference means, and for whom.

use std::fs::File;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::attempt::{Member, members, sources};
use super::budget::{Budget, row_bytes};
use super::order::column_ascends;
use super::schema::{SchemaGroup, group_all, time_bound};
use super::session::{Session, StatementError};
use super::survey::{footer, survey};
use super::verify::Fingerprint;
use super::work_dir::WorkDir;
use super::{MergeError, MergeInput, MergeLimits, MergeOptions, SetAside, TimeBound, sql};

/// Files to look at, and the means for it.
#[derive(Debug, Clone)]
pub struct Recheck {
    /// An absolute path of an existing, empty folder, private to this look.
    pub work_dir: PathBuf,
    pub options: MergeOptions,
    pub limits: MergeLimits,
}

/// What one file turned out to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Rows decoded, not what the footer claims.
    pub rows: u64,
    /// From the footer's statistics.
    pub min_time: Option<TimeBound>,
    pub max_time: Option<TimeBound>,
    /// How many rows come before the one above them, in the order that the file declares. `None`: it declares none.
    pub steps_back: Option<u64>,
}

/// How a look at one file ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    Read(Content),
    /// Its footer or its data cannot be read.
    Unreadable(String),
    /// It may be sound, but this code cannot tell.
    NotExamined(String),
}

/// What was found, in the order of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rechecked {
    pub looks: Vec<Look>,
    /// Over all rows of all files, as a record has it. `None` unless every file was read.
    pub fingerprint: Option<String>,
    /// The engine and version that computed it.
    pub engine: String,
}

impl Recheck {
    /// Reads every value of `files`, the outputs of one attempt in the order of their parts. Blocks the thread.
    ///
    /// # Errors
    /// Only what has nothing to do with a file: the work folder, memory, cancellation.
    pub fn content(&self, files: &[MergeInput], cancel: &CancellationToken) -> Result<Rechecked, MergeError> {
        let work = WorkDir::prepare(&self.work_dir, files)?;
        let orders: Vec<Option<Vec<String>>> = files.iter().map(|f| declared_order(&f.path)).collect();
        let (groups, set_aside) = self.groups(files, &orders, cancel)?;
        let session = self.open(&work, &groups, cancel)?;

        let mut looks: Vec<Look> = files.iter().map(|file| left_out(file, &set_aside)).collect();
        let mut fingerprints = Vec::new();
        for group in &groups {
            let mut total = Fingerprint::default();
            for member in members(group) {
                let index = member.file.input;
                match session.fingerprint(&sql::fingerprint(group, &sources(&work, &[member]))) {
                    Ok(part) => {
                        total.add(&part);
                        let order = orders[index].as_deref();
                        looks[index] = self.look(&session, &work, &files[index], (group, member), part.rows, order)?;
                    }
                    Err(StatementError::Other(message)) => {
                        looks[index] = Look::Unreadable(message.replace(&work.input(index), &files[index].name));
                    }
                    Err(error) => return Err(self.failure(error)),
                }
            }
            fingerprints.push(total.to_string());
        }
        let all_read = looks.iter().all(|look| matches!(look, Look::Read(_)));
        Ok(Rechecked { looks, fingerprint: all_read.then(|| fingerprints.join(" ")), engine: session.version()? })
    }

    /// How many rows of `part` are not in `whole`, both as multisets; `None` if that cannot be told. A file that was merged
    /// into `whole`, on whatever detours, has no such row. Blocks the thread.
    ///
    /// # Errors
    /// As [`Self::content`].
    pub fn rows_missing(
        &self,
        part: &MergeInput,
        whole: &[MergeInput],
        cancel: &CancellationToken,
    ) -> Result<Option<u64>, MergeError> {
        let files: Vec<MergeInput> = std::iter::once(part).chain(whole).cloned().collect();
        let work = WorkDir::prepare(&self.work_dir, &files)?;
        let orders = vec![None; files.len()];
        let (groups, set_aside) = self.groups(&files, &orders, cancel)?;
        if !set_aside.is_empty() {
            return Ok(None);
        }
        let holds = |group: &&SchemaGroup| members(group).any(|m| m.file.input == 0);
        let Some(group) = groups.iter().find(holds) else { return Ok(None) };
        let (parts, wholes): (Vec<Member<'_>>, Vec<Member<'_>>) = members(group).partition(|m| m.file.input == 0);
        let session = self.open(&work, &groups, cancel)?;
        if wholes.is_empty() {
            // They cannot be merged with each other, so they never were.
            return Ok(Some(parts.iter().map(|m| m.file.rows).sum()));
        }
        match session.number(&sql::rows_missing(group, &sources(&work, &parts), &sources(&work, &wholes))) {
            Ok(rows) => Ok(Some(rows)),
            Err(StatementError::Other(_)) => Ok(None),
            Err(error) => Err(self.failure(error)),
        }
    }

    /// The readable files, in groups in the order of their first file.
    fn groups(
        &self,
        files: &[MergeInput],
        orders: &[Option<Vec<String>>],
        cancel: &CancellationToken,
    ) -> Result<(Vec<SchemaGroup>, Vec<SetAside>), MergeError> {
        // Whatever they take: files that count are read, and not put off to another day.
        let limits = MergeLimits { memory_bytes: u64::MAX, ..self.limits };
        let (surveyed, mut set_aside) = survey(files, &limits, cancel, &|_| ())?;
        let mut options = self.options.clone();
        // A file says itself how it is sorted: settings may have changed since it was written.
        if let Some(first) = surveyed.first()
            && let Some(order) = &orders[first.input]
        {
            options.sort_by.clone_from(order);
            if surveyed.iter().any(|file| file.schema.position(&options.time_column).is_none()) {
                options.time_column.clone_from(&order[0]);
            }
        }
        let (mut groups, left) = group_all(surveyed, files, &options);
        set_aside.extend(left);
        groups.sort_by_key(|group| group.files().map(|f| f.input).min());
        Ok((groups, set_aside))
    }

    fn open(&self, work: &WorkDir, groups: &[SchemaGroup], cancel: &CancellationToken) -> Result<Session, MergeError> {
        let widest = groups.iter().map(row_bytes).max().unwrap_or_default();
        Session::open(
            work.text(),
            &work.real_inputs(),
            &self.limits,
            &Budget::new(&self.limits, &self.options, widest),
            cancel,
        )
    }

    fn look(
        &self,
        session: &Session,
        work: &WorkDir,
        input: &MergeInput,
        (group, member): (&SchemaGroup, Member<'_>),
        rows: u64,
        order: Option<&[String]>,
    ) -> Result<Look, MergeError> {
        let steps_back = match order {
            None => None,
            // Quick, and independent of the engine; what it cannot judge, the engine does.
            Some([only]) if column_ascends(&input.path, only).unwrap_or(false) => Some(0),
            Some(keys) => match session.number(&sql::steps_back(&work.input(member.file.input), keys)) {
                Ok(steps) => Some(steps),
                Err(StatementError::Other(message)) => return Ok(Look::Unreadable(message)),
                Err(error) => return Err(self.failure(error)),
            },
        };
        let bound = |value: Option<i64>| value.map(|v| time_bound(&group.time_kind, v));
        let time = &member.file.time;
        Ok(Look::Read(Content { rows, min_time: bound(time.min), max_time: bound(time.max), steps_back }))
    }

    fn failure(&self, error: StatementError) -> MergeError {
        match error {
            StatementError::Cancelled => MergeError::Cancelled,
            StatementError::OutOfMemory(detail) => {
                MergeError::OutOfMemory { detail, limit_bytes: self.limits.memory_bytes }
            }
            StatementError::SpillFull(detail) | StatementError::DiskFull(detail) => {
                MergeError::DiskFull { path: self.work_dir.clone(), detail }
            }
            StatementError::Other(message) => MergeError::Engine(message),
        }
    }
}

fn left_out(file: &MergeInput, set_aside: &[SetAside]) -> Look {
    match set_aside.iter().find(|s| s.name == file.name) {
        Some(s) if s.reason.is_damage() => Look::Unreadable(s.reason.to_string()),
        Some(s) => Look::NotExamined(s.reason.to_string()),
        None => Look::NotExamined("it was not read".to_owned()),
    }
}

/// The columns that a file says it is sorted by, ascending with nulls last. `None` also when it cannot be read, which the
/// survey says better, or when it declares another kind of order.
fn declared_order(path: &Path) -> Option<Vec<String>> {
    let read = || -> Option<Vec<String>> {
        let file = File::open(path).ok()?;
        let length = file.metadata().ok()?.len();
        let metadata = footer(&file, length).ok()?;
        let sorting = metadata.row_groups().first()?.sorting_columns()?;
        let schema = metadata.file_metadata().schema_descr();
        sorting
            .iter()
            .map(|by| {
                let leaf = usize::try_from(by.column_idx).ok().filter(|&i| i < schema.num_columns())?;
                let parts = schema.column(leaf).path().parts().to_vec();
                (!by.descending && !by.nulls_first && parts.len() == 1).then(|| parts[0].clone())
            })
            .collect::<Option<Vec<String>>>()
            .filter(|columns| !columns.is_empty())
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).unwrap_or(None)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tempfile::TempDir;

    use super::super::fixtures::{Inputs, times};
    use super::super::testing::request;
    use super::*;

    fn recheck(memory_bytes: u64) -> (TempDir, Recheck) {
        let work = tempfile::tempdir().unwrap();
        let model = request(&[]);
        let limits = MergeLimits { memory_bytes, ..model.limits };
        let work_dir = work.path().canonicalize().unwrap();
        (work, Recheck { work_dir, options: model.options, limits })
    }

    #[test]
    fn a_file_that_nobody_can_read_here_is_said_to_be_unexamined_and_the_fingerprint_to_be_unknown() {
        let mut files = Inputs::new();
        files.columns(&[("time", times(0, 3))]);
        files.bytes(b"PARE\0\0\0\0\0\0\0\0PARE");
        files.bytes(b"no Parquet file at all");
        let (_work, recheck) = recheck(512 << 20);
        let seen = recheck.content(&files.inputs, &CancellationToken::new()).unwrap();
        let [Look::Read(content), Look::NotExamined(why), Look::Unreadable(_)] = &seen.looks[..] else {
            panic!("{:?}", seen.looks)
        };
        assert_eq!((content.rows, seen.fingerprint), (3, None));
        assert!(why.contains("encrypted"), "{why}");
    }

    /// A merge would leave some of them for the next one. Nobody would come back to them here.
    #[test]
    fn every_file_is_looked_at_however_much_is_kept_of_their_columns() {
        const MEMORY: u64 = 3 << 20;
        let mut files = Inputs::new();
        for start in 0..24 {
            let columns: Vec<_> = (0..300).map(|i| (format!("column_{i}"), times(start, 1))).collect();
            let named = columns.iter().map(|(name, values)| (name.as_str(), Arc::clone(values)));
            files.columns(&[("time", times(start, 1))].into_iter().chain(named).collect::<Vec<_>>());
        }
        let kept = files.survey_within(MEMORY).0.len();
        assert!((1..24).contains(&kept), "a merge would take {kept} of 24");
        let (_work, recheck) = recheck(MEMORY);
        let (groups, set_aside) =
            recheck.groups(&files.inputs, &[const { None }; 24], &CancellationToken::new()).unwrap();
        assert_eq!(groups.iter().map(|group| group.files().count()).sum::<usize>(), 24);
        assert_eq!(set_aside, []);
    }
}
