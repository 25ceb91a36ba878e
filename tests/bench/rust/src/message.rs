//! The messages of the bench: WakuMessages (14/WAKU2-MESSAGE), byte for byte those of tests/bench/js/messages.mjs.

const CONTENT_TOPIC: &str = "/bench/1/relay/proto";
const TIMESTAMP_NS: u64 = 1_700_000_000_000_000_000;

fn put_varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// A function (number) -> encoded message with a payload of `size` bytes.
pub fn maker(size: usize) -> impl Fn(u64) -> Vec<u8> {
    let mut t = vec![0x0a];
    put_varint(&mut t, size as u64);
    let at = t.len();
    t.extend([0u8; 8]);
    let mut state: u32 = 0x9E37_79B9;
    for _ in 0..size - 8 {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        t.push(state as u8);
    }
    t.push(0x12);
    put_varint(&mut t, CONTENT_TOPIC.len() as u64);
    t.extend(CONTENT_TOPIC.as_bytes());
    t.extend([0x18, 0x00, 0x50]);
    put_varint(&mut t, TIMESTAMP_NS << 1);
    t.extend([0x5a, 0x00, 0xaa, 0x01, 0x00, 0xf8, 0x01, 0x00]);
    move |n| {
        let mut m = t.clone();
        m[at..at + 8].copy_from_slice(&n.to_be_bytes());
        m
    }
}

#[derive(Default)]
#[allow(dead_code)]
pub struct Waku<'a> {
    pub payload: &'a [u8],
    content_topic: &'a str,
    version: u32,
    timestamp: i64,
    meta: &'a [u8],
    proof: &'a [u8],
    ephemeral: bool,
}

fn get_varint(b: &mut &[u8]) -> Option<u64> {
    let mut v = 0u64;
    for i in 0..10 {
        let (&x, rest) = b.split_first()?;
        *b = rest;
        v |= ((x & 0x7f) as u64) << (7 * i);
        if x < 0x80 {
            return Some(v);
        }
    }
    None
}

/// Decode every field, as every side of the bench does; None for what is not a message.
pub fn decode(mut b: &[u8]) -> Option<Waku<'_>> {
    let mut w = Waku::default();
    let (mut has_payload, mut has_topic) = (false, false);
    while !b.is_empty() {
        let key = get_varint(&mut b)?;
        match key & 7 {
            0 => {
                let v = get_varint(&mut b)?;
                match key >> 3 {
                    3 => w.version = u32::try_from(v).ok()?,
                    10 => w.timestamp = (v >> 1) as i64 ^ -((v & 1) as i64),
                    31 => w.ephemeral = v != 0,
                    _ => {}
                }
            }
            2 => {
                let n = get_varint(&mut b)? as usize;
                if n > b.len() {
                    return None;
                }
                let (v, rest) = b.split_at(n);
                b = rest;
                match key >> 3 {
                    1 => (w.payload, has_payload) = (v, true),
                    2 => (w.content_topic, has_topic) = (std::str::from_utf8(v).ok()?, true),
                    11 => w.meta = v,
                    21 => w.proof = v,
                    _ => {}
                }
            }
            1 => b = b.get(8..)?,
            5 => b = b.get(4..)?,
            _ => return None,
        }
    }
    (has_payload && has_topic && w.meta.len() <= 64).then_some(w)
}
