"""One channel: segmentation, SDS and encryption composed. Pure; the caller stores, transmits and keeps time.

Every input adds to the outputs and changes that `take` returns. The caller stores the changes (and the app's
events with them) in one transaction, then transmits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random

from ipc_schema.errors import ErrorCode, IpcError
from mapi_proc.channels.encryption import Cipher, CipherError
from mapi_proc.channels.events import (
    MOST_LOST_IDS,
    ChannelChanges,
    ChannelOutput,
    MessageLost,
    Received,
    ReceiveRefused,
    RetrieveMessages,
    SealedSegment,
    StoredChannel,
    StoredRequest,
    SyncStatus,
    Transmit,
)
from mapi_proc.channels.opening import (
    NotOursError,
    content_context,
    envelope_context,
    open_message,
    read_body,
)
from mapi_proc.channels.profiles import MAX_RAW, PROFILES, Profile
from mapi_proc.channels.requests import Requests
from mapi_proc.channels.sds.core import OutgoingFullError, SdsCore
from mapi_proc.channels.sds.message import SdsMessage
from mapi_proc.channels.sds.settings import SdsSettings
from mapi_proc.channels.sds.state import (
    Acknowledged,
    Deliver,
    Discarded,
    GaveUp,
    Lost,
    Output,
    Retrieve,
    SdsState,
    SdsStoredMessage,
    Send,
    SendKind,
)
from mapi_proc.channels.segmentation.join import Joiner, JoinLimits, SetDropped
from mapi_proc.channels.segmentation.message import SegmentMessage, decode_segment
from mapi_proc.channels.segmentation.split import PayloadTooLargeError, SplitLimits, split_payload
from mapi_proc.channels.unopened import Unopened, UnopenedSegment

_SWEEP = 30.0
_UNREADABLE_KEPT = 1000


def _refused(text: str) -> IpcError:
    """Build the error for a payload that cannot be sent; the texts are the reference's."""
    return IpcError(ErrorCode.BAD_REQUEST, text)


def fingerprint(payload: bytes, ephemeral: bool) -> bytes:
    """Return what identifies a send, to distinguish a repeat from a conflict."""
    return sha256(b"%d:" % ephemeral + payload).digest()


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """A channel's settings."""

    profile: Profile = PROFILES["reference"]
    sds: SdsSettings = field(default_factory=SdsSettings)
    split: SplitLimits = field(default_factory=SplitLimits)
    # Longer than SDS can wait for a segment (`lost_after`), unlike the reference's 300 s.
    join: JoinLimits = field(default_factory=lambda: JoinLimits(timeout=3600.0))
    delivery_timeout: float = 3600.0
    hooks: bool = False
    """The app encrypts and decrypts the contents itself; only with a profile that encrypts contents."""

    def __post_init__(self) -> None:
        if self.join.timeout < 2 * self.sds.lost_after:
            raise ValueError("join.timeout must be at least twice sds.lost_after")
        if self.hooks and self.profile.seals_envelope:
            raise ValueError(f"profile {self.profile.name} encrypts envelopes, which an app does not see")


