//! Adopting: an operator's decision that compacted files count, for a partition whose records were lost.
//!
//! ```text
//! lease ── look ── may they? ── read every row ── look again ── may they? ── create record(s) of kind "adopt"
//!                  check (pure)                                 check (pure)   create-if-absent, slot by slot
//! ```
//!
//! What must hold: an adoption doubles no row, and nothing becomes dead by it, so the tidies that follow delete nothing
//! that they would not have deleted before ([`check`] says why). Nothing is deleted or moved here. Interrupted at any point,
//! the partition is as it was, or the named files are live and the same command finishes what is left.
//!
//! A head that names a missing file is not repaired by this: that file has to be restored.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::commit;
use super::error::JobError;
use super::footer::{self, FooterError};
use super::job::{JobEnv, LOG};
use super::lease_guard::{Asked, LeaseGuard};
use super::manager::CompactionManager;
use super::observe::{View, observe};
use super::record::{Author, LiveFile};
use super::scratch::Scratch;
use crate::lock::Acquired;
use crate::merge::recheck::Look;
use crate::partition::{CompactedName, DataFile, FileKind, Generation, PartitionId};

pub mod check;

use check::{Adoption, Doubt, Footers, Refusal, Step};

/// Another worker may create a record between our look and our create. Each such loss is somebody's progress.
const MAX_LOSSES: usize = 8;

/// Why nothing, or not everything, was adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It would not be safe; the message says what to do.
    #[error("nothing was adopted: {0}")]
    Refused(#[from] Refusal),
    /// A job is at work there.
    #[error(
        "the partition is locked by {worker_id} until {until}: wait for its job, or stop the service, then try again"
    )]
    Locked { worker_id: String, until: String },
    #[error(transparent)]
    Failed(#[from] JobError),
}

/// What an adoption did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Adopted {
    pub partition_path: String,
    /// The files that count now and did not before.
    pub files: Vec<String>,
    pub rows: u64,
    /// The head's generation now.
    pub generation: Generation,
    pub records_created: u64,
}

impl CompactionManager {
    /// Looks whether the named files may be adopted, as far as records and footers tell. Read-only.
    ///
    /// # Errors
    /// Also when they may not, with the reason and the remedy.
    pub async fn plan_adoption(&self, partition: &PartitionId, named: &BTreeSet<String>) -> Result<Step, AdoptError> {
        let (view, footers) = look(self.env(), partition).await?;
        Ok(check::next_step(partition, &view, named, &footers)?)
    }

    /// Makes the named files count. See the module's documentation.
    ///
    /// # Errors
    /// When that would not be safe, when the partition is locked, or when storage fails.
    pub async fn adopt(&self, partition: &PartitionId, named: &BTreeSet<String>) -> Result<Adopted, AdoptError> {
        let env = self.env();
        self.probe().await.map_err(|source| JobError::Storage { step: "check storage", source })?;
        let ttl = env.settings.lock_ttl;
        let asked = Asked::now(Arc::clone(&env.clock), ttl);
        let lease = match env.locks.acquire_lock(partition, ttl).await.map_err(JobError::from)? {
            Acquired::Yes(lease) => lease,
            Acquired::HeldBy(holder) => {
                let until = holder.expires_at.format("%FT%TZ").to_string();
                return Err(AdoptError::Locked { worker_id: holder.worker_id.to_string(), until });
            }
        };
        let guard = LeaseGuard::hold(Arc::clone(&env.locks), lease, asked, CancellationToken::new());
        let job_id = self.new_attempt(partition).job_id;
        let result = Adopting { env, partition, named, job_id, guard: &guard }.run().await;
        guard.release().await;
        result
    }
}

/// A consistent view, and the footers of our files that are not dead.
async fn look(env: &JobEnv, partition: &PartitionId) -> Result<(View, Footers), JobError> {
    let view = observe(&env.storage, partition).await?;
    let footers = read_footers(env, partition, &view).await?;
    Ok((view, footers))
}

/// The footers of our files that are live or above the head.
pub(super) async fn read_footers(env: &JobEnv, partition: &PartitionId, view: &View) -> Result<Footers, JobError> {
    let mut footers = Footers::new();
    for file in &view.listing.data {
        let FileKind::Ours(generation) = file.kind else { continue };
        if generation <= view.head.generation() && !view.head.counts(file) {
            continue;
        }
        let footer = match footer::read(&env.storage, partition, &file.name, file.size_bytes).await {
            Ok(footer) => Ok(footer),
            Err(FooterError::Unreadable { detail, .. }) => Err(detail),
            Err(FooterError::Storage(source)) => return Err(JobError::Storage { step: "read footer", source }),
        };
        footers.insert(file.name.clone(), footer);
    }
    Ok(footers)
}

struct Adopting<'a> {
    env: &'a JobEnv,
    partition: &'a PartitionId,
    named: &'a BTreeSet<String>,
    job_id: String,
    guard: &'a LeaseGuard,
}

/// A file whose rows were all read, as it was then.
struct Proven {
    etag: String,
    live: LiveFile,
}

