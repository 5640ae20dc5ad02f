//! A reader of Parquet files in a bucket that asks for no more than it needs, and for many things at once.
//!
//! ```text
//! LIST ──> the end of every file ──> row groups that statistics do not rule out ──> needed columns of each
//!          64 KiB, 16 at a time                                                     16 row groups at a time
//! ```
//!
//! The DuckDB that is linked has no client of S3, so this stands for a query engine over a bucket: which requests there are
//! and how long the answers take is real, planning and SQL are left out. Decoding is the `parquet` crate's.
//! What the end of a file already holds is not asked for again, which spares small files requests that other readers make.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use duckdb::arrow::array::{Array, AsArray, RecordBatch};
use duckdb::arrow::compute;
use duckdb::arrow::datatypes::{DataType, Field, Float64Type, Int32Type, Schema, TimestampMicrosecondType};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::DecodeResult;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::push_decoder::ParquetPushDecoderBuilder;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder};
use parquet::file::statistics::Statistics;

use crate::queries::{Query, SINCE_MICROS};

/// Requests on their way at the same time, and row groups being decoded.
const AT_ONCE: usize = 16;

/// What is read of each file at first.
const TAIL_BYTES: u64 = 64 << 10;

const BATCH_ROWS: usize = 65_536;

/// A file whose footer is known.
struct File {
    path: Path,
    metadata: ArrowReaderMetadata,
    tail: (Range<u64>, Bytes),
}

/// Answers `query` over all Parquet files below `folder`.
pub async fn answer(store: Arc<dyn ObjectStore>, folder: &Path, query: Query) -> anyhow::Result<Vec<f64>> {
    let mut objects: Vec<ObjectMeta> = store.list(Some(folder)).try_collect().await?;
    objects.retain(|object| object.location.as_ref().ends_with(".parquet"));
    let files: Vec<Arc<File>> = futures::stream::iter(objects)
        .map(|object| open(Arc::clone(&store), object))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let groups = files.iter().flat_map(|file| {
        let groups = 0..file.metadata.metadata().num_row_groups();
        groups.filter(|group| may_match(file, *group, query)).map(|group| (Arc::clone(file), group))
    });
    let partial: Vec<Sums> = futures::stream::iter(groups)
        .map(|(file, group)| tokio::spawn(read(Arc::clone(&store), file, group, query)))
        .buffer_unordered(AT_ONCE)
        .map(|joined| joined?)
        .try_collect()
        .await?;
    Ok(partial.into_iter().fold(Sums::default(), Sums::plus).answer(query))
}

async fn open(store: Arc<dyn ObjectStore>, object: ObjectMeta) -> anyhow::Result<Arc<File>> {
    let range = object.size.saturating_sub(TAIL_BYTES)..object.size;
    let bytes = store.get_range(&object.location, range.clone()).await?;
    let tail = (range, bytes);
    let mut decoder = ParquetMetaDataPushDecoder::try_new(object.size)?.with_page_index_policy(PageIndexPolicy::Skip);
    decoder.push_range(tail.0.clone(), tail.1.clone())?;
    let metadata = loop {
        match decoder.try_decode()? {
            DecodeResult::Data(metadata) => break metadata,
            DecodeResult::NeedsData(ranges) => {
                let buffers = fetch(store.as_ref(), &object.location, &tail, &ranges).await?;
                decoder.push_ranges(ranges, buffers)?;
            }
            DecodeResult::Finished => bail!("{}: no footer", object.location),
        }
    };
    Ok(Arc::new(File { path: object.location, metadata: with_dictionaries(metadata)?, tail }))
}

