//! Reads a [`ColumnType`] from a Parquet field, or says which type it is that a rewrite would change.

use std::collections::HashSet;

use duckdb::arrow::datatypes::DataType;
use parquet::basic::{ConvertedType, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::schema::types::{Type, TypePtr};

use super::{ColumnType, TextKind, annotation};

/// How deep a type may nest. Deeper ones are attacks or accidents, and recursion must end.
const MAX_DEPTH: usize = 32;

impl ColumnType {
    /// The type of the Parquet field `parquet`, whose Arrow meaning is `arrow`.
    ///
    /// # Errors
    /// The name of the type, when a rewrite would change it.
    pub(in crate::merge) fn of(parquet: &Type, arrow: &DataType) -> Result<Self, String> {
        Self::at_depth(parquet, arrow, 0)
    }

    fn at_depth(parquet: &Type, arrow: &DataType, depth: usize) -> Result<Self, String> {
        if depth > MAX_DEPTH {
            return Err(format!("nested more than {MAX_DEPTH} levels deep"));
        }
        if parquet.get_basic_info().has_repetition() && parquet.get_basic_info().repetition() == Repetition::REPEATED {
            return Err("a repeated field outside a standard list".to_owned());
        }
        if parquet.is_primitive() { primitive(parquet, arrow) } else { nested(parquet, arrow, depth) }
    }
}

fn primitive(parquet: &Type, arrow: &DataType) -> Result<ColumnType, String> {
    let Type::PrimitiveType { basic_info, physical_type, scale, precision, type_length } = parquet else {
        return Err("not a primitive type".to_owned());
    };
    let arrow = match arrow {
        DataType::Dictionary(_, value) => value.as_ref(),
        other => other,
    };
    let logical = annotation(basic_info);
    let refuse = || {
        let annotated = match (&logical, basic_info.converted_type()) {
            (Some(logical), _) => format!(" ({logical:?})"),
            (None, ConvertedType::NONE) => String::new(),
            (None, converted) => format!(" ({converted})"),
        };
        Err(match physical_type {
            Physical::FIXED_LEN_BYTE_ARRAY => format!("fixed_len_byte_array({type_length}){annotated}"),
            other => format!("{}{annotated}", other.to_string().to_lowercase()),
        })
    };
    if basic_info.converted_type() == ConvertedType::INTERVAL {
        return refuse();
    }
    if matches!(logical, Some(LogicalType::Decimal { .. })) {
        return match (physical_type, u8::try_from(*precision), u8::try_from(*scale)) {
            (Physical::INT32, Ok(precision @ 1..=9), Ok(scale))
            | (Physical::INT64, Ok(precision @ 1..=18), Ok(scale))
            | (Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY, Ok(precision @ 1..=38), Ok(scale))
                if scale <= precision =>
            {
                Ok(ColumnType::Decimal { precision, scale })
            }
            _ => refuse(),
        };
    }
    let integer = |bits, signed| Ok(ColumnType::Integer { bits, signed });
    match (physical_type, &logical) {
        (Physical::INT32, Some(LogicalType::Unknown)) => Ok(ColumnType::Null),
        (Physical::BOOLEAN, None) => Ok(ColumnType::Boolean),
        (Physical::INT32, None) => match arrow {
            DataType::Timestamp(..) | DataType::Time32(_) => Err(format!("int32 that Arrow reads as {arrow}")),
            _ => integer(32, true),
        },
        (Physical::INT64, None | Some(LogicalType::Integer { bit_width: 64, is_signed: true })) => match arrow {
            DataType::Duration(_) | DataType::Timestamp(..) | DataType::Time64(_) | DataType::Date64 => {
                Ok(ColumnType::ArrowInt64(arrow.clone()))
            }
            _ => integer(64, true),
        },
        (Physical::INT64, Some(LogicalType::Integer { bit_width: 64, is_signed: false })) => integer(64, false),
        (Physical::INT32, &Some(LogicalType::Integer { bit_width: bits @ (8 | 16 | 32), is_signed })) => {
            integer(bits.unsigned_abs(), is_signed)
        }
        (Physical::FLOAT, None) => Ok(ColumnType::Float),
        (Physical::DOUBLE, None) => Ok(ColumnType::Double),
        (Physical::INT32, Some(LogicalType::Date)) => Ok(ColumnType::Date),
        (Physical::INT32, &Some(LogicalType::Time { is_adjusted_to_u_t_c: utc, unit: TimeUnit::MILLIS }))
        | (Physical::INT64, &Some(LogicalType::Time { is_adjusted_to_u_t_c: utc, unit: TimeUnit::MICROS })) => {
            Ok(ColumnType::TimeMicros { utc })
        }
        (Physical::INT64, Some(LogicalType::Time { is_adjusted_to_u_t_c: false, unit: TimeUnit::NANOS })) => {
            Ok(ColumnType::TimeNanos)
        }
        (
            Physical::INT64,
            &Some(LogicalType::Timestamp { is_adjusted_to_u_t_c: utc, unit: TimeUnit::MILLIS | TimeUnit::MICROS }),
        ) => Ok(ColumnType::TimestampMicros { utc }),
        (Physical::INT64, Some(LogicalType::Timestamp { is_adjusted_to_u_t_c: false, unit: TimeUnit::NANOS })) => {
            Ok(ColumnType::TimestampNanos)
        }
        (Physical::BYTE_ARRAY, Some(LogicalType::String)) => Ok(ColumnType::Text(TextKind::Plain)),
        (Physical::BYTE_ARRAY, Some(LogicalType::Enum)) => Ok(ColumnType::Text(TextKind::Enum)),
        (Physical::BYTE_ARRAY, Some(LogicalType::Json)) => Ok(ColumnType::Text(TextKind::Json)),
        (Physical::BYTE_ARRAY, None) => Ok(ColumnType::Binary),
        (Physical::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::Uuid)) if *type_length == 16 => Ok(ColumnType::Uuid),
        _ => refuse(),
    }
}

