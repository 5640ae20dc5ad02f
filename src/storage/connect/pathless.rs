//! Keys that are no path: with an empty segment (`db//cpu/a.parquet`), `.` or `..` as a segment, or a control character.
//!
//! A bucket takes any text as a key. The client takes paths only, and fails a whole listing over one key that is none, so
//! that a single odd upload would keep a measurement from ever being compacted. So such entries are taken out of the pages of
//! listings before the client reads them.
//!
//! What must hold:
//!
//! - Nothing else of an answer changes, and no request does. An object behind such a key is never read, counted or deleted.
//! - No key passes for another one. The client would take `a.parquet/` for `a.parquet`, so what ends in a slash (the marker
//!   of a folder, made in a console) is taken out as well, without a word.
//! - Nobody has to wonder: each key is in the log once, and among what the next scan did not recognise.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpResponseBody, HttpService, ReqwestConnector,
};
use object_store::path::Path;
use tracing::warn;

/// Keys that are remembered; beyond that they are left out without a word.
const MAX_KEYS: usize = 1000;

/// The entries of a page, and what holds the name in them: of S3 and Google Cloud Storage, then of Azure.
const ENTRIES: [(&str, &str, Names); 4] = [
    ("Contents", "Key", Names::Object),
    ("CommonPrefixes", "Prefix", Names::Folder),
    ("Blob", "Name", Names::Object),
    ("BlobPrefix", "Name", Names::Folder),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Object,
    /// Ends in a slash.
    Folder,
}

/// What was taken out of the listings of a bucket.
#[derive(Debug, Default)]
pub(in crate::storage) struct Pathless {
    /// Since somebody last asked.
    met: Mutex<BTreeSet<String>>,
    /// Those that are in the log.
    told: Mutex<BTreeSet<String>>,
}

impl Pathless {
    /// The keys that were met since the last call, from the root of the bucket.
    pub(in crate::storage) fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut lock(&self.met))
    }

    fn meet(&self, key: String) {
        let mut told = lock(&self.told);
        if told.len() < MAX_KEYS && told.insert(key.clone()) {
            warn!(target: "storage.compaction", key,
                "The key {key:?} is no path (an empty segment, \".\", \"..\" or a control character): the object is left alone");
        }
        let mut met = lock(&self.met);
        if met.len() < MAX_KEYS {
            met.insert(key);
        }
    }

    /// The page without what is no path; `None` when there is nothing to take out.
    fn without(&self, page: &str) -> Option<String> {
        let mut cut = Vec::new();
        for entry in ENTRIES {
            self.look_for(entry, page, &mut cut);
        }
        if cut.is_empty() {
            return None;
        }
        cut.sort_by_key(|range| range.start);
        let mut kept = String::with_capacity(page.len());
        let mut from = 0;
        for range in cut {
            kept.push_str(&page[from..range.start]);
            from = range.end;
        }
        kept.push_str(&page[from..]);
        Some(kept)
    }

    fn look_for(&self, (element, name, names): (&str, &str, Names), page: &str, cut: &mut Vec<Range<usize>>) {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        let mut from = 0;
        while let Some(start) = page[from..].find(&open).map(|at| from + at)
            && let Some(end) = page[start..].find(&close).map(|at| start + at + close.len())
        {
            from = end;
            let Some(key) = inner(&page[start..end], name) else { continue };
            match Verdict::on(&key, names) {
                Verdict::Path => {}
                Verdict::Marker => cut.push(start..end),
                Verdict::NoPath => {
                    cut.push(start..end);
                    self.meet(key.into_owned());
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Path,
    Marker,
    NoPath,
}

impl Verdict {
    fn on(key: &str, names: Names) -> Self {
        let own = key.strip_suffix('/').unwrap_or(key);
        // The client strips slashes at both ends.
        let is_path = !own.is_empty() && Path::parse(own).is_ok_and(|path| path.as_ref() == own);
        match names {
            _ if !is_path => Self::NoPath,
            Names::Object if key.ends_with('/') => Self::Marker,
            Names::Object | Names::Folder => Self::Path,
        }
    }
}

/// The text of the first element of this name.
fn inner<'a>(entry: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let (_, rest) = entry.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| unescaped(text))
}

/// A text of XML as it is meant. What is no entity stays as it is.
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return text.into();
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        let meant = after.split_once(';').and_then(|(entity, next)| Some((entity_char(entity)?, next)));
        if let Some((meant, next)) = meant {
            plain.push(meant);
            rest = next;
        } else {
            plain.push('&');
            rest = after;
        }
    }
    plain.push_str(rest);
    plain.into()
}

