// One node of the mesh bench: js-libp2p gossipsub, publishing at a rate and noting when messages come. The commands and
// events are those of tests/bench/mesh/node.py, which says what they are; gossipsub is set as in relay_node.mjs.

import { Buffer } from 'node:buffer'
import { createHash } from 'node:crypto'
import process from 'node:process'
import readline from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { gossipsub, StrictNoSign } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { messageMaker, PUBSUB_TOPIC } from './messages.mjs'

const MIB = 1024 * 1024
const NODE = 1_000_000
const now = () => Number(process.hrtime.bigint())
const emit = (event, values = {}) => process.stdout.write(JSON.stringify({ event, ...values }) + '\n')

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux({ streamOptions: { maxReadBufferLength: 64 * MIB } })],
  // All nodes are on one address and connect at once; by default five a second are taken from it.
  connectionManager: { inboundConnectionThreshold: Infinity },
  services: {
    identify: identify(),
    pubsub: gossipsub({
      globalSignaturePolicy: StrictNoSign,
      msgIdFn: ({ data }) => createHash('sha256').update(data).digest(),
      msgIdToStrFn: (id) => Buffer.prototype.latin1Slice.call(id, 0, id.length),
      fallbackToFloodsub: false,
      batchPublish: true,
      allowPublishToZeroTopicPeers: true,
      maxOutboundBufferSize: 256 * MIB
    })
  }
})
const pubsub = node.services.pubsub

let arrivals = new Map()
let duplicates = 0
pubsub.addEventListener('message', ({ detail: message }) => {
  if (message.topic !== PUBSUB_TOPIC) return
  const data = message.data
  let at = 1
  while (data[at] >= 0x80) at++
  const index = Buffer.from(data.buffer, data.byteOffset + at + 5, 4).readUInt32BE(0)
  if (arrivals.has(index)) duplicates++
  else arrivals.set(index, now())
})
pubsub.subscribe(PUBSUB_TOPIC)

const commands = {
  connect: async ({ addresses }) => {
    for (const address of addresses) await node.dial(multiaddr(address))
    emit('connected')
  },
  mesh: async ({ peers }) => {
    while (pubsub.getMeshPeers(PUBSUB_TOPIC).length < peers) await sleep(50)
    emit('meshed')
  },
  publish: async ({ round, node: own, rate, messages, size }) => {
    const make = messageMaker(size)
    const base = BigInt(round) << 32n
    const sent = []
    const start = now()
    for (let number = 0; number < messages; number++) {
      const wait = (start + number / rate * 1e9 - now()) / 1e6
      if (wait >= 1) await sleep(wait)
      else if (number % 16 === 15) await new Promise((resolve) => setImmediate(resolve))
      const index = own * NODE + number
      sent.push([index, now()])
      await pubsub.publish(PUBSUB_TOPIC, make(base | BigInt(index)))
    }
    emit('published', { sent })
  },
  collect: async () => {
    emit('collected', { arrivals: [...arrivals], duplicates })
    arrivals = new Map()
    duplicates = 0
  }
}

emit('ready', { addresses: node.getMultiaddrs().map((address) => address.toString()) })
process.stdin.once('end', () => process.exit(0))
for await (const line of readline.createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  await commands[command.cmd](command)
}
