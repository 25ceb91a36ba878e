//! How a connection comes and goes: what the socket's monitor says, reconnects, hello, silence.

use std::time::Duration;

use tokio::time::Instant;

use super::{Asked, LinkTask, HELLO_RETRY, IN_FLIGHT, RECONNECT};
use crate::bytes::Bin;
use crate::error::{Code, Error};
use crate::link::{Call, Phase, Session};
use crate::socket::Change;
use crate::wire::{Body, Reply};

const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
const HELLO_RETRY_MAX: Duration = Duration::from_secs(2);
const REFUSED_RETRY: Duration = Duration::from_secs(5);
/// A server may take the connection of our own dead predecessor for a live one, until its next heartbeat.
const CONFLICT_GRACE: Duration = Duration::from_secs(3);
/// Without a word from the server: ask whether it still knows us.
const SILENCE: Duration = Duration::from_secs(4);
/// Without a word from us: the server gives us up after 30 s.
const IDLE: Duration = Duration::from_secs(10);
/// The longest wait for the next attempt to connect.
const RECONNECT_MAX: Duration = Duration::from_millis(250);
/// The same where connections end before their handshake: waiting a moment does not change what listens there.
const STRANGE_MAX: Duration = Duration::from_millis(3_200);

impl<S: Session> LinkTask<S> {
    pub(super) fn noticed(&mut self, change: Change) {
        match change {
            Change::Down => self.disconnected(),
            _ if self.connect_at.is_some() => {} // about a connection that was given up
            Change::Up => self.connected(),
            Change::Failed => {
                self.state.send_modify(|state| state.strange = false); // nothing listens there
                self.reconnect();
            }
        }
    }

    fn connected(&mut self) {
        self.shaken = true;
        self.connect_delay = RECONNECT;
        self.state.send_modify(|state| state.strange = false);
        self.greet();
    }

    fn disconnected(&mut self) {
        self.drain(usize::MAX); // replies that came before the loss
        let strange = !std::mem::take(&mut self.shaken);
        self.state.send_modify(|state| state.strange = strange);
        self.stop_greeting();
        self.reconnect();
        self.lose("the connection was lost");
    }

    /// Drop the connection, with all that is queued for its server, and make another one soon.
    fn reconnect(&mut self) {
        if self.connect_at.is_some() {
            return;
        }
        self.dealer.disconnect(&self.endpoint);
        self.dealer_due = true; // that may have consumed an edge
        let share = f64::from(Bin::<1>::random()[0]) / 256.0;
        let longest = if self.state.borrow().strange { STRANGE_MAX } else { RECONNECT_MAX };
        self.connect_at = Some(Instant::now() + self.connect_delay.min(longest) + RECONNECT.mul_f64(share));
        self.connect_delay = (self.connect_delay * 2).min(longest);
    }

    /// What was asked on this connection has no answer any more; nothing of it may reach a successor.
    pub(super) fn lose(&mut self, reason: &str) {
        let was_ready = self.ready();
        self.outbox.clear();
        self.session_at = None;
        self.set(Phase::Connecting);
        self.fail_asked(&Error::new(Code::PeerRestarted, reason));
        if was_ready {
            self.session.lost(reason);
        }
    }

    pub(super) fn greet(&mut self) {
        self.stop_greeting();
        self.set(Phase::Greeting);
        self.hello_delay = HELLO_RETRY;
        self.say_hello();
    }

    fn stop_greeting(&mut self) {
        self.hello_at = None;
        self.hello_until = None;
    }

    pub(super) fn say_hello(&mut self) {
        self.hello_at = None;
        self.hello_until = Some(Instant::now() + HELLO_TIMEOUT);
        self.asked.retain(|_, asked| !matches!(asked, Asked::Hello)); // an answer to an older one is late
        let call = Call::new("hello", self.session.hello(), Vec::new());
        self.put(HELLO_TIMEOUT.as_millis() as u64, call, Asked::Hello);
    }

