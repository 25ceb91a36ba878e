// A js-waku relay node on js-libp2p, on loopback only, driven over JSON lines. tests/interop/js_waku.py is its driver.
//
//   node --import ./polyfill.mjs relay_peer.mjs [--transports tcp,ws] [--muxers yamux,mplex] [--tcp-port 0]
//        [--ws-port 0] [--cluster 42] [--shards 0] [--seed <64 hex digits>] [--px] [--degree 6]
//        [--tls-key <file> --tls-cert <file>]
//
// `--seed` fixes the Ed25519 identity, so that a restarted node is the same peer. `--px` names other peers in
// PRUNEs and follows those that are named to it, `--degree` is the size of a mesh, no peer more or less. With
// `--tls-*` its WebSockets are secure ones.
//
// Commands (stdin): {"id", "cmd", …}. Each is answered {"id", "ok": true, "result"} or {"id", "ok": false, "error"}.
//   dial      {address}                       -> {peerId}
//   hangup    {peerId}                        -> {}
//   subscribe {contentTopic, shard?}          -> {}   its messages become `message` events
//   publish   {contentTopic, payload (base64), timestampMs?, meta? (base64), ephemeral?, shard?}
//                                             -> {hash (hex), peers: [peer id]}
//   metadata  {peerId}                        -> {clusterId, shards}   asks the peer (66/WAKU2-METADATA)
//   peers     {}                              -> [{peerId, agent, protocols, connections: [{address, direction, muxer, encryption}]}]
//   mesh      {shard?}                        -> {mesh: [peer id], subscribers: [peer id]}
//   stop      {}                              -> {} and exit
// Events (stdout):
//   {"event":"ready","peerId","addresses"}
//   {"event":"message","hash","pubsubTopic","contentTopic","payload","timestamp","meta","version","ephemeral"}
//        hash: js-waku's own deterministic message hash (hex); timestamp: ns as a decimal string; bytes: base64
//   {"event":"connected" | "disconnected","peerId"}
//   {"event":"mesh","change":"graft" | "prune","peerId","pubsubTopic","direction"}
//   {"event":"shards","peerId","clusterId","shards"}   the peer's metadata is stored, and new (it asked, or we did)

import { readFileSync } from 'node:fs'
import process from 'node:process'
import readline from 'node:readline'
import { parseArgs } from 'node:util'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { identify } from '@libp2p/identify'
import { mplex } from '@libp2p/mplex'
import { peerIdFromString } from '@libp2p/peer-id'
import { createEd25519PeerId, createFromPrivKey } from '@libp2p/peer-id-factory'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { webSockets } from '@libp2p/websockets'
import { all as anyWebSocket } from '@libp2p/websockets/filters'
import { multiaddr } from '@multiformats/multiaddr'
import { createDecoder, createEncoder, wakuMetadata } from '@waku/core'
import { messageHash } from '@waku/message-hash'
import { wakuGossipSub, wakuRelay } from '@waku/relay'
import { decodeRelayShard } from '@waku/utils'
import { createLibp2p } from 'libp2p'

const { values: args } = parseArgs({
  options: {
    transports: { type: 'string', default: 'tcp,ws' },
    muxers: { type: 'string', default: 'yamux,mplex' },
    'tcp-port': { type: 'string', default: '0' },
    'ws-port': { type: 'string', default: '0' },
    cluster: { type: 'string', default: '42' },
    shards: { type: 'string', default: '0' },
    seed: { type: 'string' },
    px: { type: 'boolean', default: false },
    degree: { type: 'string' },
    'tls-key': { type: 'string' },
    'tls-cert': { type: 'string' }
  }
})

const tls = args['tls-key'] === undefined
  ? {}
  : { key: readFileSync(args['tls-key']), cert: readFileSync(args['tls-cert']) }
const TRANSPORTS = {
  tcp: { make: () => tcp(), listen: `/ip4/127.0.0.1/tcp/${args['tcp-port']}` },
  ws: {
    make: () => webSockets({ filter: anyWebSocket, ...tls }),
    listen: `/ip4/127.0.0.1/tcp/${args['ws-port']}/${tls.key === undefined ? 'ws' : 'wss'}`
  }
}
const MUXERS = { yamux: () => yamux(), mplex: () => mplex() }

function pick (table, names, option) {
  return names.split(',').map((name) => {
    if (!Object.hasOwn(table, name)) throw new Error(`--${option}: ${name} is none of ${Object.keys(table)}`)
    return table[name]
  })
}

const cluster = Number(args.cluster)
const pubsubTopics = args.shards.split(',').map((shard) => pubsubTopic(Number(shard)))
const transports = pick(TRANSPORTS, args.transports, 'transports')

function pubsubTopic (shard) {
  return `/waku/2/rs/${cluster}/${shard}`
}

const hex = (bytes) => Buffer.from(bytes).toString('hex')
const base64 = (bytes) => Buffer.from(bytes ?? []).toString('base64')
// A plain Uint8Array: some of js-libp2p's codecs treat a Buffer differently.
const bytes = (text) => Uint8Array.from(Buffer.from(text, 'base64'))
const emit = (event) => process.stdout.write(JSON.stringify(event) + '\n')

async function identity () {
  if (args.seed === undefined) return await createEd25519PeerId()
  return await createFromPrivKey(await generateKeyPairFromSeed('Ed25519', Uint8Array.from(Buffer.from(args.seed, 'hex'))))
}

