//! Values from the configuration file: which file, and what stands in it, with line numbers.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::problem::{Problem, Source};
use super::value::Value;
use super::{Found, Input, Override, environment, keys, suggest};

/// Sections that belong to other components of the server, which shares the file.
const FOREIGN_SECTIONS: [&str; 5] = ["ingestion", "query_cache", "duckdb", "wal", "cors"];

/// An array of tables, so not in the table of keys.
const OVERRIDE: &str = "compaction.override";

/// Reads the file that is to be read, if any, and returns its path.
pub(super) fn read(input: &Input, found: &mut Found) -> Option<PathBuf> {
    let variable = input.environment.iter().find(|(name, _)| name == environment::CONFIG_FILE);
    let (path, wanted_by) = match (&input.file, variable, &input.default_file) {
        (Some(path), _, _) => (path.clone(), Some("--config")),
        (None, Some((_, path)), _) => (PathBuf::from(path), Some(environment::CONFIG_FILE)),
        (None, None, Some(path)) => (path.clone(), None),
        (None, None, None) => return None,
    };
    match std::fs::read(&path) {
        Ok(bytes) => {
            let source = Source::File { path: path.clone(), line: None };
            match String::from_utf8(bytes) {
                Ok(text) => Reader { path: &path, text: &text, found }.document(),
                Err(_) => found.problems.push(Problem::new("", source, "must be valid UTF-8")),
            }
            Some(path)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && wanted_by.is_none() => None,
        Err(e) => {
            let named = wanted_by.map(|by| format!(" (named by {by})")).unwrap_or_default();
            let rule = format!("cannot read the configuration file{named}: {e}");
            found.problems.push(Problem::new("", Source::File { path: path.clone(), line: None }, rule));
            Some(path)
        }
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    found: &'a mut Found,
}

type Item<'k, 'i> = (&'k Spanned<DeString<'i>>, &'k Spanned<DeValue<'i>>);

impl Reader<'_> {
    fn document(&mut self) {
        let text = self.text;
        let (document, errors) = DeTable::parse_recoverable(text);
        let first = self.found.problems.len();
        if errors.is_empty() {
            self.section("", document.get_ref());
        }
        // With broken syntax the rest cannot be trusted: what looks like an unknown key may be half of a string.
        for error in errors {
            let line = error.span().map(|span| self.line(span.start));
            let source = Source::File { path: self.path.to_owned(), line };
            self.found.problems.push(Problem::new("", source, format!("not valid TOML: {}", error.message().trim())));
        }
        // Tables are sorted by name; people read files by line.
        self.found.problems[first..].sort_by_key(|problem| match problem.source {
            Source::File { line, .. } => line,
            _ => None,
        });
    }

    fn section(&mut self, prefix: &str, table: &DeTable<'_>) {
        for item @ (name, value) in table {
            let path =
                if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
            // `"compaction.min_files" = 3` names one key with a dot in it, not a key of a section.
            if name.get_ref().contains('.') {
                self.problem(&path, item, "unknown key: the dot is inside of the quotes");
                continue;
            }
            let is_section = keys::is_section(&path);
            match value.get_ref() {
                DeValue::Table(_) if FOREIGN_SECTIONS.contains(&path.as_str()) => {
                    self.found.foreign_sections.push(path);
                }
                DeValue::Table(table) if is_section => self.section(&path, table),
                _ if is_section => self.problem(&path, item, "is a section, not a value"),
                value if path == OVERRIDE => self.overrides(item, value),
                value => {
                    if let Some(key) = keys::find(&path) {
                        let (written, source) = (self.written(item.1), self.source(item.0));
                        self.found.assign(key, key.kind.parse_toml(value), &written, source);
                    } else {
                        let source = self.source(item.0);
                        self.found.problems.push(Problem::new(&path, source, suggest::unknown_key(&path)));
                    }
                }
            }
        }
    }

    fn overrides(&mut self, item: Item<'_, '_>, value: &DeValue<'_>) {
        let tables: Option<Vec<_>> = value.as_array().and_then(|array| {
            array.iter().map(|element| element.get_ref().as_table().map(|table| (element, table))).collect()
        });
        let Some(tables) = tables else {
            return self.problem(OVERRIDE, item, "must be written as [[compaction.override]] sections");
        };
        for (index, (element, table)) in tables.into_iter().enumerate() {
            let source = self.source(element);
            self.one_override(&format!("{OVERRIDE}.{index}"), source, table);
        }
    }

    fn one_override(&mut self, prefix: &str, source: Source, table: &DeTable<'_>) {
        let before = self.found.problems.len();
        let (mut database, mut measurement, mut values) = (None, None, Vec::new());
        for item @ (name, value) in table {
            let path = format!("{prefix}.{}", name.get_ref());
            match name.get_ref().as_ref() {
                "database" => database = self.pattern(&path, item),
                "measurement" => measurement = self.pattern(&path, item),
                name => match keys::find(&format!("compaction.{name}")).filter(|key| key.patch.is_some()) {
                    Some(key) => match key.kind.parse_toml(value.get_ref()) {
                        Ok(value) => values.push((key, value, self.source(item.0))),
                        Err(rule) => self.problem(&path, item, rule),
                    },
                    None => self.problem(&path, item, suggest::unknown_override_key(name)),
                },
            }
        }
        for name in ["database", "measurement"] {
            if !table.contains_key(name) {
                let rule = format!("needs {name}: a name, or \"*\" for every one");
                self.found.problems.push(Problem::new(prefix, source.clone(), rule));
            }
        }
        if values.is_empty() && self.found.problems.len() == before {
            self.found.problems.push(Problem::new(prefix, source.clone(), "sets nothing: name the keys that differ"));
        }
        // The order of the table of keys, as everywhere else.
        values.sort_by_key(|(key, _, _)| keys::KEYS.iter().position(|known| known.name == key.name));
        if let (Some(database), Some(measurement)) = (database, measurement) {
            self.found.overrides.push(Override { database, measurement, source, values });
        }
    }

    /// The name of a database or measurement, or `*`.
    fn pattern(&mut self, path: &str, item: Item<'_, '_>) -> Option<String> {
        match keys::NAME_PATTERN.parse_toml(item.1.get_ref()) {
            Ok(Value::Text(name)) => Some(name),
            Ok(_) => unreachable!("the kind of a pattern is text"),
            Err(rule) => {
                self.problem(path, item, rule);
                None
            }
        }
    }

    fn problem(&mut self, path: &str, item: Item<'_, '_>, rule: impl Into<String>) {
        let (written, source) = (self.written(item.1), self.source(item.0));
        self.found.problems.push(Problem::with_value(path, written, source, rule));
    }

    /// The value as it stands in the file; of several lines the first.
    fn written(&self, value: &Spanned<DeValue<'_>>) -> String {
        let text = self.text.get(value.span()).unwrap_or_default();
        match text.split_once('\n') {
            Some((first, _)) => format!("{} …", first.trim_end()),
            None => text.to_owned(),
        }
    }

    fn source<T>(&self, at: &Spanned<T>) -> Source {
        Source::File { path: self.path.to_owned(), line: Some(self.line(at.span().start)) }
    }

    fn line(&self, offset: usize) -> usize {
        self.text.get(..offset).unwrap_or(self.text).matches('\n').count() + 1
    }
}
