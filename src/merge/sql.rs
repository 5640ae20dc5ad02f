//! The SQL text given to DuckDB. Pure: types in, text out.
//!
//! What must hold: every name and every literal goes through [`identifier`], [`literal`] or [`read_path`], because column
//! names and paths come from other people's files and may contain anything. Columns are taken from files by position, never
//! by name, and every conversion is written out, so that DuckDB has nothing to decide.
//!
//! Not here: which columns, types and ranges (`schema.rs`, `slices.rs`).

use std::fmt::Write as _;

use super::column_type::ColumnType;
use super::schema::{FileClass, Projection, SchemaGroup, TimeKind};
use super::slices::Range;
use super::{Compression, MergeOptions, ParquetVersion};

/// Rows of one file that the tie-breaker can tell apart.
const TIE_ROW_BITS: u32 = 40;

/// A quoted identifier.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A quoted string literal.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A list of string literals.
pub(super) fn literals<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = texts.into_iter().map(literal).collect();
    format!("[{}]", quoted.join(", "))
}

/// A path with its glob characters made plain, because reading functions take every path for a pattern.
pub(super) fn without_glob(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    for c in path.chars() {
        match c {
            '*' | '?' | '[' => {
                plain.push('[');
                plain.push(c);
                plain.push(']');
            }
            _ => plain.push(c),
        }
    }
    plain
}

/// The files of one class that a statement reads, under the names that DuckDB may open.
pub(super) struct Source<'a> {
    pub(super) class: &'a FileClass,
    pub(super) paths: Vec<String>,
}

impl Source<'_> {
    /// `read_parquet` over the files, its columns renamed to `f0`, `f1`, … by position.
    fn scan(&self) -> String {
        let paths = literals(self.paths.iter().map(|p| without_glob(p)).collect::<Vec<_>>().iter().map(String::as_str));
        let columns: Vec<String> = (0..self.class.column_count).map(|i| format!("f{i}")).collect();
        // No folder of the form `key=value` in a path may add a column (hive_partitioning).
        format!("read_parquet({paths}, hive_partitioning = false) AS t({})", columns.join(", "))
    }

    /// The group's column `column` as this class provides it.
    fn value(&self, group: &SchemaGroup, column: usize) -> String {
        let sql_type = &group.columns[column].sql_type;
        match self.class.projection[column] {
            Projection::Column(at) => format!("f{at}"),
            Projection::Cast(at) => format!("CAST(f{at} AS {sql_type})"),
            Projection::Null => format!("CAST(NULL AS {sql_type})"),
            // Tested as text: of that the optimizer knows no statistics by which it could take the test for granted.
            Projection::NullChecked(at) => format!(
                "CASE WHEN CAST(f{at} AS VARCHAR) IS NULL THEN CAST(NULL AS {sql_type}) \
                 ELSE error('column {at} has values, although the footer says that it has none') END"
            ),
        }
    }

    /// The group's columns, as a list of `value AS c0, …`.
    fn projection(&self, group: &SchemaGroup) -> String {
        let columns: Vec<String> =
            (0..group.columns.len()).map(|i| format!("{} AS c{i}", self.value(group, i))).collect();
        columns.join(", ")
    }
}

/// How the rows of a slice get into order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// By the sort key.
    Sorted,
    /// They come as they are, file after file. For one source only, and to be checked afterwards.
    AsRead,
}

