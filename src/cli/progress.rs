//! Progress bars for `arc compact` on a terminal: one for the partitions, one for each running job.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::format;
use crate::compaction::events::{Event, EventSink};
use crate::merge::{MergeProgress, MergeStep};

/// How often the elapsed time is drawn anew.
const TICK: Duration = Duration::from_millis(250);

/// The bars. They live on standard error.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Mutex<Bars>>);

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    partitions: ProgressBar,
    jobs: HashMap<String, Job>,
}

#[derive(Debug)]
struct Job {
    bar: ProgressBar,
    /// When the merge of slices began: the rate is that of the merge, not of what came before.
    merge_began: Option<Instant>,
}

impl Progress {
    #[must_use]
    pub fn start() -> Self {
        let all = MultiProgress::new();
        let partitions = all.add(ProgressBar::new(0).with_style(style("partitions [{bar:30}] {pos}/{len} {elapsed}")));
        // The clock runs also while nothing is finished.
        partitions.enable_steady_tick(TICK);
        Self(Arc::new(Mutex::new(Bars { all, partitions, jobs: HashMap::new() })))
    }

    /// Draws what happens.
    #[must_use]
    pub fn sink(&self) -> EventSink {
        let bars = Arc::clone(&self.0);
        EventSink::new(move |event| bars.lock().unwrap_or_else(PoisonError::into_inner).show(event))
    }

    /// Removes the bars.
    pub fn finish(self) {
        let bars = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bars.partitions.finish_and_clear();
        // Nothing can be done about a terminal that went away.
        let _ = bars.all.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates in this file are valid").progress_chars("=> ")
}

impl Bars {
    fn show(&mut self, event: Event) {
        match event {
            Event::CandidatesFound { count } => self.partitions.set_length(count as u64),
            Event::JobStarted { job_id, partition, files, bytes } => {
                let template = "  {prefix} [{bar:20}] {msg}";
                let bar = self.all.add(ProgressBar::new(bytes.max(1)).with_style(style(template)));
                bar.set_prefix(format!(
                    "{partition} ({}, {})",
                    format::count(files as u64, "file"),
                    format::bytes(bytes)
                ));
                self.jobs.insert(job_id, Job { bar, merge_began: None });
            }
            Event::JobStep { job_id, step } => {
                if let Some(job) = self.jobs.get(&job_id) {
                    job.bar.set_message(step.as_str());
                }
            }
            Event::JobProgress { job_id, progress } => {
                if let Some(job) = self.jobs.get_mut(&job_id) {
                    job.advance(progress);
                }
            }
            Event::JobFinished(report) => {
                if let Some(job) = self.jobs.remove(&report.job_id) {
                    job.bar.finish_and_clear();
                }
            }
            Event::PartitionDone { .. } => self.partitions.inc(1),
            Event::CycleStarted { .. }
            | Event::Recovered { .. }
            | Event::LeaseLost { .. }
            | Event::CycleFinished(_) => {}
        }
    }
}

impl Job {
    fn advance(&mut self, progress: MergeProgress) {
        let message = match progress.step {
            MergeStep::Survey => format!("survey {}/{} files", progress.done, progress.total),
            MergeStep::Scan => "scan".to_owned(),
            MergeStep::Merge => {
                self.bar.set_position(progress.input_bytes_done);
                let began = *self.merge_began.get_or_insert_with(Instant::now);
                self.rate(progress, began.elapsed().as_secs_f64())
            }
            MergeStep::Stitch => "stitch".to_owned(),
            MergeStep::Prove => "prove".to_owned(),
        };
        self.bar.set_message(message);
    }

    #[allow(clippy::cast_precision_loss, reason = "for people")]
    fn rate(&self, progress: MergeProgress, seconds: f64) -> String {
        let slices = format!("slice {}/{}", progress.done, progress.total);
        let bytes = progress.input_bytes_done as f64;
        if seconds < 0.1 || bytes == 0.0 {
            return slices;
        }
        let per_second = bytes / seconds;
        let left = self.bar.length().unwrap_or(0).saturating_sub(progress.input_bytes_done) as f64 / per_second;
        format!("{slices}, {:.0} MB/s, {left:.0} s left", per_second / (1024.0 * 1024.0))
    }
}
