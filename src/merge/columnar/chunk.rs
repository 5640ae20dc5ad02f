//! The values of one column chunk, decoded as little as possible: dictionary codes stay codes.

use std::borrow::Cow;

use bytes::Bytes;
use parquet::basic::{ConvertedType, Encoding, LogicalType, Type as Physical};
use parquet::column::page::{Page, PageReader};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{
    AsBytes, BoolType, ByteArrayType, DataType, DoubleType, FixedLenByteArrayType, FloatType, Int32Type, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::schema::types::{ColumnDescPtr, ColumnDescriptor};

use super::super::checked_pages::{CheckedPages, TooLarge};
use super::room::Room;
use super::values::{ByteLists, Plain, as_code};
use super::{Refusal, hybrid};

/// Values decoded at a time where the `parquet` crate does it.
const BATCH: usize = 16 * 1024;

/// A level, decoded and as a flag, and a code. A run of a few bytes stands for any number of rows, and while the pages of a chunk are
/// put together their rows are there twice.
const ROW_BYTES: u64 = 9;

/// One column of a row group, row by row.
pub(super) struct Chunk {
    pub(super) values: ChunkValues,
    /// Which rows have a value. `None`: all of them. What stands in `values` for a missing one means nothing.
    pub(super) valid: Option<Vec<bool>>,
}

pub(super) enum ChunkValues {
    Codes { codes: Vec<u32>, dictionary: Plain },
    Plain(Plain),
}

impl Chunk {
    pub(super) fn len(&self) -> usize {
        match &self.values {
            ChunkValues::Codes { codes, .. } => codes.len(),
            ChunkValues::Plain(values) => values.len(),
        }
    }

    /// The values themselves.
    pub(super) fn plain(&self) -> Cow<'_, Plain> {
        match &self.values {
            ChunkValues::Plain(values) => Cow::Borrowed(values),
            ChunkValues::Codes { codes, dictionary } => {
                let mut values = dictionary.empty_like();
                if dictionary.len() == 0 {
                    for _ in codes {
                        values.push_nothing();
                    }
                } else {
                    values
                        .extend(dictionary, codes.iter().map(|&code| code as usize))
                        .expect("a list is of its own type");
                }
                Cow::Owned(values)
            }
        }
    }
}

/// What an error of a decoder says about its file.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn judge(error: ParquetError) -> Refusal {
    match &error {
        ParquetError::NYI(_) => Refusal::Unsuited(error.to_string()),
        // A number in a page's header that nobody needs: some writers leave the number of nulls at -1.
        ParquetError::General(message) if message.contains("Integer overflow") => Refusal::Unsuited(message.clone()),
        // Codecs speak through this, too; only the system has a number for its errors.
        ParquetError::External(source) if system_says(&**source) => Refusal::Unsuited(error.to_string()),
        ParquetError::External(source) if source.is::<TooLarge>() => Refusal::Unsuited(source.to_string()),
        // A codec that is not compiled in.
        ParquetError::General(message) if message.contains("Disabled feature") => Refusal::Unsuited(message.clone()),
        _ => Refusal::Damaged(error.to_string()),
    }
}

fn system_says(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.raw_os_error().is_some())
}

/// Decodes the pages of a chunk of `rows` rows. `pages` opens the chunk anew each time.
pub(super) fn decode(
    descriptor: &ColumnDescPtr,
    rows: usize,
    pages: &dyn Fn() -> Result<Box<dyn PageReader>, Refusal>,
    room: &Room<'_>,
) -> Result<Chunk, Refusal> {
    room.check(ROW_BYTES.saturating_mul(rows as u64), "of rows of one chunk")?;
    let checked = || -> Result<Box<dyn PageReader>, Refusal> {
        let pages = CheckedPages::new(pages()?, descriptor.clone(), rows as u64);
        Ok(Box::new(pages.within(room.left_bytes())))
    };
    let chunk = match decode_pages(descriptor, checked()?, room)? {
        Some(chunk) => chunk,
        None => decode_generally(descriptor, checked()?, room)?,
    };
    let values = match &chunk.values {
        ChunkValues::Plain(values) => values,
        ChunkValues::Codes { dictionary, .. } => dictionary,
    };
    if is_text(descriptor) && !values.is_text() {
        return Err(Refusal::Damaged("text that is not UTF-8".to_owned()));
    }
    if chunk.len() != rows || chunk.valid.as_ref().is_some_and(|valid| valid.len() != rows) {
        return Err(Refusal::Damaged(format!("{} values in a row group of {rows} rows", chunk.len())));
    }
    Ok(chunk)
}

