//! T46: files pass through memory in small pieces, whatever their size.

use std::sync::atomic::AtomicUsize;

use object_store::{GetResultPayload, UploadPart};
use tokio_util::sync::CancellationToken;

use super::*;

const CHUNK: usize = 64 * 1024;
const CHUNKS: usize = 1024;

/// What a store sees of the memory of its client.
#[derive(Debug, Default)]
struct Held {
    now: AtomicUsize,
    most: AtomicUsize,
    aborted: AtomicUsize,
    /// Cancelled when this many parts have come, and then no part comes to its end.
    stop_at: Option<(usize, CancellationToken)>,
    parts: AtomicUsize,
}

impl Held {
    fn take(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    fn give_back(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A piece of an object that says when it is gone.
struct Piece(Arc<Held>);

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        static CONTENT: [u8; CHUNK] = [7; CHUNK];
        &CONTENT
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// A store with one large object, `large.parquet`, that comes in pieces, and that takes its time with parts of uploads.
#[derive(Debug)]
struct Pieces {
    inner: InMemory,
    held: Arc<Held>,
}

impl Pieces {
    fn storage(held: Held) -> (Storage, Arc<Held>) {
        let held = Arc::new(held);
        let store = Self { inner: InMemory::new(), held: Arc::clone(&held) };
        (Storage::over(Arc::new(store), "memory://pieces"), held)
    }
}

impl fmt::Display for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pieces")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Pieces {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> StoreResult<PutResult> {
        self.inner.put_opts(key, payload, options).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> StoreResult<Box<dyn MultipartUpload>> {
        Ok(Box::new(SlowUpload(Arc::clone(&self.held))))
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> StoreResult<GetResult> {
        if options.head || !key.as_ref().ends_with("large.parquet") {
            return self.inner.get_opts(key, options).await;
        }
        let held = Arc::clone(&self.held);
        let chunks = (0..CHUNKS).map(move |_| {
            held.take();
            Ok(Bytes::from_owner(Piece(Arc::clone(&held))))
        });
        let size = (CHUNK * CHUNKS) as u64;
        let meta = ObjectMeta {
            location: key.clone(),
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size,
            e_tag: Some("large".into()),
            version: None,
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::iter(chunks).boxed()),
            meta,
            range: 0..size,
            attributes: object_store::Attributes::default(),
            extensions: object_store::Extensions::default(),
        })
    }

    fn delete_stream(&self, keys: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct SlowUpload(Arc<Held>);

#[async_trait::async_trait]
impl MultipartUpload for SlowUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let held = Arc::clone(&self.0);
        held.take();
        let number = held.parts.fetch_add(1, Ordering::SeqCst) + 1;
        Box::pin(async move {
            if let Some((last, stop)) = &held.stop_at
                && number >= *last
            {
                stop.cancel();
                futures::future::pending::<()>().await;
            }
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            drop(data);
            held.give_back();
            Ok(())
        })
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        Ok(PutResult { e_tag: None, version: None, extensions: object_store::Extensions::default() })
    }

    async fn abort(&mut self) -> StoreResult<()> {
        self.0.aborted.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test]
async fn a_large_file_is_fetched_and_read_back_a_few_pieces_at_a_time() {
    let (storage, held) = Pieces::storage(Held::default());
    let scratch = tempfile::tempdir().unwrap();
    let file = DataFile {
        name: "large.parquet".into(),
        size_bytes: (CHUNK * CHUNKS) as u64,
        etag: "large".into(),
        last_modified: chrono::DateTime::UNIX_EPOCH,
        kind: crate::partition::FileKind::Raw,
    };
    let to = scratch.path().join("fetched");
    storage.fetch(&hour(), &file, &to).await.unwrap();
    assert_eq!(std::fs::metadata(&to).unwrap().len(), file.size_bytes);
    let read_back = storage.read_back(&hour(), "large.parquet").await.unwrap();
    assert_eq!((read_back.size_bytes, read_back.tail.len()), (file.size_bytes, TAIL_BYTES));
    assert!(held.most.load(Ordering::SeqCst) <= 2, "{held:?}");
    assert_eq!(held.now.load(Ordering::SeqCst), 0);
}

/// A file of so many parts, all zeros: it takes no room on disk.
fn file_of_parts(scratch: &TempDir, parts: u64) -> PathBuf {
    let path = scratch.path().join("upload");
    std::fs::File::create(&path).unwrap().set_len(parts * MIN_PART_BYTES).unwrap();
    path
}

#[tokio::test]
async fn an_upload_has_a_bounded_number_of_parts_in_memory() {
    let (storage, held) = Pieces::storage(Held::default());
    let scratch = tempfile::tempdir().unwrap();
    let files = [(file_of_parts(&scratch, 12), "out.parquet".to_owned())];
    let publication = storage.prepare(&hour(), "job", &files, &CancellationToken::new()).await.unwrap();
    assert_eq!(held.parts.load(Ordering::SeqCst), 12);
    assert_eq!(held.most.load(Ordering::SeqCst), PARTS_IN_FLIGHT);
    publication.abort().await;
    assert_eq!(held.aborted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_upload_of_a_cancelled_job_stops_at_once_and_is_given_up() {
    let stop = CancellationToken::new();
    let (storage, held) = Pieces::storage(Held { stop_at: Some((3, stop.clone())), ..Held::default() });
    let scratch = tempfile::tempdir().unwrap();
    let files = [(file_of_parts(&scratch, 12), "out.parquet".to_owned())];
    let error = storage.prepare(&hour(), "job", &files, &stop).await.unwrap_err();
    assert!(matches!(error, WriteError::NotWritten(_)), "{error:?}");
    assert!(held.parts.load(Ordering::SeqCst) <= 2 + PARTS_IN_FLIGHT, "{held:?}");
    assert_eq!(held.aborted.load(Ordering::SeqCst), 1);
}
