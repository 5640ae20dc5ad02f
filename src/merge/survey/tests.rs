use std::sync::{Arc, Mutex};

use parquet::data_type::Int64Type;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tokio_util::sync::CancellationToken;

use super::super::fixtures::{Inputs, times, with_chunks};
use super::super::resources::ProcessMemory;
use super::super::survey_room::{DECODED_PER_BYTE, DECODED_PER_ELEMENT};
use super::super::testing::{alone, is_measuring, request};
use super::super::{MergeError, MergeInput, MergeLimits, SetAsideReason};
use super::{File, footer_length, survey};

fn limits() -> MergeLimits {
    request(&[]).limits
}

#[test]
fn readable_files_come_back_in_request_order_with_rows_sizes_and_ranges() {
    let mut files = Inputs::new();
    for start in 0..20 {
        files.columns(&[("time", times(start, 3))]);
    }
    let seen = Mutex::new(Vec::new());
    let (surveyed, set_aside) = survey(&files.inputs, &limits(), &CancellationToken::new(), &|i| {
        seen.lock().unwrap().push(i);
    })
    .unwrap();

    assert_eq!(set_aside, []);
    for (i, file) in surveyed.iter().enumerate() {
        assert_eq!((file.input, file.rows, file.size_bytes), (i, 3, files.inputs[i].size_bytes));
        let stats = file.columns[0].as_i64();
        let start = i64::try_from(i).unwrap();
        assert_eq!((stats.min, stats.max, stats.nulls), (Some(start), Some(start + 2), Some(0)));
        assert!(file.uncompressed_bytes > 0);
    }
    let mut seen = seen.into_inner().unwrap();
    seen.sort_unstable();
    assert_eq!(seen, (0..20).collect::<Vec<_>>());
}

/// I9: a bad file stops nobody.
#[test]
fn files_that_are_no_parquet_are_set_aside_as_unreadable_and_the_others_read() {
    let mut files = Inputs::new();
    files.columns(&[("time", times(0, 1000))]);
    let good = std::fs::read(&files.inputs[0].path).unwrap();
    let mut bad: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"PAR1".to_vec(),
        b"PAR1PAR1".to_vec(),
        b"time,value\n1,2\n1,2\n1,2\n".to_vec(),
        b"PAR1\xff\xff\xff\x7fPAR1".to_vec(),
        b"PAR1\xff\xff\xff\xffPAR1".to_vec(),
        b"PAR1\x00\x00\x00\x00PAR1".to_vec(),
        good[..good.len() - 1].to_vec(),
        good[..good.len() / 2].to_vec(),
        // The head is gone and the footer is whole: chunks lie outside.
        good[good.len() - 700..].to_vec(),
    ];
    let footer =
        good.len() - 8 - usize::try_from(u32::from_le_bytes(good[good.len() - 8..][..4].try_into().unwrap())).unwrap();
    let mut garbage = good.clone();
    garbage[footer..good.len() - 8].fill(0xff);
    bad.push(garbage);
    for bytes in &bad {
        files.bytes(bytes);
    }
    files.columns(&[("time", times(0, 1))]);

    let (surveyed, set_aside) = files.survey();

    assert_eq!(surveyed.iter().map(|f| f.input).collect::<Vec<_>>(), [0, bad.len() + 1]);
    assert_eq!(set_aside.len(), bad.len());
    for (i, file) in set_aside.iter().enumerate() {
        assert_eq!(file.name, files.inputs[i + 1].name);
        assert!(file.reason.is_damage(), "{}: {}", file.name, file.reason);
    }
}

#[test]
fn no_flipped_byte_in_a_footer_gets_past_the_survey_as_a_panic() {
    let mut files = Inputs::new();
    files.columns(&[("time", times(0, 1000))]);
    let good = std::fs::read(&files.inputs[0].path).unwrap();
    for at in good.len() - 400..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x55;
        files.bytes(&bytes);
    }
    let (surveyed, set_aside) = files.survey();
    assert_eq!(surveyed.len() + set_aside.len(), files.inputs.len());
    assert_eq!(surveyed[0].input, 0);
}

#[test]
fn a_file_of_another_length_than_storage_stated_is_unreadable_with_both_numbers() {
    let mut files = Inputs::new();
    files.columns(&[("time", times(0, 3))]);
    let length = files.inputs[0].size_bytes;
    files.inputs[0].size_bytes += 1;
    let (_, set_aside) = files.survey();
    let expected = format!("{length} bytes long instead of {}", length + 1);
    assert_eq!(set_aside[0].reason, SetAsideReason::Unreadable(expected));
}

