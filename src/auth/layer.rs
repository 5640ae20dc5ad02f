//! The one check that every request passes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use tokio::time::Instant;
use tower_http::request_id::RequestId;
use tracing::{error, warn};

use super::refusal::Refusal;
use super::throttle::{Client, Throttle};
use super::{AuthSettings, Guesses, Identity, Role, Tokens};

const LOG: &str = "api";

/// A stream goes on for hours; its token is looked at again and again.
const RECHECK: Duration = Duration::from_secs(5);

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

    /// What can be said without looking at the token. `None`: none is needed.
    fn screen(&self, request: &Request) -> Result<Option<Presented>, Refusal> {
        if !self.enabled || self.is_public(request.method(), request.uri().path()) {
            return Ok(None);
        }
        let client = client(request);
        // Who sends no token guesses nothing, so this takes nothing from the bucket.
        let token = presented(request.headers()).ok_or(Refusal::NoToken)?.to_vec();
        let id = request.extensions().get::<RequestId>();
        let request_id = id.and_then(|id| id.header_value().to_str().ok()).map(str::to_owned);
        Ok(Some(Presented { token, client, reading: is_reading(request.method()), request_id }))
    }

    /// Whose token it is, if it is good for this request.
    async fn judge(&self, presented: Presented) -> Result<Identity, Refusal> {
        let Presented { token, client, reading, request_id } = presented;
        let wait = self.throttle.admit(client, Instant::now().into_std()).err();
        let guesses = if wait.is_some() { Guesses::UsedUp } else { Guesses::Left };
        let known = match self.tokens.check(&token, guesses).await {
            Ok(known) => known,
            Err(error) => {
                error!(target: LOG, request_id, %error, "Tokens cannot be checked: {error}");
                return Err(Refusal::CannotTell { request_id });
            }
        };
        let Some(identity) = known else {
            if let Some(wait) = wait {
                // Neither counted nor logged: who sends thousands fills no log, and is let out when they stop.
                return Err(Refusal::TooManyFailures { wait });
            }
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
    let presented = match guard.screen(&request) {
        Ok(None) => return next.run(request).await,
        Ok(Some(presented)) => presented,
        Err(refusal) => return refusal.into_response(),
    };
    let token = presented.token.clone();
    match guard.judge(presented).await {
        Ok(identity) => drop(request.extensions_mut().insert(identity)),
        Err(refusal) => return refusal.into_response(),
    }
    let response = next.run(request).await;
    if is_stream(&response) { while_known(guard, token, response) } else { response }
}

fn is_stream(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// Ends the stream when its token is revoked. A state database that does not answer revokes nothing.
fn while_known(guard: Arc<Guard>, token: Vec<u8>, response: Response) -> Response {
    let revoked = async move {
        loop {
            tokio::time::sleep(RECHECK).await;
            if let Ok(None) = guard.tokens.check(&token, Guesses::Left).await {
                return;
            }
        }
    };
    response.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(revoked))))
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
