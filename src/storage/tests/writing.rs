use tokio_util::sync::CancellationToken;

use super::*;

const RECORD: &str = "db/cpu/2025/10/08/14/_compaction/00000001.json";

async fn create(f: &Fixture, content: &'static str) -> Result<Created, WriteError> {
    f.storage.create_record(&hour(), Generation(1), Bytes::from_static(content.as_bytes()), "job").await
}

#[tokio::test]
async fn of_two_creates_of_a_record_the_first_stays() {
    for f in Fixture::both() {
        assert_eq!(create(&f, "first").await.unwrap(), Created::Created);
        assert_eq!(create(&f, "second").await.unwrap(), Created::AlreadyExists);
        assert_eq!(f.objects().await, BTreeMap::from([(RECORD.to_owned(), "first".to_owned())]));
        let fetched = f.storage.get_record(&hour(), "00000001.json").await.unwrap();
        let listed = f.storage.list_records(&hour()).await.unwrap();
        assert_eq!((fetched.bytes.as_ref(), &fetched.etag), (b"first".as_slice(), &listed[0].etag));
    }
}

/// I7: create-if-absent decides, whoever and however many try at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_creates_at_the_same_time_one_wins() {
    for f in Fixture::both() {
        let mut racers = tokio::task::JoinSet::new();
        for racer in 0..16 {
            let storage = f.storage.clone();
            racers.spawn(async move {
                let bytes = Bytes::from(racer.to_string());
                (racer, storage.create_record(&hour(), Generation(1), bytes, &format!("job{racer}")).await.unwrap())
            });
        }
        let answers = racers.join_all().await;
        let winners: Vec<_> = answers.iter().filter(|(_, created)| *created == Created::Created).collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(f.objects().await, BTreeMap::from([(RECORD.to_owned(), winners[0].0.to_string())]));
    }
}

/// T19: an error of the deciding call says nothing about what happened; the same call again finds out.
#[tokio::test]
async fn a_create_whose_answer_got_lost_is_unknown() {
    for f in Fixture::both() {
        f.faults.plan(Op::Put, "00000001.json", Fault::LosesTheAnswer);
        f.faults.plan(Op::Copy, "00000001.json", Fault::LosesTheAnswer);
        assert!(matches!(create(&f, "first").await, Err(WriteError::Unknown(_))));
        assert_eq!(create(&f, "again").await.unwrap(), Created::AlreadyExists);
        assert_eq!(f.objects().await, BTreeMap::from([(RECORD.to_owned(), "first".to_owned())]));
    }
}

#[tokio::test]
async fn a_disk_that_is_full_while_a_record_is_staged_leaves_nothing() {
    let f = Fixture::local();
    f.faults.plan(Op::Put, "record.json", Fault::Fails(io::ErrorKind::StorageFull));
    let error = create(&f, "first").await.unwrap_err();
    assert!(matches!(error, WriteError::NotWritten(StorageError::Full { .. })), "{error:?}");
    assert_eq!(f.names().await, Vec::<String>::new());
}

#[tokio::test]
async fn prepared_files_are_invisible_and_completed_ones_are_there() {
    for f in Fixture::both() {
        let files = [
            (f.source("one", b"first file"), "a_1_compacted.parquet".to_owned()),
            (f.source("two", b"second file"), "a_2_compacted.parquet".to_owned()),
        ];
        let publication = f.storage.prepare(&hour(), "job", &files, &CancellationToken::new()).await.unwrap();
        assert_eq!(f.storage.list_partition(&hour()).await.unwrap(), Listing::default());
        assert_eq!(f.storage.databases().await.unwrap(), Vec::<String>::new());
        assert_eq!(f.storage.sweep_staging().await.unwrap(), Vec::<String>::new(), "T9: this attempt lives");

        publication.complete().await.unwrap();
        let expected = [("a_1_compacted.parquet", "first file"), ("a_2_compacted.parquet", "second file")];
        let expected = expected.map(|(name, content)| (format!("{}/{name}", hour()), content.to_owned()));
        assert_eq!(f.objects().await, BTreeMap::from(expected));
    }
}

