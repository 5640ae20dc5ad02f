//! Google Cloud Storage.

use std::sync::Arc;

use object_store::gcp::GoogleCloudStorageBuilder;
use serde_json::Value;

use super::pathless::{Connector, Pathless};
use super::{below, client_options, misconfigured, retry_config};
use crate::storage::settings::{GcsSettings, Patience};
use crate::storage::{Storage, StorageError};

/// Variables that name a file with credentials.
const FILES: [&str; 3] = ["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH"];

impl Storage {
    /// Storage in a bucket of Google Cloud Storage. Blocks while it reads the file with the credentials.
    ///
    /// # Errors
    /// [`StorageError::Misconfigured`] when no client can be made from the settings. Nothing is sent.
    pub fn gcs(settings: &GcsSettings, patience: &Patience) -> Result<Self, StorageError> {
        let place = format!("gs://{}", settings.bucket);
        let pathless = Arc::<Pathless>::default();
        let builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(&settings.bucket)
            // Service account files of test servers name a plain address; Google's are all HTTPS.
            .with_client_options(client_options(patience, true))
            .with_http_connector(Connector(Arc::clone(&pathless)))
            .with_retry(retry_config(patience));
        let store = with_credentials(builder, settings)
            .map_err(|(what, source)| misconfigured(&place, &what, source))?
            .build()
            .map_err(|error| misconfigured(&place, "no client can be made from the settings", error))?;
        below(store, &settings.prefix, &place, pathless)
    }
}

type Refusal = (String, crate::storage::Source);

fn with_credentials(
    builder: GoogleCloudStorageBuilder,
    settings: &GcsSettings,
) -> Result<GoogleCloudStorageBuilder, Refusal> {
    if !settings.credentials_file.is_empty() {
        return from_file(builder, &settings.credentials_file, "storage.gcs.credentials_file");
    }
    if let Some((_, key)) = settings.environment.first(&["GOOGLE_SERVICE_ACCOUNT_KEY"]) {
        return Ok(builder.with_service_account_key(key.reveal()));
    }
    match settings.environment.first(&FILES) {
        Some((variable, path)) => from_file(builder, path.reveal(), variable),
        None => Ok(builder),
    }
}

/// Looks into the file first: the client would say neither which file it was nor what is wrong with it.
fn from_file(
    builder: GoogleCloudStorageBuilder,
    path: &str,
    named_by: &str,
) -> Result<GoogleCloudStorageBuilder, Refusal> {
    let refused = |what: &str, source: crate::storage::Source| {
        (format!("the credentials file {path} (named by {named_by}) {what}"), source)
    };
    let text = std::fs::read_to_string(path).map_err(|e| refused(&format!("cannot be read: {e}"), e.into()))?;
    let remedy = "must be the JSON key of a service account, or what `gcloud auth application-default login` writes";
    // What the parser says may quote the file, which holds a private key.
    let json: Value = serde_json::from_str(&text).map_err(|_| refused(remedy, "it is not JSON".into()))?;
    match json.get("type").and_then(Value::as_str) {
        Some("authorized_user") => Ok(builder.with_application_credentials(path)),
        Some("service_account") | None if json["client_email"].is_string() && json["private_key"].is_string() => {
            Ok(builder.with_service_account_key(text))
        }
        Some("service_account") | None => Err(refused(remedy, "it has no client_email or no private_key".into())),
        Some(other) => Err(refused(remedy, format!("credentials of the type {other:?} are not supported").into())),
    }
}
