//! Cron schedules: five-field Unix cron, read strictly, and the next occurrence in a named time zone.
//!
//! ```text
//! ┌───────────── minute        0-59
//! │ ┌─────────── hour          0-23
//! │ │ ┌───────── day of month  1-31
//! │ │ │ ┌─────── month         1-12 or JAN-DEC
//! │ │ │ │ ┌───── day of week   0-7 or SUN-SAT; 0 and 7 are Sunday
//! 5 * * * *
//! ```
//!
//! Each field is a list of `*`, values and ranges, each with an optional `/step`. When both day fields are restricted,
//! a day that matches either one fires. `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly` and
//! `@annually` are short for what they say.
//!
//! What must hold: a schedule means here what it means in a crontab, or it is refused. Therefore there is no seconds
//! field, no year field, and none of the extensions (`L`, `W`, `#`, `?`) that other cron libraries know.
//!
//! Daylight saving follows Vixie cron: a fixed time that the clock jumps over fires right after the gap, and one that
//! the clock passes twice fires once; schedules whose hour or minute is `*` simply follow the elapsed time.
//!
//! Pure: nothing here looks at a clock.

use std::fmt;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// A cron expression that has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    text: String,
    cron: Cron,
}

/// Why a text is not a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The number of fields is wrong.
    #[error("a schedule has five fields (minute hour day-of-month month day-of-week), this one has {0}")]
    FieldCount(usize),
    /// A field cannot be read.
    #[error("{field}: {reason}")]
    Field {
        /// The name of the field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// An unknown `@name`.
    #[error("unknown name {0:?}: the names are @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually")]
    Name(String),
    /// No calendar has such a day.
    #[error("never fires: none of its months has such a day")]
    Never,
    /// The cron library refuses what the check above let through.
    #[error("{0}")]
    Other(String),
}

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// See [`ScheduleError`]; the message says which field is wrong and what it may hold.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let text = text.trim();
        let expanded = if text.starts_with('@') { nickname(text)? } else { text };
        let fields: Vec<&str> = expanded.split_whitespace().collect();
        if fields.len() != FIELDS.len() {
            return Err(ScheduleError::FieldCount(fields.len()));
        }
        let mut numeric = Vec::with_capacity(FIELDS.len());
        for (spec, field) in FIELDS.iter().zip(&fields) {
            numeric.push(spec.to_numbers(field).map_err(|reason| ScheduleError::Field { field: spec.name, reason })?);
        }
        let cron = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build()
            .parse(&numeric.join(" "))
            .map_err(|e| ScheduleError::Other(e.to_string()))?;
        if !has_a_day(&cron) {
            return Err(ScheduleError::Never);
        }
        Ok(Self { text: text.to_owned(), cron })
    }

    /// The first occurrence strictly after `after`, by the wall clock of `zone`. `None`: not before the year 5000.
    #[must_use]
    pub fn next_after(&self, after: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
        let next = self.cron.find_next_occurrence(&after.with_timezone(&zone), false).ok()?;
        Some(next.with_timezone(&Utc))
    }

    /// The schedule as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn nickname(text: &str) -> Result<&'static str, ScheduleError> {
    match text.to_ascii_lowercase().as_str() {
        "@hourly" => Ok("0 * * * *"),
        "@daily" | "@midnight" => Ok("0 0 * * *"),
        "@weekly" => Ok("0 0 * * 0"),
        "@monthly" => Ok("0 0 1 * *"),
        "@yearly" | "@annually" => Ok("0 0 1 1 *"),
        _ => Err(ScheduleError::Name(text.to_owned())),
    }
}

