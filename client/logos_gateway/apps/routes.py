"""`/apps/v1/{name}`: a durable app over HTTP. Errors are problem details (RFC 9457) with our codes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import chain
from typing import Any, Final, NamedTuple

from fastapi import APIRouter, Request
from starlette.responses import Response

from logos_client import PendingReply, PendingSend, StatusReply
from logos_client.exceptions import LogosError
from logos_gateway.apps.encoding import sse_parts
from logos_gateway.apps.journal import Journal
from logos_gateway.apps.sending import answer_send, body_object, open_journal, request_id_of
from logos_gateway.apps.sse import EventStreamResponse, sse_event
from logos_gateway.apps.window import JournalPosition
from logos_gateway.bodies import json_response
from logos_gateway.json_values import encode_json
from logos_gateway.problems import PROBLEM_TYPE, ProblemError, problem_of

router = APIRouter(prefix="/apps/v1", tags=["apps"])

_MAX_LABEL: Final = 64
_MAX_HISTORY_SECONDS: Final = 366 * 24 * 3600


def topics_in(body: dict[str, Any]) -> list[str]:
    """Return `topics` of a body. Raises `ProblemError`."""
    topics = body.get("topics")
    if not isinstance(topics, list) or not topics or not all(isinstance(one, str) for one in topics):
        raise ProblemError(400, "bad_request", "topics: an array of content topics is needed")
    return topics


# --- subscriptions ----------------------------------------------------------------------------------------


@router.get("/{name}/subscriptions", summary="The app's content topics")
async def subscriptions(request: Request) -> Response:
    """Return `{topics}`."""
    journal = await open_journal(request)
    return json_response({"topics": await journal.client.subscriptions()})


@router.post("/{name}/subscriptions", summary="Subscribe to content topics")
async def subscribe(request: Request) -> Response:
    """Body: `{topics, sinceLast?, historySeconds?}`. 200 `{errors}`: topic to reason; the others are
    subscribed."""
    body = await body_object(request)
    wanted = read_subscription(body)
    journal = await open_journal(request)
    return json_response({"errors": await subscribe_from(journal, wanted)})


class WantedTopics(NamedTuple):
    """A request to subscribe."""

    topics: list[str]
    since_last: bool
    history: float


def read_subscription(body: dict[str, Any]) -> WantedTopics:
    """Read `{topics, sinceLast?, historySeconds?}`. Raises `ProblemError`."""
    topics = topics_in(body)
    history, since_last = body.get("historySeconds", 0), body.get("sinceLast", False)
    good = isinstance(history, int | float) and not isinstance(history, bool)
    if not good or not 0 <= history <= _MAX_HISTORY_SECONDS:
        raise ProblemError(400, "bad_request", f"historySeconds: 0 to {_MAX_HISTORY_SECONDS} is possible")
    if not isinstance(since_last, bool):
        raise ProblemError(400, "bad_request", "sinceLast: true or false is needed")
    return WantedTopics(topics, since_last, history)


async def subscribe_from(journal: Journal, wanted: WantedTopics) -> dict[str, str]:
    """Subscribe. Return refused topics with their reasons. Raises `LogosError`."""
    return await journal.client.subscribe(wanted.topics, since_last=wanted.since_last, history=wanted.history)


@router.delete("/{name}/subscriptions", summary="Unsubscribe from content topics")
async def unsubscribe(request: Request) -> Response:
    """Body: `{topics}`. 200 `{errors}`."""
    topics = topics_in(await body_object(request))
    journal = await open_journal(request)
    return json_response({"errors": await journal.client.unsubscribe(topics)})


# --- sends ------------------------------------------------------------------------------------------------


@router.post("/{name}/sends", summary="Send a message")
async def send(request: Request) -> Response:
    """Body: `{contentTopic, payload (base64), meta?, ephemeral?}`. 202 `{requestId}` once it is on disk.

    With an `Idempotency-Key`, the same request may be repeated after any failure: it is sent once.
    """
    return await answer_send(request)


@router.get("/{name}/sends", summary="Sends without a final fate")
async def pending(request: Request) -> Response:
    """Return `{sends, total, states}`, oldest first."""
    journal = await open_journal(request)
    reply = await journal.client.pending()
    return json_response(show_pending(reply))


def show_pending(reply: PendingReply) -> dict[str, Any]:
    """Return the sends that are not final."""
    return {"sends": [show_send(one) for one in reply.sends], "total": reply.total, "states": reply.states}


def show_send(one: PendingSend) -> dict[str, Any]:
    """Return a send and its state."""
    shown: dict[str, Any] = {
        "requestId": one.request_id.hex(),
        "contentTopic": one.content_topic,
        "state": one.state,
        "acceptedNs": one.accepted_ns,
        "attempts": one.attempts,
        "cause": one.cause,
    }
    if one.message_hash is not None:
        shown["messageHash"] = "0x" + one.message_hash.hex()
    return shown


@router.get("/{name}/sends/{requestId}", summary="What became of a send")
async def fate(request: Request) -> Response:
    """Return the send and its state, also when it is final. 404: unknown, or accepted more than a day ago."""
    text = request.path_params["requestId"]
    request_id = request_id_of(text)
    # Not from the events that have been read: without a reader the newest of them are still at MAPI.
    found = await (await open_journal(request)).client.find_send(request_id)
    if found is None:
        raise ProblemError(404, "not_found", f"nothing is known of the send {text[:80]}")
    return json_response(show_send(found))


@router.delete("/{name}/sends/{requestId}", summary="Cancel a send that was not attempted yet")
async def cancel(request: Request) -> Response:
    """Cancel a send. Return `{cancelled}`, false if it is too late."""
    request_id = request_id_of(request.path_params["requestId"])
    journal = await open_journal(request)
    return json_response({"cancelled": await journal.client.cancel(request_id)})


# --- events -----------------------------------------------------------------------------------------------


@router.get("/{name}/events", summary="The app's events as server-sent events")
async def events(request: Request) -> Response:
    """Stream the journal from the last acknowledgement on, or after `Last-Event-ID`.

    `topic=…`, which may be repeated, subscribes first. `ack=auto` acknowledges what was written to
    it; else `POST …/ack` does, with the same `reader=…` if one is given here. An event without an id is about
    the connection to the Messaging API and is not in the journal.
    """
    event_id, after_text = request.headers.get("last-event-id"), request.query_params.get("after")
    auto = request.query_params.get("ack", "explicit")
    if auto not in ("auto", "explicit"):
        raise ProblemError(400, "bad_request", "ack: auto or explicit is possible")
    text = event_id or after_text
    after = _position(text, "Last-Event-ID" if event_id else "after") if text else None
    journal = await open_journal(request)
    topics = request.query_params.getlist("topic")
    if topics and (errors := await journal.client.subscribe(topics)):
        topic, reason = next(iter(errors.items()))
        raise ProblemError(400, "bad_request", f"topic: {topic}: {reason}")
    label = reader_label(request.query_params.get("reader"))
    return EventStreamResponse(_stream(journal, after, auto=auto == "auto", label=label))


def reader_label(value: object) -> str:
    """Return the name that distinguishes an app's readers. Raises `ProblemError`."""
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _MAX_LABEL:
        raise ProblemError(400, "bad_request", f"reader: a text of at most {_MAX_LABEL} characters is needed")
    return value


