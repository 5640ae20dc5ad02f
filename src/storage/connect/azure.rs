//! Azure Blob Storage.

mod listings;

use std::sync::Arc;

use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

use self::listings::Listings;

use super::pathless::{Connector, Pathless};
use super::{below, client_options, misconfigured, retry_config};
use crate::storage::settings::{AzureSettings, Patience};
use crate::storage::{Storage, StorageError};

/// Names an account, and is no credential.
const ACCOUNT: &str = "AZURE_STORAGE_ACCOUNT_NAME";

impl Storage {
    /// Storage in a container of Azure Blob Storage.
    ///
    /// # Errors
    /// [`StorageError::Misconfigured`] when no client can be made from the settings. Nothing is sent.
    pub fn azure(settings: &AzureSettings, patience: &Patience) -> Result<Self, StorageError> {
        let endpoint = endpoint(settings);
        let place = format!("{endpoint}/{}", settings.container);
        let pathless = Arc::<Pathless>::default();
        let builder = MicrosoftAzureBuilder::new()
            .with_account(account(settings))
            .with_container_name(&settings.container)
            .with_client_options(client_options(patience, endpoint.starts_with("http://")))
            .with_endpoint(endpoint)
            .with_http_connector(Connector(Arc::clone(&pathless)))
            .with_retry(retry_config(patience));
        let store = with_credentials(builder, settings)
            .and_then(MicrosoftAzureBuilder::build)
            .map_err(|error| misconfigured(&place, "no client can be made from the settings", error))?;
        below(Listings(store), &settings.prefix, &place, pathless)
    }
}

fn account(settings: &AzureSettings) -> &str {
    if !settings.account.is_empty() {
        return &settings.account;
    }
    settings.environment.first(&[ACCOUNT]).map_or("", |(_, account)| account.reveal())
}

fn endpoint(settings: &AzureSettings) -> String {
    match settings.endpoint.trim_end_matches('/') {
        "" => format!("https://{}.blob.core.windows.net", account(settings)),
        endpoint => endpoint.to_owned(),
    }
}

fn with_credentials(
    builder: MicrosoftAzureBuilder,
    settings: &AzureSettings,
) -> object_store::Result<MicrosoftAzureBuilder> {
    if let Some(key) = &settings.access_key {
        return Ok(builder.with_access_key(key.reveal()));
    }
    // App Service and Azure Functions say by this where their identity is asked for.
    let builder = match settings.environment.first(&["IDENTITY_ENDPOINT"]) {
        Some((_, endpoint)) => builder.with_msi_endpoint(endpoint.reveal()),
        None => builder,
    };
    let mut said = settings.environment.all("AZURE_").filter(|(name, _)| *name != ACCOUNT);
    said.try_fold(builder, |builder, (name, value)| {
        Ok(builder.with_config(name.to_lowercase().parse::<AzureConfigKey>()?, value.reveal()))
    })
}
