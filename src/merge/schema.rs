//! The lossless union: which files can be merged together, and as what.
//!
//! Pure. Columns are matched by exact name. A file joins a group when every column that both have can be held exactly by
//! one type ([`ColumnType::join`]); otherwise it goes to another group with outputs of its own. Nothing is ever cast to
//! text, rounded or dropped, and a column that is null everywhere stays.
//!
//! ```text
//! files ──> classes ───────────> groups
//!           one physical schema  one output schema; the class with most files first, each class into the first group
//!                                that it fits
//! ```
//!
//! Statistics decide two things only: whether a column is all null, and may therefore stand beside any type, and whether
//! microseconds fit into nanoseconds. Where they lie, DuckDB raises an error: [`Projection::NullChecked`] tests each
//! value, and its cast to nanoseconds checks for overflow.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};
use duckdb::arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema, parquet_to_arrow_schema};
use parquet::file::metadata::KeyValue;
use parquet::schema::types::{SchemaDescriptor, Type, TypePtr};

use super::column_type::ColumnType;
use super::file_schema::{FileColumn, FileSchema, Meaning, Span};
use super::stats::{ColumnStats, FileColumnStats, StatValue};
use super::survey::{RowGroups, Surveyed};
use super::{MergeInput, MergeOptions, SetAside, SetAsideReason, TimeBound};

/// Files that can be merged together without loss.
#[derive(Debug)]
pub(super) struct SchemaGroup {
    /// Output columns, in order of first appearance over the inputs in request order.
    pub(super) columns: Vec<GroupColumn>,
    /// Files of identical physical schema. To be merged: at least two files over all classes.
    pub(super) classes: Vec<FileClass>,
    /// Indices into `columns`: the sort key, most significant first.
    pub(super) sort: Vec<usize>,
    /// Index into `columns`.
    pub(super) time: usize,
    pub(super) time_kind: TimeKind,
    /// The root of the outputs' Parquet schema: the columns under their real names.
    pub(super) parquet_schema: TypePtr,
    /// The value of the outputs' `ARROW:schema` key, when any input has one.
    pub(super) arrow_schema: Option<String>,
    /// Whether Parquet version 2 may be written. Its delta encodings, as DuckDB writes them, cannot be read by others when
    /// 32-bit integers lie too far apart, and not by Arrow C++ into a dictionary. Beside nested columns DuckDB's version 2
    /// was larger than its version 1 (lists of doubles: by 33 %).
    pub(super) version_2_suits: bool,
}

/// How literals of the time column are written, and what its bounds mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TimeKind {
    TimestampMicros {
        utc: bool,
    },
    /// Always without zone.
    TimestampNanos,
    /// The SQL name of an integer type.
    Integer(String),
    /// Days since 1970.
    Date,
    /// Sortable, but without ranges to cut: one slice.
    Other,
}

/// A column of the outputs.
#[derive(Debug)]
pub(super) struct GroupColumn {
    pub(super) name: String,
    pub(super) ty: ColumnType,
    /// The DuckDB type in which the column is merged.
    pub(super) sql_type: String,
    /// The field to declare in the outputs, under its real name.
    pub(super) parquet_type: TypePtr,
}

/// Files of identical physical schema: one `read_parquet` list.
#[derive(Debug)]
pub(super) struct FileClass {
    pub(super) column_count: usize,
    /// One per group column.
    pub(super) projection: Vec<Projection>,
    /// In request order.
    pub(super) files: Vec<ClassFile>,
}

/// Where a group column comes from in the files of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Projection {
    /// The column at this position, as it is.
    Column(usize),
    /// The column at this position, cast to the group's type.
    Cast(usize),
    /// Nulls: the files have no such column.
    Null,
    /// Nulls of the group's type: the files have a column of an incompatible type at this position, which their
    /// statistics say is all null. The statement must fail if a value of it is not null.
    NullChecked(usize),
}

