//! The dashboard: one page without anything from elsewhere, which asks the API for what it shows.
//!
//! What must hold: the page itself contains no data, so it needs no token; it asks for one and keeps it for the life of
//! the browser's tab. Its script and style run because they carry the nonce of this answer, and nothing else can run:
//! a name that got into the page as markup, for all the care that it takes, would be dead text.

use std::fmt::Write as _;

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};

const PAGE: &str = include_str!("dashboard.html");
/// Stands in the page where the nonce belongs.
const NONCE: &str = "{{nonce}}";

/// `GET /`.
#[must_use]
pub fn page() -> Response {
    let nonce = nonce();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Html(PAGE.replace(NONCE, &nonce))).into_response()
}

/// 128 random bits as 32 hexadecimal digits, new for every answer.
fn nonce() -> String {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_nothing_from_elsewhere_and_never_makes_markup_of_data() {
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "http://",
            "https://",
            "localStorage",
            " style=",
            " onclick=",
        ] {
            assert!(!PAGE.contains(word), "{word}");
        }
        assert_eq!(PAGE.matches(NONCE).count(), 2, "one style, one script");
    }

    #[tokio::test]
    async fn the_policy_allows_this_answers_own_script_and_style_only() {
        let policies: Vec<String> = [page(), page()]
            .iter()
            .map(|answer| answer.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned())
            .collect();
        assert_ne!(policies[0], policies[1], "a nonce is used once");
        assert!(policies[0].starts_with("default-src 'none'; script-src 'nonce-"));
        assert!(!policies[0].contains("unsafe"));
    }
}
