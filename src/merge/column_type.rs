//! What a column means: the types that a merge understands, which of them can be joined without loss, and how each is
//! written in SQL and in Parquet.
//!
//! A [`ColumnType`] is exactly what survives a rewrite by DuckDB, together with the annotations that the stitcher puts
//! back because the bytes are the same (JSON, ENUM, Arrow durations and fixed-size lists). Two columns of equal
//! type hold comparable values; [`ColumnType::join`] is the only place that says which different types may meet.
//!
//! What a rewrite would change is refused by [`ColumnType::of`], with the name of the type: INT96 and nanoseconds with
//! a zone (DuckDB reads microseconds), float16, fixed-size binary, intervals, BSON (DuckDB does not read it), decimals
//! of more than 38 digits, and nested shapes outside the Parquet standard.
//!
//! Floating-point values are kept as numbers, not as bit patterns: where DuckDB writes a dictionary, it holds one zero and
//! one NaN, so the sign of a zero and the payload of a NaN can change.

mod of_parquet;

use std::sync::Arc;

// The `parquet` crate takes and returns Arrow types without re-exporting them; `duckdb` re-exports the same version.
use duckdb::arrow::datatypes::{DataType, Field, Fields, TimeUnit as ArrowUnit};
use parquet::basic::{ConvertedType, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::errors::ParquetError;
use parquet::schema::types::{BasicTypeInfo, Type, TypePtr};

/// The type of a column, or of a part of a nested one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ColumnType {
    /// Declared to hold nothing but nulls.
    Null,
    Boolean,
    Integer {
        bits: u8,
        signed: bool,
    },
    /// An INT64 to which only Arrow's schema gives a meaning: a duration, seconds, milliseconds of a date.
    ArrowInt64(DataType),
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Date,
    /// Milliseconds are read as microseconds.
    TimeMicros {
        utc: bool,
    },
    TimeNanos,
    /// Milliseconds are read as microseconds.
    TimestampMicros {
        utc: bool,
    },
    /// Without zone: DuckDB has no type for nanoseconds in UTC.
    TimestampNanos,
    Text(TextKind),
    Binary,
    Uuid,
    Struct(Vec<(String, ColumnType)>),
    List {
        element: Box<ColumnType>,
        /// The length that Arrow's schema states for every list.
        fixed: Option<i32>,
    },
    Map {
        key: Box<ColumnType>,
        value: Box<ColumnType>,
    },
}

/// Text that differs in annotation only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextKind {
    Plain,
    Enum,
    Json,
}

impl ColumnType {
    /// The smallest type here that holds every value of both, exactly. `None`: there is none, the columns stay apart.
    ///
    /// Microseconds to nanoseconds is listed, but can overflow: the caller must know the range of the values.
    pub(super) fn join(&self, other: &Self) -> Option<Self> {
        if self == other {
            return Some(self.clone());
        }
        Some(match (self, other) {
            (Self::Null, t) | (t, Self::Null) => t.clone(),
            (&Self::Integer { bits: a, signed: sa }, &Self::Integer { bits: b, signed: sb }) => {
                let bits = match (sa, sb) {
                    (true, false) if b >= a => b * 2,
                    (false, true) if a >= b => a * 2,
                    _ => a.max(b),
                };
                if bits > 64 {
                    return None;
                }
                Self::Integer { bits, signed: sa || sb }
            }
            // A double holds every integer of 32 bits; of 64 bits it does not.
            (Self::Integer { bits: ..=32, .. }, Self::Float | Self::Double)
            | (Self::Float | Self::Double, Self::Integer { bits: ..=32, .. })
            | (Self::Float, Self::Double)
            | (Self::Double, Self::Float) => Self::Double,
            (&Self::Decimal { precision: pa, scale: sa }, &Self::Decimal { precision: pb, scale: sb }) => {
                let scale = sa.max(sb);
                let precision = (pa - sa).max(pb - sb) + scale;
                if precision > 38 {
                    return None;
                }
                Self::Decimal { precision, scale }
            }
            (Self::TimestampMicros { utc: false }, Self::TimestampNanos)
            | (Self::TimestampNanos, Self::TimestampMicros { utc: false }) => Self::TimestampNanos,
            _ => return None,
        })
    }

    pub(super) fn is_nested(&self) -> bool {
        matches!(self, Self::Struct(_) | Self::List { .. } | Self::Map { .. })
    }

