"""Drives a client under test through scenarios: commands as lines of JSON, requests at a scripted server."""

from __future__ import annotations

import functools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import zmq

from conformance.adapter import Adapter, Broken, Lacking
from conformance.flood import Flood
from conformance.kernel_server import TOPIC, ScriptedKernel
from conformance.server import ScriptedServer
from ipc_schema.mapi.events import AppEventKind

HERE: Final = Path(__file__).parent
STEP_SECONDS: Final = 15.0
#: Seconds in which a client may do what it must not do, or what no step waits for.
SETTLE_SECONDS: Final = 0.3
ID: Final = bytes(range(16))
HASH: Final = bytes(range(32))
NAMED: Final = {"$id": ID, "$hash": HASH}


@dataclass
class Scenario:
    """One scenario, as `scenarios/*.json` have it.

    `optional`: about something that a client may lack; its adapter then answers the command `unknown_method`.
    """

    name: str
    covers: list[str]
    steps: list[dict[str, Any]]
    short: bool = False
    slow: bool = False
    kernel: bool = False
    optional: bool = False


@dataclass
class ScenarioResult:
    """The result of a scenario; `reason` is empty if it passed."""

    scenario: Scenario
    reason: str = ""
    sentences: list[str] = field(default_factory=list)
    lacking: bool = False

    @property
    def failed(self) -> bool:
        """Whether it does not conform."""
        return bool(self.reason) and not self.lacking


def scenarios() -> list[Scenario]:
    """Return all scenarios, in the order of their files."""
    return [
        Scenario(**one)
        for path in sorted((HERE / "scenarios").glob("*.json"))
        for one in json.loads(path.read_text(encoding="utf-8"))
    ]


def sentences() -> dict[str, str]:
    """Return key → sentence of SPEC.md that concerns a client."""
    read: dict[str, str] = json.loads((HERE / "sentences.json").read_text(encoding="utf-8"))
    return read


def uncovered(chosen: Sequence[Scenario]) -> dict[str, str]:
    """Return the sentences that no scenario covers."""
    covered = {key for scenario in chosen for key in scenario.covers}
    return {key: text for key, text in sentences().items() if key not in covered}


def run(scenario: Scenario, command: Sequence[str], cwd: Path | None = None) -> ScenarioResult:
    """Run one scenario in a fresh process of the client."""
    known = sentences()
    with tempfile.TemporaryDirectory(prefix="conf") as directory:
        path = Path(directory)
        server = ScriptedKernel(path) if scenario.kernel else ScriptedServer(path / "apps")
        adapter = Adapter(command, cwd)
        outcome = ScenarioResult(scenario)
        try:
            _Run(server, adapter).steps(scenario.steps)
            if server.violations:
                raise Broken("; ".join(dict.fromkeys(server.violations)))
        except Broken as error:
            outcome.reason = str(error)
            outcome.lacking = scenario.optional and isinstance(error, Lacking)
            outcome.sentences = [known[key] for key in scenario.covers]
        finally:
            adapter.close()
            server.close()
    return outcome


