// The message channel of @waku/sds without a network, driven over JSON lines; tests/interop/test_js_sds.py is its driver.
//
//   node sds_channel.mjs <channel id> <sender id>
//
// Commands (stdin): {"id", "cmd", …}. Each is answered {"id", "ok": true, "result"} or {"id", "ok": false, "error"}.
//   send     {content}  -> {wire, messageId}   what it would hand to the network
//   sync     {}         -> {wire | null}
//   receive  {wire}     -> {}                  then the events
//   sweep    {}         -> {missing: [message id]}
//   repairs  {}         -> {wires}             messages that others asked for and that are due
//   stop     {}         -> {} and exit
// Events (stdout): {"event": "delivered" | "acknowledged" | "possibly", "messageId"}; delivered ones with their content.
// Bytes are base64.

import process from 'node:process'
import readline from 'node:readline'
import { Message, MessageChannel, MessageChannelEvent } from '@waku/sds'

const [channelId, senderId] = process.argv.slice(2)
const base64 = (bytes) => Buffer.from(bytes).toString('base64')
const bytes = (text) => Uint8Array.from(Buffer.from(text, 'base64'))
const emit = (line) => process.stdout.write(JSON.stringify(line) + '\n')

const channel = new MessageChannel(channelId, senderId, { repairConfig: { tMin: 1, tMax: 2 } })
const contents = new Map()

channel.addEventListener(MessageChannelEvent.InMessageDelivered, ({ detail }) =>
  emit({ event: 'delivered', messageId: detail, content: contents.get(detail) }))
channel.addEventListener(MessageChannelEvent.OutMessageAcknowledged, ({ detail }) =>
  emit({ event: 'acknowledged', messageId: detail }))
channel.addEventListener(MessageChannelEvent.OutMessagePossiblyAcknowledged, ({ detail }) =>
  emit({ event: 'possibly', messageId: detail.messageId }))

const commands = {
  async send ({ content }) {
    let sent
    channel.pushOutgoingMessage(bytes(content), async (message) => {
      sent = message
      return { success: true, retrievalHint: new Uint8Array(32).fill(7) }
    })
    await channel.processTasks()
    return { wire: base64(sent.encode()), messageId: sent.messageId }
  },
  async sync () {
    let wire = null
    await channel.pushOutgoingSyncMessage(async (message) => {
      wire = base64(message.encode())
      return true
    })
    return { wire }
  },
  async receive ({ wire }) {
    const message = Message.decode(bytes(wire))
    if (message === undefined) throw new Error('not decoded')
    if (message.content) contents.set(message.messageId, base64(message.content))
    channel.pushIncomingMessage(message, undefined)
    await channel.processTasks()
    return {}
  },
  async sweep () {
    return { missing: channel.sweepIncomingBuffer().map((entry) => entry.messageId) }
  },
  async repairs () {
    const found = await channel.sweepRepairIncomingBuffer(async () => true)
    return { wires: found.map((message) => base64(message.encode())) }
  },
  async stop () {
    return {}
  }
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { id, cmd, ...rest } = JSON.parse(line)
  try {
    emit({ id, ok: true, result: await commands[cmd](rest) })
  } catch (error) {
    emit({ id, ok: false, error: String(error?.message ?? error) })
  }
  if (cmd === 'stop') process.exit(0)
}