/// Whether the values are declared to be text.
fn is_text(descriptor: &ColumnDescriptor) -> bool {
    descriptor.physical_type() == Physical::BYTE_ARRAY
        && (matches!(descriptor.logical_type_ref(), Some(LogicalType::String | LogicalType::Enum | LogicalType::Json))
            || matches!(descriptor.converted_type(), ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON))
}

/// The values of a page, before missing ones are put between them.
struct Collected {
    dictionary: Option<Plain>,
    /// As long as every page has codes.
    codes: Vec<u32>,
    /// From the first page on that has none.
    plain: Option<Plain>,
    valid: Option<Vec<bool>>,
    rows: usize,
}

/// `None`: a page is encoded in another way than these.
fn decode_pages(
    descriptor: &ColumnDescriptor,
    mut pages: Box<dyn PageReader>,
    room: &Room<'_>,
) -> Result<Option<Chunk>, Refusal> {
    let mut all = Collected { dictionary: None, codes: Vec::new(), plain: None, valid: None, rows: 0 };
    while let Some(page) = pages.get_next_page().map_err(judge)? {
        room.check_wanted()?;
        match page {
            Page::DictionaryPage { .. } if all.dictionary.is_some() || all.rows > 0 => {
                return Err(Refusal::Damaged("a dictionary that is not at the start, or a second one".to_owned()));
            }
            Page::DictionaryPage { buf, num_values, encoding, .. } => {
                if !matches!(encoding, Encoding::PLAIN | Encoding::PLAIN_DICTIONARY) {
                    return Ok(None);
                }
                all.dictionary = Some(plain_values(descriptor, &buf, num_values as usize)?);
            }
            Page::DataPage { buf, num_values, encoding, def_level_encoding, .. } => {
                let rows = num_values as usize;
                let (valid, values) = if descriptor.max_def_level() == 0 {
                    (None, buf)
                } else if def_level_encoding == Encoding::RLE && buf.len() >= 4 {
                    let length = u32::from_le_bytes([buf[0], buf[1], buf[2], buf[3]]) as usize;
                    let end = length.checked_add(4).filter(|&end| end <= buf.len());
                    let end = end.ok_or_else(|| Refusal::Damaged("levels longer than their page".to_owned()))?;
                    (levels(buf.slice(4..end), rows)?, buf.slice(end..))
                } else {
                    return Ok(None);
                };
                if !all.add(descriptor, encoding, &values, rows, valid, room)? {
                    return Ok(None);
                }
            }
            Page::DataPageV2 { buf, num_values, encoding, def_levels_byte_len, rep_levels_byte_len, .. } => {
                let rows = num_values as usize;
                let (from, length) = (rep_levels_byte_len as usize, def_levels_byte_len as usize);
                if from + length > buf.len() {
                    return Err(Refusal::Damaged("levels longer than their page".to_owned()));
                }
                let valid =
                    if descriptor.max_def_level() == 0 { None } else { levels(buf.slice(from..from + length), rows)? };
                if !all.add(descriptor, encoding, &buf.slice(from + length..), rows, valid, room)? {
                    return Ok(None);
                }
            }
        }
    }
    all.finish(descriptor).map(Some)
}

/// Which rows have a value. `None`: all of them.
fn levels(data: Bytes, rows: usize) -> Result<Option<Vec<bool>>, Refusal> {
    if hybrid::is_run_of_ones(&data, rows) {
        return Ok(None);
    }
    let levels = hybrid::decode(data, 1, rows)?;
    Ok(levels.contains(&0).then(|| levels.iter().map(|&level| level != 0).collect()))
}

