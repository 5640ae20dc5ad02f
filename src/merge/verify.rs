//! The proof: outputs hold the rows of the inputs. Pure comparisons; nobody may delete an input without it.
//!
//! Two witnesses, as independent of each other as they can be:
//! - **footers**: rows, nulls and ranges of every column, as the inputs' writers stated them and as the finished files
//!   state them;
//! - **content**: a [`Fingerprint`] over every value of every row, in any order.
//!
//! A witness that says nothing about a column is not asked. What they say, when both do, must be equal.

use std::cmp::Ordering;
use std::fmt;

use super::schema::SchemaGroup;
use super::stats::{FileColumnStats, StatValue};
use super::stitch::Stitched;

/// What a set of rows amounts to, whatever their order: their number, and two different sums of their hashes. A lost,
/// doubled or changed row changes the sum; two rows that cancel out in one of them do not in the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fingerprint {
    pub(super) rows: u64,
    pub(super) xor: u64,
    /// Of 64-bit hashes: no number of rows that fits on a disk overflows it.
    pub(super) sum: i128,
}

impl Fingerprint {
    /// Adds the rows of another part.
    pub(super) fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.xor ^= other.xor;
        self.sum += other.sum;
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}-{:x}", self.rows, self.xor, self.sum)
    }
}

/// The rows of the outputs are those of the inputs, value by value.
pub(super) fn content(inputs: &Fingerprint, outputs: &Fingerprint) -> Result<(), String> {
    if inputs == outputs {
        return Ok(());
    }
    Err(if inputs.rows == outputs.rows {
        format!("all {} rows are there, but not with the same values: inputs {inputs}, outputs {outputs}", inputs.rows)
    } else {
        format!("{} rows in the inputs, {} in the outputs", inputs.rows, outputs.rows)
    })
}

/// The footers of inputs and outputs agree in rows, nulls and ranges.
pub(super) fn footers(group: &SchemaGroup, outputs: &[&Stitched]) -> Result<(), String> {
    let files = || group.files();
    let (rows_in, rows_out): (u64, u64) = (files().map(|f| f.rows).sum(), outputs.iter().map(|o| o.rows).sum());
    if rows_in != rows_out {
        return Err(format!("{rows_in} rows in the inputs' footers, {rows_out} in the outputs"));
    }
    for (i, column) in group.columns.iter().enumerate() {
        let before = total(files().map(|f| (f.rows, &f.columns[i])));
        let after = total(outputs.iter().map(|o| (o.rows, &o.columns[i])));
        let differ = |what: &str, a: &dyn fmt::Debug, b: &dyn fmt::Debug| {
            Err(format!("{what} of column {:?}: {a:?} in the inputs' footers, {b:?} in the outputs", column.name))
        };
        match (before.nulls, after.nulls) {
            (Some(a), Some(b)) if a != b => return differ("nulls", &a, &b),
            _ => {}
        }
        for (what, a, b) in [("minimum", &before.min, &after.min), ("maximum", &before.max, &after.max)] {
            match (a, b) {
                (Some(a), Some(b)) if a != b => return differ(what, a, b),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Each output begins after the one before it ends. Outputs without any time follow the others.
pub(super) fn ascending(outputs: &[&Stitched]) -> Result<(), String> {
    let mut last: Option<i64> = None;
    for (number, output) in outputs.iter().enumerate() {
        if let (Some(last), Some(min)) = (last, output.time.min)
            && min <= last
        {
            return Err(format!("output {} begins at time {min}, but the one before it ends at {last}", number + 1));
        }
        last = output.time.max.or(last);
    }
    Ok(())
}

/// The statistics of all parts together. A range is known when every part that has values states it.
fn total<'a>(parts: impl Iterator<Item = (u64, &'a FileColumnStats)>) -> FileColumnStats {
    let mut nulls = Some(0_u64);
    let (mut min, mut max) = (Bound::Empty, Bound::Empty);
    for (rows, part) in parts {
        nulls = nulls.zip(part.nulls).and_then(|(a, b)| a.checked_add(b));
        if part.nulls != Some(rows) {
            min = min.join(part.min.as_ref(), Ordering::Less);
            max = max.join(part.max.as_ref(), Ordering::Greater);
        }
    }
    FileColumnStats { min: min.known(), max: max.known(), nulls }
}

enum Bound<'a> {
    Empty,
    Known(&'a StatValue),
    Unknown,
}

impl<'a> Bound<'a> {
    fn join(self, other: Option<&'a StatValue>, keep: Ordering) -> Self {
        match (self, other) {
            (Self::Empty, Some(other)) => Self::Known(other),
            (Self::Known(this), Some(other)) => match other.partial_cmp(this) {
                None => Self::Unknown,
                Some(order) if order == keep => Self::Known(other),
                Some(_) => Self::Known(this),
            },
            (Self::Unknown, _) | (_, None) => Self::Unknown,
        }
    }

    fn known(self) -> Option<StatValue> {
        match self {
            Self::Known(value) => Some(value.clone()),
            Self::Empty | Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stats::ColumnStats;
    use super::*;

    fn print(rows: u64, hashes: &[u64]) -> Fingerprint {
        hashes.iter().fold(Fingerprint { rows, ..Fingerprint::default() }, |mut sum, &h| {
            sum.add(&Fingerprint { rows: 0, xor: h, sum: h.into() });
            sum
        })
    }

    #[test]
    fn two_equal_rows_in_place_of_two_other_equal_rows_are_seen() {
        assert!(content(&print(3, &[1, 7, 7]), &print(3, &[1, 9, 9])).is_err());
        assert!(content(&print(3, &[1, 7, 7]), &print(3, &[7, 1, 7])).is_ok());
    }

    #[test]
    fn a_lost_row_is_reported_with_both_numbers() {
        let detail = content(&print(3, &[1, 2, 3]), &print(2, &[1, 2])).expect_err("a row is missing");
        assert_eq!(detail, "3 rows in the inputs, 2 in the outputs");
    }

    /// I8. An instant that two outputs share is an overlap, too.
    #[test]
    fn an_output_that_begins_before_the_one_before_it_ends_is_seen() {
        let output = |range: Option<(i64, i64)>| Stitched {
            rows: 1,
            size_bytes: 1,
            checksum: String::new(),
            columns: Vec::new(),
            time: ColumnStats { min: range.map(|r| r.0), max: range.map(|r| r.1), nulls: None },
        };
        let verdict = |ranges: &[Option<(i64, i64)>]| {
            let outputs: Vec<Stitched> = ranges.iter().map(|range| output(*range)).collect();
            ascending(&outputs.iter().collect::<Vec<_>>())
        };
        assert!(verdict(&[Some((1, 5)), Some((6, 7)), None]).is_ok());
        assert!(verdict(&[Some((1, 5)), Some((5, 7))]).is_err());
        assert!(verdict(&[Some((6, 7)), None, Some((1, 5))]).is_err());
    }

    #[test]
    fn ranges_of_parts_join_and_parts_without_values_do_not_count() {
        let stats = |min: i128, max: i128, nulls: u64| FileColumnStats {
            min: Some(StatValue::Integer(min)),
            max: Some(StatValue::Integer(max)),
            nulls: Some(nulls),
        };
        let (a, b, nulls) = (stats(1, 5, 0), stats(-3, 2, 1), FileColumnStats::all_null(4));
        assert_eq!(total([(3, &a), (2, &b), (4, &nulls)].into_iter()), stats(-3, 5, 5));
        let unknown = FileColumnStats { min: None, max: None, nulls: Some(0) };
        assert_eq!(total([(3, &a), (2, &unknown)].into_iter()).min, None);
    }
}
