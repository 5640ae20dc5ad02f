//! Parquet's own definition of footers and page headers (`parquet.thrift`): which field holds what.
//!
//! The encoding says of each value what it is, and the Parquet library does not look at that: it reads what it expects of the field.
//! Where the two differ, it reads other bytes than a walk by the encoding does, and takes any of them for the length of a list.
//! So what is walked before the library may see it has to be what the definition says, wherever that says something. Fields that it
//! does not know are walked as they come, as the library does.

use super::compact_protocol::{BINARY, BYTE, DOUBLE, FALSE, I16, I32, I64, LIST, STRUCT, TRUE, Walk};

/// What a field holds.
#[derive(Debug)]
pub(super) enum Shape {
    Bool,
    Byte,
    /// Of any width: they are all encoded alike.
    Int,
    Double,
    /// Texts, too.
    Bytes,
    List(&'static Shape),
    /// A union is one of which one field is there.
    Struct(Fields),
}

/// Those of a structure, by their ids.
pub(super) type Fields = &'static [(i64, Shape)];

use Shape::{Bool, Byte, Bytes, Double, Int, List, Struct};

const EMPTY: Shape = Struct(&[]);

const KEY_VALUE: Shape = Struct(&[(1, Bytes), (2, Bytes)]);

const STATISTICS: Shape =
    Struct(&[(1, Bytes), (2, Bytes), (3, Int), (4, Int), (5, Bytes), (6, Bytes), (7, Bool), (8, Bool)]);

const TIME_UNIT: Shape = Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]);

const LOGICAL_TYPE: Shape = Struct(&[
    (1, EMPTY),
    (2, EMPTY),
    (3, EMPTY),
    (4, EMPTY),
    // Decimals, times, points in time, integers.
    (5, Struct(&[(1, Int), (2, Int)])),
    (6, EMPTY),
    (7, Struct(&[(1, Bool), (2, TIME_UNIT)])),
    (8, Struct(&[(1, Bool), (2, TIME_UNIT)])),
    (10, Struct(&[(1, Byte), (2, Bool)])),
    (11, EMPTY),
    (12, EMPTY),
    (13, EMPTY),
    (14, EMPTY),
    (15, EMPTY),
    // Variants, geometries, geographies.
    (16, Struct(&[(1, Byte)])),
    (17, Struct(&[(1, Bytes)])),
    (18, Struct(&[(1, Bytes), (2, Int)])),
]);

/// An element of a schema.
pub(super) const SCHEMA_ELEMENT: Fields =
    &[(1, Int), (2, Int), (3, Int), (4, Bytes), (5, Int), (6, Int), (7, Int), (8, Int), (9, Int), (10, LOGICAL_TYPE)];

const SIZE_STATISTICS: Shape = Struct(&[(1, Int), (2, List(&Int)), (3, List(&Int))]);

const GEOSPATIAL_STATISTICS: Shape = Struct(&[
    (
        1,
        Struct(&[
            (1, Double),
            (2, Double),
            (3, Double),
            (4, Double),
            (5, Double),
            (6, Double),
            (7, Double),
            (8, Double),
        ]),
    ),
    (2, List(&Int)),
]);

const PAGE_ENCODING_STATS: Shape = Struct(&[(1, Int), (2, Int), (3, Int)]);

const COLUMN_META_DATA: Shape = Struct(&[
    (1, Int),
    (2, List(&Int)),
    (3, List(&Bytes)),
    (4, Int),
    (5, Int),
    (6, Int),
    (7, Int),
    (8, List(&KEY_VALUE)),
    (9, Int),
    (10, Int),
    (11, Int),
    (12, STATISTICS),
    (13, List(&PAGE_ENCODING_STATS)),
    (14, Int),
    (15, Int),
    (16, SIZE_STATISTICS),
    (17, GEOSPATIAL_STATISTICS),
]);

const COLUMN_CHUNK: Shape = Struct(&[
    (1, Bytes),
    (2, Int),
    (3, COLUMN_META_DATA),
    (4, Int),
    (5, Int),
    (6, Int),
    (7, Int),
    // How it is encrypted: with the footer's key, or with one of its own.
    (8, Struct(&[(1, EMPTY), (2, Struct(&[(1, List(&Bytes)), (2, Bytes)]))])),
    (9, Bytes),
]);

const SORTING_COLUMN: Shape = Struct(&[(1, Int), (2, Bool), (3, Bool)]);

const ROW_GROUP: Shape =
    Struct(&[(1, List(&COLUMN_CHUNK)), (2, Int), (3, Int), (4, List(&SORTING_COLUMN)), (5, Int), (6, Int), (7, Int)]);

const ENCRYPTION_ALGORITHM: Shape =
    Struct(&[(1, Struct(&[(1, Bytes), (2, Bytes), (3, Bool)])), (2, Struct(&[(1, Bytes), (2, Bytes), (3, Bool)]))]);

/// The footer.
pub(super) const FILE_META_DATA: Fields = &[
    (1, Int),
    (2, List(&Struct(SCHEMA_ELEMENT))),
    (3, Int),
    (4, List(&ROW_GROUP)),
    (5, List(&KEY_VALUE)),
    (6, Bytes),
    (7, List(&Struct(&[(1, EMPTY)]))),
    (8, ENCRYPTION_ALGORITHM),
    (9, Bytes),
];

/// The header of a page, and those of the kinds of pages in it.
pub(super) const PAGE_HEADER: Fields = &[
    (1, Int),
    (2, Int),
    (3, Int),
    (4, Int),
    (5, Struct(DATA_PAGE_HEADER)),
    (6, EMPTY),
    (7, Struct(DICTIONARY_PAGE_HEADER)),
    (8, Struct(DATA_PAGE_HEADER_V2)),
];
pub(super) const DATA_PAGE_HEADER: Fields = &[(1, Int), (2, Int), (3, Int), (4, Int), (5, STATISTICS)];
pub(super) const DICTIONARY_PAGE_HEADER: Fields = &[(1, Int), (2, Int), (3, Bool)];
pub(super) const DATA_PAGE_HEADER_V2: Fields =
    &[(1, Int), (2, Int), (3, Int), (4, Int), (5, Int), (6, Int), (7, Bool), (8, STATISTICS)];

impl Walk<'_> {
    /// Walks the value of a field of a structure that has these.
    pub(super) fn field(&mut self, fields: Fields, id: i64, kind: u8, depth: usize) -> Result<(), String> {
        match fields.iter().find(|(known, _)| *known == id) {
            Some((_, shape)) => self.shaped(shape, id, kind, depth),
            None => self.value(kind, depth),
        }
    }

    fn shaped(&mut self, shape: &Shape, id: i64, kind: u8, depth: usize) -> Result<(), String> {
        match (shape, kind) {
            (Bool, TRUE | FALSE) | (Byte, BYTE) | (Int, I16 | I32 | I64) | (Double, DOUBLE) | (Bytes, BINARY) => {
                self.value(kind, depth)
            }
            (List(of), LIST) => {
                let (element, count) = self.list()?;
                for _ in 0..count {
                    self.shaped(of, id, element, depth + 1)?;
                }
                Ok(())
            }
            (Struct(fields), STRUCT) => self.fields(&mut |walk, id, kind| walk.field(fields, id, kind, depth + 1)),
            _ => Err(format!("a value of type {kind} in field {id}, which by its definition holds another")),
        }
    }
}
