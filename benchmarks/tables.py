"""Tables of Markdown, as they stand in the documentation."""

from __future__ import annotations

from collections.abc import Sequence


def align(lines: Sequence[Sequence[str]], words: int) -> str:
    """Returns a table whose first line is its head; its first `words` columns hold words, the others figures."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    made = []
    for line in lines:
        cells = [
            cell.ljust(width) if place < words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        made.append("| " + " | ".join(cells) + " |")
    rule = ["-" * (width + 1) + (":" if place >= words else "-") for place, width in enumerate(widths)]
    made.insert(1, "|" + "|".join(rule) + "|")
    return "\n".join(made)
