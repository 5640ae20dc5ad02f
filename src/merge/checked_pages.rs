//! Pages of a column chunk, each looked at before the Parquet library decodes its values.
//!
//! The library asks for memory for as many values, dictionary entries or lengths as a page says that it has, before it reads one.
//! Memory that is not there ends the process.
//!
//! What must hold: no page comes to a decoder that says that it has more values than its chunk has left, more entries than its
//! bytes can hold, or more packed lengths than values; and none whose values would take more than there is room for.
//! Deliberately not here: what a page becomes when it is decompressed (`page_headers.rs` and `columnar/claims.rs`).

use bytes::Bytes;
use parquet::basic::{Encoding, Type as Physical};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::data_type::{ByteArray, Int32Type};
use parquet::encodings::decoding::{Decoder, DeltaBitPackDecoder};
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::RowGroupReader;
use parquet::schema::types::ColumnDescPtr;

/// Lengths decoded at a time.
const BATCH: usize = 1024;

/// More than there is room for. It says nothing about the file.
#[derive(Debug, thiserror::Error)]
#[error("{bytes} bytes {what}, and {most} bytes of memory left for them")]
pub(super) struct TooLarge {
    bytes: u64,
    what: &'static str,
    most: u64,
}

/// Opens a column of a row group.
pub(super) fn column_reader(row_group: &dyn RowGroupReader, leaf: usize) -> Result<ColumnReader> {
    let chunk = row_group.metadata().column(leaf);
    let values = u64::try_from(chunk.num_values()).unwrap_or_default();
    let pages = CheckedPages::new(row_group.get_column_page_reader(leaf)?, chunk.column_descr_ptr(), values);
    Ok(get_column_reader(chunk.column_descr_ptr(), Box::new(pages)))
}

/// The pages of one chunk.
pub(super) struct CheckedPages {
    pages: Box<dyn PageReader>,
    column: ColumnDescPtr,
    /// Missing ones counted.
    values: u64,
    values_left: u64,
    most_bytes: u64,
    /// What values stored as the end of the one before them take, written out.
    written_out: u64,
}

impl CheckedPages {
    /// Of a chunk of at most so many values, missing ones counted.
    pub(super) fn new(pages: Box<dyn PageReader>, column: ColumnDescPtr, values: u64) -> Self {
        Self { pages, column, values, values_left: values, most_bytes: u64::MAX, written_out: 0 }
    }

    /// With so many bytes for what a few bytes of a page can become.
    pub(super) fn within(self, most_bytes: u64) -> Self {
        Self { most_bytes, ..self }
    }

