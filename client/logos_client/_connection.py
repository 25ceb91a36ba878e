"""A DEALER that speaks the contract's requests: hello, concurrent requests, reconnect.

This is the lower layer: it raises `ipc_schema.errors.IpcError` and knows neither kernel nor Messaging API.
`KernelClient` and `MessagingClient` are built on it, and so is a Messaging API's link to its kernel.

States: connecting (no server, or a lost one) → greeting (hello sent) → ready → connecting …; failed means
that a server is there but refuses our hello: requests raise its reason at once, and hello is retried at a
slow pace. closed is final.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import zmq

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import (
    MAX_BUDGET_MS,
    NO_REPLY,
    FrameError,
    Reply,
    decode_reply,
    encode_request,
    is_app_event,
)
from ipc_schema.hello import HELLO
from ipc_schema.sizes import too_large_text
from logos_client._connection_types import (
    DEFAULT_IN_FLIGHT,
    ConnectionCounters,
    ConnectionSettings,
    ConnectionState,
    closed,
    fresh,
    late,
    number_in,
    seconds,
    wants_hello,
)
from logos_client._dealer import ReconnectingDealer, behind_a_short_one
from logos_client._in_flight import RequestsInFlight
from logos_client._turnstile import Turnstile

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT: Final = 10.0
_HELLO_TIMEOUT: Final = 3.0
_HELLO_RETRY: Final = 0.1
_HELLO_RETRY_MAX: Final = 2.0
_REFUSED_RETRY: Final = 5.0
#: A server may consider our dead predecessor's connection alive until its next heartbeat: retry that long.
_CONFLICT_GRACE: Final = 3.0
#: Seconds of silence after which we send the keep-alive, before the server considers us gone.
_IDLE: Final = 10.0
#: Of an event: magic, header, payload.
_EVENT_FRAMES: Final = 3
#: Clock checks per `silence`.
_TICKS: Final = 4


class RequestConnection:
    """Requests to one ROUTER of the contract.

        settings = ConnectionSettings(hello=lambda: {"kind": "tool", "protocol": [1, 1]})
        connection = RequestConnection(endpoint, settings)
        await connection.wait_ready(5.0)
        reply = await connection.request("node.info")
        await connection.close()

    Must be created on a running loop.
    """

    def __init__(
        self,
        endpoint: str,
        settings: ConnectionSettings | None = None,
        *,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.counters: ConnectionCounters = ConnectionCounters()
        self.instance: bytes | None = None
        self.failure: IpcError | None = None
        settings = settings or ConnectionSettings()
        self._settings = settings
        self._on_event = settings.on_event
        self._loop = asyncio.get_running_loop()
        self._state = ConnectionState.CONNECTING
        self._in_flight = RequestsInFlight(self._loop)
        self._turnstile = Turnstile(DEFAULT_IN_FLIGHT)
        self._most_in_blob = self._most_in_message = sys.maxsize
        self._changed: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._greeting: asyncio.Task[None] | None = None
        self._hello_id = b""
        self._probing = False
        self._conflict_since: float | None = None
        self._put_off: IpcError | None = None
        self._id_prefix = os.urandom(8)
        self._id_count = 0
        self._heard = self._spoke = self._loop.time()
        self._tick: asyncio.TimerHandle | None = None
        self._dealer = ReconnectingDealer(
            endpoint,
            self._connected,
            self._disconnected,
            self._receive,
            context=context,
            max_frame=settings.max_frame,
        )
        self._socket = self._dealer.socket
        if settings.keepalive is not None:
            self._tick = self._loop.call_later(settings.silence / _TICKS, self._check_alive)

    # -- state -----------------------------------------------------------------------------------------------

    @property
    def state(self) -> ConnectionState:
        """Current state."""
        return self._state

    @property
    def ready(self) -> bool:
        """Whether a request would be sent at once."""
        return self._state is ConnectionState.READY

    async def wait_ready(self, timeout: Any = None) -> None:  # seconds; not float: see `seconds`
        """Wait until requests can be sent.

        Raises `IpcError`: the server's own if it refuses our hello; `not_ready` if there is no server
        within `timeout` seconds, or the connection is closed.
        """
        deadline = None if timeout is None else self._loop.time() + seconds(timeout)
        try:
            async with asyncio.timeout_at(deadline):
                while not self.ready:
                    if self._state is ConnectionState.CLOSED:
                        raise closed()
                    if self.failure is not None:
                        raise fresh(self.failure)
                    changed = self._loop.create_future()
                    self._changed.append(changed)
                    await changed
        except TimeoutError:
            if self._put_off is not None and self._put_off.code is ErrorCode.CONFLICT:
                raise fresh(self._put_off) from None  # still so at the end of the wait
            raise IpcError(
                ErrorCode.NOT_READY,
                f"no answer from {self.endpoint} within {timeout:g} s{self._hint()}",
            ) from None

    def _hint(self) -> str:
        if not self._dealer.strange:
            path = self.endpoint.removeprefix("ipc://")
            gone = path != self.endpoint and _is_absent(Path(path))
            return f" ({self._state.value}{'; there is no such socket' if gone else ''})"
        return (
            ": what listens there takes no requests (an events socket, or no server of this contract), "
            "is full, or turns this user away (allowed-uid)"
        )

    def _set_state(self, state: ConnectionState) -> None:
        self._state = state
        waiting, self._changed = self._changed, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def reserve(self) -> bool:
        """Take a slot for a request that would have to wait for nothing; `request` gives it back."""
        return self.ready and self._turnstile.enter()

    # -- requests --------------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        body: Mapping[str, object] | None = None,
        blobs: Sequence[bytes] = (),
        *,
        timeout: Any = DEFAULT_TIMEOUT,
        weight: int = 1,
        repeat: bool = False,
        reserved: bool = False,
    ) -> Reply:
        """Send a request and wait for its reply. It counts as `weight` requests in flight; `reserved`: so
        many slots were taken by `reserve`.

        Waits for the server and for a slot among its requests in flight; all within `timeout` seconds,
        which is also the request's time budget. `repeat`: it is idempotent, so send it again after a lost
        connection. Raises `IpcError`: the server's answer, `deadline_exceeded`, `peer_restarted` (the
        connection was lost during the request: whether it was carried out is unknown), or `not_ready`.
        """
        deadline = self._loop.time() + seconds(timeout)
        if not (reserved or self._turnstile.enter(weight)):
            await self._turnstile.wait(deadline, method, weight)
        try:
            while True:
                if not self.ready:
                    await self.wait_ready(max(0.0, deadline - self._loop.time()))
                try:
                    reply = await self._exchange(method, body, blobs, deadline)
                except IpcError as lost:
                    again = repeat and lost.code is ErrorCode.PEER_RESTARTED
                    if not again or self._loop.time() >= deadline:
                        raise
                    continue
                error = reply.error
                if error is None:
                    return reply
                # The server does not know this connection, so it did nothing: resending is safe.
                if not wants_hello(error) or self._settings.hello is None or self._loop.time() >= deadline:
                    raise error
        finally:
            self._turnstile.leave(weight)

    def notify(
        self, method: str, body: Mapping[str, object] | None = None, blobs: Sequence[bytes] = ()
    ) -> bool:
        """Send a request without waiting for its success.

        Return False, without sending, if it cannot be sent now.
        """
        if not self.ready:
            return False
        self._spoke = self._loop.time()
        return self._socket.send(encode_request(self._new_id(), method, body, blobs, flags=NO_REPLY))

    async def _exchange(
        self, method: str, body: Mapping[str, object] | None, blobs: Sequence[bytes], deadline: float
    ) -> Reply:
        """Make one request and return its reply (or error reply). Raises for failures of the connection."""
        now = self._loop.time()
        remaining = deadline - now
        if remaining <= 0:
            raise late(method)
        for blob in blobs:
            if len(blob) > self._most_in_blob:  # the server's socket would end the connection, unread
                what = f"{too_large_text(self._most_in_message)}: {method} with {len(blob)} in one blob"
                raise IpcError(ErrorCode.TOO_LARGE, what)
        correlation_id = self._new_id()
        if method == HELLO:
            self._hello_id = correlation_id
        budget = min(MAX_BUDGET_MS, max(1, int(remaining * 1000)))
        frames = encode_request(correlation_id, method, body, blobs, budget_ms=budget)
        self._spoke = now
        self.counters.requests += 1
        # Those of one turn of the loop go out in one run: libzmq's thread is woken once for all of them.
        if not self._socket.send_soon(frames):
            raise IpcError(ErrorCode.BUSY, f"{method}: the server does not take requests fast enough")
        future = self._in_flight.add(correlation_id, method, deadline)
        try:
            return await future
        except BaseException:
            self._in_flight.take(correlation_id)  # cancelled: else it would stay until the deadline
            raise

    def _new_id(self) -> bytes:
        self._id_count += 1
        return self._id_prefix + self._id_count.to_bytes(8, "big")

    # -- what comes in ---------------------------------------------------------------------------------------

    def _receive(self, frames: list[bytes]) -> None:
        self._heard = self._loop.time()
        if len(frames) == _EVENT_FRAMES and is_app_event(frames[1]):
            if self._on_event is not None:
                self._on_event(frames)
            return
        try:
            reply = decode_reply(frames)
        except FrameError as error:
            self.counters.garbage += 1
            log.debug("dropped frames from %s: %s", self.endpoint, error)
            following = behind_a_short_one(frames)
            if following is not None:
                self._receive(following)
            return
        future = self._in_flight.take(reply.correlation_id)
        if future is None:
            self.counters.unmatched += 1
        elif reply.correlation_id == self._hello_id and not reply.status:
            self._accept(reply, future)
        else:
            future.set_result(reply)
        if reply.instance != self.instance and self._meet(reply.instance) and self.ready:
            self._lose("the server was restarted")
            self._connected()
        if reply.status and self.ready and wants_hello(reply.error):
            self._lose("the server does not know this connection any more")
            self._greet_again()

    def _meet(self, instance: bytes) -> bool:
        """Record the answering instance. Return True if it differs from the last one."""
        known, self.instance = self.instance, instance
        if known is None or known == instance:
            return False
        self.counters.restarts += 1
        return True

    # -- the connection --------------------------------------------------------------------------------------

    def _connected(self) -> None:
        if self._state is ConnectionState.CLOSED:
            return
        if self._settings.hello is None:
            self._set_state(ConnectionState.READY)
        else:
            self._greet_again()

    def _disconnected(self) -> None:
        if self._state is ConnectionState.CLOSED:
            return
        self._stop_greeting()
        self.failure = None
        self._lose("the connection was lost")

    def _lose(self, reason: str) -> None:
        """Fail all requests in flight: they have no answer any more, and no successor may receive any of
        them."""
        was_ready = self.ready
        self._socket.forget()
        self._set_state(ConnectionState.CONNECTING)
        self._in_flight.fail(lambda: IpcError(ErrorCode.PEER_RESTARTED, reason))
        if was_ready and self._settings.on_down is not None:
            self._settings.on_down(reason)

    def _greet_again(self) -> None:
        self._stop_greeting()
        self._set_state(ConnectionState.GREETING)
        self._greeting = self._spawn(self._greet())

    def _stop_greeting(self) -> None:
        if self._greeting is not None:
            self._greeting.cancel()
            self._greeting = None

    async def _greet(self) -> None:
        """Repeat hello until it is accepted. A lost connection cancels this; a new one starts it again."""
        delay = _HELLO_RETRY
        assert self._settings.hello is not None
        while True:
            try:
                reply = await self._exchange(
                    HELLO, self._settings.hello(), (), self._loop.time() + _HELLO_TIMEOUT
                )
                if reply.error is not None:
                    raise self._no_greeter(reply.error)
            except IpcError as error:
                if self._worth_waiting(error):
                    self._put_off = error
                    delay = min(delay * 2, _HELLO_RETRY_MAX)
                else:
                    self._refuse(error)
                    delay = _REFUSED_RETRY
                await asyncio.sleep(max(delay, (error.retry_after_ms or 0) / 1000))
            else:
                return

    def _no_greeter(self, error: IpcError) -> IpcError:
        """Build the error for an endpoint that answers no hello: it is probably another kind of socket."""
        if error.code is not ErrorCode.UNKNOWN_METHOD:
            return error
        return IpcError(ErrorCode.BAD_REQUEST, f"{self.endpoint} takes no hello: is it a control socket?")

    def _accept(self, reply: Reply, future: asyncio.Future[Reply]) -> None:
        """Handle an accepted hello, synchronously and not in the waiting task: events may follow
        immediately."""
        if self._settings.on_hello is not None:
            try:
                self._settings.on_hello(reply)
            except IpcError as error:
                future.set_exception(error)
                return
            except BaseException:  # a fault of ours: hello is repeated
                future.set_exception(late(HELLO))
                raise
        future.set_result(reply)
        self._meet(reply.instance)
        self._turnstile.resize(number_in(reply, "limits", "in_flight", DEFAULT_IN_FLIGHT))
        self._most_in_blob = number_in(reply, "limits", "blob_bytes", sys.maxsize)
        self._most_in_message = number_in(reply, "network", "max_message_size", self._most_in_blob)
        self.counters.hellos += 1
        self.failure = None
        self._conflict_since = None
        self._put_off = None
        self._set_state(ConnectionState.READY)

    def _refuse(self, error: IpcError) -> None:
        first = self.failure is None
        self.failure = error
        self._set_state(ConnectionState.FAILED)
        if first and self._settings.on_refused is not None:
            self._settings.on_refused(error)

    def _worth_waiting(self, error: IpcError) -> bool:
        if error.code is ErrorCode.CONFLICT:
            now = self._loop.time()
            if self._conflict_since is None:
                self._conflict_since = now
            return now - self._conflict_since < _CONFLICT_GRACE
        return error.retriable

    def _check_alive(self) -> None:
        now = self._loop.time()
        self._tick = self._loop.call_later(self._settings.silence / _TICKS, self._check_alive)
        if (
            self.ready
            and not self._probing
            and (now - self._heard > self._settings.silence or now - self._spoke > _IDLE)
        ):
            self._spawn(self._probe())

    async def _probe(self) -> None:
        self._probing = True
        try:
            assert self._settings.keepalive is not None
            await self._exchange(
                self._settings.keepalive, None, (), self._loop.time() + self._settings.silence
            )
        except IpcError as error:
            # A hung server, or one that just left: its return, or the loss of the connection, is
            # noticed elsewhere.
            log.debug("keepalive to %s: %s", self.endpoint, error)
        finally:
            self._probing = False

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Close the connection: requests in flight raise `not_ready`. Idempotent."""
        if self._state is ConnectionState.CLOSED:
            return
        self._set_state(ConnectionState.CLOSED)
        if self._tick is not None:
            self._tick.cancel()
        self._in_flight.fail(closed)
        self._in_flight.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        self._dealer.close()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_absent(path: Path) -> bool:
    """Return whether there is nothing at the path; False if we may not look (a directory of another user)."""
    try:
        return not path.exists()
    except OSError:
        return False
