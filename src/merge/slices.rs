//! Where to cut the time axis, so that each piece can be sorted in little memory. Pure: footers in, ranges out.
//!
//! ```text
//! files      ├──a──┤  ├──b──┤                     rows are taken to lie evenly between a file's
//!               ├──c──┤  ├──────d──────┤          smallest and largest time
//!            │        │        │        │
//! slices     ├─ a b c ┼─ b d ──┼── d ───┤ + nulls  cuts are quantiles of all rows together
//! ```
//!
//! What must hold: the slices of a plan are disjoint, ascend, and together admit every row that can exist, whatever the
//! footers say about it, as long as each file's time range is true. A file whose range is not known is in every slice. The
//! estimates decide how well the work is balanced, never which rows are merged; the proof does not rely on them.
//!
//! Not here: SQL (`sql.rs`), and how much memory there is (`budget.rs`).

use std::ops;

/// More slices than this are never made: each is a statement and a file. DuckDB spills where they are still too large.
const MAX_SLICES: usize = 4096;

/// How often a row may be decoded on average before more slices cost more than their smaller memory is worth.
const MAX_DECODES: f64 = 1.8;

/// A cut moves to the start of a file when that changes the size of a slice by less than this fraction.
const SNAP: f64 = 0.1;

/// Cuts stay within ± this value, so that every cut can be written as a literal of every time type. In microseconds it is
/// 146,000 years; only damaged or symbolic ("infinity") times lie outside, and they belong to the first or last slice.
const MAX_CUT: i64 = 1 << 62;

/// What the cuts need to know of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileSpan {
    pub(super) rows: u64,
    /// Smallest and largest non-null time, when the footer states both.
    pub(super) range: Option<(i64, i64)>,
    /// Rows with a null time, when the footer states it.
    pub(super) nulls: Option<u64>,
    /// Rows that are decoded for one instant of the file, on average: readers skip only whole row groups.
    pub(super) touched: u64,
}

impl FileSpan {
    fn may_have_nulls(&self) -> bool {
        self.rows > 0 && self.nulls != Some(0)
    }

    /// Whether all rows are known to have a null time.
    fn only_nulls(&self) -> bool {
        self.rows > 0 && self.nulls == Some(self.rows)
    }

    /// Whether a row of the file may lie in the range.
    fn overlaps(&self, range: Range) -> bool {
        match range {
            // Also files that are said to be empty: without a filter nothing depends on what the footers say.
            Range::Everything => true,
            _ if self.rows == 0 => false,
            Range::Nulls => self.may_have_nulls(),
            Range::Between { from, until } => {
                !self.only_nulls()
                    && self.range.is_none_or(|(min, max)| {
                        from.is_none_or(|from| max >= from) && until.is_none_or(|until| min < until)
                    })
            }
        }
    }
}

/// The rows that a slice admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    /// All of them; no filter is applied.
    Everything,
    /// `from <= time < until`; a missing bound is no bound. Never admits a null.
    Between { from: Option<i64>, until: Option<i64> },
    /// Rows without a time.
    Nulls,
}

/// One piece of the work: the rows of a range, and the files they may be in.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Slice {
    pub(super) range: Range,
    /// Positions in the list of files the plan was made for, ascending.
    pub(super) files: Vec<usize>,
    /// Rows that it is expected to hold.
    pub(super) rows: u64,
}

/// How large slices should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SliceAim {
    /// More rows than this do not fit the memory budget.
    pub(super) max_rows: u64,
    /// Slices of this size are as fast as larger ones; smaller is better only for memory.
    pub(super) good_rows: u64,
    /// Slices below this hurt compression. Only the memory budget or `at_least` may ask for less.
    pub(super) min_rows: u64,
    /// Fewest slices wanted, so that outputs can be closed near their target size.
    pub(super) at_least: usize,
}

/// The files' time ranges, and the distribution of rows they suggest.
#[derive(Debug)]
pub(super) struct TimeLine<'a> {
    files: &'a [FileSpan],
    /// Ascending in time: up to this time (exclusive), so many rows. Linear in between. Empty when no range is known.
    knots: Vec<(i64, f64)>,
    /// Starts of files, ascending: the preferred places for a cut.
    starts: Vec<i64>,
}

