//! What the section of an object store must say, and what it must not contradict. Only the section of the backend in use is
//! looked at: the others may be half filled in.

use super::{BACKEND, Found};
use crate::config::problem::Problem;

pub(super) fn check(backend: &str, found: &mut Found) {
    let mut section = Section { backend, found };
    match backend {
        "azure" => {
            section.needs("container", "the name of an existing container");
            section.needs_unless("account", &["AZURE_STORAGE_ACCOUNT_NAME"], "the name of the storage account");
            section.azure_endpoint_is_a_url();
        }
        "gcs" => section.needs("bucket", "the name of an existing bucket"),
        _ => {
            section.needs("bucket", "the name of an existing bucket");
            section.keys_come_in_pairs();
            section.scheme_agrees();
            section.dots_need_path_style();
            if backend != "s3" {
                section.needs("endpoint", "host and port of the store, such as minio.example.com:9000");
                section.needs_unless(
                    "access_key",
                    &["AWS_ACCESS_KEY_ID", "AWS_ROLE_ARN"],
                    "an access key of the store",
                );
            }
        }
    }
}

struct Section<'a> {
    backend: &'a str,
    found: &'a mut Found,
}

impl Section<'_> {
    fn key(&self, name: &str) -> String {
        format!("storage.{}.{name}", self.backend)
    }

    fn text(&self, name: &str) -> String {
        self.found.value(&self.key(name)).0.text().to_owned()
    }

    fn is_true(&self, name: &str) -> bool {
        self.found.value(&self.key(name)).0.bool()
    }

    /// The key has a value that is right by itself, and this is wrong with it.
    fn refuse(&mut self, name: &str, rule: impl Into<String>) {
        let key = self.key(name);
        let (value, source) = self.found.value(&key).clone();
        self.found.problems.push(Problem::with_value(&key, value.to_string(), source, rule));
    }

    fn needs(&mut self, name: &str, what: &str) {
        self.needs_unless(name, &[], what);
    }

    /// The key must have a value, or one of these variables.
    fn needs_unless(&mut self, name: &str, variables: &[&str], what: &str) {
        let key = self.key(name);
        if self.found.is_wrong(&key) || !self.text(name).is_empty() || self.found.credentials.first(variables).is_some()
        {
            return;
        }
        let source = self.found.value(BACKEND).1.clone();
        let rule = format!("is needed with storage.backend = \"{}\": {what}", self.backend);
        self.found.problems.push(Problem::new(&key, source, rule));
    }

    /// Half of a pair, in the file or in the environment, is never what was meant.
    fn keys_come_in_pairs(&mut self) {
        let missing = |has: &str| format!("is needed, because {has} is set");
        let (access, secret) = (!self.text("access_key").is_empty(), !self.text("secret_key").is_empty());
        if access != secret {
            let (there, absent) = if access { ("access_key", "secret_key") } else { ("secret_key", "access_key") };
            let (key, source) = (self.key(absent), self.found.value(&self.key(there)).1.clone());
            if !self.found.is_wrong(&key) {
                self.found.problems.push(Problem::new(&key, source, missing(&self.key(there))));
            }
        } else if !access {
            let pair = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
            let there = pair.map(|name| self.found.credentials.first(&[name]).is_some());
            if there[0] != there[1] {
                let (there, absent) = if there[0] { (pair[0], pair[1]) } else { (pair[1], pair[0]) };
                let source = crate::config::Source::Environment(absent.to_owned());
                self.found.problems.push(Problem::new("", source, missing(there)));
            }
        }
    }

    fn scheme_agrees(&mut self) {
        let endpoint = self.text("endpoint");
        let use_ssl = self.is_true("use_ssl");
        let path = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, rest)| rest);
        if path.trim_end_matches('/').contains('/') {
            self.refuse("endpoint", "must have no path: the bucket has a key of its own");
        } else if endpoint.starts_with("http://") && use_ssl {
            self.refuse("endpoint", format!("is plain HTTP: set {} = false, or write https://", self.key("use_ssl")));
        } else if endpoint.starts_with("https://") && !use_ssl {
            self.refuse(
                "endpoint",
                format!("is HTTPS, which {} = false forbids: change one of them", self.key("use_ssl")),
            );
        }
    }

    /// A certificate for `*.host` does not hold for `a.b.host`, and an address has no names below it.
    fn dots_need_path_style(&mut self) {
        if self.is_true("path_style") {
            return;
        }
        let endpoint = self.text("endpoint");
        let host = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, rest)| rest).trim_end_matches('/');
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        if self.is_true("use_ssl") && self.text("bucket").contains('.') {
            self.refuse("path_style", "must be true for a bucket with a dot in its name: no TLS certificate fits it");
        } else if host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok() {
            self.refuse("path_style", "must be true for an endpoint that is an address: there are no names below it");
        }
    }

    fn azure_endpoint_is_a_url(&mut self) {
        let endpoint = self.text("endpoint");
        if !endpoint.is_empty() && !endpoint.contains("://") {
            self.refuse("endpoint", "must begin with https:// (or http:// for a test server)");
        }
    }
}
