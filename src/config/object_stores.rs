//! The keys of object stores, which are the same for several of them: what they may hold, and why they are there.

use super::Config;
use super::keys::Key;
use super::rules::{a_token, an_account, an_endpoint, an_optional_file, an_optional_name, an_optional_path};
use super::value::{Kind, Value};
use crate::secret::Secret;

type Set = fn(&mut Config, &Value);

const fn text(
    name: &'static str,
    variable: &'static str,
    rule: fn(&str) -> Result<(), String>,
    why: &'static str,
    set: Set,
) -> Key {
    let kind = Kind::Text(rule);
    Key { name, variable, kind, unit: "", default: "", why, secret: false, set, patch: None }
}

pub(super) const fn bucket(name: &'static str, variable: &'static str, set: Set) -> Key {
    text(name, variable, an_optional_name, "The bucket or container, which must exist; needed with this backend.", set)
}

pub(super) const fn prefix(name: &'static str, variable: &'static str, set: Set) -> Key {
    let why = "Everything lies below this path; empty: the bucket or container is for this service alone.";
    text(name, variable, an_optional_path, why, set)
}

pub(super) const fn region(name: &'static str, variable: &'static str, set: Set) -> Key {
    let why = "The region that requests are signed for; empty: AWS_REGION or AWS_DEFAULT_REGION, else us-east-1.";
    text(name, variable, an_optional_name, why, set)
}

pub(super) const fn amazon_endpoint(name: &'static str, variable: &'static str, set: Set) -> Key {
    let why = "Host and port of another store that speaks S3, such as R2; empty: Amazon's, by region.";
    text(name, variable, an_endpoint, why, set)
}

pub(super) const fn endpoint(name: &'static str, variable: &'static str, set: Set) -> Key {
    text(name, variable, an_endpoint, "Host and port, such as minio:9000; needed with this backend.", set)
}

pub(super) const fn azure_endpoint(name: &'static str, variable: &'static str, set: Set) -> Key {
    let why = "The URL of the account's blob service; empty: https://ACCOUNT.blob.core.windows.net.";
    text(name, variable, an_endpoint, why, set)
}

pub(super) const fn account(name: &'static str, variable: &'static str, set: Set) -> Key {
    text(name, variable, an_account, "The storage account; empty: AZURE_STORAGE_ACCOUNT_NAME.", set)
}

pub(super) const fn credentials_file(name: &'static str, variable: &'static str, set: Set) -> Key {
    let why =
        "The JSON key of a service account; empty: GOOGLE_APPLICATION_CREDENTIALS, else the machine's own account.";
    text(name, variable, an_optional_file, why, set)
}

const fn secret(name: &'static str, variable: &'static str, why: &'static str, set: Set) -> Key {
    Key { secret: true, ..text(name, variable, a_token, why, set) }
}

pub(super) const fn access_key(name: &'static str, variable: &'static str, set: Set) -> Key {
    secret(name, variable, "With secret_key; empty: AWS_ACCESS_KEY_ID and the like, else the machine's role.", set)
}

pub(super) const fn secret_key(name: &'static str, variable: &'static str, set: Set) -> Key {
    secret(name, variable, "Belongs to access_key; better in the variable than in a file.", set)
}

pub(super) const fn azure_key(name: &'static str, variable: &'static str, set: Set) -> Key {
    let why = "A key of the account; empty: AZURE_STORAGE_ACCOUNT_KEY, AZURE_CLIENT_ID and the like, else the machine's identity.";
    secret(name, variable, why, set)
}

const fn switch(name: &'static str, variable: &'static str, default: &'static str, why: &'static str, set: Set) -> Key {
    Key { name, variable, kind: Kind::Bool, unit: "", default, why, secret: false, set, patch: None }
}

pub(super) const fn use_ssl(name: &'static str, variable: &'static str, set: Set) -> Key {
    switch(name, variable, "true", "HTTPS; false: plain HTTP, for trusted networks only.", set)
}

pub(super) const fn path_style(name: &'static str, variable: &'static str, default: &'static str, set: Set) -> Key {
    switch(name, variable, default, "host/bucket instead of bucket.host; most stores but Amazon's want it.", set)
}

/// What an optional secret holds.
pub(super) fn secret_of(value: &Value) -> Option<Secret> {
    Some(value.text()).filter(|text| !text.is_empty()).map(Secret::new)
}
