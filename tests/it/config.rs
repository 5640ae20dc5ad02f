//! Configuration from the outside: files, environment and flags go in; settings, or every problem at once, come out.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arc::compaction::settings::{Codec, Compression, Isolation, LockBackend, ParquetVersion, Verify};
use arc::config::{Config, ConfigError, Flag, Input, KEYS, Key, Kind, Source, Value};
use arc::partition::{Hour, PartitionId};
use arc::schedule::Schedule;
use arc::telemetry::LogFormat;
use tempfile::TempDir;

/// A file `arc.conf` with this text, and an environment.
struct Setup {
    dir: TempDir,
    input: Input,
}

impl Setup {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("arc.conf");
        std::fs::write(&path, text).unwrap();
        Self { input: Input { file: Some(path), ..Input::default() }, dir }
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.input.environment.push((name.into(), value.into()));
        self
    }

    fn flag(mut self, key: &'static str, value: &str, flag: &'static str) -> Self {
        self.input.flags.push(Flag { key, value: value.to_owned(), flag });
        self
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.input)
    }

    /// The problems, one a line, without the folder of the file.
    fn problems(&self) -> String {
        let error = self.load().expect_err("the configuration has problems");
        let lines: Vec<String> = error.problems().iter().map(ToString::to_string).collect();
        lines.join("\n").replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn with_env(name: &str, value: &str) -> Result<Config, ConfigError> {
    Config::load(&Input { environment: vec![(name.into(), value.into())], ..Input::default() })
}

fn repository_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn load_repository_file(name: &str) -> Config {
    Config::load(&Input { file: Some(repository_file(name)), ..Input::default() }).unwrap()
}

/// Everything that acts, without the sources.
fn typed(config: &Config) -> String {
    let Config { server, auth, compaction, storage, state, logging, schedule, timezone, .. } = config;
    format!("{server:#?}{auth:#?}{compaction:#?}{storage:#?}{state:#?}{logging:#?}{schedule}{timezone}")
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = Config::default();
    let hour = Duration::from_hours(1);
    let c = &config.compaction;
    assert!(c.enabled);
    assert_eq!(c.max_concurrent_jobs.get(), 2);
    assert_eq!(c.lock_ttl, 2 * hour);
    assert_eq!(c.temp_dir, Path::new("./data/compaction"));
    assert_eq!((c.max_temp_bytes, c.cycle_timeout, c.memory_limit_bytes, c.threads), (None, None, None, None));
    assert_eq!(c.isolation, Isolation::Process);
    assert_eq!(c.record_retention, 24 * hour);
    assert_eq!((c.max_attempts.get(), c.quarantine_retry, c.history_limit), (5, 24 * hour, 10_000));
    assert_eq!((c.recent_window, c.full_scan), (Some(48 * hour), 24 * hour));
    assert!(c.exclude_databases.is_empty() && c.overrides.is_empty());
    let policy = &c.partition.policy;
    assert_eq!((policy.min_age, policy.min_files, policy.settle), (hour, 10, Duration::from_secs(30)));
    assert_eq!((policy.late_data_max_wait, policy.max_side_files), (24 * hour, 4));
    assert!((policy.late_rewrite_ratio - 0.1).abs() < f64::EPSILON);
    assert_eq!(policy.target_file_size_bytes, 512 * 1024 * 1024);
    let merge = &c.partition.merge;
    assert_eq!(merge.compression, Compression::Zstd(3));
    assert_eq!(merge.parquet_version, ParquetVersion::V2);
    assert_eq!(merge.row_group_size.get(), 122_880);
    assert_eq!(merge.target_file_size_bytes, 512 * 1024 * 1024);
    assert_eq!((merge.sort_by.as_slice(), merge.time_column.as_str()), (["time".to_owned()].as_slice(), "time"));
    assert_eq!(merge.verify, Verify::Content);
    assert_eq!(config.storage.local.base_path, Path::new("./data/arc"));
    assert_eq!(config.state.db_path, Path::new("./data/arc.db"));
    assert_eq!(config.logging.level, tracing::Level::INFO);
    assert_eq!((config.logging.format, &config.logging.file), (LogFormat::Structured, &None));
    assert_eq!(config.logging.keep_days.get(), 14);
    assert_eq!((config.schedule.as_str(), config.timezone.name()), ("5 * * * *", "UTC"));
    let server = &config.server;
    assert_eq!((server.host.as_str(), server.port, server.shutdown_timeout.as_secs()), ("127.0.0.1", 8000, 60));
    assert!(config.auth.enabled && config.auth.default_token.is_none());
    assert_eq!(config.auth.allowlist, ["/health", "/ready"]);
}

/// T61.
#[test]
fn the_example_file_has_every_key_with_its_default_unit_and_reason() {
    let config = load_repository_file("arc.conf.example");
    assert_eq!(typed(&config), typed(&Config::default()));
    for key in KEYS {
        let source = config.source(key.name).unwrap();
        assert!(matches!(source, Source::File { .. }), "{} is missing in arc.conf.example", key.name);
    }

    let text = std::fs::read_to_string(repository_file("arc.conf.example")).unwrap();
    let (mut section, mut comment) = (String::new(), String::new());
    let mut seen = 0;
    for line in text.lines() {
        if let Some(text) = line.strip_prefix("# ") {
            comment.push_str(text);
            comment.push(' ');
        } else if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if let Some((name, value)) = line.split_once(" = ") {
            let name = format!("{section}.{name}");
            let key = KEYS.iter().find(|key| key.name == name).unwrap_or_else(|| panic!("{name} is not a key"));
            assert_eq!(value, key.default_value().to_string(), "{name}");
            for part in [key.why, key.unit, key.variable] {
                assert!(comment.contains(part), "{name}: the comment does not say {part:?}");
            }
            if let Kind::Integer(range) = &key.kind {
                let range = format!("{} to {}", range.start(), range.end());
                assert!(comment.contains(&range), "{name}: the comment does not say {range}");
            }
            seen += 1;
        }
        if !line.starts_with('#') {
            comment.clear();
        }
    }
    assert_eq!(seen, KEYS.len());
}

#[test]
fn the_override_of_the_example_file_works_when_its_comment_signs_are_taken_away() {
    let text = std::fs::read_to_string(repository_file("arc.conf.example")).unwrap();
    let (rest, example) = text.split_once("# [[compaction.override]]").unwrap();
    let text = format!("{rest}[[compaction.override]]{}", example.replace("\n# ", "\n"));
    let config = Setup::new(&text).load().unwrap();
    assert_eq!(config.compaction.overrides.len(), 1);
    let list = rest.rsplit("May be set here: ").next().unwrap();
    let named: Vec<&str> = list.split([',', ' ', '#', '\n', '.']).filter(|name| !name.is_empty()).collect();
    for name in named {
        let text = format!("[[compaction.override]]\ndatabase = 'a'\nmeasurement = '*'\n{name} = 'no such value'");
        let problem = Setup::new(&text).load().err().map(|e| e.to_string()).unwrap_or_default();
        assert!(!problem.contains("unknown") && !problem.contains("cannot be set"), "{name}: {problem}");
    }
}

/// T59, the half that configuration can show: the value arrives in the settings.
#[test]
fn changing_any_key_by_its_variable_changes_the_settings() {
    let default = typed(&Config::default());
    for key in KEYS {
        let value = other_value(key).expect("every key has a choice");
        if key.name == "storage.backend" {
            let text = format!("[storage.{value}]\nbucket = 'data'\n");
            let config = Setup::new(&text).env(key.variable, &value).load().unwrap();
            assert_eq!(config.storage.backend.as_str(), value);
            continue;
        }
        if key.name == "compaction.lock_backend" {
            let text = "[storage]\nbackend = 's3'\n[storage.s3]\nbucket = 'data'\n";
            let config = Setup::new(text).env(key.variable, &value).load().unwrap();
            assert_eq!(config.compaction.lock_backend, LockBackend::Storage);
            continue;
        }
        let config = with_env(key.variable, &value).unwrap_or_else(|e| panic!("{}: {e}", key.variable));
        assert_ne!(typed(&config), default, "{} = {value} changes nothing", key.name);
        assert_eq!(config.source(key.name), Some(&Source::Environment(key.variable.to_owned())));
    }
}

/// A valid value that is not the default.
fn other_value(key: &Key) -> Option<String> {
    let default = key.default_value();
    match (&key.kind, &default) {
        (_, Value::Bool(b)) => Some((!b).to_string()),
        (Kind::Integer(range), Value::Integer(n)) => {
            Some(if n == range.end() { range.start().to_string() } else { (n + 1).to_string() })
        }
        (_, Value::Number(n)) => Some((n + 0.5).to_string()),
        (Kind::Choice(words), Value::Text(text)) => {
            words.iter().find(|word| *word != text).map(|word| (*word).to_owned())
        }
        (_, Value::List(_)) if key.name == "auth.allowlist" => Some("/health,/metrics".to_owned()),
        (_, Value::List(_)) => Some("other,names".to_owned()),
        _ => Some(
            match key.name {
                "server.host" => "0.0.0.0",
                "storage.azure.endpoint" => "https://elsewhere",
                name if name.starts_with("storage.") && name.ends_with(".prefix") => "elsewhere/else",
                name if name.starts_with("storage.") && !name.ends_with("_path") => "elsewhere",
                "compaction.schedule" => "7 * * * *",
                "compaction.schedule_timezone" => "Europe/Berlin",
                _ => "./elsewhere/else",
            }
            .to_owned(),
        ),
    }
}

#[test]
fn the_documented_variables_have_their_documented_effect() {
    let setup = Setup::new("")
        .env("COMPACTION_ENABLED", "No")
        .env("COMPACTION_MIN_AGE_HOURS", "0")
        .env("COMPACTION_MIN_FILES", "7")
        .env("COMPACTION_TARGET_FILE_SIZE_MB", "64")
        .env("COMPACTION_SCHEDULE", "*/15 * * * *")
        .env("COMPACTION_MAX_CONCURRENT_JOBS", "3")
        .env("COMPACTION_LOCK_TTL_HOURS", "4")
        .env("COMPACTION_TEMP_DIR", "/var/tmp/arc")
        .env("COMPACTION_COMPRESSION", "ZSTD")
        .env("COMPACTION_COMPRESSION_LEVEL", "9")
        .env("COMPACTION_SORT_BY", "host, time")
        .env("COMPACTION_EXCLUDE_DATABASES", "scratch,tests")
        .env("COMPACTION_THREADS", "2")
        .env("ARC_HOST", "::1")
        .env("ARC_PORT", "0")
        .env("AUTH_ENABLED", "off")
        .env("AUTH_ALLOWLIST", "/health, /metrics")
        .env("DEFAULT_API_TOKEN", "sesame")
        .env("LOG_LEVEL", "debug")
        .env("LOG_FORMAT", "text")
        .env("UNRELATED", "x");
    let config = setup.load().unwrap();
    let c = &config.compaction;
    assert!(!c.enabled);
    assert_eq!((c.partition.policy.min_age, c.partition.policy.min_files), (Duration::ZERO, 7));
    assert_eq!(c.partition.merge.target_file_size_bytes, 64 * 1024 * 1024);
    assert_eq!(c.partition.policy.target_file_size_bytes, 64 * 1024 * 1024);
    assert_eq!(config.schedule.as_str(), "*/15 * * * *");
    assert_eq!((c.max_concurrent_jobs.get(), c.lock_ttl), (3, Duration::from_hours(4)));
    assert_eq!(c.temp_dir, Path::new("/var/tmp/arc"));
    assert_eq!(c.partition.merge.compression, Compression::Zstd(9));
    assert_eq!(c.partition.merge.sort_by, ["host", "time"]);
    assert_eq!(c.exclude_databases, ["scratch", "tests"]);
    assert_eq!(c.threads, NonZeroUsize::new(2));
    assert_eq!((config.logging.level, config.logging.format), (tracing::Level::DEBUG, LogFormat::Text));
    assert_eq!((config.server.host.as_str(), config.server.port), ("::1", 0));
    assert!(!config.auth.enabled);
    assert_eq!(config.auth.allowlist, ["/health", "/metrics"]);
    assert_eq!(config.auth.default_token.as_ref().map(arc::auth::Secret::reveal), Some("sesame"));
}

/// What is secret is shown by nothing.
#[test]
fn the_default_token_is_masked_wherever_the_configuration_is_shown() {
    let config = Setup::new("[auth]\ndefault_token = 'sesame-opens'\n").load().unwrap();
    let mut shown = Vec::new();
    arc::cli::config::show(&config, true, &mut shown).unwrap();
    arc::cli::config::show(&config, false, &mut shown).unwrap();
    let shown = format!("{}{config:?}{config:#?}", String::from_utf8(shown).unwrap());
    assert!(!shown.contains("sesame"), "{shown}");
    assert!(shown.contains("********"));
}

/// T60: what the environment leaves alone keeps what the file says.
#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults_key_by_key() {
    let text = "[compaction]\nmin_files = 3\nmin_age_hours = 5\n[logging]\nlevel = 'warn'\n";
    let setup = Setup::new(text).env("COMPACTION_MIN_FILES", "4").env("LOG_LEVEL", "error").flag(
        "logging.level",
        "trace",
        "--log-level",
    );
    let config = setup.load().unwrap();
    let source = |key: &str| config.source(key).unwrap().to_string();
    let policy = &config.compaction.partition.policy;
    assert_eq!((policy.min_files, source("compaction.min_files").as_str()), (4, "COMPACTION_MIN_FILES"));
    assert_eq!(policy.min_age, Duration::from_hours(5));
    assert!(source("compaction.min_age_hours").ends_with("arc.conf:3"));
    assert_eq!((config.logging.level, source("logging.level").as_str()), (tracing::Level::TRACE, "--log-level"));
    assert_eq!((policy.max_side_files, source("compaction.max_side_files").as_str()), (4, "default"));
}

