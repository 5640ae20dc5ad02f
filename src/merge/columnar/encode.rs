//! Writes one column of one row group.
//!
//! Columns with a dictionary are written here, because their codes are known already; all others by the column writer of the
//! `parquet` crate, with the encodings that suit the type.

use std::borrow::Cow;

use bytes::Bytes;
use parquet::basic::{Compression as Codec, Encoding, GzipLevel, Type as Physical, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::{ColumnCloseResult, get_column_writer, get_typed_column_writer};
use parquet::compression::{Codec as Compressor, CodecOptions, create_codec};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArray, FixedLenByteArrayType, FloatType,
    Int32Type, Int64Type,
};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr, WriterVersion};
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::{ColumnDescPtr, ColumnPath};

use super::super::{Compression, MergeOptions, ParquetVersion};
use super::column::{Column, NO_VALUE, ROWS_PER_VALUE};
use super::room::Room;
use super::rows::Order;
use super::statements::{bloom_filter, statistics, with_honest_bounds};
use super::values::{ByteLists, Plain, as_code};
use super::{Refusal, hybrid};

/// Size at which a page of values without a dictionary is closed.
const PAGE_BYTES: usize = 4 << 20;

/// Values that the `parquet` crate takes before it looks at the size of the page.
const MAX_BATCH_VALUES: usize = 1024;

/// Values by which one of two encodings is chosen.
const SAMPLE_VALUES: usize = 16 * 1024;

/// Times that the values of a row group are held while they are written: in order, as the writer wants them, in a page.
pub(super) const ENCODE_COPIES: u64 = 3;

/// A finished column chunk.
pub(super) struct EncodedChunk {
    pub(super) bytes: Bytes,
    pub(super) close: ColumnCloseResult,
}

