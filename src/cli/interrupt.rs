//! Ctrl-C and SIGTERM: the first asks to stop at a safe point, the second leaves at once.

use std::io::{self, Write};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The exit code of a program ended by SIGINT, as shells see it.
const EXIT_INTERRUPTED: i32 = 130;

/// Watches for signals until it is dropped.
#[derive(Debug)]
pub struct Watch {
    _task: JoinSet<()>,
}

/// Cancels `cancel` on the first signal. Leaving at once on the second is safe: a crash at any moment is.
pub fn watch(cancel: CancellationToken) -> io::Result<Watch> {
    let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut task = JoinSet::new();
    task.spawn(handle(interrupt, terminate, cancel));
    Ok(Watch { _task: task })
}

async fn handle(mut interrupt: Signal, mut terminate: Signal, cancel: CancellationToken) {
    let mut signalled = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    signalled().await;
    cancel.cancel();
    // Standard error may be closed; then there is nobody to tell.
    let _ = writeln!(io::stderr(), "stopping at the next safe point; once more to leave at once");
    signalled().await;
    std::process::exit(EXIT_INTERRUPTED);
}
