//! One attempt to merge a fixed set of groups, from the fingerprint of the inputs to the proof of the outputs.
//!
//! What must hold: the inputs' fingerprint is taken over whole files, before and apart from slicing, so that a mistake in
//! slicing cannot hide; nothing that an attempt wrote is used unless all of it is proven. Memory that does not suffice for a
//! slice costs a cut, not the merge.
//!
//! Not here: which files are at fault (`suspects.rs`), and what happens after a setback (`duckdb.rs`).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::thread;

use tokio_util::sync::CancellationToken;

use super::budget::{Budget, expected_outputs};
use super::lanes::{LaneError, Lanes, SliceFile};
use super::schema::{ClassFile, FileClass, SchemaGroup, time_bound};
use super::session::{Session, StatementError};
use super::slices::{self, FileSpan, SliceAim};
use super::sql::{self, Source};
use super::stitch::{Stitched, stitch, sync};
use super::suspects::{contradictions, is_of_files, stated_rows};
use super::verify::{self, Fingerprint};
use super::work_dir::{WorkDir, remove_slice};
use super::{
    LINEAGE_INPUTS_KEY, LINEAGE_PART_KEY, MergeError, MergeLimits, MergeOptions, MergeProgress, MergeRequest,
    MergeStep, MergedFile, ProgressSink, SetAsideReason, Verify,
};

/// Files in one scan. Very long lists of wide files have crashed older versions, and a short list is quicker to halve.
const SCAN_FILES: usize = 256;

/// What an attempt needs.
pub(super) struct Attempt<'a> {
    pub(super) request: &'a MergeRequest,
    pub(super) work: &'a WorkDir,
    pub(super) groups: &'a [SchemaGroup],
    /// Groups to be merged in one statement without any filter, because with slices they could not be proven.
    pub(super) unsliced: BTreeSet<usize>,
    pub(super) session: &'a Session,
    /// The real paths of the inputs, which every further session may read, too.
    pub(super) files: &'a [String],
    pub(super) budget: &'a Budget,
    pub(super) progress: &'a ProgressSink,
    pub(super) cancel: &'a CancellationToken,
}

/// What a successful attempt gives.
pub(super) struct Merged {
    pub(super) outputs: Vec<MergedFile>,
    pub(super) fingerprint: Option<String>,
    pub(super) slices: usize,
}

/// Why an attempt gave nothing.
pub(super) enum Setback {
    /// The merge goes on without these inputs, for these reasons.
    LeftOut(LeftOut),
    /// Outputs and inputs of this group disagree.
    Mismatch {
        group: usize,
        detail: String,
    },
    Failed(MergeError),
}

impl From<MergeError> for Setback {
    fn from(error: MergeError) -> Self {
        Self::Failed(error)
    }
}

/// Inputs, and why the merge goes on without them.
pub(super) type LeftOut = Vec<(usize, SetAsideReason)>;

/// A file of a group, with the class it belongs to.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) class: &'a FileClass,
    pub(super) file: &'a ClassFile,
}

