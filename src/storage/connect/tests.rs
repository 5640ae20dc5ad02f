use super::super::settings::{AzureSettings, Environment, GcsSettings, S3Settings};
use super::*;

fn s3() -> S3Settings {
    S3Settings {
        bucket: "data".to_owned(),
        prefix: String::new(),
        region: String::new(),
        endpoint: String::new(),
        access_key: None,
        secret_key: None,
        use_ssl: true,
        path_style: false,
        environment: Environment::default(),
    }
}

#[test]
fn the_location_says_where_everything_lies_and_nothing_else() {
    let location = |settings: &S3Settings| Storage::s3(settings, &Patience::default()).unwrap().location().to_owned();
    assert_eq!(location(&s3()), "s3://data");
    assert_eq!(location(&S3Settings { prefix: "a/b/".to_owned(), ..s3() }), "s3://data/a/b");
    for (endpoint, use_ssl, expected) in
        [("minio:9000", false, "http://minio:9000/data"), ("https://minio:9000/", true, "https://minio:9000/data")]
    {
        let settings = S3Settings { endpoint: endpoint.to_owned(), use_ssl, ..s3() };
        assert_eq!(location(&settings), expected);
    }
    let azure = AzureSettings { container: "data".to_owned(), account: "acme".to_owned(), ..AzureSettings::default() };
    assert_eq!(
        Storage::azure(&azure, &Patience::default()).unwrap().location(),
        "https://acme.blob.core.windows.net/data"
    );
    let mut environment = Environment::default();
    environment.note(
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "{\"disable_oauth\": true, \"client_email\": \"\", \"private_key\": \"\", \"private_key_id\": \"\"}",
    );
    let gcs = GcsSettings { bucket: "data".to_owned(), prefix: "x".to_owned(), environment, ..GcsSettings::default() };
    assert_eq!(Storage::gcs(&gcs, &Patience::default()).unwrap().location(), "gs://data/x");
}

/// A name in the list that the client does not know would be a setting that does nothing (T59).
#[test]
fn every_variable_in_the_list_is_known_to_the_client_it_is_for() {
    for name in Environment::VARIABLES {
        let key = name.to_lowercase();
        let known = match key.split('_').next() {
            Some("aws") => key.parse::<object_store::aws::AmazonS3ConfigKey>().is_ok(),
            Some("google") => key.parse::<object_store::gcp::GoogleConfigKey>().is_ok(),
            Some("azure") => key.parse::<object_store::azure::AzureConfigKey>().is_ok(),
            _ => key == "identity_endpoint",
        };
        assert!(known, "{name}");
    }
}

#[test]
fn settings_that_no_client_can_be_made_from_are_misconfigured() {
    let azure = AzureSettings {
        container: "data".to_owned(),
        account: "acme".to_owned(),
        access_key: Some(crate::secret::Secret::new("hunter2 is not base64!")),
        ..AzureSettings::default()
    };
    let error = Storage::azure(&azure, &Patience::default()).unwrap_err();
    assert!(matches!(error, StorageError::Misconfigured { .. }), "{error:?}");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}
