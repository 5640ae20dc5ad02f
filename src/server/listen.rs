//! Opening the port.

use std::io;
use std::net::IpAddr;

use tokio::net::TcpListener;

use crate::config::ServerSettings;

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "cannot listen on {address}: another process does already; stop that one, or choose another server.port (ARC_PORT; 0 takes any free one)"
    )]
    InUse { address: String },
    #[error(
        "cannot listen on {address}: no interface of this machine has that address; correct server.host (ARC_HOST; 0.0.0.0 is every address)"
    )]
    NotHere { address: String },
    #[error("cannot listen on {address}: ports below 1024 need special rights; choose another server.port (ARC_PORT)")]
    NotAllowed { address: String },
    #[error("cannot listen on {address}: {source}; check server.host (ARC_HOST) and server.port (ARC_PORT)")]
    Other { address: String, source: io::Error },
}

/// Opens the port that the settings name.
///
/// # Errors
/// See [`ListenError`]; each says what to change.
pub async fn listen(settings: &ServerSettings) -> Result<TcpListener, ListenError> {
    // IPv6 addresses are put into brackets, where a port follows.
    let address = if settings.host.contains(':') {
        format!("[{}]:{}", settings.host, settings.port)
    } else {
        format!("{}:{}", settings.host, settings.port)
    };
    TcpListener::bind((settings.host.as_str(), settings.port)).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { address },
        io::ErrorKind::AddrNotAvailable => ListenError::NotHere { address },
        io::ErrorKind::PermissionDenied => ListenError::NotAllowed { address },
        _ => ListenError::Other { address, source },
    })
}

/// Whether only this machine can reach what listens there.
pub(super) fn is_loopback(host: &str) -> bool {
    host.parse::<IpAddr>().map_or(host == "localhost", |address| address.is_loopback())
}
