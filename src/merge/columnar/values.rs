//! Values of one column, as the bits that are stored, whatever they mean.

use std::collections::HashMap;

use bytes::Bytes;
use foldhash::fast::FixedState;

use super::Refusal;

/// A list of values of one physical type.
#[derive(Debug, Clone)]
pub(super) enum Plain {
    Bool(Vec<bool>),
    Word4(Vec<u32>),
    Word8(Vec<u64>),
    /// Values of so many bytes, one after another.
    Fixed {
        width: usize,
        data: Vec<u8>,
    },
    Bytes(ByteLists),
}

/// Byte strings, one after another.
#[derive(Debug, Clone, Default)]
pub(super) struct ByteLists {
    data: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl ByteLists {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.data[start..self.ends[at]]
    }

    /// Bytes of the longest value.
    pub(super) fn longest(&self) -> usize {
        (0..self.len()).map(|at| self.get(at).len()).max().unwrap_or_default()
    }

    /// Bytes of all values together.
    pub(super) fn size(&self) -> usize {
        self.data.len()
    }

    /// The values, which share one copy of the bytes.
    pub(super) fn shared(&self) -> impl Iterator<Item = Bytes> {
        let data = Bytes::copy_from_slice(&self.data);
        (0..self.len()).map(move |at| data.slice(if at == 0 { 0 } else { self.ends[at - 1] }..self.ends[at]))
    }

    pub(super) fn push(&mut self, value: &[u8]) {
        self.data.extend_from_slice(value);
        self.ends.push(self.data.len());
    }
}

impl Plain {
    /// No values, of the same type.
    pub(super) fn empty_like(&self) -> Self {
        match self {
            Self::Bool(_) => Self::Bool(Vec::new()),
            Self::Word4(_) => Self::Word4(Vec::new()),
            Self::Word8(_) => Self::Word8(Vec::new()),
            Self::Fixed { width, .. } => Self::Fixed { width: *width, data: Vec::new() },
            Self::Bytes(_) => Self::Bytes(ByteLists::default()),
        }
    }

    /// Bytes that the values take.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = match self {
            Self::Bool(values) => values.len(),
            Self::Word4(values) => 4 * values.len(),
            Self::Word8(values) => 8 * values.len(),
            Self::Fixed { data, .. } => data.len(),
            Self::Bytes(values) => values.data.len() + 8 * values.ends.len(),
        };
        bytes as u64
    }

    /// Bytes that these of the values would take, written out.
    pub(super) fn bytes_of(&self, at: impl Iterator<Item = usize>) -> u64 {
        match self {
            Self::Bytes(values) => at.map(|i| values.get(i).len() as u64 + 8).sum(),
            other => other.bytes() / other.len().max(1) as u64 * at.count() as u64,
        }
    }

    /// Whether all of it is text, value by value.
    pub(super) fn is_text(&self) -> bool {
        let Self::Bytes(values) = self else { return false };
        std::str::from_utf8(&values.data).is_ok_and(|text| values.ends.iter().all(|&end| text.is_char_boundary(end)))
    }

    /// Makes room for so many more values; how long texts will be is not known.
    pub(super) fn reserve(&mut self, more: usize) {
        match self {
            Self::Bool(values) => values.reserve_exact(more),
            Self::Word4(values) => values.reserve_exact(more),
            Self::Word8(values) => values.reserve_exact(more),
            Self::Fixed { width, data } => data.reserve_exact(more * *width),
            Self::Bytes(values) => values.ends.reserve_exact(more),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Bool(values) => values.len(),
            Self::Word4(values) => values.len(),
            Self::Word8(values) => values.len(),
            Self::Fixed { width, data } => data.len() / width,
            Self::Bytes(values) => values.len(),
        }
    }

    /// Adds a value that stands for a missing one.
    pub(super) fn push_nothing(&mut self) {
        match self {
            Self::Bool(values) => values.push(false),
            Self::Word4(values) => values.push(0),
            Self::Word8(values) => values.push(0),
            Self::Fixed { width, data } => data.resize(data.len() + *width, 0),
            Self::Bytes(values) => values.push(&[]),
        }
    }

    /// Adds values of `from`, which are of the same type.
    pub(super) fn extend(&mut self, from: &Self, at: impl Iterator<Item = usize>) -> Result<(), Refusal> {
        match (self, from) {
            (Self::Bool(to), Self::Bool(from)) => to.extend(at.map(|i| from[i])),
            (Self::Word4(to), Self::Word4(from)) => to.extend(at.map(|i| from[i])),
            (Self::Word8(to), Self::Word8(from)) => to.extend(at.map(|i| from[i])),
            (Self::Fixed { width: a, data: to }, Self::Fixed { width: b, data: from }) if a == b => {
                at.for_each(|i| to.extend_from_slice(&from[i * *a..(i + 1) * *a]));
            }
            (Self::Bytes(to), Self::Bytes(from)) => at.for_each(|i| to.push(from.get(i))),
            _ => return Err(Refusal::Unsuited("one column, two physical types".to_owned())),
        }
        Ok(())
    }

    /// Adds all values of `from`, which are of the same type.
    pub(super) fn append(&mut self, from: &mut Self) -> Result<(), Refusal> {
        match (&mut *self, &mut *from) {
            (Self::Bool(to), Self::Bool(from)) => to.append(from),
            (Self::Word4(to), Self::Word4(from)) => to.append(from),
            (Self::Word8(to), Self::Word8(from)) => to.append(from),
            (to, from) => return to.extend(from, 0..from.len()),
        }
        Ok(())
    }
}

/// Gives each distinct value a number, in the order of first appearance.
#[derive(Debug)]
pub(super) enum Index {
    Words(HashMap<u64, u32, FixedState>),
    Bytes(HashMap<Box<[u8]>, u32, FixedState>),
}

impl Index {
    /// `None`: values of this type get no dictionary.
    pub(super) fn for_values(values: &Plain) -> Option<Self> {
        match values {
            Plain::Word4(_) | Plain::Word8(_) => Some(Self::Words(HashMap::default())),
            Plain::Bytes(_) => Some(Self::Bytes(HashMap::default())),
            Plain::Bool(_) | Plain::Fixed { .. } => None,
        }
    }

    /// The number of value `at` of `values`, and whether it is new.
    pub(super) fn number(&mut self, values: &Plain, at: usize) -> (u32, bool) {
        match (self, values) {
            (Self::Words(index), Plain::Word8(values)) => number_of_word(index, values[at]),
            (Self::Words(index), Plain::Word4(values)) => number_of_word(index, u64::from(values[at])),
            (Self::Bytes(index), Plain::Bytes(values)) => {
                let value = values.get(at);
                if let Some(&number) = index.get(value) {
                    return (number, false);
                }
                let number = as_code(index.len());
                index.insert(value.into(), number);
                (number, true)
            }
            _ => unreachable!("an index is asked for values of the type that it was made for"),
        }
    }
}

fn number_of_word(index: &mut HashMap<u64, u32, FixedState>, value: u64) -> (u32, bool) {
    let next = as_code(index.len());
    let number = *index.entry(value).or_insert(next);
    (number, number == next)
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "there are no more values than rows in a slice, which are counted in u32"
)]
pub(super) fn as_code(at: usize) -> u32 {
    at as u32
}
