//! Configuration: where values come from, what they may be, and the typed settings that they become.
//!
//! ```text
//! defaults  <  file (arc.conf)  <  environment  <  flags        the last one that says something wins, key by key
//!      └──────────┴───────┬───────────┴───────────┘
//!              keys: ONE table of every key              name, variable, type, unit, default, range, why, setter
//!                         │
//!                      Config                            typed settings + the source of every value
//! ```
//!
//! What must hold: nothing is silently ignored, clamped or half-applied. An unknown key or variable, a value of the
//! wrong type or out of range, and a file that cannot be read are errors, and all of them are reported at once, each
//! with its place and the rule. A key is in the table exactly when changing it changes what this version does.
//!
//! Relative paths are relative to the current directory, whatever file they stand in. The environment of the process is
//! read in one place, [`Input::of_process`].
//!
//! Deliberately not here: command line parsing (`cli`), and anything that acts on a setting.

mod blank;
mod checks;
mod environment;
mod file;
mod keys;
mod object_stores;
mod problem;
mod rules;
mod suggest;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use crate::auth::settings::AuthSettings;
use crate::compaction::settings::{CompactionSettings, PartitionOverride, PartitionPatch};
use crate::schedule::Schedule;
use crate::scheduler::SchedulerSettings;
use crate::storage::settings::{AzureSettings, Environment, GcsSettings, S3Settings};
use crate::telemetry::LoggingSettings;

pub use keys::{KEYS, Key};
pub use problem::{ConfigError, Problem, Source};
pub use value::{Kind, Value};

/// The settings of everything, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub server: ServerSettings,
    pub auth: AuthSettings,
    pub compaction: CompactionSettings,
    pub storage: StorageSettings,
    pub state: StateSettings,
    pub logging: LoggingSettings,
    /// When cycles run, where no override says otherwise.
    pub schedule: Schedule,
    /// Whose wall clock the schedule follows.
    pub timezone: Tz,
    /// Sections of the file that belong to other components of the server, in the order of their names.
    pub foreign_sections: Vec<String>,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// Every key with its value and source, in the order of the table; then the overrides.
    entries: Vec<Entry>,
}

/// Where the server listens, and how long it takes to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// An address or a name for one.
    pub host: String,
    /// 0: any free one.
    pub port: u16,
    /// From the wish to stop until what is not done is abandoned.
    pub shutdown_timeout: Duration,
}

/// Where the data is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageSettings {
    pub backend: Backend,
    pub local: LocalStorageSettings,
    pub s3: S3Settings,
    pub minio: S3Settings,
    pub ceph: S3Settings,
    pub gcs: GcsSettings,
    pub azure: AzureSettings,
}

/// What kind of storage holds the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A folder of this machine.
    Local,
    /// Amazon S3, or another store that speaks its protocol.
    S3,
    /// `MinIO`: S3 with an endpoint.
    Minio,
    /// Ceph: S3 with an endpoint.
    Ceph,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

impl Backend {
    /// The name that the configuration has for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::S3 => "s3",
            Self::Minio => "minio",
            Self::Ceph => "ceph",
            Self::Gcs => "gcs",
            Self::Azure => "azure",
        }
    }
}

/// Storage in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalStorageSettings {
    /// The folder that holds the databases.
    pub base_path: PathBuf,
}

/// The state that is not data: locks and history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSettings {
    /// The SQLite file.
    pub db_path: PathBuf,
}

/// One effective value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The dotted name; for an override `compaction.override.N.key`, with N counting from 0.
    pub key: String,
    /// The value; a secret is masked already.
    pub value: Value,
    pub source: Source,
    /// What the reader should know about this value.
    pub note: Option<String>,
}