/// Writes the rows of a range to a file. The columns are named by [`slice_column`].
///
/// Sorted rows that are equal in the sort key keep the order of the sources, files and rows: DuckDB's sort alone is not
/// stable, and the same inputs must give the same bytes. That costs 5 % (one packed integer; as two columns it would be 10 %).
pub(super) fn copy_slice(
    group: &SchemaGroup,
    sources: &[Source<'_>],
    range: Range,
    order: Order,
    options: &MergeOptions,
    out: &str,
) -> String {
    let filter = range_filter(group, range);
    let mut first_file = 0;
    let mut branches = Vec::with_capacity(sources.len());
    for source in sources {
        branches.push(format!(
            "SELECT {}, (({first_file} + CAST(file_index AS BIGINT)) << {TIE_ROW_BITS}) | file_row_number AS tie FROM {}",
            source.projection(group),
            source.scan()
        ));
        first_file += source.paths.len();
    }
    let columns: Vec<String> =
        (0..group.columns.len()).map(|i| format!("c{i} AS {}", identifier(&slice_column(i)))).collect();
    let keys: Vec<String> = group.sort.iter().map(|&i| format!("c{i} ASC NULLS LAST, ")).collect();
    let order_by = match order {
        Order::Sorted => format!(" ORDER BY {}tie", keys.concat()),
        // DuckDB keeps the order of files and rows (`preserve_insertion_order`, on by default).
        Order::AsRead => String::new(),
    };
    format!(
        "COPY (SELECT {} FROM ({}){filter}{order_by}) TO {} ({})",
        columns.join(", "),
        branches.join(" UNION ALL "),
        literal(out),
        write_options(group, options)
    )
}

/// What column `index` of a group is called in a slice file: DuckDB cannot write every name that a file may have (the empty
/// one, or two that differ in case), so the real names are put in when slices are stitched.
pub(super) fn slice_column(index: usize) -> String {
    format!("c{index}")
}

/// `SELECT rows, xor, sum` over all rows of the sources, independent of their order.
pub(super) fn fingerprint(group: &SchemaGroup, sources: &[Source<'_>]) -> String {
    fold(&hashes(group, sources))
}

/// `SELECT h` of every row of the sources.
fn hashes(group: &SchemaGroup, sources: &[Source<'_>]) -> String {
    let branches: Vec<String> = sources
        .iter()
        .map(|s| {
            format!(
                "SELECT {} FROM {}",
                hash(group, &(0..group.columns.len()).map(|i| s.value(group, i)).collect::<Vec<_>>()),
                s.scan()
            )
        })
        .collect();
    branches.join(" UNION ALL ")
}

/// How many rows of `part` have no equal of their own in `whole`, by their hashes, as multisets.
pub(super) fn rows_missing(group: &SchemaGroup, part: &[Source<'_>], whole: &[Source<'_>]) -> String {
    format!(
        "WITH part AS (SELECT h, count(*) AS n FROM ({}) GROUP BY h), \
         whole AS (SELECT h, count(*) AS n FROM ({}) WHERE h IN (SELECT h FROM part) GROUP BY h) \
         SELECT CAST(coalesce(sum(greatest(part.n - coalesce(whole.n, 0), 0)), 0) AS UBIGINT) \
         FROM part LEFT JOIN whole USING (h)",
        hashes(group, part),
        hashes(group, whole)
    )
}

/// How many rows of a file come before the row above them in the order of `keys`: ascending, nulls last.
pub(super) fn steps_back(path: &str, keys: &[String]) -> String {
    let path = literal(&without_glob(path));
    let columns: Vec<String> = keys
        .iter()
        .enumerate()
        .map(|(i, key)| {
            let key = identifier(key);
            format!("t.{key} AS k{i}, lag(t.{key}) OVER () AS p{i}")
        })
        .collect();
    // From the least significant key up: less, or equal and the rest is less.
    let back = (0..keys.len()).rev().fold("false".to_owned(), |rest, i| {
        format!(
            "((p{i} IS NULL AND k{i} IS NOT NULL) OR coalesce(k{i} < p{i}, false) \
             OR (k{i} IS NOT DISTINCT FROM p{i} AND {rest}))"
        )
    });
    format!(
        "SELECT CAST(count(*) AS UBIGINT) FROM (SELECT file_row_number AS r, {} \
         FROM read_parquet({path}, hive_partitioning = false, file_row_number = true) AS t) WHERE r > 0 AND {back}",
        columns.join(", ")
    )
}

/// The same over finished outputs, whose columns are the group's, in its order.
pub(super) fn output_fingerprint(group: &SchemaGroup, paths: &[String]) -> String {
    let paths: Vec<String> = paths.iter().map(|p| without_glob(p)).collect();
    let columns: Vec<String> = (0..group.columns.len()).map(|i| format!("f{i}")).collect();
    // The type is the one that was hashed in the inputs, whatever the file may say.
    let values: Vec<String> =
        group.columns.iter().enumerate().map(|(i, c)| format!("CAST(f{i} AS {})", c.sql_type)).collect();
    fold(&format!(
        "SELECT {} FROM read_parquet({}, hive_partitioning = false) AS t({})",
        hash(group, &values),
        literals(paths.iter().map(String::as_str)),
        columns.join(", ")
    ))
}

/// The hash of a row. `values` are the group's columns.
fn hash(group: &SchemaGroup, values: &[String]) -> String {
    let shapes = group.columns.iter().zip(values).flat_map(|(column, value)| shape(&column.ty, value));
    let all: Vec<String> = values.iter().cloned().chain(shapes).collect();
    format!("hash({}) AS h", all.join(", "))
}

/// What the hash of a nested value does not tell: to DuckDB a null list, an empty one and one that holds a null are the
/// same, and so are a null struct and a struct of nulls.
fn shape(ty: &ColumnType, value: &str) -> Vec<String> {
    match ty {
        ColumnType::Struct(fields) => {
            let parts = fields
                .iter()
                .enumerate()
                .flat_map(|(i, (_, ty))| shape(ty, &format!("struct_extract_at({value}, {})", i + 1)));
            [format!("({value}) IS NULL")].into_iter().chain(parts).collect()
        }
        ColumnType::List { element, .. } if !element.is_nested() => vec![format!("len({value})")],
        ColumnType::Map { value: held, .. } if !held.is_nested() => vec![format!("cardinality({value})")],
        // Deeper down there is no way short of spelling the value out.
        ColumnType::List { .. } | ColumnType::Map { .. } => vec![format!("CAST({value} AS VARCHAR)")],
        _ => Vec::new(),
    }
}

fn fold(rows: &str) -> String {
    format!(
        "SELECT count(*), coalesce(bit_xor(h), 0::UBIGINT), coalesce(sum(CAST(h AS HUGEINT)), 0::HUGEINT) FROM ({rows})"
    )
}

fn range_filter(group: &SchemaGroup, range: Range) -> String {
    let time = format!("c{}", group.time);
    match range {
        Range::Everything => String::new(),
        Range::Nulls => format!(" WHERE {time} IS NULL"),
        Range::Between { from, until } => {
            let bounds: Vec<String> = [(from, ">="), (until, "<")]
                .into_iter()
                .filter_map(|(bound, op)| Some(format!("{time} {op} {}", time_literal(group, bound?))))
                .collect();
            if bounds.is_empty() {
                format!(" WHERE {time} IS NOT NULL")
            } else {
                format!(" WHERE {}", bounds.join(" AND "))
            }
        }
    }
}

/// A constant of the time column's type; DuckDB folds it and skips row groups by it.
fn time_literal(group: &SchemaGroup, value: i64) -> String {
    let sql_type = &group.columns[group.time].sql_type;
    let value = match &group.time_kind {
        TimeKind::TimestampMicros { .. } => format!("make_timestamp({value})"),
        TimeKind::TimestampNanos => format!("make_timestamp_ns({value})"),
        TimeKind::Date => format!("(DATE '1970-01-01' + ({value}))"),
        TimeKind::Integer(..) | TimeKind::Other => format!("({value})"),
    };
    format!("CAST({value} AS {sql_type})")
}

fn write_options(group: &SchemaGroup, options: &MergeOptions) -> String {
    let mut text = String::from("FORMAT parquet, COMPRESSION ");
    match options.compression {
        Compression::Zstd(level) => {
            let _ = write!(text, "zstd, COMPRESSION_LEVEL {level}");
        }
        Compression::Snappy => text.push_str("snappy"),
        Compression::Lz4 => text.push_str("lz4_raw"),
        Compression::Gzip => text.push_str("gzip"),
        Compression::None => text.push_str("uncompressed"),
    }
    let version = match options.parquet_version {
        ParquetVersion::V2 if group.version_2_suits => "V2",
        ParquetVersion::V1 | ParquetVersion::V2 => "V1",
    };
    let _ = write!(text, ", ROW_GROUP_SIZE {}, PARQUET_VERSION {version}", options.row_group_size);
    text
}

/// Decodes every value of a file, whatever its columns, and keeps one number.
pub(super) fn read_everything(path: &str) -> String {
    format!(
        "SELECT bit_xor(hash(t)) FROM read_parquet({}, hive_partitioning = false) AS t",
        literal(&without_glob(path))
    )
}

/// Statements that close the database off, in this order: after the last one no setting can be changed.
///
/// `files` are the real paths of the inputs, `folder` the work folder. An input with an odd name is opened through a
/// link in the work folder: DuckDB allows that when the link's target is listed. Anything else is refused, and so is
/// the network.
pub(super) fn lock_down(files: &[String], folder: &str, temp_bytes: Option<u64>) -> Vec<String> {
    let mut statements = vec![
        "SET enable_external_file_cache = false".to_owned(),
        // These rewrite expressions by the ranges and null counts in footers. Footers may lie, and then a value that does
        // not fit its footer would be written wrong. Skipping row groups does not need them.
        "SET disabled_optimizers = 'statistics_propagation,compressed_materialization'".to_owned(),
    ];
    if let Some(bytes) = temp_bytes {
        // Only the statement enforces it; given when the database is opened it is ignored.
        statements.push(format!("SET max_temp_directory_size = {}", literal(&format!("{bytes} B"))));
    }
    // The check sees a pattern before it is resolved, so the folder is listed in both spellings.
    let (plain, escaped) = (folder, without_glob(folder));
    statements.extend([
        format!("SET allowed_paths = {}", literals(files.iter().map(String::as_str))),
        format!("SET allowed_directories = {}", literals([plain, escaped.as_str()])),
        "SET enable_external_access = false".to_owned(),
        "SET lock_configuration = true".to_owned(),
    ]);
    statements
}

#[cfg(test)]
mod tests {
    use ::duckdb::Connection;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn quoted_text_means_itself(text in "[^\0]{0,20}", name in "[^\0]{1,20}") {
            let connection = Connection::open_in_memory().expect("opens");
            let query = format!("SELECT {} AS {}", literal(&text), identifier(&name));
            let mut statement = connection.prepare(&query).expect("prepared");
            let read: String = statement.query_row([], |row| row.get(0)).expect("run");
            prop_assert_eq!(read, text);
            prop_assert_eq!(statement.column_names(), [name]);
        }
    }

    #[test]
    fn a_path_without_glob_characters_stays_and_others_match_only_themselves() {
        assert_eq!(without_glob("/tmp/a-b/0.parquet"), "/tmp/a-b/0.parquet");
        assert_eq!(without_glob("/a*b/[x]?.parquet"), "/a[*]b/[[]x][?].parquet");
    }

    #[test]
    fn lists_quote_each_text() {
        assert_eq!(literals(["it's", "b"]), "['it''s', 'b']");
        assert_eq!(literals([]), "[]");
    }

    /// DuckDB's own hash of a nested value does not tell these apart.
    #[test]
    fn nested_values_that_differ_in_nulls_or_emptiness_have_different_hashes() {
        let number = || Box::new(ColumnType::Integer { bits: 32, signed: true });
        let list = |element| ColumnType::List { element, fixed: None };
        let map = |value| ColumnType::Map { key: number(), value };
        let structure = |ty| ColumnType::Struct(vec![("a".to_owned(), ty)]);
        let numbers = list(number());
        let cases: [(ColumnType, &[&str]); 6] = [
            (numbers.clone(), &["NULL", "[]", "[NULL]", "[NULL, NULL]"]),
            (map(number()), &["NULL", "MAP([], [])", "MAP([1], [NULL])"]),
            (structure(*number()), &["NULL", "{'a': NULL}"]),
            (structure(numbers.clone()), &["NULL", "{'a': NULL}", "{'a': []}", "{'a': [NULL]}"]),
            (list(Box::new(numbers.clone())), &["NULL", "[]", "[NULL]", "[[]]", "[[NULL]]"]),
            (map(Box::new(numbers)), &["NULL", "MAP([], [])", "MAP([1], [NULL])", "MAP([1], [[]])"]),
        ];
        let connection = Connection::open_in_memory().expect("opens");
        for (ty, values) in cases {
            let rows: Vec<String> = values.iter().map(|v| format!("(CAST({v} AS {}))", ty.sql())).collect();
            let hashed: Vec<String> = std::iter::once("v".to_owned()).chain(shape(&ty, "v")).collect();
            let query =
                format!("SELECT count(DISTINCT hash({})) FROM (VALUES {}) t(v)", hashed.join(", "), rows.join(", "));
            let distinct: usize = connection.query_row(&query, [], |row| row.get(0)).expect("run");
            assert_eq!(distinct, values.len(), "{query}");
        }
    }
}