    /// The DuckDB type in which the column is merged.
    pub(super) fn sql(&self) -> String {
        match self {
            Self::Null => "INTEGER".to_owned(),
            Self::Boolean => "BOOLEAN".to_owned(),
            Self::Integer { bits, signed } => {
                let name = match bits {
                    8 => "TINYINT",
                    16 => "SMALLINT",
                    32 => "INTEGER",
                    _ => "BIGINT",
                };
                if *signed { name.to_owned() } else { format!("U{name}") }
            }
            Self::ArrowInt64(_) => "BIGINT".to_owned(),
            Self::Float => "FLOAT".to_owned(),
            Self::Double => "DOUBLE".to_owned(),
            Self::Decimal { precision, scale } => format!("DECIMAL({precision},{scale})"),
            Self::Date => "DATE".to_owned(),
            Self::TimeMicros { utc: false } => "TIME".to_owned(),
            Self::TimeMicros { utc: true } => "TIMETZ".to_owned(),
            Self::TimeNanos => "TIME_NS".to_owned(),
            Self::TimestampMicros { utc: false } => "TIMESTAMP".to_owned(),
            Self::TimestampMicros { utc: true } => "TIMESTAMPTZ".to_owned(),
            Self::TimestampNanos => "TIMESTAMP_NS".to_owned(),
            // Also JSON: the name of that type is known only where DuckDB's json extension is linked in.
            Self::Text(_) => "VARCHAR".to_owned(),
            Self::Binary => "BLOB".to_owned(),
            Self::Uuid => "UUID".to_owned(),
            Self::Struct(fields) => {
                let fields: Vec<String> =
                    fields.iter().map(|(name, ty)| format!("\"{}\" {}", name.replace('"', "\"\""), ty.sql())).collect();
                format!("STRUCT({})", fields.join(", "))
            }
            Self::List { element, .. } => format!("{}[]", element.sql()),
            Self::Map { key, value } => format!("MAP({}, {})", key.sql(), value.sql()),
        }
    }

    /// The Parquet field to declare in an output: the tree that DuckDB writes for [`Self::sql`], with our annotations.
    pub(super) fn parquet(&self, name: &str, ids: &FieldIds) -> Result<TypePtr, ParquetError> {
        self.parquet_as(name, Repetition::OPTIONAL, ids)
    }

    fn parquet_as(&self, name: &str, repetition: Repetition, ids: &FieldIds) -> Result<TypePtr, ParquetError> {
        let leaf = |physical: Physical, logical: Option<LogicalType>| {
            let mut builder = Type::primitive_type_builder(name, physical).with_repetition(repetition).with_id(ids.id);
            match &logical {
                Some(LogicalType::Decimal { scale, precision }) => {
                    builder = builder.with_scale(*scale).with_precision(*precision);
                    if physical == Physical::FIXED_LEN_BYTE_ARRAY {
                        builder = builder.with_length(16);
                    }
                }
                Some(LogicalType::Uuid) => builder = builder.with_length(16),
                _ => {}
            }
            builder.with_logical_type(logical).build().map(Arc::new)
        };
        let group = |annotation: Option<LogicalType>, repetition: Repetition, name: &str, id, fields: Vec<TypePtr>| {
            Type::group_type_builder(name)
                .with_repetition(repetition)
                .with_logical_type(annotation)
                .with_id(id)
                .with_fields(fields)
                .build()
                .map(Arc::new)
        };
        match self {
            Self::Null => leaf(Physical::INT32, Some(LogicalType::Unknown)),
            Self::Boolean => leaf(Physical::BOOLEAN, None),
            Self::Integer { bits: 32, signed: true } => leaf(Physical::INT32, None),
            Self::Integer { bits: 64, signed: true } | Self::ArrowInt64(_) => leaf(Physical::INT64, None),
            &Self::Integer { bits, signed } => {
                let physical = if bits == 64 { Physical::INT64 } else { Physical::INT32 };
                let bit_width = i8::try_from(bits).unwrap_or(64);
                leaf(physical, Some(LogicalType::Integer { bit_width, is_signed: signed }))
            }
            Self::Float => leaf(Physical::FLOAT, None),
            Self::Double => leaf(Physical::DOUBLE, None),
            &Self::Decimal { precision, scale } => {
                let physical = match precision {
                    ..=9 => Physical::INT32,
                    10..=18 => Physical::INT64,
                    _ => Physical::FIXED_LEN_BYTE_ARRAY,
                };
                leaf(physical, Some(LogicalType::Decimal { scale: scale.into(), precision: precision.into() }))
            }
            Self::Date => leaf(Physical::INT32, Some(LogicalType::Date)),
            &Self::TimeMicros { utc } => {
                leaf(Physical::INT64, Some(LogicalType::Time { is_adjusted_to_u_t_c: utc, unit: TimeUnit::MICROS }))
            }
            Self::TimeNanos => {
                leaf(Physical::INT64, Some(LogicalType::Time { is_adjusted_to_u_t_c: false, unit: TimeUnit::NANOS }))
            }
            &Self::TimestampMicros { utc } => leaf(
                Physical::INT64,
                Some(LogicalType::Timestamp { is_adjusted_to_u_t_c: utc, unit: TimeUnit::MICROS }),
            ),
            Self::TimestampNanos => leaf(
                Physical::INT64,
                Some(LogicalType::Timestamp { is_adjusted_to_u_t_c: false, unit: TimeUnit::NANOS }),
            ),
            Self::Text(TextKind::Plain) => leaf(Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Self::Text(TextKind::Enum) => leaf(Physical::BYTE_ARRAY, Some(LogicalType::Enum)),
            Self::Text(TextKind::Json) => leaf(Physical::BYTE_ARRAY, Some(LogicalType::Json)),
            Self::Binary => leaf(Physical::BYTE_ARRAY, None),
            Self::Uuid => leaf(Physical::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::Uuid)),
            Self::Struct(fields) => {
                let fields = fields
                    .iter()
                    .enumerate()
                    .map(|(i, (name, ty))| ty.parquet_as(name, Repetition::OPTIONAL, ids.child(i)))
                    .collect::<Result<_, _>>()?;
                group(None, repetition, name, ids.id, fields)
            }
            Self::List { element, .. } => {
                let element = element.parquet_as("element", Repetition::OPTIONAL, ids.child(0))?;
                let list = group(None, Repetition::REPEATED, "list", None, vec![element])?;
                group(Some(LogicalType::List), repetition, name, ids.id, vec![list])
            }
            Self::Map { key, value } => {
                let key = key.parquet_as("key", Repetition::REQUIRED, ids.child(0))?;
                let value = value.parquet_as("value", Repetition::OPTIONAL, ids.child(1))?;
                let entries = group(None, Repetition::REPEATED, "key_value", None, vec![key, value])?;
                group(Some(LogicalType::Map), repetition, name, ids.id, vec![entries])
            }
        }
    }

