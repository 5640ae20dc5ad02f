//! Merging the slices of a merge, several at a time.
//!
//! Each lane is a thread with a DuckDB of its own that uses one thread. Measured on 300 of the headline's files (15 M rows,
//! 2 cores, DuckDB 1.5.6): one instance with two threads that sorts slice after slice takes 5.5 s of CPU and 460 MB; two lanes
//! that sort take 5.0 s; two lanes that need not sort take 3.6 s and 160 MB.
//!
//! A slice need not be sorted when its files, put in the order of their time ranges, do not overlap and are sorted
//! themselves. Footers say the first and nobody says the second, so it is tried, unless a look into a few files of the group
//! says that it is no use: rows are written in the order of files and rows, and then the time column of what was written is
//! read back by another decoder (`order.rs`). If it does not ascend, the slice is merged once more, sorted. Each slice is
//! judged by itself, so that the bytes do not depend on which lane was faster.
//!
//! What must hold: the slices of a group come back in ascending order of time, whatever lane did them and however they had
//! to be cut; memory that does not suffice for a slice costs a cut, not the merge; a lane that fails stops the others.

use std::cell::OnceCell;
use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use tokio_util::sync::CancellationToken;

use super::attempt::{Member, aim, input_bytes, members, sources, span};
use super::budget::Budget;
use super::columnar::{self, Refusal, SourceFile};
use super::order::column_ascends;
use super::schema::{SchemaGroup, TimeKind};
use super::session::{Session, StatementError};
use super::slices::{FileSpan, Range, Slice, TimeLine};
use super::sql::{self, Order};
use super::work_dir::{WorkDir, io_error, remove_slice};
use super::{Means, MergeError, MergeProgress, MergeRequest, MergeStep, ProgressSink};

/// A merged piece of a group, on disk.
#[derive(Debug)]
pub(super) struct SliceFile {
    pub(super) path: PathBuf,
    pub(super) size_bytes: u64,
}

/// Why the slices could not be merged.
#[derive(Debug)]
pub(super) enum LaneError {
    /// The statement over these files (positions in the group's list) failed for a reason that may lie in one of them.
    Statement {
        group: usize,
        files: Vec<usize>,
        range: Range,
        error: StatementError,
    },
    /// A file of this group, at this position if that is known, contradicts itself or its footer.
    Damaged {
        group: usize,
        file: Option<usize>,
        detail: String,
    },
    Failed(MergeError),
}

impl From<MergeError> for LaneError {
    fn from(error: MergeError) -> Self {
        Self::Failed(error)
    }
}

/// What the lanes work on.
pub(super) struct Lanes<'a> {
    pub(super) request: &'a MergeRequest,
    pub(super) work: &'a WorkDir,
    pub(super) groups: &'a [SchemaGroup],
    /// Groups to be merged in one statement without any filter.
    pub(super) unsliced: &'a BTreeSet<usize>,
    pub(super) budget: &'a Budget,
    pub(super) progress: &'a ProgressSink,
    pub(super) cancel: &'a CancellationToken,
}

/// How much of the memory an instance has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Share,
    All,
}

/// The DuckDB of a lane.
enum Engine<'a> {
    Open(&'a Session),
    /// Opened when the first slice needs it.
    OnDemand {
        open: &'a dyn Fn() -> Result<Session, MergeError>,
        session: OnceCell<Session>,
    },
}

impl Engine<'_> {
    fn session(&self) -> Result<&Session, MergeError> {
        match self {
            Self::Open(session) => Ok(session),
            Self::OnDemand { open, session } => {
                if session.get().is_none() {
                    let _ = session.set(open()?);
                }
                Ok(session.get().expect("set above"))
            }
        }
    }
}

/// Tells the other lanes to stop when this one panics. The scope passes the panic on.
struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// One slice to merge, and where its file belongs.
struct Task {
    group: usize,
    slice: Slice,
    /// Whether it is merged column by column, if what is in its files suits that.
    by_column: bool,
    /// Compared item by item: the slice's place among those of all groups, then the place of each cut.
    position: Vec<usize>,
}

