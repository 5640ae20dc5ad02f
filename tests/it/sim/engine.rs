//! A merge engine over rows with numbers: reads local files, sorts, writes local files, in this thread. It proves nothing:
//! what it must hold is checked from outside, against what was written.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arc::merge::{
    LINEAGE_INPUTS_KEY, LINEAGE_PART_KEY, MergeEngine, MergeError, MergeOutcome, MergeRequest, MergedFile,
    ProgressSink, SetAside, SetAsideReason, TimeBound,
};
use arc::partition::CompactedName;
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::rows::{Row, decode, encode, padded};
use super::wire::{Caller, Fault, Kind};
use super::world::{Planted, World};

#[derive(Debug)]
pub struct SimEngine {
    pub world: Arc<World>,
    pub caller: Caller,
    /// More rows begin another output.
    pub rows_per_output: usize,
    /// Of every output.
    pub padding_bytes: usize,
}

#[async_trait]
impl MergeEngine for SimEngine {
    async fn merge(
        &self,
        request: MergeRequest,
        _: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<MergeOutcome, MergeError> {
        let object = format!("{} files into {}", request.inputs.len(), request.output_stem);
        let (planted, shape) = (self.world.planted, (self.rows_per_output, self.padding_bytes));
        let call = (Kind::Merge, "merge", object);
        assert_ne!(planted, Planted::JobPanics, "a planted panic of a job");
        let merged = self.world.wire.call(&self.caller, call, move |fault| match fault {
            Some(Fault::Refused) => (Err(MergeError::Worker("the child died".to_owned())), "CHILD DIED".to_owned()),
            _ if !request.work_dir.is_dir() => (Err(MergeError::Cancelled), "too late".to_owned()),
            _ => (merge(&request, shape, planted), "ok".to_owned()),
        });
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(MergeError::Cancelled),
            merged = merged => merged,
        }
    }
}

fn merge(
    request: &MergeRequest,
    (rows_per_output, padding_bytes): (usize, usize),
    planted: Planted,
) -> Result<MergeOutcome, MergeError> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| MergeError::Io { action, path, source }
    };
    let (mut rows, mut consumed, mut set_aside) = (Vec::new(), Vec::new(), Vec::new());
    for (index, input) in request.inputs.iter().enumerate() {
        if planted == Planted::MergeRetiresUnread && index == 1 {
            consumed.push(input.name.clone());
            continue;
        }
        let bytes = fs::read(&input.path).map_err(io("read", &input.path))?;
        match decode(bytes.into()) {
            Ok(read) => {
                rows.extend(read);
                consumed.push(input.name.clone());
            }
            Err(error) => set_aside
                .push(SetAside { name: input.name.clone(), reason: SetAsideReason::Unreadable(error.to_string()) }),
        }
    }
    if consumed.is_empty() {
        return Err(MergeError::NothingToMerge(set_aside));
    }
    rows.sort_unstable();
    match planted {
        Planted::MergeLosesRow => drop(rows.pop()),
        Planted::MergeDoublesRow => rows.push(*rows.last().expect("files have rows")),
        Planted::MergeDoesNotSort => rows.reverse(),
        _ => {}
    }
    let lineage = serde_json::to_string(&consumed).expect("names are text");
    let parts: Vec<&[Row]> = rows.chunks(rows_per_output).collect();
    let count = u32::try_from(parts.len()).expect("few");
    let mut outputs = Vec::new();
    for (part, rows) in (1..).zip(&parts) {
        let name = CompactedName::from_stem(&request.output_stem, part, count);
        let metadata = [(LINEAGE_INPUTS_KEY, lineage.clone()), (LINEAGE_PART_KEY, format!("{part}/{count}"))];
        let bytes = padded(&encode(rows, &metadata), padding_bytes);
        let path = request.work_dir.join(&name);
        fs::write(&path, &bytes).map_err(io("write", &path))?;
        let times = rows.iter().map(|r| r.time);
        outputs.push(MergedFile {
            name,
            path,
            size_bytes: bytes.len() as u64,
            rows: rows.len() as u64,
            min_time: times.clone().min().map(TimeBound::Integer),
            max_time: times.max().map(TimeBound::Integer),
            checksum: format!("blake3:{}", blake3::hash(&bytes).to_hex()),
        });
    }
    Ok(MergeOutcome {
        outputs,
        consumed,
        set_aside,
        rows: rows.len() as u64,
        fingerprint: None,
        slices: parts.len(),
        peak_memory_bytes: 0,
        engine: "simulated".to_owned(),
    })
}