impl Adopting<'_> {
    async fn run(&self) -> Result<Adopted, AdoptError> {
        let (view, footers) = look(self.env, self.partition).await?;
        let proven = match check::next_step(self.partition, &view, self.named, &footers)? {
            Step::Done => Vec::new(),
            Step::Create(adoption) => self.prove(&view, &footers, &adoption).await?,
        };
        let live: Vec<LiveFile> = proven.iter().map(|p| p.live.clone()).collect();
        let (mut records_created, mut losses) = (0, 0);
        loop {
            let (view, footers) = look(self.env, self.partition).await?;
            let adoption = match check::next_step(self.partition, &view, self.named, &footers)? {
                Step::Create(adoption) => adoption,
                Step::Done => {
                    return Ok(Adopted {
                        partition_path: self.partition.to_string(),
                        files: live.iter().map(|f| f.name.clone()).collect(),
                        rows: live.iter().map(|f| f.rows).sum(),
                        generation: view.head.generation(),
                        records_created,
                    });
                }
            };
            for file in &adoption.files {
                let same = |p: &Proven| {
                    (&p.live.name, p.live.size_bytes, &p.etag) == (&file.name, file.size_bytes, &file.etag)
                };
                if !proven.iter().any(same) {
                    return Err(Refusal::Changed { file: file.name.clone() }.into());
                }
            }
            if self.guard.is_lost() {
                return Err(JobError::LeaseLost { step: "create record" }.into());
            }
            let record = view.head.adopt(self.author(), &view.listing, &live);
            match commit::create(&self.env.storage, self.partition, &record, || !self.guard.is_lost()).await {
                Ok(()) => {
                    records_created += 1;
                    info!(target: LOG, partition = %self.partition, generation = record.generation.0,
                        files = live.len(), "Adopted compacted files");
                }
                Err(JobError::Overtaken { .. }) if losses < MAX_LOSSES => losses += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn author(&self) -> Author {
        let lease = self.guard.lease();
        Author {
            job_id: self.job_id.clone(),
            worker_id: lease.worker_id.to_string(),
            lease_token: lease.token,
            created_at: self.env.clock.now(),
        }
    }

    /// Reads every row of the files to adopt, and compares rows where origins leave a doubt.
    async fn prove(&self, view: &View, footers: &Footers, adoption: &Adoption) -> Result<Vec<Proven>, AdoptError> {
        let mut scratch = Scratch::create(self.env, self.partition, &self.job_id)?;
        let mut proven = Vec::new();
        for attempt in by_attempt(self.partition, &adoption.files) {
            let local = scratch.fetch(&attempt).await?;
            let looks = scratch.look(move |r| r.content(&local, &CancellationToken::new())).await?.looks;
            for (file, look) in attempt.into_iter().zip(looks) {
                proven.push(self.prove_one(file, look, footers).await?);
            }
        }
        for doubt in &adoption.doubts {
            let whole = adoption.incomplete.iter().all(|i| !doubt.files.contains(&i.file));
            if !whole {
                // Rows that were merged may be in the part that is gone.
                let (file, ancestor) = (doubt.files[0].clone(), doubt.ancestor.clone());
                return Err(Refusal::Undecidable { file, ancestor, suspect: doubt.suspects[0].clone() }.into());
            }
            self.settle_doubt(view, doubt, &mut scratch).await?;
        }
        Ok(proven)
    }

    async fn prove_one(&self, file: &DataFile, look: Look, footers: &Footers) -> Result<Proven, AdoptError> {
        let name = || file.name.clone();
        let content = match look {
            Look::Read(content) => content,
            Look::Unreadable(detail) | Look::NotExamined(detail) => {
                return Err(Refusal::Unreadable { file: name(), detail }.into());
            }
        };
        if let Some(Ok(footer)) = footers.get(&file.name)
            && footer.rows != content.rows
        {
            return Err(Refusal::OtherRows { file: name(), found: content.rows, stated: footer.rows }.into());
        }
        let read = self.env.storage.read_back(self.partition, &file.name).await;
        let read = read.map_err(|source| JobError::Storage { step: "read back", source })?;
        if (read.size_bytes, &read.etag) != (file.size_bytes, &file.etag) {
            return Err(Refusal::Changed { file: name() }.into());
        }
        let live = LiveFile {
            name: name(),
            size_bytes: file.size_bytes,
            rows: content.rows,
            min_time: content.min_time,
            max_time: content.max_time,
            checksum: read.checksum,
        };
        Ok(Proven { etag: read.etag, live })
    }

    /// A file that was merged into another one, on whatever detours, has no row that is not in it.
    async fn settle_doubt(&self, view: &View, doubt: &Doubt, scratch: &mut Scratch<'_>) -> Result<(), AdoptError> {
        let find = |name: &String| view.listing.data.iter().find(|f| f.name == *name);
        let whole: Vec<&DataFile> = doubt.files.iter().filter_map(find).collect();
        let whole = scratch.fetch(&whole).await?;
        for suspect in doubt.suspects.iter().filter_map(find) {
            let part = scratch.fetch(&[suspect]).await?.remove(0);
            let all = whole.clone();
            let missing = scratch.look(move |r| r.rows_missing(&part, &all, &CancellationToken::new())).await?;
            let (file, ancestor) = (doubt.files[0].clone(), doubt.ancestor.clone());
            let suspect = suspect.name.clone();
            match missing {
                Some(0) => return Err(Refusal::Doubled { file, ancestor, suspect }.into()),
                Some(_) => {}
                None => return Err(Refusal::Undecidable { file, ancestor, suspect }.into()),
            }
        }
        Ok(())
    }
}

/// The files of each attempt, in the order of their parts.
pub(super) fn by_attempt<'a>(
    partition: &PartitionId,
    files: impl IntoIterator<Item = &'a DataFile>,
) -> Vec<Vec<&'a DataFile>> {
    let mut named: Vec<(CompactedName, &DataFile)> =
        files.into_iter().filter_map(|f| Some((CompactedName::parse(partition, &f.name)?, f))).collect();
    named.sort_by(|(a, _), (b, _)| (a.generation, &a.unique, a.part).cmp(&(b.generation, &b.unique, b.part)));
    named
        .chunk_by(|(a, _), (b, _)| (a.generation, &a.unique) == (b.generation, &b.unique))
        .map(|attempt| attempt.iter().map(|(_, file)| *file).collect())
        .collect()
}
