//! The steps of a merge one by one, so that `benches/merge.rs` can time each: for it, and for nobody else.
//!
//! Not here: what a merge does about damaged files and failed proofs ([`super::merge_blocking`]). Here they are errors.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tokio_util::sync::CancellationToken;

use super::attempt::{Attempt, Setback};
use super::duckdb::{Opened, open, survey_sound};
use super::lanes::SliceFile;
use super::schema::SchemaGroup;
use super::stitch::Stitched;
use super::verify::Fingerprint;
use super::work_dir::WorkDir;
use super::{MergeError, MergeRequest, MergedFile, ProgressSink};

/// A request that is surveyed, with DuckDB open on its inputs.
pub struct Parts {
    request: MergeRequest,
    work: WorkDir,
    groups: Vec<SchemaGroup>,
    opened: Opened,
    progress: ProgressSink,
    cancel: CancellationToken,
}

/// Merged slices, on disk in the work folder.
pub struct Slices(Vec<Vec<SliceFile>>);

/// Finished files, on disk in the work folder.
pub struct Outputs(Vec<Vec<(MergedFile, Stitched)>>);

/// Of the rows of the inputs, one for each schema group.
pub struct Fingerprints(Vec<Fingerprint>);

impl Parts {
    /// Reads the footers, and opens DuckDB.
    pub fn open(request: MergeRequest) -> Result<Self, MergeError> {
        let (progress, cancel) = (ProgressSink::ignore(), CancellationToken::new());
        let work = WorkDir::prepare(&request.work_dir, &request.inputs)?;
        let (groups, set_aside) = survey_sound(&request, &BTreeMap::new(), &progress, &cancel)?;
        if !set_aside.is_empty() {
            return Err(MergeError::NothingToMerge(set_aside));
        }
        let opened = open(&request, &work, &groups, &cancel)?;
        Ok(Self { request, work, groups, opened, progress, cancel })
    }

    /// The fingerprint of the inputs, by DuckDB: the first half of the proof.
    pub fn fingerprints(&self) -> Result<Fingerprints, MergeError> {
        self.attempt().scan_inputs().map(Fingerprints).map_err(setback)
    }

    /// Merges every slice. What was written before is removed.
    pub fn merge_slices(&self) -> Result<Slices, MergeError> {
        self.work.restart()?;
        self.attempt().merge_slices().map(Slices).map_err(setback)
    }

    /// Joins slices into outputs. Slices are removed.
    pub fn stitch(&self, slices: Slices) -> Result<Outputs, MergeError> {
        self.attempt().stitch(slices.0).map(Outputs)
    }

    /// Proves the outputs: against the fingerprints of the inputs, or by the footers alone.
    pub fn prove(&self, outputs: &Outputs, expected: Option<&Fingerprints>) -> Result<(), MergeError> {
        self.attempt().prove(&outputs.0, expected.map(|expected| &expected.0[..])).map_err(setback)
    }

    fn attempt(&self) -> Attempt<'_> {
        Attempt {
            request: &self.request,
            work: &self.work,
            groups: &self.groups,
            unsliced: BTreeSet::new(),
            session: &self.opened.session,
            files: &self.opened.files,
            budget: &self.opened.budget,
            progress: &self.progress,
            cancel: &self.cancel,
        }
    }
}

fn setback(setback: Setback) -> MergeError {
    match setback {
        Setback::LeftOut(files) => MergeError::Engine(format!("left out: {files:?}")),
        Setback::Mismatch { detail, .. } => MergeError::ProofFailed(detail),
        Setback::Failed(error) => error,
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("request", &self.request).finish_non_exhaustive()
    }
}

impl fmt::Debug for Slices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slices").field(&self.0).finish()
    }
}

impl fmt::Debug for Outputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().flatten().map(|(file, _)| file)).finish()
    }
}

impl fmt::Debug for Fingerprints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fingerprints").field(&self.0).finish()
    }
}
