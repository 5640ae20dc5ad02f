//! No panic goes unseen. Production code catches those of its jobs, and tasks take theirs with them: so whatever panics on a
//! thread of a simulation is noted where it happens, before anybody can catch it.

use std::cell::RefCell;
use std::panic;
use std::sync::{Arc, Mutex, Once};

thread_local! {
    static NOTED: RefCell<Option<Panics>> = const { RefCell::new(None) };
}

/// The first panic of one simulation.
#[derive(Debug, Default, Clone)]
pub struct Panics(Arc<Mutex<Option<String>>>);

impl Panics {
    pub fn first(&self) -> Option<String> {
        self.0.lock().unwrap().clone()
    }

    /// From now on this thread works for the simulation, and for good.
    pub fn watch(&self) {
        static INSTALL: Once = Once::new();
        INSTALL.call_once(|| {
            let usual = panic::take_hook();
            panic::set_hook(Box::new(move |panicked| {
                NOTED.with_borrow(|noted| {
                    if let Some(Panics(first)) = noted {
                        let mut first = first.lock().unwrap();
                        first.get_or_insert_with(|| panicked.to_string());
                    }
                });
                usual(panicked);
            }));
        });
        NOTED.set(Some(self.clone()));
    }

    /// The same until the answer is dropped.
    pub fn watch_here(&self) -> Watched {
        let outer = NOTED.with_borrow(Clone::clone);
        self.watch();
        Watched(outer)
    }
}

/// See [`Panics::watch_here`].
#[must_use]
pub struct Watched(Option<Panics>);

impl Drop for Watched {
    fn drop(&mut self) {
        NOTED.set(self.0.take());
    }
}
