//! The run-length and bit-packing hybrid of Parquet, in which levels and dictionary codes are stored.
//!
//! Reading is left to the `parquet` crate. Writing is here, because codes come in bulk and the crate takes them one by one.

use bytes::Bytes;
use parquet::encodings::rle::RleDecoder;

use super::Refusal;
use super::chunk::judge;

/// Values packed together.
const GROUP: usize = 8;

/// Groups in one packed run: the header of such a run has at most two bytes.
const MAX_GROUPS: usize = 8191;

/// Groups of equal values from which on a run is worth its header.
const MIN_RUN_GROUPS: usize = 3;

/// Decodes `count` values of `width` bits.
pub(super) fn decode(data: Bytes, width: u8, count: usize) -> Result<Vec<u32>, Refusal> {
    let mut values = vec![0_u32; count];
    if width > 32 {
        return Err(Refusal::Damaged(format!("codes of {width} bits")));
    }
    if width > 0 && count > 0 {
        let mut decoder = RleDecoder::new(width);
        decoder.set_data(data).map_err(judge)?;
        let read = decoder.get_batch(&mut values).map_err(judge)?;
        if read != count {
            return Err(Refusal::Damaged(format!("{read} codes instead of {count}")));
        }
    }
    Ok(values)
}

/// Whether `rows` levels of one bit are stored as one run of ones: no value is missing.
pub(super) fn is_run_of_ones(data: &[u8], rows: usize) -> bool {
    let (mut header, mut shift) = (0_u64, 0);
    for (at, &byte) in data.iter().enumerate().take(5) {
        header |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return header & 1 == 0 && header >> 1 >= rows as u64 && data.get(at + 1) == Some(&1);
        }
    }
    false
}

/// Encodes values of `width` bits, appending to `out`.
pub(super) fn encode(values: &[u32], width: u8, out: &mut Vec<u8>) {
    let (groups, rest) = values.as_chunks::<GROUP>();
    let is_run = |group: &[u32; GROUP]| group.iter().all(|&value| value == group[0]);
    let mut packed_from = 0;
    let mut at = 0;
    while at < groups.len() {
        if !is_run(&groups[at]) {
            at += 1;
            continue;
        }
        let value = groups[at][0];
        let same = groups[at..].iter().take_while(|group| **group == [value; GROUP]).count();
        if same >= MIN_RUN_GROUPS {
            pack(&groups[packed_from..at], width, out);
            encode_run(value, same * GROUP, width, out);
            packed_from = at + same;
        }
        at += same;
    }
    pack(&groups[packed_from..], width, out);
    if !rest.is_empty() {
        // Filled up with zeros: what follows the last value means nothing.
        let mut last = [0; GROUP];
        last[..rest.len()].copy_from_slice(rest);
        pack(&[last], width, out);
    }
}

/// Encodes `count` times the same value.
pub(super) fn encode_run(value: u32, count: usize, width: u8, out: &mut Vec<u8>) {
    put_varint(count << 1, out);
    out.extend_from_slice(&value.to_le_bytes()[..usize::from(width).div_ceil(8)]);
}

fn pack(groups: &[[u32; GROUP]], width: u8, out: &mut Vec<u8>) {
    for run in groups.chunks(MAX_GROUPS) {
        put_varint(run.len() << 1 | 1, out);
        out.reserve(run.len() * usize::from(width));
        // The compiler unrolls each of these; the wider ones are rare.
        match width {
            1 => run.iter().for_each(|group| pack_narrow::<1>(group, out)),
            2 => run.iter().for_each(|group| pack_narrow::<2>(group, out)),
            3 => run.iter().for_each(|group| pack_narrow::<3>(group, out)),
            4 => run.iter().for_each(|group| pack_narrow::<4>(group, out)),
            5 => run.iter().for_each(|group| pack_narrow::<5>(group, out)),
            6 => run.iter().for_each(|group| pack_narrow::<6>(group, out)),
            7 => run.iter().for_each(|group| pack_narrow::<7>(group, out)),
            8 => run.iter().for_each(|group| pack_narrow::<8>(group, out)),
            9 => run.iter().for_each(|group| pack_narrow::<9>(group, out)),
            10 => run.iter().for_each(|group| pack_narrow::<10>(group, out)),
            11 => run.iter().for_each(|group| pack_narrow::<11>(group, out)),
            12 => run.iter().for_each(|group| pack_narrow::<12>(group, out)),
            13 => run.iter().for_each(|group| pack_narrow::<13>(group, out)),
            14 => run.iter().for_each(|group| pack_narrow::<14>(group, out)),
            15 => run.iter().for_each(|group| pack_narrow::<15>(group, out)),
            16 => run.iter().for_each(|group| pack_narrow::<16>(group, out)),
            _ => run.iter().for_each(|group| pack_wide(group, width, out)),
        }
    }
}

/// Eight values of `WIDTH` bits are `WIDTH` bytes, lowest bits first.
fn pack_narrow<const WIDTH: usize>(group: &[u32; GROUP], out: &mut Vec<u8>) {
    let mut bits = 0_u128;
    for (i, &value) in group.iter().enumerate() {
        bits |= u128::from(value) << (i * WIDTH);
    }
    out.extend_from_slice(&bits.to_le_bytes()[..WIDTH]);
}

/// The same for 17 to 32 bits: two halves of four values each, of which the first may end within a byte.
fn pack_wide(group: &[u32; GROUP], width: u8, out: &mut Vec<u8>) {
    let half = |values: &[u32]| {
        values.iter().enumerate().fold(0_u128, |bits, (i, &value)| bits | u128::from(value) << (i * usize::from(width)))
    };
    let (low, high) = (half(&group[..4]), half(&group[4..]));
    let shift = 4 * usize::from(width);
    let joined_low = if shift < 128 { low | high << shift } else { low };
    let joined_high = if shift < 128 { high >> (128 - shift) } else { high };
    let width = usize::from(width);
    out.extend_from_slice(&joined_low.to_le_bytes()[..width.min(16)]);
    out.extend_from_slice(&joined_high.to_le_bytes()[..width.saturating_sub(16)]);
}

#[allow(clippy::cast_possible_truncation, reason = "seven bits at a time")]
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
        encode(&vec![5; 80_000], 3, &mut out);
        assert!(out.len() <= 4, "{out:?}");
        round_trip(&[], 3);
    }

    #[test]
    fn a_run_of_ones_is_known_without_being_decoded() {
        let encoded = |values: &[u32]| {
            let mut out = Vec::new();
            encode(values, 1, &mut out);
            out
        };
        assert!(is_run_of_ones(&encoded(&[1; 400]), 400));
        assert!(!is_run_of_ones(&encoded(&[1; 400]), 401));
        assert!(!is_run_of_ones(&encoded(&[0; 400]), 400));
        assert!(!is_run_of_ones(&encoded(&[1, 0, 1, 1, 1, 1, 1, 1]), 8));
        assert!(!is_run_of_ones(&[], 1) && !is_run_of_ones(&[0xff; 9], 1) && !is_run_of_ones(&[4], 2));
    }

    #[test]
    fn the_width_holds_every_code() {
        assert_eq!([0, 1, 2, 3, 256, 257].map(width_of), [0, 0, 1, 2, 8, 9]);
    }
}
