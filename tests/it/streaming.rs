//! T46: files are streamed, whatever their size. An object of one gibibyte is fetched from, published to and read back from a
//! store that makes the bytes up and throws them away, by a process of its own whose resident memory is looked at.

use std::fmt;
use std::fs::File;
use std::path::Path as FsPath;
use std::sync::Arc as Shared;
use std::sync::atomic::{AtomicU64, Ordering};

use arc::partition::{DataFile, FileKind, PartitionId};
use arc::storage::Storage;
use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, Extensions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use crate::support::{PARTITION, again, block_on};

const VICTIM: &str = "ARC_TEST_STREAMS";
const SIZE: u64 = 1 << 30;
const CHUNK: usize = 1 << 20;

/// What the process may have in memory at most: itself with DuckDB's library, and some parts of a file; far from the file.
const MOST_RESIDENT_BYTES: u64 = 192 << 20;

/// One object that goes on for a gibibyte, and room for any other.
#[derive(Debug, Default)]
struct Endless {
    received: Shared<AtomicU64>,
}

impl fmt::Display for Endless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("endless")
    }
}

fn meta(location: &Path) -> ObjectMeta {
    let etag = Some("e".to_owned());
    ObjectMeta {
        location: location.clone(),
        last_modified: DateTime::UNIX_EPOCH,
        size: SIZE,
        e_tag: etag,
        version: None,
    }
}

#[async_trait]
impl ObjectStore for Endless {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        panic!("a large file is not put in one piece")
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(Upload(Shared::clone(&self.received))))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if location.as_ref().ends_with("new.parquet") && options.head {
            return Err(Error::NotFound { path: location.to_string(), source: "nobody put it there".into() });
        }
        let chunks = (0..SIZE / CHUNK as u64).map(|n| Ok(Bytes::from(vec![n.to_le_bytes()[0]; CHUNK])));
        let payload = GetResultPayload::Stream(stream::iter(chunks).boxed());
        Ok(GetResult {
            payload,
            meta: meta(location),
            range: 0..SIZE,
            attributes: Attributes::new(),
            extensions: Extensions::default(),
        })
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        unreachable!("nothing is deleted")
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        unreachable!("nothing is listed")
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        unreachable!("nothing is listed")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!("nothing is copied")
    }
}

/// Counts what comes.
#[derive(Debug)]
struct Upload(Shared<AtomicU64>);

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let received = Shared::clone(&self.0);
        Box::pin(async move {
            received.fetch_add(data.content_length() as u64, Ordering::SeqCst);
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        Ok(PutResult { e_tag: Some("e".to_owned()), version: None, extensions: Extensions::default() })
    }

    async fn abort(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The most memory that this process has had resident, in bytes.
fn most_resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Not a test of its own: what the measured process runs.
#[test]
fn streams_in_a_process_of_its_own() {
    let Some(folder) = again::asked(VICTIM) else { return };
    let store = Endless::default();
    let received = Shared::clone(&store.received);
    let storage = Storage::over(Shared::new(store), "endless");
    let partition: PartitionId = PARTITION.parse().unwrap();
    let file = DataFile {
        name: "large.parquet".to_owned(),
        size_bytes: SIZE,
        etag: "e".to_owned(),
        last_modified: DateTime::UNIX_EPOCH,
        kind: FileKind::Raw,
    };
    let local = FsPath::new(&folder).join("fetched");
    block_on(async {
        storage.fetch(&partition, &file, &local).await.unwrap();
        assert_eq!(local.metadata().unwrap().len(), SIZE);
        let files = [(local.clone(), "new.parquet".to_owned())];
        storage
            .prepare(&partition, "attempt", &files, &tokio_util::sync::CancellationToken::new())
            .await
            .unwrap()
            .complete()
            .await
            .unwrap();
        assert_eq!(received.load(Ordering::SeqCst), SIZE);
        assert_eq!(storage.read_back(&partition, "large.parquet").await.unwrap().size_bytes, SIZE);
    });
    let resident = most_resident_bytes();
    println!("{resident} bytes resident at most");
    assert!(resident < MOST_RESIDENT_BYTES, "{resident} bytes for a file of {SIZE}");
    // The measure can fail.
    let whole = std::hint::black_box(vec![1_u8; usize::try_from(SIZE / 2).unwrap()]);
    assert!(most_resident_bytes() > MOST_RESIDENT_BYTES, "{}", whole.len());
    File::create(FsPath::new(&folder).join("done")).unwrap();
}

/// T46.
#[test]
#[cfg(target_os = "linux")]
fn a_gibibyte_is_fetched_published_and_read_back_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let part = "streaming::streams_in_a_process_of_its_own";
    let output = again::child(part).env(VICTIM, folder.path()).output().unwrap();
    assert!(output.status.success() && folder.path().join("done").exists(), "{output:#?}");
    print!("{}", String::from_utf8_lossy(&output.stdout));
}
