//! The HTTP API, in process: the real router over the real manager, scheduler, state database and storage.

mod app;
mod document;
mod history;
mod reading;
mod shapes;
mod strict;
mod streaming;
mod trigger;