impl Attempt<'_> {
    /// A footer that lies about times misleads both the slices and DuckDB's own skipping. So a group that cannot be proven
    /// is merged once more without any range; only when that fails, too, the proof has failed.
    pub(super) fn run(&mut self) -> Result<Merged, Setback> {
        let expected = match self.request.options.verify {
            Verify::Content => Some(self.scan_inputs()?),
            Verify::Footers => None,
        };
        loop {
            match self.merge_and_prove(expected.as_deref()) {
                Err(Setback::Mismatch { group, detail }) if self.unsliced.insert(group) => {
                    let job_id = &self.request.job_id;
                    tracing::warn!(%job_id, %detail, "proof failed; merging once more without slices");
                }
                other => return other,
            }
        }
    }

    fn merge_and_prove(&self, expected: Option<&[Fingerprint]>) -> Result<Merged, Setback> {
        self.work.restart()?;
        let slices = self.merge_slices()?;
        let count = slices.iter().map(Vec::len).sum();
        let outputs = self.stitch(slices)?;
        self.prove_and_sync(&outputs, expected)?;
        Ok(Merged {
            outputs: outputs.into_iter().flatten().map(|(file, _)| file).collect(),
            fingerprint: expected.map(|e| e.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
            slices: count,
        })
    }

    /// The fingerprint of each group's rows. Decodes every value, so it also finds the files whose data is damaged.
    pub(super) fn scan_inputs(&self) -> Result<Vec<Fingerprint>, Setback> {
        let total_bytes = self.groups.iter().flat_map(members).map(|m| m.file.size_bytes).sum();
        let mut done_bytes = 0;
        let mut damaged = Vec::new();
        let mut fingerprints = Vec::new();
        for group in self.groups {
            let mut fingerprint = Fingerprint::default();
            for chunk in members(group).collect::<Vec<_>>().chunks(SCAN_FILES) {
                self.report(MergeStep::Scan, 0, 1, done_bytes);
                match self.scan(group, chunk) {
                    Ok(part) if part.rows == stated_rows(chunk) => fingerprint.add(&part),
                    Ok(part) => {
                        let found = self.find_miscounted(group, chunk)?;
                        if found.is_empty() {
                            let (read, stated) = (part.rows, stated_rows(chunk));
                            let detail = format!("{read} rows were read of files whose footers state {stated}");
                            return Err(MergeError::ProofFailed(detail).into());
                        }
                        damaged.extend(found);
                    }
                    Err(error) if is_of_files(&error) => {
                        let found = self.find_damaged(group, chunk)?;
                        if found.is_empty() {
                            return Err(self.failure(error).into());
                        }
                        damaged.extend(found);
                    }
                    Err(error) => return Err(self.failure(error).into()),
                }
                done_bytes += chunk.iter().map(|m| m.file.size_bytes).sum::<u64>();
            }
            fingerprints.push(fingerprint);
        }
        if damaged.is_empty() {
            self.report(MergeStep::Scan, 1, 1, total_bytes);
            Ok(fingerprints)
        } else {
            Err(Setback::LeftOut(damaged))
        }
    }

    pub(super) fn scan(&self, group: &SchemaGroup, members: &[Member<'_>]) -> Result<Fingerprint, StatementError> {
        self.session.fingerprint(&sql::fingerprint(group, &sources(self.work, members)))
    }

    /// Merges every slice of every group into a file of its own; per group, in ascending order of time.
    pub(super) fn merge_slices(&self) -> Result<Vec<Vec<SliceFile>>, Setback> {
        let lanes = Lanes {
            request: self.request,
            work: self.work,
            groups: self.groups,
            unsliced: &self.unsliced,
            budget: self.budget,
            progress: self.progress,
            cancel: self.cancel,
        };
        let (folder, files, limits, cancel) = (self.work.text(), self.files, &self.request.limits, self.cancel);
        let open = move |budget: &Budget, lanes: u64| {
            let limits = MergeLimits { temp_bytes: limits.temp_bytes.map(|bytes| bytes / lanes), ..*limits };
            Session::open(folder, files, &limits, budget, cancel)
        };
        lanes.run(self.session, &open).map_err(|error| match error {
            LaneError::Damaged { group, file, detail } => {
                let group = &self.groups[group];
                let known = file.and_then(|at| members(group).nth(at)).map(|member| member.file.input);
                match contradictions(self.request, group, self.cancel) {
                    Ok(mut found) => {
                        if let Some(input) = known.filter(|input| found.iter().all(|(other, _)| other != input)) {
                            found.push((input, SetAsideReason::Unreadable(detail.clone())));
                        }
                        if found.is_empty() { MergeError::Engine(detail).into() } else { Setback::LeftOut(found) }
                    }
                    Err(error) => error.into(),
                }
            }
            LaneError::Failed(error) => error.into(),
            LaneError::Statement { group, files, range, error } if is_of_files(&error) => {
                // Without slices because another file lies about its times, which says nothing about the size of these.
                let is_cut = !self.unsliced.contains(&group);
                let group = &self.groups[group];
                let all: Vec<Member<'_>> = members(group).collect();
                let suspects: Vec<Member<'_>> = files.iter().map(|&at| all[at]).collect();
                let found = match self.find_damaged(group, &suspects) {
                    Ok(found) if found.is_empty() && is_cut && matches!(error, StatementError::OutOfMemory(_)) => {
                        self.find_too_large(group, range, &suspects)
                    }
                    found => found,
                };
                match found {
                    Ok(found) if found.is_empty() => self.failure(error).into(),
                    Ok(found) => Setback::LeftOut(found),
                    Err(error) => error.into(),
                }
            }
            LaneError::Statement { error, .. } => self.failure(error).into(),
        })
    }

    /// Joins consecutive slices into outputs; per group, in ascending order of time.
    pub(super) fn stitch(&self, slices: Vec<Vec<SliceFile>>) -> Result<Vec<Vec<(MergedFile, Stitched)>>, MergeError> {
        let target = self.request.options.target_file_size_bytes;
        let mut parts: Vec<(usize, Vec<SliceFile>)> = Vec::new();
        for (i, files) in slices.into_iter().enumerate() {
            let sizes: Vec<u64> = files.iter().map(|f| f.size_bytes).collect();
            let cuts = if sliced_by_sort(&self.groups[i]) {
                slices::outputs(&sizes, target)
            } else {
                (0..files.len()).map(|k| k..k + 1).collect()
            };
            let mut files = files.into_iter();
            parts.extend(cuts.into_iter().map(|cut| (i, files.by_ref().take(cut.len()).collect())));
        }
        let total = parts.len();
        let mut outputs: Vec<Vec<(MergedFile, Stitched)>> = self.groups.iter().map(|_| Vec::new()).collect();
        for (k, (i, files)) in parts.into_iter().enumerate() {
            if self.cancel.is_cancelled() {
                return Err(MergeError::Cancelled);
            }
            self.report(MergeStep::Stitch, k as u64, total as u64, 0);
            outputs[i].push(self.stitch_one(&self.groups[i], &files, k + 1, total)?);
        }
        self.report(MergeStep::Stitch, total as u64, total as u64, 0);
        Ok(outputs)
    }

    fn stitch_one(
        &self,
        group: &SchemaGroup,
        slices: &[SliceFile],
        part: usize,
        parts: usize,
    ) -> Result<(MergedFile, Stitched), MergeError> {
        let stem = &self.request.output_stem;
        let name =
            if parts == 1 { format!("{stem}_compacted.parquet") } else { format!("{stem}_{part}_compacted.parquet") };
        let path = self.work.output(&name);
        let paths: Vec<PathBuf> = slices.iter().map(|s| s.path.clone()).collect();
        let stitched = stitch(group, &paths, &path, self.lineage(group, part, parts)?)?;
        paths.iter().try_for_each(|p| remove_slice(p))?;
        let bound = |value: Option<i64>| value.map(|v| time_bound(&group.time_kind, v));
        let file = MergedFile {
            name,
            path,
            size_bytes: stitched.size_bytes,
            rows: stitched.rows,
            min_time: bound(stitched.time.min),
            max_time: bound(stitched.time.max),
            checksum: stitched.checksum.clone(),
        };
        Ok((file, stitched))
    }

    /// What an output says about its own origin.
    fn lineage(&self, group: &SchemaGroup, part: usize, parts: usize) -> Result<Vec<(String, String)>, MergeError> {
        let mut inputs: Vec<usize> = members(group).map(|m| m.file.input).collect();
        inputs.sort_unstable();
        let names: Vec<&str> = inputs.iter().map(|&i| self.request.inputs[i].name.as_str()).collect();
        let names = serde_json::to_string(&names).map_err(|e| MergeError::Engine(format!("write lineage: {e}")))?;
        Ok(vec![
            ("arc.job_id".to_owned(), self.request.job_id.clone()),
            ("arc.generation".to_owned(), self.request.generation.to_string()),
            (LINEAGE_PART_KEY.to_owned(), format!("{part}/{parts}")),
            (LINEAGE_INPUTS_KEY.to_owned(), names),
            ("arc.engine".to_owned(), self.session.version()?),
        ])
    }

    /// The disk is at work on the outputs while the processors are.
    fn prove_and_sync(
        &self,
        outputs: &[Vec<(MergedFile, Stitched)>],
        expected: Option<&[Fingerprint]>,
    ) -> Result<(), Setback> {
        thread::scope(|scope| {
            let synced = scope.spawn(|| outputs.iter().flatten().try_for_each(|(file, _)| sync(&file.path)));
            let proven = self.prove(outputs, expected);
            let synced = synced.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            proven.and(synced.map_err(Setback::from))
        })
    }

    pub(super) fn prove(
        &self,
        outputs: &[Vec<(MergedFile, Stitched)>],
        expected: Option<&[Fingerprint]>,
    ) -> Result<(), Setback> {
        self.report(MergeStep::Prove, 0, 1, 0);
        for (i, group) in self.groups.iter().enumerate() {
            let files: Vec<&Stitched> = outputs[i].iter().map(|(_, s)| s).collect();
            let mismatch = |detail: String| Setback::Mismatch { group: i, detail };
            verify::ascending(&files).map_err(mismatch)?;
            let footers = verify::footers(group, &files);
            match expected {
                None => footers.map_err(mismatch)?,
                Some(expected) => {
                    let paths: Vec<String> =
                        outputs[i].iter().map(|(f, _)| f.path.to_string_lossy().into_owned()).collect();
                    let found = self
                        .session
                        .fingerprint(&sql::output_fingerprint(group, &paths))
                        .map_err(|e| self.failure(e))?;
                    verify::content(&expected[i], &found).map_err(mismatch)?;
                    // Every value was compared, and as many rows were read as the footers state: it is an input's statistics
                    // that are wrong about its own values.
                    if let Err(detail) = footers {
                        tracing::warn!(job_id = %self.request.job_id, %detail, "an input's footer contradicts its data");
                    }
                }
            }
        }
        self.report(MergeStep::Prove, 1, 1, 0);
        Ok(())
    }

    pub(super) fn failure(&self, error: StatementError) -> MergeError {
        match error {
            StatementError::Cancelled => MergeError::Cancelled,
            StatementError::OutOfMemory(detail) => {
                MergeError::OutOfMemory { detail, limit_bytes: self.request.limits.memory_bytes }
            }
            StatementError::SpillFull(detail) | StatementError::DiskFull(detail) => {
                MergeError::DiskFull { path: self.request.work_dir.clone(), detail }
            }
            StatementError::Other(message) => MergeError::Engine(message),
        }
    }

    fn report(&self, step: MergeStep, done: u64, total: u64, input_bytes_done: u64) {
        self.progress.report(MergeProgress { step, done, total, input_bytes_done });
    }
}

/// The files by class, in order, under the names that DuckDB may open.
pub(super) fn sources<'a>(work: &WorkDir, members: &[Member<'a>]) -> Vec<Source<'a>> {
    members
        .chunk_by(|a, b| std::ptr::eq(a.class, b.class))
        .map(|same| Source { class: same[0].class, paths: same.iter().map(|m| work.input(m.file.input)).collect() })
        .collect()
}

