//! Whether a kernel from which nothing comes is still there.

use std::time::Duration;

use tokio::time::Instant;

use super::{beats, FeedTask, MISSED};
use crate::bytes::Id;
use crate::kernel_events::KernelEvent;
use crate::link::Call;
use crate::link_task::Outgoing;
use crate::socket::{Socket, FULL_RETRY};
use crate::wire::{decode_reply, Body};

const CONTROL_TIMEOUT: Duration = Duration::from_secs(1);

impl FeedTask {
    /// Ask the control socket when three heartbeats are missing (SPEC.md, §3.1). A kernel that hangs keeps its
    /// connections, so nothing else shows it.
    pub(super) fn watch(&mut self) {
        self.drain(); // this task may have had no turn: what waits in the socket comes first
        self.watch_at = Instant::now() + self.beat;
        let beating = self.cursors.iter().any(|cursor| beats(cursor, self.lease));
        let silent = self.down || self.last_word.elapsed() > MISSED * self.beat;
        if !silent || !beating || self.heard.is_some() || self.asking.is_some() || !self.client.inner.link.ready() {
            return;
        }
        self.asking = Some(Box::pin(answers(self.client.inner.control.clone())));
    }

    /// A kernel that answers may have sent events that did not come.
    pub(super) fn answered(&mut self, answers: bool) {
        if !self.client.inner.link.ready() {
            return;
        }
        if !answers {
            if !std::mem::replace(&mut self.down, true) {
                let reason = "no heartbeat, and no answer from its control socket".to_owned();
                self.shared.queue().put(KernelEvent::KernelLost { reason });
            }
            return;
        }
        if std::mem::take(&mut self.down) {
            let instance = self.client.instance();
            self.shared.queue().put(KernelEvent::KernelFound { instance, restarted: false });
        }
        self.last_word = Instant::now();
        for cursor in self.cursors.iter_mut().filter(|cursor| beats(cursor, self.lease)) {
            cursor.behind = true;
        }
    }
}

/// Whether a control socket answers.
async fn answers(endpoint: String) -> bool {
    let Ok(mut dealer) = Socket::probe(&endpoint) else { return false };
    let budget = CONTROL_TIMEOUT.as_millis() as u64;
    let question = Outgoing::new(&Id::random(), budget, 0, Call::new("health", Body::new(), Vec::new()));
    let asked = async {
        let mut sent = false;
        loop {
            sent = sent || dealer.send(question.frames());
            match dealer.receive() {
                Some(frames) => {
                    if decode_reply(frames).is_ok() {
                        return;
                    }
                }
                None if dealer.pending() => {}
                None => tokio::select! {
                    () = dealer.changed() => {}
                    () = tokio::time::sleep(FULL_RETRY), if !sent => {}
                },
            }
        }
    };
    tokio::time::timeout(CONTROL_TIMEOUT, asked).await.is_ok()
}
