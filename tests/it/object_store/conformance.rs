//! What every storage does alike: a local folder, memory, and each server.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arc::partition::{DataFile, FileKind, Generation, PartitionId};
use arc::storage::{Created, DeleteTarget, Place as Folder, Scanned, Storage, StorageError, WriteError};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::remote::PROBE;
use crate::support::servers::Kind;

/// Storage, and what a test needs to look at it from outside.
struct Place {
    name: String,
    storage: Storage,
    /// Not through our verbs.
    raw: Arc<dyn ObjectStore>,
    /// Local files of the test itself.
    scratch: TempDir,
    _base: Option<TempDir>,
}

impl Place {
    fn new(name: impl Into<String>, storage: Storage, base: Option<TempDir>) -> Self {
        let raw = raw(&storage);
        Self { name: name.into(), storage, raw, scratch: TempDir::new().unwrap(), _base: base }
    }

    /// Every storage that can be had here.
    fn all() -> Vec<Self> {
        let base = TempDir::new().unwrap();
        let local = Self::new("local", Storage::local(base.path()).unwrap(), Some(base));
        let memory = Self::new("memory", Storage::over(Arc::new(InMemory::new()), "memory://test"), None);
        let servers = Kind::ALL.into_iter().filter_map(Kind::bucket);
        let servers = servers.map(|bucket| Self::new(format!("{:?}", bucket.kind), bucket.storage(), None));
        [local, memory].into_iter().chain(servers).collect()
    }

    async fn put(&self, path: &str, content: &str) {
        self.raw.put(&Path::parse(path).unwrap(), content.to_owned().into()).await.unwrap();
    }

    /// Every object and its content.
    async fn objects(&self) -> BTreeMap<String, Bytes> {
        let metas: Vec<_> = self.raw.list(None).try_collect().await.unwrap();
        let mut objects = BTreeMap::new();
        // Locks of the staging area on local disk say nothing.
        for meta in metas.into_iter().filter(|meta| meta.location.filename() != Some(".arc-lock")) {
            let content = self.raw.get(&meta.location).await.unwrap().bytes().await.unwrap();
            objects.insert(meta.location.to_string(), content);
        }
        objects
    }

    async fn data(&self, name: &str) -> DataFile {
        let listing = self.storage.list_partition(&hour()).await.unwrap();
        listing.data.into_iter().find(|file| file.name == name).unwrap()
    }

