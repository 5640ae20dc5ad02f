//! What happened, drawn: one line an effect, one lane for everybody who causes any.

use std::fmt;
use std::time::Duration;

/// One step of a simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub at: Duration,
    pub who: String,
    pub what: String,
    pub object: String,
    pub outcome: String,
}

/// All of them. Shown with `Display`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct TimeLine {
    lines: Vec<Line>,
}

impl TimeLine {
    pub fn push(&mut self, line: Line) {
        self.lines.push(line);
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }
}

/// The lane of a caller: all starts of a worker share one.
fn lane(who: &str) -> &str {
    who.split('.').next().unwrap_or(who)
}

impl fmt::Display for TimeLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lanes: Vec<&str> = self.lines.iter().map(|line| lane(&line.who)).collect();
        lanes.sort_unstable();
        lanes.dedup();
        writeln!(f, "{:>12}  {}", "seconds", lanes.join(" "))?;
        for line in &self.lines {
            write!(f, "{:>12.3}  ", line.at.as_secs_f64())?;
            for name in &lanes {
                let mark = if *name == lane(&line.who) { '●' } else { '│' };
                write!(f, "{mark:<width$}", width = name.len() + 1)?;
            }
            writeln!(f, " {:<9} {:<14} {} -> {}", line.who, line.what, line.object, line.outcome)?;
        }
        Ok(())
    }
}
