//! Whose turn it is: of the cycles of one manager at most one runs, and others can be told which.

use std::sync::{Arc, Mutex, PoisonError};

/// The right to run a cycle: one at a time.
#[derive(Debug, Clone, Default)]
pub(super) struct Turn(Arc<Mutex<Option<String>>>);

/// Gives the turn back when dropped.
#[derive(Debug)]
pub(super) struct TurnGuard {
    turn: Turn,
    pub(super) cycle_id: String,
}

impl Turn {
    /// The error is the id of the cycle that has the turn.
    pub(super) fn take(&self, cycle_id: String) -> Result<TurnGuard, String> {
        let mut holder = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &*holder {
            return Err(running.clone());
        }
        *holder = Some(cycle_id.clone());
        Ok(TurnGuard { turn: self.clone(), cycle_id })
    }

    /// The id of the cycle that has the turn.
    pub(super) fn holder(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TurnGuard {
    fn drop(&mut self) {
        *self.turn.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
