use std::panic::catch_unwind;
use std::sync::Arc;

use parquet::data_type::ByteArrayType;
use parquet::encodings::encoding::get_encoder;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::SchemaDescriptor;

use super::*;
use crate::merge::fixtures::ForgedPages;

fn column(declaration: &str) -> ColumnDescPtr {
    let schema = parse_message_type(&format!("message m {{ {declaration} }}")).unwrap();
    SchemaDescriptor::new(Arc::new(schema)).column(0)
}

fn text() -> ColumnDescPtr {
    column("required binary v;")
}

fn nullable_text() -> ColumnDescPtr {
    column("optional binary v;")
}

/// What a decoder gets to see of these pages, of a chunk of so many values.
fn seen_of(column: ColumnDescPtr, values: u64, most_bytes: u64, pages: &[Page]) -> Result<usize> {
    let pages = Box::new(ForgedPages::new(pages));
    let checked = CheckedPages::new(pages, column, values).within(most_bytes);
    checked.collect::<Result<Vec<_>>>().map(|pages| pages.len())
}

fn is_sound(column: ColumnDescPtr, page: Page) -> bool {
    seen_of(column, 3, u64::MAX, &[page]).is_ok()
}

/// The head of as many zeros, which need no bits.
fn zeros(count: u8) -> Vec<u8> {
    let mut packed = vec![0x80, 0x01, 0x04, count, 0x00];
    if count > 1 {
        packed.extend([0x00; 5]);
    }
    packed
}

/// A page of three values.
fn page(encoding: Encoding, parts: &[&[u8]]) -> Page {
    with_levels(Encoding::RLE, encoding, 3, parts)
}

fn with_levels(levels: Encoding, encoding: Encoding, num_values: u32, parts: &[&[u8]]) -> Page {
    Page::DataPage {
        buf: parts.concat().into(),
        num_values,
        encoding,
        def_level_encoding: levels,
        rep_level_encoding: levels,
        statistics: None,
    }
}

fn dictionary(num_values: u32, bytes: usize) -> Page {
    Page::DictionaryPage { buf: vec![0; bytes].into(), num_values, encoding: Encoding::PLAIN, is_sorted: false }
}

#[test]
fn a_chunk_has_no_more_values_than_it_says() {
    let plain = page(Encoding::PLAIN, &[]);
    let numbers = || column("required int64 v;");
    assert_eq!(seen_of(numbers(), 6, u64::MAX, &[plain.clone(), plain.clone()]).unwrap(), 2);
    let error = seen_of(numbers(), 5, u64::MAX, &[plain.clone(), plain]).unwrap_err();
    assert!(error.to_string().contains("more values than the 5 of its chunk"), "{error}");
}

#[test]
fn a_dictionary_has_no_more_entries_than_its_bytes_can_hold() {
    for (declaration, bytes, most) in [
        ("required boolean v;", 2, 16),
        ("required int32 v;", 11, 2),
        ("required float v;", 12, 3),
        ("required int64 v;", 17, 2),
        ("required double v;", 24, 3),
        ("required int96 v;", 24, 2),
        ("required binary v;", 9, 2),
        ("required fixed_len_byte_array(5) v;", 14, 2),
    ] {
        assert!(is_sound(column(declaration), dictionary(most, bytes)), "{declaration}");
        assert!(!is_sound(column(declaration), dictionary(most + 1, bytes)), "{declaration}");
    }
}

/// Each becomes a reference, however short it is.
#[test]
fn a_dictionary_of_short_texts_takes_more_than_its_bytes() {
    let take = 1000 * size_of::<ByteArray>() as u64;
    assert_eq!(seen_of(text(), 0, take, &[dictionary(1000, 4000)]).unwrap(), 1);
    let error = seen_of(text(), 0, take - 1, &[dictionary(1000, 4000)]).unwrap_err();
    assert!(matches!(&error, ParquetError::External(why) if why.is::<TooLarge>()), "{error}");
}

#[test]
fn a_page_may_have_as_many_lengths_as_values_and_fewer_but_not_more() {
    let levels = [0x02, 0x00, 0x00, 0x00, 0x06, 0x01];
    for (most, sound) in [(0, true), (1, true), (3, true), (4, false), (127, false)] {
        let lengths = page(Encoding::DELTA_LENGTH_BYTE_ARRAY, &[&zeros(most)]);
        assert_eq!(is_sound(text(), lengths), sound, "{most}");
        let behind_levels = page(Encoding::DELTA_LENGTH_BYTE_ARRAY, &[&levels, &zeros(most)]);
        assert_eq!(is_sound(nullable_text(), behind_levels), sound, "{most}");
        let prefixes = page(Encoding::DELTA_BYTE_ARRAY, &[&zeros(most), &zeros(3)]);
        assert_eq!(is_sound(text(), prefixes), sound, "{most}");
        let suffixes = page(Encoding::DELTA_BYTE_ARRAY, &[&zeros(3), &zeros(most)]);
        assert_eq!(is_sound(text(), suffixes), sound, "{most}");
    }
}

