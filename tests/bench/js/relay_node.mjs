// One process of the relay bench: js-libp2p gossipsub as publisher or as receiver. README.md says what is set, and why.
//
//   node --import ./polyfill.mjs relay_node.mjs --role receiver|publisher [--validate]
//
// JSON lines: commands on stdin, events on stdout. Times are CLOCK_MONOTONIC in ns (Python: time.monotonic_ns()).
//
//   receiver   -> {"event":"ready","role","peerId","addresses":[…],"ackPort"}
//              <- {"cmd":"expect","round","messages","ackEvery"}         -> {"event":"expecting","round"}
//              -> {"event":"received","round","received","duplicates","lost","first_ns","last_ns","cpu_us"}
//                 when all are there, or when nothing new came for 10 s
//   publisher  -> {"event":"ready","role","peerId","addresses":[]}
//              <- {"cmd":"connect","address","ackPort"}                  -> {"event":"connected"}: meshed both ways
//              <- {"cmd":"publish","round","messages","size","window"}
//              -> {"event":"published","round","start_ns","end_ns","cpu_us"} when all are acknowledged
//              <- {"cmd":"pace","round","messages","size","rate"}        -> {"event":"paced","round","stamps","cpu_us"}
//                 one message at a time, at a rate; with "stamps": true in "expect", "received" has arrival times too
//              <- {"cmd":"attend","ackPort","peers"}                     -> {"event":"attended","peers"}
//                 once that many peers have subscribed (they dial us)
//   both       <- {"cmd":"stop"}; the end of stdin ends the process too
//
// Acknowledgements go from the receiver to the publisher over a TCP connection of their own on loopback, four bytes
// each: how many distinct messages of the round have arrived, sent every `ackEvery` messages.

import net from 'node:net'
import process from 'node:process'
import readline from 'node:readline'
import { createHash } from 'node:crypto'
import { parseArgs } from 'node:util'
import { gossipsub, StrictNoSign, TopicValidatorResult } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { isValid, messageMaker, PUBSUB_TOPIC } from './messages.mjs'

const MIB = 1024 * 1024
const STALL_MS = 10_000
const ACK_BYTES = 4
// publish() never leaves the microtask queue: after this much the loop gets a turn, in which the socket is written
const TURN_MESSAGES = 64
const TURN_BYTES = MIB

const { values: args } = parseArgs({
  options: {
    role: { type: 'string' },
    validate: { type: 'boolean', default: false }
  }
})
if (args.role !== 'receiver' && args.role !== 'publisher') throw new Error('--role receiver or publisher')

const now = () => Number(process.hrtime.bigint())
const cpuSince = (start) => {
  const used = process.cpuUsage(start)
  return used.user + used.system
}
const emit = (event) => process.stdout.write(JSON.stringify(event) + '\n')

const wakuRelay = (options) => (components) => {
  const router = gossipsub(options)(components)
  router.protocols = ['/vac/waku/relay/2.0.0'] // the id of 11/WAKU2-RELAY, as all the others
  return router
}

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  connectionManager: { inboundConnectionThreshold: 1000, maxIncomingPendingConnections: 1000, maxConnections: 2000 },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux({ streamOptions: { maxReadBufferLength: 64 * MIB } })],
  services: {
    identify: identify(),
    pubsub: wakuRelay({
      globalSignaturePolicy: StrictNoSign,
      msgIdFn: ({ data }) => createHash('sha256').update(data).digest(),
      // the default makes base64 with a library in JavaScript; this is the quickest exact mapping of Node
      msgIdToStrFn: (id) => Buffer.prototype.latin1Slice.call(id, 0, id.length),
      fallbackToFloodsub: false,
      batchPublish: true, // encode once, without looking for control messages to add
      maxOutboundBufferSize: 256 * MIB // above any window: nothing is dropped, and no stream is aborted
    })
  }
})
const pubsub = node.services.pubsub
if (args.validate) {
  pubsub.topicValidators.set(PUBSUB_TOPIC, (_peer, message) =>
    isValid(message.data) ? TopicValidatorResult.Accept : TopicValidatorResult.Reject)
}

/** Resolve when a peer is in our mesh; looked at after each event that can change that. */
function meshReady () {
  const ready = () => pubsub.getMeshPeers(PUBSUB_TOPIC).length > 0
  return new Promise((resolve) => {
    const names = ['gossipsub:graft', 'subscription-change', 'gossipsub:heartbeat']
    const look = () => {
      if (!ready()) return
      for (const name of names) pubsub.removeEventListener(name, look)
      resolve()
    }
    for (const name of names) pubsub.addEventListener(name, look)
    look()
  })
}

// ---- receiver -------------------------------------------------------------------------------------------------

let ackSocket = null
let expected = null

function acknowledge (count) {
  const frame = Buffer.allocUnsafe(ACK_BYTES)
  frame.writeUInt32BE(count)
  ackSocket?.write(frame)
}

function finish () {
  const { round, messages, received, duplicates, firstNs, lastNs, cpuUs, timer, stamps } = expected
  clearInterval(timer)
  expected = null
  const lost = messages - received
  emit({ event: 'received', round, received, duplicates, lost, first_ns: firstNs, last_ns: lastNs, cpu_us: cpuUs, stamps })
}

