//! Which rows of which files belong to a slice, and in which order they come out.
//!
//! Decided by the time column alone. Rows are numbered in the order of the files and of the rows in them; `order` says which
//! of these comes out where.

use std::fs::{self, File};
use std::ops::Range as Span;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parquet::column::page::PageReader;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::file::statistics::Statistics;

use super::super::schema::Projection;
use super::super::slices::Range;
use super::chunk::{Chunk, decode, judge};
use super::values::Plain;
use super::{Limits, Refusal, SourceFile, WHOLE_FILES_BYTES};

/// The files of a slice, with their footers.
pub(super) struct SliceFiles<'a> {
    pub(super) open: Vec<OpenFile<'a>>,
}

pub(super) struct OpenFile<'a> {
    pub(super) projection: &'a [Projection],
    metadata: ParquetMetaData,
    /// By group column, its position among the file's leaves.
    leaves: Vec<Option<usize>>,
    source: Source,
}

/// Where the pages come from.
enum Source {
    Memory(Arc<Bytes>),
    /// Opened for each chunk: a slice may have more files than a process may have open.
    Disk(PathBuf),
}

impl<'a> SliceFiles<'a> {
    pub(super) fn open(files: &[SourceFile<'a>]) -> Result<Self, Refusal> {
        let whole = files.iter().map(|f| f.size_bytes).sum::<u64>() <= WHOLE_FILES_BYTES;
        let open = files.iter().map(|file| {
            let (metadata, source) = if whole {
                let bytes = Bytes::from(fs::read(&file.path).map_err(|e| system(&e))?);
                let metadata = ParquetMetaDataReader::new().parse_and_finish(&bytes).map_err(judge)?;
                (metadata, Source::Memory(Arc::new(bytes)))
            } else {
                let disk = File::open(&file.path).map_err(|e| system(&e))?;
                (ParquetMetaDataReader::new().parse_and_finish(&disk).map_err(judge)?, Source::Disk(file.path.clone()))
            };
            let schema = metadata.file_metadata().schema_descr();
            let leaf = |projection: &Projection| {
                let Projection::Column(at) = *projection else { return None };
                (0..schema.num_columns()).find(|&leaf| schema.get_column_root_idx(leaf) == at)
            };
            let leaves = file.projection.iter().map(leaf).collect();
            Ok(OpenFile { projection: file.projection, leaves, metadata, source })
        });
        Ok(Self { open: open.collect::<Result<_, Refusal>>()? })
    }
}

fn system(error: &std::io::Error) -> Refusal {
    Refusal::Unsuited(error.to_string())
}

impl OpenFile<'_> {
    pub(super) fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }

    /// Position of a group column among the file's leaves.
    pub(super) fn leaf(&self, column: usize) -> Option<usize> {
        self.leaves[column]
    }

    /// Decodes a group column of a row group. `None`: the file has no such column. A chunk whose pages are larger than
    /// `most_bytes` by the footer is unsuited.
    pub(super) fn decode(&self, row_group: usize, column: usize, most_bytes: u64) -> Result<Option<Chunk>, Refusal> {
        let Some(leaf) = self.leaf(column) else { return Ok(None) };
        let descriptor = self.metadata.file_metadata().schema_descr().column(leaf);
        let rows = self.row_count(row_group)?;
        let chunk = self.metadata.row_group(row_group).column(leaf);
        let size = u64::try_from(chunk.uncompressed_size()).unwrap_or(u64::MAX);
        if size > most_bytes {
            return Err(Refusal::Unsuited(format!("a chunk of {size} bytes")));
        }
        let pages = || -> Result<Box<dyn PageReader>, Refusal> {
            Ok(match &self.source {
                Source::Memory(bytes) => {
                    Box::new(SerializedPageReader::new(Arc::clone(bytes), chunk, rows, None).map_err(judge)?)
                }
                Source::Disk(path) => {
                    let file = Arc::new(File::open(path).map_err(|e| system(&e))?);
                    Box::new(SerializedPageReader::new(file, chunk, rows, None).map_err(judge)?)
                }
            })
        };
        // Nothing says yet that the file is sound, and decoders may panic on what is not.
        let decoded = catch_unwind(AssertUnwindSafe(|| decode(&descriptor, rows, &pages)));
        let decoded = decoded.unwrap_or_else(|_| Err(Refusal::Damaged("the decoder panicked".to_owned())));
        decoded.map(Some).map_err(|refusal| match refusal {
            Refusal::Damaged(why) => {
                Refusal::Damaged(format!("column {:?}, row group {row_group}: {why}", descriptor.name()))
            }
            other => other,
        })
    }

    fn row_count(&self, row_group: usize) -> Result<usize, Refusal> {
        usize::try_from(self.metadata.row_group(row_group).num_rows())
            .map_err(|e| Refusal::Unsuited(format!("number of rows: {e}")))
    }
}

