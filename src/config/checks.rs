//! Rules that need more than one key.

mod object_stores;

use std::path::{Component, Path, PathBuf};

use super::Found;
use super::problem::{Problem, Source};
use super::value::Value;

const TEMP_DIR: &str = "compaction.temp_dir";
const LOCK_BACKEND: &str = "compaction.lock_backend";
const BACKEND: &str = "storage.backend";
const BASE_PATH: &str = "storage.local.base_path";

pub(super) fn across_keys(found: &mut Found) {
    // The default that stands in for a wrong backend was not asked for.
    if found.is_wrong(BACKEND) {
        return;
    }
    let backend = found.value(BACKEND).0.text().to_owned();
    match backend.as_str() {
        "local" => {
            temp_dir_apart_from_storage(found);
            locks_of_a_folder(found);
        }
        backend => object_stores::check(backend, found),
    }
}

impl Found {
    fn value(&self, key: &str) -> &(Value, Source) {
        &self.values[key]
    }

    /// Whether a value is wrong by itself, which has been reported.
    fn is_wrong(&self, key: &str) -> bool {
        self.problems.iter().any(|problem| problem.key == key)
    }
}

/// A folder has no compare-and-swap, which leases beside the data rest on.
fn locks_of_a_folder(found: &mut Found) {
    let (value, source) = found.value(LOCK_BACKEND);
    if value.text() == "storage" {
        let rule = format!(
            "must be \"sqlite\" with {BACKEND} = local: a folder has no compare-and-swap, and the state database \
             excludes all processes that share it"
        );
        found.problems.push(Problem::with_value(LOCK_BACKEND, value.to_string(), source.clone(), rule));
    }
}

/// The files of a running job must never be scanned as data, nor data be cleaned up as a job's files.
fn temp_dir_apart_from_storage(found: &mut Found) {
    if found.is_wrong(TEMP_DIR) || found.is_wrong(BASE_PATH) {
        return;
    }
    let ((temp, temp_source), (base, base_source)) = (found.value(TEMP_DIR), found.value(BASE_PATH));
    let (temp_path, base_path) = (Path::new(temp.text()), Path::new(base.text()));
    let (Ok(temp_absolute), Ok(base_absolute)) = (lexical(temp_path), lexical(base_path)) else {
        // Without a current directory no relative path means anything; whoever opens one reports that.
        return;
    };
    let relation = if temp_absolute == base_absolute {
        "be"
    } else if temp_absolute.starts_with(&base_absolute) {
        "lie inside"
    } else if base_absolute.starts_with(&temp_absolute) {
        "contain"
    } else {
        return;
    };
    let rule = format!(
        "must not {relation} the storage folder {BASE_PATH} = {base} (from {base_source}): these are {} and {}",
        temp_absolute.display(),
        base_absolute.display(),
    );
    found.problems.push(Problem::with_value(TEMP_DIR, temp.to_string(), temp_source.clone(), rule));
}

/// The absolute path without `.` and `..`. Purely by its text: neither folder need exist yet.
fn lexical(path: &Path) -> std::io::Result<PathBuf> {
    let mut result = PathBuf::new();
    for component in std::path::absolute(path)?.components() {
        match component {
            Component::ParentDir => {
                result.pop();
            }
            Component::CurDir => {}
            other => result.push(other),
        }
    }
    Ok(result)
}