impl<'a> TimeLine<'a> {
    pub(super) fn new(files: &'a [FileSpan]) -> Self {
        let ranged = || files.iter().filter_map(|f| Some((f.range?, f.rows - f.nulls.unwrap_or(0).min(f.rows))));
        // At each of these times the density of rows changes by so much.
        let mut changes: Vec<(i64, f64)> = Vec::new();
        for ((min, max), rows) in ranged().filter(|((min, max), rows)| min <= max && *rows > 0) {
            let density = to_f64(rows) / (width(min, max) + 1.0);
            changes.push((min, density));
            changes.push((max.saturating_add(1), -density));
        }
        changes.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
        let mut knots: Vec<(i64, f64)> = Vec::with_capacity(changes.len());
        let (mut rows, mut density) = (0.0, 0.0);
        for (time, change) in changes {
            if let Some(&(last, _)) = knots.last() {
                rows += width(last, time) * f64::max(density, 0.0);
            }
            density += change;
            match knots.last_mut() {
                Some(last) if last.0 == time => last.1 = rows,
                _ => knots.push((time, rows)),
            }
        }
        let mut starts: Vec<i64> = ranged().map(|((min, _), _)| min).collect();
        starts.sort_unstable();
        starts.dedup();
        Self { files, knots, starts }
    }

    /// Everything in one piece, without a filter.
    pub(super) fn whole(&self) -> Slice {
        self.slice(Range::Everything)
    }

    /// Cuts the files into slices: as many as the memory budget demands, and beyond that as many as cost nothing.
    pub(super) fn plan(&self, aim: &SliceAim) -> Vec<Slice> {
        let rows: u64 = self.files.iter().map(|f| f.rows).sum();
        let pieces = |size: u64| usize::try_from(rows.div_ceil(size.max(1))).unwrap_or(MAX_SLICES);
        let needed = pieces(aim.max_rows).max(aim.at_least).clamp(1, MAX_SLICES);
        let most = usize::try_from(rows / aim.min_rows.max(1)).unwrap_or(MAX_SLICES);
        let mut count = pieces(aim.good_rows).min(most).clamp(needed, MAX_SLICES);
        loop {
            let slices = self.cut(count);
            // Where files overlap much, as in shuffled data, every slice decodes them again: prefer fewer.
            if count == needed || self.decodes(&slices) <= MAX_DECODES {
                return slices;
            }
            count = (count / 2).max(needed);
        }
    }

    /// Cuts a slice in two of about the same number of rows, in order. `None`: nothing is known by which to cut it.
    pub(super) fn split(&self, slice: &Slice) -> Option<Vec<Slice>> {
        let (from, until) = match slice.range {
            Range::Everything => (None, None),
            Range::Between { from, until } => (from, until),
            Range::Nulls => return None,
        };
        let (first, end) = (self.knots.first()?, self.knots.last()?);
        let low = from.map_or(first.1, |t| self.rows_before(t));
        let high = until.map_or(end.1, |t| self.rows_before(t));
        let mut cut = self.time_at(f64::midpoint(low, high));
        // The middle of the rows may be the first instant of the range; what follows it can still be cut off.
        if cut <= from.unwrap_or(first.0) {
            cut = from.unwrap_or(first.0).checked_add(1)?;
        }
        if cut >= until.unwrap_or(end.0) || cut.unsigned_abs() > MAX_CUT.unsigned_abs() {
            return None;
        }
        let mut parts = vec![
            self.slice(Range::Between { from, until: Some(cut) }),
            self.slice(Range::Between { from: Some(cut), until }),
        ];
        if slice.range == Range::Everything && self.files.iter().any(FileSpan::may_have_nulls) {
            parts.push(self.slice(Range::Nulls));
        }
        Some(parts)
    }