    fn source(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.scratch.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

/// The store below the verbs.
pub fn raw(storage: &Storage) -> Arc<dyn ObjectStore> {
    let kept = Mutex::new(None);
    let _ = storage.clone().map_store(|store| {
        *kept.lock().unwrap() = Some(Arc::clone(&store));
        store
    });
    kept.into_inner().unwrap().unwrap()
}

fn hour() -> PartitionId {
    "db/cpu/2025/10/08/14".parse().unwrap()
}

/// Names that a store might escape, split, decode or match.
const NAMES: [&str; 13] =
    ["cpu", "cpu total", "it's", "\"q\"", "50%", "%2F", "%2e%2e", "a*b?[c]{d}", "größe", "k=v", "a&b<c>", "#1", "a+b"];

/// T8, T13, T56.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_what_they_are_on_every_storage() {
    for place in Place::all() {
        let mut expected = BTreeMap::new();
        for measurement in NAMES {
            let partition: PartitionId = format!("it's/{measurement}/2025/10/08/14").parse().unwrap();
            let mut names: Vec<String> = NAMES.iter().map(|name| format!("{name}.parquet")).collect();
            for name in &names {
                place.put(&format!("{partition}/{name}"), name).await;
            }
            names.sort();
            expected.insert(measurement.to_owned(), names);
        }
        let mut found = BTreeMap::new();
        assert_eq!(place.storage.databases().await.unwrap(), ["it's"], "{}", place.name);
        for measurement in place.storage.measurements("it's").await.unwrap() {
            let scanned: Vec<Scanned> =
                place.storage.scan_measurement("it's", &measurement, None).try_collect().await.unwrap();
            let mut names = Vec::new();
            for item in scanned {
                let Scanned::Partition(partition, listing) = item else { panic!("{}: {item:?}", place.name) };
                for file in listing.data {
                    let to = place.scratch.path().join("fetched");
                    place.storage.fetch(&partition, &file, &to).await.unwrap_or_else(|e| panic!("{}: {e}", place.name));
                    assert_eq!(std::fs::read_to_string(&to).unwrap(), file.name, "{}", place.name);
                    std::fs::remove_file(to).unwrap();
                    names.push(file.name);
                }
            }
            names.sort();
            found.insert(measurement, names);
        }
        assert_eq!(found, expected, "{}", place.name);
    }
}

/// T51: more objects than any page has.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_has_every_page() {
    const OBJECTS: usize = 1_100;
    for place in Place::all() {
        let puts = stream::iter(0..OBJECTS).map(|number| {
            let place = &place;
            async move { place.put(&format!("{}/{number:05}.parquet", hour()), "x").await }
        });
        puts.buffer_unordered(16).collect::<()>().await;
        let listing = place.storage.list_partition(&hour()).await.unwrap();
        assert_eq!(listing.data.len(), OBJECTS, "{}", place.name);
        let targets: Vec<DeleteTarget> = listing.data.iter().map(DeleteTarget::from).collect();
        let report = place.storage.delete_exact(&hour(), Folder::Data, &targets, &listing).await;
        assert!(report.is_complete(), "{}: {report:?}", place.name);
        assert_eq!(report.deleted.len(), OBJECTS, "{}", place.name);
        assert!(place.objects().await.is_empty(), "{}", place.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_tells_data_records_and_foreign_objects_apart() {
    for place in Place::all() {
        let ours = "cpu_20251008_14_g2_9f3a51c2b7d0_compacted.parquet";
        for name in
            ["b.parquet", ours, "_compaction/00000010.json", "_compaction/00000002.json", "sub/x.parquet", "notes.txt"]
        {
            place.put(&format!("{}/{name}", hour()), "{}").await;
        }
        place.put("db/cpu/2025/10/08/14x/other.parquet", "x").await;
        place.put("_compaction_staging/x/y.parquet", "x").await;
        let listing = place.storage.list_partition(&hour()).await.unwrap();
        let data: Vec<_> = listing.data.iter().map(|file| (file.name.as_str(), file.kind.clone())).collect();
        assert_eq!(data, [("b.parquet", FileKind::Raw), (ours, FileKind::Ours(Generation(2)))], "{}", place.name);
        assert_eq!(listing.records.iter().map(|r| r.generation.0).collect::<Vec<_>>(), [2, 10], "{}", place.name);
        assert_eq!(listing.foreign, ["notes.txt", "sub/x.parquet"], "{}", place.name);
        assert_eq!(place.storage.list_records(&hour()).await.unwrap(), listing.records, "{}", place.name);
        assert_eq!(place.storage.databases().await.unwrap(), ["db"], "{}", place.name);
        assert_eq!(place.storage.measurements("nothing").await.unwrap(), Vec::<String>::new(), "{}", place.name);
    }
}

/// T24, I12.
#[tokio::test(flavor = "multi_thread")]
async fn reading_gives_what_was_listed_or_an_error() {
    for place in Place::all() {
        let content = "0123456789".repeat(300_000);
        place.put(&format!("{}/a.parquet", hour()), &content).await;
        let file = place.data("a.parquet").await;
        let to = place.scratch.path().join("fetched");
        place.storage.fetch(&hour(), &file, &to).await.unwrap_or_else(|e| panic!("{}: {e}", place.name));
        assert_eq!(std::fs::read_to_string(&to).unwrap(), content, "{}", place.name);
        let read = place.storage.read_back(&hour(), "a.parquet").await.unwrap();
        let checksum = format!("blake3:{}", blake3::hash(content.as_bytes()).to_hex());
        assert_eq!((read.size_bytes, &read.etag, read.checksum), (3_000_000, &file.etag, checksum), "{}", place.name);
        assert!(content.as_bytes().ends_with(&read.tail), "{}", place.name);
        let stat = place.storage.head(&hour(), "a.parquet").await.unwrap().unwrap();
        assert_eq!((stat.size_bytes, &stat.etag), (3_000_000, &file.etag), "{}", place.name);
        let end = place.storage.read_range(&hour(), "a.parquet", 2_999_998..3_000_000).await.unwrap();
        assert_eq!(end, "89", "{}", place.name);
        assert!(place.storage.read_range(&hour(), "a.parquet", 2_999_998..3_000_001).await.is_err(), "{}", place.name);

        place.put(&format!("{}/a.parquet", hour()), "other").await;
        let changed = place.storage.fetch(&hour(), &file, &place.scratch.path().join("x")).await.unwrap_err();
        assert!(matches!(changed, StorageError::Changed { .. }), "{}: {changed:?}", place.name);
        let gone = DataFile { name: "b.parquet".into(), ..file };
        let gone = place.storage.fetch(&hour(), &gone, &place.scratch.path().join("y")).await.unwrap_err();
        // Azure answers a condition about a missing blob with "condition not met".
        let said = matches!(gone, StorageError::NotFound { .. } | StorageError::Changed { .. });
        assert!(said, "{}: {gone:?}", place.name);
        assert_eq!(place.storage.head(&hour(), "b.parquet").await.unwrap(), None, "{}", place.name);
    }
}

/// I7.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_creates_of_a_record_at_the_same_time_one_wins() {
    for place in Place::all() {
        let mut racers = tokio::task::JoinSet::new();
        for racer in 0..16 {
            let storage = place.storage.clone();
            racers.spawn(async move {
                let bytes = Bytes::from(racer.to_string());
                (racer, storage.create_record(&hour(), Generation(1), bytes, &format!("job{racer}")).await.unwrap())
            });
        }
        let answers = racers.join_all().await;
        let winners: Vec<_> = answers.iter().filter(|(_, created)| *created == Created::Created).collect();
        assert_eq!(winners.len(), 1, "{}", place.name);
        let listed = place.storage.list_records(&hour()).await.unwrap();
        let fetched = place.storage.get_record(&hour(), "00000001.json").await.unwrap();
        assert_eq!(fetched.bytes, winners[0].0.to_string(), "{}", place.name);
        assert_eq!(fetched.etag, listed[0].etag, "R0, {}", place.name);
    }
}

/// T2, T46: several parts; nothing is there before the end, and nothing is overwritten.
#[tokio::test(flavor = "multi_thread")]
async fn a_publication_is_invisible_until_it_is_complete_and_overwrites_nothing() {
    for place in Place::all() {
        let large: Vec<u8> = (0..5_200_000_u32).flat_map(u32::to_le_bytes).collect();
        let files = [
            (place.source("one", &large), "a_1_compacted.parquet".to_owned()),
            (place.source("two", b"small"), "a_2_compacted.parquet".to_owned()),
        ];
        let publication = place.storage.prepare(&hour(), "job", &files, &CancellationToken::new()).await.unwrap();
        assert!(place.storage.list_partition(&hour()).await.unwrap().data.is_empty(), "{}", place.name);
        publication.complete().await.unwrap_or_else(|e| panic!("{}: {e}", place.name));
        let read = place.storage.read_back(&hour(), "a_1_compacted.parquet").await.unwrap();
        assert_eq!(read.checksum, format!("blake3:{}", blake3::hash(&large).to_hex()), "{}", place.name);

        let again = [(place.source("again", b"new"), "a_2_compacted.parquet".to_owned())];
        let refused = place
            .storage
            .prepare(&hour(), "job", &again, &CancellationToken::new())
            .await
            .unwrap()
            .complete()
            .await
            .unwrap_err();
        assert!(
            matches!(refused, WriteError::NotWritten(StorageError::AlreadyExists { .. })),
            "{}: {refused:?}",
            place.name
        );
        let given_up = [(place.source("given up", &large), "b_compacted.parquet".to_owned())];
        place.storage.prepare(&hour(), "job", &given_up, &CancellationToken::new()).await.unwrap().abort().await;
        let objects = place.objects().await;
        assert_eq!(objects.len(), 2, "{}: {:?}", place.name, objects.keys());
        assert_eq!(objects[&format!("{}/a_2_compacted.parquet", hour())], "small", "{}", place.name);
    }
}

/// I3, T4, T18.
#[tokio::test(flavor = "multi_thread")]
async fn deletion_is_exact() {
    for place in Place::all() {
        for name in ["a.parquet", "b.parquet", "c.parquet", "d.parquet", "a.parquet.parquet"] {
            place.put(&format!("{}/{name}", hour()), "old").await;
        }
        let listing = place.storage.list_partition(&hour()).await.unwrap();
        let mut targets: Vec<DeleteTarget> =
            listing.data.iter().filter(|file| file.name.len() == 9).map(DeleteTarget::from).collect();
        place.put(&format!("{}/b.parquet", hour()), "new").await;
        place.put(&format!("{}/c.parquet", hour()), "another size").await;
        targets.push(DeleteTarget { name: "e.parquet".into(), ..targets[3].clone() });
        let now = place.storage.list_partition(&hour()).await.unwrap();
        let report = place.storage.delete_exact(&hour(), Folder::Data, &targets, &now).await;
        assert_eq!(report.deleted, ["a.parquet", "d.parquet"], "{}: {report:?}", place.name);
        assert_eq!(report.already_gone, ["e.parquet"], "{}: {report:?}", place.name);
        assert_eq!(report.changed, ["b.parquet", "c.parquet"], "{}: {report:?}", place.name);
        let left = ["a.parquet.parquet", "b.parquet", "c.parquet"].map(|name| format!("{}/{name}", hour()));
        assert_eq!(place.objects().await.into_keys().collect::<Vec<_>>(), left, "{}", place.name);
    }
}

/// I7, T23.
#[tokio::test(flavor = "multi_thread")]
async fn probes_pass_and_leave_one_object_for_all_of_them() {
    for place in Place::all() {
        for _ in 0..2 {
            place.storage.probe().await.unwrap_or_else(|e| panic!("{}: {e}", place.name));
        }
        let swap = place.storage.probe_update().await;
        assert_eq!(swap.is_ok(), place.name != "local", "{}: {swap:?}", place.name);
        let left: Vec<String> = place.objects().await.into_keys().collect();
        let expected: &[&str] = if place.name == "local" { &[] } else { &[PROBE] };
        assert_eq!(left, expected, "{}", place.name);
    }
}

/// T13.
#[tokio::test(flavor = "multi_thread")]
async fn the_prefix_is_kept_by_every_verb() {
    for bucket in Kind::ALL.into_iter().filter_map(Kind::bucket) {
        let (whole, place) =
            (raw(&bucket.at("").storage()), Place::new(format!("{:?}", bucket.kind), bucket.storage(), None));
        // A neighbour whose prefix begins alike, and data beside the prefix.
        let other = Place::new("other", bucket.at("some/prefix2").storage(), None);
        other.put(&format!("{}/other.parquet", hour()), "x").await;
        whole.put(&Path::from(format!("{}/outside.parquet", hour())), "x".into()).await.unwrap();

        place.put(&format!("{}/raw.parquet", hour()), "x").await;
        place.storage.create_record(&hour(), Generation(1), Bytes::from_static(b"{}"), "job").await.unwrap();
        let files = [(place.source("one", b"1"), "a_compacted.parquet".to_owned())];
        place
            .storage
            .prepare(&hour(), "job", &files, &CancellationToken::new())
            .await
            .unwrap()
            .complete()
            .await
            .unwrap();
        let seen = place.storage.list_partition(&hour()).await.unwrap();
        let names: Vec<&str> = seen.data.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["a_compacted.parquet", "raw.parquet"], "{}", place.name);
        let offset = Path::from(format!("{}/b", hour()));
        let after: Vec<_> = place.raw.list_with_offset(None, &offset).try_collect().await.unwrap();
        let after: Vec<_> = after.into_iter().map(|meta| meta.location.to_string()).collect();
        assert_eq!(after, [format!("{}/raw.parquet", hour())], "{}", place.name);
        let targets: Vec<DeleteTarget> = seen.data.iter().map(DeleteTarget::from).collect();
        assert_eq!(
            place.storage.delete_exact(&hour(), Folder::Data, &targets, &seen).await.deleted.len(),
            2,
            "{}",
            place.name
        );

        let left: Vec<_> = whole.list(None).try_collect().await.unwrap();
        let mut left: Vec<_> = left.into_iter().map(|meta| meta.location.to_string()).collect();
        left.sort();
        let expected = [
            format!("{}/outside.parquet", hour()),
            format!("some/prefix/{}/_compaction/00000001.json", hour()),
            format!("some/prefix2/{}/other.parquet", hour()),
        ];
        assert_eq!(left, expected, "{}", place.name);
        assert!(
            place.storage.location().ends_with(&format!("/{}/some/prefix", bucket.name)),
            "{}",
            place.storage.location()
        );
    }
}
