use std::num::NonZeroUsize;
use std::sync::Mutex;

use tokio_util::sync::CancellationToken;

use super::super::fixtures::{Inputs, times};
use super::super::{MergeError, SetAsideReason};
use super::survey;

fn two() -> NonZeroUsize {
    NonZeroUsize::new(2).unwrap()
}

#[test]
fn readable_files_come_back_in_request_order_with_rows_sizes_and_ranges() {
    let mut files = Inputs::new();
    for start in 0..20 {
        files.columns(&[("time", times(start, 3))]);
    }
    let seen = Mutex::new(Vec::new());
    let (surveyed, set_aside) = survey(&files.inputs, two(), &CancellationToken::new(), &|i| {
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
    assert!(matches!(survey(&files.inputs, two(), &cancel, &|_| ()), Err(MergeError::Cancelled)));
}

#[test]
fn no_inputs_are_no_error() {
    let (surveyed, set_aside) = Inputs::new().survey();
    assert!(surveyed.is_empty() && set_aside.is_empty());
}

/// Found by fuzzing: the decoder of the values, which are looked at where there are no statistics, asked for eight gigabytes.
#[test]
fn a_dictionary_that_claims_more_values_than_it_has_bits_is_refused_before_it_is_decoded() {
    let seed = "fuzz/seeds/file/found_dictionary_that_claims_too_much";
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(seed);
    let error = crate::merge::survey_one(&path).unwrap_err().to_string();
    assert!(error.contains("the dictionary of column \"unsigned\" claims 2147483647 values in 48 bytes"), "{error}");
}