    pub(super) fn hello_answered(&mut self, reply: Reply) {
        self.stop_greeting();
        let accepted = match &reply.error {
            Some(error) if error.code == Code::UnknownMethod => {
                Err(Error::bad(format!("{} takes no hello: is it a control socket?", self.endpoint)))
            }
            Some(error) => Err(error.clone()),
            None => self.session.greeted(&reply),
        };
        if let Err(error) = accepted {
            return self.hello_failed(error);
        }
        self.instance = Some(reply.instance);
        self.greeted_once = true;
        self.conflict_since = None;
        self.in_flight = in_flight_limit(&reply).unwrap_or(IN_FLIGHT);
        self.state.send_modify(|state| {
            state.phase = Phase::Ready;
            state.put_off = None;
        });
    }

    pub(super) fn hello_failed(&mut self, error: Error) {
        self.hello_until = None;
        let delay = if self.worth_waiting(&error) {
            self.hello_delay = (self.hello_delay * 2).min(HELLO_RETRY_MAX);
            self.state.send_modify(|state| state.put_off = Some(error.clone()));
            self.hello_delay
        } else {
            let first = self.refusal().is_none();
            self.set(Phase::Refused(error.clone()));
            self.fail_waiting(&error);
            if first && self.greeted_once {
                self.session.lost(&error.to_string());
            }
            REFUSED_RETRY
        };
        self.hello_at = Some(Instant::now() + delay.max(error.retry_after.unwrap_or_default()));
    }

    fn worth_waiting(&mut self, error: &Error) -> bool {
        if error.code != Code::Conflict {
            return error.retriable;
        }
        let now = Instant::now();
        now - *self.conflict_since.get_or_insert(now) < CONFLICT_GRACE
    }

    pub(super) fn check_alive(&mut self, now: Instant) {
        let Some(method) = S::KEEPALIVE.filter(|_| self.ready()) else { return };
        if now - self.heard < SILENCE && now - self.spoke < IDLE {
            return;
        }
        // No answer: a hung server. Its return, or the loss of the connection, is noticed elsewhere.
        self.asked.retain(|_, asked| !matches!(asked, Asked::Probe(since) if now - *since >= SILENCE));
        if self.asked.values().any(|asked| matches!(asked, Asked::Probe(_))) {
            return;
        }
        let call = Call::new(method, Body::new(), Vec::new());
        self.put(SILENCE.as_millis() as u64, call, Asked::Probe(now));
    }
}

fn in_flight_limit(reply: &Reply) -> Option<usize> {
    let limits = &reply.body["limits"];
    limits["in_flight"].as_u64().filter(|limit| *limit > 0).map(|limit| limit as usize)
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::link::State;
    use crate::socket::Socket;

    struct Nothing;

    impl Session for Nothing {
        const KEEPALIVE: Option<&'static str> = None;

        fn hello(&mut self) -> Body {
            Body::new()
        }

        fn greeted(&mut self, _reply: &Reply) -> crate::error::Result<()> {
            Ok(())
        }

        fn lost(&mut self, _reason: &str) {}
    }

    /// libzmq says when it is to wait for its next attempt; a handshake of the one before may be reported after that.
    #[test]
    fn a_handshake_of_a_connection_that_was_given_up_is_not_taken_for_the_next_one() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let (dealer, monitor) = Socket::dealer().unwrap();
        let (said, state) = watch::channel(State { phase: Phase::Connecting, put_off: None, strange: false });
        let mut task = LinkTask::new("ipc:///a/path/without/a/server", dealer, monitor, Nothing, said);
        task.noticed(Change::Failed);
        task.noticed(Change::Up);
        assert!(matches!(state.borrow().phase, Phase::Connecting));
        task.connect_at = None;
        task.noticed(Change::Up);
        assert!(matches!(state.borrow().phase, Phase::Greeting));
    }
}
