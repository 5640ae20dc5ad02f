//! Readers by the snapshot rule: they may be told to try again, and never see wrong rows. And checks as by `arc verify`:
//! they may be unable to look, and never raise a false alarm.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc::compaction::snapshot;
use arc::compaction::verify::{Checked, Depth, Finding, Kind, Severity};
use arc::compaction::{CompactionManager, Scope};
use arc::partition::PartitionId;
use arc::storage::Storage;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::excuse::Work;
use super::rows::decode;
use super::store::SimStore;
use super::wire::Caller;
use super::world::World;

/// How many looks came to an end.
#[derive(Debug, Clone, Default)]
pub struct Looks(Arc<AtomicU64>);

impl Looks {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Looks at one partition after the other, again and again.
pub async fn read_for_ever(
    world: Arc<World>,
    caller: Caller,
    partitions: Vec<PartitionId>,
    looks: Looks,
) -> Infallible {
    let store: Arc<dyn ObjectStore> = Arc::new(SimStore::new(&world, &caller));
    let storage = Storage::over(Arc::clone(&store), "sim");
    loop {
        for partition in &partitions {
            let began = world.truth().now();
            let before = world.truth().rows(partition);
            let work = Work::begins(&world, &caller);
            match look(&storage, &*store, partition).await {
                Ok(seen) => {
                    looks.0.fetch_add(1, Ordering::SeqCst);
                    world.truth().check_reader(partition, (began, &before), seen);
                }
                Err(error) if !work.is_excused(Some(partition)) => {
                    world.truth().breaks("no excuse", &format!("{caller} cannot read {partition}: {error}"));
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Checks everything, again and again.
pub async fn verify_for_ever(world: Arc<World>, caller: Caller, manager: CompactionManager) -> Infallible {
    loop {
        let work = Work::begins(&world, &caller);
        // What the next cycle clears may be there.
        for finding in findings(&manager).await.into_iter().filter(|f| f.severity > Severity::Info) {
            let partition: Option<PartitionId> = finding.partition_path.as_ref().map(|path| path.parse().unwrap());
            let is_unchecked = finding.kind == Kind::Unchecked && !finding.detail.contains("does not exist");
            if is_unchecked && work.is_excused(partition.as_ref()) {
                continue;
            }
            // An attempt whose inputs somebody removed is for a person to look at.
            let for_a_person = matches!(finding.kind, Kind::UndecidedAttemptWithoutInputs | Kind::RecordsMissing);
            if for_a_person && partition.is_some_and(|partition| work.is_for_a_person(&partition)) {
                continue;
            }
            world.truth().breaks("false alarm", &format!("{finding:?}"));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Everything that a check says.
pub async fn findings(manager: &CompactionManager) -> Vec<Finding> {
    let checked: Vec<Checked> = manager.verify(Scope::default(), Depth::Footers).collect().await;
    checked.into_iter().flat_map(|checked| checked.findings).collect()
}

/// The numbers of all rows that count. Where a file cannot be read, the rule says to look again.
async fn look(
    storage: &Storage,
    store: &dyn ObjectStore,
    partition: &PartitionId,
) -> Result<Vec<i64>, Box<dyn Error + Send + Sync>> {
    let snapshot = snapshot::live_files(storage, partition).await?;
    let mut seen = Vec::new();
    for file in &snapshot.files {
        let key = Path::parse(format!("{partition}/{}", file.name)).unwrap();
        let bytes = store.get(&key).await?.bytes().await?;
        // Damaged files have no rows that anybody could see.
        if let Ok(rows) = decode(bytes) {
            seen.extend(rows.iter().map(|r| r.number));
        }
    }
    Ok(seen)
}
