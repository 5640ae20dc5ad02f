//! The run-length and bit-packing hybrid of Parquet, in which levels and dictionary codes are stored.
//!
//! Reading is left to the `parquet` crate. Writing is here, because codes come in bulk and the crate takes them one by one.

use bytes::Bytes;
use parquet::encodings::rle::RleDecoder;

use super::Refusal;

/// Values packed together.
const GROUP: usize = 8;

/// Groups in one packed run: the header of such a run has at most two bytes.
const MAX_GROUPS: usize = 8191;

/// Equal values from which on a run is worth its header.
const MIN_RUN: usize = 3 * GROUP;

/// Decodes `count` values of `width` bits.
pub(super) fn decode(data: Bytes, width: u8, count: usize) -> Result<Vec<u32>, Refusal> {
    let mut values = vec![0_u32; count];
    if width > 32 {
        return Err(Refusal::Unsuited(format!("codes of {width} bits")));
    }
    if width > 0 && count > 0 {
        let mut decoder = RleDecoder::new(width);
        decoder.set_data(data)?;
        let read = decoder.get_batch(&mut values)?;
        if read != count {
            return Err(Refusal::Unsuited(format!("{read} codes instead of {count}")));
        }
    }
    Ok(values)
}

/// Encodes values of `width` bits, appending to `out`.
pub(super) fn encode(values: &[u32], width: u8, out: &mut Vec<u8>) {
    let mut at = 0;
    // Start of what is not written yet; a multiple of a group from `at` to here.
    let mut packed_from = 0;
    while at < values.len() {
        let run = values[at..].iter().take_while(|&&v| v == values[at]).count();
        if run >= MIN_RUN || at + run == values.len() && packed_from == at {
            pack(&values[packed_from..at], width, out);
            put_varint(run << 1, out);
            out.extend_from_slice(&values[at].to_le_bytes()[..usize::from(width).div_ceil(8)]);
            at += run;
            packed_from = at;
        } else {
            at = (at + run.div_ceil(GROUP).max(1) * GROUP).min(values.len()).min(at + GROUP);
        }
    }
    pack(&values[packed_from..], width, out);
}

/// Packs values; the last group is filled up with zeros, so only the last call may have a partial one.
fn pack(values: &[u32], width: u8, out: &mut Vec<u8>) {
    for run in values.chunks(MAX_GROUPS * GROUP) {
        let groups = run.len().div_ceil(GROUP);
        put_varint(groups << 1 | 1, out);
        for group in run.chunks(GROUP) {
            pack_group(group, width, out);
        }
    }
}

/// Eight values of `width` bits are `width` bytes, lowest bits first.
fn pack_group(group: &[u32], width: u8, out: &mut Vec<u8>) {
    let (mut low, mut high, mut shift) = (0_u128, 0_u128, 0_u32);
    for &value in group {
        let value = u128::from(value);
        if shift < 128 {
            low |= value << shift;
            if shift + u32::from(width) > 128 {
                high |= value >> (128 - shift);
            }
        } else {
            high |= value << (shift - 128);
        }
        shift += u32::from(width);
    }
    let width = usize::from(width);
    out.extend_from_slice(&low.to_le_bytes()[..width.min(16)]);
    out.extend_from_slice(&high.to_le_bytes()[..width.saturating_sub(16)]);
}

fn put_varint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bits that are needed for codes below `count`.
pub(super) fn width_of(count: usize) -> u8 {
    let largest = count.saturating_sub(1);
    u8::try_from(usize::BITS - largest.leading_zeros()).expect("a usize has at most 64 bits")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(values: &[u32], width: u8) {
        let mut out = Vec::new();
        encode(values, width, &mut out);
        assert_eq!(decode(out.into(), width, values.len()).unwrap(), values, "{width} bits");
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            width in 1_u8..=32,
            runs in prop::collection::vec((any::<u32>(), 1_usize..70), 0..60),
        ) {
            let mask = u32::try_from((1_u64 << width) - 1).unwrap();
            let values: Vec<u32> = runs.iter().flat_map(|&(v, n)| std::iter::repeat_n(v & mask, n)).collect();
            round_trip(&values, width);
        }
    }

    #[test]
    fn long_lists_need_several_packed_runs_and_one_value_needs_no_packing() {
        let changing: Vec<u32> = (0..200_000).map(|i| i % 7).collect();
        round_trip(&changing, 3);
        let mut out = Vec::new();
        encode(&[5; 100_000], 3, &mut out);
        assert!(out.len() <= 4, "{out:?}");
        round_trip(&[], 3);
    }

    #[test]
    fn the_width_holds_every_code() {
        assert_eq!([0, 1, 2, 3, 256, 257].map(width_of), [0, 0, 1, 2, 8, 9]);
    }
}
