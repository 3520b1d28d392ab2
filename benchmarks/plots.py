"""What the plots of the studies share: one SVG document, its style and its colours."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

COLOURS = ("#0b6e4f", "#b3261e", "#8250df", "#9a6700", "#0969da", "#57606a")
_STYLE = (
    "<style>text{font:12px system-ui,sans-serif;fill:#57606a}.grid{stroke:#d0d7de}"
    "polyline{fill:none;stroke-width:2}.band{fill:#57606a;opacity:.25}</style>"
)


def document(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    """An SVG document on white, with its title above."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'role="img"><title>{escape(title)}</title>{_STYLE}'
        f'<rect width="100%" height="100%" fill="#fff"/><text x="64" y="24">{escape(title)}</text>'
        f"{''.join(parts)}</svg>\n"
    )


def dot(x: float, y: float, colour: str, radius: float = 4) -> str:
    return f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{colour}"/>'


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'
