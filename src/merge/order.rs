//! Whether the rows of a file are in the order of their times, found out by decoding that column with the `parquet` crate:
//! independent of the engine that wrote it.

use std::fmt::Display;
use std::fs::File;
use std::panic::catch_unwind;
use std::path::Path;

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::MergeError;
use super::checked_pages::column_reader;
use super::work_dir::io_error;

/// Values decoded at a time.
const BATCH: usize = 16 * 1024;

/// Whether a top-level column never descends from row to row and has no null. `false` also for a column whose stored numbers
/// do not compare like its values.
///
/// # Errors
/// When the column cannot be read. A damaged one can make the decoder panic, which is caught.
pub(super) fn column_ascends(path: &Path, column: &str) -> Result<bool, MergeError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let unreadable = |why: &dyn Display| MergeError::Engine(format!("read back {}: {why}", path.display()));
    match catch_unwind(|| ascends(file, column)) {
        Ok(ascends) => ascends.map_err(|e| unreadable(&e)),
        Err(_panicked) => Err(unreadable(&"the decoder panicked")),
    }
}

fn ascends(file: File, column: &str) -> Result<bool, ParquetError> {
    let reader = SerializedFileReader::new(file)?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let Some(leaf) = (0..schema.num_columns()).find(|&i| schema.column(i).path().parts() == [column]) else {
        return Ok(false);
    };
    // Unsigned numbers are stored as signed ones.
    if schema.column(leaf).sort_order() != parquet::basic::SortOrder::SIGNED {
        return Ok(false);
    }
    let nulls_possible = schema.column(leaf).max_def_level() > 0;
    let mut last = None;
    for group in 0..reader.num_row_groups() {
        let sorted = match column_reader(&*reader.get_row_group(group)?, leaf)? {
            ColumnReader::Int64ColumnReader(values) => continues(values, nulls_possible, &mut last)?,
            ColumnReader::Int32ColumnReader(values) => continues(values, nulls_possible, &mut last)?,
            _ => false,
        };
        if !sorted {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the values of one column chunk carry on from `last` without descending.
fn continues<T>(
    mut chunk: ColumnReaderImpl<T>,
    nulls_possible: bool,
    last: &mut Option<i64>,
) -> Result<bool, ParquetError>
where
    T: DataType,
    T::T: Copy + Into<i64>,
{
    let (mut values, mut levels) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
    loop {
        values.clear();
        levels.clear();
        let (records, read, _) = chunk.read_records(BATCH, nulls_possible.then_some(&mut levels), None, &mut values)?;
        if records == 0 {
            return Ok(true);
        }
        if read < records {
            return Ok(false);
        }
        for value in values.iter().map(|&v| v.into()) {
            if last.is_some_and(|last| value < last) {
                return Ok(false);
            }
            *last = Some(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use ::duckdb::Connection;
    use tempfile::TempDir;

    use super::*;
    use crate::merge::page_headers::Pages;

    fn written(rows: &str) -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slice.parquet");
        let copy = format!(
            "COPY (SELECT c0 FROM ({rows})) TO '{}' \
             (FORMAT parquet, ROW_GROUP_SIZE 2048, PARQUET_VERSION V2, COMPRESSION uncompressed)",
            path.display()
        );
        Connection::open_in_memory().unwrap().execute_batch(&copy).unwrap();
        (dir, path)
    }

    fn check(rows: &str) -> bool {
        let (_dir, path) = written(rows);
        column_ascends(&path, "c0").unwrap()
    }

    /// The library panics at a number of more than ten bytes.
    #[test]
    fn a_damaged_column_is_an_error_even_where_the_decoder_panics() {
        let (_dir, path) = written("SELECT (hash(i) & 1048575)::BIGINT AS c0 FROM range(2000) r(i)");
        let mut bytes = fs::read(&path).unwrap();
        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        let page = Pages::of(&&bytes[..], reader.metadata().row_group(0).column(0)).last().unwrap();
        let levels = usize::try_from(page.start).unwrap();
        let length = u32::from_le_bytes(*bytes[levels..].first_chunk().unwrap());
        let numbers = levels + 4 + length as usize;
        bytes[numbers..][..40].fill(0xff);
        fs::write(&path, bytes).unwrap();
        let error = column_ascends(&path, "c0").unwrap_err();
        assert!(error.to_string().contains("the decoder panicked"), "{error}");
    }

    #[test]
    fn rising_and_level_times_ascend_and_one_step_back_anywhere_does_not() {
        assert!(check("SELECT make_timestamp(i // 3) AS c0 FROM range(10000) r(i)"));
        assert!(check("SELECT i::INTEGER AS c0 FROM range(-5000, 5000) r(i)"));
        assert!(check("SELECT 1::BIGINT AS c0 WHERE false"));
        for at in [1, 2047, 2048, 9999] {
            let step = format!("SELECT CASE WHEN i = {at} THEN -1 ELSE i END AS c0 FROM range(10000) r(i)");
            assert!(!check(&step), "a step back at row {at}");
        }
    }

    #[test]
    fn nulls_and_numbers_that_are_stored_out_of_order_do_not_ascend() {
        assert!(!check("SELECT CASE WHEN i = 7 THEN NULL ELSE i END AS c0 FROM range(10) r(i)"));
        assert!(!check("SELECT i::UBIGINT AS c0 FROM range(10) r(i)"));
        assert!(!check("SELECT i::VARCHAR AS c0 FROM range(10) r(i)"));
    }
}
