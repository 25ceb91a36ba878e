"""Leopard Reed-Solomon parity, byte-compatible with the library of that name (github.com/catid/leopard).

With m the next power of two of the parity count, parity shard j stands at position j and data shard i at
position m + i. Data in each block of m positions is interpolated by a polynomial of degree below m; the
parity at j is the sum of all those polynomials there. From it follow both ways used here:

- encoding by additive FFTs, O(n log m) butterflies (Lin, Al-Naffouri, Han, Chung, 2016);
- the coefficients in closed form, (p div m) / (j xor p) for data at position p: a Cauchy matrix, whose
  inverse is known too. Recovering e shards is one encoding of what is there and e² products.

The field has 2^8 elements while m + data (rounded up to a power of two) is at most 256, else 2^16: so 200
data and 50 parity shards, 250 in all, already use the larger one.

Python has no fast loop over bytes, so a product with a constant is `bytes.translate` and a sum is XOR of
integers of a whole shard's length.
"""

from __future__ import annotations

from collections.abc import Sequence

from mapi_proc.channels.segmentation.galois import Field, field8, field16
from mapi_proc.channels.segmentation.planes import Planes8, Planes16, Vector

ALIGNMENT = 64
"""Shard lengths are multiples of this."""


class ParityError(ValueError):
    """The shards do not fit together or are too few."""


def encode_parity(data: Sequence[bytes], parity_count: int) -> list[bytes]:
    """Return the parity shards of a complete set of equally long data shards."""
    code = _Code(len(data), parity_count, _size(data))
    loaded: list[Vector | None] = [code.planes.load(shard) for shard in data]
    return [code.planes.store(vector) for vector in code.parity(loaded)]


def recover_data(data: Sequence[bytes | None], parity: Sequence[bytes | None]) -> list[bytes]:
    """Return all data shards. Missing shards are None; raises `ParityError` if too many are."""
    present = [shard for shard in (*data, *parity) if shard is not None]
    code = _Code(len(data), len(parity), _size(present))
    missing = [index for index, shard in enumerate(data) if shard is None]
    rows = [index for index, shard in enumerate(parity) if shard is not None][: len(missing)]
    if len(rows) < len(missing):
        raise ParityError(f"{len(missing)} data shards are missing, {len(rows)} parity shards are there")
    result = list(data)
    if missing:
        known = code.parity([None if shard is None else code.planes.load(shard) for shard in data])
        # What remains of each parity shard is the contribution of the missing data.
        rest = [_add(known[row], code.planes.load(parity[row] or b"")) for row in rows]
        for index, vector in zip(missing, code.solve(rows, missing, rest), strict=True):
            result[index] = code.planes.store(vector)
    return [shard for shard in result if shard is not None]


def _size(shards: Sequence[bytes]) -> int:
    sizes = {len(shard) for shard in shards}
    if len(sizes) != 1:
        raise ParityError("shards must be equally long, and there must be some")
    (size,) = sizes
    if size == 0 or size % ALIGNMENT:
        raise ParityError(f"shards of {size} bytes: not a multiple of {ALIGNMENT}")
    return size


def _add(left: Vector, right: Vector) -> Vector:
    return tuple(a ^ b for a, b in zip(left, right, strict=True))


class _Code:
    """One code: its field, the block length m, and the arithmetic on whole shards."""

    def __init__(self, data_count: int, parity_count: int, size: int) -> None:
        if not 1 <= parity_count <= data_count:
            raise ParityError(f"{parity_count} parity shards for {data_count} data shards")
        self.parity_count = parity_count
        self.block = 1 << (parity_count - 1).bit_length()
        positions = 1 << (self.block + data_count - 1).bit_length()
        if positions > 1 << 16:
            raise ParityError(f"{data_count} + {parity_count} shards are more than the code has positions")
        small = positions <= 1 << 8
        self.field: Field = field8() if small else field16()
        self.planes: Planes8 | Planes16 = Planes8(self.field, size) if small else Planes16(size)

    def parity(self, data: Sequence[Vector | None]) -> list[Vector]:
        """Return the parity of data; None counts as zeros."""
        zero = self.planes.load(b"")
        total = [zero] * self.block
        for start in range(0, len(data), self.block):
            part = [zero if shard is None else shard for shard in data[start : start + self.block]]
            part += [zero] * (self.block - len(part))
            self._inverse_transform(part, self.block + start)
            total = [_add(left, right) for left, right in zip(total, part, strict=True)]
        self._transform(total)
        return total[: self.parity_count]

    def _inverse_transform(self, work: list[Vector], offset: int) -> None:
        """Convert values at positions `offset`… to coefficients, in place (inverse FFT)."""
        layer, distance = 0, 1
        while distance < len(work):
            for start in range(0, len(work), 2 * distance):
                twiddle = (offset + start) >> layer
                for low in range(start, start + distance):
                    high = low + distance
                    work[high] = _add(work[high], work[low])
                    self._accumulate(work, low, high, twiddle)
            layer, distance = layer + 1, 2 * distance

    def _transform(self, work: list[Vector]) -> None:
        """Convert coefficients to values at positions 0…, in place (FFT)."""
        distance = len(work) >> 1
        while distance:
            layer = distance.bit_length() - 1
            for start in range(0, len(work), 2 * distance):
                for low in range(start, start + distance):
                    self._accumulate(work, low, low + distance, start >> layer)
                    work[low + distance] = _add(work[low + distance], work[low])
            distance >>= 1

    def _accumulate(self, work: list[Vector], target: int, source: int, factor: int) -> None:
        if factor and any(work[source]):
            product = self.planes.multiply(work[source], self.field.log[factor])
            work[target] = _add(work[target], product)

    def solve(self, rows: list[int], missing: list[int], rest: list[Vector]) -> list[Vector]:
        """Solve the Cauchy system: parity `rows`, reduced to `rest`, in the `missing` data shards.

        The inverse of 1 / (x[i] + y[j]) has, at (j, i), the entry
        prod_k (x[k] + y[j]) (x[i] + y[k]) / ((x[i] + y[j]) prod_{k≠i} (x[i] + x[k]) prod_{k≠j} (y[j] +
        y[k])).
        """
        log, modulus = self.field.log, self.field.modulus
        positions = [self.block + index for index in missing]
        row_logs = [
            sum(log[row ^ position] for position in positions)
            - sum(log[row ^ other] for other in rows if other != row)
            for row in rows
        ]
        answers = []
        for position in positions:
            column_log = (
                sum(log[row ^ position] for row in rows)
                - sum(log[position ^ other] for other in positions if other != position)
                - log[position // self.block]
            )
            answer = self.planes.load(b"")
            for row, row_log, share in zip(rows, row_logs, rest, strict=True):
                exponent = (column_log + row_log - log[row ^ position]) % modulus
                answer = _add(answer, self.planes.multiply(share, exponent))
            answers.append(answer)
        return answers
