// Gives @chainsafe/discv5, which knows one protocol id only, another one: DISCV5_PROTOCOL_ID (six letters).
// The constant is replaced in its packet modules as they are loaded; nothing else changes.
import { register } from 'node:module'

const id = process.env.DISCV5_PROTOCOL_ID ?? 'discv5'
if (!/^[a-z0-9]{6}$/.test(id)) throw new Error(`not a protocol id: ${id}`)
register('./protocol_id_hooks.mjs', import.meta.url, { data: { id } })
