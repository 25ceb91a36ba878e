//! The task that owns a connection's socket.

mod greeting;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch, Notify};
use tokio::time::Instant;

use crate::bytes::{Bin, Id};
use crate::contract::HELLO_FIRST;
use crate::error::{Code, Error};
use crate::link::{Call, Phase, Request, Session, State};
use crate::socket::{Socket, FULL_RETRY};
use crate::wire::{decode_reply, is_event, request_header, Reply, MAGIC, NO_REPLY};

const HELLO_RETRY: Duration = Duration::from_millis(100);
/// Until the next attempt to connect, which double; up to the first more at random. A server lets in a few dozen clients at
/// a time, and after a restart all come at once (§1).
const RECONNECT: Duration = Duration::from_millis(50);
const TICK: Duration = Duration::from_secs(1);
/// Requests in flight until the hello says how many.
const IN_FLIGHT: usize = 64;
const MAX_BUDGET_MS: u64 = 3_600_000;
/// Messages taken in one round, so that requests get their turn.
const ROUND: usize = 256;

enum Asked {
    Hello,
    Probe(Instant),
    Request(Request),
}

/// A message to a server.
pub(crate) struct Outgoing {
    header: Vec<u8>,
    call: Arc<Call>,
}

impl Outgoing {
    pub fn new(id: &Id, budget_ms: u64, flags: u64, call: Arc<Call>) -> Self {
        Outgoing { header: request_header(id, &call.method, budget_ms, flags), call }
    }

    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let Call { body, blobs, .. } = &*self.call;
        [MAGIC, &self.header, body].into_iter().chain(blobs.iter().map(Vec::as_slice))
    }
}

/// Correlation ids: 8 random bytes and a number. Fresh random ones would be a system call each.
struct Ids {
    prefix: Bin<8>,
    count: u64,
}

impl Ids {
    fn next(&mut self) -> Id {
        self.count += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.prefix);
        id[8..].copy_from_slice(&self.count.to_be_bytes());
        Bin(id)
    }
}

pub(crate) struct LinkTask<S> {
    endpoint: String,
    dealer: Socket,
    monitor: Socket,
    session: S,
    state: watch::Sender<State>,
    waiting: VecDeque<Request>,
    asked: HashMap<Id, Asked>,
    /// Messages that the socket did not take. What is meant for one connection never reaches the next.
    outbox: VecDeque<Outgoing>,
    ids: Ids,
    /// The socket may have something to receive. Not looked at for nothing: each look is a system call.
    dealer_due: bool,
    monitor_due: bool,
    in_flight: usize,
    instance: Option<Id>,
    greeted_once: bool,
    conflict_since: Option<Instant>,
    hello_delay: Duration,
    /// When to say hello, or to give one up.
    hello_at: Option<Instant>,
    hello_until: Option<Instant>,
    session_at: Option<Instant>,
    /// When to connect again; until then the socket has no connection.
    connect_at: Option<Instant>,
    connect_delay: Duration,
    tick_at: Instant,
    heard: Instant,
    spoke: Instant,
    shaken: bool,
    ended: Option<Error>,
}

