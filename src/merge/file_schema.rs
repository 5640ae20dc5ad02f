//! The schema of one input: its columns in file order, with what a merge has to know of each.
//!
//! Built from a footer alone: the Parquet schema, and the Arrow schema that many writers leave in the key-value metadata,
//! which carries what Parquet has no words for (durations, zone names, dictionaries, fixed-size lists, extension types).

use std::collections::{BTreeMap, HashSet};

use duckdb::arrow::datatypes::{DataType, Field, FieldRef};
use parquet::arrow::{ARROW_SCHEMA_META_KEY, parquet_to_arrow_schema};
use parquet::basic::LogicalType;
use parquet::file::metadata::{ColumnChunkMetaData, FileMetaData, KeyValue, RowGroupMetaData};
use parquet::schema::types::Type;

use super::column_type::{ColumnType, FieldIds, annotation};
use super::stats::{FileColumnStats, StatValue};

/// The metadata key of `GeoParquet`.
const GEO_KEY: &str = "geo";

/// Stands for a schema: equal for files whose columns have equal names, types, order and Arrow meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SchemaKey([u8; 32]);

impl SchemaKey {
    pub(super) fn of(file: &FileMetaData) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{:?}", file.schema()).as_bytes());
        if let Some(arrow) = arrow_key(file) {
            hasher.update(arrow.value.as_deref().unwrap_or_default().as_bytes());
        }
        hasher.update(&[u8::from(has_geometries(file))]);
        Self(*hasher.finalize().as_bytes())
    }
}

/// The columns of a file.
#[derive(Debug)]
pub(super) struct FileSchema {
    pub(super) key: SchemaKey,
    pub(super) columns: Vec<FileColumn>,
    /// The file carries an Arrow schema.
    pub(super) has_arrow: bool,
    /// Why a rewrite would change files of this schema. Then `columns` is incomplete.
    pub(super) refused: Option<String>,
}

/// A top-level column.
#[derive(Debug)]
pub(super) struct FileColumn {
    pub(super) name: String,
    pub(super) ty: ColumnType,
    /// DuckDB reads the column as another type than `ty` says and has to cast it.
    pub(super) needs_cast: bool,
    /// The Parquet leaf that holds the values, unless the column is nested.
    pub(super) leaf: Option<usize>,
    /// The leaves of the column.
    pub(super) leaves: std::ops::Range<usize>,
    pub(super) meaning: Meaning,
    pub(super) arrow: FieldRef,
}

/// What has to be equal besides the type for two columns to be one: field ids and Arrow extension types.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) ids: FieldIds,
    /// Extension name and metadata, by the path of the field that has them.
    extensions: BTreeMap<String, (String, String)>,
}

impl FileSchema {
    pub(super) fn of(file: &FileMetaData, key: SchemaKey) -> Self {
        let mut schema = Self { key, columns: Vec::new(), has_arrow: arrow_key(file).is_some(), refused: None };
        schema.refused = schema.read(file).err();
        schema
    }

    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    fn read(&mut self, file: &FileMetaData) -> Result<(), String> {
        if has_geometries(file) {
            return Err(format!("the key {GEO_KEY:?} of its metadata makes binary columns geometries"));
        }
        let key_values = arrow_key(file).map(|key| vec![key.clone()]);
        let arrow = parquet_to_arrow_schema(file.schema_descr(), key_values.as_ref())
            .map_err(|e| format!("Arrow cannot interpret the schema: {e}"))?;
        let fields = file.schema().get_fields();
        if arrow.fields().len() != fields.len() {
            return Err("Arrow sees another number of columns".to_owned());
        }
        let mut names = HashSet::new();
        let mut leaf = 0;
        for (field, arrow) in fields.iter().zip(arrow.fields()) {
            if !names.insert(field.name()) {
                return Err(format!("two columns are named {:?}", field.name()));
            }
            let ty =
                ColumnType::of(field, arrow.data_type()).map_err(|ty| format!("column {:?}: {ty}", field.name()))?;
            let leaves = leaf..leaf + leaf_count(field);
            leaf = leaves.end;
            let mut meaning = Meaning { ids: FieldIds::of(field), extensions: BTreeMap::new() };
            collect_extensions(arrow, "", &mut meaning.extensions);
            self.columns.push(FileColumn {
                name: field.name().to_owned(),
                needs_cast: read_differently(field),
                leaf: (!ty.is_nested()).then_some(leaves.start),
                leaves,
                ty,
                meaning,
                arrow: arrow.clone(),
            });
        }
        Ok(())
    }
}

