//! The table of every key. Loading, `config show`, the suggestions for unknown names and the tests of the example file
//! all work from it.
//!
//! What must hold: a key stands here exactly when this version acts on it, and its default here is the only one.
//!
//! `[[compaction.override]]` is the one thing of the file that is not a row: its keys are the rows with a `patch`.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use super::object_stores::{
    access_key, account, amazon_endpoint, azure_endpoint, azure_key, bucket, credentials_file, endpoint, path_style,
    prefix, region, secret_key, secret_of, use_ssl,
};
use super::rules::{
    a_host, a_name, a_path, a_schedule, a_timezone, a_token, an_optional_file, columns, names_without_repetition,
    not_empty, paths,
};
use super::value::{Kind, Value};
use super::{Backend, Config};
use crate::compaction::settings::{
    Codec, Isolation, LockBackend, MergeOptions, ParquetVersion, PartitionPatch, PolicySettings, Verify,
};
use crate::schedule::Schedule;
use crate::telemetry::LogFormat;

/// A key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// The dotted name: section and key.
    pub name: &'static str,
    /// The environment variable.
    pub variable: &'static str,
    pub kind: Kind,
    /// What a number counts; empty for values without a unit.
    pub unit: &'static str,
    /// The default, written as in the environment.
    pub default: &'static str,
    /// One sentence for the person who edits the file.
    pub why: &'static str,
    /// Never shown.
    pub secret: bool,
    /// Makes the value hold.
    pub(super) set: fn(&mut Config, &Value),
    /// Makes the value hold for the partitions of an override. `None`: it holds for the whole service.
    pub(super) patch: Option<fn(&mut PartitionPatch, &Value)>,
}

const MIB: u64 = 1024 * 1024;
/// A petabyte, in MiB: large enough for any limit, small enough for 64 bits.
const MAX_MIB: u64 = 1 << 30;
const MAX_HOURS: u64 = 24 * 366 * 10;

