//! Pages whose texts are stored with their lengths in front, packed as differences.
//!
//! The head of the packed numbers says how many there are, and the Parquet library asks for memory for as many at once, before it
//! reads one. Memory that is not there ends the process. What must hold: no page comes to the library of which that head says
//! more than the page's own header, which is checked before (`claims.rs`, and the survey against the footer).

use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::schema::types::ColumnDescriptor;

/// The pages of a chunk of a flat column, each looked at before it is decoded.
pub(super) struct CheckedPages<R> {
    pages: R,
    is_nullable: bool,
}

impl<R: PageReader> CheckedPages<R> {
    pub(super) fn new(pages: R, column: &ColumnDescriptor) -> Self {
        Self { pages, is_nullable: column.max_def_level() > 0 }
    }
}

impl<R: PageReader> Iterator for CheckedPages<R> {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Result<Page>> {
        self.get_next_page().transpose()
    }
}

impl<R: PageReader> PageReader for CheckedPages<R> {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        page.iter().try_for_each(|page| check(page, self.is_nullable))?;
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }
}

fn check(page: &Page, is_nullable: bool) -> Result<()> {
    let lists = match page.encoding() {
        Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
        // Prefixes, and then the lengths of what comes behind them.
        Encoding::DELTA_BYTE_ARRAY => 2,
        _ => return Ok(()),
    };
    let damaged = || ParquetError::General("packed lengths that are not as many as the page has values".to_owned());
    let mut rest = values_of(page, is_nullable).ok_or_else(damaged)?;
    for _ in 0..lists {
        let (count, after) = skip_packed(rest).ok_or_else(damaged)?;
        if count > u64::from(page.num_values()) {
            return Err(damaged());
        }
        rest = after;
    }
    Ok(())
}

/// What lies behind the levels of a data page of a flat column.
fn values_of(page: &Page, is_nullable: bool) -> Option<&[u8]> {
    let buffer: &Bytes = page.buffer();
    let levels = match page {
        Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
            u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len)
        }
        _ if !is_nullable => 0,
        // One bit each.
        #[expect(deprecated, reason = "files have it")]
        Page::DataPage { def_level_encoding: Encoding::BIT_PACKED, num_values, .. } => {
            u64::from(num_values.div_ceil(8))
        }
        _ => u64::from(u32::from_le_bytes(*buffer.first_chunk::<4>()?)) + 4,
    };
    buffer.get(usize::try_from(levels).ok()?..)
}

/// How many numbers are packed as differences here (`DELTA_BINARY_PACKED`), and what lies behind them.
fn skip_packed(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut rest = bytes;
    let block = varint(&mut rest)?;
    let parts = varint(&mut rest)?;
    let count = varint(&mut rest)?;
    varint(&mut rest)?; // the first number
    let each = block.checked_div(parts)?;
    let mut left = count.saturating_sub(1);
    while left > 0 {
        varint(&mut rest)?; // the smallest difference
        let (widths, packed) = rest.split_at_checked(usize::try_from(parts).ok()?)?;
        rest = packed;
        for &bits in widths {
            if left == 0 {
                break;
            }
            let length = each.checked_mul(u64::from(bits))? / 8;
            rest = rest.get(usize::try_from(length).ok()?..)?;
            left = left.saturating_sub(each);
        }
        if each == 0 {
            return None;
        }
    }
    Some((count, rest))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head of as many zeros, which need no bits.
    fn zeros(count: u8) -> Vec<u8> {
        let mut packed = vec![0x80, 0x01, 0x04, count, 0x00];
        if count > 1 {
            packed.extend([0x00; 5]);
        }
        packed
    }

    fn page(encoding: Encoding, parts: &[&[u8]]) -> Page {
        Page::DataPage {
            buf: parts.concat().into(),
            num_values: 3,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        }
    }

    #[test]
    fn a_page_may_have_as_many_lengths_as_values_and_fewer_but_not_more() {
        let levels = [0x02, 0x00, 0x00, 0x00, 0x06, 0x01];
        for (most, is_sound) in [(0, true), (1, true), (3, true), (4, false), (127, false)] {
            let lengths = page(Encoding::DELTA_LENGTH_BYTE_ARRAY, &[&zeros(most)]);
            assert_eq!(check(&lengths, false).is_ok(), is_sound, "{most}");
            let behind_levels = page(Encoding::DELTA_LENGTH_BYTE_ARRAY, &[&levels, &zeros(most)]);
            assert_eq!(check(&behind_levels, true).is_ok(), is_sound, "{most}");
            let prefixes = page(Encoding::DELTA_BYTE_ARRAY, &[&zeros(most), &zeros(3)]);
            assert_eq!(check(&prefixes, false).is_ok(), is_sound, "{most}");
            let suffixes = page(Encoding::DELTA_BYTE_ARRAY, &[&zeros(3), &zeros(most)]);
            assert_eq!(check(&suffixes, false).is_ok(), is_sound, "{most}");
        }
    }

    #[test]
    fn a_head_that_ends_in_the_middle_is_refused_and_other_encodings_are_not_looked_at() {
        let whole = zeros(3);
        for end in 0..whole.len() {
            assert!(check(&page(Encoding::DELTA_LENGTH_BYTE_ARRAY, &[&whole[..end]]), false).is_err(), "{end}");
        }
        assert!(check(&page(Encoding::PLAIN, &[]), false).is_ok());
    }

    /// No part of a block, blocks of nothing, and more than there can be.
    #[test]
    fn a_head_that_makes_no_sense_ends() {
        for head in [&[0x80, 0x01, 0x00, 0x02, 0x00][..], &[0x00, 0x01, 0x02, 0x00, 0x00, 0x00], &[0xff; 40]] {
            assert_eq!(skip_packed(head), None, "{head:?}");
        }
    }
}
