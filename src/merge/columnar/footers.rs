//! What is kept of the footers of a slice's files: where the pages lie.
//!
//! A decoded footer takes about a kilobyte for each column of each row group: two gigabytes for 2,000 files of 1,000 columns.
//! The merge needs [`ChunkPlace`] of it, and the schema once for all files that have the same.

use std::collections::HashMap;
use std::sync::Arc;

use parquet::basic::Compression as Codec;
use parquet::file::metadata::{
    ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader, ParquetStatisticsPolicy,
    RowGroupMetaData,
};
use parquet::file::reader::ChunkReader;
use parquet::file::statistics::Statistics;
use parquet::schema::types::{ColumnDescPtr, SchemaDescPtr, SchemaDescriptor};

use super::super::page_headers::dictionary_page;
use super::super::schema::Projection;
use super::Refusal;
use super::chunk::judge;

/// A footer, of which nothing is left but what the merge needs.
pub(super) struct Footer {
    layout: Arc<Layout>,
    row_groups: Vec<RowGroupPlace>,
    /// By row group and leaf.
    chunks: Vec<ChunkPlace>,
}

struct RowGroupPlace {
    rows: i64,
    /// Smallest and largest time, if stated.
    times: Option<(i64, i64)>,
}

#[derive(Clone, Copy)]
struct ChunkPlace {
    dictionary: Option<i64>,
    data: i64,
    compressed: i64,
    uncompressed: i64,
    codec: Codec,
}

/// What files of one schema have in common.
struct Layout {
    schema: SchemaDescPtr,
    /// By group column, its position among the leaves.
    leaves: Vec<Option<usize>>,
}

/// The layouts seen so far, by the projection of their class.
#[derive(Default)]
pub(super) struct Layouts(HashMap<*const Projection, Arc<Layout>>);

/// Memory of the footer of a file with so many row groups and columns, once it is read.
pub(in super::super) fn footer_bytes(row_groups: u64, columns: u64) -> u64 {
    let chunk = size_of::<ChunkPlace>() as u64;
    row_groups.saturating_mul(columns.saturating_mul(chunk).saturating_add(size_of::<RowGroupPlace>() as u64))
}

impl Footer {
    /// Reads the footer of a file. `time` is the group column whose statistics are kept.
    pub(super) fn read<R: ChunkReader>(
        file: &R,
        projection: &[Projection],
        time: usize,
        layouts: &mut Layouts,
    ) -> Result<Self, Refusal> {
        // Where every column is of its own, leaves are counted as columns are; elsewhere nothing is skipped by time.
        let keep = match projection.get(time) {
            Some(&Projection::Column(at)) => ParquetStatisticsPolicy::skip_except(&[at]),
            _ => ParquetStatisticsPolicy::SkipAll,
        };
        let options = ParquetMetaDataOptions::new()
            .with_column_stats_policy(keep)
            .with_encoding_stats_policy(ParquetStatisticsPolicy::SkipAll)
            .with_size_stats_policy(ParquetStatisticsPolicy::SkipAll);
        let mut reader = ParquetMetaDataReader::new().with_metadata_options(Some(options));
        reader.try_parse(file).map_err(judge)?;
        let metadata = reader.finish().map_err(judge)?;
        let layout = layouts.of(&metadata, projection);
        let time = layout.leaves.get(time).copied().flatten();
        let row_groups = metadata.row_groups();
        Ok(Self {
            layout,
            chunks: row_groups.iter().flat_map(RowGroupMetaData::columns).map(ChunkPlace::of).collect(),
            row_groups: row_groups
                .iter()
                .map(|row_group| RowGroupPlace {
                    rows: row_group.num_rows(),
                    times: time.and_then(|leaf| times(row_group.column(leaf))),
                })
                .collect(),
        })
    }

    /// Bytes that this takes.
    pub(super) fn bytes(&self) -> u64 {
        let (row_groups, chunks) = (self.row_groups.len() as u64, self.chunks.len() as u64);
        footer_bytes(row_groups, chunks.checked_div(row_groups).unwrap_or_default())
    }

    pub(super) fn schema(&self) -> &SchemaDescriptor {
        &self.layout.schema
    }

    pub(super) fn row_groups(&self) -> usize {
        self.row_groups.len()
    }

    /// Rows of a row group.
    pub(super) fn rows(&self, row_group: usize) -> Result<usize, Refusal> {
        let rows = self.row_groups[row_group].rows;
        usize::try_from(rows).map_err(|e| Refusal::Unsuited(format!("number of rows: {e}")))
    }

    /// Smallest and largest time of a row group, if stated.
    pub(super) fn times(&self, row_group: usize) -> Option<(i64, i64)> {
        self.row_groups[row_group].times
    }

    /// Position of a group column among the file's leaves.
    pub(super) fn leaf(&self, column: usize) -> Option<usize> {
        self.layout.leaves[column]
    }

    pub(super) fn descriptor(&self, leaf: usize) -> ColumnDescPtr {
        self.layout.schema.column(leaf)
    }

    /// Where the pages of a chunk lie, and their size before compression.
    pub(super) fn chunk(&self, row_group: usize, leaf: usize) -> Result<(ColumnChunkMetaData, u64), Refusal> {
        let place = &self.chunks[row_group * self.layout.schema.num_columns() + leaf];
        let chunk = ColumnChunkMetaData::builder(self.descriptor(leaf))
            .set_compression(place.codec)
            .set_num_values(self.row_groups[row_group].rows)
            .set_dictionary_page_offset(place.dictionary)
            .set_data_page_offset(place.data)
            .set_total_compressed_size(place.compressed)
            .set_total_uncompressed_size(place.uncompressed)
            .build()
            .map_err(judge)?;
        Ok((chunk, u64::try_from(place.uncompressed).unwrap_or(u64::MAX)))
    }
}

impl ChunkPlace {
    fn of(chunk: &ColumnChunkMetaData) -> Self {
        Self {
            dictionary: dictionary_page(chunk),
            data: chunk.data_page_offset(),
            compressed: chunk.compressed_size(),
            uncompressed: chunk.uncompressed_size(),
            codec: chunk.compression(),
        }
    }
}

impl Layouts {
    fn of(&mut self, metadata: &ParquetMetaData, projection: &[Projection]) -> Arc<Layout> {
        let schema = metadata.file_metadata().schema_descr_ptr();
        let key = projection.as_ptr();
        if let Some(known) = self.0.get(&key).filter(|known| known.schema == schema) {
            return Arc::clone(known);
        }
        let leaf_of: HashMap<usize, usize> =
            (0..schema.num_columns()).rev().map(|leaf| (schema.get_column_root_idx(leaf), leaf)).collect();
        let leaf = |projection: &Projection| match projection {
            Projection::Column(at) => leaf_of.get(at).copied(),
            _ => None,
        };
        let layout = Arc::new(Layout { leaves: projection.iter().map(leaf).collect(), schema });
        self.0.insert(key, Arc::clone(&layout));
        layout
    }
}

fn times(chunk: &ColumnChunkMetaData) -> Option<(i64, i64)> {
    match chunk.statistics()? {
        Statistics::Int64(s) => s.min_opt().copied().zip(s.max_opt().copied()),
        Statistics::Int32(s) => s.min_opt().copied().map(i64::from).zip(s.max_opt().copied().map(i64::from)),
        _ => None,
    }
}
