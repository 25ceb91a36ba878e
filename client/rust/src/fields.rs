//! Reads the header of a frame: one MessagePack array, whose further elements are ignored.

use rmp::decode::{self, Bytes as Input};
use rmp::Marker;

use crate::bytes::{Bin, Bytes, Hash, Id};
use crate::error::{Error, Result};

const MAX_META: usize = 64;
const MAX_DEPTH: usize = 16;

/// The elements of a header, one after another.
pub(crate) struct Fields<'a> {
    input: Input<'a>,
    left: u32,
    what: &'static str,
}

impl<'a> Fields<'a> {
    pub fn new(frame: &'a [u8], what: &'static str, at_least: u32) -> Result<Self> {
        let mut input = Input::new(frame);
        let left = decode::read_array_len(&mut input).map_err(|_| Error::bad(format!("{what}: not an array")))?;
        if left < at_least {
            return Err(Error::bad(format!("{what}: {left} elements, at least {at_least} are needed")));
        }
        Ok(Fields { input, left, what })
    }

    fn fail<T>(&self, wanted: &str) -> Result<T> {
        Err(Error::bad(format!("{}: an element is missing or no {wanted}", self.what)))
    }

    fn element(&mut self, wanted: &str) -> Result<()> {
        if self.left == 0 {
            return self.fail(wanted);
        }
        self.left -= 1;
        Ok(())
    }

    fn slice(&mut self, length: u32, wanted: &str) -> Result<&'a [u8]> {
        let rest = self.input.remaining_slice();
        match rest.split_at_checked(length as usize) {
            Some((slice, after)) => {
                self.input = Input::new(after);
                Ok(slice)
            }
            None => self.fail(wanted),
        }
    }

    /// Any integer from `low` on; what is above 2^63 - 1 is not in the contract.
    fn int(&mut self, low: i64, wanted: &str) -> Result<i64> {
        self.element(wanted)?;
        match decode::read_int::<i64, _>(&mut self.input) {
            Ok(value) if value >= low => Ok(value),
            _ => self.fail(wanted),
        }
    }

    pub fn uint(&mut self) -> Result<u64> {
        self.int(0, "uint").map(|value| value as u64)
    }

    pub fn uint32(&mut self) -> Result<u32> {
        let value = self.uint()?;
        value.try_into().or_else(|_| self.fail("uint of 32 bits"))
    }

    pub fn ns(&mut self) -> Result<i64> {
        self.int(i64::MIN, "integer")
    }

    pub fn bool(&mut self) -> Result<bool> {
        self.element("boolean")?;
        decode::read_bool(&mut self.input).or_else(|_| self.fail("boolean"))
    }

    pub fn binary(&mut self) -> Result<&'a [u8]> {
        self.element("binary")?;
        match decode::read_bin_len(&mut self.input) {
            Ok(length) => self.slice(length, "binary"),
            Err(_) => self.fail("binary"),
        }
    }

    fn bin<const N: usize>(&mut self) -> Result<Bin<N>> {
        let bytes = self.binary()?;
        Bin::try_from(bytes).or_else(|_| self.fail("binary of that length"))
    }

    pub fn id(&mut self) -> Result<Id> {
        self.bin()
    }

    pub fn epoch(&mut self) -> Result<Bin<8>> {
        self.bin()
    }

    pub fn hash(&mut self) -> Result<Hash> {
        self.bin()
    }

    pub fn hash_or_nil(&mut self) -> Result<Option<Hash>> {
        if self.input.remaining_slice().first() == Some(&Marker::Null.to_u8()) {
            self.element("hash")?;
            self.slice(1, "nil")?;
            return Ok(None);
        }
        self.hash().map(Some)
    }

    fn short(&mut self, most: usize) -> Result<Bytes> {
        let bytes = self.binary()?;
        if bytes.len() > most {
            return self.fail("binary of that length");
        }
        Ok(Bytes(bytes.to_vec()))
    }

    pub fn meta(&mut self) -> Result<Bytes> {
        self.short(MAX_META)
    }

    pub fn hash_bytes(&mut self) -> Result<Bytes> {
        self.short(32)
    }

    pub fn text(&mut self) -> Result<String> {
        self.element("text")?;
        self.bare_text()
    }

    fn bare_text(&mut self) -> Result<String> {
        let Ok(length) = decode::read_str_len(&mut self.input) else { return self.fail("text") };
        let bytes = self.slice(length, "text")?;
        std::str::from_utf8(bytes).map(str::to_owned).or_else(|_| self.fail("text of UTF-8"))
    }

    /// A text that headers of older servers lack.
    pub fn text_or(&mut self, absent: &str) -> Result<String> {
        if self.left == 0 {
            return Ok(absent.to_owned());
        }
        self.text()
    }

    pub fn texts(&mut self) -> Result<Vec<String>> {
        self.element("array of texts")?;
        match decode::read_array_len(&mut self.input) {
            Ok(length) => (0..length).map(|_| self.bare_text()).collect(),
            Err(_) => self.fail("array of texts"),
        }
    }

    /// Any value.
    pub fn value(&mut self) -> Result<rmpv::Value> {
        self.element("value")?;
        let mut rest = self.input.remaining_slice();
        let value = rmpv::decode::read_value_with_max_depth(&mut rest, MAX_DEPTH).or_else(|_| self.fail("value"))?;
        self.input = Input::new(rest);
        Ok(value)
    }

    /// The elements of later versions are ignored, but must be there, and nothing behind them.
    pub fn end(mut self) -> Result<()> {
        while self.left > 0 {
            self.value()?;
        }
        if !self.input.remaining_slice().is_empty() {
            return Err(Error::bad(format!("{}: trailing bytes", self.what)));
        }
        Ok(())
    }
}
