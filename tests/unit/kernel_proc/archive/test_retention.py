from __future__ import annotations

import pytest

from ipc_schema.config.archive import RetentionPolicy
from kernel_proc.archive.retention import excess


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
