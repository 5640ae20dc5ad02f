//! The one check that every request passes.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;
use tower_http::request_id::RequestId;
use tracing::{error, warn};

use super::refusal::Refusal;
use super::throttle::{Client, Throttle};
use super::{AuthSettings, Identity, Role, Tokens};

const LOG: &str = "api";

/// Everything that the check needs. Shared by all requests.
#[derive(Debug)]
pub struct Guard {
    enabled: bool,
    allowlist: Vec<String>,
    tokens: Tokens,
    throttle: Throttle,
}

impl Guard {
    /// A guard with nobody on its list of failures.
    #[must_use]
    pub fn new(settings: &AuthSettings, tokens: Tokens) -> Arc<Self> {
        let AuthSettings { enabled, allowlist, default_token: _ } = settings;
        Arc::new(Self { enabled: *enabled, allowlist: allowlist.clone(), tokens, throttle: Throttle::default() })
    }

    /// Exactly as written: what is encoded, doubled or spelled otherwise is another path.
    fn is_public(&self, method: &Method, path: &str) -> bool {
        let shell = path == "/" && is_reading(method);
        shell || self.allowlist.iter().any(|public| public == path)
    }

    /// What can be said without looking at the token. `None`: no token is needed.
    fn screen(&self, request: &Request) -> Result<Option<Presented>, Refusal> {
        if !self.enabled || self.is_public(request.method(), request.uri().path()) {
            return Ok(None);
        }
        let client = client(request);
        self.throttle.admit(client, Instant::now().into_std()).map_err(|wait| Refusal::TooManyFailures { wait })?;
        // Who sends no token guesses nothing, so this takes nothing from the bucket.
        let token = presented(request.headers()).ok_or(Refusal::NoToken)?.to_vec();
        let id = request.extensions().get::<RequestId>();
        let request_id = id.and_then(|id| id.header_value().to_str().ok()).map(str::to_owned);
        Ok(Some(Presented { token, client, reading: is_reading(request.method()), request_id }))
    }

    /// Whose token it is, if it is good for this request.
    async fn judge(&self, presented: Presented) -> Result<Identity, Refusal> {
        let Presented { token, client, reading, request_id } = presented;
        let known = match self.tokens.check(&token).await {
            Ok(known) => known,
            Err(error) => {
                error!(target: LOG, request_id, %error, "Tokens cannot be checked: {error}");
                return Err(Refusal::CannotTell { request_id });
            }
        };
        let Some(identity) = known else {
            self.throttle.failed(client, Instant::now().into_std());
            warn!(target: LOG, request_id, ?client, "A request with a wrong token was refused");
            return Err(Refusal::WrongToken);
        };
        match identity.role {
            Role::Admin => Ok(identity),
            Role::Read if reading => Ok(identity),
            Role::Read => Err(Refusal::NotAdmin { name: identity.name }),
        }
    }
}

/// What the check of a token needs to know of a request.
struct Presented {
    token: Vec<u8>,
    client: Client,
    /// The request only looks.
    reading: bool,
    request_id: Option<String>,
}

/// The middleware. An [`Identity`] is among the extensions of a request that was let in with a token.
pub async fn guard(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    match guard.screen(&request) {
        Ok(None) => {}
        Ok(Some(presented)) => match guard.judge(presented).await {
            Ok(identity) => drop(request.extensions_mut().insert(identity)),
            Err(refusal) => return refusal.into_response(),
        },
        Err(refusal) => return refusal.into_response(),
    }
    next.run(request).await
}

fn is_reading(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// The peer of the connection; what proxies write into headers can be made up.
fn client(request: &Request) -> Client {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    Client::of(peer.map(|ConnectInfo(address)| address.ip()))
}

/// The token of a request, as it was sent.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(key) = headers.get("x-api-key") {
        return Some(key.as_bytes());
    }
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}