class _Run:
    def __init__(self, server: ScriptedServer, adapter: Adapter) -> None:
        self.server = server
        self.adapter = adapter
        self.later: dict[str, list[int]] = {}

    def steps(self, steps: list[dict[str, Any]]) -> None:
        for number, step in enumerate(steps, 1):
            (kind,) = [key for key in step if hasattr(self, f"_{key}")]
            try:
                getattr(self, f"_{kind}")(step)
            except Broken as error:
                raise type(error)(f"step {number} {json.dumps(step)}: {error}") from None

    # -- the client ------------------------------------------------------------------------------------------

    def _do(self, step: dict[str, Any]) -> None:
        arguments = dict(step.get("args", {}))
        if step["do"] == "connect":
            arguments |= {"endpoint": self.server.endpoint}
        if step["do"] == "kernel_connect":
            arguments |= {"directory": str(self.kernel.directory)}
        times = step.get("times", 1)
        if "later" in step:
            self.later[step["later"]] = [self.adapter.begin(step["do"], arguments) for _ in range(times)]
            return
        for _ in range(times):
            self._judge(step, self.adapter.begin(step["do"], arguments))

    def _await(self, step: dict[str, Any]) -> None:
        for number in self.later.pop(step["await"]):
            self._judge(step, number)

    def _judge(self, step: dict[str, Any], number: int) -> None:
        self._until(lambda: number in self.adapter.answers, "the client has not answered")
        answer = self.adapter.answers.pop(number)
        wanted: Any
        if "error" in step:
            wanted, found = step["error"], answer.get("error")
        else:
            if not answer["ok"]:
                lacking = answer["error"].get("code") == "unknown_method"
                raise (Lacking if lacking else Broken)(f"the client says {answer['error']}")
            wanted, found = step.get("expect"), answer.get("result")
        if wanted is not None and not fits(wanted, found):
            raise Broken(
                f"the client says {json.dumps(found if 'error' in step or found is not None else answer)}"
            )

    # -- the server ------------------------------------------------------------------------------------------

    def _server(self, step: dict[str, Any]) -> None:
        match step["server"]:
            case "restart":
                self._until_idle()
                self.server.stop()
                self.server.start()
            case "heartbeat":
                self.server.out_of_band(AppEventKind.HEARTBEAT)
            case "taken_over":
                self.server.out_of_band(AppEventKind.TAKEN_OVER)
            case name:
                getattr(self.server, name)()

    def _flooded(self, step: dict[str, Any]) -> None:
        """Kill one server after the other, each with a client that has not read what it was sent."""
        self._until_idle()
        self.server.stop()
        for _ in range(step["flooded"]):
            flood = Flood(self.server.path)
            try:
                self._until(functools.partial(flood.said, "greeted"), "no hello has come")
                self.adapter.pause()
                flood.begin()
                self._until(functools.partial(flood.said, "full"), "the server can still send")
            finally:
                flood.kill()
                self.adapter.resume()
        self.server.start()

    def _limits(self, step: dict[str, Any]) -> None:
        self.server.limits.update(step["limits"])

    def _answer(self, step: dict[str, Any]) -> None:
        self.server.answers[step["answer"]].extend([step["with"]] * step.get("times", 1))

    def _emit(self, step: dict[str, Any]) -> None:
        event = step["emit"]
        payload = bytes(event["size"]) if "size" in event else event.get("payload", "").encode()
        fields = event.get("fields")
        if fields is None:
            fields = [event.get("topic", "/a/1/b/c"), "$hash", event.get("timestamp", 5), b"", False, 0]
        values = [NAMED.get(value, value) if isinstance(value, str) else value for value in fields]
        for _ in range(step.get("times", 1)):
            self.server.emit(event.get("kind", 1), values, payload, gap=event.get("gap", 0))

    def _again(self, step: dict[str, Any]) -> None:
        self.server.again(step["again"])

    def _raw(self, step: dict[str, Any]) -> None:
        self.server.raw([bytes.fromhex(frame) for frame in step["raw"]])

    def _release(self, step: dict[str, Any]) -> None:
        for _ in range(step["release"]):
            self._until(lambda: bool(self.server.held), "no request has come")
            self.server.release(1)

    # -- a kernel and its client -----------------------------------------------------------------------------

    @property
    def kernel(self) -> ScriptedKernel:
        """Return the server of a kernel's scenario."""
        assert isinstance(self.server, ScriptedKernel)
        return self.server

    def _publish(self, step: dict[str, Any]) -> None:
        for payload in step["publish"]:
            self.kernel.publish(payload.encode(), dropped=step.get("dropped", False))

    def _trim(self, step: dict[str, Any]) -> None:
        self.kernel.trim(step["trim"])

    def _garbage(self, step: dict[str, Any]) -> None:
        self.kernel.event([TOPIC, bytes.fromhex(step["garbage"]), b""])

    def _next(self) -> dict[str, Any]:
        number = self.adapter.begin("next", {})
        self._until(lambda: number in self.adapter.answers, "the client has no event")
        answer = self.adapter.answers.pop(number)
        if not answer["ok"]:
            raise Broken(f"the client says {answer.get('error')}")
        event: dict[str, Any] | None = answer["result"]
        if event is None:
            raise Broken("the client has no event")
        return event

    def _ended(self, step: dict[str, Any]) -> None:
        """Expect the end of the events: none arrives, or an error says so."""
        number = self.adapter.begin(step["ended"], {"timeout_ms": 500})
        self._until(lambda: number in self.adapter.answers, "the client has not answered")
        answer = self.adapter.answers.pop(number)
        if answer["ok"] and answer["result"] is not None:
            raise Broken(f"the client says {json.dumps(answer['result'])}")

    def _message(self, step: dict[str, Any]) -> None:
        """Expect the next message; events of health and peers may come in between."""
        while (event := self._next())["event"] in ("health", "peer", "peers_snapshot"):
            pass
        wanted = {"event": "message", "seq": step["message"]}
        if "payload" in step:
            wanted["payload"] = step["payload"].encode().hex()
        if not fits(wanted, event):
            raise Broken(f"the client says {json.dumps(event)}")

    def _gather(self, step: dict[str, Any]) -> None:
        """Expect these events in any order: requests and events use two connections."""
        lacking = list(step["gather"])
        while lacking:
            event = self._next()
            lacking = [pattern for pattern in lacking if not fits(pattern, event)]

    def _unanswered(self, step: dict[str, Any]) -> None:
        self._settled(step)
        if any(number in self.adapter.answers for number in self.later[step["unanswered"]]):
            raise Broken("the client has answered")

    def _count(self, method: str) -> int:
        return sum(request.method == method for request in self.server.requests)

    def _seen_at_most(self, step: dict[str, Any]) -> None:
        self._settled(step)
        if (count := self._count(step["method"])) > step["seen_at_most"]:
            raise Broken(f"the server has seen it {count} times")

    def _seen_at_least(self, step: dict[str, Any]) -> None:
        self._until(lambda: self._count(step["method"]) >= step["seen_at_least"], "fewer have come")

    # -- what the server has seen ----------------------------------------------------------------------------

    def _saw(self, step: dict[str, Any]) -> None:
        wanted = step["saw"]

        def count() -> int:
            return sum(
                request.method == wanted["method"]
                and ("body" not in wanted or fits(wanted["body"], plain(request.body)))
                for request in self.server.requests
            )

        times = step.get("times", 1)
        seconds = step.get("within_ms", STEP_SECONDS * 1000) / 1000
        self._until(lambda: count() >= times, "the server has not seen it", seconds)
        if count() != times:
            raise Broken(f"the server has seen it {count()} times")

    def _first(self, step: dict[str, Any]) -> None:
        if self.server.requests[0].method != step["first"]:
            raise Broken(f"the first request was {self.server.requests[0].method}")

    def _distinct(self, step: dict[str, Any]) -> None:
        wanted = step["distinct"]
        values = [r.body[wanted["key"]] for r in self.server.requests if r.method == wanted["method"]]
        if len(set(map(repr, values))) != len(values):
            raise Broken("the same one twice")

    def _held(self, step: dict[str, Any]) -> None:
        self._until(lambda: len(self.server.held) >= step["held"], "fewer have come")
        self._settled(step)
        if len(self.server.held) != step["held"]:
            raise Broken(f"{len(self.server.held)} have come")

    def _most_held(self, step: dict[str, Any]) -> None:
        if self.server.most_held > step["most_held"]:
            raise Broken(f"{self.server.most_held} were under way at once")

    def _acked(self, step: dict[str, Any]) -> None:
        app = self.server.app
        self._until(lambda: app.acked >= step["acked"], f"acknowledged is {app.acked}")
        self._settled(step)
        if app.acked != step["acked"]:
            raise Broken(f"acknowledged is {app.acked}")

    def _sealed(self, step: dict[str, Any]) -> None:
        if self.server.sealed.decode() != step["sealed"]:
            raise Broken(f"the encrypted segments are {self.server.sealed!r}")

    def _opened(self, step: dict[str, Any]) -> None:
        if (found := [content.decode() for content in self.server.opened]) != step["opened"]:
            raise Broken(f"given back were {found}")

    def _sent_at_most(self, step: dict[str, Any]) -> None:
        if self.server.app.position > step["sent_at_most"]:
            raise Broken(f"{self.server.app.position} were asked for")

    def _visits_at_most(self, step: dict[str, Any]) -> None:
        if (count := self.server.visits()) > step["visits_at_most"]:
            raise Broken(f"it has connected {count} times")

    def _settled(self, _step: dict[str, Any]) -> None:
        end = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < end:
            self._poll(0.05)

    # -- waiting ---------------------------------------------------------------------------------------------

    def _until_idle(self) -> None:
        """Wait until no exchange is half done: a kill in the middle is another scenario's subject."""
        self._settled({})

    def _until(self, condition: Callable[[], bool], what: str, seconds: float = STEP_SECONDS) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise Broken(f"{what} within {seconds:g} s")
            self._poll(0.2)

    def _poll(self, seconds: float) -> None:
        poller = zmq.Poller()
        poller.register(self.adapter.fd, zmq.POLLIN)
        for socket in self.server.sockets:
            poller.register(socket, zmq.POLLIN)
        poller.poll(int(seconds * 1000))
        self.server.receive()
        self.adapter.receive()


def plain(value: Any) -> Any:
    """Convert to the adapters' form: bytes in hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def fits(pattern: Any, value: Any) -> bool:
    """Return whether a value matches a pattern: a map has its keys, others are equal. Integers may be texts,
    nil may be absent; `{"$has": …}` is a part of a text."""
    if isinstance(pattern, dict) and "$has" in pattern:
        return isinstance(value, str) and pattern["$has"] in value
    if isinstance(pattern, dict):
        if not isinstance(value, dict):
            return False
        if not pattern:
            return not value
        return all(fits(item, value.get(key)) for key, item in pattern.items())
    if isinstance(pattern, list):
        return (
            isinstance(value, list)
            and len(pattern) == len(value)
            and all(fits(item, found) for item, found in zip(pattern, value, strict=True))
        )
    if isinstance(pattern, str) and pattern in NAMED:
        return bool(value == NAMED[pattern].hex())
    if isinstance(pattern, int) and not isinstance(pattern, bool):
        return not isinstance(value, bool) and str(value) == str(pattern)
    return type(value) is type(pattern) and bool(value == pattern)
