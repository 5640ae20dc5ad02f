//! A fake of Google Cloud Storage's XML API, as far as its client uses it here: there is no server to be had that can be
//! started by a test. It says nothing about Google's service; it shows that the client is wired right.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, Utc};

/// Objects on a page of a listing: few, so that pages are turned.
const PAGE: usize = 50;

#[derive(Debug, Default)]
pub struct FakeGcs {
    buckets: BTreeMap<String, BTreeMap<String, Object>>,
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    /// Numbers generations and uploads.
    number: u64,
}

#[derive(Debug, Clone)]
struct Object {
    content: Bytes,
    generation: u64,
    modified: DateTime<Utc>,
}

impl Object {
    fn etag(&self) -> String {
        format!("\"{}-{}\"", &blake3::hash(&self.content).to_hex()[..16], self.generation)
    }
}

type Shared = Arc<Mutex<FakeGcs>>;

impl FakeGcs {
    /// Starts it on a port of its own, for as long as the process lives; its address.
    pub fn start() -> String {
        let (sender, address) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                sender.send(listener.local_addr().unwrap().to_string()).unwrap();
                let router = Router::new().fallback(answer).with_state(Shared::default());
                let router = router.layer(axum::extract::DefaultBodyLimit::disable());
                axum::serve(listener, router).await.unwrap();
            });
        });
        address.recv().unwrap()
    }

    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }
}

struct Request {
    method: Method,
    bucket: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    body: Bytes,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn asks(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }
}

async fn answer(State(fake): State<Shared>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let path = uri.path().trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    let query = uri.query().unwrap_or_default().split('&').filter(|part| !part.is_empty());
    let query = query.map(|part| part.split_once('=').unwrap_or((part, "")));
    let request = Request {
        method,
        bucket: decoded(bucket),
        key: decoded(key),
        query: query.map(|(name, value)| (decoded(name), decoded(&value.replace('+', " ")))).collect(),
        headers,
        body,
    };
    handle(&mut fake.lock().unwrap(), &request)
}

