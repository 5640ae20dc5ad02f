//! A bucket on loopback that speaks as much of S3 as a reader needs, and answers late.
//!
//! It stands for an object store nearby: every request costs [`LATENCY`], bandwidth costs nothing. It counts what it is asked
//! for. Deliberately not here: signatures, writes, errors.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Response, StatusCode, Uri, header};
use axum::serve::ListenerExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// What is added to every request.
pub const LATENCY: Duration = Duration::from_millis(20);

/// Keys in one page of a listing, as S3 has it.
const PAGE: usize = 1000;

const NAME: &str = "bucket";
const WRITTEN: &str = "Wed, 08 Oct 2025 15:00:00 GMT";

/// Serves a folder until it is dropped.
#[derive(Debug)]
pub struct Bucket {
    address: String,
    counted: Arc<Counted>,
    /// Of its own, so that its work is not done by the reader's threads.
    _runtime: Runtime,
}

#[derive(Debug, Default)]
struct Counted {
    requests: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Debug, Clone)]
struct Served {
    folder: PathBuf,
    counted: Arc<Counted>,
}

#[derive(Debug, Deserialize)]
struct Listing {
    prefix: Option<String>,
    #[serde(rename = "continuation-token")]
    after: Option<String>,
}

impl Bucket {
    pub fn serve(folder: &Path) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?.to_string();
        let counted = Arc::new(Counted::default());
        let served = Served { folder: folder.to_owned(), counted: Arc::clone(&counted) };
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("a socket that was just accepted"));
        let app = Router::new().fallback(answer).with_state(served);
        runtime.spawn(async move { axum::serve(listener, app).await });
        Ok(Self { address, counted, _runtime: runtime })
    }

    /// A client that has no connection yet.
    pub fn client(&self) -> anyhow::Result<AmazonS3> {
        AmazonS3Builder::new()
            .with_endpoint(format!("http://{}", self.address))
            .with_allow_http(true)
            .with_bucket_name(NAME)
            .with_region("us-east-1")
            .with_access_key_id("bench")
            .with_secret_access_key("bench")
            .build()
            .context("make a client of S3")
    }

    /// Requests answered, and bytes of their bodies, so far.
    pub fn counted(&self) -> (u64, u64) {
        (self.counted.requests.load(Ordering::SeqCst), self.counted.bytes.load(Ordering::SeqCst))
    }
}

/// A listing when it is asked about the bucket itself, otherwise an object or a range of it.
async fn answer(
    State(served): State<Served>,
    uri: Uri,
    Query(listing): Query<Listing>,
    headers: HeaderMap,
) -> Response<Body> {
    tokio::time::sleep(LATENCY).await;
    let key = uri.path().trim_start_matches('/').trim_start_matches(NAME).trim_start_matches('/').to_owned();
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok()).map(ToOwned::to_owned);
    let (folder, counted) = (served.folder.clone(), served.counted);
    let answer = tokio::task::spawn_blocking(move || {
        if key.is_empty() { list(&folder, &listing) } else { object(&folder.join(key), range.as_deref()) }
    });
    let (response, bytes) = match answer.await.expect("reading a file does not panic") {
        Ok((response, body)) => (response, body),
        Err(error) => (Response::builder().status(StatusCode::NOT_FOUND), error.to_string().into_bytes()),
    };
    counted.requests.fetch_add(1, Ordering::SeqCst);
    counted.bytes.fetch_add(bytes.len() as u64, Ordering::SeqCst);
    response.body(Body::from(bytes)).expect("valid headers")
}

type Answer = (axum::http::response::Builder, Vec<u8>);

fn object(path: &Path, range: Option<&str>) -> io::Result<Answer> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let (first, end) = range.and_then(|range| parse(range, size)).unwrap_or((0, size));
    let length = usize::try_from(end - first).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, first)?;
    let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let response = Response::builder()
        .status(status)
        .header(header::CONTENT_RANGE, format!("bytes {first}-{}/{size}", end.saturating_sub(1)))
        .header(header::ETAG, format!("\"{size}\""))
        .header(header::LAST_MODIFIED, WRITTEN);
    Ok((response, bytes))
}

/// `bytes=first-last` as first and end.
fn parse(range: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let first: u64 = first.parse().ok()?;
    let end = last.parse().map_or(size, |last: u64| (last + 1).min(size));
    (first <= end).then_some((first, end))
}

fn list(folder: &Path, listing: &Listing) -> io::Result<Answer> {
    let mut keys = Vec::new();
    collect(folder, "", listing.prefix.as_deref().unwrap_or_default(), &mut keys)?;
    keys.sort();
    let after = listing.after.as_deref().unwrap_or_default();
    let mut rest = keys.into_iter().filter(|(key, _)| key.as_str() > after);
    let page: Vec<(String, u64)> = rest.by_ref().take(PAGE).collect();
    let next =
        rest.next().and(page.last()).map(|(key, _)| format!("<NextContinuationToken>{key}</NextContinuationToken>"));
    let contents: Vec<String> = page
        .iter()
        .map(|(key, size)| {
            format!(
                "<Contents><Key>{key}</Key><Size>{size}</Size><ETag>\"{size}\"</ETag>\
                 <LastModified>2025-10-08T15:00:00.000Z</LastModified></Contents>"
            )
        })
        .collect();
    let text = format!(
        "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>{}</IsTruncated>{}{}</ListBucketResult>",
        next.is_some(),
        next.unwrap_or_default(),
        contents.concat()
    );
    Ok((Response::builder().header(header::CONTENT_TYPE, "application/xml"), text.into_bytes()))
}

/// The keys that begin with `prefix`, and their sizes.
fn collect(folder: &Path, below: &str, prefix: &str, keys: &mut Vec<(String, u64)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let key = format!("{below}{}", entry.file_name().display());
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            collect(&entry.path(), &format!("{key}/"), prefix, keys)?;
        } else if key.starts_with(prefix) {
            keys.push((key, metadata.len()));
        }
    }
    Ok(())
}
