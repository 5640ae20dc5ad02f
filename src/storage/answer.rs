//! What an object store's error means, in one line with the remedy.
//!
//! The clients give a store's answer as text: a status, and an XML document that says a code, and often quotes the request
//! with key ids and signatures. The code decides here; of the document nothing is passed on. What has no code is looked
//! through for the reason why no answer came.
//!
//! What must hold: "missing" is said of the object asked for only. A bucket that does not exist answers 404, too (T24).

use std::error::Error;

use super::StorageError;

/// The error of a store that is not local disk, about `path`; `place` is where the storage is.
pub(super) fn understood(place: &str, path: String, error: object_store::Error) -> StorageError {
    let text = chain(&error);
    let Some(finding) = Finding::of(&text) else { return by_kind(path, error, &text) };
    let misconfigured =
        |detail: String| StorageError::Misconfigured { path: place.to_owned(), detail, source: said(&text).into() };
    match finding {
        Finding::Denied => StorageError::PermissionDenied { path, source: said(&text).into() },
        Finding::Advice(advice) => misconfigured(advice.to_owned()),
        Finding::Region(Some(right)) => {
            misconfigured(format!("the bucket is in the region {right}: set region = \"{right}\""))
        }
        Finding::Region(None) => misconfigured(
            "the bucket is in another region or behind another endpoint: correct region or endpoint".to_owned(),
        ),
        Finding::Passing(reason) => StorageError::unavailable(path, reason),
    }
}

/// An error that says nothing that somebody could do. Of an answer only status and code are kept.
fn by_kind(path: String, error: object_store::Error, text: &str) -> StorageError {
    use object_store::Error as Store;
    if status(text).is_none() {
        return StorageError::from_store(path, error);
    }
    let answer = said(text);
    match error {
        Store::NotFound { .. } => StorageError::NotFound { path, source: answer.into() },
        Store::AlreadyExists { .. } => StorageError::AlreadyExists { path },
        Store::Precondition { .. } => StorageError::Changed { path, detail: answer },
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => {
            StorageError::PermissionDenied { path, source: answer.into() }
        }
        _ => StorageError::unavailable(path, answer),
    }
}

