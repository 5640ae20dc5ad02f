//! `arc verify`: does storage agree with its records? Changes nothing.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use futures::StreamExt;
use serde_json::json;

use super::format;
use super::globals::GlobalArgs;
use super::scope::ScopeArgs;
use crate::compaction::events::EventSink;
use crate::compaction::verify::{Depth, Finding, Severity};
use crate::config::Config;
use crate::server::build_manager;
use crate::telemetry::{self, LogStream};

/// `arc verify …`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    scope: ScopeArgs,

    /// Also read every byte and row of the compacted files that count
    #[arg(long)]
    deep: bool,
}

/// Runs the command. The exit code is 1 when something was found that needs a person.
pub async fn run(args: &VerifyArgs, globals: &GlobalArgs, config: &Config) -> anyhow::Result<ExitCode> {
    telemetry::init(&config.logging, LogStream::Stderr)?;
    let manager = build_manager(config, EventSink::ignore())?;
    let depth = if args.deep { Depth::Content } else { Depth::Footers };
    let mut checks = manager.verify(args.scope.to_scope(), depth);
    let mut out = io::stdout().lock();
    let mut sums = Sums::default();
    let mut all = Vec::new();
    while let Some(checked) = checks.next().await {
        sums.partitions += u64::from(checked.is_partition);
        sums.files += checked.files;
        for finding in &checked.findings {
            *sums.of(finding.severity) += 1;
        }
        if globals.json {
            all.extend(checked.findings);
        } else {
            // At once: a large storage takes long.
            print(&checked.findings, &mut out)?;
        }
    }
    if globals.json {
        let found = json!({ "partitions_checked": sums.partitions, "files_checked": sums.files, "findings": all });
        writeln!(out, "{found:#}")?;
    } else {
        sums.print(depth, &mut out)?;
    }
    Ok(if sums.errors + sums.warnings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Debug, Default)]
struct Sums {
    partitions: u64,
    files: u64,
    errors: u64,
    warnings: u64,
    infos: u64,
}

impl Sums {
    fn of(&mut self, severity: Severity) -> &mut u64 {
        match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
            Severity::Info => &mut self.infos,
        }
    }

    fn print(&self, depth: Depth, out: &mut impl Write) -> io::Result<()> {
        let looked = match depth {
            Depth::Footers => "records and footers; --deep also reads every row",
            Depth::Content => "records, footers, bytes and rows",
        };
        let (partitions, files) = (format::count(self.partitions, "partition"), format::count(self.files, "file"));
        write!(out, "checked {partitions}, {files} ({looked}): ")?;
        if self.errors + self.warnings + self.infos == 0 {
            return writeln!(out, "nothing found");
        }
        let (errors, warnings) = (format::count(self.errors, "error"), format::count(self.warnings, "warning"));
        writeln!(out, "{errors}, {warnings}, {} that the next cycle clears", format::thousands(self.infos))
    }
}

/// The findings of one place.
pub fn print(findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    /// Files named before the rest is only counted.
    const FILES_SHOWN: usize = 8;
    if let Some(place) = findings.first().and_then(|f| f.partition_path.as_ref()) {
        writeln!(out, "{place}")?;
    }
    for finding in findings {
        let severity = match finding.severity {
            Severity::Error => "ERROR",
            Severity::Warning => "WARNING",
            Severity::Info => "info",
        };
        let kind = serde_json::to_value(finding.kind)?;
        writeln!(out, "  {severity} {}", kind.as_str().unwrap_or_default())?;
        for file in finding.files.iter().take(FILES_SHOWN) {
            writeln!(out, "    {file}")?;
        }
        if finding.files.len() > FILES_SHOWN {
            writeln!(out, "    … and {} more", format::thousands((finding.files.len() - FILES_SHOWN) as u64))?;
        }
        writeln!(out, "    why:    {}", finding.detail)?;
        writeln!(out, "    remedy: {}", finding.remedy)?;
    }
    if !findings.is_empty() {
        writeln!(out)?;
    }
    Ok(())
}