#[test]
fn every_problem_is_reported_at_once_with_place_value_and_rule() {
    let text = "\
[compaction]
min_fils = 5
compression_level = 10
enabled = 'maybe'
schedule = '0 5 * * * *'
sort_by = ['time', 'time']
lock_ttl_hours = 0
lock_backend = 'zookeeper'
late_rewrite_ratio = -0.5

[server]
port = 65536
host = 'localhost:80'

[auth]
allowlist = ['/health', 'ready']
default_token = 'two words'

[storage]
backend = 'tape'
local = 5

[colours]
sky = 'blue'

[[compaction.override]]
database = 'a'
measurement = '*'
min_files = 'x'
temp_dir = '/tmp'
schedule = 'hourly'

[[compaction.override]]
database = 'a/b'
min_files = 2
";
    let setup = Setup::new(text)
        .env("COMPACTION_MIN_FILE", "5")
        .env("COMPACTION_MIN_FILES", "-1")
        .env("COMPACTION_SCHEDULE_TIMEZONE", "Mars/Olympus")
        .flag("logging.level", "loud", "--log-level");
    assert_eq!(
        setup.problems(),
        "\
arc.conf:2: compaction.min_fils: unknown key, did you mean compaction.min_files?
arc.conf:3: compaction.compression_level = 10: must be a whole number from 1 to 9
arc.conf:4: compaction.enabled = 'maybe': must be true or false (also 1, 0, yes, no, on, off)
arc.conf:5: compaction.schedule = '0 5 * * * *': must be a five-field cron schedule: a schedule has five fields (minute hour day-of-month month day-of-week), this one has 6
arc.conf:6: compaction.sort_by = ['time', 'time']: must not name \"time\" twice
arc.conf:7: compaction.lock_ttl_hours = 0: must be a whole number from 1 to 87840
arc.conf:8: compaction.lock_backend = 'zookeeper': must be one of \"sqlite\", \"storage\"
arc.conf:9: compaction.late_rewrite_ratio = -0.5: must be a number from 0 to 100
arc.conf:12: server.port = 65536: must be a whole number from 0 to 65535
arc.conf:13: server.host = 'localhost:80': must be an address such as 127.0.0.1 or ::1, or a name, without a port
arc.conf:16: auth.allowlist = ['/health', 'ready']: \"ready\" is no exact path: it begins with a slash and has no space, ?, # or *
arc.conf:17: auth.default_token = ********: must have no spaces and only visible ASCII characters, or be empty
arc.conf:20: storage.backend = 'tape': must be one of \"local\", \"s3\", \"minio\", \"ceph\", \"gcs\", \"azure\"
arc.conf:21: storage.local = 5: is a section, not a value
arc.conf:23: colours: unknown key
arc.conf:29: compaction.override.0.min_files = 'x': must be a whole number from 1 to 1000000, this is a string
arc.conf:30: compaction.override.0.temp_dir = '/tmp': holds for the whole service and cannot be set in an override
arc.conf:31: compaction.override.0.schedule = 'hourly': must be a five-field cron schedule: a schedule has five fields (minute hour day-of-month month day-of-week), this one has 1
arc.conf:33: compaction.override.1: needs measurement: a name, or \"*\" for every one
arc.conf:34: compaction.override.1.database = 'a/b': \"a/b\" has a slash and is no name
COMPACTION_MIN_FILE: unknown variable, did you mean COMPACTION_MIN_FILES?
COMPACTION_MIN_FILES: compaction.min_files = -1: must be a whole number from 1 to 1000000
COMPACTION_SCHEDULE_TIMEZONE: compaction.schedule_timezone = Mars/Olympus: must be an IANA time zone such as UTC or Europe/Berlin
--log-level: logging.level = loud: must be one of \"TRACE\", \"DEBUG\", \"INFO\", \"WARN\", \"ERROR\""
    );
}

