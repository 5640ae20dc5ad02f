//! The check at start: is this storage one that safety can rest on.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::record::discard;
use super::{STAGING_DIR, Storage, StorageError};

const FIRST: &[u8] = b"first";
const SECOND: &[u8] = b"second";

/// What the probe of a remote store leaves there, for ever: one small object, whoever probes and however often. One of its
/// own for every probe would have to be deleted again, and the probe that dies, or whose answer is lost, would leave it.
const PROBE_OBJECT: &str = "probe";
/// What is deleted and was never there: shows whether deleting is allowed.
const PROBE_NOTHING: &str = "probe-nothing";

impl Storage {
    /// Checks that create-if-absent is real: the second create of a key must fail and leave the first one's content.
    /// Read-only storage, missing rights and a full disk show here, before any work. Leaves nothing behind on local disk,
    /// and one object for all probes elsewhere.
    ///
    /// # Errors
    /// [`StorageError::Unsuitable`] when the second create succeeds; any other error as it came.
    pub async fn probe(&self) -> Result<(), StorageError> {
        let Some(root) = &self.local else { return self.probe_put().await };
        // Two services may probe one folder at the same moment, so each takes one of its own.
        let unique = format!("probe-{:016x}", fastrand::u64(..));
        let (staging, prefix) = root.stage(&unique).await?;
        let verdict = self.probe_link(&prefix).await;
        discard(staging).await;
        verdict
    }

    /// The primitive of remote stores: a conditional put. The object may be there from an earlier probe, or from one of
    /// another service at this moment; it is never changed or removed, so neither matters.
    async fn probe_put(&self) -> Result<(), StorageError> {
        use object_store::Error;
        let key = self.key(&format!("{STAGING_DIR}/{PROBE_OBJECT}"))?;
        let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&key, FIRST.into(), create()).await {
            Ok(_) | Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
            Err(error) => return Err(self.error(&key, error)),
        }
        let kept = self.content(&key).await?;
        let other = if kept == SECOND { FIRST } else { SECOND };
        let second = self.store.put_opts(&key, other.into(), create()).await.map(drop);
        self.judge(&key, &kept, second).await?;
        let nothing = self.key(&format!("{STAGING_DIR}/{PROBE_NOTHING}"))?;
        match self.store.delete(&nothing).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error(&nothing, error)),
        }
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
        self.judge(&target, FIRST, second).await
    }

    async fn content(&self, key: &Path) -> Result<Bytes, StorageError> {
        async { self.store.get(key).await?.bytes().await }.await.map_err(|e| self.error(key, e))
    }

    /// What the answer to the second create says, and whether the object still has its content.
    async fn judge(&self, key: &Path, content: &[u8], second: object_store::Result<()>) -> Result<(), StorageError> {
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
        let kept = self.content(key).await?;
        if kept == content { Ok(()) } else { Err(unsuitable("a refused create-if-absent changed the object")) }
    }
}