    fn check(&mut self, page: &Page) -> Result<()> {
        if page.is_dictionary_page() {
            return self.check_dictionary(page);
        }
        let values = u64::from(page.num_values());
        let left = self.values_left.checked_sub(values);
        self.values_left = left.ok_or_else(|| damaged(format!("more values than the {} of its chunk", self.values)))?;
        if matches!(self.column.physical_type(), Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY) {
            match page.encoding() {
                Encoding::DELTA_LENGTH_BYTE_ARRAY => {
                    packed(self.stored_values(page)?, values)?;
                }
                Encoding::DELTA_BYTE_ARRAY => self.check_prefixes(page, values)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn check_dictionary(&self, page: &Page) -> Result<()> {
        let (entries, bytes) = (u64::from(page.num_values()), page.buffer().len() as u64);
        let width = u64::try_from(self.column.type_length()).unwrap_or_default();
        let (most, each) = match self.column.physical_type() {
            Physical::BOOLEAN => (bytes.saturating_mul(8), 1),
            Physical::INT32 | Physical::FLOAT => (bytes / 4, 4),
            Physical::INT64 | Physical::DOUBLE => (bytes / 8, 8),
            Physical::INT96 => (bytes / 12, 12),
            // Each with its length, of four bytes.
            Physical::BYTE_ARRAY => (bytes / 4, size_of::<ByteArray>() as u64),
            Physical::FIXED_LEN_BYTE_ARRAY => {
                (bytes.checked_div(width).unwrap_or(u64::MAX), size_of::<ByteArray>() as u64)
            }
        };
        if entries > most {
            return Err(damaged("a dictionary with fewer values than it says"));
        }
        self.fits(entries * each, "of a dictionary")
    }

    /// Of values that are stored as how much of the one before they begin with, and what comes then.
    fn check_prefixes(&mut self, page: &Page, values: u64) -> Result<()> {
        let stored = self.stored_values(page)?;
        let stored_bytes = stored.len() as u64;
        let (mut prefixes, mut left) = packed(stored.clone(), values)?;
        let (mut lengths, mut shared) = ([0; BATCH], 0_u64);
        while left > 0 {
            let read = prefixes.get(&mut lengths[..left.min(BATCH)])?;
            left = left.checked_sub(read).filter(|_| read > 0).ok_or_else(not_as_many)?;
            for &length in &lengths[..read] {
                let length = u64::try_from(length).map_err(|_| damaged("a value shorter than nothing"))?;
                shared = shared.saturating_add(length);
            }
        }
        let suffixes = stored.len().checked_sub(prefixes.get_offset()).ok_or_else(not_as_many)?;
        packed(stored.slice(stored.len() - suffixes..), values)?;
        self.written_out = self.written_out.saturating_add(shared).saturating_add(stored_bytes);
        // The values of some pages, and all of them one behind the other in a list that doubles.
        self.fits(self.written_out.saturating_mul(3), "of values of one chunk")
    }

    fn fits(&self, bytes: u64, what: &'static str) -> Result<()> {
        let most = self.most_bytes;
        if bytes <= most { Ok(()) } else { Err(ParquetError::External(Box::new(TooLarge { bytes, what, most }))) }
    }

    /// What lies behind the levels of a data page.
    fn stored_values(&self, page: &Page) -> Result<Bytes> {
        let buffer = page.buffer();
        let behind = |at: u64| {
            let at = usize::try_from(at).ok().filter(|&at| at <= buffer.len());
            at.ok_or_else(|| damaged("levels longer than their page"))
        };
        let at = match page {
            Page::DataPage { num_values, def_level_encoding, rep_level_encoding, .. } => {
                let repetitions = (self.column.max_rep_level(), rep_level_encoding);
                let definitions = (self.column.max_def_level(), def_level_encoding);
                let mut at = 0;
                for (max, encoding) in [repetitions, definitions] {
                    let from = behind(at)?;
                    at += match encoding {
                        _ if max <= 0 => 0,
                        #[expect(deprecated, reason = "files have it")]
                        Encoding::BIT_PACKED => {
                            let bits = u64::from(u16::BITS - max.cast_unsigned().leading_zeros());
                            (u64::from(*num_values) * bits).div_ceil(8)
                        }
                        _ => match buffer[from..].first_chunk::<4>() {
                            Some(length) => 4 + u64::from(u32::from_le_bytes(*length)),
                            None => return Err(damaged("levels longer than their page")),
                        },
                    };
                }
                at
            }
            Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
                u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len)
            }
            Page::DictionaryPage { .. } => 0,
        };
        Ok(buffer.slice(behind(at)?..))
    }
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Result<Page>> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        page.iter().try_for_each(|page| self.check(page))?;
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}

/// Numbers packed as differences, of which there may be so many; how many there are. No decoder asks for memory for these.
fn packed(bytes: Bytes, most: u64) -> Result<(DeltaBitPackDecoder<Int32Type>, usize)> {
    let mut numbers = DeltaBitPackDecoder::new();
    numbers.set_data(bytes, 0)?;
    let count = numbers.values_left();
    if count as u64 > most {
        return Err(not_as_many());
    }
    Ok((numbers, count))
}

fn not_as_many() -> ParquetError {
    damaged("packed lengths that are not as many as the page has values")
}

fn damaged(what: impl Into<String>) -> ParquetError {
    ParquetError::General(what.into())
}

#[cfg(test)]
mod tests;
