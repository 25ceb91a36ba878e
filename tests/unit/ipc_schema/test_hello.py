from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema import PROTOCOL_MIN, PROTOCOL_VERSION
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.hello import HelloRequest, NetworkInfo, hello_first, negotiate
from ipc_schema.names import NAME_PATTERN, check_name


@pytest.mark.parametrize(
    ("offered", "supported", "version"),
    [((1, 1), (1, 1), 1), ((1, 9), (1, 3), 3), ((2, 9), (1, 3), 3), ((1, 2), (2, 3), 2)],
)
def test_the_greatest_common_version_is_chosen(
    offered: tuple[int, int], supported: tuple[int, int], version: int
) -> None:
    assert negotiate(offered, supported) == version


@pytest.mark.parametrize("offered", [(2, 3), (0, 0)])
def test_no_common_version(offered: tuple[int, int]) -> None:
    with pytest.raises(IpcError) as caught:
        negotiate(offered)
    assert caught.value.code is ErrorCode.UNSUPPORTED_VERSION
    assert caught.value.detail == {"supported": [PROTOCOL_MIN, PROTOCOL_VERSION]}


@pytest.mark.parametrize("offered", [(), (1,), (2, 1)])
def test_refuses_what_is_not_a_range(offered: Sequence[int]) -> None:
    with pytest.raises(IpcError) as caught:
        negotiate(offered)
    assert caught.value.code is ErrorCode.BAD_REQUEST


versions = st.integers(0, 5)


@given(versions, versions, versions, versions)
def test_negotiation_agrees_with_trying_them_all(a: int, b: int, c: int, d: int) -> None:
    offered, supported = (min(a, b), max(a, b)), (min(c, d), max(c, d))
    common = [v for v in range(6) if offered[0] <= v <= offered[1] and supported[0] <= v <= supported[1]]
    if common:
        assert negotiate(offered, supported) == max(common)
    else:
        with pytest.raises(IpcError):
            negotiate(offered, supported)


def test_a_request_is_checked_as_a_whole() -> None:
    request = HelloRequest.from_body({"kind": "app", "protocol": [1, 1], "name": "chat-1", "credit": 5})
    assert request.check() == 1
    assert (request.name, request.credit, request.takeover) == ("chat-1", 5, False)
    with pytest.raises(IpcError, match="name"):
        HelloRequest(kind="app", name="No!").check()
    with pytest.raises(IpcError, match="HelloRequest: protocol: is missing"):
        HelloRequest.from_body({"kind": "app"})
    assert HelloRequest(kind="app").to_body()["protocol"] == [PROTOCOL_MIN, PROTOCOL_VERSION]
    with pytest.raises(IpcError, match="HelloRequest: kind"):
        HelloRequest.from_body({"protocol": [1, 1]})


def test_the_answer_before_a_hello() -> None:
    error = hello_first()
    assert (error.code, error.message, error.retriable) == (ErrorCode.NOT_READY, "hello first", True)


@pytest.mark.parametrize("name", ["a", "a" * 64, "a.b_c-9", "."])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "a" * 65, "A", "a b", "a\n", "ä", "a/b"])
def test_refuses_what_is_not_a_name(name: str) -> None:
    with pytest.raises(IpcError) as caught:
        check_name(name)
    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert NAME_PATTERN.fullmatch(name) is None


def test_a_network_has_bounds() -> None:
    network = {
        "cluster": 1,
        "shard_count": 8,
        "max_message_size": 153_600,
        "preset": "",
        "rln_required": False,
    }
    assert NetworkInfo.from_body(network).to_body() == network
    with pytest.raises(IpcError, match="cluster"):
        NetworkInfo.from_body(network | {"cluster": 65_536})