#[test]
fn a_bad_value_is_a_problem_even_where_a_better_source_wins() {
    let setup = Setup::new("[compaction]\nmin_files = 0\n").env("COMPACTION_MIN_FILES", "4");
    assert!(setup.problems().starts_with("arc.conf:2: compaction.min_files = 0:"));
}

#[test]
fn broken_toml_is_reported_with_its_line_and_the_other_sources_are_still_checked() {
    let setup = Setup::new("[compaction]\nmin_files = = 3\n").env("COMPACTION_THREADS", "many");
    let problems = setup.problems();
    assert!(problems.starts_with("arc.conf:2: not valid TOML: "), "{problems}");
    assert!(problems.contains("COMPACTION_THREADS: compaction.threads = many:"), "{problems}");
    let twice = Setup::new("[compaction]\nmin_files = 3\nmin_files = 4\n").problems();
    assert!(twice.starts_with("arc.conf:3: not valid TOML: "), "{twice}");
}

#[test]
fn a_dot_inside_of_quotes_makes_no_section() {
    let problems = Setup::new("\"compaction.min_files\" = 3\n").problems();
    assert_eq!(problems, "arc.conf:1: compaction.min_files = 3: unknown key: the dot is inside of the quotes");
    Setup::new("compaction.min_files = 3\n").load().unwrap();
}

