//! The merge engine: DuckDB in this process, from survey to proof.
//!
//! ```text
//! survey ─> group ─> [scan] ─> merge slices ─> stitch ─> prove ─> outcome
//!             ▲        │left out    │left out               │mismatch: once more, that group unsliced
//!             └────────┴────────────┴───────────────────────┘
//! ```
//!
//! An attempt works on a fixed set of files, and its result depends on no other: as soon as a file turns out to be damaged, or
//! too large for the memory even alone, the attempt is dropped, the file set aside, and the others are grouped and
//! merged anew. Every turn of the loop sets a file aside, so it ends.
//!
//! Not here: how a group is merged and proven (`attempt.rs`), the child process (`subprocess.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::attempt::{Attempt, Merged, Setback};
use super::budget::{Budget, row_bytes};
use super::resources::ProcessMemory;
use super::schema::{SchemaGroup, group};
use super::session::Session;
use super::survey::survey;
use super::suspects::contradictions;
use super::work_dir::WorkDir;
use super::{
    Means, MergeEngine, MergeError, MergeInput, MergeOutcome, MergeProgress, MergeRequest, MergeStep, ProgressSink,
    SetAside, SetAsideReason,
};

/// Merges in this process, on a blocking thread. A crash of DuckDB is a crash of the process.
#[derive(Debug, Clone, Copy, Default)]
pub struct DuckDbEngine;

