//! Checking storage: does what is there agree with what the records say?
//!
//! ```text
//! places ──> as it is: head, LIST, footers ──> checks (pure) ──> findings, each with its remedy
//!                                    deep: every byte and row of live files ──> deep (pure part) ──┘
//! ```
//!
//! What must hold: nothing is changed; a finding is made only from facts that were read, so a sound storage has none; one
//! defect is one finding, at the place where it can be repaired; a place that cannot be looked at costs itself. Memory is
//! that of a few partitions, whatever the size of the storage.
//!
//! Deliberately not here: repairing. What needs no person is cleared by the next cycle, the rest by the remedy that the
//! finding names, or by [`super::adopt`].

use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};
use serde::Serialize;

use super::adopt::check::Footers;
use super::adopt::read_footers;
use super::error::JobError;
use super::job::JobEnv;
use super::manager::CompactionManager;
use super::observe::{ObserveError, View, observe_as_it_is, read_head};
use super::scan::{self, Scope, places};
use super::sweep::Extent;
use crate::partition::PartitionId;
use crate::storage::{OwnedDir, Scanned, StorageError};

mod checks;
mod deep;

/// Partitions that are checked at the same time, when only records and footers are read.
const CHECKS_AT_ONCE: usize = 16;

/// How often a partition with findings is looked at, as long as something changes meanwhile.
const MAX_LOOKS: usize = 8;

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Records, listings and footers.
    Footers,
    /// That, and every byte and row of the compacted files that count.
    Content,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The next cycle clears it. Nobody has to do anything.
    Info,
    /// Every row is there once, but something is not as it should be. A person should look.
    Warning,
    /// Rows are missing, doubled or in doubt, or the partition stands still. A person must act.
    Error,
}

/// What was found. The names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A file of ours whose attempt lost, was voided, or was consumed.
    DeadFile,
    /// A consumed file that is not deleted yet.
    RetiredFile,
    /// Files of an attempt whose outcome is open; all its inputs are there.
    UndecidedAttempt,
    /// Files of an attempt whose outcome is open; inputs are missing.
    UndecidedAttemptWithoutInputs,
    /// Files of a generation that cannot exist yet.
    GenerationGap,
    /// Compacted files without any record.
    RecordsMissing,
    /// An adoption that was interrupted.
    UnfinishedAdoption,
    /// A file that counts is not there.
    LiveFileMissing,
    /// A file that counts has another size than recorded.
    LiveFileChanged,
    /// A file cannot be read.
    UnreadableFile,
    /// A file holds another number of rows than recorded.
    RowsDiffer,
    /// A file has the recorded size and other bytes.
    ChecksumMismatch,
    /// The rows of a job's outputs are not the ones that were proven.
    FingerprintMismatch,
    /// Rows of a file are not in the order that it declares.
    UnsortedOutput,
    /// Outputs of one job overlap in time.
    OverlappingOutputs,
    /// A file has the name and size of a consumed one and is not it.
    ReusedName,
    /// A file counts, although a file that counts was made from it.
    ConsumedFileCounts,
    /// A record cannot be used.
    UnreadableRecord,
    /// A folder of a process that is gone.
    LeftoverFolder,
    /// A place, or the rows of a file, could not be looked at.
    Unchecked,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub kind: Kind,
    pub severity: Severity,
    /// `database/measurement/YYYY/MM/DD/HH`; absent for what is not in a partition.
    pub partition_path: Option<String>,
    /// Names in the partition; for folders, their paths.
    pub files: Vec<String>,
    /// What it is and what it means.
    pub detail: String,
    /// What to do: a command, or a step.
    pub remedy: String,
}

impl Finding {
    fn in_partition(
        partition: &PartitionId,
        (kind, severity): (Kind, Severity),
        files: Vec<String>,
        detail: String,
        remedy: String,
    ) -> Self {
        Self { kind, severity, partition_path: Some(partition.to_string()), files, detail, remedy }
    }

    fn unchecked(place: &str, error: &dyn std::fmt::Display) -> Self {
        Self {
            kind: Kind::Unchecked,
            severity: Severity::Error,
            partition_path: place.parse::<PartitionId>().ok().map(|p| p.to_string()),
            files: Vec::new(),
            // A name in it may hold a line break.
            detail: format!("{place} could not be checked: {error}").replace('\n', "\\n"),
            remedy: "do what the message says, then check again".to_owned(),
        }
    }
}

/// What a check looked at, and what it found there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// `false` for what is not a partition, and for one that could not be looked at.
    pub is_partition: bool,
    pub files: u64,
    /// The most severe first.
    pub findings: Vec<Finding>,
}

/// Everything that the checks of one partition are made from.
#[derive(Debug)]
struct Evidence<'a> {
    partition: &'a PartitionId,
    /// Live files may be missing from it.
    view: View,
    /// Of our files that are live or above the head.
    footers: Footers,
}

