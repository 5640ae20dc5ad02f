//! The check at start: is this storage one that safety can rest on.

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::record::discard;
use super::{STAGING_DIR, Storage, StorageError};

const FIRST: &[u8] = b"first";
const SECOND: &[u8] = b"second";

impl Storage {
    /// Checks that create-if-absent is real: the second create of a key must fail and leave the first one's content.
    /// Read-only storage, missing rights and a full disk show here, before any work. Leaves nothing behind.
    ///
    /// # Errors
    /// [`StorageError::Unsuitable`] when the second create succeeds; any other error as it came.
    pub async fn probe(&self) -> Result<(), StorageError> {
        // Two services may probe one bucket at the same moment, so each takes a key of its own.
        let unique = format!("probe-{:016x}", fastrand::u64(..));
        let Some(root) = &self.local else {
            let key = self.key(&format!("{STAGING_DIR}/{unique}"))?;
            let verdict = self.probe_put(&key).await;
            let removed = self.store.delete(&key).await;
            verdict?;
            return removed.map_err(|e| self.error(&key, e));
        };
        let (staging, prefix) = root.stage(&unique).await?;
        let verdict = self.probe_link(&prefix).await;
        discard(staging).await;
        verdict
    }

    /// The primitive of remote stores: a conditional put.
    async fn probe_put(&self, key: &Path) -> Result<(), StorageError> {
        let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.store.put_opts(key, FIRST.into(), create()).await.map_err(|e| self.error(key, e))?;
        let second = self.store.put_opts(key, SECOND.into(), create()).await.map(drop);
        self.judge(key, second).await
    }

    /// The primitive of local disk: a hard link to a staged file.
    async fn probe_link(&self, prefix: &str) -> Result<(), StorageError> {
        let target = self.key(&format!("{prefix}/target"))?;
        let mut second = Ok(());
        for (name, content) in [("first", FIRST), ("second", SECOND)] {
            let staged = self.key(&format!("{prefix}/{name}"))?;
            self.store.put(&staged, content.into()).await.map_err(|e| self.error(&staged, e))?;
            let linked = self.link_new(&staged, &target).await;
            if name == "first" {
                linked.map_err(|e| self.error(&target, e))?;
            } else {
                second = linked;
            }
        }
        self.judge(&target, second).await
    }

    async fn judge(&self, key: &Path, second: object_store::Result<()>) -> Result<(), StorageError> {
        use object_store::Error;
        let unsuitable = |detail: &str| StorageError::Unsuitable {
            location: self.location().to_owned(),
            detail: format!("{detail}; use a store (or a version of it) with conditional writes"),
        };
        match second {
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
            Ok(()) => return Err(unsuitable("it let a second create-if-absent of the same key succeed")),
            Err(error) => return Err(self.error(key, error)),
        }
        let kept = async { self.store.get(key).await?.bytes().await }.await.map_err(|e| self.error(key, e))?;
        if kept == FIRST { Ok(()) } else { Err(unsuitable("a refused create-if-absent changed the object")) }
    }
}