impl Task {
    fn failed(self, error: StatementError) -> LaneError {
        let Slice { files, range, .. } = self.slice;
        LaneError::Statement { group: self.group, files, range, error }
    }
}

/// What the lanes share.
struct Shared {
    todo: Mutex<VecDeque<Task>>,
    merged: Mutex<Vec<(Task, SliceFile)>>,
    failure: Mutex<Option<LaneError>>,
    /// Slices that do not fit into a lane's share of the memory and cannot be cut.
    too_large: Mutex<Vec<Task>>,
    /// Set with the first failure: the other lanes take no further slice.
    stop: AtomicBool,
    files: AtomicUsize,
    /// Groups whose files look sorted inside.
    ordered: BTreeSet<usize>,
    done: Mutex<Done>,
}

#[derive(Default)]
struct Done {
    slices: u64,
    bytes: u64,
    total: u64,
}

impl Lanes<'_> {
    /// Merges every slice of every group; per group, in ascending order of time.
    ///
    /// `main` does it when there is one slice or one thread; otherwise `open` opens an instance for each of so many lanes,
    /// and `main` does what does not fit into a lane's share of the memory and cannot be cut.
    pub(super) fn run(
        &self,
        main: &Session,
        open: &(dyn Fn(&Budget, u64) -> Result<Session, MergeError> + Sync),
    ) -> Result<Vec<Vec<SliceFile>>, LaneError> {
        let spans: Vec<Vec<FileSpan>> =
            self.groups.iter().map(|group| members(group).map(|m| span(m.file)).collect()).collect();
        let lines: Vec<TimeLine<'_>> = spans.iter().map(|spans| TimeLine::new(spans)).collect();
        let todo = self.plan(&lines, &self.budget.lane(self.budget.threads));
        let at_once = usize::try_from(self.budget.threads).unwrap_or(usize::MAX).min(todo.len()).max(1);
        let shared = Shared {
            done: Mutex::new(Done { total: todo.len() as u64, ..Done::default() }),
            todo: Mutex::new(todo),
            merged: Mutex::default(),
            failure: Mutex::default(),
            stop: AtomicBool::new(false),
            too_large: Mutex::default(),
            files: AtomicUsize::new(0),
            ordered: self.look_for_order(),
        };
        tracing::debug!(target: "storage.compaction", job_id = self.request.job_id, slices = lock(&shared.todo).len(),
            lanes = at_once, memory_bytes = self.request.limits.memory_bytes, "Merging slices");
        self.report(&shared);
        let main_engine = Engine::Open(main);
        if at_once == 1 {
            self.work_off(&main_engine, Lane::All, &lines, &spans, &shared);
        } else {
            let count = at_once as u64;
            let lane = self.budget.lane(count);
            thread::scope(|scope| {
                for _ in 0..at_once {
                    scope.spawn(|| {
                        let _panicking = StopOnPanic(&shared.stop);
                        let open = || open(&lane, count);
                        let engine = Engine::OnDemand { open: &open, session: OnceCell::new() };
                        self.work_off(&engine, Lane::Share, &lines, &spans, &shared);
                    });
                }
            });
            lock(&shared.todo).extend(lock(&shared.too_large).drain(..));
            self.work_off(&main_engine, Lane::All, &lines, &spans, &shared);
        }
        if let Some(failure) = lock(&shared.failure).take() {
            return Err(failure);
        }
        let mut merged = std::mem::take(&mut *lock(&shared.merged));
        merged.sort_by(|(a, _), (b, _)| a.position.cmp(&b.position));
        let mut files: Vec<Vec<SliceFile>> = self.groups.iter().map(|_| Vec::new()).collect();
        for (task, file) in merged {
            files[task.group].push(file);
        }
        self.keep_empty_schemas(main, &lines, &shared, &mut files)?;
        Ok(files)
    }

    fn plan(&self, lines: &[TimeLine<'_>], lane: &Budget) -> VecDeque<Task> {
        let mut todo = VecDeque::new();
        for (i, group) in self.groups.iter().enumerate() {
            let options = &self.request.options;
            let columnar = self.suits_columnar(i).then(|| columnar::plan(group, &lines[i], lane, options)).flatten();
            let by_column = columnar.is_some();
            let slices = match columnar {
                Some(slices) => slices,
                None if self.one_statement(i) => vec![lines[i].whole()],
                None => lines[i].plan(&aim(lane, group, options)),
            };
            for slice in slices {
                let position = vec![todo.len()];
                todo.push_back(Task { group: i, slice, by_column, position });
            }
        }
        todo
    }

    fn one_statement(&self, group: usize) -> bool {
        matches!(self.groups[group].time_kind, TimeKind::Other) || self.unsliced.contains(&group)
    }

    /// One lane: takes slices until there are none.
    fn work_off(
        &self,
        engine: &Engine<'_>,
        lane: Lane,
        lines: &[TimeLine<'_>],
        spans: &[Vec<FileSpan>],
        shared: &Shared,
    ) {
        while !shared.stop.load(Ordering::Relaxed) {
            let Some(task) = lock(&shared.todo).pop_front() else { return };
            // Pieces of a slice that had to be cut are this lane's own work.
            let mut own = VecDeque::from([task]);
            while let Some(task) = own.pop_front() {
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                match self.merge_one(engine, lane, task, lines, spans, shared) {
                    Ok(None) => {}
                    Ok(Some(cut)) => cut.into_iter().rev().for_each(|task| own.push_front(task)),
                    Err(error) => return shared.fail(error),
                }
            }
        }
    }

    /// Merges one slice into a file; or gives its pieces when it does not fit into memory.
    fn merge_one(
        &self,
        engine: &Engine<'_>,
        lane: Lane,
        task: Task,
        lines: &[TimeLine<'_>],
        spans: &[Vec<FileSpan>],
        shared: &Shared,
    ) -> Result<Option<Vec<Task>>, LaneError> {
        let group = &self.groups[task.group];
        let path = self.work.slice(shared.files.fetch_add(1, Ordering::Relaxed));
        let by_column = self.by_column(lane, &task, &path)?;
        if task.by_column && by_column.is_none() {
            // It was cut for less memory than DuckDB takes to sort it.
            let most = aim(&self.budget.lane(self.budget.threads), group, &self.request.options).max_rows;
            if let Some(parts) = (task.slice.rows > most).then(|| lines[task.group].divide(&task.slice, most)).flatten()
            {
                return Ok(Some(shared.cut(&task, parts)));
            }
        }
        let result = match (by_column, self.in_order(&task, &spans[task.group], shared)) {
            (Some(rows), _) => Ok(rows),
            (None, Some(files)) => {
                match self.copy(engine.session()?, group, &files, &task.slice, Order::AsRead, &path) {
                    Ok(rows) if rows == 0 || column_ascends(Path::new(&path), &sql::slice_column(group.time))? => {
                        Ok(rows)
                    }
                    Ok(_) => {
                        tracing::debug!(job_id = %self.request.job_id, "files are not sorted inside; sorting");
                        remove_slice(path.as_ref())?;
                        self.copy(engine.session()?, group, &task.slice.files, &task.slice, Order::Sorted, &path)
                    }
                    error => error,
                }
            }
            (None, None) => self.copy(engine.session()?, group, &task.slice.files, &task.slice, Order::Sorted, &path),
        };
        match result {
            // A slice without rows leaves no trace.
            Ok(0) => remove_slice(path.as_ref())?,
            Ok(_) => {
                let path = PathBuf::from(path);
                let size_bytes = fs::metadata(&path).map_err(io_error("read", &path))?.len();
                let rows = task.slice.rows;
                let bytes = input_bytes(group, rows);
                lock(&shared.merged).push((task, SliceFile { path, size_bytes }));
                lock(&shared.done).bytes += bytes;
            }
            Err(error @ (StatementError::OutOfMemory(_) | StatementError::SpillFull(_))) => {
                // Down to a row: ten thousand long strings are less than a row group, and footers do not tell their length.
                let cuttable = !self.one_statement(task.group) && task.slice.rows > 1;
                let Some(parts) = cuttable.then(|| lines[task.group].split(&task.slice)).flatten() else {
                    if lane == Lane::Share {
                        lock(&shared.too_large).push(task);
                        return Ok(None);
                    }
                    return Err(task.failed(error));
                };
                tracing::debug!(rows = task.slice.rows, "slice does not fit into memory; cutting it in two");
                return Ok(Some(shared.cut(&task, parts)));
            }
            Err(error) => return Err(task.failed(error)),
        }
        lock(&shared.done).slices += 1;
        self.report(shared);
        Ok(None)
    }

    /// What is merged in one statement is so because footers are not to be believed; DuckDB does that.
    fn suits_columnar(&self, group: usize) -> bool {
        self.request.limits.means == Means::All && !self.one_statement(group) && columnar::suits(&self.groups[group])
    }

    /// Merges one slice column by column into the file at `path`. `None`: it is not suited for that.
    fn by_column(&self, lane: Lane, task: &Task, path: &str) -> Result<Option<u64>, LaneError> {
        if !task.by_column {
            return Ok(None);
        }
        let memory = match lane {
            Lane::Share => self.budget.lane(self.budget.threads).duckdb_bytes,
            Lane::All => self.budget.duckdb_bytes,
        };
        let group = &self.groups[task.group];
        let all: Vec<Member<'_>> = members(group).collect();
        let files: Vec<SourceFile<'_>> = task
            .slice
            .files
            .iter()
            .map(|&at| SourceFile {
                path: self.work.input(all[at].file.input).into(),
                size_bytes: all[at].file.size_bytes,
                projection: &all[at].class.projection,
            })
            .collect();
        let limits = columnar::Limits { memory_bytes: memory, cancel: self.cancel };
        // Rows without a time have no order to be checked.
        let in_order = |path: &str| match task.slice.range {
            Range::Nulls => Ok(true),
            Range::Everything | Range::Between { .. } => column_ascends(path.as_ref(), &sql::slice_column(group.time)),
        };
        match columnar::merge_slice(group, &files, task.slice.range, &self.request.options, path.as_ref(), &limits) {
            // Written by one implementation, read back by another.
            Ok(rows) if rows == 0 || in_order(path)? => Ok(Some(rows)),
            Ok(_) => Err(MergeError::ProofFailed("a slice merged column by column is not in order".to_owned()).into()),
            Err(Refusal::Failed(error)) => Err(error.into()),
            Err(Refusal::Damaged(detail)) => Err(LaneError::Damaged { group: task.group, file: None, detail }),
            Err(Refusal::DamagedFile(position, detail)) => {
                Err(LaneError::Damaged { group: task.group, file: Some(task.slice.files[position]), detail })
            }
            Err(Refusal::Unsuited(why)) => {
                tracing::debug!(job_id = %self.request.job_id, %why, "not merged column by column");
                match remove_slice(path.as_ref()) {
                    Err(MergeError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
                    removed => Ok(removed.map(|()| None)?),
                }
            }
        }
    }

    /// The groups in which the first, the middle and the last file are sorted inside. What cannot be read is not judged here.
    fn look_for_order(&self) -> BTreeSet<usize> {
        let looks_ordered = |group: &SchemaGroup| {
            if group.sort != [group.time] || matches!(group.time_kind, TimeKind::Other) {
                return false;
            }
            let all: Vec<Member<'_>> = members(group).collect();
            let name = &group.columns[group.time].name;
            [0, all.len() / 2, all.len().saturating_sub(1)].into_iter().filter_map(|at| all.get(at)).all(|member| {
                let path = self.work.input(member.file.input);
                // Nothing says yet that the data is sound. What cannot be read is "not sorted"; DuckDB judges the file.
                member.file.rows == 0 || column_ascends(Path::new(&path), name).unwrap_or(false)
            })
        };
        (0..self.groups.len()).filter(|&i| looks_ordered(&self.groups[i])).collect()
    }

    /// The slice's files in the order of their times, if reading them in that order gives sorted rows as far as footers tell.
    fn in_order(&self, task: &Task, spans: &[FileSpan], shared: &Shared) -> Option<Vec<usize>> {
        let group = &self.groups[task.group];
        // A filter on the time leaves out nulls; without one a footer would have to vouch for there being none.
        let by_time_alone = group.sort == [group.time] && matches!(task.slice.range, Range::Between { .. });
        if !by_time_alone || !shared.ordered.contains(&task.group) {
            return None;
        }
        let mut files: Vec<(i64, i64, usize)> = task
            .slice
            .files
            .iter()
            .map(|&at| spans[at].range.map(|(min, max)| (min, max, at)))
            .collect::<Option<_>>()?;
        files.sort_unstable();
        let disjoint = files.windows(2).all(|pair| pair[0].1 <= pair[1].0);
        let all: Vec<Member<'_>> = members(group).collect();
        let one_class = files.windows(2).all(|pair| std::ptr::eq(all[pair[0].2].class, all[pair[1].2].class));
        (disjoint && one_class && !files.is_empty()).then(|| files.into_iter().map(|(_, _, at)| at).collect())
    }

    fn copy(
        &self,
        session: &Session,
        group: &SchemaGroup,
        files: &[usize],
        slice: &Slice,
        order: Order,
        path: &str,
    ) -> Result<u64, StatementError> {
        let all: Vec<Member<'_>> = members(group).collect();
        let mut files: Vec<Member<'_>> = files.iter().map(|&at| all[at]).collect();
        if files.is_empty() {
            // By the footers there is no row in this range; any file gives the schema of an empty result.
            files.extend(all.first());
        }
        let sources = sources(self.work, &files);
        session.execute(&sql::copy_slice(group, &sources, slice.range, order, &self.request.options, path))
    }

    /// A group of empty files becomes one empty file, so that its schema stays.
    fn keep_empty_schemas(
        &self,
        main: &Session,
        lines: &[TimeLine<'_>],
        shared: &Shared,
        merged: &mut [Vec<SliceFile>],
    ) -> Result<(), LaneError> {
        for (i, group) in self.groups.iter().enumerate() {
            if !merged[i].is_empty() {
                continue;
            }
            let whole = lines[i].whole();
            let path = self.work.slice(shared.files.fetch_add(1, Ordering::Relaxed));
            self.copy(main, group, &whole.files, &whole, Order::Sorted, &path).map_err(|error| {
                LaneError::Statement { group: i, files: whole.files.clone(), range: whole.range, error }
            })?;
            let path = PathBuf::from(path);
            let size_bytes = fs::metadata(&path).map_err(io_error("read", &path))?.len();
            merged[i].push(SliceFile { path, size_bytes });
        }
        Ok(())
    }

    fn report(&self, shared: &Shared) {
        let done = lock(&shared.done);
        let (step, total) = (MergeStep::Merge, done.total);
        self.progress.report(MergeProgress { step, done: done.slices, total, input_bytes_done: done.bytes });
    }
}

impl Shared {
    /// The pieces of a slice, to be merged by DuckDB.
    fn cut(&self, task: &Task, parts: Vec<Slice>) -> Vec<Task> {
        lock(&self.done).total += parts.len() as u64 - 1;
        let piece = |(k, slice)| Task {
            group: task.group,
            slice,
            by_column: false,
            position: task.position.iter().copied().chain([k]).collect(),
        };
        parts.into_iter().enumerate().map(piece).collect()
    }

    fn fail(&self, error: LaneError) {
        self.stop.store(true, Ordering::Relaxed);
        lock(&self.failure).get_or_insert(error);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