/// Writes the chunks of one column.
pub(super) struct Encoder<'a> {
    room: &'a Room<'a>,
    descriptor: ColumnDescPtr,
    codec: Codec,
    properties: WriterPropertiesPtr,
    /// Where two encodings may suit the values, the other one. The first values are written by both, and the smaller one wins.
    rival: Option<WriterPropertiesPtr>,
    compressor: Option<Box<dyn Compressor>>,
    /// By code, the number that it has in the row group at hand.
    local: Vec<u32>,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(
        descriptor: ColumnDescPtr,
        version_2_suits: bool,
        options: &MergeOptions,
        room: &'a Room<'a>,
    ) -> Result<Self, Refusal> {
        let codec = match options.compression {
            Compression::Zstd(level) => Codec::ZSTD(ZstdLevel::try_new(level.into())?),
            Compression::Snappy => Codec::SNAPPY,
            Compression::Lz4 => Codec::LZ4_RAW,
            Compression::Gzip => Codec::GZIP(GzipLevel::default()),
            Compression::None => Codec::UNCOMPRESSED,
        };
        let new_encodings = version_2_suits && options.parquet_version == ParquetVersion::V2;
        let encoding = match descriptor.physical_type() {
            Physical::INT32 | Physical::INT64 if new_encodings => Encoding::DELTA_BINARY_PACKED,
            Physical::FLOAT | Physical::DOUBLE if new_encodings => Encoding::BYTE_STREAM_SPLIT,
            Physical::BYTE_ARRAY if new_encodings => Encoding::DELTA_LENGTH_BYTE_ARRAY,
            _ => Encoding::PLAIN,
        };
        let properties = |encoding| {
            let properties = WriterProperties::builder()
                .set_writer_version(WriterVersion::PARQUET_1_0)
                .set_compression(codec)
                .set_dictionary_enabled(false)
                .set_column_encoding(ColumnPath::new(descriptor.path().parts().to_vec()), encoding)
                .set_data_page_size_limit(PAGE_BYTES)
                .set_data_page_row_count_limit(usize::MAX)
                .set_statistics_enabled(EnabledStatistics::Chunk)
                .set_statistics_truncate_length(None)
                .build();
            WriterPropertiesPtr::from(properties)
        };
        // Split streams of bytes suit noise; values that recur are found only as a whole.
        let rival = (encoding == Encoding::BYTE_STREAM_SPLIT).then(|| properties(Encoding::PLAIN));
        Ok(Self {
            compressor: create_codec(codec, &CodecOptions::default())?,
            room,
            codec,
            properties: properties(encoding),
            rival,
            local: Vec::new(),
            descriptor,
        })
    }

    /// The rows of `order`, in its order, as one chunk.
    pub(super) fn encode(&mut self, column: &Column, order: &Order<'_>) -> Result<EncodedChunk, Refusal> {
        match column {
            Column::Nothing => {
                let nothing = self.no_values();
                self.encode_plain(&nothing, Some(&vec![0; order.len()]))
            }
            Column::Codes { codes, dictionary } => self.encode_codes(codes, dictionary, order),
            Column::Plain { values, valid } => {
                self.check_fits(order.bytes_of(values))?;
                let mut rows = Vec::with_capacity(order.len());
                let levels = valid.as_ref().map(|valid| {
                    let mut levels = Vec::with_capacity(order.len());
                    order.each(|row| {
                        levels.push(i16::from(valid[row]));
                        if valid[row] {
                            rows.push(row);
                        }
                    });
                    levels
                });
                let mut chosen = values.empty_like();
                match (&levels, order) {
                    (Some(_), _) => chosen.extend(values, rows.into_iter())?,
                    (None, Order::AsRead(span)) => chosen.extend(values, span.clone())?,
                    (None, Order::Rows(rows)) => chosen.extend(values, rows.iter().map(|&row| row as usize))?,
                }
                self.encode_plain(&chosen, levels.as_deref())
            }
        }
    }

    /// Refuses values of so many bytes in one row group.
    fn check_fits(&self, bytes: u64) -> Result<(), Refusal> {
        self.room.check(bytes.saturating_mul(ENCODE_COPIES), "to write a row group")
    }

    fn encode_codes(&mut self, codes: &[u32], dictionary: &Plain, order: &Order<'_>) -> Result<EncodedChunk, Refusal> {
        let codes: Cow<'_, [u32]> = match order {
            Order::AsRead(span) => codes[span.clone()].into(),
            Order::Rows(rows) => rows.iter().map(|&row| codes[row as usize]).collect(),
        };
        // Which codes occur; the last place is for missing values.
        let missing = dictionary.len();
        let place = |code: u32| (code as usize).min(missing);
        self.local.clear();
        self.local.resize(missing + 1, NO_VALUE);
        for &code in &*codes {
            self.local[place(code)] = 0;
        }
        let has_missing = self.local[missing] == 0;
        let levels: Vec<u32> =
            if has_missing { codes.iter().map(|&code| u32::from(code != NO_VALUE)).collect() } else { Vec::new() };
        let used: Vec<usize> = (0..missing).filter(|&code| self.local[code] == 0).collect();
        let numbers: Cow<'_, [u32]> = if used.len() == missing && !has_missing {
            codes
        } else {
            used.iter().enumerate().for_each(|(number, &code)| self.local[code] = as_code(number));
            codes.iter().filter(|&&code| code != NO_VALUE).map(|&code| self.local[code as usize]).collect()
        };
        let mut entries = dictionary.empty_like();
        entries.extend(dictionary, used.into_iter())?;
        if entries.len() == 0 || !pays(&entries, numbers.len()) {
            self.check_fits(entries.bytes_of(numbers.iter().map(|&number| number as usize)))?;
            let mut values = dictionary.empty_like();
            values.extend(&entries, numbers.iter().map(|&number| number as usize))?;
            let levels: Option<Vec<i16>> =
                has_missing.then(|| levels.iter().map(|&level| i16::from(level == 1)).collect());
            return self.encode_plain(&values, levels.as_deref());
        }
        self.write_codes(&entries, &numbers, &levels)
    }

    /// A dictionary page and a page of codes. `levels` is empty when no value is missing.
    fn write_codes(&mut self, entries: &Plain, numbers: &[u32], levels: &[u32]) -> Result<EncodedChunk, Refusal> {
        let rows = if levels.is_empty() { numbers.len() } else { levels.len() };
        let nulls = rows - numbers.len();
        let mut sink = TrackedWrite::new(Vec::new());
        let mut writer = SerializedPageWriter::new(&mut sink);
        // The format counts them in 31 bits.
        let count = |n: usize| {
            let count = i32::try_from(n).ok().and_then(|n| u32::try_from(n).ok());
            count.ok_or_else(|| Refusal::Unsuited(format!("{n} values in a page")))
        };

        self.check_fits(entries.bytes())?;
        let plain = plain_bytes(entries);
        let dictionary_size = plain.len();
        let page = Page::DictionaryPage {
            buf: self.compress(plain)?,
            num_values: count(entries.len())?,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        let dictionary_page = writer.write_page(CompressedPage::new(page, dictionary_size))?;

        let mut body = Vec::with_capacity(numbers.len() * 2);
        if self.descriptor.max_def_level() > 0 {
            body.extend_from_slice(&[0; 4]);
            match levels {
                [] => hybrid::encode_run(1, rows, 1, &mut body),
                levels => hybrid::encode(levels, 1, &mut body),
            }
            let length = count(body.len() - 4)?;
            body[..4].copy_from_slice(&length.to_le_bytes());
        }
        // Not every reader takes codes of no width, which one entry would need.
        let width = hybrid::width_of(entries.len()).max(1);
        body.push(width);
        hybrid::encode(numbers, width, &mut body);
        let size = body.len();
        let page = Page::DataPage {
            buf: self.compress(body)?,
            num_values: count(rows)?,
            encoding: Encoding::RLE_DICTIONARY,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let data_page = writer.write_page(CompressedPage::new(page, size))?;
        writer.close()?;

        let size = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        let bytes = sink.into_inner()?;
        let mut metadata = ColumnChunkMetaData::builder(self.descriptor.clone())
            .set_compression(self.codec)
            .set_encodings([Encoding::PLAIN, Encoding::RLE, Encoding::RLE_DICTIONARY].to_vec())
            .set_total_compressed_size(size(bytes.len()))
            .set_total_uncompressed_size(size(dictionary_page.uncompressed_size + data_page.uncompressed_size))
            .set_num_values(size(rows))
            .set_dictionary_page_offset(Some(0))
            .set_data_page_offset(size(bytes.len() - data_page.compressed_size));
        if let Some(statistics) = statistics(&self.descriptor, entries, nulls as u64) {
            metadata = metadata.set_statistics(statistics);
        }
        let close = ColumnCloseResult {
            bytes_written: bytes.len() as u64,
            rows_written: rows as u64,
            metadata: metadata.build()?,
            bloom_filter: bloom_filter(&self.descriptor, entries)?,
            column_index: None,
            offset_index: None,
        };
        Ok(EncodedChunk { bytes: bytes.into(), close })
    }

    fn compress(&mut self, plain: Vec<u8>) -> Result<Bytes, Refusal> {
        let Some(codec) = &mut self.compressor else { return Ok(plain.into()) };
        let mut compressed = Vec::with_capacity(plain.len() / 2);
        codec.compress(&plain, &mut compressed)?;
        Ok(compressed.into())
    }

    fn no_values(&self) -> Plain {
        match self.descriptor.physical_type() {
            Physical::BOOLEAN => Plain::Bool(Vec::new()),
            Physical::INT32 | Physical::FLOAT => Plain::Word4(Vec::new()),
            Physical::INT64 | Physical::DOUBLE => Plain::Word8(Vec::new()),
            Physical::INT96 | Physical::BYTE_ARRAY => Plain::Bytes(ByteLists::default()),
            Physical::FIXED_LEN_BYTE_ARRAY => Plain::Fixed { width: 1, data: Vec::new() },
        }
    }

    /// Values without a dictionary; those of missing rows are not among them.
    fn encode_plain(&mut self, values: &Plain, levels: Option<&[i16]>) -> Result<EncodedChunk, Refusal> {
        #[allow(clippy::cast_possible_wrap, reason = "the same bits")]
        match (self.descriptor.physical_type(), values) {
            (Physical::BOOLEAN, Plain::Bool(values)) => self.write_plain::<BoolType>(values, levels),
            (Physical::INT32, Plain::Word4(values)) => {
                self.write_plain::<Int32Type>(&values.iter().map(|&v| v as i32).collect::<Vec<_>>(), levels)
            }
            (Physical::FLOAT, Plain::Word4(values)) => {
                let values: Vec<f32> = values.iter().map(|&v| f32::from_bits(v)).collect();
                self.write_best::<FloatType>(&values, levels, values.iter().any(|v| v.is_nan()))
            }
            (Physical::INT64, Plain::Word8(values)) => {
                self.write_plain::<Int64Type>(&values.iter().map(|&v| v as i64).collect::<Vec<_>>(), levels)
            }
            (Physical::DOUBLE, Plain::Word8(values)) => {
                let values: Vec<f64> = values.iter().map(|&v| f64::from_bits(v)).collect();
                self.write_best::<DoubleType>(&values, levels, values.iter().any(|v| v.is_nan()))
            }
            (Physical::BYTE_ARRAY, Plain::Bytes(values)) => {
                let fitting = PAGE_BYTES / values.longest().max(1);
                let values: Vec<ByteArray> = values.shared().map(ByteArray::from).collect();
                if fitting < MAX_BATCH_VALUES {
                    let builder = WriterProperties::clone(&self.properties).into_builder();
                    let properties = builder.set_write_batch_size(fitting.max(1)).build().into();
                    return self.write_as::<ByteArrayType>(&properties, &values, levels, false);
                }
                self.write_plain::<ByteArrayType>(&values, levels)
            }
            (Physical::FIXED_LEN_BYTE_ARRAY, Plain::Fixed { width, data }) => {
                let shared = Bytes::copy_from_slice(data);
                let values: Vec<FixedLenByteArray> = (0..data.len() / width)
                    .map(|i| ByteArray::from(shared.slice(i * width..(i + 1) * width)).into())
                    .collect();
                self.write_plain::<FixedLenByteArrayType>(&values, levels)
            }
            _ => Err(Refusal::Unsuited("values of another physical type than declared".to_owned())),
        }
    }

    fn write_plain<T: DataType>(&mut self, values: &[T::T], levels: Option<&[i16]>) -> Result<EncodedChunk, Refusal> {
        self.write_best::<T>(values, levels, false)
    }

    /// With the encoding of the two that gives the smaller chunk.
    fn write_best<T: DataType>(
        &mut self,
        values: &[T::T],
        levels: Option<&[i16]>,
        has_nan: bool,
    ) -> Result<EncodedChunk, Refusal> {
        if let Some(rival) = self.rival.take() {
            let some = &values[..values.len().min(SAMPLE_VALUES)];
            let all_there = vec![1; some.len()];
            let size = |properties| -> Result<usize, Refusal> {
                Ok(self.write_as::<T>(properties, some, levels.map(|_| &all_there[..]), has_nan)?.bytes.len())
            };
            if size(&rival)? < size(&self.properties)? {
                self.properties = rival;
            }
        }
        self.write_as::<T>(&self.properties, values, levels, has_nan)
    }

    fn write_as<T: DataType>(
        &self,
        properties: &WriterPropertiesPtr,
        values: &[T::T],
        levels: Option<&[i16]>,
        has_nan: bool,
    ) -> Result<EncodedChunk, Refusal> {
        let mut sink = TrackedWrite::new(Vec::new());
        let page_writer = Box::new(SerializedPageWriter::new(&mut sink));
        let writer = get_column_writer(self.descriptor.clone(), properties.clone(), page_writer);
        let mut writer = get_typed_column_writer::<T>(writer);
        let all;
        let levels = match levels {
            Some(levels) => Some(levels),
            None if self.descriptor.max_def_level() > 0 => {
                all = vec![1; values.len()];
                Some(all.as_slice())
            }
            None => None,
        };
        writer.write_batch(values, levels, None)?;
        // All columns of a row group have page indexes, or none has.
        let mut close = ColumnCloseResult { column_index: None, offset_index: None, ..writer.close()? };
        close.metadata = with_honest_bounds(close.metadata, has_nan)?;
        Ok(EncodedChunk { bytes: sink.into_inner()?.into(), close })
    }
}

/// Whether `rows` values are smaller as codes into these entries.
fn pays(entries: &Plain, rows: usize) -> bool {
    let (few, many) = (plain_size(entries), entries.len());
    many * ROWS_PER_VALUE <= rows || {
        let average = few / many.max(1);
        2 * (few + rows * usize::from(hybrid::width_of(many)) / 8) <= rows * average
    }
}

fn plain_size(values: &Plain) -> usize {
    match values {
        Plain::Bool(values) => values.len(),
        Plain::Word4(values) => 4 * values.len(),
        Plain::Word8(values) => 8 * values.len(),
        Plain::Fixed { data, .. } => data.len(),
        Plain::Bytes(values) => values.size() + 4 * values.len(),
    }
}

fn plain_bytes(values: &Plain) -> Vec<u8> {
    match values {
        Plain::Bool(values) => values.iter().map(|&value| u8::from(value)).collect(),
        Plain::Word4(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Plain::Word8(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Plain::Fixed { data, .. } => data.clone(),
        Plain::Bytes(values) => {
            let mut out = Vec::with_capacity(plain_size(&Plain::Bytes(ByteLists::default())) + values.size());
            for at in 0..values.len() {
                let value = values.get(at);
                out.extend_from_slice(&as_code(value.len()).to_le_bytes());
                out.extend_from_slice(value);
            }
            out
        }
    }
}
