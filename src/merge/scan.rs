//! Reads every value of every input and keeps nothing: does that bring the process down?
//!
//! This is how a file that crashes the engine is told from its neighbours, in a child process. It reads like a second
//! attempt does, footers first, then the data through the engine, but each file on its own and whatever its schema. An
//! ordinary error is no finding: the merge meets it as well, and sets the file aside with the reason.

use tokio_util::sync::CancellationToken;

use super::budget::Budget;
use super::session::{Session, StatementError};
use super::survey::survey;
use super::work_dir::WorkDir;
use super::{MergeError, MergeRequest, sql};

/// Reads the inputs of `request`, blocking the thread. Works in the request's folder; `Ok` says only that this process has
/// lived to say it.
pub fn scan(request: &MergeRequest, cancel: &CancellationToken) -> Result<(), MergeError> {
    survey(&request.inputs, &request.limits, cancel, &|_| ())?;
    let work = WorkDir::prepare(&request.work_dir, &request.inputs)?;
    // Hashing holds no rows, so the width of a row does not matter.
    let budget = Budget::new(&request.limits, &request.options, 0);
    let session = Session::open(work.text(), &work.real_inputs(), &request.limits, &budget, cancel)?;
    for path in (0..request.inputs.len()).map(|index| work.input(index)) {
        match session.execute(&sql::read_everything(&path)) {
            Err(StatementError::Cancelled) => return Err(MergeError::Cancelled),
            // Not for this file to answer for: the limit is the job's.
            Err(StatementError::OutOfMemory(detail)) => {
                return Err(MergeError::OutOfMemory { detail, limit_bytes: request.limits.memory_bytes });
            }
            Ok(_) | Err(StatementError::SpillFull(_) | StatementError::DiskFull(_) | StatementError::Other(_)) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::testing::request;

    #[test]
    fn a_scan_survives_nothing_missing_files_and_files_that_are_no_parquet() {
        let work = tempfile::tempdir().unwrap();
        let mut asked = request(&["missing", "garbage"]);
        asked.work_dir = work.path().join("scan");
        asked.inputs[1].path = work.path().join("garbage's *.parquet");
        std::fs::create_dir(&asked.work_dir).unwrap();
        std::fs::write(&asked.inputs[1].path, "PAR1 garbage PAR1").unwrap();
        scan(&asked, &CancellationToken::new()).unwrap();

        asked.inputs.clear();
        asked.work_dir = work.path().join("nothing");
        std::fs::create_dir(&asked.work_dir).unwrap();
        scan(&asked, &CancellationToken::new()).unwrap();
    }

    #[test]
    fn a_scan_decodes_the_data_of_a_single_file() {
        let work = tempfile::tempdir().unwrap();
        let file = work.path().join("a.parquet");
        let engine = ::duckdb::Connection::open_in_memory().unwrap();
        let copy = format!(
            "COPY (SELECT range AS time, 'x' AS host FROM range(1000)) TO {}",
            sql::literal(file.to_str().unwrap())
        );
        engine.execute(&copy, []).unwrap();
        let everything = sql::read_everything(file.to_str().unwrap());
        let hashed: Option<u64> = engine.query_row(&everything, [], |row| row.get(0)).unwrap();
        assert!(hashed.is_some(), "no row was read");
        let mut asked = request(&["a"]);
        asked.work_dir = work.path().to_path_buf();
        asked.inputs[0].path = file;
        scan(&asked, &CancellationToken::new()).unwrap();
    }
}
