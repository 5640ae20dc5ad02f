//! Which rows of which files belong to a slice, and in which order they come out.
//!
//! Decided by the time column alone. Rows are numbered in the order of the files and of the rows in them; `order` says which
//! of these comes out where.

use std::ops::Range as Span;

use super::super::slices::Range;
use super::Refusal;
use super::chunk::Chunk;
use super::files::SliceFiles;
use super::footers::Footer;
use super::room::{ROWS_BETWEEN_LOOKS, Room};
use super::values::Plain;

/// Bytes of a row while rows are put into order: its time, which becomes the key that is sorted, room to sort it, its place.
pub(super) const ORDERING_BYTES: u64 = 8 + 8 + 4;

/// The same where times and rows do not fit into one word together.
const WIDE_ORDERING_BYTES: u64 = 8 + 16 + 16;

/// A part of a slice: rows of one row group.
pub(super) struct Part {
    /// Position in [`SliceFiles::open`].
    pub(super) file: usize,
    pub(super) row_group: usize,
    pub(super) chosen: Chosen,
}

/// The rows of a row group that belong to the slice.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chosen {
    /// Consecutive ones.
    Span(Span<usize>),
    /// These, ascending.
    Rows(Vec<u32>),
}

impl Chosen {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Span(rows) => rows.len(),
            Self::Rows(rows) => rows.len(),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Span(_) => 0,
            Self::Rows(rows) => 4 * rows.len() as u64,
        }
    }

    /// The rows for which `wanted` holds.
    fn new(rows: usize, wanted: impl Fn(usize) -> bool) -> Result<Self, Refusal> {
        let end = u32::try_from(rows).map_err(|e| Refusal::Unsuited(format!("rows of a row group: {e}")))?;
        let first = (0..rows).find(|&row| wanted(row)).unwrap_or(rows);
        let last = (first..rows).find(|&row| !wanted(row)).unwrap_or(rows);
        if !(last..rows).any(&wanted) {
            return Ok(Self::Span(first..last));
        }
        Ok(Self::Rows((0..end).filter(|&row| wanted(row as usize)).collect()))
    }

    pub(super) fn each(&self) -> Box<dyn Iterator<Item = usize> + '_> {
        match self {
            Self::Span(rows) => Box::new(rows.clone()),
            Self::Rows(rows) => Box::new(rows.iter().map(|&row| row as usize)),
        }
    }
}

/// The rows of a slice.
pub(super) struct Rows {
    pub(super) parts: Vec<Part>,
    count: usize,
    /// Row by row, which one comes out. `None`: as they are.
    order: Option<Vec<u32>>,
}

/// Which rows come out in a row group.
pub(super) enum Order<'a> {
    AsRead(Span<usize>),
    Rows(&'a [u32]),
}

impl Rows {
    /// Reads the time column `time` of every file.
    pub(super) fn find(files: &SliceFiles<'_>, time: usize, range: Range, room: &Room<'_>) -> Result<Self, Refusal> {
        let mut parts = Vec::new();
        let mut times: Vec<i64> = Vec::new();
        for (number, file) in files.open.iter().enumerate() {
            for row_group in 0..file.footer.row_groups() {
                if file.footer.rows(row_group)? == 0 || !may_hold(&file.footer, row_group, range) {
                    continue;
                }
                room.check_wanted()?;
                let Some((chunk, _)) = file.decode(row_group, time, room)? else {
                    return Err(Refusal::Unsuited("no time column".to_owned()));
                };
                let chosen = choose(&chunk, range, &mut times)?;
                room.take(chosen.bytes(), "of rows chosen")?;
                // Twice while it grows.
                room.check(times.len() as u64 * 16, "of times")?;
                if chosen.count() > 0 {
                    parts.push(Part { file: number, row_group, chosen });
                }
            }
        }
        let count = times.len();
        let order = if times.is_sorted() { None } else { Some(sort(times, room)?) };
        room.take(order.as_ref().map_or(0, |order| 4 * order.len() as u64), "of the order of rows")?;
        Ok(Self { parts, count, order })
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Consecutive rows for each row group.
    pub(super) fn split(&self, row_group_rows: usize) -> Vec<Span<usize>> {
        (0..self.count).step_by(row_group_rows).map(|from| from..(from + row_group_rows).min(self.count)).collect()
    }

    pub(super) fn order(&self, rows: Span<usize>) -> Order<'_> {
        match &self.order {
            Some(order) => Order::Rows(&order[rows]),
            None => Order::AsRead(rows),
        }
    }
}

