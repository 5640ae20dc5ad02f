//! One column of all rows of a slice, in the order in which they are read.

use parquet::basic::Type as Physical;
use parquet::schema::types::ColumnDescPtr;

use super::Refusal;
use super::chunk::{Chunk, ChunkValues};
use super::files::SliceFiles;
use super::room::{ROWS_BETWEEN_LOOKS, Room};
use super::rows::{Chosen, Rows};
use super::values::{Index, Plain, as_code};

/// A joined dictionary is given up when it has more values than this and more than one in [`ROWS_PER_VALUE`] rows.
const SMALL_DICTIONARY: usize = 1 << 14;

/// A dictionary pays when each of its values stands for so many rows: the ratio at which DuckDB gives up, too.
pub(super) const ROWS_PER_VALUE: usize = 5;

/// The code of a missing value.
pub(super) const NO_VALUE: u32 = u32::MAX;

/// Times that a column may be held while it is read: a dictionary is given up, or found. Text also while it is moved, because
/// nobody knows how much of it there will be.
pub(super) const COLUMN_COPIES: u64 = 2;
const TEXT_COPIES: u64 = 3;

pub(super) enum Column {
    /// No value in any row.
    Nothing,
    /// Codes into the dictionary; [`NO_VALUE`] for a missing value.
    Codes { codes: Vec<u32>, dictionary: Plain },
    Plain {
        values: Plain,
        /// `None`: every row has a value.
        valid: Option<Vec<bool>>,
    },
}

/// Reads group column `index` of all rows.
pub(super) fn read_column(
    files: &SliceFiles<'_>,
    rows: &Rows,
    index: usize,
    descriptor: &ColumnDescPtr,
    room: &Room<'_>,
) -> Result<Column, Refusal> {
    let mut growing = Growing::Nothing { rows: 0 };
    for part in &rows.parts {
        room.check_wanted()?;
        growing = match files.open[part.file].decode(part.row_group, index, room)? {
            Some((chunk, pages_bytes)) => {
                let copies =
                    if descriptor.physical_type() == Physical::BYTE_ARRAY { TEXT_COPIES } else { COLUMN_COPIES };
                let column = growing.bytes_with(&chunk, &part.chosen).saturating_mul(copies);
                room.check(column.saturating_add(pages_bytes), "for one column")?;
                growing.add(chunk, &part.chosen, rows.count())?
            }
            None => growing.add_nothing(part.chosen.count()),
        };
    }
    let column = growing.finish(room)?;
    if column.rows().is_some_and(|count| count != rows.count()) {
        return Err(Refusal::Unsuited(format!("column {} has another number of rows", descriptor.name())));
    }
    Ok(column)
}

impl Column {
    fn rows(&self) -> Option<usize> {
        match self {
            Self::Nothing => None,
            Self::Codes { codes, .. } => Some(codes.len()),
            Self::Plain { values, .. } => Some(values.len()),
        }
    }
}

enum Growing {
    Nothing { rows: usize },
    Codes { codes: Vec<u32>, dictionary: Plain, index: Index },
    Plain { values: Plain, valid: Option<Vec<bool>> },
}

impl Growing {
    /// Bytes of the column when the chosen rows of a chunk are added, written out if that may have to be.
    fn bytes_with(&self, chunk: &Chunk, chosen: &Chosen) -> u64 {
        let written_out = |codes: &[u32], dictionary: &Plain, rows: &mut dyn Iterator<Item = usize>| {
            dictionary.bytes_of(rows.map(|row| codes[row]).filter(|&c| c != NO_VALUE).map(|c| c as usize))
        };
        let more = match &chunk.values {
            ChunkValues::Plain(values) => values.bytes(),
            ChunkValues::Codes { dictionary, .. } if dictionary.len() == 0 => 0,
            ChunkValues::Codes { codes, .. } if matches!(self, Self::Nothing { .. } | Self::Codes { .. }) => {
                4 * codes.len() as u64
            }
            ChunkValues::Codes { codes, dictionary } => written_out(codes, dictionary, &mut *chosen.each()),
        };
        let before = match self {
            Self::Nothing { .. } => 0,
            Self::Plain { values, .. } => values.bytes(),
            Self::Codes { codes, dictionary, .. } => {
                let becomes_plain = matches!(chunk.values, ChunkValues::Plain(_)) || !self.pays();
                if becomes_plain {
                    written_out(codes, dictionary, &mut (0..codes.len()))
                } else {
                    4 * codes.len() as u64 + dictionary.bytes()
                }
            }
        };
        before + more
    }