#[test]
fn a_file_that_was_asked_for_must_be_there_and_readable() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("no.conf");
    let by_flag = Config::load(&Input { file: Some(missing.clone()), ..Input::default() }).unwrap_err().to_string();
    assert!(by_flag.contains("cannot read the configuration file (named by --config)"), "{by_flag}");
    let by_variable = with_env("ARC_CONFIG_FILE", missing.to_str().unwrap()).unwrap_err().to_string();
    assert!(by_variable.contains("(named by ARC_CONFIG_FILE)"), "{by_variable}");
    // The default file may be missing, but not unreadable: a folder is not a file.
    Config::load(&Input { default_file: Some(missing), ..Input::default() }).unwrap();
    let unreadable = Input { default_file: Some(dir.path().to_owned()), ..Input::default() };
    assert!(Config::load(&unreadable).unwrap_err().to_string().contains("cannot read the configuration file:"));
    std::fs::write(dir.path().join("latin1.conf"), b"# caf\xe9\n").unwrap();
    let latin1 = Input { file: Some(dir.path().join("latin1.conf")), ..Input::default() };
    assert!(Config::load(&latin1).unwrap_err().to_string().contains("must be valid UTF-8"));
}

#[test]
fn the_file_is_searched_by_flag_then_variable_then_default() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, min_files: usize| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("[compaction]\nmin_files = {min_files}\n")).unwrap();
        path
    };
    let (flag, variable, default) = (file("flag", 21), file("variable", 22), file("default", 23));
    let mut input = Input { default_file: Some(default.clone()), ..Input::default() };
    let min_files = |input: &Input| {
        let config = Config::load(input).unwrap();
        (config.compaction.partition.policy.min_files, config.file.unwrap())
    };
    assert_eq!(min_files(&input), (23, default));
    input.environment.push(("ARC_CONFIG_FILE".into(), variable.clone().into()));
    assert_eq!(min_files(&input), (22, variable));
    input.file = Some(flag.clone());
    assert_eq!(min_files(&input), (21, flag));
}

