//! What the merge of a slice has left of its memory, and whether it is still wanted.
//!
//! What must hold: everything that grows with the files or the rows is asked for here before it is made. A slice that does
//! not fit is left to DuckDB, which can spill. Work between two looks at the cancellation is bounded by a page, or by
//! [`ROWS_BETWEEN_LOOKS`].

use std::cell::Cell;

use super::super::MergeError;
use super::{Limits, Refusal};

/// Rows that are sorted, translated or moved between two looks at whether the merge is still wanted: a few milliseconds.
pub(super) const ROWS_BETWEEN_LOOKS: usize = 1 << 18;

#[derive(Debug)]
pub(super) struct Room<'a> {
    limits: &'a Limits<'a>,
    left_bytes: Cell<u64>,
}

impl<'a> Room<'a> {
    pub(super) fn new(limits: &'a Limits<'a>) -> Self {
        Self { left_bytes: Cell::new(limits.memory_bytes), limits }
    }

    pub(super) fn left_bytes(&self) -> u64 {
        self.left_bytes.get()
    }

    pub(super) fn check_wanted(&self) -> Result<(), Refusal> {
        if self.limits.cancel.is_cancelled() { Err(MergeError::Cancelled.into()) } else { Ok(()) }
    }

    /// Refuses what does not fit, now and for a while.
    pub(super) fn check(&self, bytes: u64, what: &str) -> Result<(), Refusal> {
        let left = self.left_bytes.get();
        if bytes <= left {
            return Ok(());
        }
        Err(Refusal::Unsuited(format!("{bytes} bytes {what}, and {left} bytes of memory left for the slice")))
    }

    /// Uses up so much until the slice is written.
    pub(super) fn take(&self, bytes: u64, what: &str) -> Result<(), Refusal> {
        self.check(bytes, what)?;
        self.left_bytes.set(self.left_bytes.get() - bytes);
        Ok(())
    }
}
