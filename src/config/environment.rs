//! Values from environment variables.

use std::ffi::OsString;

use super::problem::{Problem, Source};
use super::{Found, keys, suggest};
use crate::storage::settings::Environment;

/// Variables that start with this are ours: one that is not known is a mistake.
const OUR_PREFIX: &str = "COMPACTION_";

/// Names the configuration file.
pub(super) const CONFIG_FILE: &str = "ARC_CONFIG_FILE";

/// Takes the value of every variable that stands for a key.
pub(super) fn read(environment: &[(OsString, OsString)], found: &mut Found) {
    // Variables have no order of their own; the report should have one.
    let mut variables: Vec<_> = environment.iter().collect();
    variables.sort();
    for (name, value) in variables {
        let name = name.to_string_lossy();
        let source = Source::Environment(name.clone().into_owned());
        if let Some(key) = keys::find_variable(&name) {
            match value.to_str() {
                Some(text) => found.assign(key, key.kind.parse(text), text, source),
                None => found.problems.push(Problem::new(key.name, source, "must be valid UTF-8")),
            }
        } else if Environment::VARIABLES.contains(&name.as_ref()) {
            match value.to_str() {
                Some(text) => found.credentials.note(&name, text),
                None => found.problems.push(Problem::new("", source, "must be valid UTF-8")),
            }
        } else if name.starts_with(OUR_PREFIX) {
            found.problems.push(Problem::new("", source, suggest::unknown_variable(&name)));
        }
    }
}