impl Collected {
    /// Adds a page of `rows` rows. `false`: its encoding is none of these.
    fn add(
        &mut self,
        descriptor: &ColumnDescriptor,
        encoding: Encoding,
        values: &Bytes,
        rows: usize,
        valid: Option<Vec<bool>>,
        room: &Room<'_>,
    ) -> Result<bool, Refusal> {
        let count = valid.as_ref().map_or(rows, |valid| valid.iter().filter(|&&valid| valid).count());
        match encoding {
            // Nothing but missing values needs no dictionary.
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY
                if count == 0 && self.dictionary.is_none() && self.plain.is_none() =>
            {
                self.dictionary = Some(plain_values(descriptor, &Bytes::new(), 0)?);
                spread(&[], valid.as_deref(), &mut self.codes);
            }
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => {
                let none = plain_values(descriptor, &Bytes::new(), 0)?;
                let dictionary = match &self.dictionary {
                    Some(dictionary) => dictionary,
                    None if count == 0 => &none,
                    None => return Err(Refusal::Damaged("codes without a dictionary".to_owned())),
                };
                let codes = match values.first() {
                    Some(&width) => hybrid::decode(values.slice(1..), width, count)?,
                    None if count == 0 => Vec::new(),
                    None => return Err(Refusal::Damaged("a page without its codes".to_owned())),
                };
                let limit = as_code(dictionary.len());
                // The largest of all, because the compiler makes wide instructions of that.
                if codes.iter().copied().max().is_some_and(|largest| largest >= limit) {
                    return Err(Refusal::Damaged("a code beyond its dictionary".to_owned()));
                }
                match &mut self.plain {
                    None if valid.is_none() && self.codes.is_empty() => self.codes = codes,
                    None => spread(&codes, valid.as_deref(), &mut self.codes),
                    Some(plain) => {
                        fits_written_out(dictionary, &codes, plain, room)?;
                        let mut found = dictionary.empty_like();
                        found.extend(dictionary, codes.iter().map(|&code| code as usize))?;
                        spread_plain(found, valid.as_deref(), plain)?;
                    }
                }
            }
            Encoding::PLAIN => {
                let found = plain_values(descriptor, values, count)?;
                if self.plain.is_none() {
                    let mut plain = found.empty_like();
                    let codes = std::mem::take(&mut self.codes);
                    match &self.dictionary {
                        Some(dictionary) if dictionary.len() > 0 => {
                            fits_written_out(dictionary, &codes, &found, room)?;
                            for (row, &code) in codes.iter().enumerate() {
                                if self.valid.as_ref().is_none_or(|valid| valid[row]) {
                                    plain.extend(dictionary, std::iter::once(code as usize))?;
                                } else {
                                    plain.push_nothing();
                                }
                            }
                        }
                        _ => codes.iter().for_each(|_| plain.push_nothing()),
                    }
                    self.plain = Some(plain);
                }
                spread_plain(found, valid.as_deref(), self.plain.as_mut().expect("set above"))?;
            }
            _ => return Ok(false),
        }
        if valid.is_some() || self.valid.is_some() {
            let all = self.valid.get_or_insert_with(|| vec![true; self.rows]);
            match valid {
                Some(mut valid) => all.append(&mut valid),
                None => all.resize(all.len() + rows, true),
            }
        }
        self.rows += rows;
        Ok(true)
    }

    fn finish(self, descriptor: &ColumnDescriptor) -> Result<Chunk, Refusal> {
        let values = match (self.plain, self.dictionary) {
            (Some(plain), _) => ChunkValues::Plain(plain),
            (None, Some(dictionary)) => ChunkValues::Codes { codes: self.codes, dictionary },
            (None, None) => ChunkValues::Plain(plain_values(descriptor, &Bytes::new(), 0)?),
        };
        Ok(Chunk { values, valid: self.valid })
    }
}

/// A few bytes of codes can stand for long texts: whether these do not take more than there is room for, in addition to the
/// values that are there.
fn fits_written_out(dictionary: &Plain, codes: &[u32], there: &Plain, room: &Room<'_>) -> Result<(), Refusal> {
    // While a list grows, its old and its new place are held.
    let bytes = dictionary.bytes_of(codes.iter().map(|&code| code as usize)).saturating_add(there.bytes());
    room.check(bytes.saturating_mul(2), "of values of one chunk")
}

fn spread(codes: &[u32], valid: Option<&[bool]>, to: &mut Vec<u32>) {
    match valid {
        None => to.extend_from_slice(codes),
        Some(valid) => {
            let mut codes = codes.iter();
            to.extend(valid.iter().map(|&valid| if valid { codes.next().copied().unwrap_or(0) } else { 0 }));
        }
    }
}

fn spread_plain(mut found: Plain, valid: Option<&[bool]>, to: &mut Plain) -> Result<(), Refusal> {
    let Some(valid) = valid else { return to.append(&mut found) };
    let mut next = 0;
    for &valid in valid {
        if valid {
            to.extend(&found, std::iter::once(next))?;
            next += 1;
        } else {
            to.push_nothing();
        }
    }
    Ok(())
}

