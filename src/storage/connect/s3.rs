//! Amazon S3, and what speaks its protocol: `MinIO`, Ceph, R2.

use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

use super::pathless::{Connector, Pathless};
use super::{below, client_options, misconfigured, retry_config};
use crate::storage::settings::{Patience, S3Settings};
use crate::storage::{Storage, StorageError};

/// Where Amazon's clients look when nobody names a region.
const DEFAULT_REGION: &str = "us-east-1";

/// What the environment may say about credentials, besides keys and region.
const ROLES: [(&str, &str); 9] = [
    ("AWS_WEB_IDENTITY_TOKEN_FILE", "aws_web_identity_token_file"),
    ("AWS_ROLE_ARN", "aws_role_arn"),
    ("AWS_ROLE_SESSION_NAME", "aws_role_session_name"),
    ("AWS_ENDPOINT_URL_STS", "aws_endpoint_url_sts"),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "aws_container_credentials_relative_uri"),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "aws_container_credentials_full_uri"),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "aws_container_authorization_token_file"),
    ("AWS_METADATA_ENDPOINT", "aws_metadata_endpoint"),
    ("AWS_IMDSV1_FALLBACK", "aws_imdsv1_fallback"),
];

impl Storage {
    /// Storage in a bucket of S3.
    ///
    /// # Errors
    /// [`StorageError::Misconfigured`] when no client can be made from the settings. Nothing is sent.
    pub fn s3(settings: &S3Settings, patience: &Patience) -> Result<Self, StorageError> {
        let Address { place, url } = Address::of(settings);
        let pathless = Arc::<Pathless>::default();
        let builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.bucket)
            .with_region(region(settings))
            .with_endpoint(url)
            // The address has the bucket in it where it belongs, for either style.
            .with_virtual_hosted_style_request(true)
            .with_client_options(client_options(patience, !settings.use_ssl))
            .with_http_connector(Connector(Arc::clone(&pathless)))
            .with_retry(retry_config(patience));
        let store = with_credentials(builder, settings)
            .and_then(AmazonS3Builder::build)
            .map_err(|error| misconfigured(&place, "no client can be made from the settings", error))?;
        below(store, &settings.prefix, &place, pathless)
    }
}

/// Where the root of a bucket is.
struct Address {
    /// For people.
    place: String,
    /// For requests.
    url: String,
}

impl Address {
    fn of(settings: &S3Settings) -> Self {
        let S3Settings { bucket, endpoint, path_style, .. } = settings;
        let scheme = if settings.use_ssl { "https" } else { "http" };
        let named = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, host)| host).trim_end_matches('/');
        let host = if named.is_empty() { format!("s3.{}.amazonaws.com", region(settings)) } else { named.to_owned() };
        let place = if named.is_empty() { format!("s3://{bucket}") } else { format!("{scheme}://{host}/{bucket}") };
        let url =
            if *path_style { format!("{scheme}://{host}/{bucket}") } else { format!("{scheme}://{bucket}.{host}") };
        Self { place, url }
    }
}

fn region(settings: &S3Settings) -> &str {
    if !settings.region.is_empty() {
        return &settings.region;
    }
    let environment = settings.environment.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]);
    environment.map_or(DEFAULT_REGION, |(_, region)| region.reveal())
}

fn with_credentials(builder: AmazonS3Builder, settings: &S3Settings) -> object_store::Result<AmazonS3Builder> {
    if let (Some(access), Some(secret)) = (&settings.access_key, &settings.secret_key) {
        return Ok(builder.with_access_key_id(access.reveal()).with_secret_access_key(secret.reveal()));
    }
    let said = |name| settings.environment.first(&[name]).map(|(_, value)| value.reveal());
    if let (Some(access), Some(secret)) = (said("AWS_ACCESS_KEY_ID"), said("AWS_SECRET_ACCESS_KEY")) {
        let builder = builder.with_access_key_id(access).with_secret_access_key(secret);
        return Ok(match said("AWS_SESSION_TOKEN") {
            Some(token) => builder.with_token(token),
            None => builder,
        });
    }
    ROLES
        .into_iter()
        .filter_map(|(name, key)| Some((key, said(name)?)))
        .try_fold(builder, |builder, (key, value)| Ok(builder.with_config(key.parse::<AmazonS3ConfigKey>()?, value)))
}
