//! Thrift's compact protocol, walked without knowing what it means (that is in `definition.rs`): the encoding of Parquet's footers
//! and page headers.
//!
//! What must hold: nothing is stored and nothing is allocated, it recurses no deeper than [`MAX_STRUCT_DEPTH`], and takes
//! time in proportion to the bytes, whatever they are; no number is believed that the bytes themselves do not bear out.

/// Structs within structs. Parquet's own definitions need eight.
const MAX_STRUCT_DEPTH: usize = 32;

/// Structs in one list: columns, row groups, pieces of metadata. The library reserves some hundred bytes for each.
const MAX_STRUCTS: u64 = 1 << 20;

/// Types of the compact protocol.
const STOP: u8 = 0;
pub(super) const TRUE: u8 = 1;
pub(super) const FALSE: u8 = 2;
pub(super) const BYTE: u8 = 3;
pub(super) const I16: u8 = 4;
pub(super) const I32: u8 = 5;
pub(super) const I64: u8 = 6;
pub(super) const DOUBLE: u8 = 7;
pub(super) const BINARY: u8 = 8;
pub(super) const LIST: u8 = 9;
pub(super) const STRUCT: u8 = 12;

/// What has not been walked yet.
pub(super) struct Walk<'a> {
    pub(super) rest: &'a [u8],
}

/// What to do with the value of a field: its id and type.
pub(super) type OnField<'f, 'a> = dyn FnMut(&mut Walk<'a>, i64, u8) -> Result<(), String> + 'f;

impl<'a> Walk<'a> {
    pub(super) fn fields(&mut self, on_field: &mut OnField<'_, 'a>) -> Result<(), String> {
        let mut id = 0_i64;
        loop {
            let header = self.byte()?;
            let kind = header & 0x0f;
            if kind == STOP {
                return Ok(());
            }
            id = match header >> 4 {
                0 => self.number()?,
                delta => id + i64::from(delta),
            };
            // The Parquet library would take another number for it.
            if i16::try_from(id).is_err() {
                return Err(format!("a field {id}, which no structure can have"));
            }
            on_field(self, id, kind)?;
        }
    }

    pub(super) fn value(&mut self, kind: u8, depth: usize) -> Result<(), String> {
        if depth > MAX_STRUCT_DEPTH {
            return Err(format!("more than {MAX_STRUCT_DEPTH} structures within each other"));
        }
        match kind {
            // The value is in the type.
            TRUE | FALSE => Ok(()),
            BYTE => self.skip(1),
            I16 | I32 | I64 => self.varint().map(drop),
            DOUBLE => self.skip(8),
            BINARY => {
                let length = self.varint()?;
                self.skip(length)
            }
            LIST => {
                let (element, count) = self.list()?;
                if count > 0 && [TRUE, FALSE].contains(&element) {
                    // Each takes a byte, which the Parquet library does not skip.
                    return Err("a list of booleans, which no footer has".to_owned());
                }
                for _ in 0..count {
                    self.value(element, depth + 1)?;
                }
                Ok(())
            }
            STRUCT => self.fields(&mut |walk, _, kind| walk.value(kind, depth + 1)),
            other => Err(format!("a value of type {other}, which no footer has")),
        }
    }

    /// Type and number of a list's elements. Each takes at least a byte, a struct two.
    pub(super) fn list(&mut self) -> Result<(u8, u64), String> {
        let header = self.byte()?;
        let element = header & 0x0f;
        let count = match header >> 4 {
            15 => self.varint()?,
            few => u64::from(few),
        };
        let (most, smallest) = if element == STRUCT { (MAX_STRUCTS, 2) } else { (u64::MAX, 1) };
        if count > most || count.saturating_mul(smallest) > self.rest.len() as u64 {
            return Err(format!("a list of {count} elements in {} bytes", self.rest.len()));
        }
        Ok((element, count))
    }

    /// A signed number: zigzag.
    pub(super) fn number(&mut self) -> Result<i64, String> {
        let raw = self.varint()?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    pub(super) fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number of more than 64 bits".to_owned())
    }

    fn byte(&mut self) -> Result<u8, String> {
        let (&first, rest) = self.rest.split_first().ok_or("it ends in the middle")?;
        self.rest = rest;
        Ok(first)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), String> {
        let bytes = usize::try_from(bytes).ok().filter(|&bytes| bytes <= self.rest.len());
        let bytes = bytes.ok_or("a value that goes on beyond the end")?;
        self.rest = &self.rest[bytes..];
        Ok(())
    }
}