fn arrow_key(file: &FileMetaData) -> Option<&KeyValue> {
    file.key_value_metadata()?.iter().find(|entry| entry.key == ARROW_SCHEMA_META_KEY && entry.value.is_some())
}

/// `GeoParquet`: what a binary column means stands in the metadata only, which outputs do not carry over, and DuckDB reads
/// such a column as another type.
fn has_geometries(file: &FileMetaData) -> bool {
    file.key_value_metadata().is_some_and(|entries| entries.iter().any(|entry| entry.key == GEO_KEY))
}

fn leaf_count(field: &Type) -> usize {
    if field.is_primitive() { 1 } else { field.get_fields().iter().map(|f| leaf_count(f)).sum() }
}

/// Whether DuckDB reads something in `field` as another type than ours. A timestamp or time that only has a converted type
/// is in UTC by the Parquet specification, but DuckDB reads it without zone. Annotated JSON is read as a type of its own,
/// about which DuckDB with and without its json extension disagree; for us it is text.
fn read_differently(field: &Type) -> bool {
    if field.is_group() {
        return field.get_fields().iter().any(|f| read_differently(f));
    }
    let info = field.get_basic_info();
    match annotation(info) {
        Some(LogicalType::Json) => true,
        Some(LogicalType::Timestamp { .. } | LogicalType::Time { .. }) => info.logical_type_ref().is_none(),
        _ => false,
    }
}

fn collect_extensions(field: &Field, path: &str, found: &mut BTreeMap<String, (String, String)>) {
    // These two are Parquet logical types as well, and may be named or not.
    if let Some(name) = field.extension_type_name().filter(|name| !matches!(*name, "arrow.uuid" | "arrow.json")) {
        let metadata = field.extension_type_metadata().unwrap_or_default();
        found.insert(path.to_owned(), (name.to_owned(), metadata.to_owned()));
    }
    match field.data_type() {
        DataType::Struct(fields) => {
            for (i, child) in fields.iter().enumerate() {
                collect_extensions(child, &format!("{path}.{i}"), found);
            }
        }
        DataType::List(child)
        | DataType::LargeList(child)
        | DataType::FixedSizeList(child, _)
        | DataType::Map(child, _) => collect_extensions(child, &format!("{path}.0"), found),
        _ => {}
    }
}

/// Where the 32-bit integers of a column lie.
///
/// DuckDB's delta encoding (Parquet version 2) writes differences of 32-bit integers in more than 32 bits when they do
/// not fit, which other readers refuse. As long as all values lie within 2^31 of each other, no difference needs more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    Empty,
    Within(i128, i128),
    Unknown,
}

impl Span {
    pub(super) fn of(row_groups: &[RowGroupMetaData], column: &FileColumn) -> Self {
        column.leaves.clone().fold(Self::Empty, |span, leaf| {
            let Some(descriptor) =
                row_groups.first().and_then(|rg| rg.columns().get(leaf)).map(ColumnChunkMetaData::column_descr)
            else {
                return span;
            };
            let (ty, limits) = match ColumnType::of(descriptor.self_type(), &DataType::Null) {
                Ok(ty @ ColumnType::Integer { bits: 8 | 16, .. }) => {
                    (ty, Self::Within(i16::MIN.into(), u16::MAX.into()))
                }
                Ok(ty @ (ColumnType::Integer { bits: 32, .. } | ColumnType::Date)) => (ty, Self::Unknown),
                _ => return span,
            };
            let values: i64 = row_groups.iter().map(|rg| rg.column(leaf).num_values()).sum();
            let stats = FileColumnStats::of(row_groups, leaf, &ty);
            span.join(match (stats.min, stats.max) {
                (Some(StatValue::Integer(min)), Some(StatValue::Integer(max))) => Self::Within(min, max),
                _ if stats.nulls.and_then(|n| i64::try_from(n).ok()) == Some(values) => Self::Empty,
                _ => limits,
            })
        })
    }

    pub(super) fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Empty, span) | (span, Self::Empty) => span,
            (Self::Within(a, b), Self::Within(c, d)) => Self::Within(a.min(c), b.max(d)),
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
        }
    }

    /// Whether every reader can decode the differences of these values.
    pub(super) fn is_delta_safe(self) -> bool {
        match self {
            Self::Empty => true,
            Self::Within(min, max) => max - min <= i128::from(i32::MAX),
            Self::Unknown => false,
        }
    }
}
