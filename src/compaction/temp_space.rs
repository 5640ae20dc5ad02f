//! Room for jobs' files: free space is checked, and the total bounded, before anything is fetched or merged.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

/// Bytes that all jobs of this process together may use in the temp folder.
#[derive(Debug, Clone)]
pub struct TempBudget {
    reserved: Arc<Mutex<u64>>,
    /// Told when a part is given back.
    released: Arc<Notify>,
    /// `None`: only the disk limits.
    max_bytes: Option<u64>,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    reserved: Arc<Mutex<u64>>,
    released: Arc<Notify>,
    bytes: u64,
}

/// Why there is no reservation.
#[derive(Debug)]
pub enum NoSpace {
    /// Not even with nobody else there.
    DoesNotFit(DoesNotFit),
    /// The disk does not say what it has.
    Unknown(std::io::Error),
}

/// The need does not fit; so many bytes are free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoesNotFit {
    pub free_bytes: u64,
    /// Whether running jobs have a part of what there is.
    pub shared: bool,
}

impl TempBudget {
    #[must_use]
    pub fn new(max_bytes: Option<u64>) -> Self {
        Self { reserved: Arc::default(), released: Arc::default(), max_bytes }
    }

    /// Waits until `bytes` fit beside what running jobs have reserved. `disk_free_bytes` is asked each time.
    ///
    /// Whoever has a reservation needs nothing else of the budget, so it comes back, and nobody waits for ever: what does
    /// not fit once nothing is reserved is an error.
    pub async fn reserve(
        &self,
        bytes: u64,
        disk_free_bytes: impl Fn() -> std::io::Result<u64>,
    ) -> Result<Reservation, NoSpace> {
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            // From here on no release is missed.
            released.as_mut().enable();
            match self.try_reserve(bytes, disk_free_bytes().map_err(NoSpace::Unknown)?) {
                Ok(reservation) => return Ok(reservation),
                Err(no) if no.shared => released.await,
                Err(no) => return Err(NoSpace::DoesNotFit(no)),
            }
        }
    }

    /// Reserves `bytes`, if the disk has `disk_free_bytes` beyond what running jobs have reserved, and the bound allows.
    ///
    /// What running jobs have already written counts twice that way, as written and as reserved. That errs on the safe
    /// side, and only while jobs run.
    fn try_reserve(&self, bytes: u64, disk_free_bytes: u64) -> Result<Reservation, DoesNotFit> {
        let mut reserved = self.reserved.lock().expect("no holder of this lock panics");
        let ceiling = self.max_bytes.map_or(disk_free_bytes, |max| max.min(disk_free_bytes));
        let free_bytes = ceiling.saturating_sub(*reserved);
        if bytes > free_bytes {
            return Err(DoesNotFit { free_bytes, shared: *reserved > 0 });
        }
        *reserved += bytes;
        let (reserved, released) = (Arc::clone(&self.reserved), Arc::clone(&self.released));
        Ok(Reservation { reserved, released, bytes })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *self.reserved.lock().expect("no holder of this lock panics") -= self.bytes;
        self.released.notify_waiters();
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
        let first = budget.try_reserve(60, 1000).unwrap();
        assert_eq!(budget.try_reserve(50, 1000).unwrap_err(), DoesNotFit { free_bytes: 40, shared: true });
        drop(first);
        let _all = budget.try_reserve(100, 1000).unwrap();

        let unbounded = TempBudget::new(None);
        assert_eq!(unbounded.try_reserve(11, 10).unwrap_err(), DoesNotFit { free_bytes: 10, shared: false });
    }

    /// T38: a job waits for the room that another one has, and not for room that nobody can give.
    #[tokio::test]
    async fn a_reservation_waits_for_others_and_never_for_nobody() {
        let budget = TempBudget::new(Some(100));
        let first = budget.reserve(60, || Ok(1000)).await.unwrap();
        let mut second = waiting_for(budget.clone(), 50);
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        let second = (&mut second).await.unwrap().unwrap();
        drop(second);
        let Err(NoSpace::DoesNotFit(no)) = budget.reserve(101, || Ok(1000)).await else { panic!("it cannot fit") };
        assert_eq!(no, DoesNotFit { free_bytes: 100, shared: false });
    }

    fn waiting_for(budget: TempBudget, bytes: u64) -> tokio::task::JoinHandle<Result<Reservation, NoSpace>> {
        tokio::spawn(async move { budget.reserve(bytes, || Ok(1000)).await })
    }
}
