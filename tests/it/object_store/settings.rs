//! T13, T59: every key of an object store changes what goes over the wire, or what is accepted, and the environment counts
//! where the configuration is silent. Seen by a server that keeps what it is asked.

use std::time::Duration;

use arc::config::{Backend, Config, ConfigError, Input, KEYS};
use arc::server::open_storage;
use arc::storage::settings::Patience;
use arc::storage::{Storage, StorageError};
use tempfile::TempDir;

use crate::support::block_on;
use crate::support::canned::Canned;
use crate::support::http1::Head;

/// The configuration of a file with this text and these variables.
fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("arc.conf");
    std::fs::write(&file, text).unwrap();
    let environment = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
    Config::load(&Input { file: Some(file), environment, ..Input::default() })
}

fn problems(text: &str, variables: &[(&str, &str)]) -> String {
    let error = load(text, variables).expect_err(text);
    let mut lines = String::new();
    for problem in error.problems() {
        let problem = problem.to_string();
        lines.push_str(problem.split_once("arc.conf:").map_or(problem.as_str(), |(_, rest)| rest));
        lines.push('\n');
    }
    lines
}

fn impatient() -> Patience {
    Patience { retries: 0, connect: Duration::from_secs(5), stall: Duration::from_secs(5), ..Patience::default() }
}

/// The storage of a configuration, which gives up at once.
fn open(config: &Config) -> Storage {
    let storage = &config.storage;
    match storage.backend {
        Backend::Local => Storage::local(&storage.local.base_path),
        Backend::S3 => Storage::s3(&storage.s3, &impatient()),
        Backend::Minio => Storage::s3(&storage.minio, &impatient()),
        Backend::Ceph => Storage::s3(&storage.ceph, &impatient()),
        Backend::Gcs => Storage::gcs(&storage.gcs, &impatient()),
        Backend::Azure => Storage::azure(&storage.azure, &impatient()),
    }
    .unwrap()
}

/// The first request that a probe makes with this configuration, in which `SERVER` stands for the server's address.
fn first_request(text: &str, variables: &[(&str, &str)]) -> Head {
    let server = Canned::refusing(403, "<Error><Code>AccessDenied</Code></Error>");
    let variables: Vec<_> = variables.iter().map(|(n, v)| (*n, v.replace("SERVER", &server.address))).collect();
    let variables: Vec<_> = variables.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let config = load(&text.replace("SERVER", &server.address), &variables).unwrap_or_else(|e| panic!("{e}"));
    let refused = block_on(open(&config).probe()).unwrap_err();
    assert!(matches!(refused, StorageError::PermissionDenied { .. }), "{refused:?}");
    server.asked().swap_remove(0)
}

fn authorization(head: &Head) -> &str {
    head.header("authorization").unwrap()
}

/// A complete section of S3 with these changes.
fn s3(section: &str, changes: &[(&str, &str)]) -> String {
    let mut keys = [
        ("bucket", "'data'"),
        ("prefix", "''"),
        ("region", "''"),
        ("endpoint", "'SERVER'"),
        ("access_key", "'AKID'"),
        ("secret_key", "'hunter2'"),
        ("use_ssl", "false"),
        ("path_style", "true"),
    ];
    for (name, value) in changes {
        keys.iter_mut().find(|(known, _)| known == name).unwrap().1 = value;
    }
    let lines = keys.map(|(name, value)| format!("{name} = {value}\n")).concat();
    format!("[storage]\nbackend = '{section}'\n[storage.{section}]\n{lines}")
}