/// T2.
#[tokio::test]
async fn publishing_never_overwrites() {
    for f in Fixture::both() {
        f.put(&format!("{}/taken.parquet", hour()), "old").await;
        let files = [(f.source("new", b"new"), "taken.parquet".to_owned())];
        let publication = f.storage.prepare(&hour(), "job", &files, &CancellationToken::new()).await.unwrap();
        let error = publication.complete().await.unwrap_err();
        assert!(matches!(error, WriteError::NotWritten(StorageError::AlreadyExists { .. })), "{error:?}");
        assert_eq!(f.objects().await, BTreeMap::from([(format!("{}/taken.parquet", hour()), "old".to_owned())]));
    }
}

/// T5, T69: what became visible stays: only a record says what is dead.
#[tokio::test]
async fn a_publication_that_fails_midway_is_unknown_and_takes_nothing_back() {
    for f in Fixture::both() {
        f.put(&format!("{}/b.parquet", hour()), "old").await;
        let files = ["a", "b", "c"].map(|name| (f.source(name, name.as_bytes()), format!("{name}.parquet")));
        let publication = f.storage.prepare(&hour(), "job", &files, &CancellationToken::new()).await.unwrap();
        let error = publication.complete().await.unwrap_err();
        assert!(matches!(error, WriteError::Unknown(StorageError::AlreadyExists { .. })), "{error:?}");
        let expected = [("a.parquet", "a"), ("b.parquet", "old")];
        let expected = expected.map(|(name, content)| (format!("{}/{name}", hour()), content.to_owned()));
        assert_eq!(f.objects().await, BTreeMap::from(expected));
    }
}

/// Content of a file that is uploaded in parts, and of one that is not.
fn large_and_small() -> [Vec<u8>; 2] {
    [vec![b'x'; usize::try_from(MIN_PART_BYTES).unwrap() + 1], b"small".to_vec()]
}

#[tokio::test]
async fn a_completion_whose_answer_got_lost_is_unknown() {
    for f in Fixture::both() {
        for (content, name) in large_and_small().into_iter().zip(["large.parquet", "small.parquet"]) {
            f.faults.plan(Op::Copy, name, Fault::LosesTheAnswer);
            f.faults.plan(Op::Put, name, Fault::LosesTheAnswer);
            f.faults.plan(Op::UploadComplete, name, Fault::LosesTheAnswer);
            let files = [(f.source(name, &content), name.to_owned())];
            let publication = f.storage.prepare(&hour(), "job", &files, &CancellationToken::new()).await.unwrap();
            assert!(matches!(publication.complete().await, Err(WriteError::Unknown(_))));
        }
        assert_eq!(f.names().await, ["large", "small"].map(|name| format!("{}/{name}.parquet", hour())));
    }
}

#[tokio::test]
async fn publishing_never_overwrites_with_an_upload_of_parts_either() {
    let f = Fixture::memory();
    f.put(&format!("{}/taken.parquet", hour()), "old").await;
    let [large, _] = large_and_small();
    let files = [(f.source("new", &large), "taken.parquet".to_owned())];
    let publication = f.storage.prepare(&hour(), "job", &files, &CancellationToken::new()).await.unwrap();
    let error = publication.complete().await.unwrap_err();
    assert!(matches!(error, WriteError::NotWritten(StorageError::AlreadyExists { .. })), "{error:?}");
    assert_eq!(f.objects().await, BTreeMap::from([(format!("{}/taken.parquet", hour()), "old".to_owned())]));
}

/// T20: the client repeats a create whose answer got lost, and is told that the object exists. It is its own.
#[tokio::test]
async fn a_small_file_that_is_there_with_the_same_content_was_published() {
    let f = Fixture::memory();
    f.put(&format!("{}/a.parquet", hour()), "small").await;
    let files = [(f.source("a", b"small"), "a.parquet".to_owned())];
    let publication = f.storage.prepare(&hour(), "job", &files, &CancellationToken::new()).await.unwrap();
    publication.complete().await.unwrap();
}

