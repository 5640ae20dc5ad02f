//! Connecting to object stores: settings in, a [`Storage`] out. Nothing is sent yet; [`Storage::probe`] does that.
//!
//! What must hold:
//!
//! - **Only the settings say where data goes.** The environment counts for credentials, by a list of names; the clients'
//!   own reading of `AWS_ENDPOINT` and the like is not used.
//! - **Keys of the settings win over the environment, the environment over the instance**, each as a whole: a session
//!   token of the environment never joins a key of the settings.
//! - **The prefix is kept everywhere**, by a store around the store, so that no verb can forget it.
//! - **Every wait has an end** ([`Patience`]), and a request that failed in a way that may pass is repeated.
//!   A create-if-absent whose answer got lost is not repeated blindly: its caller asks what happened.
//! - **No secret is in a location or an error.**
//! - **A key that is no path stops nobody**: listings are read without it (`pathless`).
//!
//! Deliberately not here: making buckets, profiles of `~/.aws`, and encryption, which are the business of the account and
//! of the bucket's own settings.

mod azure;
mod gcs;
mod pathless;
mod s3;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, HeaderValue, ObjectStore, RetryConfig};

use super::settings::Patience;
use super::{Storage, StorageError};

pub(super) use pathless::Pathless;

/// The longest pause between two attempts.
const MAX_PAUSE: std::time::Duration = std::time::Duration::from_secs(15);

/// A store, below a prefix of it. `place` is where its root is, for people.
fn below(store: impl ObjectStore, prefix: &str, place: &str, pathless: Arc<Pathless>) -> Result<Storage, StorageError> {
    let prefix = prefix.trim_matches('/');
    let storage = if prefix.is_empty() {
        Storage::over(Arc::new(store), place)
    } else {
        let path = Path::parse(prefix).map_err(|error| misconfigured(place, "the prefix cannot be used", error))?;
        Storage::over(Arc::new(PrefixStore::new(store, path)), format!("{place}/{prefix}"))
    };
    Ok(storage.leaving_out(pathless, prefix))
}

fn client_options(patience: &Patience, plain_http: bool) -> ClientOptions {
    ClientOptions::new()
        .with_user_agent(HeaderValue::from_static(concat!("arc/", env!("CARGO_PKG_VERSION"))))
        .with_allow_http(plain_http)
        .with_connect_timeout(patience.connect)
        .with_read_timeout(patience.stall)
        .with_timeout(patience.request)
}

fn retry_config(patience: &Patience) -> RetryConfig {
    let backoff = BackoffConfig { init_backoff: patience.first_pause, max_backoff: MAX_PAUSE, base: 2.0 };
    RetryConfig { backoff, max_retries: patience.retries, retry_timeout: patience.retry_for }
}

fn misconfigured(place: &str, what: &str, source: impl Into<super::Source>) -> StorageError {
    StorageError::Misconfigured { path: place.to_owned(), detail: what.to_owned(), source: source.into() }
}