/// Text stays in dictionary codes, as engines keep it.
fn with_dictionaries(metadata: ParquetMetaData) -> anyhow::Result<ArrowReaderMetadata> {
    let metadata = Arc::new(metadata);
    let plain = ArrowReaderMetadata::try_new(Arc::clone(&metadata), ArrowReaderOptions::new())?;
    let text = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let fields = plain.schema().fields().iter().map(|field| match field.data_type() {
        DataType::Utf8 => Arc::new(Field::clone(field).with_data_type(text.clone())),
        _ => Arc::clone(field),
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    Ok(ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new().with_schema(schema))?)
}

/// Whether the statistics leave it open that a row of the group is asked for.
fn may_match(file: &File, group: usize, query: Query) -> bool {
    let columns = file.metadata.metadata().row_group(group).columns();
    let time = columns.iter().find(|column| column.column_path().string() == "time");
    match (query, time.and_then(|column| column.statistics())) {
        (Query::LastMinutes, Some(Statistics::Int64(time))) => time.max_opt().is_none_or(|max| *max >= SINCE_MICROS),
        _ => true,
    }
}

async fn read(store: Arc<dyn ObjectStore>, file: Arc<File>, group: usize, query: Query) -> anyhow::Result<Sums> {
    let mask = ProjectionMask::columns(file.metadata.parquet_schema(), query.columns().iter().copied());
    let mut decoder = ParquetPushDecoderBuilder::new_with_metadata(file.metadata.clone())
        .with_projection(mask)
        .with_row_groups(vec![group])
        .with_batch_size(BATCH_ROWS)
        .build()?;
    let mut sums = Sums::default();
    loop {
        match decoder.try_decode()? {
            DecodeResult::Data(batch) => sums.add(&batch, query)?,
            DecodeResult::NeedsData(ranges) => {
                let buffers = fetch(store.as_ref(), &file.path, &file.tail, &ranges).await?;
                decoder.push_ranges(ranges, buffers)?;
            }
            DecodeResult::Finished => return Ok(sums),
        }
    }
}

/// The bytes of `ranges`; the store joins those that lie close together into one request.
async fn fetch(
    store: &dyn ObjectStore,
    path: &Path,
    (tail, bytes): &(Range<u64>, Bytes),
    ranges: &[Range<u64>],
) -> anyhow::Result<Vec<Bytes>> {
    let missing: Vec<Range<u64>> = ranges.iter().filter(|range| range.start < tail.start).cloned().collect();
    let mut fetched = if missing.is_empty() { Vec::new() } else { store.get_ranges(path, &missing).await? }.into_iter();
    ranges
        .iter()
        .map(|range| {
            if range.start < tail.start {
                return fetched.next().context("fewer answers than ranges");
            }
            let first = usize::try_from(range.start - tail.start)?;
            Ok(bytes.slice(first..first + usize::try_from(range.end - range.start)?))
        })
        .collect()
}

/// What rows add up to.
#[derive(Debug, Default)]
struct Sums {
    rows: u64,
    sum: f64,
    max: Option<f64>,
    /// Number and sum of the values.
    by_host: HashMap<String, (u64, f64)>,
}

impl Sums {
    fn add(&mut self, batch: &RecordBatch, query: Query) -> anyhow::Result<()> {
        let column = |name: &str| batch.column_by_name(name).with_context(|| format!("no column {name}"));
        match query {
            Query::Average => {
                let values = column("usage_idle")?.as_primitive::<Float64Type>();
                self.rows += (values.len() - values.null_count()) as u64;
                self.sum += compute::sum(values).unwrap_or_default();
            }
            Query::LastMinutes => {
                let times = column("time")?.as_primitive::<TimestampMicrosecondType>();
                let values = column("usage_user")?.as_primitive::<Float64Type>();
                for (time, value) in times.iter().zip(values) {
                    if time.is_some_and(|time| time >= SINCE_MICROS) {
                        self.rows += 1;
                        self.max = value.into_iter().chain(self.max).reduce(f64::max);
                    }
                }
            }
            Query::ByHost => {
                let hosts = column("host")?.as_dictionary::<Int32Type>();
                let names = hosts.values().as_string::<i32>();
                let values = column("usage_user")?.as_primitive::<Float64Type>();
                let mut by_code = vec![(0, 0.0); names.len()];
                for (code, value) in hosts.keys().iter().zip(values) {
                    if let (Some(code), Some(value)) = (code, value) {
                        let (count, sum) = &mut by_code[usize::try_from(code)?];
                        *count += 1;
                        *sum += value;
                    }
                }
                for (name, (count, sum)) in names.iter().flatten().zip(by_code) {
                    self.add_host(name.to_owned(), count, sum);
                }
            }
        }
        Ok(())
    }

    fn add_host(&mut self, name: String, count: u64, sum: f64) {
        let host = self.by_host.entry(name).or_default();
        *host = (host.0 + count, host.1 + sum);
    }

    fn plus(mut self, other: Self) -> Self {
        self.rows += other.rows;
        self.sum += other.sum;
        self.max = self.max.into_iter().chain(other.max).reduce(f64::max);
        for (name, (count, sum)) in other.by_host {
            self.add_host(name, count, sum);
        }
        self
    }

    /// The columns of the row that the query's SQL gives.
    #[allow(clippy::cast_precision_loss, reason = "numbers of rows, far below 2^53")]
    fn answer(&self, query: Query) -> Vec<f64> {
        match query {
            Query::Average => vec![self.sum / self.rows as f64],
            Query::LastMinutes => vec![self.rows as f64, self.max.unwrap_or(f64::NAN)],
            Query::ByHost => {
                let averages = self.by_host.values().map(|(count, sum)| sum / *count as f64);
                vec![self.by_host.len() as f64, averages.sum()]
            }
        }
    }
}