impl<S: Session> LinkTask<S> {
    pub fn new(endpoint: &str, dealer: Socket, monitor: Socket, session: S, state: watch::Sender<State>) -> Self {
        let now = Instant::now();
        LinkTask {
            endpoint: endpoint.to_owned(),
            dealer,
            monitor,
            session,
            state,
            waiting: VecDeque::new(),
            asked: HashMap::new(),
            outbox: VecDeque::new(),
            ids: Ids { prefix: Bin::random(), count: 0 },
            dealer_due: true,
            monitor_due: true,
            in_flight: IN_FLIGHT,
            instance: None,
            greeted_once: false,
            conflict_since: None,
            hello_delay: HELLO_RETRY,
            hello_at: None,
            hello_until: None,
            session_at: None,
            connect_at: None,
            connect_delay: RECONNECT,
            tick_at: now + TICK,
            heard: now,
            spoke: now,
            shaken: false,
            ended: None,
        }
    }

    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>, wake: Arc<Notify>, end: Arc<Notify>) {
        let mut sleep = std::pin::pin!(tokio::time::sleep_until(self.tick_at));
        while self.ended.is_none() {
            let more = self.round();
            let wake_at = self.next_wake();
            if sleep.deadline() != wake_at {
                sleep.as_mut().reset(wake_at);
            }
            // A bound on what waits here: beyond it callers keep their requests.
            let room = self.waiting.len() < self.in_flight;
            tokio::select! {
                biased;
                () = end.notified() => self.ended = Some(Error::closed()),
                request = requests.recv(), if room => match request {
                    Some(request) => self.waiting.push_back(request),
                    None => self.ended = Some(Error::closed()), // no handle is left
                },
                () = tokio::task::yield_now(), if more => {}
                () = wake.notified() => {}
                () = self.dealer.changed() => self.dealer_due = true,
                () = self.monitor.changed() => self.monitor_due = true,
                () = &mut sleep => {}
            }
            while self.waiting.len() < self.in_flight {
                match requests.try_recv() {
                    Ok(request) => self.waiting.push_back(request),
                    Err(_) => break,
                }
            }
        }
        let error = self.ended.take().unwrap_or_else(Error::closed);
        self.set(Phase::Closed(error.clone()));
        self.fail_asked(&error);
        self.fail_waiting(&error);
        requests.close();
        while let Some(request) = requests.recv().await {
            let _ = request.answer.send(Err(error.clone()));
        }
    }

    /// Do all that can be done now. True: there is more to receive.
    fn round(&mut self) -> bool {
        if std::mem::take(&mut self.monitor_due) {
            while let Some(change) = self.monitor.change() {
                self.noticed(change);
            }
        }
        if std::mem::take(&mut self.dealer_due) {
            self.dealer_due = !self.drain(ROUND);
        }
        self.timers();
        self.dispatch();
        if self.flush() {
            self.dealer_due |= self.dealer.pending(); // sending may have consumed an edge
        }
        self.dealer_due
    }

    fn next_wake(&self) -> Instant {
        let timers = [self.hello_at, self.hello_until, self.session_at, self.connect_at, Some(self.tick_at)];
        let next = timers.into_iter().flatten().min().unwrap_or(self.tick_at);
        if self.outbox.is_empty() {
            next
        } else {
            next.min(Instant::now() + FULL_RETRY)
        }
    }

    fn timers(&mut self) {
        let now = Instant::now();
        if self.connect_at.is_some_and(|at| at <= now) {
            while self.monitor.change().is_some() {} // about the connection that was given up
            self.connect_at = None;
            let _ = self.dealer.connect(&self.endpoint); // it took this endpoint before
            self.dealer_due = true; // that may have consumed an edge
        }
        if self.hello_at.is_some_and(|at| at <= now) {
            self.say_hello();
        }
        if self.hello_until.is_some_and(|until| until <= now) {
            self.asked.retain(|_, asked| !matches!(asked, Asked::Hello));
            self.hello_failed(Error::late("hello"));
        }
        if self.tick_at <= now {
            self.tick_at = now + TICK;
            self.forget_given_up();
            self.check_alive(now);
        }
    }

    // -- requests ----------------------------------------------------------------------------------------------------

    fn ready(&self) -> bool {
        matches!(self.state.borrow().phase, Phase::Ready)
    }

    fn refusal(&self) -> Option<Error> {
        match &self.state.borrow().phase {
            Phase::Refused(error) => Some(error.clone()),
            _ => None,
        }
    }

    fn set(&self, phase: Phase) {
        self.state.send_modify(|state| state.phase = phase);
    }

    fn dispatch(&mut self) {
        if let Some(error) = self.refusal() {
            self.fail_waiting(&error);
        }
        if self.asked.len() >= self.in_flight {
            self.forget_given_up();
        }
        while self.ready() && self.asked.len() < self.in_flight {
            let Some(request) = self.waiting.pop_front() else { break };
            let left = request.deadline.saturating_duration_since(Instant::now()).as_millis() as u64;
            if request.answer.is_closed() || left == 0 {
                let _ = request.answer.send(Err(Error::late(&request.call.method)));
                continue;
            }
            let call = request.call.clone();
            self.put(left.min(MAX_BUDGET_MS), call, Asked::Request(request));
        }
        if self.ready() {
            let mut calls = Vec::new();
            self.session_at =
                self.session.outgoing(&mut |method, body| calls.push(Call::new(method, body, Vec::new())));
            for call in calls {
                self.spoke = Instant::now();
                self.outbox.push_back(Outgoing::new(&self.ids.next(), 0, NO_REPLY, call));
            }
        }
    }

    fn put(&mut self, budget_ms: u64, call: Arc<Call>, asked: Asked) {
        let id = self.ids.next();
        self.asked.insert(id, asked);
        self.spoke = Instant::now();
        self.outbox.push_back(Outgoing::new(&id, budget_ms, 0, call));
    }

    /// Send what the socket takes. False: it was not used.
    fn flush(&mut self) -> bool {
        if self.outbox.is_empty() {
            return false;
        }
        while self.outbox.front().is_some_and(|message| self.dealer.send(message.frames())) {
            self.outbox.pop_front();
        }
        true
    }

    /// Callers that did not wait to the end leave their places.
    fn forget_given_up(&mut self) {
        self.asked.retain(|_, asked| !matches!(asked, Asked::Request(request) if request.answer.is_closed()));
        self.waiting.retain(|request| !request.answer.is_closed());
    }

    fn fail_asked(&mut self, error: &Error) {
        for (_, asked) in self.asked.drain() {
            if let Asked::Request(request) = asked {
                let _ = request.answer.send(Err(error.clone()));
            }
        }
    }

    fn fail_waiting(&mut self, error: &Error) {
        for request in self.waiting.drain(..) {
            let _ = request.answer.send(Err(error.clone()));
        }
    }

    // -- what comes in -----------------------------------------------------------------------------------------------

    /// Receive at most so many messages; false: there may be more.
    fn drain(&mut self, most: usize) -> bool {
        for _ in 0..most {
            let Some(frames) = self.dealer.receive() else { return true };
            self.heard = Instant::now();
            if is_event(&frames) {
                if let Err(error) = self.session.event(frames) {
                    self.ended = Some(error);
                    return true;
                }
            } else if let Ok(reply) = decode_reply(frames) {
                self.reply(reply);
            } // else garbage: there is nothing in it to answer to
        }
        false
    }

    fn reply(&mut self, reply: Reply) {
        let instance = reply.instance;
        let hello_wanted = reply.error.as_ref().is_some_and(wants_hello);
        match self.asked.remove(&reply.id) {
            Some(Asked::Hello) => self.hello_answered(reply),
            // The server does not know this connection, so it did nothing: the request may go out again.
            Some(Asked::Request(request)) if hello_wanted => self.waiting.push_front(request),
            Some(Asked::Request(request)) => {
                let answer = match &reply.error {
                    Some(error) => Err(error.clone()),
                    None => Ok(reply),
                };
                let _ = request.answer.send(answer);
            }
            Some(Asked::Probe(_)) | None => {} // late, or of a connection that is gone
        }
        let restarted = self.meet(instance);
        if self.ready() && (restarted || hello_wanted) {
            let reason = if restarted { "the server was restarted" } else { "the server does not know us any more" };
            self.lose(reason);
            self.greet();
        }
    }

    /// Note who answers; true: it is another instance than before.
    fn meet(&mut self, instance: Id) -> bool {
        self.instance.replace(instance).is_some_and(|known| known != instance)
    }
}

fn wants_hello(error: &Error) -> bool {
    error.code == Code::NotReady && error.message == HELLO_FIRST
}
