// A node of @chainsafe/discv5 on loopback, driven over JSON lines. js_node.py is its driver.
//
//   DISCV5_PROTOCOL_ID=d5waku node --import ./polyfill.mjs --import ./protocol_id.mjs discv5_node.mjs
//        --seed <64 hex digits> [--port 0] [--seq 1]
//
// Commands (stdin): {"id", "cmd", …}. Each is answered {"id", "ok": true, "result"} or {"id", "ok": false, "error"}.
//   add    {enr}                      -> {}
//   ping   {enr}                      -> {seq (decimal string), host, port}
//   nodes  {enr, distances}           -> [enr]     FINDNODE
//   talk   {enr, protocol, payload (hex)} -> hex
//   lookup {}                         -> [enr]     of a random node id
//   table  {}                         -> [enr]
//   waku   {enr}                      -> {peerId, waku2, shards, multiaddrs}   as @waku/enr reads it
//   decode {enr}                      -> {nodeId, peerId, seq, ip, tcp, udp}   as @chainsafe/enr reads it
//   change {}                         -> {enr}     of the next sequence number
//   stop   {}                         -> {} and exit
// Events (stdout): {"event":"ready","enr","nodeId"}
// TALKREQs are answered with their payload turned round.

import dgram from 'node:dgram'
import process from 'node:process'
import readline from 'node:readline'
import { parseArgs } from 'node:util'
import { Discv5 } from '@chainsafe/discv5'
import { ENR, SignableENR } from '@chainsafe/enr'
import { privateKeyFromRaw } from '@libp2p/crypto/keys'
import { multiaddr } from '@multiformats/multiaddr'
import { EnrDecoder } from '@waku/enr'

const { values: args } = parseArgs({
  options: { seed: { type: 'string' }, port: { type: 'string', default: '0' }, seq: { type: 'string', default: '1' } }
})

const hex = (bytes) => Buffer.from(bytes).toString('hex')

function freePort () {
  return new Promise((resolve, reject) => {
    const socket = dgram.createSocket('udp4')
    socket.once('error', reject)
    socket.bind(0, '127.0.0.1', () => {
      const { port } = socket.address()
      socket.close(() => resolve(port))
    })
  })
}

const key = privateKeyFromRaw(Buffer.from(args.seed, 'hex'))
const port = Number(args.port) || await freePort()
const enr = SignableENR.createV4(Buffer.from(args.seed, 'hex'))
enr.ip = '127.0.0.1'
enr.udp = port
enr.tcp = 60000
enr.set('waku2', Uint8Array.from([1]))
enr.set('rs', Uint8Array.from([0, 1, 1, 0, 0])) // cluster 1, shard 0
enr.seq = BigInt(args.seq)

const node = Discv5.create({
  enr,
  privateKey: key,
  bindAddrs: { ip4: multiaddr(`/ip4/127.0.0.1/udp/${port}`) },
  config: { pingInterval: 2000, addrVotesToUpdateEnr: 3, requestTimeout: 1000, lookupTimeout: 10000 }
})

const commands = {
  add: ({ enr }) => { node.addEnr(enr); return {} },
  ping: async ({ enr }) => {
    const pong = await node.sendPing(ENR.decodeTxt(enr))
    return { seq: String(pong.enrSeq), host: pong.addr.ip.octets.join('.'), port: pong.addr.port }
  },
  nodes: async ({ enr, distances }) =>
    (await node.sendFindNode(ENR.decodeTxt(enr), distances)).map((found) => found.encodeTxt()),
  talk: async ({ enr, protocol, payload }) =>
    hex(await node.sendTalkReq(ENR.decodeTxt(enr), Buffer.from(payload, 'hex'), protocol)),
  lookup: async () => (await node.findRandomNode()).map((found) => found.encodeTxt()),
  table: () => node.kadValues().map((found) => found.encodeTxt()),
  waku: async ({ enr }) => {
    const record = await EnrDecoder.fromString(enr)
    return {
      peerId: record.peerId.toString(),
      waku2: record.waku2,
      shards: record.shardInfo,
      multiaddrs: (record.multiaddrs ?? []).map(String)
    }
  },
  decode: ({ enr }) => {
    const record = ENR.decodeTxt(enr)
    const { nodeId, ip, tcp, udp } = record
    return { nodeId, ip, tcp, udp, seq: String(record.seq), peerId: record.peerId.toString() }
  },
  change: () => {
    node.enr.set('extra', Uint8Array.from([Number(node.enr.seq & 0xffn)])) // raises seq
    return { enr: node.enr.encodeTxt() }
  },
  stop: async () => { await node.stop(); return {} }
}

await node.start()
process.stdout.write(JSON.stringify({ event: 'ready', enr: node.enr.encodeTxt(), nodeId: node.enr.nodeId }) + '\n')

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { id, cmd, ...values } = JSON.parse(line)
  const answer = (values) => process.stdout.write(JSON.stringify({ id, ...values }) + '\n')
  Promise.resolve().then(() => commands[cmd](values)).then(
    (result) => {
      answer({ ok: true, result })
      if (cmd === 'stop') process.exit(0)
    },
    (error) => answer({ ok: false, error: `${error.message}${error.code ? ` (${error.code})` : ''}` })
  )
}
process.exit(0)
