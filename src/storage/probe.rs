//! The check at start: is this storage one that safety can rest on.
//!
//! Object stores are asked to create a key twice. The key lies in the reserved folder, which no reader takes for data.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};

use super::record::discard;
use super::{STAGING_DIR, Storage, StorageError};

const FIRST: &[u8] = b"first";
const SECOND: &[u8] = b"second";

/// What the probe of a remote store leaves there, for ever: one small object, whoever probes and however often. One of its
/// own for every probe would have to be deleted again, and the probe that dies, or whose answer is lost, would leave it.
const PROBE_OBJECT: &str = "probe";
/// What is deleted and was never there: shows whether deleting is allowed.
const PROBE_NOTHING: &str = "probe-nothing";
/// What compare-and-swap is tried on.
const PROBE_UPDATE: &str = "probe-update";
/// How often that is begun anew when others are at it.
const PROBE_ROUNDS: usize = 20;

impl Storage {
    /// Checks that create-if-absent is real: the second create of a key must fail and leave the first one's content.
    /// Wrong settings, read-only storage, missing rights and a full disk show here, before any work. Leaves nothing behind on
    /// local disk, and one object for all probes elsewhere.
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

    /// Checks that compare-and-swap is real: an update must succeed with the `ETag` that the object has, and fail with one
    /// that it had before. Not part of [`Self::probe`], because compaction does not need it. Its object, one for all probes,
    /// is removed again; the one of a probe that died is used and removed by the next.
    ///
    /// # Errors
    /// [`StorageError::Unsuitable`] when an update with an old `ETag` succeeds, and on local disk, which has no updates.
    pub async fn probe_update(&self) -> Result<(), StorageError> {
        if self.local.is_some() {
            return Err(StorageError::Unsuitable {
                location: self.location().to_owned(),
                detail: "a folder has no compare-and-swap; keep the leases in SQLite".to_owned(),
            });
        }
        let key = self.key(&format!("{STAGING_DIR}/{PROBE_UPDATE}"))?;
        let verdict = self.probe_swaps(&key).await;
        // Nothing more is asked of a store that refuses already this, and what it says then would hide the reason.
        if let Err(StorageError::PermissionDenied { .. } | StorageError::Misconfigured { .. }) = verdict {
            return verdict;
        }
        let removed = self.remove_probe_object(&key).await;
        verdict.and(removed)
    }

    /// Another service may probe at this moment, and change or remove the object at any point: then everything is asked again.
    async fn probe_swaps(&self, key: &Path) -> Result<(), StorageError> {
        for _ in 0..PROBE_ROUNDS {
            match self.store.put_opts(key, unique().into(), create()).await {
                Ok(_) | Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
                Err(error) => return Err(self.error(key, error)),
            }
            if let Some(verdict) = self.probe_swap(key).await? {
                return verdict;
            }
        }
        Err(StorageError::unavailable(
            self.shown(key.as_ref()),
            "too many services check compare-and-swap at the same time",
        ))
    }

    /// Clients do not repeat a deletion whose answer got lost. Here it can be.
    async fn remove_probe_object(&self, key: &Path) -> Result<(), StorageError> {
        const ATTEMPTS: usize = 3;
        let mut result = Ok(());
        for _ in 0..ATTEMPTS {
            result = match self.store.delete(key).await {
                Ok(()) | Err(Error::NotFound { .. }) => return Ok(()),
                Err(error) => Err(self.error(key, error)),
            };
        }
        result
    }

    /// The primitive of remote stores: a conditional put. The object may be there from an earlier probe, or from one of
    /// another service at this moment; it is never changed or removed, so neither matters.
    async fn probe_put(&self) -> Result<(), StorageError> {
        let key = self.key(&format!("{STAGING_DIR}/{PROBE_OBJECT}"))?;
        match self.store.put_opts(&key, FIRST.into(), create()).await {
            Ok(_) | Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
            Err(error) => return Err(self.error(&key, error)),
        }
        let kept = self.reads(&key).await?;
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

    /// The verdict; `None` when somebody else was at the object. Every content is another one, because some stores make the
    /// `ETag` from it: an old one would come back.
    async fn probe_swap(&self, key: &Path) -> Result<Option<Result<(), StorageError>>, StorageError> {
        let Some(old) = self.version(key).await? else { return Ok(None) };
        let update = |content: Bytes| {
            let options = PutOptions { mode: PutMode::Update(old.clone()), ..PutOptions::default() };
            self.store.put_opts(key, content.into(), options)
        };
        match update(unique()).await {
            Ok(_) => {}
            Err(Error::NotImplemented { .. }) => {
                return Ok(Some(Err(self.unsuitable("it knows no update under a condition"))));
            }
            Err(Error::Precondition { .. } | Error::NotFound { .. }) => {
                let is_same = self.version(key).await?.is_some_and(|now| now.e_tag == old.e_tag);
                let refused = || Err(self.unsuitable("it refused an update with the ETag that the object has"));
                return Ok(is_same.then(refused));
            }
            Err(error) => return Err(self.error(key, error)),
        }
        let late = unique();
        match update(late.clone()).await {
            Err(Error::Precondition { .. }) => {}
            // Somebody else has removed it.
            Err(Error::NotFound { .. }) => return Ok(None),
            Ok(_) => return Ok(Some(Err(self.unsuitable("it let an update with an old ETag succeed")))),
            Err(error) => return Err(self.error(key, error)),
        }
        match self.reads(key).await {
            Ok(kept) if kept == late => Ok(Some(Err(self.unsuitable("a refused update changed the object")))),
            Ok(_) => Ok(Some(Ok(()))),
            Err(StorageError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `None`: it is not there.
    async fn version(&self, key: &Path) -> Result<Option<UpdateVersion>, StorageError> {
        match self.store.head(key).await {
            Ok(meta) => Ok(Some(UpdateVersion { e_tag: meta.e_tag, version: meta.version })),
            Err(error) => match self.error(key, error) {
                StorageError::NotFound { .. } => Ok(None),
                other => Err(other),
            },
        }
    }

    async fn judge(&self, key: &Path, first: &[u8], second: object_store::Result<()>) -> Result<(), StorageError> {
        match second {
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
            Ok(()) => return Err(self.unsuitable("it let a second create-if-absent of the same key succeed")),
            Err(error) => return Err(self.error(key, error)),
        }
        if self.reads(key).await? == first {
            Ok(())
        } else {
            Err(self.unsuitable("a refused create-if-absent changed the object"))
        }
    }

    async fn reads(&self, key: &Path) -> Result<Bytes, StorageError> {
        async { self.store.get(key).await?.bytes().await }.await.map_err(|e| self.error(key, e))
    }

    fn unsuitable(&self, detail: &str) -> StorageError {
        StorageError::Unsuitable {
            location: self.location().to_owned(),
            detail: format!("{detail}; use a store (or a version of it) with conditional writes"),
        }
    }
}

/// A content that nobody has written before.
fn unique() -> Bytes {
    format!("probe {:016x}", fastrand::u64(..)).into()
}

fn create() -> PutOptions {
    PutOptions { mode: PutMode::Create, ..PutOptions::default() }
}
