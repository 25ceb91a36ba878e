// How a connection comes and goes, by what libzmq reports of its socket.
import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Observer } from "zeromq";
import { Connection } from "../lib/connection.mjs";

// libzmq says when it is to wait for its next attempt; a handshake of the one before may be reported after that.
test("a handshake of a connection that was given up is not taken for the next one", (t) => {
  const directory = mkdtempSync(join(tmpdir(), "js"));
  const reports = {};
  t.mock.method(Observer.prototype, "on", (name, report) => (reports[name] = report));
  let hellos = 0;
  const connection = new Connection(`ipc://${directory}/s`, { hello: () => ({ hellos: (hellos += 1) }) });
  try {
    reports["connect:retry"]();
    reports.handshake();
    assert.deepEqual([connection.state, hellos], ["connecting", 0]);
  } finally {
    connection.close();
    rmSync(directory, { recursive: true });
  }
});

test("a directory of another user is not called empty", async () => {
  const directory = mkdtempSync(join(tmpdir(), "js"));
  const connection = new Connection(`ipc://${directory}/s`, { hello: () => ({}) });
  const root = process.geteuid() === 0; // who sees into every directory
  try {
    await assert.rejects(connection.request("ping", {}, [], 50), /\(connecting; there is no such socket\)$/);
    chmodSync(directory, 0);
    if (root) process.seteuid(65533);
    await assert.rejects(connection.request("ping", {}, [], 50), /\(connecting\)$/);
  } finally {
    if (root) process.seteuid(0);
    connection.close();
    rmSync(directory, { recursive: true });
  }
});
