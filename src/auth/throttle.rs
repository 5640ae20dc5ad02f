//! How many wrong tokens a client may send: a bucket for each address, from which every failure takes one.
//!
//! ```text
//! full: BURST failures left ──failure──> … ──failure──> empty: no more guesses until one has come back
//!                           <──one every REFILL───────
//! ```
//!
//! What must hold: the number of buckets is bounded, whatever addresses attackers have; a client without an address, or
//! one for which there is no bucket left, shares a bucket with the others of that kind. Clients that send right tokens,
//! or none, take nothing from any bucket.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row before a client has to wait.
pub const BURST: u32 = 10;
/// One more attempt for each of these.
pub const REFILL: Duration = Duration::from_secs(6);
/// Addresses that are remembered.
pub const MAX_CLIENTS: usize = 4096;

/// Whose bucket it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    Address(IpAddr),
    /// The address is not known, or there are too many.
    Others,
}

impl Client {
    /// The client behind an address. Of IPv6 the first 64 bits count: whoever has one address there has them all.
    #[must_use]
    pub fn of(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            None => Self::Others,
            Some(IpAddr::V6(v6)) => Self::Address(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into()),
            Some(v4) => Self::Address(v4),
        }
    }
}

/// The buckets. A bucket is the moment at which it is full again: one number, and a full one need not be kept.
#[derive(Debug, Default)]
pub struct Throttle {
    full_at: Mutex<HashMap<Client, Instant>>,
}

impl Throttle {
    /// Whether this client may guess now.
    ///
    /// # Errors
    /// How long it has to wait until it may.
    pub fn admit(&self, client: Client, now: Instant) -> Result<(), Duration> {
        let buckets = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.get(&client).or_else(|| {
            let crowded_out = buckets.len() >= MAX_CLIENTS;
            buckets.get(&Client::Others).filter(|_| crowded_out)
        });
        let missing = bucket.map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now));
        // An attempt needs one whole failure in the bucket.
        match missing.checked_sub(REFILL * (BURST - 1)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(()),
        }
    }

    /// Notes that this client presented a token that is none.
    pub fn failed(&self, client: Client, now: Instant) {
        let mut buckets = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_CLIENTS && !buckets.contains_key(&client) {
            buckets.retain(|_, full_at| *full_at > now);
        }
        let full = buckets.len() >= MAX_CLIENTS && !buckets.contains_key(&client);
        let bucket = buckets.entry(if full { Client::Others } else { client }).or_insert(now);
        // Attempts that were admitted at the same time may overdraw the bucket; the debt is bounded, too.
        *bucket = ((*bucket).max(now) + REFILL).min(now + REFILL * BURST * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> Client {
        Client::of(Some(IpAddr::from(number.to_be_bytes())))
    }

    fn fail(throttle: &Throttle, client: Client, times: u32, now: Instant) {
        for _ in 0..times {
            throttle.failed(client, now);
        }
    }

    #[test]
    fn after_the_burst_a_client_waits_for_one_refill_and_others_do_not() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        fail(&throttle, client(1), BURST - 1, start);
        assert_eq!(throttle.admit(client(1), start), Ok(()));
        throttle.failed(client(1), start);
        assert_eq!(throttle.admit(client(1), start), Err(REFILL));
        assert_eq!(throttle.admit(client(2), start), Ok(()));
        assert_eq!(throttle.admit(client(1), start + REFILL / 2), Err(REFILL / 2));
        assert_eq!(throttle.admit(client(1), start + REFILL), Ok(()));
        throttle.failed(client(1), start + REFILL);
        assert_eq!(throttle.admit(client(1), start + REFILL), Err(REFILL));
    }

    #[test]
    fn a_bucket_fills_up_to_the_burst_and_no_further() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        fail(&throttle, client(1), BURST, start);
        let later = start + REFILL * 1000;
        fail(&throttle, client(1), BURST, later);
        assert_eq!(throttle.admit(client(1), later), Err(REFILL));
    }

    #[test]
    fn the_debt_of_many_failures_at_once_is_bounded() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        fail(&throttle, client(1), 100_000, start);
        assert_eq!(throttle.admit(client(1), start), Err(REFILL * (BURST + 1)));
    }

    #[test]
    fn clients_without_an_address_share_a_bucket() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        fail(&throttle, Client::of(None), BURST, start);
        assert!(throttle.admit(Client::of(None), start).is_err());
        assert_eq!(throttle.admit(client(1), start), Ok(()));
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_a_mapped_address_is_its_ipv4_one() {
        let of = |text: &str| Client::of(Some(text.parse().unwrap()));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
        assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
    }

    #[test]
    fn with_more_clients_than_buckets_the_rest_share_one_until_buckets_are_full_again() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        for number in 0..u32::try_from(MAX_CLIENTS).unwrap() {
            throttle.failed(client(number), start);
        }
        fail(&throttle, client(1_000_000), BURST, start);
        assert!(throttle.admit(client(2_000_000), start).is_err(), "strangers share the bucket");
        assert_eq!(throttle.admit(client(7), start), Ok(()), "clients with a bucket of their own do not");
        assert!(throttle.full_at.lock().unwrap().len() <= MAX_CLIENTS + 1);
        let later = start + REFILL * BURST * 3;
        throttle.failed(client(3_000_000), later);
        assert_eq!(throttle.full_at.lock().unwrap().len(), 1, "full buckets are forgotten");
    }
}
