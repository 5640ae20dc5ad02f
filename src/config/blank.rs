//! The configuration that the setters of the table start from.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use chrono_tz::Tz;
use tracing::Level;

use super::{Backend, Config, LocalStorageSettings, ServerSettings, StateSettings, StorageSettings};
use crate::auth::settings::AuthSettings;
use crate::compaction::settings::{
    CompactionSettings, Compression, Isolation, LockBackend, MergeOptions, ParquetVersion, PartitionSettings,
    PolicySettings, Verify,
};
use crate::schedule::Schedule;
use crate::storage::settings::{AzureSettings, Environment, GcsSettings, S3Settings};
use crate::telemetry::{LogFormat, LoggingSettings};

/// A configuration to set values in. Every value of it is set from the table before anyone sees it.
pub(super) fn blank() -> Config {
    let zero = Duration::ZERO;
    Config {
        server: ServerSettings { host: String::new(), port: 0, shutdown_timeout: zero },
        auth: AuthSettings { enabled: true, default_token: None, allowlist: Vec::new() },
        compaction: CompactionSettings {
            enabled: false,
            exclude_databases: Vec::new(),
            max_concurrent_jobs: NonZeroUsize::MIN,
            lock_ttl: zero,
            lock_backend: LockBackend::Sqlite,
            temp_dir: PathBuf::new(),
            max_temp_bytes: None,
            cycle_timeout: None,
            isolation: Isolation::Process,
            memory_limit_bytes: None,
            threads: None,
            history_limit: 0,
            record_retention: zero,
            max_attempts: NonZeroU32::MIN,
            quarantine_retry: zero,
            recent_window: None,
            full_scan: zero,
            partition: PartitionSettings {
                policy: PolicySettings {
                    min_age: zero,
                    min_files: 0,
                    settle: zero,
                    late_data_max_wait: zero,
                    late_rewrite_ratio: 0.0,
                    max_side_files: 0,
                    target_file_size_bytes: 0,
                },
                merge: MergeOptions {
                    compression: Compression::None,
                    parquet_version: ParquetVersion::V1,
                    row_group_size: NonZeroUsize::MIN,
                    target_file_size_bytes: 0,
                    sort_by: Vec::new(),
                    time_column: String::new(),
                    verify: Verify::Content,
                },
                compression_level: 0,
                schedule: String::new(),
            },
            overrides: Vec::new(),
        },
        storage: StorageSettings {
            backend: Backend::Local,
            local: LocalStorageSettings { base_path: PathBuf::new() },
            s3: blank_s3(),
            minio: blank_s3(),
            ceph: blank_s3(),
            gcs: GcsSettings::default(),
            azure: AzureSettings::default(),
        },
        state: StateSettings { db_path: PathBuf::new() },
        logging: LoggingSettings {
            level: Level::INFO,
            format: LogFormat::Structured,
            file: None,
            keep_days: NonZeroUsize::MIN,
        },
        schedule: Schedule::parse("@hourly").expect("a known name"),
        timezone: Tz::UTC,
        foreign_sections: Vec::new(),
        file: None,
        entries: Vec::new(),
    }
}

fn blank_s3() -> S3Settings {
    S3Settings {
        bucket: String::new(),
        prefix: String::new(),
        region: String::new(),
        endpoint: String::new(),
        access_key: None,
        secret_key: None,
        use_ssl: true,
        path_style: false,
        environment: Environment::default(),
    }
}
