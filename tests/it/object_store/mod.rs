//! Object storage: the storage verbs, every setting, start-up checks and the safety of compaction, on real servers on
//! loopback (see `support::servers`) and with a bad wire between.

mod conformance;
mod crash;
mod diagnosis;
mod figures;
mod leases;
mod permissions;
mod remote;
mod safety;
mod settings;
mod wire;
mod workers;
