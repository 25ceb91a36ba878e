// Bytes as every JavaScript has them: nothing of Node.js here.

/** Whether two byte strings are equal; nothing equals no bytes at all. @param {Uint8Array | null} one @param {Uint8Array | null} other */
export const same = (one, other) => {
  if (one === null || other === null || one.length !== other.length) return false;
  for (let index = 0; index < one.length; index += 1) if (one[index] !== other[index]) return false;
  return true;
};

/** @param {Uint8Array} bytes */
export const toHex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/** Null where it is not hex. @param {unknown} text @returns {Uint8Array | null} */
export const fromHex = (text) => {
  if (typeof text !== "string" || text.length % 2 || !/^[0-9a-f]*$/i.test(text)) return null;
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
};