/// Whole numbers at their borders: what is added up must not wrap around, and nothing is read before it is checked.
#[test]
fn a_column_chunk_that_lies_outside_of_its_file_is_refused_whatever_its_numbers_are() {
    let mut files = Inputs::new();
    files.columns(&[("time", times(0, 1000)), ("value", times(0, 1000))]);
    let good = std::fs::read(&files.inputs[0].path).unwrap();
    files.bytes(&with_chunks(&good, |_, chunk| chunk));
    let length = i64::try_from(good.len()).unwrap();
    // Offset of the data, offset of the dictionary, length.
    let wrong = [
        (length, None, 1),
        (length - 8, None, 4000),
        (i64::MAX, None, 1),
        (i64::MAX, None, i64::MAX),
        (i64::MAX - 1, None, 2),
        (1, None, i64::MAX),
        (4, None, i64::MAX - 3),
        (4, None, length - 3),
        (-1, None, 10),
        (i64::MIN, None, i64::MAX),
        (i64::MIN, None, i64::MIN),
        (4, None, -1),
        (4, None, i64::MIN),
        (4, Some(-1), 10),
        (4, Some(i64::MIN), 10),
        (4, Some(length), 1),
        (4, Some(i64::MAX), i64::MAX),
    ];
    for (data, dictionary, stored) in wrong {
        files.bytes(&with_chunks(&good, |(_, column), chunk| match column {
            0 => chunk,
            _ => chunk
                .set_data_page_offset(data)
                .set_dictionary_page_offset(dictionary)
                .set_total_compressed_size(stored),
        }));
    }
    let (surveyed, set_aside) = files.survey();
    assert_eq!(surveyed.iter().map(|file| file.input).collect::<Vec<_>>(), [0, 1]);
    let expected = SetAsideReason::Unreadable("row group 0: a column chunk lies outside the file".to_owned());
    for (aside, numbers) in set_aside.iter().zip(wrong) {
        assert_eq!(aside.reason, expected, "{numbers:?}");
    }
    assert_eq!(set_aside.len(), wrong.len());
}

#[test]
fn a_missing_file_is_unreadable() {
    let mut files = Inputs::new();
    files.columns(&[("time", times(0, 3))]);
    files.inputs[0].path = files.path("nowhere.parquet");
    assert!(files.survey().1[0].reason.is_damage());
}

#[test]
fn an_encrypted_file_is_sound_but_not_rewritten() {
    let mut files = Inputs::new();
    files.bytes(b"PARE\0\0\0\0\0\0\0\0PARE");
    let reason = &files.survey().1[0].reason;
    assert_eq!(*reason, SetAsideReason::Unsupported("the file is encrypted".to_owned()));
}

#[test]
fn a_cancelled_survey_says_so() {
    let mut files = Inputs::new();
    files.columns(&[("time", times(0, 3))]);
    let cancel = CancellationToken::new();
    cancel.cancel();
    assert!(matches!(survey(&files.inputs, &limits(), &cancel, &|_| ()), Err(MergeError::Cancelled)));
}

#[test]
fn no_inputs_are_no_error() {
    let (surveyed, set_aside) = Inputs::new().survey();
    assert!(surveyed.is_empty() && set_aside.is_empty());
}

/// A file of many columns and row groups with a value each.
fn wide(files: &mut Inputs, columns: usize, row_groups: usize) {
    named(files, "column", columns, row_groups);
}

fn named(files: &mut Inputs, name: &str, columns: usize, row_groups: usize) {
    let fields = (0..columns).map(|i| format!("optional int64 {name}_{i}; ")).collect::<Vec<_>>().concat();
    let schema = Arc::new(parse_message_type(&format!("message schema {{ {fields} }}")).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::default()).unwrap();
    for _ in 0..row_groups {
        let mut row_group = writer.next_row_group().unwrap();
        while let Some(mut column) = row_group.next_column().unwrap() {
            column.typed::<Int64Type>().write_batch(&[7], Some(&[1]), None).unwrap();
            column.close().unwrap();
        }
        row_group.close().unwrap();
    }
    files.bytes(&writer.into_inner().unwrap());
}

fn footer_bytes(files: &Inputs) -> u64 {
    let MergeInput { path, size_bytes, .. } = &files.inputs[0];
    footer_length(&File::open(path).unwrap(), *size_bytes).ok().unwrap()
}

