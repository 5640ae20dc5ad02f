//! What can go wrong with storage, by what the caller can do about it.
//!
//! `object_store` wraps an operating system error in several layers and reports most of them as "generic". The reason
//! that an operator can act on (no space, no permission, read-only) is dug out of the chain of sources here, once.

use std::error::Error;
use std::io::{self, ErrorKind};

/// The error below one of ours, as the store or the operating system gave it.
pub type Source = Box<dyn Error + Send + Sync + 'static>;

/// Why a storage operation failed. Paths are given with their location, so that a message stands on its own.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The object is not there. The only error that may be read as "missing".
    #[error("{path} does not exist")]
    NotFound { path: String, source: Source },
    /// The operator must grant a right.
    #[error(
        "no permission for {path}: grant the service's user (or key) the right to list, read, write and delete there"
    )]
    PermissionDenied { path: String, source: Source },
    /// The operator must make the storage writable.
    #[error("{path} is on read-only storage: remount it writable or point the service to another place")]
    ReadOnly { path: String, source: Source },
    /// The operator must make room.
    #[error("no space left for {path}: free space or raise the quota")]
    Full { path: String, source: Source },
    /// Something has this name already. Nothing is ever overwritten.
    #[error("{path} exists already and is never overwritten")]
    AlreadyExists { path: String },
    /// The object is not the one that was listed: look again before deciding anything about it.
    #[error("{path} changed since it was listed: {detail}")]
    Changed { path: String, detail: String },
    /// The name cannot be addressed in storage, or must not be.
    #[error("{name:?} cannot be used as a name in storage ({detail}): rename the file or folder")]
    InvalidName { name: String, detail: String },
    /// The object is larger than what is read into memory.
    #[error("{path} has {size_bytes} bytes, the limit is {limit_bytes}: it is not a file that this service wrote")]
    TooLarge { path: String, size_bytes: u64, limit_bytes: u64 },
    /// The storage lacks something that safety rests on.
    #[error("{location} cannot be used for compaction: {detail}")]
    Unsuitable { location: String, detail: String },
    /// The operator must correct the configuration, the bucket, the credentials or the machine's clock; trying again
    /// without that does not help. `source` says what the store answered, without what it quotes of the request.
    #[error("{path}: {detail}")]
    Misconfigured { path: String, detail: String, source: Source },
    /// Anything else: the storage did not answer, or answered with an error. Trying again later may help.
    #[error("{path}: storage failed: {source}")]
    Unavailable { path: String, source: Source },
}