#[tokio::test]
async fn a_publication_given_up_or_dropped_leaves_nothing() {
    for f in Fixture::both() {
        let files = [(f.source("a", b"a"), "a.parquet".to_owned())];
        f.storage.prepare(&hour(), "job", &files, &CancellationToken::new()).await.unwrap().abort().await;
        assert_eq!(f.names().await, Vec::<String>::new());
        drop(f.storage.prepare(&hour(), "job", &files, &CancellationToken::new()).await.unwrap());
        assert_eq!(f.names().await, Vec::<String>::new());
        let missing = [(f.scratch.path().join("missing"), "b.parquet".to_owned())];
        assert!(
            f.storage
                .prepare(&hour(), "job", &missing, &CancellationToken::new())
                .await
                .unwrap_err()
                .to_string()
                .contains("missing")
        );
        assert_eq!(f.names().await, Vec::<String>::new());
        assert!(f.scratch.path().join("a").exists(), "the source is the caller's");
    }
}

/// Jobs are tasks that move between threads.
#[test]
fn every_verb_can_be_awaited_in_a_task() {
    fn is_send<T: Send>(_: T) {}
    let f = Fixture::memory();
    let (storage, hour, stop) = (f.storage, hour(), CancellationToken::new());
    is_send(storage.probe());
    is_send(storage.databases());
    is_send(storage.list_partition(&hour));
    is_send(storage.create_record(&hour, Generation(1), Bytes::new(), "job"));
    is_send(storage.delete_exact(&hour, Place::Data, &[], &Listing::default()));
    is_send(storage.read_back(&hour, "a"));
    is_send(async {
        let publication = storage.prepare(&hour, "job", &[], &stop).await?;
        publication.complete().await
    });
}

/// T46: several parts, streamed; the bytes arrive in order.
#[tokio::test]
async fn a_file_of_many_parts_arrives_whole() {
    let f = Fixture::memory();
    let content: Vec<u8> = (0..5_200_000_u32).flat_map(u32::to_le_bytes).collect();
    let files = [(f.source("large", &content), "large.parquet".to_owned())];
    f.storage.prepare(&hour(), "job", &files, &CancellationToken::new()).await.unwrap().complete().await.unwrap();
    let read_back = f.storage.read_back(&hour(), "large.parquet").await.unwrap();
    assert_eq!(read_back.size_bytes, content.len() as u64);
    assert_eq!(read_back.checksum, format!("blake3:{}", blake3::hash(&content).to_hex()));
}

#[tokio::test]
async fn staging_of_a_dead_attempt_is_swept_and_no_database() {
    let f = Fixture::local();
    f.put("_compaction_staging/dead.0/x.parquet", "x").await;
    f.put("_compaction_staging/dead.0.arc-owner", "").await;
    f.put("_compaction_staging/foreign/x.parquet", "x").await;
    assert_eq!(f.storage.sweep_staging().await.unwrap(), ["dead.0"]);
    assert_eq!(f.names().await, ["_compaction_staging/foreign/x.parquet"]);
}

#[tokio::test]
async fn an_attempt_with_a_very_long_name_can_write() {
    let f = Fixture::local();
    let attempt = "m".repeat(240);
    let created = f.storage.create_record(&hour(), Generation(1), Bytes::new(), &attempt).await;
    assert_eq!(created.unwrap(), Created::Created);
    let refused = f.storage.create_record(&hour(), Generation(2), Bytes::new(), "../x").await.unwrap_err();
    assert!(matches!(refused, WriteError::NotWritten(StorageError::InvalidName { .. })));
}

#[tokio::test]
async fn a_probe_passes_on_sound_storage_again_and_again_and_leaves_no_more_than_one_object() {
    for f in Fixture::both() {
        for _ in 0..3 {
            f.storage.probe().await.unwrap();
        }
        let local = f.storage.local.is_some();
        assert_eq!(f.names().await, if local { vec![] } else { vec!["_compaction_staging/probe".to_owned()] });
    }
}

