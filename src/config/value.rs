//! Values, the kinds of values that a key may hold, and how they are read from TOML and from text.

use std::fmt;
use std::ops::RangeInclusive;

use toml::de::DeValue;

/// A value, checked against the kind of its key.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Bool(bool),
    Integer(u64),
    Number(f64),
    Text(String),
    List(Vec<String>),
}

/// What a key may hold.
#[derive(Debug, Clone)]
pub enum Kind {
    Bool,
    Integer(RangeInclusive<u64>),
    Number(RangeInclusive<f64>),
    /// One of these words, in any case; the value is the word as it stands here.
    Choice(&'static [&'static str]),
    /// Any text that the function accepts. It returns the rule that is broken.
    Text(fn(&str) -> Result<(), String>),
    /// Texts, in an environment variable separated by commas; the function checks the whole list.
    List(fn(&[String]) -> Result<(), String>),
}

const TRUE: [&str; 4] = ["true", "1", "yes", "on"];
const FALSE: [&str; 4] = ["false", "0", "no", "off"];

impl Kind {
    /// Reads a value from an environment variable or a flag.
    pub(super) fn parse(&self, text: &str) -> Result<Value, String> {
        match self {
            Self::Bool => word_to_bool(text).ok_or_else(|| self.rule()),
            Self::Integer(_) => {
                let digits = text.bytes().all(|b| b.is_ascii_digit());
                match text.parse() {
                    Ok(n) if digits => self.check(Value::Integer(n)),
                    _ => Err(self.rule()),
                }
            }
            Self::Number(_) => match text.parse() {
                Ok(n) => self.check(Value::Number(n)),
                Err(_) => Err(self.rule()),
            },
            Self::Choice(_) | Self::Text(_) => self.check(Value::Text(text.to_owned())),
            Self::List(_) if text.trim().is_empty() => self.check(Value::List(Vec::new())),
            Self::List(_) => self.check(Value::List(text.split(',').map(|item| item.trim().to_owned()).collect())),
        }
    }

    /// Reads a value from a TOML file.
    pub(super) fn parse_toml(&self, value: &DeValue<'_>) -> Result<Value, String> {
        match (self, value) {
            (Self::Bool, DeValue::Boolean(b)) => Ok(Value::Bool(*b)),
            (Self::Bool, DeValue::String(word)) => word_to_bool(word).ok_or_else(|| self.rule()),
            (Self::Integer(_), DeValue::Integer(n)) => match u64::from_str_radix(n.as_str(), n.radix()) {
                Ok(n) => self.check(Value::Integer(n)),
                Err(_) => Err(self.rule()),
            },
            (Self::Number(_), DeValue::Integer(n)) if n.radix() == 10 => self.parse(n.as_str()),
            (Self::Number(_), DeValue::Float(n)) => self.parse(n.as_str()),
            (Self::Choice(_) | Self::Text(_), DeValue::String(text)) => self.check(Value::Text(text.to_string())),
            (Self::List(_), DeValue::Array(items)) => {
                let texts: Option<Vec<String>> =
                    items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect();
                texts.map_or_else(|| Err(self.rule()), |texts| self.check(Value::List(texts)))
            }
            _ => Err(format!("{}, this is {}", self.rule(), with_article(value.type_str()))),
        }
    }

    /// Accepts the value, in its standard form, or says which rule it breaks.
    fn check(&self, value: Value) -> Result<Value, String> {
        match (self, value) {
            (Self::Integer(range), Value::Integer(n)) if range.contains(&n) => Ok(Value::Integer(n)),
            (Self::Number(range), Value::Number(n)) if range.contains(&n) => Ok(Value::Number(n)),
            (Self::Choice(words), Value::Text(text)) => {
                let word = words.iter().find(|word| word.eq_ignore_ascii_case(&text));
                word.map(|word| Value::Text((*word).to_owned())).ok_or_else(|| self.rule())
            }
            (Self::Text(check), Value::Text(text)) => check(&text).map(|()| Value::Text(text)),
            (Self::List(check), Value::List(items)) => check(&items).map(|()| Value::List(items)),
            _ => Err(self.rule()),
        }
    }

    /// What a value must be, for messages and documentation.
    #[must_use]
    pub fn rule(&self) -> String {
        match self {
            Self::Bool => "must be true or false (also 1, 0, yes, no, on, off)".to_owned(),
            Self::Integer(range) => format!("must be a whole number from {} to {}", range.start(), range.end()),
            Self::Number(range) => format!("must be a number from {} to {}", range.start(), range.end()),
            Self::Choice([only]) => format!("must be \"{only}\", this version has no other"),
            Self::Choice(words) => format!("must be one of \"{}\"", words.join("\", \"")),
            Self::Text(_) => "must be a text".to_owned(),
            Self::List(_) => "must be a list of texts".to_owned(),
        }
    }
}

