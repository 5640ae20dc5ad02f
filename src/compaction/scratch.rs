//! A private folder for looking into files, and the files in it: for checks beside jobs.

use std::path::PathBuf;

use super::error::JobError;
use super::job::JobEnv;
use crate::merge::recheck::Recheck;
use crate::merge::{MergeError, MergeInput};
use crate::partition::{DataFile, PartitionId};
use crate::storage::OwnedDir;

/// See the module documentation. Gone when dropped, and swept by the next cycle if the process dies first.
#[derive(Debug)]
pub(super) struct Scratch<'a> {
    env: &'a JobEnv,
    partition: &'a PartitionId,
    dir: OwnedDir,
    made: usize,
}

impl<'a> Scratch<'a> {
    /// `id` must be unique, like the id of a job.
    pub(super) fn create(env: &'a JobEnv, partition: &'a PartitionId, id: &str) -> Result<Self, JobError> {
        let dir = OwnedDir::create(&env.settings.temp_dir, id)
            .map_err(|source| JobError::Storage { step: "make a temp folder", source })?;
        Ok(Self { env, partition, dir, made: 0 })
    }

    /// The files where they can be read: in place on local disk, otherwise copied here.
    pub(super) async fn fetch(&mut self, files: &[&DataFile]) -> Result<Vec<MergeInput>, JobError> {
        let mut local = Vec::with_capacity(files.len());
        for file in files {
            let path = if let Some(in_place) = self.env.storage.local_path(self.partition, &file.name) {
                in_place
            } else {
                let copy = self.next_path("parquet");
                let fetching = |source| JobError::Storage { step: "fetch", source };
                self.env.storage.fetch(self.partition, file, &copy).await.map_err(fetching)?;
                copy
            };
            local.push(MergeInput { name: file.name.clone(), path, size_bytes: file.size_bytes });
        }
        Ok(local)
    }

    /// Runs a look at files on a blocking thread, in an empty folder of its own.
    pub(super) async fn look<T: Send + 'static>(
        &mut self,
        look: impl FnOnce(&Recheck) -> Result<T, MergeError> + Send + 'static,
    ) -> Result<T, JobError> {
        let path = self.next_path("work");
        let io = |source| MergeError::Io { action: "create", path: path.clone(), source };
        let work_dir = std::path::absolute(&path).map_err(io)?;
        std::fs::create_dir(&work_dir).map_err(io)?;
        let recheck = Recheck {
            work_dir: work_dir.clone(),
            options: self.env.settings.for_partition(self.partition).merge,
            limits: self.env.limits,
        };
        let looked = tokio::task::spawn_blocking(move || look(&recheck)).await;
        // What it left is small, and goes with the whole folder if this fails.
        let _ = std::fs::remove_dir_all(&work_dir);
        looked.map_err(|e| JobError::Panicked(e.to_string()))?.map_err(JobError::from)
    }

    fn next_path(&mut self, extension: &str) -> PathBuf {
        self.made += 1;
        self.dir.path().join(format!("{:06}.{extension}", self.made))
    }
}
