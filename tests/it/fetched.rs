//! Inputs that are fetched: from a bucket to a temp folder that all jobs share.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc as Shared, Mutex};

use arc::clock::SystemClock;
use arc::compaction::events::EventSink;
use arc::compaction::settings::Isolation;
use arc::compaction::{CompactionManager, CompactionSettings, Components, Reach, Scope};
use arc::config::{Config, Input};
use arc::lock::CompactionLock;
use arc::merge::resources::{detect, job_limits};
use arc::merge::{DuckDbEngine, MergeEngine, MergeError, MergeOutcome, MergeRequest, ProgressSink};
use arc::state::StateDb;
use arc::storage::Storage;
use async_trait::async_trait;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::sync::Barrier;
use tokio_util::sync::CancellationToken;

use crate::support::{Arc, rows_of};

/// Same hours, same measurements, and names that become each other when they are put together or lose their folders.
const PARTITIONS: [&str; 4] =
    ["a/cpu/2025/10/08/14", "a/cpu/2025/10/08/15", "a_a/cpu/2025/10/08/14", "a/a_cpu/2025/10/08/14"];
const NAMES: [&str; 6] = ["0.parquet", "x.parquet", "X.parquet", "x y.parquet", "x%20y.parquet", "000000_0.parquet"];

/// Merges when all jobs have fetched their inputs, and looks at those first.
#[derive(Debug)]
struct Looks {
    together: Barrier,
    local_names: Mutex<Vec<String>>,
}

#[async_trait]
impl MergeEngine for Looks {
    async fn merge(
        &self,
        request: MergeRequest,
        progress: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<MergeOutcome, MergeError> {
        self.together.wait().await;
        for input in &request.inputs {
            let rows = rows_of(std::slice::from_ref(&input.path));
            assert!(rows.iter().all(|row| row.contains(&format!("<{}>", input.name))), "{input:?}: {rows:?}");
            let local = input.path.file_name().unwrap().to_str().unwrap().to_owned();
            self.local_names.lock().unwrap().push(local);
        }
        self.together.wait().await;
        DuckDbEngine.merge(request, progress, cancel).await
    }
}

/// What a file holds: rows that say where they belong.
fn rows_for(partition: &str, name: &str) -> String {
    format!(
        "SELECT TIMESTAMP '2025-10-08 14:00:00' + to_milliseconds(i) AS time, '{partition}' AS partition, '<{name}>' AS name
         FROM range(50) r(i)"
    )
}

/// T3: however alike the names are, every input has a local file of its own, also among the jobs that run at the same time,
/// and what is compacted is, value by value, what was there.
#[tokio::test]
async fn inputs_of_the_same_base_name_are_fetched_to_files_of_their_own() {
    let arc = Arc::with(&format!("min_files = 2\nsettle_seconds = 0\nmax_concurrent_jobs = {}", PARTITIONS.len()));
    let store = Shared::new(InMemory::new());
    for partition in PARTITIONS {
        for name in NAMES {
            let local = arc.write("made/x/2000/01/01/00", "one.parquet", &rows_for(partition, name));
            let key = Key::parse(format!("{partition}/{name}")).unwrap();
            store.put(&key, fs::read(local).unwrap().into()).await.unwrap();
        }
    }
    let config = Config::load(&Input { file: Some(arc.config_file()), ..Input::default() }).unwrap();
    let state = StateDb::open(&config.state.db_path).unwrap();
    let clock = Shared::new(SystemClock);
    let settings = CompactionSettings { isolation: Isolation::InProcess, ..config.compaction };
    let engine = Shared::new(Looks { together: Barrier::new(PARTITIONS.len()), local_names: Mutex::default() });
    let shared: Shared<dyn ObjectStore> = store.clone();
    let components = Components {
        storage: Storage::over(shared, "memory://bucket"),
        locks: Shared::new(CompactionLock::new(state.clone(), clock.clone())),
        state,
        engine: engine.clone(),
        clock,
        limits: job_limits(detect(), None, None, settings.max_concurrent_jobs),
        events: EventSink::ignore(),
        seed: 7,
    };
    let manager = CompactionManager::new(components, settings);
    let scope = Scope { reach: Reach::Everything, ..Scope::default() };

    let report = manager.run_compaction_cycle(scope, CancellationToken::new()).await.unwrap();

    assert_eq!((report.jobs_completed, report.files_compacted), (4, 24), "{report:#?}");
    let names = engine.local_names.lock().unwrap().clone();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), PARTITIONS.len() * NAMES.len(), "{names:#?}");
    for partition in PARTITIONS {
        let listed = store.list_with_delimiter(Some(&Key::parse(partition).unwrap())).await.unwrap().objects;
        let [output] = &listed[..] else { panic!("{partition}: {listed:?}") };
        let bytes = store.get(&output.location).await.unwrap().bytes().await.unwrap();
        let local = arc.put("made/x/2000/01/01/00", "output.parquet", &bytes);
        let expected: Vec<_> = NAMES
            .iter()
            .map(|name| {
                let file = format!("expected {}.parquet", name.replace('%', "percent"));
                arc.write("made/x/2000/01/01/01", &file, &rows_for(partition, name))
            })
            .collect();
        assert_eq!(rows_of(&[local]), rows_of(&expected), "{partition}");
        for file in expected {
            fs::remove_file(file).unwrap();
        }
    }
}
