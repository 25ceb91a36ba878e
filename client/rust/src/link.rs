//! One DEALER to a server of the contract: hello, concurrent requests, reconnect (SPEC.md, §2).
//!
//! Phases: connecting (no server, or a lost one) → greeting (hello is on its way) → ready → connecting …; refused is a
//! server that is there and refuses our hello: requests fail with its reason, hello is tried again slowly.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch, Notify};
use tokio::time::{timeout_at, Instant};

use crate::error::{Code, Error, Result};
use crate::link_task::LinkTask;
use crate::socket::Socket;
use crate::wire::{Body, Frames, Reply};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// Requests that wait for a place in flight; callers beyond that wait to hand theirs over.
const QUEUE: usize = 64;

/// What a client does with its connection. Runs in the connection's task, so nothing in it may block.
pub(crate) trait Session: Send + 'static {
    /// A request without effect, sent after silence so that a server that forgot us says so.
    const KEEPALIVE: Option<&'static str>;

    /// The body of a hello, made for each attempt.
    fn hello(&mut self) -> Body;

    /// A hello was accepted; runs before any event behind it is seen. An error counts as a refusal.
    fn greeted(&mut self, reply: &Reply) -> Result<()>;

    /// A connection that was ready is lost, or refused.
    fn lost(&mut self, reason: &str);

    /// An event of the app's stream. An error ends the connection for good: that is what requests get from then on.
    fn event(&mut self, _frames: Frames) -> Result<()> {
        Ok(())
    }

    /// What to send without waiting for an answer, and when to ask again. Called after each round of a ready connection.
    fn outgoing(&mut self, _send: &mut dyn FnMut(&'static str, Body)) -> Option<Instant> {
        None
    }
}

/// Where a connection stands.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    Connecting,
    Greeting,
    Ready,
    Refused(Error),
    Closed(Error),
}

#[derive(Debug, Clone)]
pub(crate) struct State {
    pub phase: Phase,
    /// Why the server does not accept us yet.
    pub put_off: Option<Error>,
    /// The last connection ended before its handshake.
    pub strange: bool,
}

/// What a request says, however often it goes out.
pub(crate) struct Call {
    pub method: String,
    pub body: Vec<u8>,
    pub blobs: Vec<Vec<u8>>,
}

impl Call {
    pub fn new(method: &str, body: Body, blobs: Vec<Vec<u8>>) -> Arc<Self> {
        Arc::new(Call { method: method.to_owned(), body: body.encode(), blobs })
    }
}

/// A request on its way.
pub(crate) struct Request {
    pub call: Arc<Call>,
    pub deadline: Instant,
    pub answer: oneshot::Sender<Result<Reply>>,
}

/// The handle of a connection; the connection ends with the last one.
#[derive(Clone)]
pub(crate) struct Link {
    endpoint: Arc<str>,
    requests: mpsc::Sender<Request>,
    state: watch::Receiver<State>,
    end: Arc<Notify>,
}

impl Link {
    /// Start connecting. `wake` makes the task ask the session for what is to be sent.
    pub fn open<S: Session>(endpoint: &str, session: S, wake: Arc<Notify>) -> Result<Link> {
        let (dealer, monitor) = Socket::dealer()?;
        dealer.connect(endpoint)?;
        let (requests, incoming) = mpsc::channel(QUEUE);
        let (said, state) = watch::channel(State { phase: Phase::Connecting, put_off: None, strange: false });
        let end = Arc::new(Notify::new());
        let task = LinkTask::new(endpoint, dealer, monitor, session, said);
        tokio::spawn(task.run(incoming, wake, end.clone()));
        Ok(Link { endpoint: endpoint.into(), requests, state, end })
    }

    pub fn ready(&self) -> bool {
        matches!(self.state.borrow().phase, Phase::Ready)
    }

    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Wait until requests can go out. The server's own error if it refuses us, `not_ready` if there is none in time.
    pub async fn when_ready(&self, deadline: Instant) -> Result<()> {
        let mut state = self.state.clone();
        let decided =
            state.wait_for(|state| matches!(state.phase, Phase::Ready | Phase::Refused(_) | Phase::Closed(_)));
        let phase = match timeout_at(deadline, decided).await {
            Ok(Ok(state)) => state.phase.clone(),
            Ok(Err(_)) => Phase::Closed(Error::closed()),
            Err(_) => return Err(self.not_ready()),
        };
        match phase {
            Phase::Refused(error) | Phase::Closed(error) => Err(error),
            _ => Ok(()),
        }
    }

    fn not_ready(&self) -> Error {
        let state = self.state.borrow();
        if let Some(error) = state.put_off.as_ref().filter(|error| error.code == Code::Conflict) {
            return error.clone(); // still so at the end of the wait
        }
        let hint = match (&state.phase, state.strange) {
            (_, true) => {
                ": what listens there takes no requests (an events socket, or no server of this contract), is full, \
                 or turns this user away (allowed-uid)"
            }
            (Phase::Greeting, _) => " to hello",
            // An error: the directory is another user's.
            _ if self
                .endpoint
                .strip_prefix("ipc://")
                .is_some_and(|path| matches!(Path::new(path).try_exists(), Ok(false))) =>
            {
                " (there is no such socket)"
            }
            _ => "",
        };
        Error::new(Code::NotReady, format!("no answer from {} in time{hint}", self.endpoint))
    }

    fn closed(&self) -> Error {
        match &self.state.borrow().phase {
            Phase::Closed(error) => error.clone(),
            _ => Error::closed(),
        }
    }

    /// The reply to a request. Waits for the server and for a place among the requests in flight.
    pub async fn request(&self, method: &str, body: Body, blobs: Vec<Vec<u8>>, timeout: Duration) -> Result<Reply> {
        self.ask(Call::new(method, body, blobs), Instant::now() + timeout).await
    }

    async fn ask(&self, call: Arc<Call>, deadline: Instant) -> Result<Reply> {
        let (answer, answered) = oneshot::channel();
        let request = Request { call: call.clone(), deadline, answer };
        let exchange = async {
            self.requests.send(request).await.map_err(|_| self.closed())?;
            answered.await.unwrap_or_else(|_| Err(self.closed()))
        };
        match timeout_at(deadline, exchange).await {
            Ok(answer) => answer,
            Err(_) if self.ready() => Err(Error::late(&call.method)),
            Err(_) => Err(self.not_ready()),
        }
    }

    /// An idempotent request: a lost connection is no reason to give up.
    pub async fn repeat(&self, method: &str, body: Body, blobs: Vec<Vec<u8>>, timeout: Duration) -> Result<Reply> {
        let deadline = Instant::now() + timeout;
        let call = Call::new(method, body, blobs);
        loop {
            match self.ask(call.clone(), deadline).await {
                Err(error) if error.code == Code::PeerRestarted && Instant::now() < deadline => {}
                answer => return answer,
            }
        }
    }

    /// End the connection: requests fail with `not_ready`.
    pub async fn close(&self) {
        self.end.notify_one();
        self.requests.closed().await;
    }
}
