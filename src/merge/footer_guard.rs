//! What is checked of a Parquet footer before the Parquet library may see it.
//!
//! The library trusts three things in a footer: how long a list is, for which it asks for memory at once; how deep the schema
//! nests, which it follows by calling itself; and that a field holds what it should (`definition.rs`). A wrong one does not end in an error, nor in a panic that
//! somebody could catch: memory that is not there and a stack that is too small end the process, and footers are also
//! read in the server's. So a footer is walked here first (`compact_protocol.rs`): nothing is stored, and nothing is believed
//! that the bytes themselves do not bear out.
//!
//! What must hold: this function itself allocates no more than the schema is deep, recurses no deeper than
//! `MAX_STRUCT_DEPTH`, and takes time in proportion to the bytes, whatever they are. Deliberately not here: whether the
//! footer makes sense. That is the library's business, and the survey's.

use std::fmt;

use super::compact_protocol::{I16, I32, I64, LIST, STRUCT, Walk};
use super::definition::{FILE_META_DATA, SCHEMA_ELEMENT};

/// Nested groups of a schema. The deepest real schemas have some ten levels, with lists and maps counting two each.
pub const MAX_SCHEMA_DEPTH: usize = 100;

/// Field of the footer that holds the schema, and fields of a schema's element that hold its name and the number of its children.
const SCHEMA_FIELD: i64 = 2;
const NAME_FIELD: i64 = 4;
const CHILDREN_FIELD: i64 = 5;

/// Of all columns, the names of the groups that they are in, and their own: the library writes them out for each. A hundred thousand
/// columns with six hundred bytes each fit.
const MAX_PATH_BYTES: u64 = 64 << 20;

/// Field of the footer that says how its columns are encrypted.
const ENCRYPTION_FIELD: i64 = 8;

/// Why a footer is not given to the library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostile(String);

impl fmt::Display for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "footer: {}", self.0)
    }
}

impl std::error::Error for Hostile {}

/// What a walk along a footer shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walked {
    /// Columns, and groups of them.
    pub schema_elements: u64,
    /// The footer is readable, and some of the columns are not.
    pub has_encrypted_columns: bool,
}

/// Walks a footer: the bytes before the last eight of a file.
///
/// # Errors
/// When the library could not read it without danger, or at all.
pub fn check(footer: &[u8]) -> Result<Walked, Hostile> {
    let mut walked = Walked::default();
    let mut walk = Walk { rest: footer };
    walk.fields(&mut |walk, id, kind| {
        if (id, kind) == (SCHEMA_FIELD, LIST) {
            walked.schema_elements += schema(walk)?;
            return Ok(());
        }
        walked.has_encrypted_columns |= id == ENCRYPTION_FIELD;
        walk.field(FILE_META_DATA, id, kind, 1)
    })
    .map_err(Hostile)?;
    Ok(walked)
}

/// The footer within the last bytes of a file, if it is wholly among them.
#[must_use]
pub fn within(tail: &[u8]) -> Option<&[u8]> {
    let (before, last) = tail.split_at_checked(tail.len().checked_sub(8)?)?;
    let length = u32::from_le_bytes(last[..4].try_into().ok()?);
    before.get(before.len().checked_sub(usize::try_from(length).ok()?)?..)
}

