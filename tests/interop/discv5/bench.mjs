// The reference of the benches `enr` and `discv5`: what the same work costs @chainsafe/enr and @chainsafe/discv5.
//
// Commands (stdin): {"cmd": case, "count"}; each is answered {"event": "ran", "us"}, µs of one piece of work.
// The first thousands of a case run slower, before the JIT: the driver asks for a run to warm up.

import process from 'node:process'
import readline from 'node:readline'
import { Discv5 } from '@chainsafe/discv5'
import { ENR, SignableENR } from '@chainsafe/enr'
import { privateKeyFromRaw } from '@libp2p/crypto/keys'
import { multiaddr } from '@multiformats/multiaddr'
import { createKeypair } from './node_modules/@chainsafe/discv5/lib/keypair/index.js'
import { createPingMessage, encode } from './node_modules/@chainsafe/discv5/lib/message/index.js'
import {
  createRandomPacket, createWhoAreYouPacket, decodePacket, encodeChallengeData, encodePacket, decodeHandshakeAuthdata
} from './node_modules/@chainsafe/discv5/lib/packet/index.js'
import { createNodeContact } from './node_modules/@chainsafe/discv5/lib/session/nodeInfo.js'
import { Session } from './node_modules/@chainsafe/discv5/lib/session/session.js'

const MODE = { ip4: true, ip6: false }
const BOOT_NODE = 'enr:-QESuED0qW1BCmF-oH_ARGPr97Nv767bl_43uoy70vrbah3EaCAdK3Q0iRQ6wkSTTpdrg_dU_NC2ydO8leSlRpBX4pxiAYJpZIJ2NIJpcIRA4VDAim11bHRpYWRkcnO4XAArNiZub2RlLTAxLmRvLWFtczMud2FrdS5zYW5kYm94LnN0YXR1cy5pbQZ2XwAtNiZub2RlLTAxLmRvLWFtczMud2FrdS5zYW5kYm94LnN0YXR1cy5pbQYfQN4DgnJzkwABCAAAAAEAAgADAAQABQAGAAeJc2VjcDI1NmsxoQOTd-h5owwj-cx7xrmbvQKU8CV3Fomfdvcv1MBc-67T5oN0Y3CCdl-DdWRwgiMohXdha3UyDw'

function party (byte, port) {
  const raw = new Uint8Array(32).fill(byte)
  const enr = SignableENR.createV4(raw)
  enr.ip = '127.0.0.1'
  enr.udp = port
  const privateKey = privateKeyFromRaw(raw)
  const keypair = createKeypair({ type: privateKey.type, privateKey: privateKey.raw })
  return { enr, record: enr.encode(), keypair, privateKey, contact: createNodeContact(enr.toENR(), MODE) }
}

const a = party(1, 19001)
const b = party(2, 19002)

function handshake (message) {
  // a knocks, b asks who it is, a proves it, b reads the message.
  const knock = decodePacket(b.enr.nodeId, encodePacket(b.enr.nodeId, createRandomPacket(a.enr.nodeId)))
  const who = decodePacket(a.enr.nodeId, encodePacket(a.enr.nodeId, createWhoAreYouPacket(knock.header.nonce, 0n)))
  const challenge = encodeChallengeData(who.maskingIv, who.header)
  const [packet, mine] = Session.encryptWithHeader(b.contact, a.keypair, a.enr.nodeId, a.record, challenge, message)
  const came = decodePacket(b.enr.nodeId, encodePacket(b.enr.nodeId, packet))
  const { idSignature, ephPubkey, record } = decodeHandshakeAuthdata(came.header.authdata)
  const [theirs] = Session.establishFromChallenge(
    b.keypair, b.enr.nodeId, a.enr.nodeId, { data: challenge }, idSignature, ephPubkey, record
  )
  theirs.decryptMessage(came.header.nonce, came.message, came.messageAd)
  return [mine, theirs]
}

const ping = encode(createPingMessage(1n))
const [mine, theirs] = handshake(ping)
const sent = encodePacket(b.enr.nodeId, mine.encryptMessage(a.enr.nodeId, b.enr.nodeId, ping))

let seq = 1
let nodes
async function live () {
  nodes ??= await Promise.all([3, 4].map(async (byte) => {
    const { enr, privateKey } = party(byte, 19000 + byte)
    const bindAddrs = { ip4: multiaddr(`/ip4/127.0.0.1/udp/${enr.udp}`) }
    const node = Discv5.create({ enr, privateKey, bindAddrs, config: { enrUpdate: false } })
    await node.start()
    return node
  }))
  return nodes
}

const work = {
  verify: () => ENR.decodeTxt(BOOT_NODE),
  sign: () => {
    seq = (seq % 60000) + 1
    a.enr.udp = seq
    a.enr.encodeTxt()
  },
  encrypt: () => encodePacket(b.enr.nodeId, mine.encryptMessage(a.enr.nodeId, b.enr.nodeId, ping)),
  decrypt: () => {
    const packet = decodePacket(b.enr.nodeId, sent)
    theirs.decryptMessage(packet.header.nonce, packet.message, packet.messageAd)
  },
  handshake: () => handshake(ping)
}

async function run (cmd, count) {
  if (cmd === 'ping') {
    const [one, other] = await live()
    const target = other.enr.toENR()
    await one.sendPing(target)
    const start = process.hrtime.bigint()
    for (let n = 0; n < count; n++) await one.sendPing(target)
    return Number(process.hrtime.bigint() - start) / 1000 / count
  }
  const start = process.hrtime.bigint()
  for (let n = 0; n < count; n++) work[cmd]()
  return Number(process.hrtime.bigint() - start) / 1000 / count
}

process.stdout.write(JSON.stringify({ event: 'ready' }) + '\n')
for await (const line of readline.createInterface({ input: process.stdin })) {
  const { cmd, count } = JSON.parse(line)
  process.stdout.write(JSON.stringify({ event: 'ran', us: await run(cmd, count) }) + '\n')
}
process.exit(0)
