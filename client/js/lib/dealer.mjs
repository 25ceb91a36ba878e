// A DEALER that connects again by itself, and says when its connection is usable and when it is lost (ipc_schema/SPEC.md, §1).
import { Dealer } from "zeromq";
import { LogosError } from "./errors.mjs";

const FULL_RETRY_MS = 5;
// Until the next attempt: doubled each time, and a random part of the first is added. A server lets in a few dozen
// clients at a time, and after a restart all come at once.
const RECONNECT_MS = 50;
const RECONNECT_MAX_MS = 250;
// The same where connections end before their handshake: waiting a moment does not change what listens there.
const STRANGE_MAX_MS = 3_200;

// libzmq must not reconnect by itself: it would deliver requests for a server that is gone, stale, to its successor. Its
// option against this, `immediate`, ends the pipe of a lost connection at any read, also between two frames of a message,
// and aborts the process then (4.3.5: fq.cpp, `!_more`); and so does the -1 that it has for "never".
const OPTIONS = {
  // Not 0: libzmq aborts the process (session_base.cpp, `clean_pipes`) if it learns in one go that the socket was closed
  // without linger and that the server died in the middle of a message to it.
  linger: 100,
  sendTimeout: 0,
  reconnectInterval: 2 ** 31 - 1,
  handshakeInterval: 5_000,
  maxMessageSize: 64 << 20,
};

export const lost = (reason = "the connection was lost") => new LogosError("peer_restarted", reason);
/** Keeps no closed client's program alive; an open one has its socket for that. @param {number} ms */
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms).unref());

export class ReconnectingDealer {
  /** The last connection ended before its handshake: what listens there is of another kind, full, or turns this user away. */
  strange = false;
  #socket; #endpoint; #reports;
  #shaken = false; // hands: the server's socket is of the right kind
  /** @type {NodeJS.Timeout | null} */ #retry = null; // until then the socket has no connection
  #retryMs = RECONNECT_MS;
  /** The end of the line of messages that found no room. @type {Promise<void>} */
  #sending = Promise.resolve();
  #inLine = 0;
  #generation = 0; // of connections: nothing meant for one may reach the next

  /**
   * `up()`: a connection is usable; `down()`: it is lost; `message(frames)`: one has come. Throws a `TypeError` for what is not
   * an endpoint.
   * @param {string} endpoint
   * @param {{up: () => void, down: () => void, message: (frames: Buffer[]) => void}} reports
   */
  constructor(endpoint, reports) {
    this.#endpoint = endpoint;
    this.#reports = reports;
    this.#socket = new Dealer(OPTIONS);
    this.#socket.events.on("handshake", () => this.#connected());
    this.#socket.events.on("disconnect", () => this.#disconnected());
    this.#socket.events.on("connect:retry", () => this.#refused());
    try {
      this.#socket.connect(endpoint);
    } catch (error) {
      this.#socket.close();
      throw new TypeError(`${endpoint} is not an endpoint: ${/** @type {Error} */ (error).message}`);
    }
    this.#read();
  }

  /**
   * Send now, or in line if the socket has no room. `failed` gets the reason if it is not sent.
   * @param {Uint8Array[]} frames
   * @param {(error: Error) => void} failed
   */
  send(frames, failed) {
    const generation = this.#generation;
    if (this.#inLine) this.#queue(frames, generation, failed);
    else this.#socket.send(frames).catch(() => this.#queue(frames, generation, failed));
  }

  /** Send nothing any more of what waits for room. */
  forget() {
    this.#generation += 1;
  }

  close() {
    if (this.#retry) clearTimeout(this.#retry);
    this.forget();
    this.#socket.close();
  }

  /** @param {Uint8Array[]} frames @param {number} generation @param {(error: Error) => void} failed */
  #queue(frames, generation, failed) {
    this.#inLine += 1;
    const sent = this.#sending.then(() => this.#sendInLine(frames, generation)).catch(failed);
    this.#sending = sent.then(() => void (this.#inLine -= 1));
  }

  /**
   * The socket takes one message at a time, and reports EAGAIN while its pipe is full or gone.
   * @param {Uint8Array[]} frames
   * @param {number} generation
   */
  async #sendInLine(frames, generation) {
    for (;;) {
      if (generation !== this.#generation) throw lost();
      try {
        return await this.#socket.send(frames);
      } catch (error) {
        if (/** @type {NodeJS.ErrnoException} */ (error).code !== "EAGAIN") throw lost();
      }
      await sleep(FULL_RETRY_MS);
    }
  }

  async #read() {
    while (!this.#socket.closed) {
      /** @type {Buffer[]} */ let frames;
      try {
        frames = await this.#socket.receive(); // the socket's iterator costs one promise more for each message
      } catch (error) {
        if (this.#socket.closed) return;
        // The binding had seen a message that went with its connection.
        if (/** @type {NodeJS.ErrnoException} */ (error).code === "EAGAIN") continue;
        throw error;
      }
      this.#reports.message(frames);
    }
  }

  #connected() {
    if (this.#retry || this.#socket.closed) return; // it is about a connection that was given up
    [this.#shaken, this.strange] = [true, false];
    this.#retryMs = RECONNECT_MS;
    this.#reports.up();
  }

  #disconnected() {
    if (this.#socket.closed) return;
    [this.#shaken, this.strange] = [false, !this.#shaken];
    this.#reconnect();
    this.#reports.down();
  }

  #refused() {
    if (this.#retry) return; // as above
    this.strange = false; // nothing listens there
    this.#reconnect(); // libzmq would wait now
  }

  /** Drop the connection, with all that is queued for its server, and make another one soon. */
  #reconnect() {
    if (this.#retry || this.#socket.closed) return;
    this.#socket.disconnect(this.#endpoint);
    const longest = this.strange ? STRANGE_MAX_MS : RECONNECT_MAX_MS;
    this.#retry = setTimeout(() => {
      this.#retry = null;
      this.#socket.connect(this.#endpoint);
    }, Math.min(this.#retryMs, longest) + Math.random() * RECONNECT_MS).unref();
    this.#retryMs = Math.min(2 * this.#retryMs, longest);
  }
}