fn word_to_bool(word: &str) -> Option<Value> {
    let is_one_of = |words: [&str; 4]| words.iter().any(|w| w.eq_ignore_ascii_case(word));
    (is_one_of(TRUE) || is_one_of(FALSE)).then(|| Value::Bool(is_one_of(TRUE)))
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}

/// The setters take a value apart through these. A wrong kind is a mistake in the table of keys, which a test finds by
/// loading the defaults.
impl Value {
    const MISMATCH: &str = "a value has the kind of its key";

    pub(super) fn bool(&self) -> bool {
        if let Self::Bool(b) = self { *b } else { panic!("{}: {self:?}", Self::MISMATCH) }
    }

    pub(super) fn integer(&self) -> u64 {
        if let Self::Integer(n) = self { *n } else { panic!("{}: {self:?}", Self::MISMATCH) }
    }

    pub(super) fn number(&self) -> f64 {
        if let Self::Number(n) = self { *n } else { panic!("{}: {self:?}", Self::MISMATCH) }
    }

    pub(super) fn text(&self) -> &str {
        if let Self::Text(text) = self { text } else { panic!("{}: {self:?}", Self::MISMATCH) }
    }

    pub(super) fn list(&self) -> &[String] {
        if let Self::List(items) = self { items } else { panic!("{}: {self:?}", Self::MISMATCH) }
    }

    /// The value as JSON.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Bool(b) => (*b).into(),
            Self::Integer(n) => (*n).into(),
            Self::Number(n) => (*n).into(),
            Self::Text(text) => text.as_str().into(),
            Self::List(items) => items.clone().into(),
        }
    }
}

/// As it is written in the file.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(b) => b.fmt(f),
            Self::Integer(n) => n.fmt(f),
            Self::Number(n) => write!(f, "{n:?}"),
            Self::Text(text) => toml::Value::from(text.as_str()).fmt(f),
            Self::List(items) => toml::Value::from(items.clone()).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_for_true_and_false_counts_in_any_case() {
        for (word, expected) in
            [("true", true), ("TRUE", true), ("1", true), ("Yes", true), ("oN", true), ("false", false)]
                .into_iter()
                .chain([("0", false), ("NO", false), ("Off", false)])
        {
            assert_eq!(Kind::Bool.parse(word), Ok(Value::Bool(expected)), "{word}");
        }
        for word in ["", "y", "2", "truee", " true"] {
            assert!(Kind::Bool.parse(word).is_err(), "{word:?}");
        }
    }

    #[test]
    fn a_number_is_digits_within_its_range() {
        let kind = Kind::Integer(1..=9);
        assert_eq!(kind.parse("9"), Ok(Value::Integer(9)));
        for bad in ["0", "10", "-1", "+1", "1.0", "1e0", "", " 1", "99999999999999999999999"] {
            assert_eq!(kind.parse(bad), Err("must be a whole number from 1 to 9".to_owned()), "{bad:?}");
        }
        let kind = Kind::Number(0.0..=1.0);
        assert_eq!(kind.parse("0.25"), Ok(Value::Number(0.25)));
        for bad in ["nan", "inf", "1.01", "-0.1", ""] {
            assert!(kind.parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn toml_values_of_another_type_are_refused_by_name() {
        let read = |kind: Kind, toml: &str| kind.parse_toml(DeValue::parse(toml).unwrap().get_ref());
        assert_eq!(read(Kind::Integer(1..=99), "0x10"), Ok(Value::Integer(16)));
        assert_eq!(read(Kind::Integer(1..=99), "1_0"), Ok(Value::Integer(10)));
        assert_eq!(read(Kind::Number(0.0..=1.0), "1"), Ok(Value::Number(1.0)));
        assert_eq!(read(Kind::Bool, "'off'"), Ok(Value::Bool(false)));
        assert_eq!(
            read(Kind::Integer(1..=99), "\"5\""),
            Err("must be a whole number from 1 to 99, this is a string".to_owned())
        );
        assert!(read(Kind::Bool, "1").is_err());
        assert!(read(Kind::Integer(1..=99), "-5").is_err());
        assert!(read(Kind::List(|_| Ok(())), "['a', 1]").is_err());
        assert!(read(Kind::List(|_| Ok(())), "'a'").is_err());
    }

    #[test]
    fn a_list_in_text_is_separated_by_commas() {
        let kind = Kind::List(|_| Ok(()));
        assert_eq!(kind.parse(" host , time"), Ok(Value::List(vec!["host".to_owned(), "time".to_owned()])));
        assert_eq!(kind.parse(" "), Ok(Value::List(Vec::new())));
    }

    #[test]
    fn values_are_shown_as_the_file_would_have_them() {
        assert_eq!(Value::Text("a\"b\\".to_owned()).to_string(), r#"'a"b\'"#);
        assert_eq!(Value::Text("zstd".to_owned()).to_string(), "\"zstd\"");
        assert_eq!(Value::Number(1.0).to_string(), "1.0");
        assert_eq!(Value::List(vec!["time".to_owned()]).to_string(), "[\"time\"]");
        assert_eq!(Value::List(vec![]).to_string(), "[]");
    }
}
