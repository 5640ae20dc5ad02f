//! Whether clients ask for more looks through storage than there is time for.
//!
//! ```text
//! time spent on looks   ──────────────╮ crowd            drains: a tenth of the time that passes
//!   CROWD  1 s  ·······················╲··················
//!   CALM 0.5 s  ·························╲────────────────  no crowd any more
//! ```
//!
//! One person who reloads a page, or a script that asks every few seconds, is no crowd and gets a look of its own each time.

use std::time::Duration;

use tokio::time::Instant;

/// Looks may take one part in so many of the time.
const SHARE: u32 = 10;
/// Time spent beyond the share that makes a crowd.
const CROWD: Duration = Duration::from_secs(1);
/// It is over when no more than this is left.
const CALM: Duration = Duration::from_millis(500);

/// The time spent on looks beyond their share: kept as the moment at which nothing of it is left.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    even_at: Option<Instant>,
    is_there: bool,
}

impl Crowd {
    /// A look has taken so long.
    pub(super) fn spent(&mut self, took: Duration, now: Instant) {
        let from = self.even_at.map_or(now, |even| even.max(now));
        // A single very long look does not make a crowd for hours.
        self.even_at = Some((from + took * SHARE).min(now + CROWD * SHARE * 2));
        self.is_there(now);
    }

    pub(super) fn is_there(&mut self, now: Instant) -> bool {
        let left = self.even_at.map_or(Duration::ZERO, |even| even.saturating_duration_since(now)) / SHARE;
        self.is_there = left > if self.is_there { CALM } else { CROWD };
        self.is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_asks_now_and_then_is_no_crowd_and_many_are_until_they_leave() {
        let (mut crowd, mut now) = (Crowd::default(), Instant::now());
        for _ in 0..1000 {
            crowd.spent(Duration::from_millis(100), now);
            assert!(!crowd.is_there(now));
            now += Duration::from_secs(1);
        }
        for _ in 0..11 {
            crowd.spent(Duration::from_millis(100), now);
        }
        assert!(crowd.is_there(now));
        assert!(crowd.is_there(now + Duration::from_millis(5900)));
        assert!(!crowd.is_there(now + Duration::from_millis(6100)));
        assert!(!crowd.is_there(now + Duration::from_millis(6200)), "half a second beyond the share makes no new one");
    }

    #[test]
    fn a_very_long_look_makes_no_crowd_for_more_than_a_quarter_of_a_minute() {
        let (mut crowd, now) = (Crowd::default(), Instant::now());
        crowd.spent(Duration::from_hours(1), now);
        assert!(crowd.is_there(now + Duration::from_secs(14)));
        assert!(!crowd.is_there(now + Duration::from_secs(16)));
    }
}