/// Every key, by section, in the order of the example file.
pub const KEYS: &[Key] = &[
    Key {
        name: "server.host",
        variable: "ARC_HOST",
        kind: Kind::Text(a_host),
        unit: "",
        default: "127.0.0.1",
        why: "The address to listen on, or a name for it; 0.0.0.0 or :: is every address of this machine.",
        secret: false,
        set: |c, v| v.text().clone_into(&mut c.server.host),
        patch: None,
    },
    Key {
        name: "server.port",
        variable: "ARC_PORT",
        kind: Kind::Integer(0..=65_535),
        unit: "",
        default: "8000",
        why: "The TCP port to listen on; 0: any free one, which the first log line names.",
        secret: false,
        set: |c, v| c.server.port = u16::try_from(v.integer()).expect("the range ends at 65535"),
        patch: None,
    },
    Key {
        name: "server.shutdown_timeout_seconds",
        variable: "SERVER_SHUTDOWN_TIMEOUT_SECONDS",
        kind: Kind::Integer(0..=86_400),
        unit: "seconds",
        default: "60",
        why: "How long a stopping server waits for requests and jobs; what is not done by then is left for the next start.",
        secret: false,
        set: |c, v| c.server.shutdown_timeout = Duration::from_secs(v.integer()),
        patch: None,
    },
    Key {
        name: "auth.enabled",
        variable: "AUTH_ENABLED",
        kind: Kind::Bool,
        unit: "",
        default: "true",
        why: "false: everyone who reaches the port may do everything.",
        secret: false,
        set: |c, v| c.auth.enabled = v.bool(),
        patch: None,
    },
    Key {
        name: "auth.default_token",
        variable: "DEFAULT_API_TOKEN",
        kind: Kind::Text(a_token),
        unit: "",
        default: "",
        why: "An admin token that holds while it stands here, for automated set-ups; better in the variable than in a file.",
        secret: true,
        set: |c, v| c.auth.default_token = secret_of(v),
        patch: None,
    },
    Key {
        name: "auth.allowlist",
        variable: "AUTH_ALLOWLIST",
        kind: Kind::List(paths),
        unit: "",
        default: "/health,/ready",
        why: "Paths that need no token, exactly as they are requested.",
        secret: false,
        set: |c, v| c.auth.allowlist = v.list().to_vec(),
        patch: None,
    },
    Key {
        name: "storage.backend",
        variable: "STORAGE_BACKEND",
        kind: Kind::Choice(&["local", "s3", "minio", "ceph", "gcs", "azure"]),
        unit: "",
        default: "local",
        why: "Where the data is: a folder of this machine, or an object store; only its own section below counts.",
        secret: false,
        set: |c, v| c.storage.backend = backend(v),
        patch: None,
    },
    Key {
        name: "storage.local.base_path",
        variable: "STORAGE_LOCAL_BASE_PATH",
        kind: Kind::Text(a_path),
        unit: "",
        default: "./data/arc",
        why: "The folder that holds the databases, one folder each.",
        secret: false,
        set: |c, v| c.storage.local.base_path = v.text().into(),
        patch: None,
    },
    bucket("storage.s3.bucket", "STORAGE_S3_BUCKET", |c, v| v.text().clone_into(&mut c.storage.s3.bucket)),
    prefix("storage.s3.prefix", "STORAGE_S3_PREFIX", |c, v| v.text().clone_into(&mut c.storage.s3.prefix)),
    region("storage.s3.region", "STORAGE_S3_REGION", |c, v| v.text().clone_into(&mut c.storage.s3.region)),
    amazon_endpoint("storage.s3.endpoint", "STORAGE_S3_ENDPOINT", |c, v| {
        v.text().clone_into(&mut c.storage.s3.endpoint);
    }),
    access_key("storage.s3.access_key", "STORAGE_S3_ACCESS_KEY", |c, v| c.storage.s3.access_key = secret_of(v)),
    secret_key("storage.s3.secret_key", "STORAGE_S3_SECRET_KEY", |c, v| c.storage.s3.secret_key = secret_of(v)),
    use_ssl("storage.s3.use_ssl", "STORAGE_S3_USE_SSL", |c, v| c.storage.s3.use_ssl = v.bool()),
    path_style("storage.s3.path_style", "STORAGE_S3_PATH_STYLE", "false", |c, v| c.storage.s3.path_style = v.bool()),
    bucket("storage.minio.bucket", "MINIO_BUCKET", |c, v| v.text().clone_into(&mut c.storage.minio.bucket)),
    prefix("storage.minio.prefix", "MINIO_PREFIX", |c, v| v.text().clone_into(&mut c.storage.minio.prefix)),
    region("storage.minio.region", "MINIO_REGION", |c, v| v.text().clone_into(&mut c.storage.minio.region)),
    endpoint("storage.minio.endpoint", "MINIO_ENDPOINT", |c, v| v.text().clone_into(&mut c.storage.minio.endpoint)),
    access_key("storage.minio.access_key", "MINIO_ACCESS_KEY", |c, v| c.storage.minio.access_key = secret_of(v)),
    secret_key("storage.minio.secret_key", "MINIO_SECRET_KEY", |c, v| c.storage.minio.secret_key = secret_of(v)),
    use_ssl("storage.minio.use_ssl", "MINIO_USE_SSL", |c, v| c.storage.minio.use_ssl = v.bool()),
    path_style("storage.minio.path_style", "MINIO_PATH_STYLE", "true", |c, v| c.storage.minio.path_style = v.bool()),
    bucket("storage.ceph.bucket", "CEPH_BUCKET", |c, v| v.text().clone_into(&mut c.storage.ceph.bucket)),
    prefix("storage.ceph.prefix", "CEPH_PREFIX", |c, v| v.text().clone_into(&mut c.storage.ceph.prefix)),
    region("storage.ceph.region", "CEPH_REGION", |c, v| v.text().clone_into(&mut c.storage.ceph.region)),
    endpoint("storage.ceph.endpoint", "CEPH_ENDPOINT", |c, v| v.text().clone_into(&mut c.storage.ceph.endpoint)),
    access_key("storage.ceph.access_key", "CEPH_ACCESS_KEY", |c, v| c.storage.ceph.access_key = secret_of(v)),
    secret_key("storage.ceph.secret_key", "CEPH_SECRET_KEY", |c, v| c.storage.ceph.secret_key = secret_of(v)),
    use_ssl("storage.ceph.use_ssl", "CEPH_USE_SSL", |c, v| c.storage.ceph.use_ssl = v.bool()),
    path_style("storage.ceph.path_style", "CEPH_PATH_STYLE", "true", |c, v| c.storage.ceph.path_style = v.bool()),
    bucket("storage.gcs.bucket", "STORAGE_GCS_BUCKET", |c, v| v.text().clone_into(&mut c.storage.gcs.bucket)),
    prefix("storage.gcs.prefix", "STORAGE_GCS_PREFIX", |c, v| v.text().clone_into(&mut c.storage.gcs.prefix)),
    credentials_file("storage.gcs.credentials_file", "STORAGE_GCS_CREDENTIALS_FILE", |c, v| {
        v.text().clone_into(&mut c.storage.gcs.credentials_file);
    }),
    bucket("storage.azure.container", "STORAGE_AZURE_CONTAINER", |c, v| {
        v.text().clone_into(&mut c.storage.azure.container);
    }),
    prefix("storage.azure.prefix", "STORAGE_AZURE_PREFIX", |c, v| v.text().clone_into(&mut c.storage.azure.prefix)),
    account("storage.azure.account", "STORAGE_AZURE_ACCOUNT", |c, v| v.text().clone_into(&mut c.storage.azure.account)),
    azure_key("storage.azure.access_key", "STORAGE_AZURE_ACCESS_KEY", |c, v| c.storage.azure.access_key = secret_of(v)),
    azure_endpoint("storage.azure.endpoint", "STORAGE_AZURE_ENDPOINT", |c, v| {
        v.text().clone_into(&mut c.storage.azure.endpoint);
    }),
    Key {
        name: "state.db_path",
        variable: "DB_PATH",
        kind: Kind::Text(a_path),
        unit: "",
        default: "./data/arc.db",
        why: "The SQLite file with the locks; losing it loses no data.",
        secret: false,
        set: |c, v| c.state.db_path = v.text().into(),
        patch: None,
    },
    Key {
        name: "logging.level",
        variable: "LOG_LEVEL",
        kind: Kind::Choice(&["TRACE", "DEBUG", "INFO", "WARN", "ERROR"]),
        unit: "",
        default: "INFO",
        why: "What is less important than this is not logged.",
        secret: false,
        set: |c, v| c.logging.level = v.text().parse().expect("the choices are the names of the levels"),
        patch: None,
    },
    Key {
        name: "logging.format",
        variable: "LOG_FORMAT",
        kind: Kind::Choice(&["structured", "text"]),
        unit: "",
        default: "structured",
        why: "One JSON object a line for machines, or text for people.",
        secret: false,
        set: |c, v| {
            c.logging.format = if v.text() == "text" { LogFormat::Text } else { LogFormat::Structured };
        },
        patch: None,
    },
    Key {
        name: "logging.file",
        variable: "LOG_FILE",
        kind: Kind::Text(an_optional_file),
        unit: "",
        default: "",
        why: "Also log to this file, a new one each day with the date added to the name; empty: no file.",
        secret: false,
        set: |c, v| c.logging.file = Some(v.text()).filter(|path| !path.is_empty()).map(Into::into),
        patch: None,
    },
    Key {
        name: "logging.keep_days",
        variable: "LOG_KEEP_DAYS",
        kind: Kind::Integer(1..=3_650),
        unit: "days",
        default: "14",
        why: "Older log files are deleted.",
        secret: false,
        set: |c, v| c.logging.keep_days = positive(v),
        patch: None,
    },
    Key {
        name: "compaction.enabled",
        variable: "COMPACTION_ENABLED",
        kind: Kind::Bool,
        unit: "",
        default: "true",
        why: "false: nothing is ever compacted.",
        secret: false,
        set: |c, v| c.compaction.enabled = v.bool(),
        patch: None,
    },
    Key {
        name: "compaction.min_age_hours",
        variable: "COMPACTION_MIN_AGE_HOURS",
        kind: Kind::Integer(0..=MAX_HOURS),
        unit: "hours",
        default: "1",
        why: "A partition is left alone until this long after the start of its hour; 0 allows the current hour.",
        secret: false,
        set: |c, v| policy(c).min_age = hours(v),
        patch: Some(|p, v| p.min_age = Some(hours(v))),
    },
    Key {
        name: "compaction.min_files",
        variable: "COMPACTION_MIN_FILES",
        kind: Kind::Integer(1..=1_000_000),
        unit: "files",
        default: "10",
        why: "Fewer files than this are not worth a job.",
        secret: false,
        set: |c, v| policy(c).min_files = count(v),
        patch: Some(|p, v| p.min_files = Some(count(v))),
    },
    Key {
        name: "compaction.target_file_size_mb",
        variable: "COMPACTION_TARGET_FILE_SIZE_MB",
        kind: Kind::Integer(1..=MAX_MIB),
        unit: "MiB",
        default: "512",
        why: "Outputs are cut into files of about this size; compacted files of half of it or more are left alone.",
        secret: false,
        set: |c, v| {
            policy(c).target_file_size_bytes = mib(v);
            merge(c).target_file_size_bytes = mib(v);
        },
        patch: Some(|p, v| p.target_file_size_bytes = Some(mib(v))),
    },
    Key {
        name: "compaction.schedule",
        variable: "COMPACTION_SCHEDULE",
        kind: Kind::Text(a_schedule),
        unit: "",
        default: "5 * * * *",
        why: "When cycles run: five-field Unix cron, or @hourly and the like; a few minutes past the hour, when late writers are done.",
        secret: false,
        set: |c, v| {
            c.schedule = schedule(v);
            c.compaction.partition.schedule = c.schedule.to_string();
        },
        patch: Some(|p, v| p.schedule = Some(schedule(v).to_string())),
    },
    Key {
        name: "compaction.schedule_timezone",
        variable: "COMPACTION_SCHEDULE_TIMEZONE",
        kind: Kind::Text(a_timezone),
        unit: "",
        default: "UTC",
        why: "Whose wall clock the schedule follows, by IANA name such as Europe/Berlin; data is always filed by UTC.",
        secret: false,
        set: |c, v| c.timezone = v.text().parse().expect("checked by its kind"),
        patch: None,
    },
    Key {
        name: "compaction.max_concurrent_jobs",
        variable: "COMPACTION_MAX_CONCURRENT_JOBS",
        kind: Kind::Integer(1..=1_024),
        unit: "jobs",
        default: "2",
        why: "Partitions worked on at the same time; they share memory_limit_mb and threads.",
        secret: false,
        set: |c, v| c.compaction.max_concurrent_jobs = positive(v),
        patch: None,
    },
    Key {
        name: "compaction.lock_ttl_hours",
        variable: "COMPACTION_LOCK_TTL_HOURS",
        kind: Kind::Integer(1..=MAX_HOURS),
        unit: "hours",
        default: "2",
        why: "A lock that its owner no longer renews is free after this long.",
        secret: false,
        set: |c, v| c.compaction.lock_ttl = hours(v),
        patch: None,
    },
    Key {
        name: "compaction.lock_backend",
        variable: "COMPACTION_LOCK_BACKEND",
        kind: Kind::Choice(&["sqlite", "storage"]),
        unit: "",
        default: "sqlite",
        why: "Where the locks are: sqlite, in the state database, for one machine; storage, in the bucket, for several that share it.",
        secret: false,
        set: |c, v| c.compaction.lock_backend = lock_backend(v),
        patch: None,
    },
    Key {
        name: "compaction.temp_dir",
        variable: "COMPACTION_TEMP_DIR",
        kind: Kind::Text(a_path),
        unit: "",
        default: "./data/compaction",
        why: "Where jobs keep their private folders; a fast local disk, outside of storage.",
        secret: false,
        set: |c, v| c.compaction.temp_dir = v.text().into(),
        patch: None,
    },
    Key {
        name: "compaction.compression",
        variable: "COMPACTION_COMPRESSION",
        kind: Kind::Choice(&["zstd", "snappy", "lz4", "gzip", "none"]),
        unit: "",
        default: "zstd",
        why: "Codec of the compacted files; zstd is the smallest, snappy the fastest to read.",
        secret: false,
        set: |c, v| {
            let level = c.compaction.partition.compression_level;
            c.compaction.partition.set_compression(codec(v), level);
        },
        patch: Some(|p, v| p.codec = Some(codec(v))),
    },
    Key {
        name: "compaction.compression_level",
        variable: "COMPACTION_COMPRESSION_LEVEL",
        kind: Kind::Integer(1..=9),
        unit: "",
        default: "3",
        why: "Higher is smaller and slower, 1 to 9; means something for zstd only.",
        secret: false,
        set: |c, v| {
            let codec = c.compaction.partition.codec();
            c.compaction.partition.set_compression(codec, level(v));
        },
        patch: Some(|p, v| p.compression_level = Some(level(v))),
    },
    Key {
        name: "compaction.exclude_databases",
        variable: "COMPACTION_EXCLUDE_DATABASES",
        kind: Kind::List(names_without_repetition),
        unit: "",
        default: "",
        why: "Databases that are never compacted, by exact name.",
        secret: false,
        set: |c, v| c.compaction.exclude_databases = v.list().to_vec(),
        patch: None,
    },
    Key {
        name: "compaction.cycle_timeout_minutes",
        variable: "COMPACTION_CYCLE_TIMEOUT_MINUTES",
        kind: Kind::Integer(0..=MAX_HOURS * 60),
        unit: "minutes",
        default: "0",
        why: "After this long a cycle starts no further job; 0: no limit.",
        secret: false,
        set: |c, v| {
            c.compaction.cycle_timeout = unless_zero(v).map(Duration::from_mins);
        },
        patch: None,
    },
    Key {
        name: "compaction.memory_limit_mb",
        variable: "COMPACTION_MEMORY_LIMIT_MB",
        kind: Kind::Integer(0..=MAX_MIB),
        unit: "MiB",
        default: "0",
        why: "Memory for all jobs together; 0: a quarter of the cgroup's or host's, at most 1 GiB a job.",
        secret: false,
        set: |c, v| c.compaction.memory_limit_bytes = unless_zero(v).map(|n| n * MIB),
        patch: None,
    },
    Key {
        name: "compaction.threads",
        variable: "COMPACTION_THREADS",
        kind: Kind::Integer(0..=1_024),
        unit: "threads",
        default: "0",
        why: "Threads for all jobs together; 0: as many as the cgroup or the host has processors.",
        secret: false,
        set: |c, v| c.compaction.threads = NonZeroUsize::new(count(v)),
        patch: None,
    },
    Key {
        name: "compaction.isolation",
        variable: "COMPACTION_ISOLATION",
        kind: Kind::Choice(&["process", "in_process"]),
        unit: "",
        default: "process",
        why: "process: a merge that crashes or runs out of memory takes only itself down; in_process is for embedders.",
        secret: false,
        set: |c, v| {
            c.compaction.isolation = if v.text() == "process" { Isolation::Process } else { Isolation::InProcess };
        },
        patch: None,
    },
    Key {
        name: "compaction.verify",
        variable: "COMPACTION_VERIFY",
        kind: Kind::Choice(&["content", "footers"]),
        unit: "",
        default: "content",
        why: "What is proven before an input is deleted: every value of every row, or counts and extremes only.",
        secret: false,
        set: |c, v| merge(c).verify = verify(v),
        patch: Some(|p, v| p.verify = Some(verify(v))),
    },
    Key {
        name: "compaction.parquet_version",
        variable: "COMPACTION_PARQUET_VERSION",
        kind: Kind::Choice(&["v1", "v2"]),
        unit: "",
        default: "v2",
        why: "v2 has the newer encodings and is smaller at the same speed; v1 is for readers that do not know them.",
        secret: false,
        set: |c, v| merge(c).parquet_version = parquet_version(v),
        patch: Some(|p, v| p.parquet_version = Some(parquet_version(v))),
    },
    Key {
        name: "compaction.row_group_size",
        variable: "COMPACTION_ROW_GROUP_SIZE",
        kind: Kind::Integer(2_048..=100_000_000),
        unit: "rows",
        default: "122880",
        why: "Rows per row group; smaller ones skip better, larger ones compress better.",
        secret: false,
        set: |c, v| merge(c).row_group_size = positive(v),
        patch: Some(|p, v| p.row_group_size = Some(positive(v))),
    },
    Key {
        name: "compaction.sort_by",
        variable: "COMPACTION_SORT_BY",
        kind: Kind::List(columns),
        unit: "",
        default: "time",
        why: "Columns to sort by, most significant first, ascending.",
        secret: false,
        set: |c, v| merge(c).sort_by = v.list().to_vec(),
        patch: Some(|p, v| p.sort_by = Some(v.list().to_vec())),
    },
    Key {
        name: "compaction.time_column",
        variable: "COMPACTION_TIME_COLUMN",
        kind: Kind::Text(not_empty),
        unit: "",
        default: "time",
        why: "The column with the time of a row; large merges are cut along it.",
        secret: false,
        set: |c, v| v.text().clone_into(&mut merge(c).time_column),
        patch: Some(|p, v| p.time_column = Some(v.text().to_owned())),
    },
    Key {
        name: "compaction.settle_seconds",
        variable: "COMPACTION_SETTLE_SECONDS",
        kind: Kind::Integer(0..=86_400),
        unit: "seconds",
        default: "30",
        why: "Files written less than this ago are left for the next cycle: their writer may not be done.",
        secret: false,
        set: |c, v| policy(c).settle = Duration::from_secs(v.integer()),
        patch: Some(|p, v| p.settle = Some(Duration::from_secs(v.integer()))),
    },
    Key {
        name: "compaction.late_data_max_wait_hours",
        variable: "COMPACTION_LATE_DATA_MAX_WAIT_HOURS",
        kind: Kind::Integer(0..=MAX_HOURS),
        unit: "hours",
        default: "24",
        why: "Late files are compacted after waiting this long, even when they are fewer than min_files.",
        secret: false,
        set: |c, v| policy(c).late_data_max_wait = hours(v),
        patch: Some(|p, v| p.late_data_max_wait = Some(hours(v))),
    },
    Key {
        name: "compaction.late_rewrite_ratio",
        variable: "COMPACTION_LATE_REWRITE_RATIO",
        kind: Kind::Number(0.0..=100.0),
        unit: "",
        default: "0.1",
        why: "Compacted files are merged again with late ones when the late bytes are at least this fraction of theirs.",
        secret: false,
        set: |c, v| policy(c).late_rewrite_ratio = v.number(),
        patch: Some(|p, v| p.late_rewrite_ratio = Some(v.number())),
    },
    Key {
        name: "compaction.max_side_files",
        variable: "COMPACTION_MAX_SIDE_FILES",
        kind: Kind::Integer(1..=1_000),
        unit: "files",
        default: "4",
        why: "Small compacted files (below half the target) of more jobs than this are merged.",
        secret: false,
        set: |c, v| policy(c).max_side_files = count(v),
        patch: Some(|p, v| p.max_side_files = Some(count(v))),
    },
    Key {
        name: "compaction.record_retention_hours",
        variable: "COMPACTION_RECORD_RETENTION_HOURS",
        kind: Kind::Integer(1..=MAX_HOURS),
        unit: "hours",
        default: "24",
        why: "Superseded records are kept this long; the newest one of a partition is kept for ever.",
        secret: false,
        set: |c, v| c.compaction.record_retention = hours(v),
        patch: None,
    },
    Key {
        name: "compaction.history_limit",
        variable: "COMPACTION_HISTORY_LIMIT",
        kind: Kind::Integer(1..=1_000_000),
        unit: "jobs",
        default: "10000",
        why: "Reports of this many jobs are kept; totals are kept for ever.",
        secret: false,
        set: |c, v| c.compaction.history_limit = count(v),
        patch: None,
    },
    Key {
        name: "compaction.max_temp_mb",
        variable: "COMPACTION_MAX_TEMP_MB",
        kind: Kind::Integer(0..=MAX_MIB),
        unit: "MiB",
        default: "0",
        why: "Disk space for the folders of all jobs together, estimated before each; 0: what the disk has.",
        secret: false,
        set: |c, v| c.compaction.max_temp_bytes = unless_zero(v).map(|n| n * MIB),
        patch: None,
    },
    Key {
        name: "compaction.max_attempts",
        variable: "COMPACTION_MAX_ATTEMPTS",
        kind: Kind::Integer(1..=1_000),
        unit: "attempts",
        default: "5",
        why: "After so many failed jobs in a row a partition waits a day, or until its files change.",
        secret: false,
        set: |c, v| c.compaction.max_attempts = positive_u32(v),
        patch: None,
    },
    Key {
        name: "compaction.quarantine_retry_hours",
        variable: "COMPACTION_QUARANTINE_RETRY_HOURS",
        kind: Kind::Integer(1..=MAX_HOURS),
        unit: "hours",
        default: "24",
        why: "A damaged file is left out of compactions this long, then tried again; it stays where it is.",
        secret: false,
        set: |c, v| c.compaction.quarantine_retry = hours(v),
        patch: None,
    },
    Key {
        name: "compaction.recent_window_hours",
        variable: "COMPACTION_RECENT_WINDOW_HOURS",
        kind: Kind::Integer(0..=MAX_HOURS),
        unit: "hours",
        default: "48",
        why: "Most scheduled runs look only so far back, from the youngest hour that may be compacted; 0: always at everything.",
        secret: false,
        set: |c, v| c.compaction.recent_window = Some(hours(v)).filter(|window| !window.is_zero()),
        patch: None,
    },
    Key {
        name: "compaction.full_scan_hours",
        variable: "COMPACTION_FULL_SCAN_HOURS",
        kind: Kind::Integer(1..=MAX_HOURS),
        unit: "hours",
        default: "24",
        why: "So often a scheduled run looks at everything: late data in older hours is found at the latest then.",
        secret: false,
        set: |c, v| c.compaction.full_scan = hours(v),
        patch: None,
    },
];