#[cfg(unix)]
#[test]
fn variables_that_are_not_text_are_a_problem_only_when_they_are_ours() {
    use std::os::unix::ffi::OsStringExt;
    let not_text = || OsString::from_vec(vec![b'5', 0xff]);
    let mut input = Input { environment: vec![("HOME".into(), not_text())], ..Input::default() };
    input.environment.push((not_text(), not_text()));
    Config::load(&input).unwrap();
    input.environment.push(("COMPACTION_MIN_FILES".into(), not_text()));
    let error = Config::load(&input).unwrap_err();
    assert_eq!(error.problems().len(), 1);
    assert!(error.to_string().contains("COMPACTION_MIN_FILES: compaction.min_files: must be valid UTF-8"), "{error}");
}

#[test]
fn the_temp_folder_and_storage_must_lie_apart() {
    let load = |base: &str, temp: &str| {
        Setup::new("").env("STORAGE_LOCAL_BASE_PATH", base).env("COMPACTION_TEMP_DIR", temp).load()
    };
    for (base, temp, relation) in [
        ("/srv/arc", "/srv/arc/tmp", "must not lie inside"),
        ("/srv/arc", "/srv/arc", "must not be"),
        ("/srv/arc/data", "/srv/arc", "must not contain"),
        ("./data", "data/x/../tmp", "must not lie inside"),
        ("/srv/arc/../arc", "/srv/./arc/tmp", "must not lie inside"),
    ] {
        let error = load(base, temp).expect_err(temp).to_string();
        assert!(error.contains(relation), "{base} {temp}: {error}");
        assert!(error.contains(base) && error.contains(temp), "{error}");
    }
    for (base, temp) in [("/srv/arc", "/srv/arc-tmp"), ("/srv/arc", "/srv/arc/../tmp"), ("./data/a", "./data/b")] {
        load(base, temp).unwrap();
    }
}

