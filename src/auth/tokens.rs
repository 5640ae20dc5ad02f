//! The tokens: created, listed, revoked, and recognised again.
//!
//! A token is `arc_` and 256 random bits in hexadecimal. The table `api_tokens` has its BLAKE3 hash: with that much
//! randomness a plain hash is as good as a slow one, and whoever reads the file cannot use what stands there.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use rusqlite::{Connection, ErrorCode, params};
use subtle::{Choice, ConstantTimeEq};

use super::{Identity, Role, Secret};
use crate::state::{Failure, StateDb, StateError};

/// How a token begins, so that people and secret scanners know one when they see it.
const PREFIX: &str = "arc_";
/// Random bytes of a token.
const RANDOM_BYTES: usize = 32;
/// Stored tokens. Every request is compared with all of them.
pub const MAX_TOKENS: u32 = 256;
/// Bytes below which a configured token is found by trying all there are.
pub const SHORT_BYTES: usize = 16;
/// Characters of a name.
const MAX_NAME: usize = 64;
/// The name under which the configured token appears; no stored token may have it.
const DEFAULT_NAME: &str = "default_token";
/// The name of the token that a first start makes.
const FIRST_NAME: &str = "admin";

type Hash = [u8; blake3::OUT_LEN];

/// The tokens of the API. Clones are handles to the same ones.
#[derive(Debug, Clone)]
pub struct Tokens {
    state: StateDb,
    default_token: Option<Secret>,
}

/// Whether the one who presents a token may be wrong about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guesses {
    Left,
    /// Too many were wrong: only what cannot be guessed is looked at.
    UsedUp,
}

/// Whether a configured token is so short that it can be found by trying all there are.
#[must_use]
pub fn is_short(configured: &Secret) -> bool {
    configured.reveal().len() < SHORT_BYTES
}

/// A token that was just made: the only time that its text is known.
#[derive(Debug, Clone)]
pub struct NewToken {
    pub name: String,
    pub role: Role,
    /// What a client sends.
    pub token: Secret,
    pub created_at: DateTime<Utc>,
}

/// What is known of a stored token.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TokenInfo {
    pub name: String,
    pub role: Role,
    /// RFC 3339, UTC, with milliseconds.
    pub created_at: String,
}

/// Why a token could not be created or revoked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The name is not one.
    #[error(
        "{0:?} is no name for a token: use 1 to {MAX_NAME} letters, digits, dots, dashes or underscores, not \"{DEFAULT_NAME}\""
    )]
    Name(String),
    /// Another token has this name.
    #[error("there is a token named {0:?}: choose another name, or revoke that one first")]
    NameTaken(String),
    /// No token has this name.
    #[error("there is no token named {0:?}: `arc token list` shows them all")]
    Unknown(String),
    /// The table is full.
    #[error("there are {MAX_TOKENS} tokens, no more are possible: revoke one that is not used")]
    TooMany,
    /// The operating system gave no random bytes.
    #[error("no random bytes for a token: {0}")]
    Random(getrandom::Error),
    #[error(transparent)]
    State(#[from] StateError),
}

impl Tokens {
    /// The stored tokens, and the configured one if there is one.
    #[must_use]
    pub fn new(state: StateDb, default_token: Option<Secret>) -> Self {
        Self { state, default_token }
    }

    /// Whose token this is, as of now: a token that another process has just revoked is nobody's.
    ///
    /// Takes as long for a token that is nearly right as for one that is wholly wrong.
    pub async fn check(&self, presented: &[u8], guesses: Guesses) -> Result<Option<Identity>, StateError> {
        let hash = hash(presented);
        if let Some(default) = &self.default_token
            // People choose what can be guessed, however long it is.
            && (guesses == Guesses::Left || has_our_form(default.reveal().as_bytes()))
            && bool::from(hash.ct_eq(&self::hash(default.reveal().as_bytes())))
        {
            return Ok(Some(Identity { name: DEFAULT_NAME.to_owned(), role: Role::Admin }));
        }
        // A flood of nonsense does not keep the database busy.
        if !has_our_form(presented) {
            return Ok(None);
        }
        self.state.read(move |connection| find(connection, &hash)).await
    }