/// What is to be done about an error.
#[derive(Debug, PartialEq, Eq)]
enum Finding<'a> {
    Advice(&'static str),
    Region(Option<&'a str>),
    Denied,
    /// May pass by itself.
    Passing(String),
}

const NO_BUCKET: &str = "there is no such bucket or container: create it, or correct its name or the endpoint";
const WRONG_KEYS: &str =
    "the store does not accept the credentials: correct access_key and secret_key (or the environment's)";
const EXPIRED: &str = "the credentials have expired: renew them";
const WRONG_CLOCK: &str = "this machine's clock differs too much from the store's: set it right (NTP), then try again";
const NO_CREDENTIALS: &str = "there are no credentials: set them in the configuration or the environment, or run where the machine has a role or identity";
const NO_CONDITIONAL_WRITES: &str =
    "cannot be used for compaction: it does not know conditional writes; use a store (or a version of it) that does";

impl<'a> Finding<'a> {
    fn of(text: &'a str) -> Option<Self> {
        if let Some(code) = between(text, "<Code>", "</Code>") {
            return Self::of_code(code, text);
        }
        Self::without_code(text)
    }

    fn of_code(code: &str, text: &'a str) -> Option<Self> {
        Some(match code {
            "NoSuchBucket" | "InvalidBucketName" | "ContainerNotFound" | "InvalidResourceName" | "AccountNotFound" => {
                Self::Advice(NO_BUCKET)
            }
            // Azure has one code for both; what the header was wrong about stands in the detail.
            "AuthenticationFailed" if text.contains("Request date header too old") => Self::Advice(WRONG_CLOCK),
            "InvalidAccessKeyId"
            | "AuthenticationFailed"
            | "SignatureDoesNotMatch"
            | "InvalidToken"
            | "InvalidSecurity"
            | "MissingSecurityHeader"
            | "InvalidAuthenticationInfo"
            | "NoAuthenticationInformation" => Self::Advice(WRONG_KEYS),
            "AuthorizationFailure" if text.contains("failed to authenticate") => Self::Advice(WRONG_KEYS),
            "ExpiredToken" | "TokenRefreshRequired" => Self::Advice(EXPIRED),
            "RequestTimeTooSkewed" | "RequestExpired" => Self::Advice(WRONG_CLOCK),
            "AuthorizationHeaderMalformed" if !text.contains("region") => Self::Advice(WRONG_KEYS),
            "AuthorizationHeaderMalformed"
            | "PermanentRedirect"
            | "TemporaryRedirect"
            | "IllegalLocationConstraintException" => {
                Self::Region(between(text, "<Region>", "</Region>").filter(|region| is_name(region)))
            }
            "AccessDenied"
            | "AllAccessDisabled"
            | "AccountProblem"
            | "AuthorizationFailure"
            | "AuthorizationPermissionMismatch"
            | "InsufficientAccountPermissions"
            | "AccountIsDisabled"
            | "KeyBasedAuthenticationNotPermitted"
            | "PublicAccessNotPermitted" => Self::Denied,
            "NotImplemented" if text.contains("header") => Self::Advice(NO_CONDITIONAL_WRITES),
            // About the object: the error's own kind is right.
            _ if is_about_the_object(text) => return None,
            code => Self::Passing(format!("the store answered {}", with_code(status(text), code))),
        })
    }

    fn without_code(text: &str) -> Option<Self> {
        let has = |part: &str| text.contains(part);
        if has("169.254.169.254")
            || has("169.254.170.2")
            || has("metadata.google.internal")
            || has("/metadata/identity")
        {
            return Some(Self::Advice(NO_CREDENTIALS));
        }
        if has("Received redirect without LOCATION") {
            return Some(Self::Region(None));
        }
        if has("invalid_grant") || has("invalid_client") {
            return Some(Self::Advice(WRONG_KEYS));
        }
        if has("HTTP request to an HTTPS server") {
            return Some(Self::Advice("the endpoint speaks HTTPS: set use_ssl = true"));
        }
        let reason = [
            ("dns error", "the endpoint's name cannot be resolved: correct endpoint, or this machine's DNS"),
            ("onnection refused", "the connection was refused: is the endpoint right, and the store running?"),
            ("InvalidContentType", "the endpoint does not speak TLS: set use_ssl = false, or correct endpoint"),
            ("certificate", "the endpoint's TLS certificate is not trusted: add its authority to this machine's"),
            ("etwork is unreachable", "the endpoint's network cannot be reached"),
            ("o route to host", "the endpoint's network cannot be reached"),
            ("timed out", "no answer in time"),
            ("onnection reset", "the connection was reset"),
            ("onnection closed before", "the connection was closed before the answer was complete"),
        ]
        .into_iter()
        .find_map(|(part, reason)| has(part).then_some(reason));
        match (reason, status(text)) {
            (_, Some(_)) if is_about_the_object(text) => None,
            (_, Some(status)) => Some(Self::Passing(format!("the store answered {status}"))),
            (Some(reason), None) => Some(Self::Passing(reason.to_owned())),
            (None, None) => None,
        }
    }
}

/// Statuses that the verbs take for an answer about the object, and that no code above explains better.
fn is_about_the_object(text: &str) -> bool {
    let status = status(text).unwrap_or_default();
    ["304", "403", "401", "404", "409", "412"].iter().any(|about| status.starts_with(about))
}

/// `403 Forbidden`
fn status(text: &str) -> Option<&str> {
    let rest = text.split_once("status code: ")?.1;
    Some(rest.split([':', '\n', '<']).next().unwrap_or(rest).trim())
}

fn with_code(status: Option<&str>, code: &str) -> String {
    format!("{} ({code})", status.unwrap_or("with an error"))
}

/// What the store said, for the chain of sources.
fn said(text: &str) -> String {
    match (status(text), between(text, "<Code>", "</Code>")) {
        (status, Some(code)) => format!("the store answered {}", with_code(status, code)),
        (Some(status), None) => format!("the store answered {status}"),
        (None, None) => "no credentials could be had".to_owned(),
    }
}

/// What a region is called: nothing else of a store's words is passed on.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 40 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let rest = text.split_once(from)?.1;
    rest.split_once(to).map(|(inner, _)| inner)
}