/// A file of a class.
#[derive(Debug)]
pub(super) struct ClassFile {
    /// Index into the request's inputs.
    pub(super) input: usize,
    pub(super) rows: u64,
    pub(super) size_bytes: u64,
    pub(super) uncompressed_bytes: u64,
    pub(super) row_groups: RowGroups,
    /// Rows of the row groups in which one instant may be, on average over the file's range.
    pub(super) touched: u64,
    /// Of the time column, in the group's unit.
    pub(super) time: ColumnStats<i64>,
    /// One per group column, after widening.
    pub(super) columns: Vec<FileColumnStats>,
}

impl SchemaGroup {
    pub(super) fn files(&self) -> impl Iterator<Item = &ClassFile> {
        self.classes.iter().flat_map(|class| &class.files)
    }
}

/// Sorts the surveyed files into groups, the largest first. What is in no group is set aside.
pub(super) fn group(
    surveyed: Vec<Surveyed>,
    inputs: &[MergeInput],
    options: &MergeOptions,
) -> (Vec<SchemaGroup>, Vec<SetAside>) {
    group_at_least(2, surveyed, inputs, options)
}

/// The same, for files that are only read: a file that fits to no other makes a group of its own.
pub(super) fn group_all(
    surveyed: Vec<Surveyed>,
    inputs: &[MergeInput],
    options: &MergeOptions,
) -> (Vec<SchemaGroup>, Vec<SetAside>) {
    group_at_least(1, surveyed, inputs, options)
}

/// Rewriting a group of fewer than `least` files would gain nothing.
fn group_at_least(
    least: usize,
    surveyed: Vec<Surveyed>,
    inputs: &[MergeInput],
    options: &MergeOptions,
) -> (Vec<SchemaGroup>, Vec<SetAside>) {
    let mut set_aside = Vec::new();
    let mut put_aside = |input: usize, reason| set_aside.push((input, reason));

    let mut sortable = Vec::with_capacity(surveyed.len());
    for file in surveyed {
        match check_sortable(&file.schema, options) {
            Ok(()) => sortable.push(file),
            Err(reason) => put_aside(file.input, reason),
        }
    }

    let mut drafts: Vec<Draft> = Vec::new();
    for class in classes(sortable) {
        match drafts.iter_mut().find(|draft| draft.conflict(&class).is_none()) {
            Some(draft) => draft.absorb(class),
            None => drafts.push(Draft::new(class)),
        }
    }

    let mut groups = Vec::new();
    for (number, draft) in drafts.iter().enumerate() {
        let alone = draft.classes.iter().map(|class| class.files.len()).sum::<usize>() < least;
        if alone {
            let mut others = drafts.iter().enumerate().filter(|(other, _)| *other != number);
            let conflict = others.find_map(|(_, other)| other.conflict(&draft.classes[0]));
            let detail = conflict.unwrap_or_else(|| "it is the only file left".to_owned());
            put_aside(draft.classes[0].files[0].input, SetAsideReason::Alone(detail));
            continue;
        }
        match draft.finish(options) {
            Ok(group) => groups.push(group),
            Err(error) => {
                for file in draft.classes.iter().flat_map(|class| &class.files) {
                    put_aside(file.input, SetAsideReason::Unsupported(error.clone()));
                }
            }
        }
    }
    set_aside.sort_by_key(|(input, _)| *input);
    let set_aside =
        set_aside.into_iter().map(|(i, reason)| SetAside { name: inputs[i].name.clone(), reason }).collect();
    (groups, set_aside)
}

