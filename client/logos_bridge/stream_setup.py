"""The streams and buckets of a bridge: made by the first one that needs them."""

from __future__ import annotations

import logging
from typing import Any

import nats.js.errors
from nats.js import JetStreamContext, api

from ipc_schema.config.bridge import BridgeConfig
from logos_bridge.layout import Layout

log = logging.getLogger(__name__)


async def ensure_streams(js: JetStreamContext, layout: Layout, config: BridgeConfig) -> None:
    """Make sure that all exist. Raises a failure of NATS."""
    prefix, outward = config.nats.nats_prefix, config.outward
    kept = {"max_age": outward.bridge_max_age, "max_bytes": outward.bridge_max_bytes or -1}
    messages = await _ensure(js, config, layout.messages, [f"{prefix}.messages.>"], **kept)
    if messages.duplicate_window < outward.bridge_duplicate_window:
        log.warning(
            "stream %s notices duplicates for %g s only, less than bridge-duplicate-window",
            layout.messages,
            messages.duplicate_window,
        )
    await _ensure(js, config, layout.fates, [f"{prefix}.fates.>"], **kept)
    await _ensure(js, config, layout.dead, [f"{prefix}.dead.>"], **kept)
    await _ensure(js, config, layout.sends, [f"{prefix}.sends.>"], retention=api.RetentionPolicy.WORK_QUEUE)
    for bucket in (layout.state_bucket, layout.open_bucket):
        # A bucket as the clients of NATS know it, except that a key can be deleted without a trace: an
        # open send would otherwise leave a marker for ever.
        await _ensure(
            js,
            config,
            f"KV_{bucket}",
            [f"$KV.{bucket}.>"],
            max_msgs_per_subject=1,
            allow_rollup_hdrs=True,
            allow_direct=True,
            discard=api.DiscardPolicy.NEW,
        )


async def _ensure(
    js: JetStreamContext, config: BridgeConfig, name: str, subjects: list[str], **settings: Any
) -> api.StreamConfig:
    try:
        return (await js.stream_info(name)).config
    except nats.js.errors.NotFoundError:
        wanted = api.StreamConfig(
            name=name,
            subjects=subjects,
            num_replicas=config.nats.nats_replicas,
            storage=api.StorageType.FILE,
            duplicate_window=config.outward.bridge_duplicate_window,
            **settings,
        )
    try:
        return (await js.add_stream(wanted)).config
    except nats.js.errors.BadRequestError as error:
        try:
            return (await js.stream_info(name)).config  # another bridge has made it
        except nats.js.errors.NotFoundError:
            raise error from None
