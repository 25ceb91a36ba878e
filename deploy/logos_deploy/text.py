"""Format values for display."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def count(number: int, noun: str) -> str:
    """`1 peer`, `3 peers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """`3.2 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(count: int) -> str:
    """`17 B`, `1.5 KiB`, `149 KiB`, `78 GiB`."""
    if count < 1024:
        return f"{count} B"
    value, unit = count / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"


def one_line(text: str) -> str:
    """Sanitise untrusted text (agents, payloads) for a terminal: no line break or escape sequence passes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def payload_text(payload: bytes, limit: int = 4096) -> str:
    """Show a payload as text if it is text, otherwise its size and first bytes in hex."""
    try:
        text = payload[:limit].decode("utf-8")
    except UnicodeDecodeError:
        shown = payload[:32].hex()
        return f"<{size(len(payload))}: {shown}{'…' if len(payload) > 32 else ''}>"
    more = f"… <{size(len(payload))}>" if len(payload) > limit else ""
    return one_line(text) + more


def table(rows: Iterable[Sequence[object]], *, heads: Sequence[str] = (), right: Iterable[int] = ()) -> str:
    """Format columns, each as wide as its longest cell. `right`: columns to right-align."""
    cells = [[str(cell) for cell in row] for row in ([heads] if heads else [])]
    cells += [[str(cell) for cell in row] for row in rows]
    if not cells:
        return ""
    flush = set(right)
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = []
    for row in cells:
        shown = [
            cell.rjust(width) if column in flush else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(shown).rstrip())
    return "\n".join(lines)
