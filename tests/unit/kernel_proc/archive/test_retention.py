from __future__ import annotations

import pytest

from kernel_proc.archive.api import ArchiveConfigError
from kernel_proc.archive.retention import DEFAULT_RETENTION, RetentionPolicy, excess, parse_retention


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        (DEFAULT_RETENTION, RetentionPolicy(seconds=172_800)),
        ("time:3600", RetentionPolicy(seconds=3600)),
        ("capacity:25000", RetentionPolicy(messages=25_000)),
        ("size:25GB", RetentionPolicy(bytes=25_000_000_000)),
        ("size:1.5 mb", RetentionPolicy(bytes=1_500_000)),
        ("size:2GiB", RetentionPolicy(bytes=2 << 30)),
        (" time:60 ; Size:1MB;capacity:5", RetentionPolicy(60, 5, 1_000_000)),
        ("", RetentionPolicy()),
        ("none", RetentionPolicy()),
    ],
)
def test_policies(text: str, policy: RetentionPolicy) -> None:
    assert parse_retention(text) == policy
    assert parse_retention(str(policy)) == policy


@pytest.mark.parametrize(
    "text",
    [
        "time",
        "time:",
        "time:-1",
        "time:0",
        "time:1h",
        "time:1.5",
        "capacity:many",
        "capacity:٣",
        "size:1",
        "size:MB",
        "size:1TB",
        "size:0MB",
        "size:1,5MB",
        "age:3",
        "time:1;time:2",
        "time:1;",
        "time:1;none",
        "time:1,size:1MB",
        "time:" + "9" * 30,
    ],
)
def test_what_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(ArchiveConfigError, match="retention policy"):
        parse_retention(text)


@pytest.mark.parametrize(
    ("policy", "messages", "size", "too_many"),
    [
        (RetentionPolicy(), 1000, 1000, 0),
        (RetentionPolicy(seconds=1), 1000, 1000, 0),
        (RetentionPolicy(messages=900), 1000, 1000, 100),
        (RetentionPolicy(messages=1000), 1000, 1000, 0),
        (RetentionPolicy(bytes=500_000), 1000, 1_000_000, 500),
        (RetentionPolicy(bytes=999_999), 1000, 1_000_000, 1),
        (RetentionPolicy(bytes=1_000_000), 1000, 1_000_000, 0),
        (RetentionPolicy(bytes=500_000, messages=100), 1000, 1_000_000, 900),
        (RetentionPolicy(bytes=1), 0, 40_960, 0),
    ],
)
def test_excess(policy: RetentionPolicy, messages: int, size: int, too_many: int) -> None:
    assert excess(policy, messages, size) == too_many