fn handle(fake: &mut FakeGcs, request: &Request) -> Response {
    let Request { method, bucket, key, .. } = request;
    if method == Method::PUT && key.is_empty() {
        fake.buckets.entry(bucket.clone()).or_default();
        return StatusCode::OK.into_response();
    }
    if !fake.buckets.contains_key(bucket) {
        return refusal(StatusCode::NOT_FOUND, "NoSuchBucket");
    }
    match (method.as_str(), request.asks("uploadId")) {
        ("GET", _) if key.is_empty() => list(&fake.buckets[bucket], request),
        ("GET" | "HEAD", _) => get(&fake.buckets[bucket], request),
        ("PUT", Some(upload)) => put_part(fake, upload, request),
        ("PUT", None) => put(fake, request, request.body.clone()),
        ("POST", None) if request.asks("uploads").is_some() => {
            let upload = format!("upload-{}", fake.next());
            fake.uploads.insert(upload.clone(), BTreeMap::new());
            xml(&format!(
                "<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            ))
        }
        ("POST", Some(upload)) => complete(fake, upload, request),
        ("DELETE", Some(upload)) => match fake.uploads.remove(upload) {
            Some(_) => StatusCode::NO_CONTENT.into_response(),
            None => refusal(StatusCode::NOT_FOUND, "NoSuchUpload"),
        },
        ("DELETE", None) => match fake.buckets.get_mut(bucket).and_then(|objects| objects.remove(key)) {
            Some(_) => StatusCode::NO_CONTENT.into_response(),
            None => refusal(StatusCode::NOT_FOUND, "NoSuchKey"),
        },
        _ => refusal(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
    }
}

fn put(fake: &mut FakeGcs, request: &Request, content: Bytes) -> Response {
    let there = fake.buckets[&request.bucket].get(&request.key).map_or(0, |object| object.generation);
    if request.header("x-goog-if-generation-match").is_some_and(|wanted| wanted != there.to_string()) {
        return refusal(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
    }
    #[allow(clippy::disallowed_methods, reason = "a server has the machine's clock")]
    let object = Object { content, generation: fake.next(), modified: Utc::now() };
    let headers = [("etag", object.etag()), ("x-goog-generation", object.generation.to_string())];
    fake.buckets.get_mut(&request.bucket).unwrap().insert(request.key.clone(), object);
    (headers, ()).into_response()
}

fn put_part(fake: &mut FakeGcs, upload: &str, request: &Request) -> Response {
    let Some(parts) = fake.uploads.get_mut(upload) else { return refusal(StatusCode::NOT_FOUND, "NoSuchUpload") };
    let number = request.asks("partNumber").unwrap().parse().unwrap();
    parts.insert(number, request.body.clone());
    ([("etag", format!("\"part-{number}\""))], ()).into_response()
}

fn complete(fake: &mut FakeGcs, upload: &str, request: &Request) -> Response {
    let Some(parts) = fake.uploads.remove(upload) else { return refusal(StatusCode::NOT_FOUND, "NoSuchUpload") };
    let content: Vec<u8> = parts.into_values().flatten().collect();
    let answer = put(fake, request, content.into());
    if !answer.status().is_success() {
        return answer;
    }
    let etag = answer.headers()["etag"].to_str().unwrap().to_owned();
    let generation = answer.headers()["x-goog-generation"].to_str().unwrap().to_owned();
    let text = format!("<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>");
    ([("x-goog-generation", generation)], text).into_response()
}

fn get(objects: &BTreeMap<String, Object>, request: &Request) -> Response {
    let Some(object) = objects.get(&request.key) else { return refusal(StatusCode::NOT_FOUND, "NoSuchKey") };
    if request.header("if-match").is_some_and(|wanted| wanted != object.etag()) {
        return refusal(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
    }
    let size = object.content.len();
    let range = request.header("range").and_then(|range| {
        let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
        let start: usize = start.parse().ok()?;
        Some(start..end.parse::<usize>().map_or(size, |end| size.min(end + 1)))
    });
    let mut headers = vec![
        ("etag", object.etag()),
        ("x-goog-generation", object.generation.to_string()),
        ("last-modified", object.modified.to_rfc2822().replace("+0000", "GMT")),
    ];
    let (status, content) = match range {
        Some(range) if range.start >= range.end => return refusal(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange"),
        Some(range) => {
            headers.push(("content-range", format!("bytes {}-{}/{size}", range.start, range.end - 1)));
            (StatusCode::PARTIAL_CONTENT, object.content.slice(range))
        }
        None => (StatusCode::OK, object.content.clone()),
    };
    headers.push(("content-length", content.len().to_string()));
    let content = if request.method == Method::HEAD { Bytes::new() } else { content };
    let mut response = (status, content).into_response();
    for (name, value) in headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

fn list(objects: &BTreeMap<String, Object>, request: &Request) -> Response {
    let prefix = request.asks("prefix").unwrap_or_default();
    let after = request.asks("continuation-token").or(request.asks("start-after")).unwrap_or_default();
    let mut text = String::from("<ListBucketResult>");
    let mut folders = std::collections::BTreeSet::new();
    let mut found = objects.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after).peekable();
    let mut last = "";
    for (key, object) in found.by_ref().take(PAGE) {
        last = key;
        let rest = &key[prefix.len()..];
        if let (Some("/"), Some((folder, _))) = (request.asks("delimiter"), rest.split_once('/')) {
            folders.insert(format!("{prefix}{folder}/"));
            continue;
        }
        write!(
            text,
            "<Contents><Key>{}</Key><Size>{}</Size><LastModified>{}</LastModified><ETag>{}</ETag></Contents>",
            escaped(key),
            object.content.len(),
            object.modified.to_rfc3339_opts(SecondsFormat::Millis, true),
            escaped(&object.etag()),
        )
        .unwrap();
    }
    for folder in folders {
        write!(text, "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escaped(&folder)).unwrap();
    }
    if found.peek().is_some() {
        write!(text, "<NextContinuationToken>{}</NextContinuationToken>", escaped(last)).unwrap();
    }
    text.push_str("</ListBucketResult>");
    xml(&text)
}

fn xml(text: &str) -> Response {
    ([("content-type", "application/xml")], text.to_owned()).into_response()
}

fn refusal(status: StatusCode, code: &str) -> Response {
    (status, format!("<?xml version='1.0'?><Error><Code>{code}</Code><Message>fake</Message></Error>")).into_response()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            decoded.push(byte);
            at += 3;
        } else {
            decoded.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(decoded).unwrap()
}