fn nested(parquet: &Type, arrow: &DataType, depth: usize) -> Result<ColumnType, String> {
    let fields = parquet.get_fields();
    match annotation(parquet.get_basic_info()) {
        None if parquet.get_basic_info().converted_type() == ConvertedType::NONE => {
            let children = match arrow {
                DataType::Struct(children) if children.len() == fields.len() => children,
                _ => return Err("a group that is not a struct".to_owned()),
            };
            check_field_names(fields)?;
            fields
                .iter()
                .zip(children)
                .map(|(field, child)| {
                    let ty = ColumnType::at_depth(field, child.data_type(), depth + 1)
                        .map_err(|ty| format!("{ty} in field {:?}", field.name()))?;
                    Ok((field.name().to_owned(), ty))
                })
                .collect::<Result<_, String>>()
                .map(ColumnType::Struct)
        }
        Some(LogicalType::List) => {
            let [list] = fields else { return Err("a list without exactly one repeated group".to_owned()) };
            let standard = list.is_group()
                && list.get_basic_info().repetition() == Repetition::REPEATED
                && list.get_fields().len() == 1
                && list.name() != "array"
                && list.name() != format!("{}_tuple", parquet.name());
            if !standard {
                return Err("a list in the old two-level form".to_owned());
            }
            let (element, fixed) = match arrow {
                DataType::List(element) | DataType::LargeList(element) => (element, None),
                DataType::FixedSizeList(element, size) => (element, Some(*size)),
                _ => return Err("a list that Arrow does not read as one".to_owned()),
            };
            let element = ColumnType::at_depth(&list.get_fields()[0], element.data_type(), depth + 1)?;
            Ok(ColumnType::List { element: Box::new(element), fixed })
        }
        Some(LogicalType::Map) => {
            let entries = match fields {
                [entries] if entries.is_group() && entries.get_basic_info().repetition() == Repetition::REPEATED => {
                    entries
                }
                _ => return Err("a map without exactly one repeated group".to_owned()),
            };
            let DataType::Map(arrow_entries, _) = arrow else {
                return Err("a map that Arrow does not read as one".to_owned());
            };
            match (entries.get_fields(), arrow_entries.data_type()) {
                ([key, value], DataType::Struct(arrow)) if arrow.len() == 2 && !key.is_optional() => {
                    Ok(ColumnType::Map {
                        key: Box::new(ColumnType::at_depth(key, arrow[0].data_type(), depth + 1)?),
                        value: Box::new(ColumnType::at_depth(value, arrow[1].data_type(), depth + 1)?),
                    })
                }
                _ => Err("a map without a required key and a value".to_owned()),
            }
        }
        other => Err(format!("a group of type {other:?}")),
    }
}

/// DuckDB renames struct fields that differ in case only, and cannot spell an empty name.
fn check_field_names(fields: &[TypePtr]) -> Result<(), String> {
    if fields.is_empty() {
        return Err("a struct without fields".to_owned());
    }
    let mut seen = HashSet::new();
    for field in fields {
        if field.name().is_empty() {
            return Err("a struct field without a name".to_owned());
        }
        if !seen.insert(field.name().to_lowercase()) {
            return Err(format!("two struct fields named {:?} (in whatever case)", field.name()));
        }
    }
    Ok(())
}