/// A part of a slice: rows of one row group.
pub(super) struct Part {
    /// Position in [`SliceFiles::open`].
    pub(super) file: usize,
    pub(super) row_group: usize,
    pub(super) chosen: Chosen,
}

/// The rows of a row group that belong to the slice.
pub(super) enum Chosen {
    All(usize),
    /// These, ascending.
    Some(Vec<u32>),
}

impl Chosen {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::All(rows) => *rows,
            Self::Some(rows) => rows.len(),
        }
    }
}

/// The rows of a slice.
pub(super) struct Rows {
    pub(super) parts: Vec<Part>,
    count: usize,
    /// Row by row, which one comes out. `None`: as they are.
    order: Option<Vec<u32>>,
}

/// Which rows come out in a row group.
pub(super) enum Order<'a> {
    AsRead(Span<usize>),
    Rows(&'a [u32]),
}

impl Rows {
    /// Reads the time column `time` of every file.
    pub(super) fn find(
        files: &SliceFiles<'_>,
        time: usize,
        range: Range,
        limits: &Limits<'_>,
    ) -> Result<Self, Refusal> {
        let mut parts = Vec::new();
        let mut times: Vec<i64> = Vec::new();
        for (number, file) in files.open.iter().enumerate() {
            for row_group in 0..file.metadata().num_row_groups() {
                if file.row_count(row_group)? == 0 || !may_hold(file, row_group, time, range) {
                    continue;
                }
                limits.check_wanted()?;
                let Some(chunk) = file.decode(row_group, time, limits.memory_bytes)? else {
                    return Err(Refusal::Unsuited("no time column".to_owned()));
                };
                let chosen = choose(&chunk, range, &mut times)?;
                if chosen.count() > 0 {
                    parts.push(Part { file: number, row_group, chosen });
                }
            }
        }
        let count = times.len();
        if u32::try_from(count).is_err() {
            return Err(Refusal::Unsuited(format!("{count} rows in one slice")));
        }
        let order = (!times.is_sorted()).then(|| {
            #[allow(clippy::cast_possible_truncation, reason = "checked above")]
            let mut order: Vec<(i64, u32)> =
                times.into_iter().enumerate().map(|(row, time)| (time, row as u32)).collect();
            // Stable: rows of equal time stay in the order of files and rows. Runs that are sorted already are merged.
            order.sort_by_key(|&(time, _)| time);
            order.into_iter().map(|(_, row)| row).collect()
        });
        Ok(Self { parts, count, order })
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Consecutive rows for each row group.
    pub(super) fn split(&self, row_group_rows: usize) -> Vec<Span<usize>> {
        (0..self.count).step_by(row_group_rows).map(|from| from..(from + row_group_rows).min(self.count)).collect()
    }

    pub(super) fn order(&self, rows: Span<usize>) -> Order<'_> {
        match &self.order {
            Some(order) => Order::Rows(&order[rows]),
            None => Order::AsRead(rows),
        }
    }
}