/// `count` values in the plain encoding.
fn plain_values(descriptor: &ColumnDescriptor, data: &[u8], count: usize) -> Result<Plain, Refusal> {
    let too_short = || Refusal::Damaged("a page with fewer values than it says".to_owned());
    let fixed = |width: usize| count.checked_mul(width).and_then(|bytes| data.get(..bytes)).ok_or_else(too_short);
    Ok(match descriptor.physical_type() {
        Physical::BOOLEAN => {
            let bytes = data.get(..count.div_ceil(8)).ok_or_else(too_short)?;
            Plain::Bool((0..count).map(|i| bytes[i / 8] >> (i % 8) & 1 == 1).collect())
        }
        Physical::INT32 | Physical::FLOAT => {
            let (words, _) = fixed(4)?.as_chunks::<4>();
            Plain::Word4(words.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
        }
        Physical::INT64 | Physical::DOUBLE => {
            let (words, _) = fixed(8)?.as_chunks::<8>();
            Plain::Word8(words.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
        }
        Physical::FIXED_LEN_BYTE_ARRAY => {
            let width = usize::try_from(descriptor.type_length()).ok().filter(|&width| width > 0);
            let width = width.ok_or_else(|| Refusal::Unsuited("values of no width".to_owned()))?;
            Plain::Fixed { width, data: fixed(width)?.to_vec() }
        }
        Physical::BYTE_ARRAY => {
            let mut lists = ByteLists::default();
            let mut rest = data;
            for _ in 0..count {
                let (length, after) = rest.split_first_chunk::<4>().ok_or_else(too_short)?;
                let value = after.get(..u32::from_le_bytes(*length) as usize).ok_or_else(too_short)?;
                lists.push(value);
                rest = &after[value.len()..];
            }
            Plain::Bytes(lists)
        }
        Physical::INT96 => return Err(Refusal::Unsuited("stored as INT96".to_owned())),
    })
}

/// Decodes any encoding, value by value, by the `parquet` crate.
fn decode_generally(descriptor: &ColumnDescPtr, pages: Box<dyn PageReader>, room: &Room<'_>) -> Result<Chunk, Refusal> {
    let nothing = plain_values(descriptor, &[], 0)?;
    match descriptor.physical_type() {
        Physical::BOOLEAN => read_all::<BoolType>(descriptor, pages, room, nothing, |to, v| {
            if let Plain::Bool(to) = to {
                to.push(*v);
            }
        }),
        Physical::INT32 => read_all::<Int32Type>(descriptor, pages, room, nothing, push_word4),
        Physical::FLOAT => read_all::<FloatType>(descriptor, pages, room, nothing, push_word4),
        Physical::INT64 => read_all::<Int64Type>(descriptor, pages, room, nothing, push_word8),
        Physical::DOUBLE => read_all::<DoubleType>(descriptor, pages, room, nothing, push_word8),
        Physical::BYTE_ARRAY => read_all::<ByteArrayType>(descriptor, pages, room, nothing, |to, v| {
            if let Plain::Bytes(to) = to {
                to.push(v.data());
            }
        }),
        Physical::FIXED_LEN_BYTE_ARRAY => {
            read_all::<FixedLenByteArrayType>(descriptor, pages, room, nothing, |to, v| {
                // One of another length leaves too few values, which is noticed.
                if let Plain::Fixed { data, width } = to
                    && v.len() == *width
                {
                    data.extend_from_slice(v.data());
                }
            })
        }
        Physical::INT96 => Err(Refusal::Unsuited("stored as INT96".to_owned())),
    }
}

fn push_word4<T: AsBytes>(to: &mut Plain, value: &T) {
    if let (Plain::Word4(to), Ok(bytes)) = (to, value.as_bytes().try_into()) {
        to.push(u32::from_le_bytes(bytes));
    }
}

fn push_word8<T: AsBytes>(to: &mut Plain, value: &T) {
    if let (Plain::Word8(to), Ok(bytes)) = (to, value.as_bytes().try_into()) {
        to.push(u64::from_le_bytes(bytes));
    }
}

fn read_all<T: DataType>(
    descriptor: &ColumnDescPtr,
    pages: Box<dyn PageReader>,
    room: &Room<'_>,
    mut all: Plain,
    push: impl Fn(&mut Plain, &T::T),
) -> Result<Chunk, Refusal> {
    let mut reader = ColumnReaderImpl::<T>::new(descriptor.clone(), pages);
    let nullable = descriptor.max_def_level() > 0;
    let mut valid: Vec<bool> = Vec::new();
    let (mut values, mut levels) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
    loop {
        room.check_wanted()?;
        values.clear();
        levels.clear();
        let (records, ..) =
            reader.read_records(BATCH, nullable.then_some(&mut levels), None, &mut values).map_err(judge)?;
        if records == 0 {
            break;
        }
        // What stands in a dictionary once is written out for each row.
        let more = values.iter().map(|value| value.as_bytes().len() as u64).fold(0, u64::saturating_add);
        room.check(all.bytes().saturating_add(more).saturating_mul(2), "of values of one chunk")?;
        if !nullable {
            for value in &values {
                push(&mut all, value);
            }
            continue;
        }
        let mut next = values.iter();
        for &level in &levels {
            match (level > 0).then(|| next.next()).flatten() {
                Some(value) => push(&mut all, value),
                None => all.push_nothing(),
            }
            valid.push(level > 0);
        }
    }
    let valid = valid.contains(&false).then_some(valid);
    Ok(Chunk { values: ChunkValues::Plain(all), valid })
}

#[cfg(test)]
mod tests;
