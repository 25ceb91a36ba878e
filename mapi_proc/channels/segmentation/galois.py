"""The two finite fields of Leopard Reed-Solomon codes, in Cantor's basis.

A field element is written as the coordinates of a Cantor basis b0 = 1, b1, b2, … (b[i+1]² + b[i+1] = b[i]).
In that basis the additive FFT and the code's coefficients are plain shifts and XORs of positions; the price
is that products go through tables. Generator polynomials and bases are Leopard's constants: they fix the
code.
"""

from __future__ import annotations

from functools import cache
from typing import Final

_BASIS_8: Final = (1, 214, 152, 146, 86, 200, 88, 230)
_BASIS_16: Final = (
    0x0001,
    0xACCA,
    0x3C0E,
    0x163E,
    0xC582,
    0xED2E,
    0x914C,
    0x4012,
    0x6C98,
    0x10D8,
    0x6A72,
    0xB900,
    0xFDB8,
    0xFB34,
    0xFF38,
    0x991E,
)


class Field:
    """A field of 2^bits elements: logarithms and exponents of elements in Cantor coordinates."""

    def __init__(self, bits: int, polynomial: int, basis: tuple[int, ...]) -> None:
        self.bits = bits
        self.order = 1 << bits
        self.modulus = self.order - 1
        logarithm = [0] * self.order
        state = 1
        for exponent in range(self.modulus):
            logarithm[state] = exponent
            state <<= 1
            if state & self.order:
                state ^= polynomial
        ordinary = [0]  # element in Cantor coordinates -> ordinary polynomial representation
        for vector in basis:
            ordinary += [value ^ vector for value in ordinary]
        self.log = [logarithm[value] for value in ordinary]
        self.exp = [0] * (2 * self.modulus)
        for element in range(1, self.order):
            self.exp[self.log[element]] = self.exp[self.log[element] + self.modulus] = element

    def multiply(self, left: int, right: int) -> int:
        """Return the product of two elements."""
        return self.exp[self.log[left] + self.log[right]] if left and right else 0


@cache
def field8() -> Field:
    """Return GF(2^8) of polynomial 0x11D."""
    return Field(8, 0x11D, _BASIS_8)


@cache
def field16() -> Field:
    """Return GF(2^16) of polynomial 0x1002D. Building it takes about 50 ms, so do it only on demand."""
    return Field(16, 0x1002D, _BASIS_16)