/// The elements of the schema stand one after another, each group before its children. How many there are.
fn schema(walk: &mut Walk<'_>) -> Result<u64, String> {
    let (element, count) = walk.list()?;
    if element != STRUCT && count > 0 {
        return Err("a schema that is no list of structures".to_owned());
    }
    // Of each open group, how many children are still to come, and how long the names down to it are.
    let mut open: Vec<(u64, u64)> = Vec::new();
    let (mut claimed, mut path_bytes) = (0_u64, 0_u64);
    for index in 0..count {
        let (mut children, mut name) = (0, 0);
        walk.fields(&mut |walk, id, kind| {
            if id == CHILDREN_FIELD && [I16, I32, I64].contains(&kind) {
                children = walk.number()?;
                return Ok(());
            }
            let before = walk.rest.len();
            walk.field(SCHEMA_ELEMENT, id, kind, 2)?;
            if id == NAME_FIELD {
                name = (before - walk.rest.len()) as u64;
            }
            Ok(())
        })?;
        let path = open.last().map_or(0, |(_, path)| *path) + name;
        let left = count - index - 1;
        match u64::try_from(children) {
            Ok(0) => {
                path_bytes = path_bytes.saturating_add(path);
                close(&mut open);
            }
            Ok(children) if children <= left => {
                claimed = claimed.saturating_add(children);
                open.push((children, path));
            }
            _ => return Err(format!("a group of {children} columns with {left} left")),
        }
        if open.len() > MAX_SCHEMA_DEPTH {
            return Err(format!("a schema of more than {MAX_SCHEMA_DEPTH} levels"));
        }
        if path_bytes > MAX_PATH_BYTES {
            return Err(format!("columns whose full names take more than {MAX_PATH_BYTES} bytes"));
        }
        // Each element but the root is the child of one group.
        if claimed >= count {
            return Err(format!("groups of {claimed} columns in a schema of {count} elements"));
        }
    }
    Ok(count)
}

