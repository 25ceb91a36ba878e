"""The life of a gateway process: claim, listen, serve, end."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
from contextlib import ExitStack

from ipc_schema.config.gateway import GatewayConfig
from ipc_schema.paths import gateway_address_file, gateway_directory
from ipc_schema.topics import PubsubTopic
from logos_client.exceptions import LogosError
from logos_client.kernel import KernelClient
from logos_gateway.application import metrics_application, rest_application, rest_server
from logos_gateway.apps.journals import Journals
from logos_gateway.http_server import HttpListener, ListenError
from logos_gateway.node_links import NodeLinks
from logos_gateway.operator.pulse import Pulse
from logos_gateway.operator.scrape import Scraper
from logos_gateway.reference.messaging_cache import MessagingCache
from logos_gateway.relay_topics import RelayTopics
from logos_gateway.relay_watch import RelayWatch
from logos_gateway.state import Gateway
from logos_gateway.tokens import TokenFileError, Tokens, load_tokens
from logos_process.claim import claim_directory
from logos_process.exits import ExitCode, StartError
from logos_process.files import replace_file
from logos_process.garbage import collect_less
from logos_process.logs import fields
from logos_process.stopping import StopLimit, stop_signals
from logos_process.version import version

log = logging.getLogger(__name__)


async def serve(config: GatewayConfig, limit: StopLimit) -> int:
    """Serve until a signal. Return the exit code. Raises `StartError`."""
    if config.rest is None and config.metrics is None:
        raise StartError("nothing to serve: set rest, dashboard or metrics-server")
    tokens = _tokens(config)
    with ExitStack() as stack:
        directory = gateway_directory(config.ipc_dir)
        claim_directory(stack, directory)
        gateway = _gateway(config)
        scraper = Scraper(gateway)
        pulse = Pulse(gateway.links, scraper)
        listeners = _listeners(gateway, scraper, pulse, tokens)
        # Shows tools an automatic port, and supervisors that it is this process that listens.
        address_file = gateway_address_file(config.ipc_dir)
        urls = {name: listener.url for name, listener in listeners.items()}
        replace_file(address_file, json.dumps({"pid": os.getpid(), **urls}), durable=False)
        stack.callback(address_file.unlink, missing_ok=True)
        log.info("serving", extra=fields(**urls, directory=directory))
        # The framework's objects stay for good: no collection should look at them.
        gc.collect()
        gc.freeze()
        collect_less()
        return await _run(gateway, scraper, pulse, list(listeners.values()), limit)


def _tokens(config: GatewayConfig) -> Tokens | None:
    if config.options.rest_token_file is None:
        return None
    try:
        return load_tokens(config.options.rest_token_file)
    except TokenFileError as error:
        raise StartError(f"rest-token-file: {error}") from None


def _gateway(config: GatewayConfig) -> Gateway:
    links = NodeLinks(config.kernel, config.mapi)
    gateway = Gateway(
        config=config,
        links=links,
        topics=RelayTopics(config.options.rest_relay_cache_capacity),
        watch=RelayWatch(config.options.rest_relay_cache_capacity),
        journals=Journals(config.mapi),
        messaging=MessagingCache(config.mapi),
    )
    if config.options.rest:

        async def subscribe_configured(kernel: KernelClient) -> None:
            """As the reference does, the node's own shards count as subscribed from the start."""
            try:
                for shard in (await kernel.health()).shards:
                    await gateway.topics.subscribe(kernel, PubsubTopic.parse(shard.pubsub_topic))
            except LogosError as error:
                log.warning("the node's shards are not subscribed: %s", error)

        links.on_kernel(subscribe_configured)
    return gateway


def _listeners(
    gateway: Gateway, scraper: Scraper, pulse: Pulse, tokens: Tokens | None
) -> dict[str, HttpListener]:
    config = gateway.config
    listeners: dict[str, HttpListener] = {}
    try:
        if config.rest is not None:
            app = rest_server(rest_application(gateway, pulse, version()), gateway, tokens)
            listeners["rest"] = HttpListener(
                app, config.rest, tls_cert=config.options.rest_tls_cert, tls_key=config.options.rest_tls_key
            )
        if config.metrics is not None:
            listeners["metrics"] = HttpListener(metrics_application(gateway, scraper, tokens), config.metrics)
        for listener in listeners.values():
            listener.bind()
    except ListenError as error:
        raise StartError(str(error), ExitCode.FAILED) from None
    except OSError as error:  # certificate or key
        raise StartError(f"rest-tls-cert: {error}") from None
    return listeners


async def _run(
    gateway: Gateway, scraper: Scraper, pulse: Pulse, listeners: list[HttpListener], limit: StopLimit
) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in stop_signals():
        loop.add_signal_handler(number, stop.set)
    gateway.links.start()
    gateway.journals.start()
    serving = [loop.create_task(listener.run(), name="http") for listener in listeners]
    stopping = loop.create_task(stop.wait())
    try:
        await asyncio.wait({*serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        failed = next((task for task in serving if task.done()), None)
        if failed is not None and not stop.is_set():
            failed.result()  # raises what ended it
            log.critical("a listener has ended")
    finally:
        limit.start()
        stopping.cancel()
        # The readers first: their streams end in order, so that the listeners need not abort them.
        await gateway.journals.close()
        for listener in listeners:
            listener.stop()
        await asyncio.gather(*serving, return_exceptions=True)
        await gateway.messaging.close()
        await gateway.watch.close()
        await pulse.close()
        await scraper.close()
        await gateway.links.close()
    return ExitCode.OK if stop.is_set() else ExitCode.FAILED