    /// Makes a token. `now` is what is noted as its time of creation.
    pub async fn create(&self, name: &str, role: Role, now: DateTime<Utc>) -> Result<NewToken, TokenError> {
        if !is_name(name) {
            return Err(TokenError::Name(name.to_owned()));
        }
        let new = NewToken { name: name.to_owned(), role, token: random_token()?, created_at: now };
        let row = Row::of(&new);
        match self.state.write(move |connection| insert(connection, &row)).await? {
            Inserted::Yes => Ok(new),
            Inserted::NameTaken => Err(TokenError::NameTaken(name.to_owned())),
            Inserted::Full => Err(TokenError::TooMany),
        }
    }

    /// Makes an admin token if there is no way in yet: none is stored and none is configured. Of several processes that
    /// start at once one gets it.
    pub async fn create_first(&self, now: DateTime<Utc>) -> Result<Option<NewToken>, TokenError> {
        if self.default_token.is_some() {
            return Ok(None);
        }
        let new = NewToken { name: FIRST_NAME.to_owned(), role: Role::Admin, token: random_token()?, created_at: now };
        let row = Row::of(&new);
        let made = self.state.write(move |connection| insert_if_first(connection, &row)).await?;
        Ok(made.then_some(new))
    }

    /// Every stored token, by name.
    pub async fn list(&self) -> Result<Vec<TokenInfo>, StateError> {
        self.state.read(list).await
    }

    /// Takes a token's rights away, at once and for every process.
    pub async fn revoke(&self, name: &str) -> Result<(), TokenError> {
        let wanted = name.to_owned();
        let delete = move |connection: &mut Connection| {
            Ok(connection.execute("DELETE FROM api_tokens WHERE name = ?1", [wanted])?)
        };
        match self.state.write(delete).await? {
            0 => Err(TokenError::Unknown(name.to_owned())),
            _ => Ok(()),
        }
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed) && name != DEFAULT_NAME
}

fn random_token() -> Result<Secret, TokenError> {
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random).map_err(TokenError::Random)?;
    let mut token = PREFIX.to_owned();
    for byte in random {
        write!(token, "{byte:02x}").expect("writing to a string does not fail");
    }
    Ok(Secret::new(token))
}

