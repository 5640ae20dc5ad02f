//! Log output: one JSON object a line, or text for people.
//!
//! ```text
//! {"timestamp":"2025-10-08T16:05:00.123Z","level":"INFO","logger":"storage.compaction","message":"…","files":72}
//!                                                               └ the event's target              └ fields, flattened
//! ```
//!
//! What must hold: every line is one complete JSON object, whatever a message or field contains, and the four standard
//! keys come first, exactly once. An event's own fields win over those of the spans around it.
//!
//! Deliberately not here: what is logged (the modules say that), and metrics.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::SecondsFormat;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{DefaultFields, JsonFields, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry, Scope};

use crate::clock::{Clock, SystemClock};

/// How to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggingSettings {
    /// Events below this level are dropped.
    pub level: Level,
    pub format: LogFormat,
    /// Also write to this file. A new one is begun each day (UTC), with the date added:
    /// `arc.log` becomes `arc.log.2025-10-08`.
    pub file: Option<PathBuf>,
    /// Daily files that are kept.
    pub keep_days: NonZeroUsize,
}

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// A JSON object.
    Structured,
    /// Text for people.
    Text,
}

/// Which standard stream the log goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// For a server, whose output is its log.
    Stdout,
    /// For one-shot commands, whose output is their result.
    Stderr,
    /// None: progress bars are there. The log file is written all the same.
    Neither,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log file cannot be written.
    #[error("cannot write the log file {} (logging.file): {source}", .path.display())]
    File {
        /// The configured name.
        path: PathBuf,
        /// What the system said.
        source: tracing_appender::rolling::InitError,
    },
    /// This process logs already: an embedding program set up its own.
    #[error("logging is set up already in this process")]
    AlreadySet(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Makes the settings hold for the whole process. Call once, early.
///
/// # Errors
/// See [`TelemetryError`].
pub fn init(settings: &LoggingSettings, stream: LogStream) -> Result<(), TelemetryError> {
    let standard = match stream {
        LogStream::Stdout => Some(BoxMakeWriter::new(io::stdout)),
        LogStream::Stderr => Some(BoxMakeWriter::new(io::stderr)),
        LogStream::Neither => None,
    };
    let mut layers: Vec<BoxedLayer> = standard.map(|standard| layer(settings.format, standard)).into_iter().collect();
    if let Some(path) = &settings.file {
        layers.push(layer(settings.format, BoxMakeWriter::new(daily_file(path, settings.keep_days)?)));
    }
    let subscriber = tracing_subscriber::registry().with(layers).with(LevelFilter::from_level(settings.level));
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(())
}

/// Lines are written straight to the file: a crash loses none, and there is no queue to overflow.
fn daily_file(path: &Path, keep: NonZeroUsize) -> Result<RollingFileAppender, TelemetryError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // The whole name is the prefix, and there is no suffix: old files are found by prefix, and with "arc" + "log" the
    // files of an "arc-api.log" in the same folder would be taken for ours and deleted.
    RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix(path.file_name().unwrap_or_default().to_string_lossy())
        .max_log_files(keep.get())
        .build(folder)
        .map_err(|source| TelemetryError::File { path: path.to_owned(), source })
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

fn layer(format: LogFormat, writer: BoxMakeWriter) -> BoxedLayer {
    match format {
        LogFormat::Structured => tracing_subscriber::fmt::layer()
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines { clock: Arc::new(SystemClock) })
            .with_writer(writer)
            .boxed(),
        LogFormat::Text => tracing_subscriber::fmt::layer()
            .fmt_fields(DefaultFields::new())
            .with_timer(UtcMillis(Arc::new(SystemClock)))
            .with_ansi(false)
            .with_writer(writer)
            .boxed(),
    }
}

struct UtcMillis(Arc<dyn Clock>);

impl FormatTime for UtcMillis {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        w.write_str(&self.0.now().to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

/// Writes an event as one line of JSON.
struct JsonLines {
    clock: Arc<dyn Clock>,
}

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
            if let Some(formatted) = span.extensions().get::<FormattedFields<JsonFields>>()
                && let Ok(Value::Object(of_span)) = serde_json::from_str(&formatted.fields)
            {
                of_span.into_iter().for_each(|(name, value)| fields.set(&name, value));
            }
        }
        event.record(&mut fields);
        let metadata = event.metadata();
        let timestamp = self.clock.now().to_rfc3339_opts(SecondsFormat::Millis, true);
        write!(
            writer,
            r#"{{"timestamp":"{timestamp}","level":"{}","logger":{},"message":{}"#,
            metadata.level(),
            Value::from(metadata.target()),
            Value::from(fields.message),
        )?;
        for (name, value) in fields.others {
            write!(writer, ",{}:{value}", Value::from(name))?;
        }
        writeln!(writer, "}}")
    }
}

/// The fields of an event, in the order in which they were first given.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(String, Value)>,
}