#[test]
fn locks_are_not_kept_in_a_folder_that_has_no_compare_and_swap() {
    let problems = Setup::new("[compaction]\nlock_backend = 'storage'\n").problems();
    assert_eq!(
        problems,
        "arc.conf:2: compaction.lock_backend = \"storage\": must be \"sqlite\" with storage.backend = local: a folder has no \
         compare-and-swap, and the state database excludes all processes that share it"
    );
}

#[test]
fn sections_of_other_components_are_left_alone_and_named() {
    let text = "[wal]\nenabled = true\n[duckdb]\nmemory_limit = '8GB'\n[compaction]\nmin_files = 3\n";
    let config = Setup::new(text).load().unwrap();
    assert_eq!(config.foreign_sections, ["duckdb", "wal"]);
    assert_eq!(Setup::new("wal = 3\n").problems(), "arc.conf:1: wal: unknown key");
}

#[test]
fn overrides_apply_in_order_and_key_by_key() {
    let text = "\
[compaction]
compression_level = 7

[[compaction.override]]
database = 'fast'
measurement = '*'
compression = 'snappy'
min_files = 2
sort_by = ['host', 'time']

[[compaction.override]]
database = '*'
measurement = 'cpu'
compression_level = 9
min_age_hours = 6
target_file_size_mb = 64

[[compaction.override]]
database = 'fast'
measurement = 'mem'
compression = 'zstd'
";
    let config = Setup::new(text).load().unwrap();
    let settings = |database: &str, measurement: &str| {
        let hour = Hour::from_ymdh(2025, 10, 8, 14).unwrap();
        config.compaction.for_partition(&PartitionId::new(database, measurement, hour).unwrap())
    };
    assert_eq!(settings("other", "disk"), config.compaction.partition);
    // A level for everyone does not bring zstd back where another override chose snappy.
    let fast_cpu = settings("fast", "cpu");
    assert_eq!((fast_cpu.codec(), fast_cpu.merge.compression), (Codec::Snappy, Compression::Snappy));
    assert_eq!((fast_cpu.policy.min_files, fast_cpu.policy.min_age), (2, Duration::from_hours(6)));
    assert_eq!(fast_cpu.merge.sort_by, ["host", "time"]);
    assert_eq!(fast_cpu.merge.target_file_size_bytes, 64 * 1024 * 1024);
    assert_eq!(fast_cpu.policy.target_file_size_bytes, 64 * 1024 * 1024);
    assert_eq!(settings("other", "cpu").merge.compression, Compression::Zstd(9));
    // Back to zstd, at the level of the service.
    assert_eq!(settings("fast", "mem").merge.compression, Compression::Zstd(7));

    let keys: Vec<&str> =
        config.entries().iter().map(|entry| entry.key.as_str()).filter(|key| key.contains("override.2")).collect();
    assert_eq!(
        keys,
        ["compaction.override.2.database", "compaction.override.2.measurement", "compaction.override.2.compression"]
    );
}