/// A column is complete, and with it every group of which it was the last.
fn close(open: &mut Vec<(u64, u64)>) {
    while let Some((left, _)) = open.last_mut() {
        *left -= 1;
        if *left > 0 {
            return;
        }
        open.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A footer with nothing but a schema: a chain of groups, each with one child, and a last element without.
    fn nested(levels: usize) -> Vec<u8> {
        let mut footer = vec![0x15, 0x02, 0x19, 0xfc];
        let mut count = levels + 1;
        while count >= 0x80 {
            footer.push(u8::try_from(count & 0x7f).unwrap() | 0x80);
            count >>= 7;
        }
        footer.push(u8::try_from(count).unwrap());
        for _ in 0..levels {
            // repetition (3), name (4), children (5)
            footer.extend([0x35, 0x00, 0x18, 0x01, b'x', 0x15, 0x02, 0x00]);
        }
        footer.extend([0x15, 0x02, 0x25, 0x00, 0x18, 0x01, b'x', 0x00, 0x00]);
        footer
    }

    #[test]
    fn a_schema_may_nest_so_deep_and_no_deeper() {
        assert_eq!(check(&nested(MAX_SCHEMA_DEPTH)).unwrap().schema_elements, 101);
        let error = check(&nested(MAX_SCHEMA_DEPTH + 1)).unwrap_err();
        assert_eq!(error.to_string(), "footer: a schema of more than 100 levels");
        assert!(check(&nested(1_000_000)).is_err());
    }

    #[test]
    fn a_list_that_is_longer_than_the_bytes_that_follow_is_refused() {
        // Two thousand million elements of a schema, of key-value pairs, of row groups.
        for field in [0x29, 0x49, 0x59] {
            let footer = [field, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07, 0x00];
            assert!(check(&footer).unwrap_err().to_string().contains("a list of 2147483647 elements"), "{field:x}");
        }
        assert!(
            check(&[&[0x29, 0xfc, 0x80, 0x80, 0x80, 0x01][..], &vec![0; 5_000_000]].concat()).is_err(),
            "2 M structs"
        );
    }

    /// The library reads a field's value as what it should be, whatever the encoding says that it is: so the numbers that it
    /// finds are none of those that a walk by the encoding does.
    #[test]
    fn a_value_of_another_type_than_its_field_has_is_refused() {
        let mut first = nested(1);
        assert!(check(&first).is_ok());
        // The number of children becomes a structure, of which the library would take the first bytes for a number.
        assert_eq!(first[10], 0x15, "the header of field 5");
        first.splice(10..12, [0x1c, 0x15, 0x02, 0x00]);
        assert!(check(&first).unwrap_err().to_string().contains("type 12 in field 5"));
        // Row groups that are numbers, of a byte each.
        let groups = [&[0x49, 0xf5, 0x80, 0x01][..], &[0; 128], &[0x00]].concat();
        assert!(check(&groups).unwrap_err().to_string().contains("type 5 in field 4"));
        // The second field by another number, of which the library would keep 16 bits.
        let again = [0x09, 0x84, 0x80, 0x08, 0x05, 0x00, 0x00];
        assert!(check(&again).unwrap_err().to_string().contains("a field 65538"));
        // Of an unknown list of booleans the library skips the head only.
        let unknown = [0xf9, 0x21, 0x01, 0x01, 0x00];
        assert!(check(&unknown).unwrap_err().to_string().contains("a list of booleans"));
    }

    /// The library writes the name of a group out for each column below it.
    #[test]
    fn a_long_name_of_a_group_of_many_columns_is_refused() {
        let footer = |name: usize, columns: u32| {
            let varint = |value: u32| {
                let digit = |shift: u32, more: u8| u8::try_from(value >> shift & 0x7f).unwrap() | more;
                [digit(0, 0x80), digit(7, 0x80), digit(14, 0)]
            };
            let mut footer = [&[0x29, 0xfc][..], &varint(columns + 2), &[0x48, 0x01, b'r', 0x15, 0x02, 0x00]].concat();
            footer.push(0x48);
            footer.extend(varint(u32::try_from(name).unwrap()));
            footer.extend(vec![b'g'; name]);
            footer.extend([&[0x15][..], &varint(columns * 2), &[0x00]].concat());
            footer.extend([0x48, 0x01, b'c', 0x00].repeat(columns as usize));
            footer.push(0x00);
            footer
        };
        assert_eq!(check(&footer(6_000, 10_000)).unwrap().schema_elements, 10_002);
        assert!(check(&footer(7_000, 10_000)).unwrap_err().to_string().contains("full names take more"));
    }

    #[test]
    fn groups_that_claim_each_others_columns_are_refused() {
        // A root of two, of which the first claims both that are left.
        let footer =
            [0x29, 0x4c, 0x55, 0x04, 0x00, 0x55, 0x04, 0x00, 0x48, 0x01, b'x', 0x00, 0x48, 0x01, b'y', 0x00, 0x00];
        assert!(check(&footer).unwrap_err().to_string().contains("groups of 4 columns in a schema of 4 elements"));
    }

    #[test]
    fn fields_that_nobody_knows_yet_are_walked_over() {
        // Field 15: a structure with a list of numbers and a text.
        let unknown = [0xfc, 0x19, 0x25, 0x02, 0x04, 0x18, 0x01, b'x', 0x00, 0x00];
        assert!(check(&unknown).is_ok());
    }

    #[test]
    fn a_group_with_more_children_than_elements_follow_is_refused() {
        for children in [[0x06], [0x01]] {
            let footer = [&[0x29, 0x2c, 0x55][..], &children, &[0x00, 0x48, 0x01, b'x', 0x00, 0x00]].concat();
            assert!(check(&footer).unwrap_err().to_string().contains("with 1 left"));
        }
    }

    #[test]
    fn structures_within_structures_end_somewhere() {
        // In a field that nobody knows.
        let error = check(&[&[0xfc][..], &vec![0x1c; 1 << 20]].concat()).unwrap_err();
        assert!(error.to_string().contains("more than 32"), "{error}");
        assert!(check(&[&[0xf9][..], &vec![0x19; 1 << 20]].concat()).unwrap_err().to_string().contains("more than 32"));
    }

    #[test]
    fn what_ends_in_the_middle_is_refused_wherever_it_ends() {
        let whole = nested(3);
        for end in 0..whole.len() {
            assert!(check(&whole[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn the_footer_is_found_within_a_tail_that_holds_all_of_it() {
        assert_eq!(within(b"....abc\x03\0\0\0PAR1"), Some(&b"abc"[..]));
        assert_eq!(within(b"bc\x03\0\0\0PAR1"), None);
        assert_eq!(within(b"PAR1"), None);
        assert_eq!(within(b"\xff\xff\xff\xffPAR1"), None);
    }
}
