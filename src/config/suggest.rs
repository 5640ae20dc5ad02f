//! What to say about a name that this version does not know.

use super::keys::{KEYS, Key};

/// About a key or section of the file, by dotted name.
pub(super) fn unknown_key(name: &str) -> String {
    let sections = KEYS.iter().map(Key::section);
    message("key", name, KEYS.iter().map(|key| key.name).chain(sections))
}

/// About a key of an override, by its name alone.
pub(super) fn unknown_override_key(name: &str) -> String {
    if KEYS.iter().any(|key| key.section() == "compaction" && key.last_name() == name) {
        return "holds for the whole service and cannot be set in an override".to_owned();
    }
    let overridable = KEYS.iter().filter(|key| key.patch.is_some()).map(Key::last_name);
    message("key", name, overridable.chain(["database", "measurement"]))
}

/// About an environment variable.
pub(super) fn unknown_variable(name: &str) -> String {
    message("variable", name, KEYS.iter().map(|key| key.variable))
}

fn message(what: &str, name: &str, known: impl Iterator<Item = &'static str>) -> String {
    match nearest(name, known) {
        Some(known) => format!("unknown {what}, did you mean {known}?"),
        None => format!("unknown {what}"),
    }
}

/// The known name that a typing mistake, or a forgotten section, most likely stands for.
fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    fn last(name: &str) -> &str {
        name.rsplit('.').next().unwrap_or(name)
    }
    known
        .map(|known| {
            // A key in the wrong section has the right last name.
            let elsewhere = strsim::damerau_levenshtein(last(name), last(known)) + 1;
            (strsim::damerau_levenshtein(name, known).min(elsewhere), known)
        })
        .filter(|(distance, known)| *distance <= 1 + last(known).len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_or_misplaced_key_gets_the_nearest_known_one() {
        for (name, known) in [
            ("compaction.min_fils", "compaction.min_files"),
            ("compaction.target_filesize_mb", "compaction.target_file_size_mb"),
            ("min_files", "compaction.min_files"),
            ("storage.base_path", "storage.local.base_path"),
            ("loging", "logging"),
            ("logging.levle", "logging.level"),
        ] {
            assert_eq!(unknown_key(name), format!("unknown key, did you mean {known}?"), "{name}");
        }
        assert_eq!(unknown_key("compaction.colour"), "unknown key");
        assert_eq!(unknown_variable("COMPACTION_MIN_FILE"), "unknown variable, did you mean COMPACTION_MIN_FILES?");
    }

    #[test]
    fn a_key_of_the_whole_service_is_named_as_such_in_an_override() {
        assert!(unknown_override_key("temp_dir").starts_with("holds for the whole service"));
        assert_eq!(unknown_override_key("mesurement"), "unknown key, did you mean measurement?");
    }
}