#[async_trait]
impl MergeEngine for DuckDbEngine {
    async fn merge(
        &self,
        request: MergeRequest,
        progress: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<MergeOutcome, MergeError> {
        tokio::task::spawn_blocking(move || run(&request, &progress, &cancel))
            .await
            .unwrap_or_else(|e| Err(MergeError::Engine(format!("the merge ended abnormally: {e}"))))
    }
}

/// Merges, blocking the thread. What the engine and the child process do.
pub fn run(
    request: &MergeRequest,
    progress: &ProgressSink,
    cancel: &CancellationToken,
) -> Result<MergeOutcome, MergeError> {
    let merged =
        WorkDir::prepare(&request.work_dir, &request.inputs).and_then(|work| merge(request, &work, progress, cancel));
    merged.map_err(|error| match error {
        MergeError::Io { action, path, source } => MergeError::of_io(action, path, source),
        other => other,
    })
}

fn merge(
    request: &MergeRequest,
    work: &WorkDir,
    progress: &ProgressSink,
    cancel: &CancellationToken,
) -> Result<MergeOutcome, MergeError> {
    let mut left_out: BTreeMap<usize, SetAsideReason> = BTreeMap::new();
    let mut opened: Option<Opened> = None;
    // Before DuckDB is alone with files that may have crashed it, a reader looks at them that does not crash.
    let mut examined: BTreeSet<usize> = BTreeSet::new();
    loop {
        let (groups, set_aside) = survey_sound(request, &left_out, progress, cancel)?;
        // Of files that had no room before, none was looked at.
        let inputs = || groups.iter().flat_map(SchemaGroup::files).map(|file| file.input);
        if request.limits.means != Means::All && inputs().any(|input| !examined.contains(&input)) {
            examined.extend(inputs());
            let found: Vec<_> = groups
                .iter()
                .map(|group| contradictions(request, group, cancel))
                .collect::<Result<Vec<_>, _>>()?
                .concat();
            if !found.is_empty() {
                left_out.extend(found);
                continue;
            }
        }
        if groups.is_empty() {
            return Err(MergeError::NothingToMerge(set_aside));
        }
        if opened.is_none() {
            opened = Some(open(request, work, &groups, cancel)?);
        }
        let Opened { session, budget, files } = opened.as_ref().expect("opened above");
        let unsliced = BTreeSet::new();
        let mut attempt =
            Attempt { request, work, groups: &groups, unsliced, session, files, budget, progress, cancel };
        match attempt.run() {
            Ok(merged) => return outcome(request, &groups, set_aside, merged, session.version()?),
            Err(Setback::LeftOut(files)) => {
                for (input, why) in &files {
                    tracing::warn!(job_id = %request.job_id, file = %request.inputs[*input].name, %why, "input is left out");
                }
                left_out.extend(files);
            }
            Err(Setback::Mismatch { detail, .. }) => return Err(MergeError::ProofFailed(detail)),
            Err(Setback::Failed(error)) => return Err(error),
        }
    }
}

/// The inputs that are not left out, in groups; the others with the reason.
pub(super) fn survey_sound(
    request: &MergeRequest,
    left_out: &BTreeMap<usize, SetAsideReason>,
    progress: &ProgressSink,
    cancel: &CancellationToken,
) -> Result<(Vec<SchemaGroup>, Vec<SetAside>), MergeError> {
    // Once more after damage was found: footers are quick to read, and keeping all of them would cost memory always. What was
    // found out with effort about those that are left out says more than another look at their footers.
    let (indices, inputs): (Vec<usize>, Vec<MergeInput>) = (request.inputs.iter().enumerate())
        .filter(|(index, _)| !left_out.contains_key(index))
        .map(|(index, input)| (index, input.clone()))
        .unzip();
    let total = inputs.len() as u64;
    let count = AtomicU64::new(0);
    let done = |_index: usize| {
        let done = count.fetch_add(1, Ordering::Relaxed) + 1;
        progress.report(MergeProgress { step: MergeStep::Survey, done, total, input_bytes_done: 0 });
    };
    let (mut surveyed, mut set_aside) = survey(&inputs, &request.limits, cancel, &done)?;
    for file in &mut surveyed {
        file.input = indices[file.input];
    }
    let name = |input: usize| request.inputs[input].name.clone();
    set_aside.extend(left_out.iter().map(|(&input, why)| SetAside { name: name(input), reason: why.clone() }));
    let (groups, left_alone) = group(surveyed, &request.inputs, &request.options);
    set_aside.extend(left_alone);
    Ok((groups, set_aside))
}

/// The engine, opened for the inputs of one request.
pub(super) struct Opened {
    pub(super) session: Session,
    pub(super) budget: Budget,
    /// The inputs' real paths.
    pub(super) files: Vec<String>,
}

pub(super) fn open(
    request: &MergeRequest,
    work: &WorkDir,
    groups: &[SchemaGroup],
    cancel: &CancellationToken,
) -> Result<Opened, MergeError> {
    // All of them, also files that are left alone now: when others prove damaged they may find company.
    let files = work.real_inputs();
    let widest = groups.iter().map(row_bytes).max().unwrap_or_default();
    let budget = Budget::new(&request.limits, &request.options, widest);
    let session = Session::open(work.text(), &files, &request.limits, &budget, cancel)?;
    Ok(Opened { session, budget, files })
}

fn outcome(
    request: &MergeRequest,
    groups: &[SchemaGroup],
    mut set_aside: Vec<SetAside>,
    merged: Merged,
    engine: String,
) -> Result<MergeOutcome, MergeError> {
    let merged_inputs: BTreeSet<usize> = groups.iter().flat_map(SchemaGroup::files).map(|f| f.input).collect();
    let consumed: Vec<String> = merged_inputs.iter().map(|&i| request.inputs[i].name.clone()).collect();
    // The caller retires what is consumed, so the books must balance here.
    if consumed.len() + set_aside.len() != request.inputs.len() {
        return Err(MergeError::ProofFailed(format!(
            "{} inputs, but {} consumed and {} set aside",
            request.inputs.len(),
            consumed.len(),
            set_aside.len()
        )));
    }
    set_aside.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(MergeOutcome {
        rows: merged.outputs.iter().map(|o| o.rows).sum(),
        outputs: merged.outputs,
        consumed,
        set_aside,
        fingerprint: merged.fingerprint,
        slices: merged.slices,
        peak_memory_bytes: ProcessMemory::of_this_process().map_or(0, |memory| memory.peak_bytes),
        engine,
    })
}

#[cfg(test)]
mod tests;
