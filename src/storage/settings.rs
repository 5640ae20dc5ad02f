//! The settings of object stores: where the data is, who asks for it, and how long to be patient.

use std::time::Duration;

use crate::secret::Secret;

/// Storage in a bucket of Amazon S3, or of something that speaks its protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Settings {
    /// The bucket, which must exist.
    pub bucket: String,
    /// Everything lies below this path of the bucket; empty: the bucket itself.
    pub prefix: String,
    /// What requests are signed for. Empty: what the environment says, else `us-east-1`.
    pub region: String,
    /// `host[:port]`, or a URL with that. Empty: Amazon's, by region.
    pub endpoint: String,
    /// Without one: the environment's credentials, else those of the instance.
    pub access_key: Option<Secret>,
    /// There exactly when there is an access key.
    pub secret_key: Option<Secret>,
    /// HTTPS or plain HTTP.
    pub use_ssl: bool,
    /// `host/bucket/key` instead of `bucket.host/key`.
    pub path_style: bool,
    pub environment: Environment,
}

/// Storage in a bucket of Google Cloud Storage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GcsSettings {
    /// The bucket, which must exist.
    pub bucket: String,
    /// Everything lies below this path of the bucket; empty: the bucket itself.
    pub prefix: String,
    /// The key file of a service account, or what `gcloud auth application-default login` wrote. Empty: what the
    /// environment says, else the service account of the instance.
    pub credentials_file: String,
    pub environment: Environment,
}

/// Storage in a container of Azure Blob Storage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AzureSettings {
    /// The container, which must exist.
    pub container: String,
    /// Everything lies below this path of the container; empty: the container itself.
    pub prefix: String,
    /// The storage account. Empty: what the environment says.
    pub account: String,
    /// Without one: the environment's credentials, else the managed identity of the instance.
    pub access_key: Option<Secret>,
    /// The URL of the account's blob service. Empty: Azure's public one.
    pub endpoint: String,
    pub environment: Environment,
}

/// What environment variables say about credentials: those of [`Environment::VARIABLES`] and no others, so that nothing
/// else of a process's environment changes where data goes. Never shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment(Vec<(&'static str, Secret)>);

impl Environment {
    /// The variables that the clients of the providers know for credentials, and for the region and account these are for.
    pub const VARIABLES: [&'static str; 40] = [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_ROLE_ARN",
        "AWS_ROLE_SESSION_NAME",
        "AWS_ENDPOINT_URL_STS",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_METADATA_ENDPOINT",
        "AWS_IMDSV1_FALLBACK",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_PATH",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "AZURE_STORAGE_ACCOUNT_NAME",
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_ACCESS_KEY",
        "AZURE_STORAGE_SAS_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_TOKEN",
        "AZURE_STORAGE_CLIENT_ID",
        "AZURE_STORAGE_CLIENT_SECRET",
        "AZURE_STORAGE_TENANT_ID",
        "AZURE_CLIENT_ID",
        "AZURE_CLIENT_SECRET",
        "AZURE_TENANT_ID",
        "AZURE_AUTHORITY_ID",
        "AZURE_AUTHORITY_HOST",
        "AZURE_STORAGE_AUTHORITY_HOST",
        "AZURE_FEDERATED_TOKEN_FILE",
        "AZURE_MSI_ENDPOINT",
        "AZURE_IDENTITY_ENDPOINT",
        "AZURE_OBJECT_ID",
        "AZURE_MSI_RESOURCE_ID",
        "AZURE_USE_AZURE_CLI",
        "IDENTITY_ENDPOINT",
    ];

    /// Notes what a variable says. An empty value says nothing; neither does a variable that is not in the list.
    pub fn note(&mut self, name: &str, value: &str) {
        if let Some(name) = Self::VARIABLES.iter().find(|known| **known == name)
            && !value.is_empty()
        {
            self.0.push((name, Secret::new(value)));
        }
    }

    /// What the first of these variables that says something says.
    #[must_use]
    pub fn first(&self, names: &[&str]) -> Option<(&'static str, &Secret)> {
        names.iter().find_map(|name| self.0.iter().find(|(known, _)| known == name).map(|(name, value)| (*name, value)))
    }

    /// Every variable whose name begins so, with what it says.
    pub(super) fn all(&self, prefix: &str) -> impl Iterator<Item = (&'static str, &Secret)> {
        self.0.iter().filter(move |(name, _)| name.starts_with(prefix)).map(|(name, value)| (*name, value))
    }
}

/// How long an object store is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the beginning of an answer, and for each further piece of it.
    pub stall: Duration,
    /// For one request from beginning to end, however steadily it trickles.
    pub request: Duration,
    /// How often a request is repeated that failed in a way that may pass: connection, server error, throttling.
    pub retries: usize,
    /// The first pause before a repetition. Later ones grow, with a random part, up to 15 s.
    pub first_pause: Duration,
    /// No repetition begins later than this after the first attempt.
    pub retry_for: Duration,
}

/// What suits a service that works for minutes at a time: throttling and a server's restart are waited out, a dead
/// connection is noticed within half a minute.
impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(30),
            request: Duration::from_hours(1),
            retries: 10,
            first_pause: Duration::from_millis(100),
            retry_for: Duration::from_mins(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_gives_listed_variables_only_and_shows_none() {
        let mut environment = Environment::default();
        environment.note("AWS_SECRET_ACCESS_KEY", "hunter2");
        environment.note("AWS_ENDPOINT", "https://elsewhere");
        environment.note("AWS_REGION", "");
        environment.note("AWS_DEFAULT_REGION", "eu-west-1");
        let region = environment.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]);
        assert_eq!(region.map(|(name, value)| (name, value.reveal())), Some(("AWS_DEFAULT_REGION", "eu-west-1")));
        assert!(environment.first(&["AWS_ENDPOINT"]).is_none());
        assert_eq!(environment.all("AWS_").count(), 2);
        assert!(!format!("{environment:?}").contains("hunter2"));
    }
}
