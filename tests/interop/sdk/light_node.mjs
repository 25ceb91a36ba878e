// A light node of @waku/sdk (WebSocket, mplex, noise), driven over JSON lines. tests/interop/sdk/node.py is its driver.
//
//   node --import ./polyfill.mjs light_node.mjs [--cluster 42] [--shards 1] [--ping-ms 60000] [--peer-exchange]
//
// It dials only the peers it is given: no bootstrap, no DNS. With --peer-exchange it also asks every peer
// that serves it for others, and dials those. `--shards`: of the cluster, for autosharding; 0: static sharding, and a
// `shard` with every command. `--ping-ms`: how often the SDK pings who it has subscribed at.
//
// Commands (stdin): {"id", "cmd", …}. Each is answered {"id", "ok": true, "result"} or {"id", "ok": false, "error"}.
//   dial        {address}                                -> {}   opens a stream of the first protocol the peer serves
//   wait        {protocols: ["store" | "filter" | "lightpush"], timeoutMs} -> {}
//   hangup      {peerId}                                 -> {}
//   send        {contentTopic, payload, timestampMs?, meta?, ephemeral?, shard?, legacy?}
//                                      -> {hash, successes: [peer id], failures: [error]}   tried once, by lightpush
//   query       {contentTopics, shard?, timeStartMs?, timeEndMs?, hashes?, cursor?, forward?, limit?, data?}
//                                      -> {pages: [[message | null]]}   all pages, in the order they came
//   subscribe   {contentTopics, shard?}                  -> {ok}   their messages become `message` events
//   unsubscribe {contentTopics, shard?}                  -> {ok}
//   ping        {peerId}                                 -> {error | null}   a filter ping
//   leave       {peerId, shard?}                         -> {error | null}   filter's unsubscribe-all, its answer awaited
//   exchange    {peerId, count}                          -> {error | null, peers: [{peerId, addresses, cluster, shards}]}
//   metadata    {peerId}                                 -> {cluster, shards}
//   peers       {}                                       -> [{peerId, protocols, connections: [{address, muxer}]}]
//   stop        {}                                       -> {} and exit
// Events (stdout):
//   {"event":"ready","peerId"}
//   {"event":"message", …}   hash, pubsubTopic, contentTopic, payload, timestamp (ns, a string), meta, version, ephemeral
//   {"event":"connected" | "disconnected" | "discovered","peerId"}
//   {"event":"log","text"}   what the SDK logs as an error: status codes are to be seen nowhere else
// Bytes are base64, hashes and cursors hex.

import process from 'node:process'
import readline from 'node:readline'
import { format, parseArgs } from 'node:util'
import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { createDecoder, createEncoder, messageHash } from '@waku/core'
import { wakuPeerExchangeDiscovery } from '@waku/discovery'
import { createLightNode, Protocols } from '@waku/sdk'
import debug from 'debug'

const { values: args } = parseArgs({
  options: {
    cluster: { type: 'string', default: '42' },
    shards: { type: 'string', default: '1' },
    'ping-ms': { type: 'string', default: '60000' },
    'peer-exchange': { type: 'boolean', default: false }
  }
})

const PROTOCOLS = { store: Protocols.Store, filter: Protocols.Filter, lightpush: Protocols.LightPush }

const hex = (bytes) => Buffer.from(bytes).toString('hex')
const base64 = (bytes) => Buffer.from(bytes ?? []).toString('base64')
// Plain Uint8Arrays: some of js-libp2p's codecs treat a Buffer differently.
const unhex = (text) => Uint8Array.from(Buffer.from(text, 'hex'))
const bytes = (text) => Uint8Array.from(Buffer.from(text, 'base64'))
const emit = (event) => process.stdout.write(JSON.stringify(event) + '\n')

debug.enable('waku:*:error')
debug.log = (...parts) => emit({ event: 'log', text: format(...parts) })

const clusterId = Number(args.cluster)
const shardCount = Number(args.shards)

const node = await createLightNode({
  defaultBootstrap: false,
  discovery: { dns: false, peerCache: false, peerExchange: args['peer-exchange'] },
  networkConfig: shardCount > 0 ? { clusterId, numShardsInCluster: shardCount } : { clusterId },
  filter: { keepAliveIntervalMs: Number(args['ping-ms']) },
  // Without this it dials secure WebSockets only.
  libp2p: { filterMultiaddrs: false, hideWebSocketInfo: true }
})

for (const [name, kind] of [['peer:connect', 'connected'], ['peer:disconnect', 'disconnected']]) {
  node.libp2p.addEventListener(name, ({ detail }) => emit({ event: kind, peerId: detail.toString() }))
}
node.libp2p.addEventListener('peer:discovery', ({ detail }) => emit({ event: 'discovered', peerId: detail.id.toString() }))

function described (message) {
  const { payload, contentTopic, timestamp, meta, version, ephemeral } = message.proto
  return {
    // over the decoded fields: DecodedMessage.timestamp has lost what is below a millisecond
    hash: hex(messageHash(message.pubsubTopic, message.proto)),
    pubsubTopic: message.pubsubTopic,
    contentTopic,
    payload: base64(payload),
    timestamp: String(timestamp ?? 0n),
    meta: base64(meta),
    version: version ?? 0,
    ephemeral: Boolean(ephemeral)
  }
}