/// Whether any year has a day that the schedule names. 30 February would otherwise be searched for until the year 5000.
fn has_a_day(cron: &Cron) -> bool {
    const LONGEST: [u16; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let pattern = &cron.pattern;
    // A restricted day of week fires by itself, whatever the day of month says.
    if !pattern.is_dow_wildcard() {
        return true;
    }
    let (days, months) = (pattern.days.values(), pattern.months.values());
    months.iter().any(|&month| days.iter().any(|&day| day <= LONGEST[usize::from(month) - 1]))
}

/// What one field may hold.
struct Field {
    name: &'static str,
    min: u8,
    max: u8,
    /// Three-letter names, the first one standing for `first_name`.
    names: &'static [&'static str],
    first_name: u8,
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", min: 0, max: 59, names: &[], first_name: 0 },
    Field { name: "hour", min: 0, max: 23, names: &[], first_name: 0 },
    Field { name: "day of month", min: 1, max: 31, names: &[], first_name: 1 },
    Field {
        name: "month",
        min: 1,
        max: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
        first_name: 1,
    },
    Field {
        name: "day of week",
        min: 0,
        max: 7,
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
        first_name: 0,
    },
];

impl Field {
    /// Checks the field and rewrites it with plain numbers.
    fn to_numbers(&self, field: &str) -> Result<String, String> {
        let items: Result<Vec<String>, String> = field.split(',').map(|item| self.item(item)).collect();
        Ok(items?.join(","))
    }

    /// `*`, `value` or `first-last`, each perhaps with `/step`.
    fn item(&self, item: &str) -> Result<String, String> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(self.step(step)?)),
            None => (item, None),
        };
        let range = if range == "*" {
            "*".to_owned()
        } else if let Some((first, last)) = range.split_once('-') {
            let first = self.value(first)?;
            let mut last = self.value(last)?;
            // A week may be written as ending on Sunday.
            if self.max == 7 && last == 0 && first > 0 {
                last = 7;
            }
            if first > last {
                return Err(format!("the range {range:?} runs backwards"));
            }
            format!("{first}-{last}")
        } else if step.is_some() {
            return Err(format!("{item:?}: a step needs \"*\" or a range before it"));
        } else {
            self.value(range)?.to_string()
        };
        Ok(match step {
            Some(step) => format!("{range}/{step}"),
            None => range,
        })
    }

    fn step(&self, step: &str) -> Result<u8, String> {
        match plain_number(step) {
            Some(n) if (1..=self.max).contains(&n) => Ok(n),
            _ => Err(format!("the step {step:?} is not in 1-{}", self.max)),
        }
    }

    fn value(&self, value: &str) -> Result<u8, String> {
        if let Some(at) = self.names.iter().position(|name| value.eq_ignore_ascii_case(name)) {
            return Ok(self.first_name + u8::try_from(at).expect("there are at most twelve names"));
        }
        match plain_number(value) {
            Some(n) if (self.min..=self.max).contains(&n) => Ok(n),
            _ => Err(format!("{value:?} is not in {}-{}{}", self.min, self.max, self.hint())),
        }
    }

    fn hint(&self) -> String {
        match (self.names.first(), self.names.last()) {
            (Some(first), Some(last)) => format!(" or {}-{}", first.to_uppercase(), last.to_uppercase()),
            _ => String::new(),
        }
    }
}

