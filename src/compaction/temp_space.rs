//! Room for jobs' files: free space is checked, and the total bounded, before anything is fetched or merged.

use std::path::Path;
use std::sync::{Arc, Mutex};

/// Bytes that all jobs of this process together may use in the temp folder.
#[derive(Debug, Clone)]
pub struct TempBudget {
    reserved: Arc<Mutex<u64>>,
    /// `None`: only the disk limits.
    max_bytes: Option<u64>,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    reserved: Arc<Mutex<u64>>,
    bytes: u64,
}

/// The need does not fit; so many bytes are free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoesNotFit {
    pub free_bytes: u64,
}

impl TempBudget {
    #[must_use]
    pub fn new(max_bytes: Option<u64>) -> Self {
        Self { reserved: Arc::default(), max_bytes }
    }

    /// Reserves `bytes`, if the disk has `disk_free_bytes` beyond what running jobs have reserved, and the bound allows.
    ///
    /// What running jobs have already written counts twice that way, as written and as reserved. That errs on the safe
    /// side, and only while jobs run.
    pub fn reserve(&self, bytes: u64, disk_free_bytes: u64) -> Result<Reservation, DoesNotFit> {
        let mut reserved = self.reserved.lock().expect("no holder of this lock panics");
        let ceiling = self.max_bytes.map_or(disk_free_bytes, |max| max.min(disk_free_bytes));
        let free_bytes = ceiling.saturating_sub(*reserved);
        if bytes > free_bytes {
            return Err(DoesNotFit { free_bytes });
        }
        *reserved += bytes;
        Ok(Reservation { reserved: Arc::clone(&self.reserved), bytes })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *self.reserved.lock().expect("no holder of this lock panics") -= self.bytes;
    }
}

/// Free bytes, for an unprivileged user, on the disk that holds `path`.
pub fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_add_up_against_the_disk_and_the_bound_and_come_back() {
        let budget = TempBudget::new(Some(100));
        let first = budget.reserve(60, 1000).unwrap();
        assert_eq!(budget.reserve(50, 1000).unwrap_err(), DoesNotFit { free_bytes: 40 });
        drop(first);
        let _all = budget.reserve(100, 1000).unwrap();

        let unbounded = TempBudget::new(None);
        assert_eq!(unbounded.reserve(11, 10).unwrap_err(), DoesNotFit { free_bytes: 10 });
    }
}
