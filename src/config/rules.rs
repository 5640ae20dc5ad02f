//! The rules for texts and lists that a range or a choice cannot express. Each returns the rule that is broken.

use std::path::Path;

use chrono_tz::Tz;

use crate::schedule::Schedule;

pub(super) fn not_empty(text: &str) -> Result<(), String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(()) }
}

pub(super) fn a_path(text: &str) -> Result<(), String> {
    not_empty(text)?;
    if text.contains('\0') { Err("must not contain a NUL character".to_owned()) } else { Ok(()) }
}

/// A name or an address, without a port.
pub(super) fn a_host(text: &str) -> Result<(), String> {
    let is_address = text.parse::<std::net::IpAddr>().is_ok();
    let is_name =
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if is_address || is_name {
        Ok(())
    } else {
        Err("must be an address such as 127.0.0.1 or ::1, or a name, without a port".to_owned())
    }
}

/// Paths of requests, compared as they stand.
pub(super) fn paths(paths: &[String]) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'*');
    match paths.iter().find(|path| !path.starts_with('/') || !path.bytes().all(plain)) {
        Some(path) => Err(format!("{path:?} is no exact path: it begins with a slash and has no space, ?, # or *")),
        None => no_repetition(paths),
    }
}

/// The name of a bucket, container or region. What exactly is allowed, the store knows; this is about mistakes.
pub(super) fn an_optional_name(text: &str) -> Result<(), String> {
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        Ok(())
    } else {
        Err("must be the name alone (letters, digits, dots, hyphens), without scheme, slash or space".to_owned())
    }
}

/// The path of a prefix. Slashes at its ends mean nothing.
pub(super) fn an_optional_path(text: &str) -> Result<(), String> {
    let path = text.strip_suffix('/').unwrap_or(text);
    let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(char::is_control);
    if text.is_empty() || path.split('/').all(is_plain) {
        Ok(())
    } else {
        Err("must be a path such as telemetry/arc, without a slash in front, empty parts, . or ..".to_owned())
    }
}

/// A host, or a URL with one. Credentials in it would be shown.
pub(super) fn an_endpoint(text: &str) -> Result<(), String> {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let has_known_scheme = rest == text || text.starts_with("http://") || text.starts_with("https://");
    let is_plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'@' | b'?' | b'#' | b'"' | b'\\');
    if text.is_empty()
        || (has_known_scheme && !rest.starts_with(['/', ':']) && rest.bytes().all(is_plain) && !rest.is_empty())
    {
        Ok(())
    } else {
        Err("must be host:port or a URL such as https://host:port, without user, password and query".to_owned())
    }
}

/// The name of a storage account becomes part of a host name.
pub(super) fn an_account(text: &str) -> Result<(), String> {
    if text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        Ok(())
    } else {
        Err("must be the name of a storage account: lowercase letters and digits".to_owned())
    }
}

/// What fits into a header. A copied secret often has a line break at its end.
pub(super) fn a_token(text: &str) -> Result<(), String> {
    if text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(())
    } else {
        Err("must have no spaces and only visible ASCII characters, or be empty".to_owned())
    }
}

pub(super) fn an_optional_file(text: &str) -> Result<(), String> {
    let names_a_file = !text.ends_with('/') && Path::new(text).file_name().is_some();
    if text.is_empty() || (names_a_file && !text.contains('\0')) {
        Ok(())
    } else {
        Err("must be the path of a file, or empty".to_owned())
    }
}

pub(super) fn a_schedule(text: &str) -> Result<(), String> {
    Schedule::parse(text).map(|_| ()).map_err(|e| format!("must be a five-field cron schedule: {e}"))
}

pub(super) fn a_timezone(text: &str) -> Result<(), String> {
    text.parse::<Tz>().map(|_| ()).map_err(|_| "must be an IANA time zone such as UTC or Europe/Berlin".to_owned())
}

/// A folder name in storage, so it cannot have a slash.
pub(super) fn a_name(text: &str) -> Result<(), String> {
    not_empty(text)?;
    if text.contains('/') { Err(format!("{text:?} has a slash and is no name")) } else { Ok(()) }
}

pub(super) fn names_without_repetition(names: &[String]) -> Result<(), String> {
    names.iter().try_for_each(|name| a_name(name))?;
    no_repetition(names)
}

pub(super) fn columns(names: &[String]) -> Result<(), String> {
    if names.is_empty() {
        return Err("must name at least one column".to_owned());
    }
    if names.iter().any(String::is_empty) {
        return Err("must not contain an empty name".to_owned());
    }
    no_repetition(names)
}

fn no_repetition(names: &[String]) -> Result<(), String> {
    match names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
        Some((_, name)) => Err(format!("must not name {name:?} twice")),
        None => Ok(()),
    }
}