#[test]
fn lengths_are_found_behind_levels_of_every_kind() {
    #[expect(deprecated, reason = "files have it")]
    let packed = Encoding::BIT_PACKED;
    let delta = Encoding::DELTA_LENGTH_BYTE_ARRAY;
    let list = || column("required group v (LIST) { repeated group list { required binary element; } }");
    let optional_list = || column("optional group v (LIST) { repeated group list { optional binary element; } }");
    let run = [0x02, 0x00, 0x00, 0x00, 0x06, 0x01];
    for (lengths, sound) in [(zeros(3), true), (zeros(4), false)] {
        // Three levels of one bit take a byte, of two bits as well.
        for (column, before) in [(nullable_text(), 1), (list(), 2), (optional_list(), 2)] {
            let page = with_levels(packed, delta, 3, &[&vec![0xff; before], &lengths]);
            assert_eq!(is_sound(column, page), sound, "{before} bytes");
        }
        assert_eq!(is_sound(list(), page(delta, &[&run, &run, &lengths])), sound);
        let second = Page::DataPageV2 {
            buf: [&run[..3], &lengths].concat().into(),
            num_values: 3,
            encoding: delta,
            num_nulls: 0,
            num_rows: 3,
            def_levels_byte_len: 2,
            rep_levels_byte_len: 1,
            is_compressed: false,
            statistics: None,
        };
        assert_eq!(is_sound(list(), second), sound);
    }
    for levels in [&[][..], &[0x02, 0x00, 0x00], &[0x02, 0x00, 0x00, 0x00, 0x06], &[0xff; 4]] {
        assert!(!is_sound(nullable_text(), page(delta, &[levels])), "{levels:?}");
    }
}

#[test]
fn a_head_that_ends_in_the_middle_is_refused_and_other_encodings_are_not_looked_at() {
    let head = &zeros(3)[..5];
    for end in 0..head.len() {
        assert!(!is_sound(text(), page(Encoding::DELTA_LENGTH_BYTE_ARRAY, &[&head[..end]])), "{end}");
        assert!(!is_sound(text(), page(Encoding::DELTA_BYTE_ARRAY, &[&zeros(3), &head[..end]])), "{end}");
    }
    for end in 0..zeros(3).len() {
        assert!(!is_sound(text(), page(Encoding::DELTA_BYTE_ARRAY, &[&zeros(3)[..end], &zeros(3)])), "{end}");
    }
    assert!(is_sound(text(), page(Encoding::PLAIN, &[])));
    assert!(is_sound(column("required int64 v;"), page(Encoding::DELTA_LENGTH_BYTE_ARRAY, &[])));
}

/// No part of a block, blocks of nothing, and more than there can be: the library panics at that, which whoever decodes catches.
#[test]
fn a_head_that_makes_no_sense_is_refused() {
    for head in [&[0x80, 0x01, 0x00, 0x02, 0x00][..], &[0x00, 0x01, 0x02, 0x00, 0x00, 0x00], &[0xff; 40]] {
        let sound = catch_unwind(|| is_sound(text(), page(Encoding::DELTA_BYTE_ARRAY, &[head, &zeros(3)])));
        assert!(!sound.unwrap_or(false), "{head:?}");
    }
}

/// A few bytes say of each value that it begins like the one before it, and that may be long.
#[test]
fn values_that_begin_alike_are_written_out_only_where_there_is_room() {
    let values = vec![ByteArray::from(vec![b'a'; 10_000]); 1000];
    let mut encoder = get_encoder::<ByteArrayType>(Encoding::DELTA_BYTE_ARRAY, &text()).unwrap();
    encoder.put(&values).unwrap();
    let bytes = encoder.flush_buffer().unwrap();
    assert!(bytes.len() < 20_000, "{} bytes", bytes.len());
    let alike = with_levels(Encoding::RLE, Encoding::DELTA_BYTE_ARRAY, 1000, &[&bytes]);
    let seen = |most_bytes, pages: &[Page]| seen_of(text(), 2000, most_bytes, pages);
    assert_eq!(seen(31_000_000, std::slice::from_ref(&alike)).unwrap(), 1);
    for (most_bytes, pages) in [(29_000_000, vec![alike.clone()]), (31_000_000, vec![alike.clone(), alike])] {
        let error = seen(most_bytes, &pages).unwrap_err();
        assert!(matches!(&error, ParquetError::External(why) if why.is::<TooLarge>()), "{error}");
    }
}

#[test]
fn a_value_that_begins_with_less_than_nothing_of_another_is_refused() {
    // The first number is -1.
    let negative = [0x80, 0x01, 0x04, 0x01, 0x01];
    assert!(!is_sound(text(), page(Encoding::DELTA_BYTE_ARRAY, &[&negative, &zeros(1)])));
}