impl Order<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::AsRead(rows) => rows.len(),
            Self::Rows(rows) => rows.len(),
        }
    }

    /// Bytes of these of the values, which are those of all rows.
    pub(super) fn bytes_of(&self, values: &Plain) -> u64 {
        match self {
            Self::AsRead(rows) => values.bytes_of(rows.clone()),
            Self::Rows(rows) => values.bytes_of(rows.iter().map(|&row| row as usize)),
        }
    }

    /// The rows, one by one.
    pub(super) fn each(&self, mut take: impl FnMut(usize)) {
        match self {
            Self::AsRead(rows) => rows.clone().for_each(take),
            Self::Rows(rows) => rows.iter().for_each(|&row| take(row as usize)),
        }
    }
}

/// The rows by ascending time. Rows of equal time stay in the order of files and rows.
fn sort(times: Vec<i64>, room: &Room<'_>) -> Result<Vec<u32>, Refusal> {
    let count = times.len();
    if u32::try_from(count).is_err() {
        return Err(Refusal::Unsuited(format!("{count} rows in one slice")));
    }
    let (min, max) = times.iter().fold((i64::MAX, i64::MIN), |(min, max), &t| (min.min(t), max.max(t)));
    let row_bits = usize::BITS - (count - 1).leading_zeros();
    if max.abs_diff(min).leading_zeros() < row_bits {
        room.check(count as u64 * WIDE_ORDERING_BYTES, "to put rows into order")?;
        let keys: Vec<(i64, u32)> = times.into_iter().zip(0..).collect();
        return Ok(sort_keys(keys, room)?.into_iter().map(|(_, row)| row).collect());
    }
    room.check(count as u64 * ORDERING_BYTES, "to put rows into order")?;
    // Time and row in one word: half the memory, and no ties.
    let key = |(row, time): (usize, i64)| time.abs_diff(min) << row_bits | row as u64;
    let keys: Vec<u64> = times.into_iter().enumerate().map(key).collect();
    let row_mask = (1 << row_bits) - 1;
    #[allow(clippy::cast_possible_truncation, reason = "the mask has at most 32 bits")]
    Ok(sort_keys(keys, room)?.into_iter().map(|key| (key & row_mask) as u32).collect())
}

fn sort_keys<T: Ord>(mut keys: Vec<T>, room: &Room<'_>) -> Result<Vec<T>, Refusal> {
    for block in keys.chunks_mut(ROWS_BETWEEN_LOOKS) {
        room.check_wanted()?;
        block.sort();
    }
    room.check_wanted()?;
    // Stable sorting finds the sorted blocks and only merges them.
    keys.sort();
    Ok(keys)
}

/// Whether a row group may hold rows of the range, by its statistics. They may lie; then the proof fails, and the group is
/// merged without any range.
fn may_hold(footer: &Footer, row_group: usize, range: Range) -> bool {
    let Range::Between { from, until } = range else { return true };
    footer
        .times(row_group)
        .is_none_or(|(min, max)| from.is_none_or(|from| max >= from) && until.is_none_or(|until| min < until))
}

/// The rows of a chunk of times that lie in the range; their times go to `times`, a missing one as the largest.
fn choose(chunk: &Chunk, range: Range, times: &mut Vec<i64>) -> Result<Chosen, Refusal> {
    #[allow(clippy::cast_possible_wrap, reason = "the same bits")]
    let found: Vec<i64> = match &*chunk.plain() {
        Plain::Word8(values) => values.iter().map(|&v| v as i64).collect(),
        Plain::Word4(values) => values.iter().map(|&v| i64::from(v as i32)).collect(),
        _ => return Err(Refusal::Unsuited("times that are not numbers".to_owned())),
    };
    let valid = chunk.valid.as_deref();
    let chosen = match range {
        // The largest time would have to stand for "none" in the order, and another row may have it.
        Range::Everything if valid.is_some() => {
            return Err(Refusal::Unsuited("rows without a time beside others".to_owned()));
        }
        Range::Everything => Chosen::Span(0..found.len()),
        Range::Nulls => {
            let chosen = Chosen::new(found.len(), |row| valid.is_some_and(|valid| !valid[row]))?;
            times.resize(times.len() + chosen.count(), i64::MAX);
            return Ok(chosen);
        }
        Range::Between { from, until } => {
            let within = |t: i64| from.is_none_or(|from| t >= from) && until.is_none_or(|until| t < until);
            Chosen::new(found.len(), |row| valid.is_none_or(|valid| valid[row]) && within(found[row]))?
        }
    };
    match &chosen {
        Chosen::Span(span) => times.extend_from_slice(&found[span.clone()]),
        Chosen::Rows(rows) => times.extend(rows.iter().map(|&row| found[row as usize])),
    }
    Ok(chosen)
}