/// What an override may give as the name of a database or measurement.
pub(super) const NAME_PATTERN: Kind = Kind::Text(a_name);

/// The key of a dotted name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key of an environment variable.
pub(super) fn find_variable(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.variable == name)
}

/// Whether keys lie below this name.
pub(super) fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

impl Key {
    /// The default as a value.
    #[must_use]
    pub fn default_value(&self) -> Value {
        self.kind.parse(self.default).expect("the defaults of the table are valid")
    }

    /// The section that the key stands in.
    #[must_use]
    pub fn section(&self) -> &'static str {
        self.name.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// The name within its section.
    #[must_use]
    pub fn last_name(&self) -> &'static str {
        self.name.rsplit_once('.').map_or(self.name, |(_, last)| last)
    }

    /// The value as it may be shown.
    pub(super) fn masked(&self, value: &Value) -> Value {
        match value {
            Value::Text(text) if self.secret && !text.is_empty() => Value::Text(MASK.to_owned()),
            other => other.clone(),
        }
    }

    /// What a source says, as it may be shown.
    pub(super) fn shown(&self, written: &str) -> String {
        // A URL with a password in it is refused everywhere, and not shown.
        if self.secret || (written.contains("://") && written.contains('@')) {
            MASK.to_owned()
        } else {
            written.to_owned()
        }
    }
}

