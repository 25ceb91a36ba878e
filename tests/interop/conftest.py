"""Fixtures of the interoperability tests: the Node.js packages and js-waku nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.interop.js_waku import JS_FOLDER, JsWakuPeer
from tests.interop.kernel_peer import KernelPeer
from tests.interop.npm import install_packages
from tests.interop.python_peer import RelayHostPeer
from tests.interop.relay_peer import RelayNode
from tests.interop.sdk.light_node import FOLDER as SDK_FOLDER
from tests.interop.sdk.light_node import LightNode

MakeJsPeer = Callable[..., JsWakuPeer]
MakeLightNode = Callable[..., LightNode]
MakeOurPeer = Callable[..., RelayNode]


@pytest.fixture(scope="session")
def js_packages() -> None:
    """js-waku's relay on js-libp2p."""
    install_packages(JS_FOLDER)


@pytest.fixture(scope="session")
def sdk_packages() -> None:
    """js-waku's SDK."""
    install_packages(SDK_FOLDER)


@pytest.fixture
def make_js_peer(js_packages: None) -> Iterator[MakeJsPeer]:
    """Start js-waku nodes (arguments of `JsWakuPeer`); all are stopped when the test ends."""
    with ExitStack() as stack:

        def make(**arguments: Any) -> JsWakuPeer:
            return stack.enter_context(JsWakuPeer(**arguments))

        yield make


@pytest.fixture
def make_light_node(sdk_packages: None) -> Iterator[MakeLightNode]:
    """Start light nodes of the SDK (arguments of `LightNode`); all are stopped when the test ends."""
    with ExitStack() as stack:

        def make(**arguments: Any) -> LightNode:
            return stack.enter_context(LightNode(**arguments))

        yield make


def _maker(kind: type[RelayNode]) -> Iterator[MakeOurPeer]:
    with ExitStack() as stack:

        def make(**arguments: Any) -> RelayNode:
            return stack.enter_context(kind(**arguments))

        yield make


@pytest.fixture
def make_our_peer() -> Iterator[MakeOurPeer]:
    """Start kernels (arguments of `KernelPeer`); all are stopped when the test ends, with exit code 0."""
    yield from _maker(KernelPeer)


@pytest.fixture
def make_relay_host() -> Iterator[MakeOurPeer]:
    """The same without IPC (`RelayHostPeer`): when only kernels fail, the fault is above the relay."""
    yield from _maker(RelayHostPeer)