    fn add_nothing(self, rows: usize) -> Self {
        match self {
            Self::Nothing { rows: before } => Self::Nothing { rows: before + rows },
            Self::Codes { mut codes, dictionary, index } => {
                codes.resize(codes.len() + rows, NO_VALUE);
                Self::Codes { codes, dictionary, index }
            }
            Self::Plain { values, valid } if rows == 0 => Self::Plain { values, valid },
            Self::Plain { mut values, valid } => {
                let mut valid = valid.unwrap_or_else(|| vec![true; values.len()]);
                valid.resize(valid.len() + rows, false);
                (0..rows).for_each(|_| values.push_nothing());
                Self::Plain { values, valid: Some(valid) }
            }
        }
    }

    /// `total` are the rows of the slice: nothing grows beyond what it needs.
    fn add(self, chunk: Chunk, chosen: &Chosen, total: usize) -> Result<Self, Refusal> {
        let this = match self {
            Self::Nothing { rows } => {
                let (like, has_codes) = match &chunk.values {
                    ChunkValues::Codes { dictionary, .. } => (dictionary.empty_like(), true),
                    ChunkValues::Plain(values) => (values.empty_like(), false),
                };
                if let Some(index) = Index::for_values(&like).filter(|_| has_codes) {
                    let mut codes = Vec::with_capacity(total);
                    codes.resize(rows, NO_VALUE);
                    Self::Codes { codes, dictionary: like, index }
                } else {
                    let mut values = like;
                    values.reserve(total);
                    Self::Plain { values, valid: None }.add_nothing(rows)
                }
            }
            other => other,
        };
        match this {
            Self::Codes { mut codes, mut dictionary, mut index } => {
                if let ChunkValues::Codes { codes: theirs, dictionary: their_dictionary } = &chunk.values {
                    let table = translate(their_dictionary, &mut dictionary, &mut index)?;
                    let code = |row: usize| match &chunk.valid {
                        Some(valid) if !valid[row] => NO_VALUE,
                        _ => table[theirs[row] as usize],
                    };
                    match chosen {
                        Chosen::Span(rows) if chunk.valid.is_none() => {
                            codes.extend(theirs[rows.clone()].iter().map(|&code| table[code as usize]));
                        }
                        Chosen::Span(rows) => codes.extend(rows.clone().map(code)),
                        Chosen::Rows(rows) => codes.extend(rows.iter().map(|&row| code(row as usize))),
                    }
                    let this = Self::Codes { codes, dictionary, index };
                    return if this.pays() { Ok(this) } else { this.into_plain(total) };
                }
                Self::Codes { codes, dictionary, index }.into_plain(total)?.add(chunk, chosen, total)
            }
            Self::Plain { mut values, mut valid } => {
                let before = values.len();
                match chunk.values {
                    ChunkValues::Plain(mut theirs) if chosen.count() == theirs.len() => values.append(&mut theirs)?,
                    ChunkValues::Plain(theirs) => values.extend(&theirs, chosen.each())?,
                    ChunkValues::Codes { codes, dictionary } if dictionary.len() > 0 => match &chunk.valid {
                        None => values.extend(&dictionary, chosen.each().map(|row| codes[row] as usize))?,
                        Some(theirs) => {
                            for row in chosen.each() {
                                if theirs[row] {
                                    values.extend(&dictionary, std::iter::once(codes[row] as usize))?;
                                } else {
                                    values.push_nothing();
                                }
                            }
                        }
                    },
                    // A dictionary without values, so every row is missing.
                    ChunkValues::Codes { .. } => chosen.each().for_each(|_| values.push_nothing()),
                }
                if chunk.valid.is_some() || valid.is_some() {
                    let all = valid.get_or_insert_with(|| vec![true; before]);
                    match chunk.valid {
                        Some(theirs) => all.extend(chosen.each().map(|row| theirs[row])),
                        None => all.resize(values.len(), true),
                    }
                }
                Ok(Self::Plain { values, valid })
            }
            Self::Nothing { .. } => unreachable!("replaced above"),
        }
    }