#[test]
fn every_key_of_s3_minio_and_ceph_changes_what_goes_over_the_wire() {
    for section in ["s3", "minio", "ceph"] {
        let request = first_request(&s3(section, &[]), &[]);
        assert_eq!(request.method(), "PUT");
        assert!(request.target().starts_with("/data/_compaction_staging/probe"), "{request:?}");
        assert_eq!(request.header("if-none-match"), Some("*"));
        assert!(authorization(&request).contains("Credential=AKID/"), "{request:?}");
        assert!(authorization(&request).contains("/us-east-1/s3/aws4_request"), "{request:?}");
        assert!(request.header("user-agent").unwrap().starts_with("arc/"), "{request:?}");

        let target = |change| first_request(&s3(section, &[change]), &[]).target().to_owned();
        assert!(target(("bucket", "'other-bucket'")).starts_with("/other-bucket/_compaction_staging/"));
        assert!(target(("prefix", "'tele metry/arc/'")).starts_with("/data/tele%20metry/arc/_compaction_staging/"));
        assert!(target(("endpoint", "'http://SERVER/'")).starts_with("/data/_compaction_staging/"));
        let signed = |change| authorization(&first_request(&s3(section, &[change]), &[])).to_owned();
        assert!(signed(("region", "'eu-north-1'")).contains("/eu-north-1/s3/aws4_request"));
        assert!(signed(("access_key", "'OTHER'")).contains("Credential=OTHER/"));

        let server = Canned::refusing(403, "");
        let with = |change: (&str, &str)| {
            let text = s3(section, &[("endpoint", "'SERVER'"), change])
                .replace("SERVER", &server.address.replace("127.0.0.1", "localhost"));
            let storage = open(&load(&text, &[]).unwrap());
            block_on(storage.probe()).unwrap_err().to_string()
        };
        let error = with(("use_ssl", "true"));
        assert!(error.contains("does not speak TLS: set use_ssl = false"), "{error}");
        assert!(server.asked().is_empty());
        // Most machines do not know names below localhost; where one does, the server sees the name.
        let error = with(("path_style", "false"));
        match server.asked().first() {
            Some(request) => assert!(request.header("host").unwrap().starts_with("data.localhost:"), "{request:?}"),
            None => assert!(error.contains("cannot be resolved"), "{error}"),
        }
    }
}

/// Signatures of the same request at the same second, with these changes of the configuration.
fn signatures(texts: [&str; 3], date: &str) -> [String; 3] {
    let server = Canned::refusing(403, "");
    // A second may end between the requests; then they are made again.
    loop {
        let begun = server.asked().len();
        for text in texts {
            let storage = open(&load(&text.replace("SERVER", &server.address), &[]).unwrap());
            block_on(storage.databases()).unwrap_err();
        }
        let asked = &server.asked()[begun..];
        assert!(asked[0].header(date).is_some(), "{asked:?}");
        if asked.iter().all(|request| request.header(date) == asked[0].header(date)) {
            return [0, 1, 2].map(|at| authorization(&asked[at]).to_owned());
        }
    }
}

#[test]
fn the_secret_keys_sign() {
    for section in ["s3", "minio", "ceph"] {
        let (one, other) = (s3(section, &[]), s3(section, &[("secret_key", "'hunter3'")]));
        let [first, second, third] = signatures([&one, &other, &one], "x-amz-date");
        assert_eq!(first, third);
        assert_ne!(first, second, "{section}");
    }
    let (one, other) = (azure("access_key = 'a2V5'"), azure("access_key = 'b3RoZXI='"));
    let [first, second, third] = signatures([&one, &other, &one], "date");
    assert_eq!(first, third);
    assert_ne!(first, second);
}

fn azure(more: &str) -> String {
    format!(
        "[storage]\nbackend = 'azure'\n[storage.azure]\ncontainer = 'data'\naccount = 'acme'\nendpoint = 'http://SERVER/acme'\n{more}\n"
    )
}

#[test]
fn every_key_of_azure_changes_what_goes_over_the_wire() {
    let request = first_request(&azure("access_key = 'a2V5'"), &[]);
    assert!(request.target().starts_with("/acme/data/_compaction_staging/probe"), "{request:?}");
    assert_eq!(request.header("if-none-match"), Some("*"));
    assert!(authorization(&request).starts_with("SharedKey acme:"), "{request:?}");
    let request = first_request(&azure("access_key = 'a2V5'\nprefix = 'telemetry/arc'"), &[]);
    assert!(request.target().starts_with("/acme/data/telemetry/arc/_compaction_staging/"), "{request:?}");
    let other = azure("access_key = 'a2V5'").replace("'data'", "'other'").replace("'acme'", "'zeta'");
    let request = first_request(&other, &[]);
    assert!(request.target().starts_with("/acme/other/_compaction_staging/"), "{request:?}");
    assert!(authorization(&request).starts_with("SharedKey zeta:"), "{request:?}");

    let text =
        "[storage]\nbackend = 'azure'\n[storage.azure]\ncontainer = 'data'\naccount = 'acme'\naccess_key = 'a2V5'\n";
    let public = open_storage(&load(text, &[]).unwrap()).unwrap();
    assert_eq!(public.location(), "https://acme.blob.core.windows.net/data");
}

