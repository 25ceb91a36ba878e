// Signed peer records by js-libp2p. Reads one JSON line, writes one.
//
//   {"seal": {"key": "ed25519" | "secp256k1" | "rsa", "addresses", "seq" (decimal string)}}
//        -> {"key", "peer_id", "seq", "addresses", "envelope" (hex)}
//   {"open": <hex>} -> {"peer_id", "seq", "addresses"} or {"error"}
//
// Keys are fixed, but for RSA, so that what is made here can be kept as a vector
// (tests/unit/kernel_proc/vectors/peer_records.json).

import readline from 'node:readline'
import { generateKeyPairFromSeed, supportedKeys } from '@libp2p/crypto/keys'
import { createFromPrivKey } from '@libp2p/peer-id-factory'
import { PeerRecord, RecordEnvelope } from '@libp2p/peer-record'
import { multiaddr } from '@multiformats/multiaddr'

const bytes = (from) => Uint8Array.from({ length: 32 }, (_, index) => index + from)
const KEYS = {
  ed25519: () => generateKeyPairFromSeed('Ed25519', bytes(0)),
  secp256k1: () => new supportedKeys.secp256k1.Secp256k1PrivateKey(bytes(1)),
  rsa: () => supportedKeys.rsa.generateKeyPair(2048)
}

async function seal ({ key, addresses, seq }) {
  const peerId = await createFromPrivKey(await KEYS[key]())
  const record = new PeerRecord({ peerId, multiaddrs: addresses.map((one) => multiaddr(one)), seqNumber: BigInt(seq) })
  const envelope = await RecordEnvelope.seal(record, peerId)
  return { key, peer_id: peerId.toString(), seq, addresses, envelope: Buffer.from(envelope.marshal()).toString('hex') }
}

async function open (hex) {
  try {
    const envelope = await RecordEnvelope.openAndCertify(Uint8Array.from(Buffer.from(hex, 'hex')), PeerRecord.DOMAIN)
    const record = PeerRecord.createFromProtobuf(envelope.payload)
    if (!record.peerId.equals(envelope.peerId)) throw new Error('signed by another peer')
    return { peer_id: record.peerId.toString(), seq: String(record.seqNumber), addresses: record.multiaddrs.map(String) }
  } catch (error) {
    return { error: error.message }
  }
}

readline.createInterface({ input: process.stdin }).on('line', async (line) => {
  const asked = JSON.parse(line)
  process.stdout.write(JSON.stringify(asked.seal === undefined ? await open(asked.open) : await seal(asked.seal)) + '\n')
})
