//! The data: what ingestion writes, and shapes that are hard for a merge.
//!
//! Written once per run and then only linked, so that every contender reads the same files from the same page cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use duckdb::Connection;

/// The hour in which all rows lie: 2025-10-08T14:00:00Z.
pub const HOUR_SECONDS: u64 = 1_759_932_000;
pub const HOUR_PATH: &str = "2025/10/08/14";
const HOUR_MICROS: u64 = HOUR_SECONDS * 1_000_000;

/// What the files of one partition look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Cpu,
    Mem,
    Disk,
    /// Eight writers at once, so that eight files always overlap.
    Writers8,
    /// Every file spans the hour, its rows in no order.
    Shuffled,
    /// 200 columns of doubles.
    Wide,
    /// Six columns of text.
    Strings,
    /// Lists and structs.
    Nested,
}

/// The files of one partition.
#[derive(Debug, Clone)]
pub struct Partition {
    pub measurement: String,
    pub shape: Shape,
    pub files: u64,
    pub rows: u64,
}

impl Partition {
    pub fn new(measurement: &str, shape: Shape, files: u64, rows: u64) -> Self {
        Self { measurement: measurement.to_owned(), shape, files, rows: rows.max(files) }
    }

    /// Its folder below the base of a storage.
    pub fn folder(&self, base: &Path) -> PathBuf {
        base.join("bench").join(&self.measurement).join(HOUR_PATH)
    }

    /// Writes the files below `base`.
    pub fn write(&self, base: &Path) -> anyhow::Result<()> {
        let folder = self.folder(base);
        fs::create_dir_all(&folder)?;
        let db = Connection::open_in_memory()?;
        for number in 0..self.files {
            let path = folder.join(format!("{}_{number:06}.parquet", self.measurement));
            let sql = format!(
                "COPY ({}) TO '{}' (FORMAT parquet, COMPRESSION snappy)",
                self.select(number),
                path.display().to_string().replace('\'', "''")
            );
            db.execute_batch(&sql).with_context(|| format!("write {}", path.display()))?;
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(HOUR_SECONDS + 3600 * (number + 1) / self.files);
            fs::File::options().write(true).open(&path)?.set_modified(written)?;
        }
        Ok(())
    }

    /// The same files once more, as links below `base`: to be compacted and deleted.
    pub fn link(&self, from: &Path, base: &Path) -> anyhow::Result<()> {
        let (from, to) = (self.folder(from), self.folder(base));
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            fs::hard_link(entry.path(), to.join(entry.file_name()))?;
        }
        Ok(())
    }

    /// The rows of a file. `u` and `v` are uniform in 0..1 and independent; `wave` moves slowly between -1 and 1.
    fn select(&self, number: u64) -> String {
        let (files, rows) = (self.files, self.rows);
        let (first, end) = (rows * number / files, rows * (number + 1) / files);
        let micros = match self.shape {
            // File k of a round has every eighth row of the round's time.
            Shape::Writers8 => {
                let per_file = (rows / files).max(1);
                format!("(i - {first}) * 8 + {} + {}", number % 8, number / 8 * 8 * per_file)
            }
            Shape::Shuffled => format!("(hash(i * 31 + 7) % {rows})"),
            _ => "i".to_owned(),
        };
        format!(
            "SELECT make_timestamp({HOUR_MICROS} + (t * 3600000000 // {rows})::BIGINT) AS time, {} \
             FROM (SELECT i, ({micros})::BIGINT AS t, hash(i + 42) / 18446744073709551616.0 AS u, \
                     hash(i - 42) / 18446744073709551616.0 AS v, sin(i % 100 + i * 6.2831853 / {rows}) AS wave \
                   FROM range({first}, {end}) AS r(i))",
            self.columns()
        )
    }

    fn columns(&self) -> String {
        let tags = "printf('server-%03d', i % 100) AS host, ['eu', 'us', 'ap'][1 + (i % 3)::INTEGER] AS region";
        match self.shape {
            Shape::Cpu | Shape::Writers8 | Shape::Shuffled => format!(
                "{tags}, round(20 + 12 * wave + 25 * u, 2) AS usage_user, round(4 + 9 * v * u, 2) AS usage_system, \
                 71 - 12 * wave - 25 * u - 9 * v * u AS usage_idle, round(3 * v * v, 2) AS usage_iowait, \
                 round(greatest(0, u * 10 - 9.5), 1) AS usage_irq, round(u * v, 1) AS usage_softirq, \
                 round(greatest(0, v * 4 - 3.6), 1) AS usage_steal"
            ),
            Shape::Mem => format!(
                "{tags}, (8589934592 + (2147483648 * (wave + u))::BIGINT // 4096 * 4096)::BIGINT AS used, \
                 17179869184::BIGINT AS total, round(50 + 12.5 * (wave + u), 2) AS used_percent"
            ),
            Shape::Disk => format!(
                "{tags}, ['sda1', 'sdb1', 'nvme0n1'][1 + (i // 100 % 3)::INTEGER] AS device, \
                 (i // 100 * 4096 + (u * 65536)::BIGINT)::BIGINT AS write_bytes, round(40 + 5 * wave, 1) AS used_percent"
            ),
            Shape::Wide => {
                let columns: Vec<String> = (0..200)
                    .map(|c| match c % 4 {
                        0 => format!("round(50 + 40 * sin(i / {}.0) + u, 2) AS m{c}", 50 + c),
                        1 => format!("u * {} AS m{c}", c + 1),
                        2 => format!("round(v * {}, 1) AS m{c}", c + 10),
                        _ => format!("(i // {})::DOUBLE AS m{c}", c + 1),
                    })
                    .collect();
                format!("printf('server-%03d', i % 100) AS host, {}", columns.join(", "))
            }
            Shape::Strings => "printf('server-%03d', i % 100) AS host, ['eu', 'us', 'ap'][1 + (i % 3)::INTEGER] AS region, \
                 printf('/api/v1/items/%d', hash(i) % 5000) AS path, printf('%08x', hash(i + 1) % 4294967296) AS request, \
                 ['GET', 'PUT', 'POST'][1 + (hash(i + 2) % 3)::INTEGER] AS method, \
                 'agent ' || (hash(i + 3) % 200) || ' on platform ' || (hash(i + 4) % 7) AS agent"
                .to_owned(),
            Shape::Nested => "printf('server-%03d', i % 100) AS host, [u, v, wave] AS samples, \
                 {'core': i % 16, 'load': round(u, 3), 'tags': ['a' || (i % 5), 'b' || (i % 3)]} AS detail, \
                 round(v * 100, 1) AS value"
                .to_owned(),
        }
    }
}
