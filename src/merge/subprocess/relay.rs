//! A child's stderr, written to this process's log.
//!
//! What must hold (T67): a structured line, as the child's own logging writes it, keeps its level; anything else (a panic,
//! a library's complaint) is a warning. However much a child writes, no more than [`MAX_LINES`] lines reach the log.

use std::collections::VecDeque;

use serde_json::{Map, Value};
use tracing::Level;

/// Longest line that is kept; the rest of it is dropped.
pub(super) const MAX_LINE_BYTES: usize = 8 * 1024;

/// Most lines of one child that reach the log.
const MAX_LINES: u32 = 1000;

/// Lines that are kept for the message about a crash, and how much of each: a panic takes three.
const LAST_WORDS: usize = 3;
const LAST_WORDS_CHARS: usize = 300;

/// Relays the lines of one child.
#[derive(Debug)]
pub(super) struct Relay {
    worker_pid: u32,
    job_id: String,
    lines: u32,
    last_words: VecDeque<String>,
}

/// A log line of a child.
#[derive(Debug, PartialEq)]
struct LogLine {
    level: Level,
    message: String,
    /// What else it says, as JSON; empty when nothing.
    fields: String,
}

macro_rules! log_at {
    ($level:expr, $($rest:tt)+) => {
        match $level {
            Level::ERROR => tracing::error!(target: "storage.compaction", $($rest)+),
            Level::WARN => tracing::warn!(target: "storage.compaction", $($rest)+),
            Level::INFO => tracing::info!(target: "storage.compaction", $($rest)+),
            Level::DEBUG => tracing::debug!(target: "storage.compaction", $($rest)+),
            Level::TRACE => tracing::trace!(target: "storage.compaction", $($rest)+),
        }
    };
}

impl Relay {
    pub(super) fn new(worker_pid: u32, job_id: &str) -> Self {
        Self { worker_pid, job_id: job_id.to_owned(), lines: 0, last_words: VecDeque::new() }
    }

    pub(super) fn line(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        if text.trim().is_empty() {
            return;
        }
        let line = LogLine::parse(&text);
        if line.level <= Level::WARN {
            if self.last_words.len() == LAST_WORDS {
                self.last_words.pop_front();
            }
            self.last_words.push_back(line.message.chars().take(LAST_WORDS_CHARS).collect());
        }
        self.lines = self.lines.saturating_add(1);
        let (worker_pid, job_id) = (self.worker_pid, &self.job_id);
        if self.lines <= MAX_LINES {
            let LogLine { level, message, fields } = line;
            log_at!(level, worker_pid, job_id, fields, "{message}");
        } else if self.lines == MAX_LINES + 1 {
            log_at!(Level::WARN, worker_pid, job_id, "the merge worker writes too much, the rest is dropped");
        }
    }

    /// The end of what the child complained about, on one line.
    pub(super) fn last_words(&self) -> String {
        self.last_words.iter().map(String::as_str).collect::<Vec<_>>().join(" | ")
    }
}

impl LogLine {
    /// A JSON object with a known `level` and a `message`, at the top or in `fields`, is structured.
    fn parse(text: &str) -> Self {
        Self::structured(text).unwrap_or_else(|| Self {
            level: Level::WARN,
            message: text.trim_end().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
            fields: String::new(),
        })
    }

    fn structured(text: &str) -> Option<Self> {
        let mut object: Map<String, Value> = serde_json::from_str(text).ok()?;
        let level = object.remove("level")?.as_str()?.parse().ok()?;
        let nested = object.get_mut("fields").and_then(|fields| fields.as_object_mut()?.remove("message"));
        let Value::String(message) = object.remove("message").or(nested)? else { return None };
        // The parent's log has its own.
        object.remove("timestamp");
        let fields = if object.is_empty() { String::new() } else { Value::Object(object).to_string() };
        Some(Self { level, message, fields })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Level, String, String) {
        let LogLine { level, message, fields } = LogLine::parse(text);
        (level, message, fields)
    }

    /// T67.
    #[test]
    fn a_structured_line_keeps_its_level_and_anything_else_is_a_warning() {
        let line = r#"{"timestamp":"t","level":"ERROR","message":"no","rows":3}"#;
        assert_eq!(parsed(line), (Level::ERROR, "no".into(), r#"{"rows":3}"#.into()));
        let line = r#"{"level":"DEBUG","fields":{"message":"slice"}}"#;
        assert_eq!(parsed(line), (Level::DEBUG, "slice".into(), r#"{"fields":{}}"#.into()));
        for plain in ["malloc(): corrupted", r#"{"level":"LOUD","message":"x"}"#, r#"{"level":"INFO"}"#, "[1]"] {
            assert_eq!(parsed(plain), (Level::WARN, plain.into(), String::new()));
        }
        assert_eq!(parsed("a\u{1b}[31mb\r\n").1, "a\u{fffd}[31mb");
    }

    #[test]
    fn the_last_words_are_the_last_complaints_and_bounded() {
        let mut relay = Relay::new(1, "job");
        for line in ["one", "two", r#"{"level":"INFO","message":"fine"}"#, "", "three"] {
            relay.line(line.as_bytes());
        }
        relay.line("x".repeat(5000).as_bytes());
        assert_eq!(relay.last_words(), format!("two | three | {}", "x".repeat(LAST_WORDS_CHARS)));
    }
}