/// How large the slices of a group should be.
pub(super) fn aim(lane: &Budget, group: &SchemaGroup, options: &MergeOptions) -> SliceAim {
    if sliced_by_sort(group) {
        return lane.aim(group, options);
    }
    // Slices cannot be joined when rows are sorted by something else than time: each becomes an output. DuckDB spills.
    let outputs = expected_outputs(group, options);
    SliceAim { max_rows: u64::MAX, good_rows: u64::MAX, min_rows: 1, at_least: outputs }
}

/// Whether slices by time, one after another, are in the order of the sort key.
fn sliced_by_sort(group: &SchemaGroup) -> bool {
    group.sort.first() == Some(&group.time)
}

pub(super) fn members(group: &SchemaGroup) -> impl Iterator<Item = Member<'_>> {
    group.classes.iter().flat_map(|class| class.files.iter().map(move |file| Member { class, file }))
}

pub(super) fn span(file: &ClassFile) -> FileSpan {
    FileSpan { rows: file.rows, range: file.time.min.zip(file.time.max), nulls: file.time.nulls, touched: file.touched }
}

/// Bytes of input that so many rows of a group stand for.
pub(super) fn input_bytes(group: &SchemaGroup, rows: u64) -> u64 {
    let bytes: u128 = members(group).map(|m| u128::from(m.file.size_bytes)).sum();
    let total: u128 = members(group).map(|m| u128::from(m.file.rows)).sum();
    u64::try_from(bytes * u128::from(rows) / total.max(1)).unwrap_or(u64::MAX)
}
