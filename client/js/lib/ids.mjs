// Random ids.
import { randomFillSync } from "node:crypto";

const SIZE = 16;
const pool = Buffer.allocUnsafe(256 * SIZE);
let used = pool.length;

/** 16 random bytes. Many are drawn at once: asking the system for each costs more than the rest of a send. */
export const newRequestId = () => {
  if (used === pool.length) {
    randomFillSync(pool);
    used = 0;
  }
  return Buffer.from(pool.subarray(used, (used += SIZE)));
};