def _position(text: str, where: str) -> JournalPosition:
    try:
        return JournalPosition.parse(text)
    except ValueError as error:
        raise ProblemError(400, "bad_request", f"{where}: {error}") from None


async def _stream(
    journal: Journal, after: JournalPosition | None, *, auto: bool, label: str
) -> AsyncIterator[bytes]:
    async with journal.reader(after, auto=auto, label=label) as reader:
        while entries := await reader.next():
            yield b"".join(chain.from_iterable(map(sse_parts, entries)))
            reader.done(entries)
        yield sse_event(encode_json({"reason": reader.ended}).decode(), kind="closed").encode()


@router.post("/{name}/ack", summary="Acknowledge events")
async def acknowledge(request: Request) -> Response:
    """Body: `{streamId, seq, reader?}`: events up to there are handled and not delivered again. 204."""
    body = await body_object(request)
    stream_id, seq = body.get("streamId"), body.get("seq")
    if not isinstance(stream_id, str) or not isinstance(seq, int) or isinstance(seq, bool):
        raise ProblemError(400, "bad_request", "streamId and seq are needed")
    position, label = _position(f"{stream_id}:{seq}", "streamId and seq"), reader_label(body.get("reader"))
    journal = await open_journal(request)
    await journal.acknowledge(position, label)
    return Response(None, 204)


# --- the app ----------------------------------------------------------------------------------------------


@router.get("/{name}/status", summary="Connection status and topic health")
async def status(request: Request) -> Response:
    """Return `{connection, reason, resyncing, topics}`."""
    journal = await open_journal(request)
    return json_response(show_status(await journal.client.status()))


def show_status(status: StatusReply) -> dict[str, Any]:
    """Return connection status and topic health."""
    return {
        "connection": status.connection,
        "reason": status.reason,
        "resyncing": status.resyncing,
        "topics": dict(status.topics),
    }


def problem_response(error: ProblemError | LogosError) -> Response:
    """Return the response for an error of these routes."""
    if isinstance(error, ProblemError):
        return Response(encode_json(error.body()), error.status, media_type=PROBLEM_TYPE)
    status_code, headers, members = problem_of(error)
    return Response(encode_json(members), status_code, headers, PROBLEM_TYPE)
