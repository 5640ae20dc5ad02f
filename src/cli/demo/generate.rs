//! Telemetry as an ingestion server writes it: for each measurement many small Snappy files, each a few seconds long.

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::ValueEnum;
use duckdb::Connection;

use crate::partition::Hour;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Measurement {
    Cpu,
    Mem,
    Disk,
}

/// The files of one measurement in one hour.
#[derive(Debug, Clone, Copy)]
pub struct Telemetry {
    pub measurement: Measurement,
    pub hour: Hour,
    pub files: NonZeroUsize,
    pub rows: NonZeroUsize,
    pub seed: u64,
}

const MICROS_PER_HOUR: u64 = 3_600_000_000;

impl Measurement {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Mem => "mem",
            Self::Disk => "disk",
        }
    }

    /// The values of row `i`. `u` and `v` are uniform in 0..1 and independent; `wave` moves slowly between -1 and 1.
    fn columns(self) -> &'static str {
        match self {
            Self::Cpu => {
                "round(20 + 12 * wave + 25 * u, 2) AS usage_user, round(4 + 9 * v * u, 2) AS usage_system, \
                 71 - 12 * wave - 25 * u - 9 * v * u AS usage_idle, round(3 * v * v, 2) AS usage_iowait, \
                 round(greatest(0, u * 10 - 9.5), 1) AS usage_irq, round(u * v, 1) AS usage_softirq, \
                 round(greatest(0, v * 4 - 3.6), 1) AS usage_steal"
            }
            Self::Mem => {
                "(8589934592 + (2147483648 * (wave + u))::BIGINT // 4096 * 4096)::BIGINT AS used, \
                 17179869184::BIGINT AS total, round(50 + 12.5 * (wave + u), 2) AS used_percent"
            }
            Self::Disk => {
                "['sda1', 'sdb1', 'nvme0n1'][1 + (i // 100 % 3)::INTEGER] AS device, \
                 (i // 100 * 4096 + (u * 65536)::BIGINT)::BIGINT AS write_bytes, round(40 + 5 * wave, 1) AS used_percent"
            }
        }
    }
}

impl Telemetry {
    /// Writes the files into `folder`. Their modification times are when ingestion would have written them.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let db = Connection::open_in_memory()?;
        for number in 0..self.files.get() {
            let path = folder.join(format!("{}_{}_{number:06}.parquet", self.measurement.name(), self.hour.compact()));
            db.execute_batch(&self.copy_statement(number, &path))
                .with_context(|| format!("write {}", path.display()))?;
            let seconds_into_hour = 3600 * (number as u64 + 1) / self.files.get() as u64;
            let since_epoch = u64::try_from(self.hour.start().timestamp()).context("the hour is before 1970")?;
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(since_epoch + seconds_into_hour);
            std::fs::File::options().write(true).open(&path)?.set_modified(written)?;
        }
        Ok(())
    }

    fn copy_statement(&self, number: usize, path: &Path) -> String {
        let (files, rows) = (self.files.get(), self.rows.get());
        let (first, end) = (rows * number / files, rows * (number + 1) / files);
        let hour_micros = self.hour.start().timestamp_micros();
        let seed = self.seed;
        let columns = self.measurement.columns();
        let path = path.display().to_string().replace('\'', "''");
        // Rows arrive in the order of time, a hundred hosts after another.
        format!(
            "COPY (SELECT make_timestamp({hour_micros} + (i * {MICROS_PER_HOUR} // {rows})::BIGINT) AS time, \
               printf('server-%03d', i % 100) AS host, ['eu', 'us', 'ap'][1 + (i % 3)::INTEGER] AS region, {columns} \
             FROM (SELECT i, hash(i + {seed}) / 18446744073709551616.0 AS u, \
                     hash(i - {seed}) / 18446744073709551616.0 AS v, sin(i % 100 + i * 6.2831853 / {rows}) AS wave \
                   FROM range({first}, {end}) AS r(i)) ORDER BY i) \
             TO '{path}' (FORMAT parquet, COMPRESSION snappy)"
        )
    }
}