impl Fields {
    fn set(&mut self, name: &str, value: Value) {
        // A field that is called like one of the standard keys would make the object ambiguous.
        let name = match name {
            "timestamp" | "level" | "logger" => format!("{name}_"),
            _ => name.to_owned(),
        };
        match self.others.iter_mut().find(|(existing, _)| *existing == name) {
            Some((_, existing)) => *existing = value,
            None => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.set(field.name(), value.into());
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            // Many errors have their cause in their own message already.
            let message = cause.to_string();
            if !text.contains(&message) {
                text = format!("{text}: {message}");
            }
            source = cause.source();
        }
        self.set(field.name(), text.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinity and no NaN; `Value` makes them null.
        self.set(field.name(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::clock::ManualClock;

    /// Collects what is written.
    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Memory {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn logged(level: Level, emit: impl FnOnce()) -> String {
        let memory = Memory::default();
        let clock = ManualClock::at("2025-10-08T16:05:00.1239Z".parse().unwrap());
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines { clock: Arc::new(clock) })
            .with_writer(memory.clone());
        let subscriber = tracing_subscriber::registry().with(layer).with(LevelFilter::from_level(level));
        tracing::subscriber::with_default(subscriber, emit);
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_has_the_four_keys_then_the_fields() {
        let line = logged(Level::INFO, || {
            tracing::info!(target: "storage.compaction", files = 72_u64, ratio = 0.858, database = "prod", done = true,
                "Starting compaction job {}", "cpu_2025_10_08_14");
        });
        assert_eq!(
            line,
            concat!(
                r#"{"timestamp":"2025-10-08T16:05:00.123Z","level":"INFO","logger":"storage.compaction","#,
                r#""message":"Starting compaction job cpu_2025_10_08_14","files":72,"ratio":0.858,"database":"prod","done":true}"#,
                "\n"
            )
        );
    }

    #[test]
    fn any_text_stays_one_line_of_json() {
        let nasty = "a \"quoted\"\n{\u{1b}[31m} \\ line \u{2028}";
        let line = logged(Level::INFO, || {
            tracing::warn!(target: "api", name = nasty, nan = f64::NAN, debug = ?Some("x\ny"), "{nasty}");
        });
        assert_eq!(line.matches('\n').count(), 1);
        let parsed: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["message"], nasty);
        assert_eq!(parsed["name"], nasty);
        assert_eq!(parsed["nan"], Value::Null);
        assert_eq!(parsed["debug"], "Some(\"x\\ny\")");
    }

    #[test]
    fn fields_cannot_shadow_the_standard_keys_and_the_event_wins_over_its_spans() {
        let line = logged(Level::INFO, || {
            let _outer = tracing::info_span!("outer", job_id = "a", database = "prod").entered();
            let _inner = tracing::info_span!("inner", job_id = "b").entered();
            tracing::error!(target: "t", level = "fake", files = 1_i64, "m");
        });
        assert_eq!(
            line,
            concat!(
                r#"{"timestamp":"2025-10-08T16:05:00.123Z","level":"ERROR","logger":"t","message":"m","#,
                r#""database":"prod","job_id":"b","level_":"fake","files":1}"#,
                "\n"
            )
        );
    }

    #[derive(Debug, thiserror::Error)]
    #[error("upload failed")]
    struct Silent(#[source] Talkative);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write: {0}")]
    struct Talkative(#[source] io::Error);

    #[test]
    fn an_error_is_written_with_each_of_its_causes_once() {
        let error = Silent(Talkative(io::Error::other("disk on fire")));
        let line = logged(Level::INFO, || {
            tracing::error!(target: "t", error = &error as &(dyn std::error::Error + 'static), "m");
        });
        let parsed: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["error"], "upload failed: cannot write: disk on fire");
    }

    #[test]
    fn events_below_the_level_are_dropped() {
        let lines = logged(Level::WARN, || {
            tracing::info!("dropped");
            tracing::warn!("kept");
        });
        assert_eq!(lines.lines().count(), 1);
        assert!(lines.contains("kept"));
    }

    #[test]
    fn the_daily_file_is_created_with_its_folder_and_only_its_own_old_files_are_pruned() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("logs");
        std::fs::create_dir(&logs).unwrap();
        for name in ["arc.log.2020-01-01", "arc.log.2020-01-02", "arc-api.log.2020-01-01", "notes.txt"] {
            std::fs::write(logs.join(name), "x").unwrap();
        }
        let appender = daily_file(&logs.join("arc.log"), NonZeroUsize::new(2).unwrap()).unwrap();
        drop(appender);
        let mut names: Vec<String> =
            std::fs::read_dir(&logs).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert!(names.contains(&"arc-api.log.2020-01-01".to_owned()));
        assert!(names.contains(&"notes.txt".to_owned()));
        assert_eq!(names.iter().filter(|name| name.starts_with("arc.log.")).count(), 2, "{names:?}");
        assert!(daily_file(&dir.path().join("new/folder/arc.log"), NonZeroUsize::MIN).is_ok());
    }
}
