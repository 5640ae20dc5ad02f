//! The permissions that the README asks for are those that the requests need: no right is missing and none is too many.

use std::collections::BTreeSet;
use std::sync::{Arc as Shared, Mutex};

use arc::partition::PartitionId;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::object_store::remote::{Remote, random_file};
use crate::support::http1::Head;
use crate::support::proxy::{Proxy, Wire};
use crate::support::servers::Kind;
use crate::support::{PARTITION, Run, block_on};

/// The action of S3 that a request needs.
fn action(method: &str, path: &str, query: &str, bucket: &str) -> &'static str {
    let of_bucket = path.trim_matches('/') == bucket;
    match method {
        "GET" if of_bucket && query.contains("list-type=2") => "s3:ListBucket",
        "GET" | "HEAD" if !of_bucket => "s3:GetObject",
        // Also a part, and the beginning and the end of an upload.
        "PUT" if !of_bucket => "s3:PutObject",
        "POST" if !of_bucket && (query.contains("uploads") || query.contains("uploadId=")) => "s3:PutObject",
        "DELETE" if query.contains("uploadId=") => "s3:AbortMultipartUpload",
        "DELETE" if !of_bucket => "s3:DeleteObject",
        // Asked of the bucket; the right is looked up for each key in it.
        "POST" if of_bucket && query == "delete" => "s3:DeleteObject",
        _ => panic!("no action is known for {method} {path}?{query}"),
    }
}

/// The actions that the policy in the README allows.
fn policy() -> BTreeSet<String> {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let policy = readme.split("```json\n").find(|block| block.contains("\"2012-10-17\"")).unwrap();
    let policy: Value = serde_json::from_str(policy.split("```").next().unwrap()).unwrap();
    let mut actions = BTreeSet::new();
    for statement in policy["Statement"].as_array().unwrap() {
        let action = &statement["Action"];
        match action.as_array() {
            Some(several) => actions.extend(several.iter().map(|one| one.as_str().unwrap().to_owned())),
            None => drop(actions.insert(action.as_str().unwrap().to_owned())),
        }
    }
    actions
}

/// The check at the start, a compaction with an upload in parts, an upload that is given up, and every command that looks.
#[test]
fn the_policy_of_the_readme_allows_what_is_asked_and_no_more() {
    let Some(remote) = Remote::new(Kind::Moto) else { return };
    for number in 0..2 {
        remote.put(PARTITION, &format!("cpu_{number}.parquet"), random_file(number, 130_000));
    }
    let asked = Shared::new(Mutex::new(Vec::<Head>::new()));
    let seen = Shared::clone(&asked);
    let proxy = Proxy::start(&remote.bucket.address, move |_, request| {
        seen.lock().unwrap().push(request.clone());
        Wire::Good
    });
    let through = remote.bucket.through(&proxy.address);
    remote.configure(&through, "min_files = 2\nsettle_seconds = 0");

    for arguments in [&["plan"][..], &["compact", "--json"], &["verify", "--deep"]] {
        let output = remote.arc.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    let partition: PartitionId = PARTITION.parse().unwrap();
    let large = remote.arc.dir().join("large");
    std::fs::write(&large, vec![7; 10_000_000]).unwrap();
    let files = [(large, "given_up_compacted.parquet".to_owned())];
    block_on(async {
        let prepared = through.storage().prepare(&partition, "job", &files, &CancellationToken::new()).await;
        prepared.unwrap().abort().await;
    });

    let mut used = BTreeSet::new();
    let (mut parts, prefix) = (0, &remote.bucket.prefix);
    for request in asked.lock().unwrap().iter() {
        let (path, query) = request.target().split_once('?').unwrap_or((request.target(), ""));
        let action = action(request.method(), path, query, &remote.bucket.name);
        parts += usize::from(query.contains("partNumber="));
        if action == "s3:ListBucket" {
            let asked = format!("prefix={}%2F", prefix.replace('/', "%2F"));
            assert!(query.contains(&asked), "outside of {asked}: {query}");
        } else if path.trim_matches('/') != remote.bucket.name {
            let below = format!("/{}/{prefix}/", remote.bucket.name);
            assert!(path.starts_with(&below), "outside of {below}: {path}");
        }
        used.insert(action.to_owned());
    }
    assert!(parts > 2, "the output was not uploaded in parts: {parts}");
    assert_eq!(used, policy());
}

/// What the README asks of a shared access signature: a compaction needs each of the letters and no other.
#[test]
fn the_signature_of_the_readme_allows_what_is_asked_and_no_more() {
    let works = |rights: &str| {
        let remote = Remote::new(Kind::Azurite)?;
        for number in 0..2 {
            remote.put(PARTITION, &format!("cpu_{number}.parquet"), random_file(number, 80_000));
        }
        let text = std::fs::read_to_string(remote.arc.config_file()).unwrap();
        let text: Vec<&str> = text.lines().filter(|line| !line.starts_with("access_key")).collect();
        std::fs::write(remote.arc.config_file(), text.join("\n")).unwrap();
        let mut command = remote.arc.command(&["compact", "--json"]);
        let run = Run::of(command.env("AZURE_STORAGE_SAS_TOKEN", remote.bucket.sas(rights)));
        assert!(run.code == 0 || run.code == 1, "{rights}: {run:#?}");
        Some((run.code == 0, run))
    };
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let rights = readme.split("A shared access signature needs").nth(1).unwrap().split('`').nth(1).unwrap();
    let Some((enough, run)) = works(rights) else { return };
    assert!(enough, "{rights}: {run:#?}");
    for right in rights.chars() {
        let fewer = rights.replace(right, "");
        let (enough, run) = works(&fewer).unwrap();
        assert!(!enough, "{fewer} is enough: {run:#?}");
    }
}
