//! What is wrong with a connection is said in one line, with the remedy, before any work is done.

use std::process::Command;
use std::sync::Arc as Shared;
use std::time::Duration;

use arc::clock::SystemClock;
use arc::lock::{LockManager, StorageLocks};
use arc::storage::{DeleteTarget, Place, Storage, StorageError};

use crate::object_store::remote::{PROBE, Remote};
use crate::support::canned::Canned;
use crate::support::served::Served;
use crate::support::servers::{Bucket, Kind};
use crate::support::{Arc, PARTITION, Run, block_on};

/// A bucket on a server that is no real one.
fn bucket(kind: Kind, address: &str) -> Bucket {
    Bucket { kind, name: "data".to_owned(), prefix: String::new(), address: address.to_owned() }
}

fn probe(storage: &Storage) -> StorageError {
    let error = block_on(storage.probe()).unwrap_err();
    assert!(!error.to_string().contains('\n'), "{error}");
    error
}

#[test]
fn a_bucket_that_does_not_exist_is_named() {
    for kind in Kind::ALL {
        let Some(there) = kind.bucket() else { continue };
        let missing = Bucket { name: "arc-no-such-bucket".to_owned(), ..there };
        let storage = missing.storage();
        let error = probe(&storage);
        assert!(matches!(error, StorageError::Misconfigured { .. }), "{kind:?}: {error:?}");
        assert!(error.to_string().contains("arc-no-such-bucket"), "{kind:?}: {error}");
        assert!(error.to_string().contains("there is no such bucket or container: create it"), "{kind:?}: {error}");
        // T24: nor is it an empty one.
        assert!(block_on(storage.databases()).is_err(), "{kind:?}");
        let hour = "db/cpu/2025/10/08/14".parse().unwrap();
        assert!(block_on(storage.list_partition(&hour)).is_err(), "{kind:?}");
        let record = block_on(storage.get_record(&hour, "00000001.json")).unwrap_err();
        assert!(matches!(record, StorageError::Misconfigured { .. }), "{kind:?}: {record:?}");
        let locks = StorageLocks::new(&storage, Shared::new(SystemClock));
        let lease = block_on(locks.acquire_lock(&hour, Duration::from_mins(1))).unwrap_err().to_string();
        assert!(
            lease.starts_with("a lease could not be read: ") && lease.contains("no such bucket"),
            "{kind:?}: {lease}"
        );
    }
}

#[test]
fn wrong_keys_a_wrong_region_and_a_wrong_clock_are_told_apart() {
    let xml = |code: &str, rest: &str| format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code>{rest}</Error>");
    for (kind, status, body, part) in [
        (
            Kind::Moto,
            403,
            xml("InvalidAccessKeyId", "<AWSAccessKeyId>QUOTED</AWSAccessKeyId>"),
            "does not accept the credentials",
        ),
        (
            Kind::Moto,
            403,
            xml("SignatureDoesNotMatch", "<StringToSign>QUOTED</StringToSign>"),
            "does not accept the credentials",
        ),
        (Kind::Moto, 403, xml("RequestTimeTooSkewed", ""), "this machine's clock differs too much"),
        (
            Kind::Moto,
            400,
            xml(
                "AuthorizationHeaderMalformed",
                "<Message>the region 'us-east-1' is wrong</Message><Region>eu-west-3</Region>",
            ),
            "set region = \"eu-west-3\"",
        ),
        (Kind::Moto, 301, xml("PermanentRedirect", ""), "correct region or endpoint"),
        (Kind::Moto, 403, xml("AccessDenied", ""), "no permission for"),
        (Kind::Azurite, 403, xml("AuthenticationFailed", ""), "does not accept the credentials"),
        (Kind::Azurite, 404, xml("ContainerNotFound", ""), "there is no such bucket or container"),
        (Kind::Azurite, 403, xml("AuthorizationPermissionMismatch", ""), "no permission for"),
        (Kind::FakeGcs, 404, xml("NoSuchBucket", ""), "there is no such bucket or container"),
        (Kind::FakeGcs, 403, xml("AccessDenied", ""), "no permission for"),
    ] {
        let server = Canned::refusing(status, body.clone());
        let error = probe(&bucket(kind, &server.address).storage());
        assert!(error.to_string().contains(part), "{body}: {error}");
        let shown = format!("{error:?}{}", error.without_store_words());
        assert!(!shown.contains("QUOTED"), "{shown}");
        assert_eq!(server.asked().len(), 1, "{body}: nothing more is asked");
    }
}

/// Azurite checks signatures.
#[test]
fn a_wrong_account_key_is_not_accepted() {
    let Some(remote) = Remote::new(Kind::Azurite) else { return };
    let config =
        std::fs::read_to_string(remote.arc.config_file()).unwrap().replace("access_key = 'Eby8", "access_key = 'Fby8");
    std::fs::write(remote.arc.config_file(), config).unwrap();
    let storage = arc::server::open_storage(&remote.config()).unwrap();
    let error = probe(&storage);
    assert!(error.to_string().contains("does not accept the credentials"), "{error}");
}

#[test]
fn a_server_that_is_not_there_is_named_with_the_question_to_ask() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for kind in Kind::ALL {
        let patience = arc::storage::settings::Patience { retries: 1, ..Default::default() };
        let error = probe(&bucket(kind, &nobody).patient(&patience));
        assert!(matches!(error, StorageError::Unavailable { .. }), "{kind:?}: {error:?}");
        assert!(error.to_string().contains("is the endpoint right, and the store running?"), "{kind:?}: {error}");
    }
}

