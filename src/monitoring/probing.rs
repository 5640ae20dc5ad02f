//! Asking something that may never answer, again and again, without piling up questions.

use std::time::Duration;

use tokio::task::JoinSet;

/// A question that is asked by one task at a time. One that hangs (a dead network mount) is not asked again until it has
/// answered, so a stuck storage costs one task and one thread, however often the service is probed.
#[derive(Debug, Default)]
pub(super) struct Probing {
    running: JoinSet<Result<(), String>>,
}

impl Probing {
    /// The answer, or after `limit` that there is none yet.
    pub(super) async fn ask(
        &mut self,
        limit: Duration,
        question: impl Future<Output = Result<(), String>> + Send + 'static,
    ) -> Result<(), String> {
        let is_late = !self.running.is_empty();
        if !is_late {
            self.running.spawn(question);
        }
        match tokio::time::timeout(limit, self.running.join_next()).await {
            // An answer to an old question says little about now; the next call asks anew.
            Ok(_) if is_late => Err("did not answer in time when it was asked last".to_owned()),
            Ok(Some(Ok(answer))) => answer,
            Ok(Some(Err(panic))) => Err(format!("the check itself failed: {panic}")),
            Ok(None) => unreachable!("one task is running"),
            Err(_) => Err(format!("did not answer within {} s", limit.as_secs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_hangs_is_asked_once_and_trusted_again_when_it_answers_in_time() {
        let (asked, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let question = || {
            let (asked, answer) = (Arc::clone(&asked), Arc::clone(&answer));
            async move {
                asked.fetch_add(1, Ordering::SeqCst);
                answer.notified().await;
                Ok(())
            }
        };
        let mut probing = Probing::default();
        let limit = Duration::from_secs(5);
        for _ in 0..3 {
            assert_eq!(probing.ask(limit, question()).await, Err("did not answer within 5 s".to_owned()));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        answer.notify_one();
        assert!(probing.ask(limit, question()).await.is_err());
        answer.notify_one();
        assert_eq!(probing.ask(limit, question()).await, Ok(()));
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_panic_is_a_failed_check() {
        let answer = Probing::default().ask(Duration::from_secs(5), async { panic!("bug") }).await;
        assert!(answer.unwrap_err().contains("the check itself failed"));
    }
}