    /// Cuts a slice into pieces of about `rows` rows, in order. `None`: it is no larger, or nothing is known by which to cut it.
    pub(super) fn divide(&self, slice: &Slice, rows: u64) -> Option<Vec<Slice>> {
        let (from, until) = match slice.range {
            Range::Everything => (None, None),
            Range::Between { from, until } => (from, until),
            Range::Nulls => return None,
        };
        let pieces = slice.rows.div_ceil(rows.max(1)).min(MAX_SLICES as u64);
        let (first, end) = (self.knots.first()?, self.knots.last()?);
        let low = from.map_or(first.1, |t| self.rows_before(t));
        let high = until.map_or(end.1, |t| self.rows_before(t));
        let mut cuts: Vec<i64> = (1..pieces)
            .map(|k| self.time_at(low + (high - low) * to_f64(k) / to_f64(pieces)))
            .filter(|&cut| cut > from.unwrap_or(first.0) && cut < until.unwrap_or(end.0))
            .filter(|cut| cut.unsigned_abs() <= MAX_CUT.unsigned_abs())
            .collect();
        cuts.sort_unstable();
        cuts.dedup();
        if cuts.is_empty() {
            return None;
        }
        let mut parts = self.between(from, &cuts, until);
        if slice.range == Range::Everything && self.files.iter().any(FileSpan::may_have_nulls) {
            parts.push(self.slice(Range::Nulls));
        }
        Some(parts)
    }

    fn between(&self, from: Option<i64>, cuts: &[i64], until: Option<i64>) -> Vec<Slice> {
        let bounds: Vec<Option<i64>> =
            [from].into_iter().chain(cuts.iter().copied().map(Some)).chain([until]).collect();
        bounds.windows(2).map(|b| self.slice(Range::Between { from: b[0], until: b[1] })).collect()
    }

    fn cut(&self, count: usize) -> Vec<Slice> {
        let cuts = self.cuts(count);
        if cuts.is_empty() {
            return vec![self.whole()];
        }
        let mut slices = self.between(None, &cuts, None);
        if self.files.iter().any(FileSpan::may_have_nulls) {
            slices.push(self.slice(Range::Nulls));
        }
        slices
    }

    /// At most `count - 1` times, strictly ascending, each with rows on both sides.
    fn cuts(&self, count: usize) -> Vec<i64> {
        let (Some(&(first, _)), Some(&(end, total))) = (self.knots.first(), self.knots.last()) else {
            return Vec::new();
        };
        let step = total / to_f64(count as u64);
        let mut cuts: Vec<i64> = (1..count)
            .map(|k| self.snap(self.time_at(step * to_f64(k as u64)), step * SNAP))
            .filter(|&cut| cut > first && cut < end && cut.unsigned_abs() <= MAX_CUT.unsigned_abs())
            .collect();
        cuts.sort_unstable();
        cuts.dedup();
        cuts
    }

    /// The start of a file near the cut, if moving there moves at most `rows` rows to the other side.
    fn snap(&self, cut: i64, rows: f64) -> i64 {
        let at = self.starts.partition_point(|&start| start < cut);
        let near = [at.checked_sub(1), Some(at)].into_iter().flatten().filter_map(|i| self.starts.get(i));
        near.map(|&start| ((self.rows_before(start) - self.rows_before(cut)).abs(), start))
            .filter(|&(moved, _)| moved <= rows)
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map_or(cut, |(_, start)| start)
    }

    fn slice(&self, range: Range) -> Slice {
        let files: Vec<usize> = (0..self.files.len()).filter(|&i| self.files[i].overlaps(range)).collect();
        let rows = files.iter().map(|&i| self.rows_in(&self.files[i], range)).sum::<f64>();
        Slice { range, files, rows: to_u64(rows) }
    }

    /// Rows of a file that are expected in the range.
    fn rows_in(&self, file: &FileSpan, range: Range) -> f64 {
        let nulls = file.nulls.unwrap_or(0).min(file.rows);
        let (from, until) = match range {
            Range::Everything => return to_f64(file.rows),
            Range::Nulls => return to_f64(nulls),
            Range::Between { from, until } => (from, until),
        };
        let rows = to_f64(file.rows - nulls);
        match file.range {
            Some((min, max)) => {
                let low = from.map_or(min, |from| from.clamp(min, max.saturating_add(1)));
                let high = until.map_or(max.saturating_add(1), |until| until.clamp(min, max.saturating_add(1)));
                rows * (width(low, high) / (width(min, max) + 1.0)).min(1.0)
            }
            // Nothing is known: its rows are taken to be spread as the others are.
            None => match (self.knots.first(), self.knots.last()) {
                (Some(first), Some(end)) if end.1 > 0.0 => {
                    let low = self.rows_before(from.unwrap_or(first.0));
                    let high = self.rows_before(until.unwrap_or(end.0));
                    rows * (high - low) / end.1
                }
                _ => rows,
            },
        }
    }