const MASK: &str = "********";

fn backend(value: &Value) -> Backend {
    match value.text() {
        "s3" => Backend::S3,
        "minio" => Backend::Minio,
        "ceph" => Backend::Ceph,
        "gcs" => Backend::Gcs,
        "azure" => Backend::Azure,
        _ => Backend::Local,
    }
}

fn schedule(value: &Value) -> Schedule {
    Schedule::parse(value.text()).expect("checked by its kind")
}

fn policy(config: &mut Config) -> &mut PolicySettings {
    &mut config.compaction.partition.policy
}

fn merge(config: &mut Config) -> &mut MergeOptions {
    &mut config.compaction.partition.merge
}

fn hours(value: &Value) -> Duration {
    Duration::from_hours(value.integer())
}

fn mib(value: &Value) -> u64 {
    value.integer() * MIB
}

fn count(value: &Value) -> usize {
    usize::try_from(value.integer()).expect("the ranges of counts fit into 32 bits")
}

fn positive(value: &Value) -> NonZeroUsize {
    NonZeroUsize::new(count(value)).expect("the range begins above 0")
}

fn positive_u32(value: &Value) -> NonZeroU32 {
    u32::try_from(value.integer())
        .ok()
        .and_then(NonZeroU32::new)
        .expect("the range begins above 0 and fits into 32 bits")
}