/// Digits only: `u8::from_str` would also take a plus sign.
fn plain_number(text: &str) -> Option<u8> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(text: &str) -> DateTime<Utc> {
        format!("{}Z", text.replace(' ', "T")).parse().unwrap()
    }

    /// The next `n` occurrences, as UTC minutes.
    fn occurrences(schedule: &str, zone: Tz, after: &str, n: usize) -> Vec<String> {
        let schedule = Schedule::parse(schedule).unwrap();
        let mut at = utc(after);
        (0..n)
            .map(|_| {
                at = schedule.next_after(at, zone).unwrap();
                at.format("%Y-%m-%d %H:%M").to_string()
            })
            .collect()
    }

    /// T55: known dates, checked against a calendar.
    #[test]
    fn schedules_fire_on_the_known_dates() {
        let table: &[(&str, &str, &[&str])] = &[
            ("5 * * * *", "2025-10-08 15:05:00", &["2025-10-08 16:05", "2025-10-08 17:05"]),
            ("5 * * * *", "2025-12-31 23:05:00.5", &["2026-01-01 00:05"]),
            ("5 * * * *", "2025-10-08 16:04:59.999", &["2025-10-08 16:05"]),
            (
                "*/15 * * * *",
                "2025-10-08 16:00:00",
                &["2025-10-08 16:15", "2025-10-08 16:30", "2025-10-08 16:45", "2025-10-08 17:00"],
            ),
            ("0 3 * * *", "2025-10-08 03:00:00", &["2025-10-09 03:00"]),
            ("0 */6 * * *", "2025-10-08 12:30:00", &["2025-10-08 18:00", "2025-10-09 00:00"]),
            // 2025-10-12 is a Sunday; both ways of writing it, and the name.
            ("0 3 * * 0", "2025-10-08 00:00:00", &["2025-10-12 03:00", "2025-10-19 03:00"]),
            ("0 3 * * 7", "2025-10-08 00:00:00", &["2025-10-12 03:00", "2025-10-19 03:00"]),
            ("0 3 * * sun", "2025-10-08 00:00:00", &["2025-10-12 03:00", "2025-10-19 03:00"]),
            ("0 3 * * MON-FRI", "2025-10-10 04:00:00", &["2025-10-13 03:00", "2025-10-14 03:00"]),
            ("0 3 * * SAT-SUN", "2025-10-08 00:00:00", &["2025-10-11 03:00", "2025-10-12 03:00", "2025-10-18 03:00"]),
            ("0 3 * * 5-7", "2025-10-08 00:00:00", &["2025-10-10 03:00", "2025-10-11 03:00", "2025-10-12 03:00"]),
            // Month ends.
            ("0 0 31 * *", "2025-01-31 00:00:00", &["2025-03-31 00:00", "2025-05-31 00:00", "2025-07-31 00:00"]),
            ("0 0 30 * *", "2025-01-30 12:00:00", &["2025-03-30 00:00"]),
            ("59 23 28-31 * *", "2025-02-28 00:00:00", &["2025-02-28 23:59", "2025-03-28 23:59"]),
            // Leap days; 2100 is not a leap year.
            ("0 0 29 2 *", "2025-01-01 00:00:00", &["2028-02-29 00:00", "2032-02-29 00:00"]),
            ("0 0 29 FEB *", "2096-03-01 00:00:00", &["2104-02-29 00:00"]),
            // Either day field: the first of the month, or a Monday.
            ("0 0 1 * 1", "2025-10-28 00:00:00", &["2025-11-01 00:00", "2025-11-03 00:00", "2025-11-10 00:00"]),
            // Lists and stepped ranges.
            (
                "0,30 8-17/3 * * *",
                "2025-10-08 08:00:00",
                &["2025-10-08 08:30", "2025-10-08 11:00", "2025-10-08 11:30", "2025-10-08 14:00"],
            ),
            ("@hourly", "2025-10-08 16:00:00", &["2025-10-08 17:00"]),
            ("@daily", "2025-10-08 16:00:00", &["2025-10-09 00:00"]),
            ("@Midnight", "2025-10-08 16:00:00", &["2025-10-09 00:00"]),
            ("@weekly", "2025-10-08 16:00:00", &["2025-10-12 00:00"]),
            ("@monthly", "2025-10-08 16:00:00", &["2025-11-01 00:00"]),
            ("@yearly", "2025-10-08 16:00:00", &["2026-01-01 00:00"]),
            ("@annually", "2025-10-08 16:00:00", &["2026-01-01 00:00"]),
        ];
        for (schedule, after, expected) in table {
            assert_eq!(&occurrences(schedule, Tz::UTC, after, expected.len()), expected, "{schedule} after {after}");
        }
    }

    /// T55: Berlin goes from 02:00 to 03:00 on 2025-03-30 and from 03:00 back to 02:00 on 2025-10-26.
    #[test]
    fn daylight_saving_neither_drops_nor_doubles_a_fixed_time() {
        let berlin = Tz::Europe__Berlin;
        // 02:30 does not exist on the 30th: it fires when the clock has jumped, at 03:00 summer time.
        assert_eq!(
            occurrences("30 2 * * *", berlin, "2025-03-28 12:00:00", 3),
            ["2025-03-29 01:30", "2025-03-30 01:00", "2025-03-31 00:30"]
        );
        // 02:30 exists twice on the 26th: it fires once, the first time.
        assert_eq!(
            occurrences("30 2 * * *", berlin, "2025-10-25 12:00:00", 2),
            ["2025-10-26 00:30", "2025-10-27 01:30"]
        );
        // Every hour is every hour, with 23 or 25 of them in a day.
        assert_eq!(
            occurrences("5 * * * *", berlin, "2025-03-29 23:30:00", 3),
            ["2025-03-30 00:05", "2025-03-30 01:05", "2025-03-30 02:05"]
        );
        assert_eq!(
            occurrences("5 * * * *", berlin, "2025-10-25 23:30:00", 3),
            ["2025-10-26 00:05", "2025-10-26 01:05", "2025-10-26 02:05"]
        );
        // The same wall clock time is another instant in summer than in winter.
        assert_eq!(occurrences("0 3 * * *", berlin, "2025-07-01 12:00:00", 1), ["2025-07-02 01:00"]);
        assert_eq!(occurrences("0 3 * * *", berlin, "2025-12-01 12:00:00", 1), ["2025-12-02 02:00"]);
    }

    #[test]
    fn what_a_crontab_would_not_take_is_refused_with_the_reason() {
        let table: &[(&str, &str)] = &[
            ("", "five fields (minute hour day-of-month month day-of-week), this one has 0"),
            ("0 5 * * * *", "this one has 6"),
            ("* * * *", "this one has 4"),
            ("60 * * * *", "minute: \"60\" is not in 0-59"),
            ("0 24 * * *", "hour: \"24\" is not in 0-23"),
            ("0 0 0 * *", "day of month: \"0\" is not in 1-31"),
            ("0 0 1 13 *", "month: \"13\" is not in 1-12 or JAN-DEC"),
            ("0 0 * * 8", "day of week: \"8\" is not in 0-7 or SUN-SAT"),
            ("MON * * * *", "minute: \"MON\" is not in 0-59"),
            ("0 0 L * *", "day of month: \"L\" is not in 1-31"),
            ("0 0 ? * *", "day of month: \"?\" is not in 1-31"),
            ("0 0 * * 5#2", "day of week: \"5#2\" is not in 0-7"),
            ("*/0 * * * *", "minute: the step \"0\" is not in 1-59"),
            ("5/15 * * * *", "minute: \"5/15\": a step needs \"*\" or a range before it"),
            ("50-10 * * * *", "minute: the range \"50-10\" runs backwards"),
            ("+5 * * * *", "minute: \"+5\" is not in 0-59"),
            ("5, * * * *", "minute: \"\" is not in 0-59"),
            ("-5 * * * *", "minute: \"\" is not in 0-59"),
            ("0 0 30 2 *", "never fires"),
            ("0 0 31 4,6,9,11 *", "never fires"),
            ("@reboot", "unknown name \"@reboot\""),
            ("every hour", "this one has 2"),
        ];
        for (schedule, expected) in table {
            let error = Schedule::parse(schedule).expect_err(schedule).to_string();
            assert!(error.contains(expected), "{schedule:?}: {error}");
        }
    }

    #[test]
    fn surrounding_space_is_nothing_and_the_text_is_kept() {
        let schedule = Schedule::parse("  5  *\t* * * ").unwrap();
        assert_eq!(schedule.to_string(), "5  *\t* * *");
        assert_eq!(Schedule::parse("@hourly").unwrap().as_str(), "@hourly");
    }
}
