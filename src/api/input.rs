//! What a client may send: query parameters, path parameters and bodies, read strictly.
//!
//! What must hold: whatever bytes come in, the answer to something that cannot be used is a 4xx that names it. Nothing is
//! guessed: an unknown parameter, one given twice, a number out of range or text that is not UTF-8 is refused and never
//! replaced by a default.

use std::fmt;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::http::header;
use axum::http::request::Parts;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};

use super::error::{ApiError, shown};
use crate::partition::{Hour, PartitionId};

/// Bytes of a body that are read.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Bytes of a name. Object stores allow keys of 1024 bytes.
const MAX_NAME_BYTES: usize = 1024;

/// The query parameters of a route. `T` denies unknown fields.
#[derive(Debug)]
pub struct Query<T>(pub T);

/// For routes without any.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParameters {}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = parts.uri.query().unwrap_or_default();
        check_encoding(query)?;
        extract::Query::try_from_uri(&parts.uri)
            .map(|extract::Query(value)| Self(value))
            .map_err(|rejection| ApiError::BadRequest(format!("query parameters: {}", root(&rejection))))
    }
}

/// The path parameters of a route.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match extract::Path::from_request_parts(parts, state).await {
            Ok(extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(ApiError::BadRequest(format!("path: {}", rejection.body_text()))),
        }
    }
}

/// An optional JSON body. No body is `T::default()`.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let is_json = match request.headers().get(header::CONTENT_TYPE) {
            None => true,
            Some(value) => value.to_str().is_ok_and(|value| {
                let essence = value.split(';').next().unwrap_or_default().trim();
                essence.eq_ignore_ascii_case("application/json")
            }),
        };
        let bytes = Bytes::from_request(request, state).await.map_err(unread)?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        if !is_json {
            return Err(ApiError::BadRequest("the body must be JSON: send content-type: application/json".to_owned()));
        }
        match Json::<T>::from_bytes(&bytes) {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection @ extract::rejection::JsonRejection::JsonDataError(_)) => {
                Err(ApiError::InvalidBody(format!("body: {}", root(&rejection))))
            }
            Err(rejection) => Err(ApiError::BadRequest(format!("the body is not JSON: {}", root(&rejection)))),
        }
    }
}

fn unread(rejection: BytesRejection) -> ApiError {
    match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => ApiError::TooLarge(format!(
            "the body is larger than {MAX_BODY_BYTES} bytes; send only what the route needs"
        )),
        other => ApiError::BadRequest(format!("the body could not be read: {}", other.body_text())),
    }
}

/// The error below axum's own words.
fn root(rejection: &(dyn std::error::Error + 'static)) -> String {
    rejection.source().map_or_else(|| rejection.to_string(), ToString::to_string)
}

/// Percent-encoding must be whole, and what it stands for UTF-8 without NUL. The parser behind would put in a replacement
/// character and go on.
fn check_encoding(query: &str) -> Result<(), ApiError> {
    let refuse = |what: &str| Err(ApiError::BadRequest(format!("query parameters: {what}: {}", shown(query))));
    let mut decoded = Vec::with_capacity(query.len());
    let mut bytes = query.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return refuse("% must be followed by two hexadecimal digits");
        };
        decoded.push(u8::try_from(high * 16 + low).expect("two hexadecimal digits are a byte"));
    }
    match std::str::from_utf8(&decoded) {
        Err(_) => refuse("not UTF-8"),
        Ok(text) if text.contains('\0') => refuse("a NUL character"),
        Ok(_) => Ok(()),
    }
}

/// How many entries of a list are wanted: 1 to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit<const DEFAULT: usize, const MAX: usize>(pub usize);

impl<const DEFAULT: usize, const MAX: usize> Default for Limit<DEFAULT, MAX> {
    fn default() -> Self {
        Self(DEFAULT)
    }
}

impl<'de, const DEFAULT: usize, const MAX: usize> Deserialize<'de> for Limit<DEFAULT, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse() {
            Ok(number) if (1..=MAX).contains(&number) && text.bytes().all(|b| b.is_ascii_digit()) => Ok(Self(number)),
            _ => Err(D::Error::custom(format!("must be a number from 1 to {MAX}, not {}", shown(&text)))),
        }
    }
}

/// The name of a database or a measurement: one that could be a folder of storage.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Name(String);

impl Name {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// # Errors
    /// What is wrong with it.
    pub fn new(text: String) -> Result<Self, String> {
        if text.len() > MAX_NAME_BYTES {
            return Err(format!("the name has {} bytes, at most {MAX_NAME_BYTES} are possible", text.len()));
        }
        let hour = Hour::from_ymdh(2000, 1, 1, 0).expect("there was such an hour");
        match PartitionId::new(&text, "name", hour) {
            Ok(_) => Ok(Self(text)),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_must_be_whole_percent_encoding_of_utf8() {
        for fine in ["", "a=b", "a=%C3%A4&b=+", "a=ä"] {
            assert!(check_encoding(fine).is_ok(), "{fine}");
        }
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff", "a=%C3", "a=%00", "%+1"] {
            assert!(check_encoding(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_no_folder_can_have_are_refused() {
        for bad in ["", ".", "..", "a/b", "a\0b", "_compaction", &"x".repeat(2000)] {
            assert!(Name::new(bad.to_owned()).is_err(), "{}", shown(bad));
        }
        assert!(Name::new("größe".to_owned()).is_ok());
    }
}