fn entity_char(entity: &str) -> Option<char> {
    match entity {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = entity.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)
        }
    }
}

/// Connects like the client itself, with the listings looked through.
#[derive(Debug)]
pub(super) struct Connector(pub(super) Arc<Pathless>);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Looking { client, pathless: Arc::clone(&self.0) }))
    }
}

#[derive(Debug)]
struct Looking {
    client: HttpClient,
    pathless: Arc<Pathless>,
}

fn is_listing(request: &HttpRequest) -> bool {
    let query = request.uri().query().unwrap_or_default();
    request.method() == "GET" && query.split('&').any(|part| part == "list-type=2" || part == "comp=list")
}

#[async_trait]
impl HttpService for Looking {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_listing = is_listing(&request);
        let response = self.client.execute(request).await?;
        if !is_listing || !response.status().is_success() {
            return Ok(response);
        }
        let (mut parts, body) = response.into_parts();
        let page = body.bytes().await?;
        let without = std::str::from_utf8(&page).ok().and_then(|page| self.pathless.without(page));
        let page = match without {
            Some(changed) => {
                parts.headers.remove("content-length");
                Bytes::from(changed)
            }
            None => page,
        };
        let body = Full::new(page).map_err(|never| match never {});
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(page: &str) -> (Option<String>, Vec<String>) {
        let pathless = Pathless::default();
        (pathless.without(page), pathless.take().into_iter().collect())
    }

    #[test]
    fn a_page_of_paths_stays_as_it_is() {
        let page = "<R><Prefix>a//</Prefix><Contents><Key>a/b&amp;c d.parquet</Key><Size>1</Size></Contents>\
                    <CommonPrefixes><Prefix>a/b/</Prefix></CommonPrefixes></R>";
        assert_eq!(taken(page), (None, vec![]));
        assert_eq!(taken("<EnumerationResults><Blobs><Blob><Name>a/b</Name></Blob></Blobs>"), (None, vec![]));
    }

    #[test]
    fn what_is_no_path_is_taken_out_and_named() {
        for key in ["a//b", "/a", "a/./b", "..", "a/../b", "a/b&#10;c", "a//", "/", "a/&#x1;"] {
            let entry = |key: &str| format!("<Contents><Key>{key}</Key><ETag>&quot;1&quot;</ETag></Contents>");
            let page = format!("<R>{}{}{}</R>", entry("a"), entry(key), entry("z"));
            let (without, named) = taken(&page);
            assert_eq!(without.unwrap(), format!("<R>{}{}</R>", entry("a"), entry("z")), "{key}");
            assert_eq!(named, [unescaped(key)]);
        }
        let page = "<CommonPrefixes><Prefix>db//</Prefix></CommonPrefixes><CommonPrefixes><Prefix>db/</Prefix></CommonPrefixes>";
        let (without, named) = taken(page);
        assert_eq!(without.unwrap(), "<CommonPrefixes><Prefix>db/</Prefix></CommonPrefixes>");
        assert_eq!(named, ["db//"]);
        let page = "<Blobs><BlobPrefix><Name>a//</Name></BlobPrefix><Blob><Name>a//b</Name></Blob><Blob><Name>c</Name></Blob></Blobs>";
        let (without, named) = taken(page);
        assert_eq!(without.unwrap(), "<Blobs><Blob><Name>c</Name></Blob></Blobs>");
        assert_eq!(named, ["a//", "a//b"]);
    }

    /// It would be taken for the file of that name.
    #[test]
    fn the_marker_of_a_folder_is_taken_out_without_a_word() {
        let page = "<Contents><Key>a/b.parquet/</Key></Contents>";
        assert_eq!(taken(page), (Some(String::new()), vec![]));
    }

    #[test]
    fn entities_are_what_they_stand_for() {
        assert_eq!(unescaped("a&amp;b&lt;c&gt;&quot;&apos;&#65;&#x42;"), "a&b<c>\"'AB");
        for odd in ["&", "a & b", "&unknown;", "&#xD800;", "&#;"] {
            assert_eq!(unescaped(odd), odd);
        }
    }
}