fn check_sortable(schema: &FileSchema, options: &MergeOptions) -> Result<(), SetAsideReason> {
    for name in std::iter::once(&options.time_column).chain(&options.sort_by) {
        match schema.position(name) {
            None => return Err(SetAsideReason::NoSortColumn(name.clone())),
            Some(i) if schema.columns[i].ty.is_nested() => {
                let ty = schema.columns[i].ty.sql();
                return Err(SetAsideReason::Unsupported(format!("sort column {name:?} has type {ty}")));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The files of one schema, in request order.
#[derive(Debug)]
struct Class {
    schema: Arc<FileSchema>,
    files: Vec<Surveyed>,
}

impl Class {
    fn first_input(&self) -> usize {
        self.files[0].input
    }

    /// Whether the statistics of every file say that column `i` holds nothing but nulls.
    fn is_all_null(&self, i: usize) -> bool {
        self.files.iter().all(|file| file.columns[i].nulls == Some(file.rows))
    }

    /// Whether the statistics of every file say that the microseconds in column `i` can be counted in nanoseconds.
    fn fits_nanos(&self, i: usize) -> bool {
        let fits = |bound: &Option<StatValue>| {
            let micros = bound.as_ref().and_then(StatValue::as_i64);
            // The largest and the smallest number stand for infinity in DuckDB and must not be reached.
            micros.and_then(|v| v.checked_mul(1000)).is_some_and(|v| v.unsigned_abs() < i64::MAX.unsigned_abs())
        };
        self.files.iter().all(|file| {
            let stats = &file.columns[i];
            stats.nulls == Some(file.rows) || fits(&stats.min) && fits(&stats.max)
        })
    }
}

/// The class with most files first; among equals, the one that appears first.
fn classes(files: Vec<Surveyed>) -> Vec<Class> {
    let mut classes: Vec<Class> = Vec::new();
    let mut by_key = HashMap::new();
    for file in files {
        let at = *by_key.entry(file.schema.key).or_insert(classes.len());
        match classes.get_mut(at) {
            Some(class) => class.files.push(file),
            None => classes.push(Class { schema: Arc::clone(&file.schema), files: vec![file] }),
        }
    }
    classes.sort_by_key(|class| (Reverse(class.files.len()), class.first_input()));
    classes
}

/// A group that is still growing.
#[derive(Debug, Default)]
struct Draft {
    classes: Vec<Class>,
    columns: HashMap<String, DraftColumn>,
}

#[derive(Debug)]
struct DraftColumn {
    meaning: Meaning,
    /// The type that holds all values so far. `None` while there are none.
    values: Option<ColumnType>,
    /// All microseconds among the values can be counted in nanoseconds.
    fits_nanos: bool,
}

impl DraftColumn {
    /// The type for the values here and those of another column. `None`: there is no lossless one.
    fn join(&self, other: &ColumnType, other_fits_nanos: bool) -> Option<ColumnType> {
        let Some(values) = &self.values else { return Some(other.clone()) };
        values.join(other).filter(|joined| {
            let overflows = |ty: &ColumnType, fits: bool| ty != joined && !fits;
            *joined != ColumnType::TimestampNanos
                || !overflows(values, self.fits_nanos) && !overflows(other, other_fits_nanos)
        })
    }
}

impl Draft {
    fn new(class: Class) -> Self {
        let mut draft = Self::default();
        draft.absorb(class);
        draft
    }

    /// Why `class` cannot join, in words.
    fn conflict(&self, class: &Class) -> Option<String> {
        class.schema.columns.iter().enumerate().find_map(|(i, column)| {
            let mine = self.columns.get(&column.name)?;
            if mine.meaning != column.meaning {
                return Some(format!("column {:?} has another Arrow extension type or field id", column.name));
            }
            let fits = class.is_all_null(i) || mine.join(&column.ty, class.fits_nanos(i)).is_some();
            let theirs = mine.values.as_ref().map(ColumnType::sql).unwrap_or_default();
            (!fits).then(|| format!("column {:?} is {} here and {theirs} elsewhere", column.name, column.ty.sql()))
        })
    }

    /// Takes `class` in. It must not conflict.
    fn absorb(&mut self, class: Class) {
        for (i, column) in class.schema.columns.iter().enumerate() {
            let mine = self.columns.entry(column.name.clone()).or_insert_with(|| DraftColumn {
                meaning: column.meaning.clone(),
                values: None,
                fits_nanos: true,
            });
            if !class.is_all_null(i) {
                let fits = class.fits_nanos(i);
                mine.values = mine.join(&column.ty, fits);
                mine.fits_nanos &= fits;
            }
        }
        self.classes.push(class);
    }

    fn finish(&self, options: &MergeOptions) -> Result<SchemaGroup, String> {
        let mut classes: Vec<&Class> = self.classes.iter().collect();
        classes.sort_by_key(|class| class.first_input());

        let mut columns: Vec<GroupColumn> = Vec::with_capacity(self.columns.len());
        let mut index = HashMap::new();
        for column in classes.iter().flat_map(|class| &class.schema.columns) {
            if index.contains_key(column.name.as_str()) {
                continue;
            }
            let draft = &self.columns[&column.name];
            let ty = output_type(draft, &column.name, &classes);
            let parquet_type = ty
                .parquet(&column.name, &draft.meaning.ids)
                .map_err(|e| format!("column {:?} cannot be declared: {e}", column.name))?;
            index.insert(column.name.as_str(), columns.len());
            columns.push(GroupColumn { name: column.name.clone(), sql_type: ty.sql(), ty, parquet_type });
        }

        let root = Type::group_type_builder("schema")
            .with_fields(columns.iter().map(|column| Arc::clone(&column.parquet_type)).collect())
            .build()
            .map_err(|e| e.to_string())?;
        let parquet_schema = Arc::new(root);
        let time = index[options.time_column.as_str()];
        let delta_encoding_safe = columns.iter().all(|column| {
            let spans = classes.iter().filter_map(|class| Some((class, class.schema.position(&column.name)?)));
            let spans = spans.flat_map(|(class, i)| class.files.iter().map(move |file| file.spans[i]));
            spans.fold(Span::Empty, Span::join).is_delta_safe()
        });
        let arrow_schema = arrow_schema(&classes, &columns, &parquet_schema);
        let dictionaries =
            arrow_schema.as_ref().is_some_and(|schema| schema.fields().iter().any(|f| has_dictionary(f.data_type())));
        Ok(SchemaGroup {
            classes: classes.iter().map(|class| file_class(class, &columns, time)).collect(),
            sort: options.sort_by.iter().map(|name| index[name.as_str()]).collect(),
            time,
            time_kind: TimeKind::of(&columns[time].ty),
            arrow_schema: arrow_schema.as_ref().map(encode_arrow_schema),
            parquet_schema,
            version_2_suits: delta_encoding_safe && !dictionaries && !columns.iter().any(|c| c.ty.is_nested()),
            columns,
        })
    }
}

/// The type of the values, wide enough also for the declared types of columns without values where that is possible.
fn output_type(draft: &DraftColumn, name: &str, classes: &[&Class]) -> ColumnType {
    let declared = classes.iter().filter_map(|class| {
        let i = class.schema.position(name)?;
        class.is_all_null(i).then(|| &class.schema.columns[i].ty)
    });
    let mut reached =
        DraftColumn { meaning: Meaning::default(), values: draft.values.clone(), fits_nanos: draft.fits_nanos };
    for ty in declared {
        if let Some(joined) = reached.join(ty, true) {
            reached.values = Some(joined);
        }
    }
    reached.values.unwrap_or(ColumnType::Null)
}

fn file_class(class: &Class, columns: &[GroupColumn], time: usize) -> FileClass {
    let sources: Vec<Option<(usize, &FileColumn)>> = columns
        .iter()
        .map(|column| class.schema.position(&column.name).map(|i| (i, &class.schema.columns[i])))
        .collect();
    let projection: Vec<Projection> =
        columns.iter().zip(&sources).map(|(column, source)| projection(*source, &column.ty)).collect();
    let files = class
        .files
        .iter()
        .map(|file| {
            let stats: Vec<FileColumnStats> = columns
                .iter()
                .zip(&sources)
                .zip(&projection)
                .map(|((column, source), projection)| match (source, projection) {
                    (Some((i, source)), Projection::Column(_) | Projection::Cast(_)) => {
                        file.columns[*i].widen(&source.ty, &column.ty)
                    }
                    _ => FileColumnStats::all_null(file.rows),
                })
                .collect();
            ClassFile {
                input: file.input,
                rows: file.rows,
                size_bytes: file.size_bytes,
                uncompressed_bytes: file.uncompressed_bytes,
                row_groups: file.row_groups,
                touched: sources[time].map_or(file.rows, |(i, _)| file.touched[i]),
                time: stats[time].as_i64(),
                columns: stats,
            }
        })
        .collect();
    FileClass { column_count: class.schema.columns.len(), projection, files }
}

fn projection(source: Option<(usize, &FileColumn)>, to: &ColumnType) -> Projection {
    match source {
        None => Projection::Null,
        Some((i, column)) if column.ty == *to && !column.needs_cast => Projection::Column(i),
        Some((i, column)) if column.ty != ColumnType::Null && column.ty.join(to).as_ref() == Some(to) => {
            Projection::Cast(i)
        }
        Some((i, _)) => Projection::NullChecked(i),
    }
}

impl TimeKind {
    fn of(ty: &ColumnType) -> Self {
        match ty {
            ColumnType::TimestampMicros { utc } => Self::TimestampMicros { utc: *utc },
            ColumnType::TimestampNanos => Self::TimestampNanos,
            ColumnType::Integer { .. } | ColumnType::ArrowInt64(_) => Self::Integer(ty.sql()),
            ColumnType::Date => Self::Date,
            _ => Self::Other,
        }
    }
}

/// `value` of the time column, for people and the record. Numbers that are no date of the calendar stay numbers.
pub(super) fn time_bound(kind: &TimeKind, value: i64) -> TimeBound {
    let text = match kind {
        TimeKind::TimestampMicros { .. } => {
            DateTime::from_timestamp_micros(value).map(|t| t.to_rfc3339_opts(SecondsFormat::AutoSi, true))
        }
        TimeKind::TimestampNanos => {
            Some(DateTime::from_timestamp_nanos(value).to_rfc3339_opts(SecondsFormat::AutoSi, true))
        }
        TimeKind::Date => value
            .checked_mul(86_400)
            .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
            .map(|t| t.date_naive().to_string()),
        TimeKind::Integer(_) | TimeKind::Other => None,
    };
    text.map_or(TimeBound::Integer(value), TimeBound::Text)
}

/// The Arrow schema of the outputs: what the inputs agree on. Where they differ in representation only (zone names,
/// dictionaries, large types), it says the plain type; times with a zone are then in UTC.
fn arrow_schema(classes: &[&Class], columns: &[GroupColumn], parquet_schema: &TypePtr) -> Option<Schema> {
    if !classes.iter().any(|class| class.schema.has_arrow) {
        return None;
    }
    let fields: Vec<Field> = columns
        .iter()
        .map(|column| {
            let mut hints = classes.iter().filter(|class| class.schema.has_arrow).filter_map(|class| {
                let source = &class.schema.columns[class.schema.position(&column.name)?];
                (source.ty == column.ty)
                    .then(|| Field::clone(&source.arrow).with_data_type(column.ty.arrow_like(source.arrow.data_type())))
            });
            let plain = || Field::new(&column.name, column.ty.arrow(), true);
            let Some(first) = hints.next() else { return plain() };
            hints.fold(first, |field, hint| combine(field, &hint, || column.ty.arrow())).with_nullable(true)
        })
        .collect();
    let encoded = encode_arrow_schema(&Schema::new(fields));
    // Read back over the Parquet schema, so that both say the same about names and nulls of nested fields.
    let descriptor = SchemaDescriptor::new(Arc::clone(parquet_schema));
    let entry = KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), encoded);
    parquet_to_arrow_schema(&descriptor, Some(&vec![entry])).ok()
}

fn has_dictionary(ty: &DataType) -> bool {
    match ty {
        DataType::Dictionary(..) => true,
        DataType::Struct(fields) => fields.iter().any(|f| has_dictionary(f.data_type())),
        DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) | DataType::Map(f, _) => {
            has_dictionary(f.data_type())
        }
        _ => false,
    }
}

fn combine(field: Field, hint: &Field, plain: impl Fn() -> DataType) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.retain(|key, value| hint.metadata().get(key) == Some(value));
    let ty = if field.data_type() == hint.data_type() { field.data_type().clone() } else { plain() };
    field.with_data_type(ty).with_metadata(metadata)
}

#[cfg(test)]
mod tests;