    /// The Arrow type of the column, as far as it matters to readers: what `ARROW:schema` says when inputs disagree.
    pub(super) fn arrow(&self) -> DataType {
        let optional = |name: &str, ty: &Self| Arc::new(Field::new(name, ty.arrow(), true));
        match self {
            Self::Null => DataType::Null,
            Self::Boolean => DataType::Boolean,
            Self::Integer { bits: 8, signed: true } => DataType::Int8,
            Self::Integer { bits: 16, signed: true } => DataType::Int16,
            Self::Integer { bits: 32, signed: true } => DataType::Int32,
            Self::Integer { signed: true, .. } => DataType::Int64,
            Self::Integer { bits: 8, .. } => DataType::UInt8,
            Self::Integer { bits: 16, .. } => DataType::UInt16,
            Self::Integer { bits: 32, .. } => DataType::UInt32,
            Self::Integer { .. } => DataType::UInt64,
            Self::ArrowInt64(arrow) => arrow.clone(),
            Self::Float => DataType::Float32,
            Self::Double => DataType::Float64,
            &Self::Decimal { precision, scale } => {
                DataType::Decimal128(precision, i8::try_from(scale).unwrap_or(i8::MAX))
            }
            Self::Date => DataType::Date32,
            Self::TimeMicros { .. } => DataType::Time64(ArrowUnit::Microsecond),
            Self::TimeNanos => DataType::Time64(ArrowUnit::Nanosecond),
            Self::TimestampMicros { utc } => DataType::Timestamp(ArrowUnit::Microsecond, utc.then(|| Arc::from("UTC"))),
            Self::TimestampNanos => DataType::Timestamp(ArrowUnit::Nanosecond, None),
            Self::Text(_) => DataType::Utf8,
            Self::Binary => DataType::Binary,
            Self::Uuid => DataType::FixedSizeBinary(16),
            Self::Struct(fields) => {
                DataType::Struct(fields.iter().map(|(name, ty)| optional(name, ty)).collect::<Fields>())
            }
            Self::List { element, fixed: Some(size) } => DataType::FixedSizeList(optional("element", element), *size),
            Self::List { element, fixed: None } => DataType::List(optional("element", element)),
            Self::Map { key, value } => {
                let key = Arc::new(Field::new("key", key.arrow(), false));
                let entries = DataType::Struct(Fields::from(vec![key, optional("value", value)]));
                DataType::Map(Arc::new(Field::new("key_value", entries, false)), false)
            }
        }
    }