impl CompactionManager {
    /// Checks everything in scope, streamed, in no particular order. Read-only.
    #[must_use]
    pub fn verify(&self, scope: Scope, depth: Depth) -> BoxStream<'static, Checked> {
        let env = Arc::clone(self.env());
        let leftovers = stream::once(leftovers(Arc::clone(&env)));
        // A deep check uses the memory of a merge, so there is one at a time.
        let at_once = if depth == Depth::Content { 1 } else { CHECKS_AT_ONCE };
        let random = self.new_check_id();
        let checking = Arc::clone(&env);
        let found = if let Some(partition) = scope.partition.clone() {
            stream::once(async move { Ok(Scanned::Partition(partition, crate::partition::Listing::default())) }).boxed()
        } else {
            places(env, scope, Arc::new(Extent::everything()))
        };
        let partitions = found
            .enumerate()
            .map(move |(number, found)| {
                let (env, id) = (Arc::clone(&checking), format!("{random}_{number}"));
                async move {
                    match found {
                        Ok(Scanned::Partition(partition, _)) => check(&env, &partition, depth, &id).await,
                        Err(scan::Finding::Problem(problem)) => {
                            let findings = vec![Finding::unchecked(&problem.place, &problem.error)];
                            Checked { findings, ..Checked::default() }
                        }
                        Ok(Scanned::Unrecognised { .. }) | Err(_) => Checked::default(),
                    }
                }
            })
            .buffered(at_once);
        leftovers.chain(partitions).boxed()
    }
}

/// Folders of processes that are gone.
async fn leftovers(env: Arc<JobEnv>) -> Checked {
    let temp_dir = env.settings.temp_dir.clone();
    let temp = tokio::task::spawn_blocking(move || OwnedDir::leftovers(&temp_dir)).await;
    let temp_dir = env.settings.temp_dir.display().to_string();
    let staging = format!("{}/_compaction_staging", env.storage.location());
    let looks = [
        (temp_dir, temp.map_err(|e| e.to_string()).and_then(|ids| ids.map_err(|e| e.to_string()))),
        (staging, env.storage.staging_leftovers().await.map_err(|e| e.to_string())),
    ];
    let findings = looks.into_iter().filter_map(|(place, ids)| match ids {
        Ok(ids) if ids.is_empty() => None,
        Ok(ids) => Some(Finding {
            kind: Kind::LeftoverFolder,
            severity: Severity::Info,
            partition_path: None,
            files: ids.iter().map(|id| format!("{place}/{id}")).collect(),
            detail: "private folders of jobs whose process is gone; nothing in them counts".to_owned(),
            remedy: "none needed: the next cycle removes them (at once: `arc compact`)".to_owned(),
        }),
        Err(error) => Some(Finding::unchecked(&place, &error)),
    });
    Checked { findings: findings.collect(), ..Checked::default() }
}

/// Checks one partition.
async fn check(env: &JobEnv, partition: &PartitionId, depth: Depth, id: &str) -> Checked {
    match examine(env, partition, depth, id).await {
        Ok(mut checked) => {
            checked.findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
            checked
        }
        Err(JobError::Observe(ObserveError::BadRecord { name, source, .. })) => {
            let finding = checks::unreadable_head(partition, &name, &source.to_string());
            Checked { is_partition: true, files: 0, findings: vec![finding] }
        }
        Err(error) => {
            Checked { findings: vec![Finding::unchecked(&partition.to_string(), &error)], ..Checked::default() }
        }
    }
}

async fn examine(env: &JobEnv, partition: &PartitionId, depth: Depth, id: &str) -> Result<Checked, JobError> {
    let mut unsettled = ObserveError::Unsettled { partition: partition.clone() }.into();
    let mut seen_before = Vec::new();
    for _ in 0..MAX_LOOKS {
        match look(env, partition, depth, id, &mut seen_before).await {
            Ok(Some(checked)) => return Ok(checked),
            Ok(None) => {}
            // It was listed a moment ago: somebody has committed and tidied since.
            Err(gone @ JobError::Storage { source: StorageError::NotFound { .. }, .. }) => unsettled = gone,
            Err(other) => return Err(other),
        }
    }
    Err(unsettled)
}

/// The files of attempts whose inputs are not in the listing.
fn unexplained(findings: &[Finding]) -> Vec<Vec<String>> {
    let by_inputs = |f: &&Finding| matches!(f.kind, Kind::RecordsMissing | Kind::UndecidedAttemptWithoutInputs);
    findings.iter().filter(by_inputs).map(|f| f.files.clone()).collect()
}

/// What one look shows. `None`: nobody may be called for what only this one shows, so somebody must look again.
///
/// A LIST takes time and is no snapshot. One that was under way while somebody committed shows files without the record that
/// explains them. One that was under way while a late file came and was merged may show the output and not that file: then the
/// next LIST shows both. `seen_before` is what the last look could not explain.
async fn look(
    env: &JobEnv,
    partition: &PartitionId,
    depth: Depth,
    id: &str,
    seen_before: &mut Vec<Vec<String>>,
) -> Result<Option<Checked>, JobError> {
    let view = observe_as_it_is(&env.storage, partition).await?;
    let footers = read_footers(env, partition, &view).await?;
    let files = view.listing.data.len() as u64;
    let evidence = Evidence { partition, view, footers };
    let mut findings = checks::judge(&evidence);
    let before = std::mem::replace(seen_before, unexplained(&findings));
    if !seen_before.iter().all(|files| before.contains(files)) {
        return Ok(None);
    }
    if depth == Depth::Content {
        findings.extend(deep::judge(env, &evidence, &findings, id).await?);
    }
    let is_final = findings.is_empty() || read_head(&env.storage, partition).await? == evidence.view.head;
    Ok(is_final.then_some(Checked { is_partition: true, files, findings }))
}