/// I7, T23: a store that takes every create for an ordinary write is refused.
#[test]
fn a_store_without_conditional_writes_is_refused() {
    let server = Canned::start(|_| (200, vec![("etag", "\"1\"".to_owned())], String::new()));
    let error = probe(&bucket(Kind::Moto, &server.address).storage());
    assert!(matches!(error, StorageError::Unsuitable { .. }), "{error:?}");
    assert!(
        error.to_string().contains("it let a second create-if-absent of the same key succeed; use a store"),
        "{error}"
    );
    let methods: Vec<String> = server.asked().iter().map(|request| request.method().to_owned()).collect();
    assert_eq!(methods, ["PUT", "GET", "PUT"], "no deletion, so that nobody else's object goes");
}

/// T49: an answer that names a key which nobody asked to delete, and one that makes no sense at all. What is still there has
/// failed, and the next tidy tries again.
#[test]
fn a_batch_of_deletions_that_is_answered_with_nonsense_has_failed() {
    let object = |name: &str| {
        let (key, at) = (format!("{PARTITION}/{name}"), "2025-10-08T16:00:00.000Z");
        format!(
            "<Contents><Key>{key}</Key><LastModified>{at}</LastModified><ETag>&quot;1&quot;</ETag><Size>1</Size></Contents>"
        )
    };
    let listing = format!("<ListBucketResult>{}{}</ListBucketResult>", object("a.parquet"), object("b.parquet"));
    for answer in [
        "<DeleteResult><Error><Key>who/asked</Key><Code>InternalError</Code><Message>QUOTED</Message></Error></DeleteResult>",
        "<DeleteResult><Error><Key>a//b</Key><Code>InternalError</Code><Message>QUOTED</Message></Error></DeleteResult>",
        "no document",
    ] {
        let page = listing.clone();
        let server = Canned::start(move |request| {
            let body = if request.method() == "POST" { answer.to_owned() } else { page.clone() };
            (200, Vec::new(), body)
        });
        let storage = bucket(Kind::Moto, &server.address).storage();
        let partition = PARTITION.parse().unwrap();
        let report = block_on(async {
            let listing = storage.list_partition(&partition).await.unwrap();
            let targets: Vec<DeleteTarget> = listing.data.iter().map(DeleteTarget::from).collect();
            storage.delete_exact(&partition, Place::Data, &targets, &listing).await
        });
        let failed: Vec<&str> = report.failed.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((failed, report.deleted.len()), (vec!["a.parquet", "b.parquet"], 0), "{answer}: {report:?}");
    }
}

/// The program says it, does nothing, and ends with exit code 1.
#[test]
fn the_program_refuses_in_one_line() {
    let server = Canned::refusing(404, "<Error><Code>NoSuchBucket</Code></Error>");
    let arc = Arc::new();
    let section = bucket(Kind::Moto, &server.address).section(arc.dir());
    let state = format!("[state]\ndb_path = '{}'\n", arc.dir().join("arc.db").display());
    std::fs::write(arc.config_file(), format!("{section}{state}")).unwrap();
    for command in ["compact", "serve"] {
        let mut program: Command = arc.server_command();
        let run = Run::from(program.arg(command).env("AUTH_ENABLED", "false").output().unwrap());
        assert_eq!(run.code, 1, "{command}: {run:#?}");
        assert!(
            format!("{}{}", run.stdout, run.stderr).contains("there is no such bucket or container"),
            "{command}: {run:#?}"
        );
    }
}

/// A store that does not answer now may answer later: the server starts, says so, and is not ready.
#[test]
fn the_server_waits_for_a_store_that_is_down() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let arc = Arc::new();
    let section = bucket(Kind::Moto, &nobody).section(arc.dir());
    let state = format!("[state]\ndb_path = '{}'\n", arc.dir().join("arc.db").display());
    std::fs::write(arc.config_file(), format!("{section}{state}")).unwrap();
    let served: Served = arc.serve();
    let ready = served.send("GET", "/ready", &[], "");
    assert_eq!(ready.status, 503, "{ready:?}");
    let storage = &ready.json()["checks"]["storage"];
    assert_eq!(storage["ok"], false, "{storage}");
}

/// `GET /api/connections/storage` and `/ready`, for every backend.
#[test]
fn the_api_says_how_the_connection_is() {
    Remote::everywhere(|remote| {
        let kind = remote.bucket.kind;
        let served = remote.arc.serve();
        let connection = served.get("/api/connections/storage").json();
        let backend = match kind {
            Kind::Moto | Kind::Ministack => "minio",
            Kind::Azurite => "azure",
            Kind::FakeGcs => "gcs",
        };
        assert_eq!(connection["backend"], backend);
        assert_eq!(connection["location"], remote.storage().location(), "{kind:?}");
        assert_eq!(
            (&connection["reachable"], &connection["conditional_put"]),
            (&true.into(), &true.into()),
            "{kind:?}"
        );
        assert!(connection["latency_ms"].as_f64().unwrap() > 0.0, "{kind:?}");
        assert!(connection["error"].is_null(), "{kind:?}: {connection}");
        assert!(!connection.to_string().contains("secret"), "{connection}");
        let ready = served.send("GET", "/ready", &[], "").json();
        assert_eq!(ready["checks"]["storage"]["ok"], true, "{kind:?}: {ready}");
        assert_eq!(remote.objects().into_keys().collect::<Vec<_>>(), [PROBE], "{kind:?}");
    });
}
