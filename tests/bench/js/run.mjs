// Runs one case of the relay bench with the reference (two processes of relay_node.mjs) and prints one JSON line a round.
//
//   node run.mjs [--size 1024] [--messages 20000] [--rounds 5] [--warmup N] [--validate]
//                [--window-messages 1024] [--window-bytes 4194304] [--deadline 120]
//
// Sizes are bytes of WakuMessage payload. Exit code 1 when a message was lost or a process died, 2 on bad arguments.

import process from 'node:process'
import readline from 'node:readline'
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { MIN_SIZE } from './messages.mjs'

const HERE = fileURLToPath(new URL('.', import.meta.url))
const WARMUP_MESSAGES = 10_000
const WARMUP_BYTES = 128 * 1024 * 1024

function readArguments () {
  const { values } = parseArgs({
    options: {
      size: { type: 'string', default: '1024' },
      messages: { type: 'string', default: '20000' },
      rounds: { type: 'string', default: '5' },
      warmup: { type: 'string' },
      'window-messages': { type: 'string', default: '1024' },
      'window-bytes': { type: 'string', default: String(4 * 1024 * 1024) },
      deadline: { type: 'string', default: '120' },
      validate: { type: 'boolean', default: false }
    }
  })
  const number = (name, least) => {
    const value = Number(values[name])
    if (!Number.isSafeInteger(value) || value < least) throw new RangeError(`--${name}: a whole number of at least ${least}`)
    return value
  }
  const size = number('size', MIN_SIZE)
  values.warmup ??= String(Math.min(WARMUP_MESSAGES, Math.floor(WARMUP_BYTES / size)))
  const inBytes = Math.floor(number('window-bytes', 1) / size)
  return {
    size,
    messages: number('messages', 1),
    rounds: number('rounds', 1),
    warmup: number('warmup', 0),
    window: Math.max(1, Math.min(number('window-messages', 1), inBytes)),
    deadline: number('deadline', 1),
    validate: values.validate
  }
}

class Node {
  constructor (role, validate) {
    this.role = role
    const flags = validate ? ['--validate'] : []
    this.process = spawn(process.execPath, ['--import', './polyfill.mjs', 'relay_node.mjs', '--role', role, ...flags], {
      cwd: HERE,
      stdio: ['pipe', 'pipe', 'inherit']
    })
    this.process.stdin.on('error', () => {}) // it died: the next event() says so
    this.lines = readline.createInterface({ input: this.process.stdout })[Symbol.asyncIterator]()
  }

  send (command) {
    this.process.stdin.write(JSON.stringify(command) + '\n')
  }

  async event (name) {
    const { value, done } = await this.lines.next()
    if (done) throw new Error(`the ${this.role} ended while '${name}' was awaited`)
    const event = JSON.parse(value)
    if (event.event !== name) throw new Error(`the ${this.role} said ${value} while '${name}' was awaited`)
    return event
  }
}

async function runRound ({ size, window }, receiver, publisher, round, messages) {
  receiver.send({ cmd: 'expect', round, messages, ackEvery: Math.max(1, Math.floor(window / 8)) })
  await receiver.event('expecting')
  publisher.send({ cmd: 'publish', round, messages, size, window })
  const received = await receiver.event('received')
  if (received.lost > 0) throw new Error(`${received.lost} of ${messages} messages were lost`)
  return { received, published: await publisher.event('published') }
}

function result (options, round, { received, published }) {
  const seconds = (received.last_ns - published.start_ns) / 1e9
  const perMessage = (total) => Number((total / received.received).toFixed(1))
  return {
    size: options.size,
    messages: options.messages,
    round,
    received: received.received,
    lost: received.lost,
    duplicates: received.duplicates,
    seconds: Number(seconds.toFixed(4)),
    messages_per_second: Math.round(received.received / seconds),
    publisher_cpu_us_per_message: perMessage(published.cpu_us),
    receiver_cpu_us_per_message: perMessage(received.cpu_us),
    window: options.window,
    validate: options.validate,
    reference: versions()
  }
}

function versions () {
  const { dependencies } = JSON.parse(readFileSync(HERE + 'package.json', 'utf8'))
  return `@libp2p/gossipsub ${dependencies['@libp2p/gossipsub']}, libp2p ${dependencies.libp2p}, node ${process.versions.node}`
}

let options
try {
  options = readArguments()
} catch (error) {
  process.stderr.write(`${error.message}\n`)
  process.exit(2)
}
const receiver = new Node('receiver', options.validate)
const publisher = new Node('publisher', options.validate)
const fail = (message) => {
  process.stderr.write(`${message}\n`)
  receiver.process.kill('SIGKILL')
  publisher.process.kill('SIGKILL')
  process.exit(1)
}
setTimeout(() => fail(`not done after ${options.deadline} s`), options.deadline * 1000).unref()
try {
  const { addresses, ackPort } = await receiver.event('ready')
  await publisher.event('ready')
  publisher.send({ cmd: 'connect', address: addresses[0], ackPort })
  await publisher.event('connected')
  if (options.warmup > 0) await runRound(options, receiver, publisher, 0, options.warmup)
  for (let round = 1; round <= options.rounds; round++) {
    const outcome = await runRound(options, receiver, publisher, round, options.messages)
    process.stdout.write(JSON.stringify(result(options, round, outcome)) + '\n')
  }
  publisher.send({ cmd: 'stop' })
  receiver.send({ cmd: 'stop' })
} catch (error) {
  fail(error.message)
}