    /// Whether the dictionary is small for its rows.
    fn pays(&self) -> bool {
        match self {
            Self::Codes { codes, dictionary, .. } => {
                dictionary.len() <= SMALL_DICTIONARY || dictionary.len() <= codes.len() / ROWS_PER_VALUE
            }
            _ => true,
        }
    }

    fn into_plain(self, total: usize) -> Result<Self, Refusal> {
        let Self::Codes { codes, dictionary, .. } = self else { return Ok(self) };
        let valid = codes.contains(&NO_VALUE).then(|| codes.iter().map(|&code| code != NO_VALUE).collect());
        let mut values = dictionary.empty_like();
        values.reserve(total);
        if valid.is_none() {
            values.extend(&dictionary, codes.iter().map(|&code| code as usize))?;
        } else {
            for code in codes {
                match code {
                    NO_VALUE => values.push_nothing(),
                    code => values.extend(&dictionary, std::iter::once(code as usize))?,
                }
            }
        }
        Ok(Self::Plain { values, valid })
    }

    fn finish(self, room: &Room<'_>) -> Result<Column, Refusal> {
        Ok(match self {
            Self::Nothing { .. } => Column::Nothing,
            Self::Codes { codes, dictionary, .. } => Column::Codes { codes, dictionary },
            Self::Plain { values, valid } => find_dictionary(values, valid, room)?,
        })
    }
}

/// Values that came without a dictionary may have few distinct ones all the same. The search ends as soon as there are many.
fn find_dictionary(values: Plain, valid: Option<Vec<bool>>, room: &Room<'_>) -> Result<Column, Refusal> {
    let Some(mut index) = Index::for_values(&values) else { return Ok(Column::Plain { values, valid }) };
    let mut dictionary = values.empty_like();
    let mut codes = Vec::new();
    for row in 0..values.len() {
        if row % ROWS_BETWEEN_LOOKS == 0 {
            room.check_wanted()?;
        }
        if valid.as_ref().is_some_and(|valid| !valid[row]) {
            codes.push(NO_VALUE);
            continue;
        }
        let (code, new) = index.number(&values, row);
        if new {
            dictionary.extend(&values, std::iter::once(row)).expect("a list is of its own type");
            if dictionary.len() > SMALL_DICTIONARY && dictionary.len() > values.len() / ROWS_PER_VALUE
                || dictionary.len() > SMALL_DICTIONARY && dictionary.len() > row / 2
            {
                return Ok(Column::Plain { values, valid });
            }
        }
        codes.push(code);
    }
    Ok(Column::Codes { codes, dictionary })
}

/// The codes that the values of another dictionary have here; new ones are added.
fn translate(theirs: &Plain, dictionary: &mut Plain, index: &mut Index) -> Result<Vec<u32>, Refusal> {
    if std::mem::discriminant(theirs) != std::mem::discriminant(dictionary) {
        return Err(Refusal::Unsuited("one column, two physical types".to_owned()));
    }
    let mut table = Vec::with_capacity(theirs.len());
    for at in 0..theirs.len() {
        let (code, new) = index.number(theirs, at);
        if new {
            debug_assert_eq!(code, as_code(dictionary.len()));
            dictionary.extend(theirs, std::iter::once(at))?;
        }
        table.push(code);
    }
    Ok(table)
}
