//! The example of embedding does what it says.

#[allow(dead_code, reason = "its main function is for `cargo run`")]
#[path = "../../examples/embed.rs"]
mod example;

#[test]
fn an_application_with_arc_inside_compacts_through_the_api_and_stops_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = crate::support::block_on(example::run(folder.path())).unwrap();
    assert_eq!(outcome.hello, "hello");
    assert_eq!(outcome.history["total_jobs"], 1, "{outcome:#?}");
    assert_eq!(outcome.history["recent_jobs"][0]["status"], "completed", "{outcome:#?}");
    assert_eq!(outcome.history["recent_jobs"][0]["files_compacted"], 5, "{outcome:#?}");
    assert!(outcome.stopped.is_clean(), "{outcome:#?}");
}