function expect ({ round, messages, ackEvery, stamps }) {
  const cpu = process.cpuUsage()
  expected = {
    round,
    messages,
    ackEvery,
    seen: new Uint8Array(messages),
    stamps: stamps ? new Array(messages).fill(0) : undefined,
    received: 0,
    duplicates: 0,
    firstNs: 0,
    lastNs: 0,
    cpu,
    cpuUs: 0,
    lastCount: -1
  }
  expected.timer = setInterval(() => {
    if (expected.received === expected.lastCount) {
      expected.cpuUs = cpuSince(expected.cpu)
      finish()
    } else {
      expected.lastCount = expected.received
    }
  }, STALL_MS)
  emit({ event: 'expecting', round })
}

function onMessage ({ detail: message }) {
  if (expected === null || message.topic !== PUBSUB_TOPIC) return
  const data = message.data
  const at = 1 + payloadLengthBytes(data)
  // sequence number: 32 bits of round, 32 bits of index
  const round = data[at] * 0x1000000 + (data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3])
  const index = data[at + 4] * 0x1000000 + (data[at + 5] << 16 | data[at + 6] << 8 | data[at + 7])
  if (round !== expected.round) return
  if (expected.seen[index] === 1) {
    expected.duplicates++
    return
  }
  expected.seen[index] = 1
  expected.received++
  if (expected.stamps !== undefined) expected.stamps[index] = now()
  if (expected.received === 1) expected.firstNs = now()
  if (expected.received === expected.messages) {
    expected.lastNs = now()
    expected.cpuUs = cpuSince(expected.cpu)
    acknowledge(expected.received)
    finish()
  } else if (expected.received % expected.ackEvery === 0) {
    expected.lastNs = now()
    acknowledge(expected.received)
  }
}

function payloadLengthBytes (data) {
  let at = 1
  while (data[at] >= 0x80) at++
  return at
}

async function startReceiver () {
  pubsub.addEventListener('message', onMessage)
  pubsub.subscribe(PUBSUB_TOPIC)
  const server = net.createServer((socket) => {
    socket.setNoDelay(true)
    ackSocket = socket
    socket.on('close', () => { ackSocket = null })
    socket.on('error', () => {}) // the publisher went away: 'close' follows
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  server.unref()
  return server.address().port
}

// ---- publisher ------------------------------------------------------------------------------------------------

let acknowledged = 0
let onAck = null

async function connect ({ address, ackPort }) {
  await node.dial(multiaddr(address))
  await readAcks(ackPort)
  await meshReady()
  emit({ event: 'connected' })
}

async function attend ({ ackPort, peers }) {
  if (ackPort) await readAcks(ackPort)
  while (pubsub.getSubscribers(PUBSUB_TOPIC).length < peers) await new Promise((resolve) => setTimeout(resolve, 10))
  emit({ event: 'attended', peers })
}

async function readAcks (ackPort) {
  const socket = net.connect(ackPort, '127.0.0.1')
  socket.setNoDelay(true)
  let rest = Buffer.alloc(0)
  socket.on('data', (chunk) => {
    rest = Buffer.concat([rest, chunk])
    const whole = rest.length - rest.length % ACK_BYTES
    if (whole === 0) return
    acknowledged = rest.readUInt32BE(whole - ACK_BYTES)
    rest = rest.subarray(whole)
    onAck?.()
  })
  await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject))
  socket.once('close', () => { if (!stopping) process.exit(1) }) // the receiver is gone: nothing will be acknowledged
}

const nextAck = () => new Promise((resolve) => { onAck = resolve })
const turn = () => new Promise((resolve) => setImmediate(resolve))

async function publish ({ round, messages, size, window }) {
  const turnEvery = Math.max(1, Math.min(TURN_MESSAGES, Math.floor(TURN_BYTES / size)))
  const make = messageMaker(size)
  const base = BigInt(round) << 32n
  acknowledged = 0
  const cpu = process.cpuUsage()
  const startNs = now()
  for (let index = 0; index < messages; index++) {
    while (index - acknowledged >= window) await nextAck()
    await pubsub.publish(PUBSUB_TOPIC, make(base | BigInt(index)))
    if (index % turnEvery === turnEvery - 1) await turn()
  }
  while (acknowledged < messages) await nextAck()
  emit({ event: 'published', round, start_ns: startNs, end_ns: now(), cpu_us: cpuSince(cpu) })
}

// ---- commands -------------------------------------------------------------------------------------------------

let stopping = false
async function pace ({ round, messages, size, rate }) {
  const make = messageMaker(size)
  const base = BigInt(round) << 32n
  acknowledged = 0
  const cpu = process.cpuUsage()
  const start = now()
  const stamps = []
  for (let index = 0; index < messages; index++) {
    const wait = (start + index * 1e9 / rate - now()) / 1e6
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait))
    const data = make(base | BigInt(index))
    stamps.push(now())
    await pubsub.publish(PUBSUB_TOPIC, data)
  }
  while (acknowledged < messages) await nextAck()
  emit({ event: 'paced', round, stamps, cpu_us: cpuSince(cpu) })
}

const commands = {
  connect,
  attend,
  pace,
  expect,
  publish,
  stop: async () => {
    stopping = true
    await node.stop()
    process.exit(0)
  }
}

const ackPort = args.role === 'receiver' ? await startReceiver() : 0
if (args.role === 'publisher') pubsub.subscribe(PUBSUB_TOPIC)
emit({
  event: 'ready',
  role: args.role,
  peerId: node.peerId.toString(),
  addresses: node.getMultiaddrs().map((address) => address.toString()),
  ackPort
})
process.stdin.once('end', () => process.exit(0)) // the driver is gone
for await (const line of readline.createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  await commands[command.cmd](command)
}