/// Everything that a configuration is made from.
#[derive(Debug, Clone, Default)]
pub struct Input {
    /// The file that the user named. It must exist.
    pub file: Option<PathBuf>,
    /// The file that is read when nobody named one. It need not exist.
    pub default_file: Option<PathBuf>,
    /// Names and values of environment variables.
    pub environment: Vec<(OsString, OsString)>,
    /// What command-line flags say.
    pub flags: Vec<Flag>,
}

/// A command-line flag that sets a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// The dotted name of the key.
    pub key: &'static str,
    pub value: String,
    /// As the user wrote it, `--log-level`.
    pub flag: &'static str,
}

impl Input {
    /// This process: its environment, `./arc.conf`, and what its command line said.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        Self { file, default_file: Some("./arc.conf".into()), environment: std::env::vars_os().collect(), flags }
    }
}

/// What the sources said so far: the latest value of each key, the overrides, and everything that is wrong.
#[derive(Debug, Default)]
struct Found {
    values: BTreeMap<&'static str, (Value, Source)>,
    overrides: Vec<Override>,
    foreign_sections: Vec<String>,
    credentials: Environment,
    problems: Vec<Problem>,
}

/// An `[[compaction.override]]` whose values have been checked.
#[derive(Debug)]
struct Override {
    database: String,
    measurement: String,
    source: Source,
    values: Vec<(&'static Key, Value, Source)>,
}

impl Config {
    /// Reads all sources.
    ///
    /// # Errors
    /// Every problem of every source.
    pub fn load(input: &Input) -> Result<Self, ConfigError> {
        let mut found = Found::default();
        for key in KEYS {
            found.values.insert(key.name, (key.default_value(), Source::Default));
        }
        let file = file::read(input, &mut found);
        environment::read(&input.environment, &mut found);
        for flag in &input.flags {
            let key = keys::find(flag.key).expect("flags name keys of the table");
            let source = Source::Flag(flag.flag.to_owned());
            found.assign(key, key.kind.parse(&flag.value), &flag.value, source);
        }
        checks::across_keys(&mut found);
        if found.problems.is_empty() { Ok(found.into_config(file)) } else { Err(ConfigError::new(found.problems)) }
    }

    /// What the scheduler works by.
    #[must_use]
    pub fn scheduler(&self) -> SchedulerSettings {
        SchedulerSettings { enabled: self.compaction.enabled, schedules: self.schedules(), timezone: self.timezone }
    }

    /// The first tick of any schedule after `now`, and that schedule.
    #[must_use]
    pub fn next_run(&self, now: DateTime<Utc>) -> Option<(DateTime<Utc>, Schedule)> {
        let ticks = self.schedules().into_iter().filter_map(|s| Some((s.next_after(now, self.timezone)?, s)));
        ticks.min_by_key(|(tick, _)| *tick)
    }

    /// Every schedule once, that of the service first.
    fn schedules(&self) -> Vec<Schedule> {
        let mut schedules = vec![self.schedule.clone()];
        for text in self.compaction.overrides.iter().filter_map(|o| o.set.schedule.as_deref()) {
            if schedules.iter().all(|known| known.as_str() != text) {
                schedules.push(Schedule::parse(text).expect("the table of keys lets no other text through"));
            }
        }
        schedules
    }

    /// Every key with its effective value and where that comes from.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Where the value of a key comes from. `None`: there is no such key.
    #[must_use]
    pub fn source(&self, key: &str) -> Option<&Source> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.source)
    }
}

/// The defaults, without file, environment and flags.
impl Default for Config {
    fn default() -> Self {
        Self::load(&Input::default()).expect("the defaults of the table are valid")
    }
}

impl Found {
    /// Takes a value that was read, or notes why it could not be. `written` is what the source says, for the message.
    fn assign(&mut self, key: &'static Key, value: Result<Value, String>, written: &str, source: Source) {
        match value {
            Ok(value) => {
                self.values.insert(key.name, (value, source));
            }
            Err(rule) => self.problems.push(Problem::with_value(key.name, key.shown(written), source, rule)),
        }
    }

