"""The C++ client: own tests, a live node that is killed, the C ABI from C and by ctypes, the package.

`tests/integration/test_conformance_live.py` drives its half of the Messaging API.
"""

from __future__ import annotations

import asyncio
import ctypes
import subprocess
import sys
from collections.abc import Iterator
from ctypes import POINTER, Structure, byref, c_char, c_char_p, c_int32, c_int64, c_size_t, c_uint8, c_void_p
from pathlib import Path

import msgpack
import pytest

from conformance.ours import BUILD_SECONDS, Unavailable, cpp_program
from tests.interop.chat import chat_with_a_python_app
from tests.interop.kernel_kill import follow_a_kernel_through_a_kill
from tests.support.kernel_process import KernelProcess, short_directory
from tests.support.mapi_process import MapiProcess

pytestmark = [pytest.mark.compiled_client, pytest.mark.integration, pytest.mark.timeout(BUILD_SECONDS)]

CLIENT = Path(__file__).parents[2] / "client" / "cpp"
TOPIC = "/test/1/cpp/proto"
DEADLINE_EXCEEDED = 9
INVALID_ARGUMENT = 100


@pytest.fixture(scope="module")
def adapter_command() -> list[str]:
    """The client's adapter, built. Skips where there is no compiler or a library is missing."""
    return program("tools/conformance_adapter")


def program(target: str) -> list[str]:
    try:
        return cpp_program(target)
    except Unavailable as why:
        pytest.skip(str(why))


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_own_tests() -> None:
    """The contract's vectors, the stream and the cursor without a socket; the C ABI without a server."""
    run(*program("tests/unit_tests"))
    run(*program("tests/c_api_test"))


def test_its_types_are_the_contracts() -> None:
    """`python client/make_cpp_contract.py` writes them."""
    run(sys.executable, CLIENT.parent / "make_cpp_contract.py", "--check")


def test_its_package_is_found(tmp_path: Path) -> None:
    """`find_package(logos_client)` in a project of its own, against what was installed."""
    (library,) = program("liblogos_client.so")
    installed, built = tmp_path / "installed", tmp_path / "built"
    run("cmake", "--install", Path(library).parent, "--prefix", installed)
    consumer = CLIENT / "tests" / "consumer"
    run("cmake", "-S", consumer, "-B", built, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={installed}")
    run("cmake", "--build", built)
    assert run(built / "consumer") == "not_ready\n"
    assert next(installed.rglob("logos_client.pc")).read_text().count("-llogos_client") == 1


def test_a_kernel_is_followed_through_a_kill(adapter_command: list[str]) -> None:
    follow_a_kernel_through_a_kill(adapter_command, "cpp")


@pytest.fixture(scope="module")
def mapi() -> Iterator[MapiProcess]:
    """A node for the tests that kill nothing."""
    with short_directory() as path, KernelProcess(path), MapiProcess(path) as process:
        asyncio.run(_ready(process))
        yield process


async def _ready(process: MapiProcess) -> None:
    await process.ready()


def test_the_abi_from_c(mapi: MapiProcess) -> None:
    run(*program("tests/c_api_test"), mapi.run_dir)


def test_the_chat_with_a_python_app(mapi: MapiProcess) -> None:
    chat_with_a_python_app(program("examples/chat"), mapi.run_dir, "seal", "hello from C++")


# -- by ctypes, as any language with a foreign function interface would --------------------------------------


class _AbiError(Structure):
    _fields_ = (
        ("code", c_int32),
        ("retriable", c_int32),
        ("retry_after_ms", c_int64),
        ("name", c_char * 32),
        ("message", c_char * 1024),
    )


class _AbiBytes(Structure):
    _fields_ = (("data", POINTER(c_uint8)), ("size", c_size_t))

    def value(self) -> bytes:
        return ctypes.string_at(self.data, self.size)


def test_the_abi_by_ctypes(mapi: MapiProcess) -> None:
    (path,) = program("liblogos_client.so")
    library = ctypes.CDLL(path)
    for name in ("logos_event_packed", "logos_reply_body"):
        getattr(library, name).restype = _AbiBytes
        getattr(library, name).argtypes = (c_void_p,)
    library.logos_event_free.argtypes = library.logos_reply_free.argtypes = (c_void_p,)
    library.logos_messaging_close.argtypes = (c_void_p, c_int32)
    client, event, reply, error = c_void_p(), c_void_p(), c_void_p(), _AbiError()
    forever = c_int64(-1)

    def check(code: int) -> None:
        assert code == 0, (error.name, error.message)

    assert library.logos_messaging_connect(b"ftp://x", None, byref(client), byref(error)) == INVALID_ARGUMENT
    assert (error.name, b"ftp://x" in error.message) == (b"invalid_argument", True)
    check(library.logos_messaging_connect(str(mapi.run_dir).encode(), None, byref(client), byref(error)))
    topics = (c_char_p * 2)(TOPIC.encode(), b"no topic")
    check(library.logos_messaging_subscribe(client, topics, c_size_t(2), forever, byref(reply), byref(error)))
    refused = msgpack.unpackb(library.logos_reply_body(reply).value())
    assert refused.keys() == {"no topic"}
    library.logos_reply_free(reply)
    request_id = (c_uint8 * 16)()
    payload = b"\0from ctypes\xff"
    check(
        library.logos_messaging_send(
            client, TOPIC.encode(), payload, c_size_t(len(payload)), None, request_id, byref(error)
        )
    )
    while True:
        check(library.logos_messaging_next(client, c_int64(20_000), byref(event), byref(error)))
        said = msgpack.unpackb(library.logos_event_packed(event).value())
        library.logos_event_free(event)
        if said["event"] == "message_received":
            break
    assert (said["payload"], said["content_topic"]) == (payload, TOPIC)
    assert len(bytes(request_id)) == 16 != bytes(request_id).count(0)
    while (code := library.logos_messaging_next(client, c_int64(0), byref(event), byref(error))) == 0:
        library.logos_event_free(event)
    assert (code, error.retriable) == (DEADLINE_EXCEEDED, 1)
    library.logos_messaging_close(client, 1)
