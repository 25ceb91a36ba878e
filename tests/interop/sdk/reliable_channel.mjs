// A ReliableChannel of @waku/sdk on a light node, driven over JSON lines; tests/interop/test_js_reliable_channel.py is its
// driver.
//
//   node --import ./polyfill.mjs reliable_channel.mjs <cluster> <address> <content topic> <channel id> <sender id>
//
// Commands (stdin): {"id", "cmd", …}. Each is answered {"id", "ok": true, "result"} or {"id", "ok": false, "error"}.
//   send  {payload} -> {messageId}
//   stop  {}        -> {} and exit
// Events (stdout): {"event":"ready"}; {"event":"received","payload"}; {"event":"acknowledged","messageId"};
//   {"event":"failed","messageId"}. Bytes are base64.

import process from 'node:process'
import readline from 'node:readline'
import { setTimeout } from 'node:timers/promises'
import { multiaddr } from '@multiformats/multiaddr'
import { createDecoder, createEncoder } from '@waku/core'
import { createLightNode, Protocols, ReliableChannel, ReliableChannelEvent } from '@waku/sdk'

const [cluster, address, contentTopic, channelId, senderId] = process.argv.slice(2)
const emit = (line) => process.stdout.write(JSON.stringify(line) + '\n')

// While it waits for peers nothing else may keep Node.js running: it would exit with an unsettled await (status 13).
setInterval(() => {}, 60_000)

const node = await createLightNode({
  defaultBootstrap: false,
  discovery: { dns: false, peerCache: false, peerExchange: false },
  networkConfig: { clusterId: Number(cluster), numShardsInCluster: 1 },
  // Without this it dials secure WebSockets only.
  libp2p: { filterMultiaddrs: false, hideWebSocketInfo: true }
})
await node.dial(multiaddr(address))
await node.waitForPeers([Protocols.Store, Protocols.Filter, Protocols.LightPush], 20_000)

const routingInfo = node.createRoutingInfo(contentTopic)

// js-waku subscribes at the filter peers that it knows at that moment, and `start` then resolves to false for ever when it
// knows none yet. So subscribe to topics of no account until a peer has answered.
for (let number = 0; ; number++) {
  const topic = `/interop/1/probe-${number}/proto`
  if (await node.filter.subscribe(createDecoder(topic, node.createRoutingInfo(topic)), () => {})) break
  if (number === 100) throw new Error('no filter peer answers')
  await setTimeout(100)
}
const channel = await ReliableChannel.create(
  node, channelId, senderId,
  createEncoder({ contentTopic, routingInfo }), createDecoder(contentTopic, routingInfo),
  { syncMinIntervalMs: 1_000, retryIntervalMs: 1_000, retrieveFrequencyMs: 1_000, sweepInBufIntervalMs: 500, autoStart: false }
)
channel.addEventListener(ReliableChannelEvent.MessageReceived, ({ detail }) =>
  emit({ event: 'received', payload: Buffer.from(detail.payload).toString('base64') }))
channel.addEventListener(ReliableChannelEvent.MessageAcknowledged, ({ detail }) =>
  emit({ event: 'acknowledged', messageId: detail }))
channel.addEventListener(ReliableChannelEvent.SendingMessageIrrecoverableError, ({ detail }) =>
  emit({ event: 'failed', messageId: detail.messageId }))

if (!await channel.start()) throw new Error('the channel could not subscribe')
emit({ event: 'ready' })

readline.createInterface({ input: process.stdin })
  .on('line', async (line) => {
    const { id, cmd, payload } = JSON.parse(line)
    if (cmd === 'send') {
      const messageId = channel.send(Uint8Array.from(Buffer.from(payload, 'base64')))
      emit({ id, ok: true, result: { messageId } })
      return
    }
    emit({ id, ok: cmd === 'stop', result: {}, error: 'unknown command' })
    if (cmd === 'stop') process.exit(0)
  })
  .on('close', () => process.exit(0)) // the process that drives us is gone