impl Order<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::AsRead(rows) => rows.len(),
            Self::Rows(rows) => rows.len(),
        }
    }

    /// The rows, one by one.
    pub(super) fn each(&self, mut take: impl FnMut(usize)) {
        match self {
            Self::AsRead(rows) => rows.clone().for_each(take),
            Self::Rows(rows) => rows.iter().for_each(|&row| take(row as usize)),
        }
    }
}

/// Whether a row group may hold rows of the range, by its statistics. They may lie; then the proof fails, and the group is
/// merged without any range.
fn may_hold(file: &OpenFile<'_>, row_group: usize, time: usize, range: Range) -> bool {
    let Range::Between { from, until } = range else { return true };
    let Some(leaf) = file.leaf(time) else { return true };
    let bounds = match file.metadata().row_group(row_group).column(leaf).statistics() {
        Some(Statistics::Int64(s)) => s.min_opt().copied().zip(s.max_opt().copied()),
        Some(Statistics::Int32(s)) => s.min_opt().copied().map(i64::from).zip(s.max_opt().copied().map(i64::from)),
        _ => None,
    };
    bounds.is_none_or(|(min, max)| from.is_none_or(|from| max >= from) && until.is_none_or(|until| min < until))
}

/// The rows of a chunk of times that lie in the range; their times go to `times`, a missing one as the largest.
fn choose(chunk: &Chunk, range: Range, times: &mut Vec<i64>) -> Result<Chosen, Refusal> {
    #[allow(clippy::cast_possible_wrap, reason = "the same bits")]
    let found: Vec<i64> = match &*chunk.plain() {
        Plain::Word8(values) => values.iter().map(|&v| v as i64).collect(),
        Plain::Word4(values) => values.iter().map(|&v| i64::from(v as i32)).collect(),
        _ => return Err(Refusal::Unsuited("times that are not numbers".to_owned())),
    };
    let within = |time: i64| match range {
        Range::Everything => true,
        Range::Nulls => false,
        Range::Between { from, until } => {
            from.is_none_or(|from| time >= from) && until.is_none_or(|until| time < until)
        }
    };
    let Some(valid) = &chunk.valid else {
        let (min, max) = found.iter().fold((i64::MAX, i64::MIN), |(min, max), &t| (min.min(t), max.max(t)));
        if within(min) && within(max) {
            times.extend_from_slice(&found);
            return Ok(Chosen::All(found.len()));
        }
        return pick(&found, within, times);
    };
    match range {
        // The largest time would have to stand for "none" in the order, and another row may have it.
        Range::Everything => Err(Refusal::Unsuited("rows without a time beside others".to_owned())),
        Range::Nulls => {
            let chosen = rows_where(valid.len(), |row| !valid[row])?;
            times.resize(times.len() + chosen.len(), i64::MAX);
            Ok(Chosen::Some(chosen))
        }
        Range::Between { .. } => {
            let chosen = rows_where(valid.len(), |row| valid[row] && within(found[row]))?;
            times.extend(chosen.iter().map(|&row| found[row as usize]));
            Ok(Chosen::Some(chosen))
        }
    }
}

fn pick(found: &[i64], within: impl Fn(i64) -> bool, times: &mut Vec<i64>) -> Result<Chosen, Refusal> {
    let chosen = rows_where(found.len(), |row| within(found[row]))?;
    times.extend(chosen.iter().map(|&row| found[row as usize]));
    Ok(Chosen::Some(chosen))
}

fn rows_where(rows: usize, wanted: impl Fn(usize) -> bool) -> Result<Vec<u32>, Refusal> {
    let rows = u32::try_from(rows).map_err(|e| Refusal::Unsuited(format!("rows of a row group: {e}")))?;
    Ok((0..rows).filter(|&row| wanted(row as usize)).collect())
}