#[test]
fn the_scheduler_gets_every_schedule_once_and_the_next_run_is_that_of_any() {
    let text = "\
[compaction]
schedule_timezone = 'Asia/Kolkata'
[[compaction.override]]
database = 'staging'
measurement = '*'
schedule = ' */15 * * * * '
[[compaction.override]]
database = '*'
measurement = 'cpu'
schedule = '*/15 * * * *'
[[compaction.override]]
database = 'prod'
measurement = '*'
schedule = '5 * * * *'
";
    let config = Setup::new(text).load().unwrap();
    let settings = config.scheduler();
    let schedules: Vec<&str> = settings.schedules.iter().map(Schedule::as_str).collect();
    assert_eq!(schedules, ["5 * * * *", "*/15 * * * *"]);
    assert_eq!((settings.enabled, settings.timezone.name()), (true, "Asia/Kolkata"));
    assert_eq!(config.compaction.schedule_of("staging", "mem"), "*/15 * * * *");
    assert_eq!(config.compaction.schedule_of("prod", "cpu"), "5 * * * *");
    let (time, schedule) = config.next_run("2025-10-08T15:40:00Z".parse().unwrap()).unwrap();
    assert_eq!((time.to_rfc3339().as_str(), schedule.as_str()), ("2025-10-08T15:45:00+00:00", "*/15 * * * *"));
}

/// T59, for overrides.
#[test]
fn every_key_of_an_override_changes_the_settings_of_the_partitions_it_names_and_of_no_other() {
    let mut overridable = Vec::new();
    for key in KEYS.iter().filter(|key| key.section() == "compaction") {
        let other = other_value(key).expect("every key of this section has a choice");
        let value = match key.default_value() {
            Value::Text(_) => format!("'{other}'"),
            Value::List(_) => format!("['{}']", other.replace(',', "','")),
            _ => other,
        };
        let name = key.last_name();
        let text = format!("[[compaction.override]]\ndatabase = 'db'\nmeasurement = 'cpu'\n{name} = {value}\n");
        let config = match Setup::new(&text).load() {
            Ok(config) => config,
            Err(error) => {
                let error = error.to_string();
                let reasons = ["cannot be set in an override", "not supported by this version"];
                assert!(reasons.iter().any(|reason| error.contains(reason)), "{error}");
                continue;
            }
        };
        let settings = |measurement: &str| {
            let hour = Hour::from_ymdh(2025, 10, 8, 14).unwrap();
            config.compaction.for_partition(&PartitionId::new("db", measurement, hour).unwrap())
        };
        assert_ne!(settings("cpu"), config.compaction.partition, "{name} changes nothing");
        assert_eq!(settings("cpu_total"), config.compaction.partition, "{name}");
        overridable.push(name);
    }
    overridable.sort_unstable();
    assert_eq!(
        overridable,
        [
            "compression",
            "compression_level",
            "late_data_max_wait_hours",
            "late_rewrite_ratio",
            "max_side_files",
            "min_age_hours",
            "min_files",
            "parquet_version",
            "row_group_size",
            "schedule",
            "settle_seconds",
            "sort_by",
            "target_file_size_mb",
            "time_column",
            "verify",
        ]
    );
}