/// Why a write failed, and what is known about it. After an error a write is assumed to have happened, unless the error
/// proves that it did not.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Proven: nothing became visible.
    #[error("nothing was written: {0}")]
    NotWritten(#[source] StorageError),
    /// All, some or nothing of it may be visible, now or later.
    #[error("it is not known whether this was written: {0}")]
    Unknown(#[source] StorageError),
}

impl WriteError {
    /// What went wrong, without what is known about the outcome.
    #[must_use]
    pub fn cause(&self) -> &StorageError {
        match self {
            Self::NotWritten(cause) | Self::Unknown(cause) => cause,
        }
    }

    /// The message without the words of the store: see [`StorageError::without_store_words`].
    #[must_use]
    pub fn without_store_words(&self) -> String {
        match self {
            Self::NotWritten(cause) => format!("nothing was written: {}", cause.without_store_words()),
            Self::Unknown(cause) => {
                format!("it is not known whether this was written: {}", cause.without_store_words())
            }
        }
    }
}

impl StorageError {
    /// Classifies an error of the store about `path`.
    pub(crate) fn from_store(path: impl Into<String>, error: object_store::Error) -> Self {
        use object_store::Error as Store;
        let path = path.into();
        match error {
            Store::NotFound { source, .. } => Self::NotFound { path, source },
            Store::AlreadyExists { .. } => Self::AlreadyExists { path },
            Store::Precondition { source, .. } => Self::Changed { path, detail: source.to_string() },
            Store::PermissionDenied { source, .. } | Store::Unauthenticated { source, .. } => {
                Self::PermissionDenied { path, source }
            }
            Store::InvalidPath { source } => Self::InvalidName { name: path, detail: source.to_string() },
            other => Self::by_kind(path, io_kind(&other), Box::new(other)),
        }
    }

    /// Classifies an error of the operating system about `path`.
    pub(crate) fn from_io(path: impl Into<String>, error: io::Error) -> Self {
        let path = path.into();
        match error.kind() {
            ErrorKind::NotFound => Self::NotFound { path, source: Box::new(error) },
            ErrorKind::AlreadyExists => Self::AlreadyExists { path },
            kind => Self::by_kind(path, Some(kind), Box::new(error)),
        }
    }

    /// The message without the words of the store, which may hold a secret (a signed address, a token in an answer). For
    /// everything that is kept or shown to clients; the whole message is for the log.
    #[must_use]
    pub fn without_store_words(&self) -> String {
        match self {
            // Of what lies below, only its kind is a fixed word.
            Self::Unavailable { path, source } => match io_kind(source.as_ref()) {
                Some(kind) if kind != ErrorKind::Other => format!("{path}: storage failed ({kind})"),
                _ => format!("{path}: storage failed; the log has its words"),
            },
            Self::Changed { path, .. } => format!("{path} changed since it was listed"),
            Self::InvalidName { name, .. } => {
                format!("{name:?} cannot be used as a name in storage: rename the file or folder")
            }
            // Their messages are made of fixed words and of paths; the store's words are in the source only.
            Self::NotFound { .. }
            | Self::PermissionDenied { .. }
            | Self::ReadOnly { .. }
            | Self::Full { .. }
            | Self::AlreadyExists { .. }
            | Self::TooLarge { .. }
            | Self::Unsuitable { .. }
            | Self::Misconfigured { .. } => self.to_string(),
        }
    }

    /// For what no error type says: `path` failed because of `reason`.
    pub(crate) fn unavailable(path: impl Into<String>, reason: impl Into<Source>) -> Self {
        Self::Unavailable { path: path.into(), source: reason.into() }
    }

    fn by_kind(path: String, kind: Option<ErrorKind>, source: Source) -> Self {
        match kind {
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Self::Full { path, source },
            Some(ErrorKind::ReadOnlyFilesystem) => Self::ReadOnly { path, source },
            Some(ErrorKind::PermissionDenied) => Self::PermissionDenied { path, source },
            Some(ErrorKind::InvalidFilename) => {
                Self::InvalidName { name: path, detail: "too long for the file system".into() }
            }
            Some(ErrorKind::CrossesDevices) => Self::Unsuitable {
                location: path,
                detail: "it is on another disk than the base folder, where files are prepared before they are linked into \
                         place; put whole databases of one base folder on one disk, or give the other disk a service of its own"
                    .into(),
            },
            _ => Self::Unavailable { path, source },
        }
    }
}

/// The kind of the first operating system error in the chain of sources.
///
/// "Not found" is left out on purpose: deep in a chain it may be about something else than the object (a library's own
/// file, a folder on the way), and "missing" must never be concluded from that.
fn io_kind(error: &(dyn Error + 'static)) -> Option<ErrorKind> {
    // Chains are a handful of links; the bound is for an error that is its own source.
    const MAX_LINKS: usize = 32;
    let mut link = Some(error);
    for _ in 0..MAX_LINKS {
        let current = link?;
        if let Some(io) = current.downcast_ref::<io::Error>() {
            // An `io::Error` made from another error hides that error from `source()`.
            return match io.get_ref() {
                Some(inner) => io_kind(inner).or(Some(io.kind())),
                None => Some(io.kind()),
            };
        }
        link = current.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    fn generic(source: io::Error) -> object_store::Error {
        object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(source) }
    }

    #[test]
    fn the_operating_systems_reason_is_found_below_wrappers() {
        let of = |errno: Errno| {
            let wrapped = io::Error::other(io::Error::from_raw_os_error(errno.raw_os_error()));
            StorageError::from_store("/data/x", generic(wrapped))
        };
        assert!(matches!(of(Errno::NOSPC), StorageError::Full { .. }));
        assert!(matches!(of(Errno::DQUOT), StorageError::Full { .. }));
        assert!(matches!(of(Errno::ROFS), StorageError::ReadOnly { .. }));
        assert!(matches!(of(Errno::ACCESS), StorageError::PermissionDenied { .. }));
        assert!(matches!(of(Errno::PERM), StorageError::PermissionDenied { .. }));
        assert!(matches!(of(Errno::NAMETOOLONG), StorageError::InvalidName { .. }));
        assert!(matches!(of(Errno::IO), StorageError::Unavailable { .. }));
    }

    /// T24: only the store's own "not found" is one.
    #[test]
    fn a_not_found_deep_in_a_chain_is_not_a_missing_object() {
        let error = StorageError::from_store("/data/x", generic(io::Error::from(ErrorKind::NotFound)));
        assert!(matches!(error, StorageError::Unavailable { .. }), "{error:?}");
    }

    /// Every way from a store's error to one of ours.
    #[test]
    fn without_the_words_of_the_store_there_is_nothing_of_a_signed_address() {
        use object_store::Error as Store;
        let secret = || -> Source { "https://host/?sig=SECRET".into() };
        let (path, store) = ("/data/x".to_owned(), "test");
        for error in [
            Store::Generic { store, source: secret() },
            Store::Generic { store, source: Box::new(io::Error::other(secret())) },
            Store::Generic { store, source: Box::new(io::Error::new(ErrorKind::TimedOut, secret())) },
            Store::NotFound { path: path.clone(), source: secret() },
            Store::InvalidPath { source: object_store::path::Error::EmptySegment { path: "SECRET".into() } },
            Store::NotSupported { source: secret() },
            Store::AlreadyExists { path: path.clone(), source: secret() },
            Store::Precondition { path: path.clone(), source: secret() },
            Store::NotModified { path: path.clone(), source: secret() },
            Store::PermissionDenied { path: path.clone(), source: secret() },
            Store::Unauthenticated { path: path.clone(), source: secret() },
        ] {
            let shown = format!("{error:?}");
            let said = WriteError::Unknown(StorageError::from_store("/data/x", error)).without_store_words();
            assert!(!said.contains("SECRET") && said.contains("/data/x"), "{shown}: {said}");
        }
        let refused = StorageError::from_store("/data/x", generic(io::Error::from(ErrorKind::ConnectionRefused)));
        assert_eq!(refused.without_store_words(), "/data/x: storage failed (connection refused)");
    }

    #[test]
    fn messages_name_the_path_and_the_remedy() {
        let full = StorageError::from_io("/data/x", io::Error::from(ErrorKind::StorageFull));
        assert_eq!(full.to_string(), "no space left for /data/x: free space or raise the quota");
        assert_eq!(
            WriteError::NotWritten(full).to_string(),
            "nothing was written: no space left for /data/x: free space or raise the quota"
        );
    }
}
