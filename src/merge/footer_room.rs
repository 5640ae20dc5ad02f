//! How much memory a survey takes: for the footer that is being decoded, and for what is kept of all of them.
//!
//! A footer of a few megabytes is decoded into a tenth of a gigabyte, and of each column of each file a range is kept, so that
//! wide files by the thousand take gigabytes that no other part of the merge counts.
//!
//! What must hold: a footer is decoded only if that fits into its share, large ones one after the other; what is kept of all
//! files together fits into its share, and files for which nothing is left wait for the next merge.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Means, MergeLimits, SetAsideReason};

/// Bytes of memory for each byte of a footer while it is decoded. Measured with the crate `parquet` 58: 4.7 for 150,000 chunks of
/// numbers, each 126 bytes long. A chunk can be as short as 30 bytes and becomes as large: a footer of nothing else takes up to
/// twice what is counted, which is all of the memory, while DuckDB has none.
pub(super) const DECODED_PER_BYTE: u64 = 8;

/// Footers up to this are decoded by all threads at the same time.
const SMALL_FOOTER_BYTES: u64 = 1 << 20;

/// Shares of the memory: that of a footer, which is given back before DuckDB begins, and that of what is kept until the end.
const DECODING_SHARE: u64 = 2;
const KEPT_SHARE: u64 = 4;

/// What one survey may take.
#[derive(Debug)]
pub(super) struct FooterRoom {
    limits: MergeLimits,
    kept_bytes: AtomicU64,
    large: Mutex<()>,
}

impl FooterRoom {
    pub(super) fn new(limits: &MergeLimits) -> Self {
        Self { limits: *limits, kept_bytes: AtomicU64::new(0), large: Mutex::default() }
    }

    /// Waits until a footer of this length may be decoded. What is decoded goes before the turn does.
    pub(super) fn turn(&self, footer_bytes: u64) -> Result<Option<MutexGuard<'_, ()>>, SetAsideReason> {
        let (need, limit) = (footer_bytes.saturating_mul(DECODED_PER_BYTE), self.limits.memory_bytes);
        if need > limit / DECODING_SHARE {
            let why = format!(
                "its footer of {footer_bytes} bytes would take about {need}, more than a survey may use of {limit} bytes"
            );
            return Err(match self.limits.means {
                Means::All => SetAsideReason::TooLarge(why),
                // The next job begins with more.
                Means::DuckDb => SetAsideReason::Unexamined(why),
            });
        }
        let is_large = footer_bytes > SMALL_FOOTER_BYTES;
        Ok(is_large.then(|| self.large.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Takes up so much until the merge is done.
    pub(super) fn keep(&self, bytes: u64) -> Result<(), SetAsideReason> {
        let limit = self.limits.memory_bytes / KEPT_SHARE;
        let fits = |kept: u64| kept.checked_add(bytes).filter(|&all| all <= limit);
        match self.kept_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(kept) => Err(SetAsideReason::Unexamined(format!(
                "what is kept of its columns takes {bytes} bytes, and {kept} of {limit} are taken by other files"
            ))),
        }
    }
}