#[test]
fn an_override_must_say_for_whom_and_what() {
    assert_eq!(
        Setup::new("[[compaction.override]]\n").problems(),
        "arc.conf:1: compaction.override.0: needs database: a name, or \"*\" for every one\n\
         arc.conf:1: compaction.override.0: needs measurement: a name, or \"*\" for every one"
    );
    let nothing = Setup::new("[[compaction.override]]\ndatabase = 'a'\nmeasurement = 'b'\n").problems();
    assert!(nothing.contains("sets nothing"), "{nothing}");
    let table = Setup::new("[compaction.override]\nmin_files = 3\n").problems();
    assert!(table.contains("must be written as [[compaction.override]] sections"), "{table}");
}

#[test]
fn the_profiles_have_their_documented_values() {
    let table = [
        ("high-volume", 1, 10, 512, "5 * * * *", 4, Codec::Zstd, 3),
        ("low-volume", 0, 2, 256, "*/15 * * * *", 2, Codec::Snappy, 1),
        ("cost-optimized", 1, 5, 1024, "5 * * * *", 2, Codec::Zstd, 9),
        ("performance-first", 2, 50, 512, "0 3 * * *", 1, Codec::Snappy, 1),
    ];
    for (name, min_age_hours, min_files, target_mb, schedule, jobs, codec, level) in table {
        let config = load_repository_file(&format!("config/{name}.conf"));
        let partition = &config.compaction.partition;
        assert_eq!(partition.policy.min_age, Duration::from_hours(min_age_hours), "{name}");
        assert_eq!(partition.policy.min_files, min_files, "{name}");
        assert_eq!(partition.policy.target_file_size_bytes, target_mb * 1024 * 1024, "{name}");
        assert_eq!(config.schedule.as_str(), schedule, "{name}");
        assert_eq!(config.compaction.max_concurrent_jobs.get(), jobs, "{name}");
        assert_eq!((partition.codec(), partition.compression_level), (codec, level), "{name}");
        let foreign: &[&str] = if name == "high-volume" { &["ingestion"] } else { &[] };
        assert_eq!(config.foreign_sections, foreign, "{name}");
    }
    let text = std::fs::read_to_string(repository_file("config/high-volume.conf")).unwrap();
    assert!(text.contains("buffer_size = 200000\n") && text.contains("buffer_age_seconds = 10\n"));
}

#[test]
fn the_next_run_follows_schedule_and_time_zone() {
    let setup =
        Setup::new("[compaction]\nschedule = '0 3 * * *'\n").env("COMPACTION_SCHEDULE_TIMEZONE", "Europe/Berlin");
    let next = setup.load().unwrap().next_run("2025-07-01T12:00:00Z".parse().unwrap()).unwrap();
    assert_eq!(next.0.to_rfc3339(), "2025-07-02T01:00:00+00:00");
}

#[test]
fn show_prints_key_value_and_source_and_says_what_has_no_effect() {
    let text = "[compaction]\ncompression = 'snappy'\n[wal]\n";
    let setup = Setup::new(text).env("COMPACTION_MIN_FILES", "4");
    let config = setup.load().unwrap();
    let show = |json: bool| {
        let mut out = Vec::new();
        arc::cli::config::show(&config, json, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };

    let table = show(false);
    let row = |key: &str| {
        let line = table.lines().find(|line| line.split_whitespace().next() == Some(key)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("compaction.min_files"), "compaction.min_files 4 COMPACTION_MIN_FILES");
    assert!(row("compaction.compression").ends_with("arc.conf:2"));
    assert_eq!(
        row("compaction.compression_level"),
        "compaction.compression_level 3 (has no effect with \"snappy\") default"
    );
    assert_eq!(table.lines().last(), Some("not read here: [wal]"));
    assert_eq!(table.lines().count(), KEYS.len() + 1);

    let json: serde_json::Value = serde_json::from_str(&show(true)).unwrap();
    assert_eq!(json["compaction.min_files"], serde_json::json!({"value": 4, "source": "COMPACTION_MIN_FILES"}));
    assert_eq!(json["compaction.sort_by"]["value"], serde_json::json!(["time"]));
    assert_eq!(json.as_object().unwrap().len(), KEYS.len());
}