    /// How often a row is decoded on average.
    pub(super) fn decodes(&self, slices: &[Slice]) -> f64 {
        let decode = |range: Range, file: &FileSpan| {
            let touched = to_f64(file.touched.min(file.rows));
            let fraction = self.rows_in(file, range) / to_f64(file.rows.max(1));
            // What one instant touches, and of the rest what lies in the range.
            touched + fraction * (to_f64(file.rows) - touched)
        };
        let decoded: f64 = slices.iter().flat_map(|s| s.files.iter().map(|&i| decode(s.range, &self.files[i]))).sum();
        decoded / to_f64(self.files.iter().map(|f| f.rows).sum::<u64>().max(1))
    }

    fn rows_before(&self, time: i64) -> f64 {
        let after = self.knots.partition_point(|&(t, _)| t <= time);
        match (after.checked_sub(1).map(|i| self.knots[i]), self.knots.get(after)) {
            (None, _) => 0.0,
            (Some((_, rows)), None) => rows,
            (Some((t0, rows0)), Some(&(t1, rows1))) => rows0 + (rows1 - rows0) * width(t0, time) / width(t0, t1),
        }
    }

    /// The first time before which at least so many rows are expected.
    #[allow(clippy::cast_possible_truncation, reason = "an offset between two i64, clamped by the knot that follows")]
    fn time_at(&self, rows: f64) -> i64 {
        let after = self.knots.partition_point(|&(_, r)| r < rows);
        match (after.checked_sub(1).map(|i| self.knots[i]), self.knots.get(after)) {
            (_, None) => self.knots.last().map_or(0, |k| k.0),
            (None, Some(&(t1, _))) => t1,
            (Some((t0, rows0)), Some(&(t1, rows1))) => {
                let offset = (width(t0, t1) * ((rows - rows0) / (rows1 - rows0))).ceil();
                (i128::from(t0) + offset as i128).clamp(t0.into(), t1.into()) as i64
            }
        }
    }
}

/// Consecutive slices for each output: about `target_bytes` in each, cut only between slices, sizes as even as possible.
/// The number of outputs is rounded, so that no small rest remains.
pub(super) fn outputs(slice_bytes: &[u64], target_bytes: u64) -> Vec<ops::Range<usize>> {
    let ends: Vec<u64> = slice_bytes
        .iter()
        .scan(0_u64, |sum, &bytes| {
            *sum += bytes;
            Some(*sum)
        })
        .collect();
    let Some(&total) = ends.last() else { return Vec::new() };
    let target = target_bytes.max(1);
    let count = ((total + target / 2) / target).clamp(1, slice_bytes.len() as u64);
    // The slice border nearest to each ideal border; where slices are large, several may fall together.
    let mut borders: Vec<usize> = (1..count)
        .filter_map(|k| {
            let ideal = u128::from(total) * u128::from(k) / u128::from(count);
            (1..ends.len()).min_by_key(|&i| u128::from(ends[i - 1]).abs_diff(ideal))
        })
        .collect();
    borders.dedup();
    let starts = [0].into_iter().chain(borders.iter().copied());
    starts.zip(borders.iter().copied().chain([slice_bytes.len()])).map(|(start, end)| start..end).collect()
}

#[allow(clippy::cast_precision_loss, reason = "an estimate")]
fn to_f64(rows: u64) -> f64 {
    rows as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate; `as` saturates")]
fn to_u64(rows: f64) -> u64 {
    rows.round() as u64
}

/// `until - from`, which may exceed an `i64`.
#[allow(clippy::cast_precision_loss, reason = "an estimate")]
fn width(from: i64, until: i64) -> f64 {
    (i128::from(until) - i128::from(from)) as f64
}

#[cfg(test)]
mod tests;