// The SDK knows a subscription by its decoder, the object.
const decoders = new Map()

function decoder (contentTopic, shard) {
  const key = `${shard} ${contentTopic}`
  if (!decoders.has(key)) decoders.set(key, createDecoder(contentTopic, node.createRoutingInfo(contentTopic, shard)))
  return decoders.get(key)
}

const failure = ({ failure }) => ({ error: failure?.error ?? null })
const date = (milliseconds) => milliseconds === undefined ? undefined : new Date(milliseconds)

const commands = {
  async dial ({ address }) {
    await node.dial(multiaddr(address))
    return {}
  },

  async wait ({ protocols, timeoutMs }) {
    await node.waitForPeers(protocols.map((name) => PROTOCOLS[name]), timeoutMs)
    return {}
  },

  async hangup ({ peerId }) {
    await node.hangUp(peerIdFromString(peerId))
    return {}
  },

  async send ({ contentTopic, payload, timestampMs, meta, ephemeral = false, shard, legacy = false }) {
    const encoder = createEncoder({
      contentTopic,
      ephemeral,
      routingInfo: node.createRoutingInfo(contentTopic, shard),
      metaSetter: meta === undefined ? undefined : () => bytes(meta)
    })
    const message = { payload: bytes(payload), timestamp: new Date(timestampMs ?? Date.now()) }
    const { successes, failures } = await node.lightPush.send(encoder, message, { autoRetry: false, useLegacy: legacy })
    return {
      hash: hex(messageHash(encoder.pubsubTopic, await encoder.toProtoObj(message))),
      successes: successes.map(String),
      failures: failures.map(({ error }) => error)
    }
  },

  async query ({ contentTopics, shard, timeStartMs, timeEndMs, hashes, cursor, forward = true, limit, data = true }) {
    const options = {
      includeData: data,
      paginationForward: forward,
      paginationLimit: limit,
      timeStart: date(timeStartMs),
      timeEnd: date(timeEndMs),
      messageHashes: hashes?.map(unhex),
      paginationCursor: cursor === undefined ? undefined : unhex(cursor)
    }
    const pages = []
    for await (const page of node.store.queryGenerator(contentTopics.map((topic) => decoder(topic, shard)), options)) {
      pages.push((await Promise.all(page)).map((message) => message === undefined ? null : described(message)))
    }
    return { pages }
  },

  async subscribe ({ contentTopics, shard }) {
    const report = (message) => emit({ event: 'message', ...described(message) })
    return { ok: await node.filter.subscribe(contentTopics.map((topic) => decoder(topic, shard)), report) }
  },

  async unsubscribe ({ contentTopics, shard }) {
    return { ok: await node.filter.unsubscribe(contentTopics.map((topic) => decoder(topic, shard))) }
  },

  async ping ({ peerId }) {
    return failure(await node.filter.protocol.ping(peerIdFromString(peerId)))
  },

  async leave ({ peerId, shard }) {
    const { pubsubTopic } = node.createRoutingInfo('/interop/1/any/proto', shard)
    return failure(await node.filter.protocol.unsubscribeAll(pubsubTopic, peerIdFromString(peerId)))
  },

  async exchange ({ peerId, count }) {
    const { peerExchange } = wakuPeerExchangeDiscovery()(node.libp2p.components)
    const { error, peerInfos } = await peerExchange.query({ peerId: peerIdFromString(peerId), numPeers: count })
    const peers = (peerInfos ?? []).map(({ ENR }) => ({
      peerId: ENR.peerInfo.id.toString(),
      addresses: ENR.peerInfo.multiaddrs.map(String),
      cluster: ENR.shardInfo?.clusterId ?? null,
      shards: ENR.shardInfo?.shards ?? []
    }))
    return { error, peers }
  },

  async metadata ({ peerId }) {
    const { shardInfo, error } = await node.libp2p.services.metadata.query(peerIdFromString(peerId))
    if (error !== null) throw new Error(error)
    return { cluster: shardInfo.clusterId, shards: shardInfo.shards }
  },

  async peers () {
    return await Promise.all(node.libp2p.getPeers().map(async (id) => {
      const { protocols } = await node.libp2p.peerStore.get(id)
      const connections = node.libp2p.getConnections(id)
        .map(({ remoteAddr, multiplexer }) => ({ address: remoteAddr.toString(), muxer: multiplexer }))
      return { peerId: id.toString(), protocols, connections }
    }))
  },

  async stop () {
    await node.stop()
    return {}
  }
}

async function run ({ id, cmd, ...rest }) {
  try {
    if (!Object.hasOwn(commands, cmd)) throw new Error(`unknown command ${cmd}`)
    emit({ id, ok: true, result: await commands[cmd](rest) })
  } catch (error) {
    emit({ id, ok: false, error: error.message ?? String(error) })
  }
  if (cmd === 'stop') process.exit(0)
}

emit({ event: 'ready', peerId: node.peerId.toString() })
// Not awaited: a slow dial holds no other command up.
readline.createInterface({ input: process.stdin })
  .on('line', (line) => { void run(JSON.parse(line)) })
  .on('close', () => process.exit(0)) // the process that drives us is gone