    fn into_config(self, file: Option<PathBuf>) -> Config {
        let mut config = blank::blank();
        config.file = file;
        config.foreign_sections = self.foreign_sections;
        for key in KEYS {
            let (value, source) = &self.values[key.name];
            (key.set)(&mut config, value);
            config.entries.push(Entry {
                key: key.name.to_owned(),
                value: key.masked(value),
                source: source.clone(),
                note: None,
            });
        }
        let codec = &self.values["compaction.compression"].0;
        if *codec != Value::Text("zstd".to_owned()) {
            let level = config.entries.iter_mut().find(|entry| entry.key == "compaction.compression_level");
            level.expect("it is a key of the table").note = Some(format!("has no effect with {codec}"));
        }
        config.storage.take_environment(&self.credentials);
        config.note_what_the_environment_adds();
        for (index, o) in self.overrides.into_iter().enumerate() {
            o.apply(index, &mut config);
        }
        config
    }
}

impl StorageSettings {
    fn take_environment(&mut self, environment: &Environment) {
        let s3 = [&mut self.s3, &mut self.minio, &mut self.ceph].map(|s3| &mut s3.environment);
        for place in s3.into_iter().chain([&mut self.gcs.environment, &mut self.azure.environment]) {
            place.clone_from(environment);
        }
    }
}

impl Config {
    /// Whoever looks at an empty key of the backend in use is told which variable counts instead.
    fn note_what_the_environment_adds(&mut self) {
        let section = format!("storage.{}.", self.storage.backend.as_str());
        let environment = self.storage.s3.environment.clone();
        for entry in self.entries.iter_mut().filter(|entry| entry.value == Value::Text(String::new())) {
            let variables: &[&str] = match entry.key.strip_prefix(&section) {
                Some("region") => &["AWS_REGION", "AWS_DEFAULT_REGION"],
                Some("access_key") if self.storage.backend == Backend::Azure => &[
                    "AZURE_STORAGE_ACCOUNT_KEY",
                    "AZURE_STORAGE_ACCESS_KEY",
                    "AZURE_STORAGE_TOKEN",
                    "AZURE_CLIENT_ID",
                    "AZURE_STORAGE_CLIENT_ID",
                    "AZURE_STORAGE_SAS_TOKEN",
                    "AZURE_STORAGE_SAS_KEY",
                ],
                Some("access_key") => &["AWS_ACCESS_KEY_ID", "AWS_ROLE_ARN"],
                Some("secret_key") => &["AWS_SECRET_ACCESS_KEY"],
                Some("account") => &["AZURE_STORAGE_ACCOUNT_NAME"],
                Some("credentials_file") => &[
                    "GOOGLE_SERVICE_ACCOUNT_KEY",
                    "GOOGLE_APPLICATION_CREDENTIALS",
                    "GOOGLE_SERVICE_ACCOUNT",
                    "GOOGLE_SERVICE_ACCOUNT_PATH",
                ],
                _ => continue,
            };
            if let Some((variable, _)) = environment.first(variables) {
                entry.note = Some(format!("{variable} counts instead"));
            }
        }
    }
}

impl Override {
    fn apply(self, index: usize, config: &mut Config) {
        let mut result = PartitionOverride {
            database: self.database,
            measurement: self.measurement,
            set: PartitionPatch::default(),
        };
        let names = [("database", &result.database), ("measurement", &result.measurement)];
        for (name, value) in names {
            config.entries.push(Entry {
                key: format!("compaction.override.{index}.{name}"),
                value: Value::Text(value.clone()),
                source: self.source.clone(),
                note: None,
            });
        }
        for (key, value, source) in self.values {
            let patch = key.patch.expect("only keys that an override may set are kept");
            patch(&mut result.set, &value);
            config.entries.push(Entry {
                key: format!("compaction.override.{index}.{}", key.last_name()),
                value,
                source,
                note: None,
            });
        }
        config.compaction.overrides.push(result);
    }
}
