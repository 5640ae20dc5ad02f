//! Moving a job's files: inputs to where they can be merged, and outputs back from storage to be looked at.

use std::path::Path;

use futures::{FutureExt, StreamExt, TryStreamExt};
use tracing::info;

use super::telling::megabytes;
use super::{Job, LOG};
use crate::compaction::error::JobError;
use crate::compaction::events::Step;
use crate::compaction::footer::{self, FooterError};
use crate::compaction::observe::View;
use crate::compaction::permits::TRANSFERS_AT_ONCE;
use crate::compaction::plan::Plan;
use crate::compaction::record::LiveFile;
use crate::merge::{MergeInput, MergedFile, SetAside, SetAsideReason};
use crate::partition::DataFile;

impl Job<'_> {
    /// Local files to merge: the objects themselves on local disk, otherwise copies under names of our own. And what is left out
    /// because it is not what its record says.
    pub(super) async fn fetch(
        &self,
        view: &View,
        plan: &Plan,
        dir: &Path,
    ) -> Result<(Vec<MergeInput>, Vec<SetAside>), JobError> {
        let fetched = dir.join("fetched");
        if !self.reads_in_place() {
            tokio::fs::create_dir(&fetched).await.map_err(|e| self.temp_error("create", &e))?;
        }
        let transfers: Vec<_> =
            plan.inputs.iter().enumerate().map(|(i, file)| self.fetch_one(i, file, view, &fetched).boxed()).collect();
        // In plan order, which the merge's tie-breaking rests on.
        let fetched: Vec<Result<MergeInput, SetAside>> =
            futures::stream::iter(transfers).buffered(TRANSFERS_AT_ONCE).try_collect().await?;
        let (mut inputs, mut spoiled) = (Vec::new(), Vec::new());
        for file in fetched {
            match file {
                Ok(input) => inputs.push(input),
                Err(left_out) => spoiled.push(left_out),
            }
        }
        let megabytes = megabytes(plan.input_bytes());
        info!(target: LOG, job_id = self.id.job_id, files = inputs.len(), bytes = plan.input_bytes(),
            in_place = self.reads_in_place(), "Downloaded {} files ({megabytes:.1} MB)", inputs.len());
        Ok((inputs, spoiled))
    }

    async fn fetch_one(
        &self,
        index: usize,
        file: &DataFile,
        view: &View,
        fetched: &Path,
    ) -> Result<Result<MergeInput, SetAside>, JobError> {
        let input = |path| Ok(Ok(MergeInput { name: file.name.clone(), path, size_bytes: file.size_bytes }));
        if let Some(in_place) = self.env.storage.local_path(self.partition, &file.name) {
            return input(in_place);
        }
        // T3: base names can be equal; index and key hash cannot.
        let hash = blake3::hash(format!("{}/{}", self.partition, file.name).as_bytes()).to_hex();
        let copy = fetched.join(format!("{index:06}_{}.parquet", &hash[..16]));
        let mut tries = 0;
        loop {
            self.check(Step::Fetch)?;
            let _permit = self.env.permits.to_transfer().await;
            let fetching = self.env.storage.fetch(self.partition, file, &copy);
            match self.stop.run_until_cancelled(fetching).await {
                Some(fetched) => fetched.map_err(|source| JobError::Storage { step: "fetch", source })?,
                None => return self.stopped(Step::Fetch),
            }
            let Some(live) = view.head.live_file(&file.name) else { return input(copy) };
            let Some(difference) = self.compare(&copy, live).await? else { return input(copy) };
            // It may have been damaged on its way only.
            tries += 1;
            if tries == 2 {
                let reason = SetAsideReason::Unreadable(difference);
                return Ok(Err(SetAside { name: file.name.clone(), reason }));
            }
            tokio::fs::remove_file(&copy).await.map_err(|e| self.temp_error("delete", &e))?;
        }
    }

    /// A compacted file that is merged again: its record says what it was, and a proof that starts from a damaged copy would
    /// prove the damage. Of raw files nobody knows more than length and `ETag`. `None`: it is that file.
    async fn compare(&self, copy: &Path, live: &LiveFile) -> Result<Option<String>, JobError> {
        let path = copy.to_owned();
        let hashed = tokio::task::spawn_blocking(move || {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(std::fs::File::open(path)?)?;
            Ok::<_, std::io::Error>(format!("blake3:{}", hasher.finalize().to_hex()))
        });
        let found = match hashed.await {
            Ok(hashed) => hashed.map_err(|e| self.temp_error("read", &e))?,
            // The runtime is shutting down.
            Err(error) => return Err(self.temp_error("read", &error)),
        };
        let differs = found != live.checksum;
        Ok(differs.then(|| format!("its content is {found}, and its record says {}", live.checksum)))
    }

    /// Whether inputs lie on local disk and need not be fetched.
    pub(super) fn reads_in_place(&self) -> bool {
        self.env.storage.local_path(self.partition, "any").is_some()
    }

    /// I2: every output is read back from storage, whole, and is what the merge wrote.
    pub(super) async fn read_back(&self, outputs: &[MergedFile]) -> Result<(), JobError> {
        let reads: Vec<_> = outputs.iter().map(|output| self.read_back_one(output).boxed()).collect();
        futures::stream::iter(reads).buffer_unordered(TRANSFERS_AT_ONCE).try_collect::<()>().await
    }

    pub(super) async fn read_back_one(&self, output: &MergedFile) -> Result<(), JobError> {
        let name = &output.name;
        let storage = &self.env.storage;
        let doubt = |what| Err(JobError::Doubt { what });
        let _permit = self.env.permits.to_transfer().await;
        let found = storage
            .read_back(self.partition, name)
            .await
            .map_err(|source| JobError::Storage { step: "read back", source })?;
        if found.size_bytes != output.size_bytes || found.checksum != output.checksum {
            return doubt(format!(
                "output {name} reads back as {} bytes, {}; written were {} bytes, {}",
                found.size_bytes, found.checksum, output.size_bytes, output.checksum
            ));
        }
        match footer::read_from(storage, self.partition, name, output.size_bytes, found.tail).await {
            Ok(footer) if footer.rows == output.rows => Ok(()),
            Ok(footer) => {
                doubt(format!("output {name} has {} rows in storage, {} were written", footer.rows, output.rows))
            }
            Err(FooterError::Storage(source)) => Err(JobError::Storage { step: "read back footer", source }),
            Err(FooterError::Unreadable { name, detail }) => {
                doubt(format!("output {name} is unreadable in storage: {detail}"))
            }
        }
    }
}