/// The memory for decoding is what is counted for it, and a file that would take more is named and costs nothing.
fn takes_what_is_counted(name: &str, columns: usize, row_groups: usize) {
    // Made by the process that asks, so that the making does not count.
    let asks = if is_measuring() { std::os::unix::process::parent_id() } else { std::process::id() };
    let made = std::env::temp_dir().join(format!("arc-wide-{columns}-{asks}.parquet"));
    if !is_measuring() {
        let mut files = Inputs::new();
        wide(&mut files, columns, row_groups);
        std::fs::rename(&files.inputs[0].path, &made).unwrap();
    }
    let measure = || {
        let mut files = Inputs::new();
        files.register(made.clone());
        // A schema has a root.
        let counted = footer_bytes(&files) * DECODED_PER_BYTE + (columns as u64 + 1) * DECODED_PER_ELEMENT;
        let grown = |memory_bytes| {
            let before = ProcessMemory::of_this_process().unwrap();
            let (surveyed, set_aside) = files.survey_within(memory_bytes);
            let after = ProcessMemory::of_this_process().unwrap();
            (after.peak_bytes.saturating_sub(before.resident_bytes), surveyed.len(), set_aside)
        };
        let (nothing, _, set_aside) = grown(counted * 2 - 2);
        let reason = set_aside[0].reason.to_string();
        let (all, surveyed, _) = grown(counted * 2);
        format!("{nothing} {all} {counted} {surveyed} {reason}")
    };
    let Some(text) = alone(module_path!(), name, measure) else { return };
    std::fs::remove_file(made).unwrap();
    let [nothing, all, counted, surveyed, reason] = text.splitn(5, ' ').collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    let number = |text: &str| text.parse::<u64>().unwrap();
    // To be told how many elements there are, its bytes are read.
    assert!(number(nothing) < number(counted) / 4 && number(all) <= number(counted) && surveyed == "1", "{text}");
    assert!(reason.starts_with("takes more memory than a merge may use: its footer of "), "{text}");
}

#[test]
fn a_footer_of_many_chunks_takes_no_more_memory_than_is_counted_for_it_and_no_more_than_there_is() {
    let name = "a_footer_of_many_chunks_takes_no_more_memory_than_is_counted_for_it_and_no_more_than_there_is";
    takes_what_is_counted(name, 5000, 30);
}

/// Its elements are short, and what is made of them is not.
#[test]
fn a_footer_of_many_columns_takes_no_more_memory_than_is_counted_for_it_and_no_more_than_there_is() {
    let name = "a_footer_of_many_columns_takes_no_more_memory_than_is_counted_for_it_and_no_more_than_there_is";
    takes_what_is_counted(name, 100_000, 0);
}

/// The others are surveyed, and that one by the next merge.
#[test]
fn files_of_whose_columns_no_more_can_be_kept_wait_for_the_next_merge() {
    let mut files = Inputs::new();
    for _ in 0..12 {
        wide(&mut files, 1000, 1);
    }
    let (surveyed, set_aside) = files.survey_within(8 << 20);
    assert_eq!((surveyed.len(), set_aside.len()), (10, 2));
    for aside in set_aside {
        assert!(matches!(aside.reason, SetAsideReason::Unexamined(_)), "{}", aside.reason);
    }
    assert_eq!(files.survey_within(1 << 30).0.len(), 12);
}

/// Which files those are does not depend on how fast they are read, and what is refused takes nothing.
#[test]
fn the_first_files_are_kept_and_schemas_of_others_are_not() {
    let mut files = Inputs::new();
    // No two schemas are alike: 743 bytes a column. The first file has the longest footer by far, and comes first all the same.
    let shapes = [(1000, 5), (1000, 1), (1000, 1), (1000, 1), (1000, 1), (1000, 1), (1000, 1), (400, 1), (1000, 1)];
    for (number, (columns, row_groups)) in shapes.into_iter().enumerate() {
        named(&mut files, &format!("of_{number}"), columns, row_groups);
    }
    for threads in [1, 2, 8] {
        let (surveyed, set_aside) = files.survey_on(threads, 4 * 6_500 * 743);
        let kept: Vec<usize> = surveyed.iter().map(|s| s.input).collect();
        assert_eq!((kept, set_aside.len()), (vec![0, 1, 2, 3, 4, 5, 7], 2), "{threads} threads");
        assert!(set_aside.iter().all(|aside| matches!(aside.reason, SetAsideReason::Unexamined(_))));
    }
}

/// Found by fuzzing: the decoder of the values, which are looked at where there are no statistics, asked for eight gigabytes.
#[test]
fn a_dictionary_that_claims_more_values_than_it_has_bits_is_refused_before_it_is_decoded() {
    let seed = "fuzz/seeds/file/found_dictionary_that_claims_too_much";
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(seed);
    let error = crate::merge::survey_one(&path).unwrap_err().to_string();
    assert!(error.contains("the dictionary of column \"unsigned\" claims 2147483647 values in 48 bytes"), "{error}");
}
