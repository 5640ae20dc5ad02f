//! Footers as no library would write them: Thrift's compact protocol by hand.

/// Headers of fields in the first place of a structure, or so far behind the last one.
const I32: u8 = 5;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

fn field(delta: u8, kind: u8) -> u8 {
    delta << 4 | kind
}

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
    bytes
}

/// A signed number.
pub fn zigzag(value: i64) -> Vec<u8> {
    varint(((value << 1) ^ (value >> 63)).cast_unsigned())
}

fn list(count: u32, kind: u8) -> Vec<u8> {
    [vec![0xf0 | kind], varint(count.into())].concat()
}

/// An element of a schema named `x`: a group of so many children, or an INT32.
fn element(children: Option<i32>) -> Vec<u8> {
    match children {
        Some(count) => {
            [&[field(3, I32), 0, field(1, BINARY), 1, b'x', field(1, I32)][..], &zigzag(count.into()), &[0]].concat()
        }
        None => vec![field(1, I32), 2, field(2, I32), 0, field(1, BINARY), 1, b'x', 0],
    }
}

/// Version 1, and a list of structures in this field, of which none follows.
pub fn footer_with_a_list_of(in_field: u8, count: u32) -> Vec<u8> {
    [vec![field(1, I32), 2, field(in_field - 1, LIST)], list(count, STRUCT), vec![0; 64]].concat()
}

/// A schema of two elements, of which the first claims so many children.
pub fn footer_with_a_group_of(children: i32) -> Vec<u8> {
    let schema = [list(2, STRUCT), element(Some(children)), element(None)].concat();
    [vec![field(1, I32), 2, field(1, LIST)], schema, vec![0; 64]].concat()
}

/// A schema of so many groups, one inside the other.
pub fn footer_nested(levels: u32) -> Vec<u8> {
    let groups = element(Some(1)).repeat(levels as usize);
    let schema = [list(levels + 1, STRUCT), groups, element(None)].concat();
    // No rows, no row groups.
    let rest = vec![field(1, 6), 0, field(1, LIST), STRUCT, 0];
    [vec![field(1, I32), 2, field(1, LIST)], schema, rest].concat()
}

/// A file with this footer and nothing else.
pub fn file_of(footer: &[u8]) -> Vec<u8> {
    let length = u32::try_from(footer.len()).unwrap().to_le_bytes();
    [b"PAR1", footer, &length, b"PAR1"].concat()
}