class ChannelCore:
    """One channel. `now` is a monotonic time in seconds, `now_ns` the wall clock."""

    def __init__(
        self,
        channel_id: str,
        sender_id: str,
        settings: ChannelSettings,
        random: Random,
        cipher: Cipher | None = None,
    ) -> None:
        self.channel_id = channel_id
        self.sender_id = sender_id
        self.settings = settings
        self.cipher = cipher
        self.sds = SdsCore(channel_id, sender_id, settings.sds, random, self._seal)
        self.joiner = Joiner(settings.join)
        self.requests = Requests(settings.delivery_timeout)
        self.unopened = Unopened()
        self._outputs: list[ChannelOutput] = []
        self._unreadable: OrderedDict[str, None] = OrderedDict()
        self._missing = 0
        self._swept = 0.0

    # --- sending --------------------------------------------------------------------------------------------

    def send(self, request_id: bytes, payload: bytes, ephemeral: bool, now: float, now_ns: int) -> bool:
        """Send a payload. Return True if it is pending under this request id already (the app repeats what
        it is not sure of).

        Raises `IpcError` (`conflict`, `bad_request`, `busy`); then nothing was taken.
        """
        mark = fingerprint(payload, ephemeral)
        if self._pending(request_id, mark):
            return True
        if self.settings.hooks:
            raise _refused("encryption failed: the app encrypts this channel's segments itself")
        contents, needed = self._contents(payload)
        self._send(StoredRequest(request_id, (), needed, ephemeral, False, mark), contents, now, now_ns)
        return False

    def send_sealed(self, request: StoredRequest, contents: list[bytes], now: float, now_ns: int) -> bool:
        """Send the segments of `split` as the app has encrypted them; `request.segments` is empty. Otherwise
        like `send`."""
        if self._pending(request.request_id, request.fingerprint):
            return True
        if not self.settings.hooks:
            raise _refused("the channel was created without hooks")
        if not 1 <= request.needed <= len(contents) <= self.settings.split.max_segments:
            raise _refused(f"{len(contents)} segments, of which {request.needed} are needed")
        if any(not 1 <= len(content) <= MAX_RAW for content in contents):
            raise _refused(f"an encrypted segment has 1 to {MAX_RAW} bytes")
        self._send(request, contents, now, now_ns)
        return False

    def _pending(self, request_id: bytes, mark: bytes) -> bool:
        pending = self.requests.find(request_id)
        if pending is not None and pending.fingerprint != mark:
            raise IpcError(ErrorCode.CONFLICT, "this request id was used for another message")
        return pending is not None

    def _send(self, request: StoredRequest, contents: list[bytes], now: float, now_ns: int) -> None:
        try:
            names = self.sds.send(contents, now, now_ns)
        except OutgoingFullError as error:
            raise IpcError(ErrorCode.BUSY, str(error), retry_after_ms=1000) from error
        except CipherError as error:
            raise _refused(f"encryption failed: {error}") from error
        self.requests.add(request._replace(segments=tuple(names)), now)
        self._work_off(now)

    def split(self, payload: bytes) -> tuple[list[bytes], int]:
        """Return the segments of a payload for the app to encrypt, and how many of them restore it. Changes
        nothing. Raises `IpcError`."""
        if not self.settings.hooks:
            raise _refused("the channel was created without hooks")
        return self._contents(payload)

    def _contents(self, payload: bytes) -> tuple[list[bytes], int]:
        """Return the SDS contents of a payload, and how many of them are needed to restore it."""
        if not payload:
            raise _refused("empty payload")
        profile = self.settings.profile
        if not profile.segments:
            if len(payload) > MAX_RAW:
                raise _refused(
                    f"segmentation failed: profile {profile.name} has none, and {len(payload)} bytes "
                    f"are more than {MAX_RAW}"
                )
            return [payload], 1
        try:
            segments = split_payload(payload, self.settings.split)
        except PayloadTooLargeError as error:
            raise _refused(f"segmentation failed: {error}") from error
        needed = decode_segment(segments[0]).data_count
        if self.cipher is None or profile.seals_envelope:
            return segments, needed
        context = content_context(self.channel_id, self.sender_id)
        try:
            # Encrypt all before sending any: a hook that fails half-way must leave nothing behind.
            return [self.cipher.encrypt(segment, context) for segment in segments], needed
        except CipherError as error:
            raise _refused(f"encryption failed: {error}") from error

    def _seal(self, raw: bytes) -> bytes:
        """Return the WakuMessage payload of SDS bytes."""
        if self.cipher is None or not self.settings.profile.seals_envelope:
            return raw
        return self.cipher.encrypt(raw, envelope_context(self.channel_id))

    def transmitted(self, message_id: str, message_hash: bytes, now: float) -> None:
        """Record that the Messaging API passed a message to the network, under this hash."""
        self.sds.transmitted(message_id, message_hash, now)
        self._work_off(now)

    def confirmed(self, message_id: str) -> None:
        """Record that the Messaging API has confirmed a message (`sent`; `propagated` without
        confirmation)."""
        self._outputs += self.requests.confirmed(message_id)

    def failed(self, message_id: str, now: float) -> None:
        """Record that the Messaging API gave a message up. It is retried like an unacknowledged one."""
        self.sds.transmitted(message_id, b"", now)
        self._work_off(now)

    # --- receiving ------------------------------------------------------------------------------------------

    def receive(self, data: bytes, message_hash: bytes, now: float, now_ns: int) -> None:
        """Take a WakuMessage's payload from the channel's content topic, live or from a store."""
        try:
            opened = open_message(data, self.channel_id, self.cipher)
        except NotOursError:
            self._outputs.append(ReceiveRefused("not_ours"))
        except CipherError as error:
            self._unreadable_message(message_hash, error)
        else:
            self.sds.receive(opened.message, data, message_hash, opened.body, now, now_ns)
            self._work_off(now)

    def _unreadable_message(self, message_hash: bytes, error: CipherError) -> None:
        self._outputs.append(ReceiveRefused("undecryptable"))
        text = message_hash.hex()
        if text in self._unreadable:
            return
        self._unreadable[text] = None
        if len(self._unreadable) > _UNREADABLE_KEPT:
            self._unreadable.popitem(last=False)
        self._outputs.append(MessageLost(b"", (), f"decryption failed: {error} (messageHash: 0x{text})"))

    def _deliver(self, deliver: Deliver, now: float) -> None:
        message = deliver.message
        if self.settings.hooks and message.content:
            self._give_to_open(message, now)
        else:
            assert isinstance(deliver.body, SegmentMessage | bytes)
            self._take_body(message.sender_id, message.message_id, message.order, deliver.body, now)

    def _give_to_open(self, message: SdsMessage, now: float, asked_again: bool | None = None) -> None:
        size = len(message.content)
        segment = UnopenedSegment(message.message_id, message.sender_id, message.order, size)
        gone = self.unopened.add(segment, asked_again)
        if gone:
            self._done(gone)
            self._lost(b"", tuple(gone), "not decrypted: too many wait for the app")
            self._take_opened(now)
        if asked_again is not False:
            self._outputs.append(SealedSegment(message.sender_id, message.message_id, message.content))

    def opened(self, message_id: str, content: bytes | None, error: str, now: float) -> None:
        """Take a segment that the app has decrypted; None: it could not. Ignore one that is not waited for:
        the app repeats what it is not sure of."""
        if not self.unopened.answer(message_id, content, error):
            return
        # Segments before it are still missing: the app forgets it now, so a restart must ask again.
        self.sds.changes.states[message_id] = SdsState.OPENED
        self._take_opened(now)
        self._work_off(now)

    def _take_opened(self, now: float) -> None:
        for segment, content, error in self.unopened.ready():
            name = segment.message_id
            if content is None:
                self._done([name])
                self._outputs.append(MessageLost(b"", (name,), f"decryption failed: {error}"))
            else:
                self._take_body(segment.sender_id, name, segment.order, read_body(content), now)

    def _take_body(
        self, sender_id: str, message_id: str, order: int, body: SegmentMessage | bytes, now: float
    ) -> None:
        if isinstance(body, bytes):
            self._done([message_id])
            self._outputs.append(Received(sender_id, message_id, body, order))
            return
        result = self.joiner.add(sender_id, body, message_id, now)
        self._dropped(result.dropped)
        if result.refused:
            self._outputs.append(ReceiveRefused(result.refused))
        if result.joined is not None:
            joined = result.joined
            self._done(joined.tags)
            self._outputs.append(Received(joined.sender, joined.tag, joined.payload, order))
        elif not result.held:
            self._done([message_id])
        elif self.settings.hooks:
            self.sds.changes.states[message_id] = SdsState.OPENED

    def _dropped(self, sets: Iterable[SetDropped]) -> None:
        for dropped in sets:
            self._done(dropped.tags)
            self._lost(dropped.payload_hash, dropped.tags, dropped.reason)

    def _lost(self, payload_hash: bytes, names: tuple[str, ...], reason: str) -> None:
        for start in range(0, len(names), MOST_LOST_IDS):
            self._outputs.append(MessageLost(payload_hash, names[start : start + MOST_LOST_IDS], reason))

    def _done(self, names: Iterable[str]) -> None:
        """Record that the app has these messages, or never will."""
        changes, records = self.sds.changes, self.sds.log.records
        for name in names:
            changes.states[name] = SdsState.DONE
            if name not in records:
                changes.stripped.add(name)

    # --- time -----------------------------------------------------------------------------------------------

    def tick(self, now: float, now_ns: int) -> None:
        """Do what is due; at most about once a second, and when `next_time` has come."""
        try:
            self.sds.tick(now, now_ns)
        except CipherError:  # of a sync message
            self._outputs.append(ReceiveRefused("encryption"))
        if now - self._swept >= _SWEEP:
            self._swept = now
            self._dropped(self.joiner.sweep(now))
            self._outputs += self.requests.sweep(now)
        self._work_off(now)

    def next_time(self) -> float | None:
        """Return when `tick` is due next; None for never."""
        times = [self.sds.next_time()]
        if self.joiner.sets or len(self.requests):
            times.append(self._swept + _SWEEP)
        return min((time for time in times if time is not None), default=None)

    # --- results --------------------------------------------------------------------------------------------

    def take(self) -> tuple[list[ChannelOutput], ChannelChanges]:
        """Return the outputs and changes since the last call."""
        _, messages = self.sds.take()
        missing = len(self.sds.incoming.missing)
        if (missing == 0) != (self._missing == 0):
            self._outputs.append(SyncStatus(missing))
        self._missing = missing
        outputs, self._outputs = self._outputs, []
        requests, self.requests.changed = self.requests.changed, {}
        leftovers, self.joiner.changed = self.joiner.changed, {}
        return outputs, ChannelChanges(messages, requests, leftovers)

    def _work_off(self, now: float) -> None:
        """Translate SDS outputs into outputs for the caller."""
        for output in self.sds.take_outputs():
            self._handle(output, now)
        if self.requests.ended:
            self.sds.release(self.requests.ended)
            self.requests.ended.clear()

    def _handle(self, output: Output, now: float) -> None:
        match output:
            case Deliver():
                self._deliver(output, now)
            case Send():
                self._transmit(output)
            case Acknowledged(name, by):
                self._outputs += self.requests.acknowledged(name, by)
            case GaveUp(name):
                self._outputs += self.requests.gave_up(name)
            case Lost(entries):
                names = tuple(entry.message_id for entry in entries)
                self._lost(b"", names, "never received")
            case Retrieve(entries):
                self._outputs.append(RetrieveMessages(entries))
            case Discarded(_, reason):
                self._outputs.append(ReceiveRefused(reason))

    def _transmit(self, send: Send) -> None:
        aside = send.kind in (SendKind.REPAIR, SendKind.SYNC)
        ephemeral = aside or self.requests.ephemeral(send.message_id)
        self._outputs.append(Transmit(send.message_id, send.raw, ephemeral, send.kind))

    # --- restart --------------------------------------------------------------------------------------------

    def restore(self, stored: StoredChannel, now: float, now_ns: int, *, notify_again: bool = False) -> None:
        """Continue from what was stored. Messages that cannot be read (another key) are skipped.

        `notify_again`: ask the app to open also the segments that are on its stream already."""
        ordered = sorted(stored.messages, key=lambda row: (row.order, row.message_id))
        for request in stored.requests:
            self.requests.restore(request, now)
        for key, slots in stored.leftovers.items():
            self.joiner.leave(key, slots, now)
        settled = [row for row in ordered if row.state is not SdsState.WAITING]
        self.sds.restore(stored.meta, settled, list(self.requests.segments()), now)
        for row in ordered:
            if row.state in (SdsState.HELD, SdsState.OPENED):
                self._hold_again(row, now, notify=notify_again or row.state is SdsState.OPENED)
            elif row.state is SdsState.WAITING:
                self.receive(row.raw or b"", row.hint, now, now_ns)

    def _hold_again(self, row: SdsStoredMessage, now: float, *, notify: bool) -> None:
        try:
            opened = open_message(row.raw or b"", self.channel_id, self.cipher)
        except (NotOursError, CipherError):
            return
        if self.settings.hooks:
            self._give_to_open(opened.message, now, asked_again=notify)
        else:
            self._deliver(Deliver(opened.message, opened.body), now)