const gossip = {
  doPX: args.px,
  ...(args.px ? { scoreThresholds: { acceptPXThreshold: 0 } } : {}), // as nwaku and go-waku: no score has to be earned
  ...(args.degree === undefined ? {} : degrees(Number(args.degree)))
}

function degrees (degree) {
  return { D: degree, Dlo: degree, Dhi: degree, Dscore: degree, Dout: 0 }
}

const node = await createLibp2p({
  peerId: await identity(),
  addresses: { listen: transports.map((transport) => transport.listen) },
  transports: transports.map((transport) => transport.make()),
  connectionEncryption: [noise()],
  streamMuxers: pick(MUXERS, args.muxers, 'muxers').map((make) => make()),
  connectionManager: { minConnections: 0 }, // dials only on request
  services: {
    identify: identify(),
    ping: ping(),
    pubsub: wakuGossipSub(gossip),
    metadata: (components) => wakuMetadata(pubsubTopics)({ components, registrar: components.registrar, peerStore: components.peerStore })
  }
})
const pubsub = node.services.pubsub
const relay = wakuRelay(pubsubTopics)(node)

// ---- events ---------------------------------------------------------------------------------------------------

node.addEventListener('peer:connect', ({ detail }) => emit({ event: 'connected', peerId: detail.toString() }))
node.addEventListener('peer:disconnect', ({ detail }) => emit({ event: 'disconnected', peerId: detail.toString() }))
// The event's `previous` is no help: the store merges the new metadata into it too.
const reported = new Map()
node.addEventListener('peer:update', ({ detail: { peer } }) => {
  const stored = peer.metadata.get('shardInfo')
  const peerId = peer.id.toString()
  if (stored === undefined || reported.get(peerId) === hex(stored)) return
  reported.set(peerId, hex(stored))
  emit({ event: 'shards', peerId, ...decodeRelayShard(stored) })
})
for (const change of ['graft', 'prune']) {
  pubsub.addEventListener(`gossipsub:${change}`, ({ detail }) =>
    emit({ event: 'mesh', change, peerId: detail.peerId, pubsubTopic: detail.topic, direction: detail.direction }))
}

function onMessage (message) {
  const { payload, contentTopic, timestamp, meta, version, ephemeral } = message.proto
  emit({
    event: 'message',
    // over the decoded fields: DecodedMessage.timestamp has lost what is below a millisecond
    hash: hex(messageHash(message.pubsubTopic, message.proto)),
    pubsubTopic: message.pubsubTopic,
    contentTopic,
    payload: base64(payload),
    timestamp: String(timestamp ?? 0n),
    meta: base64(meta),
    version: version ?? 0,
    ephemeral: Boolean(ephemeral)
  })
}

// ---- commands -------------------------------------------------------------------------------------------------

const commands = {
  async dial ({ address }) {
    const connection = await node.dial(multiaddr(address))
    return { peerId: connection.remotePeer.toString() }
  },

  async hangup ({ peerId }) {
    await node.hangUp(peerIdFromString(peerId))
    return {}
  },

  async subscribe ({ contentTopic, shard = 0 }) {
    relay.subscribeWithUnsubscribe([createDecoder(contentTopic, pubsubTopic(shard))], onMessage)
    return {}
  },

  async publish ({ contentTopic, payload, timestampMs, meta, ephemeral = false, shard = 0 }) {
    const encoder = createEncoder({
      contentTopic,
      pubsubTopic: pubsubTopic(shard),
      ephemeral,
      metaSetter: meta === undefined ? undefined : () => bytes(meta)
    })
    const message = { payload: bytes(payload), timestamp: new Date(timestampMs ?? Date.now()) }
    const { successes, failures } = await relay.send(encoder, message)
    if (failures.length > 0) throw new Error(failures[0].error)
    const hash = hex(messageHash(encoder.pubsubTopic, await encoder.toProtoObj(message)))
    return { hash, peers: successes.map(String) }
  },

  async metadata ({ peerId }) {
    const { shardInfo, error } = await node.services.metadata.query(peerIdFromString(peerId))
    if (error !== null) throw new Error(error)
    return { clusterId: shardInfo.clusterId, shards: shardInfo.shards }
  },

  async peers () {
    return await Promise.all(node.getPeers().map(async (id) => {
      const { protocols, metadata } = await node.peerStore.get(id)
      return {
        peerId: id.toString(),
        agent: Buffer.from(metadata.get('AgentVersion') ?? []).toString(),
        protocols,
        connections: node.getConnections(id).map((connection) => ({
          address: connection.remoteAddr.toString(),
          direction: connection.direction,
          muxer: connection.multiplexer,
          encryption: connection.encryption
        }))
      }
    }))
  },

  async mesh ({ shard = 0 }) {
    const topic = pubsubTopic(shard)
    return { mesh: relay.getMeshPeers(topic), subscribers: pubsub.getSubscribers(topic).map(String) }
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
    emit({ id, ok: false, error: error.message })
  }
  if (cmd === 'stop') process.exit(0)
}

emit({ event: 'ready', peerId: node.peerId.toString(), addresses: node.getMultiaddrs().map(String) })
// Not awaited: a slow dial holds no other command up.
readline.createInterface({ input: process.stdin })
  .on('line', (line) => { void run(JSON.parse(line)) })
  .on('close', () => process.exit(0)) // the process that drives us is gone