fn unless_zero(value: &Value) -> Option<u64> {
    Some(value.integer()).filter(|n| *n > 0)
}

fn level(value: &Value) -> u8 {
    u8::try_from(value.integer()).expect("the range ends at 9")
}

fn codec(value: &Value) -> Codec {
    match value.text() {
        "zstd" => Codec::Zstd,
        "snappy" => Codec::Snappy,
        "lz4" => Codec::Lz4,
        "gzip" => Codec::Gzip,
        _ => Codec::None,
    }
}

fn lock_backend(value: &Value) -> LockBackend {
    if value.text() == "storage" { LockBackend::Storage } else { LockBackend::Sqlite }
}

fn verify(value: &Value) -> Verify {
    if value.text() == "content" { Verify::Content } else { Verify::Footers }
}

fn parquet_version(value: &Value) -> ParquetVersion {
    if value.text() == "v1" { ParquetVersion::V1 } else { ParquetVersion::V2 }
}

#[cfg(test)]
mod tests {
    use super::super::blank::blank;
    use super::*;

    #[test]
    fn names_and_variables_are_unique_and_follow_the_rule() {
        for (at, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..at].iter().all(|other| other.name != key.name && other.variable != key.variable));
            if let Some(name) = key.name.strip_prefix("compaction.") {
                assert_eq!(key.variable, format!("COMPACTION_{}", name.to_uppercase()));
            }
            assert!(!key.why.is_empty() && key.why.ends_with('.'), "{}", key.name);
        }
    }

    #[test]
    fn every_default_has_the_kind_of_its_key() {
        for key in KEYS {
            (key.set)(&mut blank(), &key.default_value());
            if let Some(patch) = key.patch {
                patch(&mut PartitionPatch::default(), &key.default_value());
            }
        }
    }

    #[test]
    fn a_secret_is_shown_as_a_mask() {
        let key = Key {
            name: "a.token",
            variable: "TOKEN",
            kind: Kind::Text(not_empty),
            unit: "",
            default: "x",
            why: "Only here.",
            secret: true,
            set: |_, _| (),
            patch: None,
        };
        assert_eq!(key.masked(&Value::Text("hunter2".to_owned())), Value::Text(MASK.to_owned()));
        assert_eq!(key.masked(&Value::Text(String::new())), Value::Text(String::new()));
        assert_eq!(key.shown("hunter2"), MASK);
    }
}