/// Whether a text has the form of every stored token. Says nothing about any of them.
fn has_our_form(presented: &[u8]) -> bool {
    let digits = presented.strip_prefix(PREFIX.as_bytes()).unwrap_or_default();
    digits.len() == 2 * RANDOM_BYTES && digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn hash(token: &[u8]) -> Hash {
    *blake3::hash(token).as_bytes()
}

/// What is stored of a token.
struct Row {
    name: String,
    hash: Hash,
    role: &'static str,
    created_at: String,
}

impl Row {
    fn of(new: &NewToken) -> Self {
        Self {
            name: new.name.clone(),
            hash: hash(new.token.reveal().as_bytes()),
            role: new.role.as_str(),
            created_at: new.created_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        }
    }
}

enum Inserted {
    Yes,
    NameTaken,
    Full,
}

fn insert(connection: &mut Connection, row: &Row) -> Result<Inserted, Failure> {
    let sql = "INSERT INTO api_tokens (name, hash, role, created_at) \
               SELECT ?1, ?2, ?3, ?4 WHERE (SELECT count(*) FROM api_tokens) < ?5";
    let values = params![row.name, row.hash, row.role, row.created_at, MAX_TOKENS];
    match connection.execute(sql, values) {
        Ok(0) => Ok(Inserted::Full),
        Ok(_) => Ok(Inserted::Yes),
        Err(e) if e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => Ok(Inserted::NameTaken),
        Err(e) => Err(e.into()),
    }
}

fn insert_if_first(connection: &mut Connection, row: &Row) -> Result<bool, Failure> {
    let sql = "INSERT INTO api_tokens (name, hash, role, created_at) \
               SELECT ?1, ?2, ?3, ?4 WHERE NOT EXISTS (SELECT 1 FROM api_tokens)";
    Ok(connection.execute(sql, params![row.name, row.hash, row.role, row.created_at])? > 0)
}

/// Compares with every token, to the end, so that the time says nothing about which one matched or how far.
fn find(connection: &mut Connection, hash: &Hash) -> Result<Option<Identity>, Failure> {
    let mut statement = connection.prepare_cached("SELECT name, hash, role FROM api_tokens")?;
    let mut rows = statement.query([])?;
    let mut found = None;
    while let Some(row) = rows.next()? {
        let stored = row.get_ref(1)?.as_blob().unwrap_or_default();
        let equal: Choice = hash.as_slice().ct_eq(stored);
        if bool::from(equal) {
            found = Some((row.get::<_, String>(0)?, row.get::<_, String>(2)?));
        }
    }
    let Some((name, role)) = found else { return Ok(None) };
    let role = Role::parse(&role).ok_or_else(|| Failure::row("api_tokens", &name, "role", &role))?;
    Ok(Some(Identity { name, role }))
}

fn list(connection: &mut Connection) -> Result<Vec<TokenInfo>, Failure> {
    let mut statement = connection.prepare_cached("SELECT name, role, created_at FROM api_tokens ORDER BY name")?;
    let mut rows = statement.query([])?;
    let mut tokens = Vec::new();
    while let Some(row) = rows.next()? {
        let (name, role): (String, String) = (row.get(0)?, row.get(1)?);
        let role = Role::parse(&role).ok_or_else(|| Failure::row("api_tokens", &name, "role", &role))?;
        tokens.push(TokenInfo { name, role, created_at: row.get(2)? });
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn tokens(default_token: Option<&str>) -> Tokens {
        Tokens::new(StateDb::in_memory().unwrap(), default_token.map(Secret::new))
    }

    #[tokio::test]
    async fn a_token_is_recognised_until_it_is_revoked_and_its_text_is_stored_nowhere() {
        let tokens = tokens(None);
        let new = tokens.create("grafana", Role::Read, NOW).await.unwrap();
        let text = new.token.reveal().to_owned();
        assert!(text.starts_with("arc_") && text.len() == 4 + 64, "{}", text.len());
        assert!(!format!("{new:?}").contains(&text));
        let identity = tokens.check(text.as_bytes(), Guesses::Left).await.unwrap();
        assert_eq!(identity, Some(Identity { name: "grafana".to_owned(), role: Role::Read }));
        let dump = |c: &mut Connection| {
            Ok(c.query_row("SELECT quote(name) || quote(hash) || role || created_at FROM api_tokens", [], |r| {
                r.get(0)
            })?)
        };
        let stored: String = tokens.state.read(dump).await.unwrap();
        assert!(!stored.contains(&text[4..]), "{stored}");
        tokens.revoke("grafana").await.unwrap();
        assert_eq!(tokens.check(text.as_bytes(), Guesses::Left).await.unwrap(), None);
        assert!(matches!(tokens.revoke("grafana").await, Err(TokenError::Unknown(_))));
    }

    #[tokio::test]
    async fn what_is_no_token_is_nobodys() {
        let tokens = tokens(Some("a default"));
        let new = tokens.create("a", Role::Admin, NOW).await.unwrap();
        let text = new.token.reveal();
        let (cut, longer, upper) = (&text[..text.len() - 1], format!("{text}0"), text.to_uppercase());
        for wrong in ["", "arc_", "a defaul", "a default ", cut, &longer, &upper] {
            assert_eq!(tokens.check(wrong.as_bytes(), Guesses::Left).await.unwrap(), None, "{wrong:?}");
        }
        assert_eq!(tokens.check(b"\xff\xfe", Guesses::Left).await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_configured_token_is_an_admin_while_it_is_configured_and_is_not_stored() {
        let tokens = tokens(Some("sesame"));
        let identity = tokens.check(b"sesame", Guesses::Left).await.unwrap().unwrap();
        assert_eq!(identity.role, Role::Admin);
        assert_eq!(tokens.list().await.unwrap(), []);
        let without = Tokens::new(tokens.state.clone(), None);
        assert_eq!(without.check(b"sesame", Guesses::Left).await.unwrap(), None);
    }

    #[tokio::test]
    async fn when_the_guesses_are_used_up_only_what_nobody_guesses_is_looked_at() {
        let made = random_token().unwrap();
        for (configured, still) in [("changeme-changeme-changeme", false), (made.reveal(), true)] {
            let tokens = tokens(Some(configured));
            let stored = tokens.create("a", Role::Read, NOW).await.unwrap();
            let known = async |token: &str| tokens.check(token.as_bytes(), Guesses::UsedUp).await.unwrap().is_some();
            assert_eq!(known(configured).await, still, "{configured}");
            assert!(known(stored.token.reveal()).await);
            assert!(!known("1234567890123457").await);
            assert!(tokens.check(configured.as_bytes(), Guesses::Left).await.unwrap().is_some());
        }
    }

    #[tokio::test]
    async fn names_are_unique_and_plain() {
        let tokens = tokens(None);
        tokens.create("ci", Role::Admin, NOW).await.unwrap();
        assert!(matches!(tokens.create("ci", Role::Read, NOW).await, Err(TokenError::NameTaken(_))));
        for bad in ["", "a b", "a\n", "ä", "default_token", &"x".repeat(65)] {
            assert!(matches!(tokens.create(bad, Role::Read, NOW).await, Err(TokenError::Name(_))), "{bad:?}");
        }
        let listed = tokens.list().await.unwrap();
        let created_at = "1970-01-01T00:00:00.000Z".to_owned();
        assert_eq!(listed, [TokenInfo { name: "ci".to_owned(), role: Role::Admin, created_at }]);
    }

    #[tokio::test]
    async fn there_is_one_first_token_and_none_where_there_is_a_way_in_already() {
        assert!(tokens(Some("x")).create_first(NOW).await.unwrap().is_none());
        let tokens = tokens(None);
        let first = tokens.create_first(NOW).await.unwrap().unwrap();
        assert_eq!(first.role, Role::Admin);
        assert!(tokens.check(first.token.reveal().as_bytes(), Guesses::Left).await.unwrap().is_some());
        assert!(tokens.create_first(NOW).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_number_of_tokens_is_bounded() {
        let tokens = tokens(None);
        for i in 0..MAX_TOKENS {
            tokens.create(&format!("t{i}"), Role::Read, NOW).await.unwrap();
        }
        assert!(matches!(tokens.create("more", Role::Read, NOW).await, Err(TokenError::TooMany)));
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_read_locks_nobody_else_out() {
        let tokens = tokens(None);
        let good = tokens.create("good", Role::Read, NOW).await.unwrap();
        let bad = tokens.create("bad", Role::Read, NOW).await.unwrap();
        let spoil = |c: &mut Connection| Ok(c.execute("UPDATE api_tokens SET role = 'king' WHERE name = 'bad'", [])?);
        tokens.state.write(spoil).await.unwrap();
        assert!(tokens.check(good.token.reveal().as_bytes(), Guesses::Left).await.unwrap().is_some());
        let error = tokens.check(bad.token.reveal().as_bytes(), Guesses::Left).await.unwrap_err().to_string();
        assert!(error.contains("api_tokens") && error.contains("king"), "{error}");
    }
}