/// I5: a service that cannot end its probe, or dies before that, leaves nothing that adds up.
#[tokio::test]
async fn probes_that_end_early_leave_no_more_than_one_object() {
    let f = Fixture::memory();
    for op in [Op::Delete, Op::Get, Op::Put] {
        f.faults.plan(op, "", Fault::LosesTheAnswer);
        for _ in 0..3 {
            f.storage.probe().await.unwrap_err();
        }
    }
    assert_eq!(f.names().await, ["_compaction_staging/probe"]);
}

/// I5: the same of compare-and-swap, whose object is removed by whoever gets that far.
#[tokio::test]
async fn probes_of_updates_leave_nothing_and_clear_away_what_others_left() {
    let f = Fixture::memory();
    f.put("_compaction_staging/probe-update", "of a service that died").await;
    f.storage.probe_update().await.unwrap();
    assert_eq!(f.names().await, Vec::<String>::new());
    for op in [Op::Delete, Op::Get, Op::Put] {
        f.faults.plan(op, "", Fault::LosesTheAnswer);
        for _ in 0..3 {
            f.storage.probe_update().await.unwrap_err();
        }
    }
    assert!(f.names().await.len() <= 1, "{:?}", f.names().await);
}

/// Services that start at the same moment use one object, and find the store no worse for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_probes_of_updates_at_once_all_pass() {
    for _ in 0..20 {
        let f = Fixture::memory();
        let storage = f.storage.clone();
        let probes = (0..4).map(|_| {
            let storage = storage.clone();
            tokio::spawn(async move { storage.probe_update().await })
        });
        for probe in futures::future::join_all(probes).await {
            probe.unwrap().unwrap();
        }
        assert_eq!(f.names().await, Vec::<String>::new());
    }
}

/// T23: a store that takes every update, and one that takes none.
#[tokio::test]
async fn a_probe_refuses_a_store_whose_updates_have_no_conditions() {
    let storage = Storage::over(Arc::new(Forgetful(InMemory::new())), "memory://forgetful");
    let error = storage.probe_update().await.unwrap_err();
    assert!(error.to_string().contains("it let an update with an old ETag succeed"), "{error}");
}

#[tokio::test]
async fn a_probe_says_that_storage_is_full_or_read_only() {
    for f in Fixture::both() {
        f.faults.plan(Op::Put, "", Fault::Fails(io::ErrorKind::StorageFull));
        assert!(matches!(f.storage.probe().await, Err(StorageError::Full { .. })));
    }
    let f = Fixture::local();
    f.faults.plan(Op::Copy, "", Fault::Fails(io::ErrorKind::ReadOnlyFilesystem));
    assert!(matches!(f.storage.probe().await, Err(StorageError::ReadOnly { .. })));
    assert_eq!(f.names().await, Vec::<String>::new());
}

/// T23, I7: a store without create-if-absent is refused.
#[tokio::test]
async fn a_probe_refuses_a_store_that_overwrites() {
    let forgetful = Forgetful(InMemory::new());
    let storage = Storage::over(Arc::new(forgetful), "memory://forgetful");
    let error = storage.probe().await.unwrap_err();
    assert!(matches!(error, StorageError::Unsuitable { .. }), "{error:?}");
    assert!(error.to_string().contains("memory://forgetful cannot be used"), "{error}");
}

/// A store that takes every conditional put for an ordinary one, as some S3 look-alikes do.
#[derive(Debug)]
struct Forgetful(InMemory);

impl fmt::Display for Forgetful {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Forgetful")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Forgetful {
    async fn put_opts(&self, key: &Path, payload: PutPayload, _: PutOptions) -> StoreResult<PutResult> {
        self.0.put_opts(key, payload, PutOptions::default()).await
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.0.get_opts(key, options).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        self.0.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.0.copy_opts(from, to, options).await
    }
}