/// The error with its sources, as one text.
fn chain(error: &(dyn Error + 'static)) -> String {
    // Chains are a handful of links; the bound is for an error that is its own source.
    const MAX_LINKS: usize = 32;
    let mut text = String::new();
    let mut link = Some(error);
    for _ in 0..MAX_LINKS {
        let Some(current) = link else { break };
        text.push_str(&current.to_string());
        text.push('\n');
        link = current.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the clients word it.
    fn answer(status: &str, body: &str) -> String {
        format!(
            "Generic S3 error: Error performing PUT http://x/y in 3ms - Server returned non-2xx status code: {status}: {body}"
        )
    }

    fn xml(code: &str, rest: &str) -> String {
        answer("403 Forbidden", &format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code>{rest}</Error>"))
    }

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn every_mistake_of_an_operator_has_its_line() {
        for (text, part) in [
            (xml("NoSuchBucket", ""), "there is no such bucket"),
            (xml("ContainerNotFound", ""), "there is no such bucket or container"),
            (xml("InvalidAccessKeyId", ""), "does not accept the credentials"),
            (xml("SignatureDoesNotMatch", ""), "does not accept the credentials"),
            (xml("ExpiredToken", ""), "have expired"),
            (xml("RequestTimeTooSkewed", ""), "this machine's clock"),
            (
                xml("AuthenticationFailed", "<AuthenticationErrorDetail>Request date header too old"),
                "this machine's clock",
            ),
            (xml("AuthenticationFailed", "<AuthenticationErrorDetail>The MAC"), "does not accept the credentials"),
            (
                xml(
                    "AuthorizationHeaderMalformed",
                    "<Message>the region 'x' is wrong</Message><Region>eu-north-1</Region>",
                ),
                "set region = \"eu-north-1\"",
            ),
            (xml("PermanentRedirect", ""), "correct region or endpoint"),
            ("Received redirect without LOCATION, this normally".to_owned(), "correct region or endpoint"),
            (answer("501 Not Implemented", "<Code>NotImplemented</Code>A header you provided"), "conditional writes"),
            ("Error performing PUT http://169.254.169.254/latest/api/token".to_owned(), "there are no credentials"),
            (answer("400 Bad Request", "Client sent an HTTP request to an HTTPS server."), "set use_ssl = true"),
        ] {
            let error = understood("s3://b", "s3://b/k".into(), generic(&text));
            assert!(matches!(error, StorageError::Misconfigured { .. }), "{text}: {error:?}");
            assert!(error.to_string().starts_with("s3://b: ") && error.to_string().contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn what_may_pass_is_unavailable_with_its_reason() {
        for (text, part) in [
            (answer("503 Service Unavailable", "<Code>SlowDown</Code>"), "503 Service Unavailable (SlowDown)"),
            (answer("500 Internal Server Error", "oops"), "answered 500 Internal Server Error"),
            ("error sending request\ntcp connect error\nConnection refused (os error 111)".to_owned(), "was refused"),
            ("dns error: failed to lookup".to_owned(), "cannot be resolved"),
            ("operation timed out".to_owned(), "no answer in time"),
            ("received corrupt message of type InvalidContentType".to_owned(), "set use_ssl = false"),
        ] {
            let error = understood("s3://b", "s3://b/k".into(), generic(&text));
            assert!(matches!(error, StorageError::Unavailable { .. }), "{text}: {error:?}");
            assert!(error.to_string().starts_with("s3://b/k: ") && error.to_string().contains(part), "{text}: {error}");
        }
    }

    /// T24.
    #[test]
    fn only_a_missing_object_is_missing() {
        let of = |body: &str| {
            let source = answer("404 Not Found", body).into();
            understood("s3://b", "s3://b/k".into(), object_store::Error::NotFound { path: "k".into(), source })
        };
        assert!(matches!(of("<Code>NoSuchKey</Code>"), StorageError::NotFound { .. }));
        assert!(matches!(of(""), StorageError::NotFound { .. }));
        assert!(matches!(of("<Code>NoSuchBucket</Code>"), StorageError::Misconfigured { .. }));
    }

    #[test]
    fn an_object_that_is_not_the_one_that_was_listed_has_changed() {
        let source =
            answer("412 Precondition Failed", "<Error>\n<Code>ConditionNotMet</Code>\nRequestId:1</Error>").into();
        let error = object_store::Error::Precondition { path: "k".into(), source };
        let error = understood("s3://b", "s3://b/k".into(), error).to_string();
        assert_eq!(
            error,
            "s3://b/k changed since it was listed: the store answered 412 Precondition Failed (ConditionNotMet)"
        );
    }

    /// T65: stores quote key ids, signatures and what was signed.
    #[test]
    fn nothing_that_a_store_quotes_is_passed_on() {
        for code in ["SignatureDoesNotMatch", "AccessDenied", "SlowDown"] {
            let quoted = "<AWSAccessKeyId>AKIAQUOTED</AWSAccessKeyId><StringToSign>QUOTED</StringToSign>";
            let error = understood("s3://b", "s3://b/k".into(), generic(&xml(code, quoted)));
            let shown = format!("{error} {error:?} {}", error.without_store_words());
            assert!(!shown.contains("QUOTED"), "{shown}");
            assert!(!shown.contains('\n'), "one line: {shown}");
        }
    }
}