    /// `hint`, an input's Arrow type for a column of this type, as far as it stays true in an output: zone names,
    /// dictionaries and large types stay, units become the output's.
    pub(super) fn arrow_like(&self, hint: &DataType) -> DataType {
        let field = |hint: &Field, ty: &Self| {
            Arc::new(hint.clone().with_data_type(ty.arrow_like(hint.data_type())).with_nullable(true))
        };
        match (self, hint) {
            (Self::TimestampMicros { utc: true }, DataType::Timestamp(_, zone @ Some(_))) => {
                DataType::Timestamp(ArrowUnit::Microsecond, zone.clone())
            }
            (Self::Text(_), DataType::LargeUtf8 | DataType::Utf8View)
            | (Self::Binary, DataType::LargeBinary | DataType::BinaryView)
            | (Self::Date, DataType::Date64) => hint.clone(),
            (ty, DataType::Dictionary(index, value)) if !ty.is_nested() => {
                DataType::Dictionary(index.clone(), Box::new(ty.arrow_like(value)))
            }
            (Self::Struct(types), DataType::Struct(hints)) if types.len() == hints.len() => {
                DataType::Struct(types.iter().zip(hints).map(|((_, ty), hint)| field(hint, ty)).collect())
            }
            (Self::List { element, fixed: None }, DataType::List(hint)) => DataType::List(field(hint, element)),
            (Self::List { element, fixed: None }, DataType::LargeList(hint)) => {
                DataType::LargeList(field(hint, element))
            }
            (Self::List { element, fixed: Some(size) }, DataType::FixedSizeList(hint, _)) => {
                DataType::FixedSizeList(field(hint, element), *size)
            }
            _ => self.arrow(),
        }
    }
}

/// The field ids of a column and its parts, in the order of [`ColumnType`]'s children.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldIds {
    id: Option<i32>,
    children: Vec<FieldIds>,
}

impl FieldIds {
    /// The ids of a field for which [`ColumnType::of`] gave a type.
    pub(super) fn of(parquet: &Type) -> Self {
        let info = parquet.get_basic_info();
        let id = (info.has_id() && info.id() >= 0).then(|| info.id());
        let children = match parquet {
            Type::PrimitiveType { .. } => Vec::new(),
            Type::GroupType { fields, .. } => match (annotation(info), fields.first()) {
                (Some(LogicalType::List | LogicalType::Map), Some(inner)) if inner.is_group() => {
                    inner.get_fields().iter().map(|f| Self::of(f)).collect()
                }
                _ => fields.iter().map(|f| Self::of(f)).collect(),
            },
        };
        Self { id, children }
    }

    fn child(&self, index: usize) -> &Self {
        const NONE: &FieldIds = &FieldIds { id: None, children: Vec::new() };
        self.children.get(index).unwrap_or(NONE)
    }
}

/// The logical type, also of writers that know only its predecessor, the converted type.
pub(super) fn annotation(info: &BasicTypeInfo) -> Option<LogicalType> {
    if let Some(logical) = info.logical_type_ref() {
        return Some(logical.clone());
    }
    let integer = |bit_width, is_signed| LogicalType::Integer { bit_width, is_signed };
    Some(match info.converted_type() {
        ConvertedType::UTF8 => LogicalType::String,
        ConvertedType::MAP => LogicalType::Map,
        ConvertedType::LIST => LogicalType::List,
        ConvertedType::ENUM => LogicalType::Enum,
        ConvertedType::DATE => LogicalType::Date,
        ConvertedType::TIME_MILLIS => LogicalType::Time { is_adjusted_to_u_t_c: true, unit: TimeUnit::MILLIS },
        ConvertedType::TIME_MICROS => LogicalType::Time { is_adjusted_to_u_t_c: true, unit: TimeUnit::MICROS },
        ConvertedType::TIMESTAMP_MILLIS => {
            LogicalType::Timestamp { is_adjusted_to_u_t_c: true, unit: TimeUnit::MILLIS }
        }
        ConvertedType::TIMESTAMP_MICROS => {
            LogicalType::Timestamp { is_adjusted_to_u_t_c: true, unit: TimeUnit::MICROS }
        }
        ConvertedType::UINT_8 => integer(8, false),
        ConvertedType::UINT_16 => integer(16, false),
        ConvertedType::UINT_32 => integer(32, false),
        ConvertedType::UINT_64 => integer(64, false),
        ConvertedType::INT_8 => integer(8, true),
        ConvertedType::INT_16 => integer(16, true),
        ConvertedType::INT_32 => integer(32, true),
        ConvertedType::INT_64 => integer(64, true),
        ConvertedType::JSON => LogicalType::Json,
        ConvertedType::BSON => LogicalType::Bson,
        // Decimal keeps its digits in the type itself; see `primitive`.
        ConvertedType::DECIMAL => LogicalType::Decimal { scale: 0, precision: 0 },
        ConvertedType::NONE | ConvertedType::MAP_KEY_VALUE | ConvertedType::INTERVAL => return None,
    })
}