fn gcs_key(folder: &TempDir, name: &str, address: &str) -> String {
    let file = folder.path().join(name);
    let json = format!(
        "{{\"type\": \"service_account\", \"gcs_base_url\": \"http://{address}\", \"disable_oauth\": true, \
         \"client_email\": \"\", \"private_key\": \"\", \"private_key_id\": \"\"}}"
    );
    std::fs::write(&file, json).unwrap();
    file.display().to_string()
}

#[test]
fn every_key_of_gcs_changes_what_goes_over_the_wire() {
    let folder = TempDir::new().unwrap();
    let server = Canned::refusing(403, "");
    let (file, environment) = (gcs_key(&folder, "one", &server.address), gcs_key(&folder, "two", "127.0.0.1:1"));
    let text = |more: &str| format!("[storage]\nbackend = 'gcs'\n[storage.gcs]\nbucket = 'data'\n{more}\n");
    let target = |text: &str, variables: &[(&str, &str)]| {
        block_on(open(&load(text, variables).unwrap()).probe()).unwrap_err();
        server.asked().last().unwrap().clone()
    };
    let named = format!("credentials_file = '{file}'");
    // The file of the configuration wins over that of the environment, which leads nowhere.
    let request = target(&text(&named), &[("GOOGLE_APPLICATION_CREDENTIALS", &environment)]);
    assert!(request.target().starts_with("/data/%5Fcompaction%5Fstaging%2Fprobe"), "{request:?}");
    assert_eq!(request.header("x-goog-if-generation-match"), Some("0"));
    let request = target(&text(&format!("{named}\nprefix = 'telemetry/arc'")), &[]);
    assert!(request.target().starts_with("/data/telemetry%2Farc%2F%5Fcompaction"), "{request:?}");
    let request = target(&text(&named).replace("'data'", "'other'"), &[]);
    assert!(request.target().starts_with("/other/"), "{request:?}");
    let seen = server.asked().len();
    target(&text(""), &[("GOOGLE_APPLICATION_CREDENTIALS", &file)]);
    assert_eq!(server.asked().len(), seen + 1, "the file of the environment was used");

    for (content, part) in [
        ("{\"private_key\": \"hunter2\"", "must be the JSON key of a service account"),
        ("{\"type\": \"service_account\", \"private_key\": \"hunter2\"}", "must be the JSON key of a service account"),
        ("{\"type\": \"external_account\"}", "must be the JSON key of a service account"),
    ] {
        std::fs::write(&file, content).unwrap();
        let error = open_storage(&load(&text(&named), &[]).unwrap()).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(part) && shown.contains(&file), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let missing = open_storage(&load(&text("credentials_file = '/nowhere/key.json'"), &[]).unwrap()).unwrap_err();
    assert!(
        missing.to_string().contains("/nowhere/key.json (named by storage.gcs.credentials_file) cannot be read"),
        "{missing}"
    );
}

#[test]
fn keys_of_the_configuration_win_over_the_environment_and_that_over_the_instance() {
    let bare = s3("s3", &[("access_key", "''"), ("secret_key", "''")]);
    let environment = [
        ("AWS_ACCESS_KEY_ID", "ENVIRONMENT"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_SESSION_TOKEN", "session"),
        ("AWS_REGION", "eu-west-3"),
        // Would lead elsewhere, if anybody looked at them.
        ("AWS_ENDPOINT", "http://127.0.0.1:1"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
        ("AWS_SKIP_SIGNATURE", "true"),
        ("AWS_BUCKET", "other"),
    ];
    let request = first_request(&bare, &environment);
    assert!(authorization(&request).contains("Credential=ENVIRONMENT/"), "{request:?}");
    assert!(authorization(&request).contains("/eu-west-3/s3/"), "{request:?}");
    assert_eq!(request.header("x-amz-security-token"), Some("session"));
    assert!(request.target().starts_with("/data/"), "{request:?}");

    let request = first_request(&s3("s3", &[("region", "'eu-central-1'")]), &environment);
    assert!(authorization(&request).contains("Credential=AKID/"), "{request:?}");
    assert!(authorization(&request).contains("/eu-central-1/s3/"), "{request:?}");
    assert_eq!(request.header("x-amz-security-token"), None, "a token belongs to its own key");

    // The metadata service of an instance: a token, a role, its credentials.
    let metadata = Canned::start(|request| {
        let body = match request.target() {
            "/latest/api/token" => "token".to_owned(),
            "/latest/meta-data/iam/security-credentials/" => "role".to_owned(),
            _ => "{\"AccessKeyId\": \"INSTANCE\", \"SecretAccessKey\": \"s\", \"Token\": \"t\", \"Expiration\": \"2099-01-01T00:00:00Z\"}".to_owned(),
        };
        (200, Vec::new(), body)
    });
    let endpoint = format!("http://{}", metadata.address);
    let request = first_request(&bare, &[("AWS_METADATA_ENDPOINT", &endpoint)]);
    assert!(authorization(&request).contains("Credential=INSTANCE/"), "{request:?}");
    let asked = metadata.asked().len();
    let both = [environment.as_slice(), &[("AWS_METADATA_ENDPOINT", endpoint.as_str())]].concat();
    assert!(authorization(&first_request(&bare, &both)).contains("Credential=ENVIRONMENT/"));
    assert_eq!(metadata.asked().len(), asked, "the instance was not asked");

    let bare = azure("").replace("account = 'acme'\n", "");
    let key = [("AZURE_STORAGE_ACCOUNT_NAME", "zeta"), ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")];
    assert!(authorization(&first_request(&bare, &key)).starts_with("SharedKey zeta:"));
    let sas = [("AZURE_STORAGE_ACCOUNT_NAME", "zeta"), ("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=sesame")];
    let request = first_request(&bare, &sas);
    assert!(request.target().contains("sig=sesame"), "{request:?}");
    let token = [("AZURE_STORAGE_TOKEN", "bearer"), ("AZURE_STORAGE_ACCOUNT_NAME", "zeta")];
    assert_eq!(authorization(&first_request(&bare, &token)), "Bearer bearer");
    assert!(authorization(&first_request(&azure("access_key = 'a2V5'"), &token)).starts_with("SharedKey acme:"));
}

#[test]
fn sections_that_lack_or_contradict_something_are_refused_with_the_remedy() {
    let backend = |name: &str| format!("[storage]\nbackend = '{name}'\n");
    for (text, lines) in [
        (
            backend("s3"),
            vec!["2: storage.s3.bucket: is needed with storage.backend = \"s3\": the name of an existing bucket"],
        ),
        (
            backend("minio"),
            vec![
                "2: storage.minio.bucket: is needed",
                "2: storage.minio.endpoint: is needed with storage.backend = \"minio\": host and port of the store",
                "2: storage.minio.access_key: is needed",
            ],
        ),
        (backend("gcs"), vec!["2: storage.gcs.bucket: is needed"]),
        (backend("azure"), vec!["2: storage.azure.container: is needed", "2: storage.azure.account: is needed"]),
        (
            s3("s3", &[("secret_key", "''")]),
            vec!["8: storage.s3.secret_key: is needed, because storage.s3.access_key is set"],
        ),
        (
            s3("s3", &[("access_key", "''")]),
            vec!["9: storage.s3.access_key: is needed, because storage.s3.secret_key is set"],
        ),
        (
            s3("minio", &[("endpoint", "'http://minio:9000'"), ("use_ssl", "true")]),
            vec!["is plain HTTP: set storage.minio.use_ssl = false, or write https://"],
        ),
        (s3("ceph", &[("endpoint", "'https://ceph'")]), vec!["is HTTPS, which storage.ceph.use_ssl = false forbids"]),
        (s3("s3", &[("endpoint", "'host/path'")]), vec!["must have no path: the bucket has a key of its own"]),
        (s3("s3", &[("endpoint", "'https://user:hunter2@host'")]), vec!["without user, password and query"]),
        (s3("s3", &[("bucket", "'s3://data'")]), vec!["must be the name alone"]),
        (s3("s3", &[("prefix", "'/data/../x'")]), vec!["must be a path such as telemetry/arc"]),
        (
            s3("s3", &[("bucket", "'a.b'"), ("path_style", "false"), ("use_ssl", "true"), ("endpoint", "''")]),
            vec!["must be true for a bucket with a dot in its name"],
        ),
        (
            s3("s3", &[("endpoint", "'127.0.0.1:9000'"), ("path_style", "false")]),
            vec!["must be true for an endpoint that is an address"],
        ),
        (
            s3("s3", &[("secret_key", "'line\\nbreak'")]).replace("'line\\nbreak'", "\"hunter2\\n\""),
            vec!["must have no spaces"],
        ),
        (azure("").replace("http://SERVER/acme", "acme.example.com"), vec!["must begin with https://"]),
    ] {
        let shown = problems(&text, &[]);
        assert_eq!(shown.lines().count(), lines.len(), "{text}\n{shown}");
        for line in lines {
            assert!(shown.contains(line), "{text}\n{shown}");
        }
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    // Half a pair in the environment, when the environment counts.
    let bare = s3("s3", &[("access_key", "''"), ("secret_key", "''")]);
    let half = [("AWS_ACCESS_KEY_ID", "x")];
    assert_eq!(problems(&bare, &half), "AWS_SECRET_ACCESS_KEY: is needed, because AWS_ACCESS_KEY_ID is set\n");
    load(&s3("s3", &[]), &half).unwrap();
    // A section that is not in use may be half filled in.
    load("[storage.s3]\naccess_key = 'x'\nendpoint = 'http://host'\n", &[]).unwrap();
    load(
        &s3("minio", &[("access_key", "''"), ("secret_key", "''")]),
        &[("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y")],
    )
    .unwrap();
}

#[test]
fn every_variable_of_an_object_store_sets_its_key() {
    for key in KEYS.iter().filter(|key| key.name.starts_with("storage.") && key.name.matches('.').count() == 2) {
        let (section, name) = key.name.strip_prefix("storage.").unwrap().split_once('.').unwrap();
        let prefix = match section {
            "minio" => "MINIO".to_owned(),
            "ceph" => "CEPH".to_owned(),
            other => format!("STORAGE_{}", other.to_uppercase()),
        };
        assert_eq!(key.variable, format!("{prefix}_{}", name.to_uppercase()));
        assert_eq!(key.secret, name.ends_with("_key"), "{}", key.name);
    }
}

/// T65: what is secret is shown by nothing, not even by an error about it.
#[test]
fn secrets_are_shown_by_nothing() {
    let text =
        s3("s3", &[("endpoint", "'127.0.0.1:1'"), ("access_key", "'sesame-id'"), ("secret_key", "'sesame-key'")]);
    let variables = [
        ("AWS_SESSION_TOKEN", "sesame-token"),
        ("AZURE_STORAGE_SAS_TOKEN", "sesame-sas"),
        ("MINIO_SECRET_KEY", "sesame-minio"),
    ];
    let config = load(&text, &variables).unwrap();
    let mut shown = Vec::new();
    arc::cli::config::show(&config, true, &mut shown).unwrap();
    arc::cli::config::show(&config, false, &mut shown).unwrap();
    let storage = open(&config);
    let error = block_on(storage.probe()).unwrap_err();
    let shown = format!(
        "{}{config:?}{config:#?}{storage:?}{error}{error:?}{}",
        String::from_utf8(shown).unwrap(),
        error.without_store_words()
    );
    assert!(!shown.contains("sesame"), "{shown}");
}

#[test]
fn the_configuration_says_which_variable_counts_where_a_key_is_empty() {
    let text = s3("s3", &[("access_key", "''"), ("secret_key", "''")]);
    let variables = [("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y"), ("AWS_DEFAULT_REGION", "eu-west-1")];
    let config = load(&text, &variables).unwrap();
    let note = |key: &str| config.entries().iter().find(|entry| entry.key == key).unwrap().note.clone();
    assert_eq!(note("storage.s3.access_key").as_deref(), Some("AWS_ACCESS_KEY_ID counts instead"));
    assert_eq!(note("storage.s3.region").as_deref(), Some("AWS_DEFAULT_REGION counts instead"));
    assert_eq!(note("storage.minio.region"), None, "only the section in use");
}
