"""The pieces of a self-contained HTML page: sections, figures, tables, one style sheet.

Everything that is text is escaped here, and pictures become data URIs, so a page needs no second
file and runs no script. Imports nothing of ours.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --card: #f6f7f9; --ink: #1b2128;
  --muted: #667080; --faint: #e3e6ea; --real: #1a66c9; --dream: #c9590c; --line: #3d4a5c;
  --c0: #1a66c9; --c1: #c9590c; --c2: #1f8a5b; --c3: #9b3fb5; --c4: #b3261e; --c5: #7a6a00;
  --c6: #00808a; --c7: #c2418b; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #12161b; --card: #1a2027; --ink: #e6e9ed; --muted: #98a2b0; --faint: #2b333d;
    --real: #6cabff; --dream: #ff9d57; --line: #b3c0d1;
    --c0: #6cabff; --c1: #ff9d57; --c2: #5fd09b; --c3: #d48cf0; --c4: #ff8a80; --c5: #d8c64a;
    --c6: #56ced9; --c7: #ff8fc8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 61rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans",
  sans-serif; -webkit-text-size-adjust: 100%; overflow-wrap: break-word; }
p, figcaption { max-width: 44rem; }
h1 { font-size: 1.05rem; font-weight: 600; color: var(--muted); margin: 0 0 1.5rem; }
h2 { font-size: 1.3rem; margin: 2.75rem 0 .75rem; padding-top: 1.1rem;
  border-top: 1px solid var(--faint); letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
h3 small { font-weight: 400; color: var(--muted); margin-left: .5rem; }
.score { font-size: clamp(2.4rem, 9vw, 3.6rem); line-height: 1.05; font-weight: 700; margin: 0;
  letter-spacing: -.03em; font-variant-numeric: tabular-nums; }
.score small { font-size: .42em; font-weight: 500; color: var(--muted); letter-spacing: 0;
  white-space: nowrap; }
.lead { font-size: 1.15rem; margin: .9rem 0 0; }
.hero { display: grid; grid-template-columns: 1fr; gap: 1.75rem; align-items: start; }
.note { color: var(--muted); border-left: 3px solid var(--faint); padding-left: .9rem; }
figure { margin: 1.25rem 0 2rem; } .hero figure { margin: 0; }
figcaption { color: var(--muted); font-size: .92rem; margin-top: .6rem; }
svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17.5rem), 1fr));
  gap: 1.25rem 1.5rem; margin-bottom: 1.25rem; }
.pair { display: grid; gap: 1.5rem 3rem; margin: 1.25rem 0; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.narrow { display: block; } .wide { display: none; }
img { display: block; max-width: 100%; height: auto; }
.pixels { image-rendering: pixelated; width: 100%; border-radius: 4px; }
.strip { display: grid; gap: .25rem .75rem; align-items: center; }
.strip img { width: 100%; }
.strip .name { font-weight: 600; font-size: .92rem; margin-top: .35rem; }
.cells { display: grid; font-size: .8rem; text-align: center; color: var(--muted);
  font-variant-numeric: tabular-nums; }
.real { color: var(--real); } .dream { color: var(--dream); }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; font-size: .92rem;
  margin: .5rem 0 1rem; }
.legend span::before { content: ""; display: inline-block; width: 1.5rem; margin-right: .45rem;
  vertical-align: middle; border-top: 3px solid currentColor; }
.legend .dashed::before { border-top-style: dashed; border-top-width: 2px; }
.sides { display: grid; grid-template-columns: 1fr 1fr; font-weight: 600; font-size: .92rem;
  max-width: 32rem; margin-bottom: .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .95rem; }
th, td { text-align: left; padding: .4rem 1.4rem .4rem 0; vertical-align: top;
  border-bottom: 1px solid var(--faint); }
th { font-weight: 600; color: var(--muted); font-size: .85rem; white-space: nowrap; }
td + td { white-space: nowrap; } td:first-child { min-width: 6.5rem; }
.facts td + td { white-space: normal; }
tr.first td { font-weight: 600; color: var(--real); }
td small { color: var(--muted); font-weight: 400; display: block; }
table.tight th, table.tight td { padding-right: 1rem; }
table.tight th { white-space: normal; vertical-align: bottom; max-width: 8.5rem;
  overflow-wrap: normal; }
table.tight td:first-child { min-width: 8.5rem; max-width: 13rem; }
.share { display: inline-block; height: .6rem; border-radius: 2px; background: var(--line);
  opacity: .55; min-width: 2px; }
code { font: .9em/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
.command { display: block; padding: .8rem 1rem; background: var(--card); border-radius: 6px;
  overflow-x: auto; white-space: pre; }
details { margin: 1rem 0; } summary { cursor: pointer; color: var(--muted); }
footer { margin-top: 4rem; color: var(--muted); font-size: .85rem; }
@media (min-width: 44rem) {
  .narrow { display: none; } .wide { display: block; }
  .hero { grid-template-columns: 1fr 15rem; gap: 3rem; }
  td small { display: inline; } table.tight td small { display: block; }
  .strip { grid-template-columns: 7rem 1fr; } .strip .name { margin-top: 0; }
}
@media print { body { max-width: none; } figure { break-inside: avoid; } }
"""


def text(value: object) -> str:
    """Anything as text that is safe inside HTML."""
    return escape(str(value))


def paragraph(words: object, kind: str = "") -> str:
    """One paragraph of plain words."""
    return f"<p{_kind(kind)}>{text(words)}</p>"


def missing(why: object) -> str:
    """The one sentence that stands where something could not be shown."""
    return paragraph(why, "note")


def section(title: str, *parts: str) -> str:
    """A part of the page under its heading."""
    return f"<section>\n<h2>{text(title)}</h2>\n{_joined(parts)}\n</section>"


def figure(content: str, caption: str) -> str:
    """A picture and how to read it."""
    return f"<figure>\n{content}\n<figcaption>{text(caption)}</figcaption>\n</figure>"


def grid(parts: Iterable[str]) -> str:
    """Small plots side by side, as many as there is room for."""
    return f'<div class="grid">\n{_joined(f"<div>{part}</div>" for part in parts)}\n</div>'


def pair(left: str, right: str) -> str:
    """Two things side by side where there is room."""
    return f'<div class="pair">\n<div>{left}</div>\n<div>{right}</div>\n</div>'


def by_width(narrow: str, wide: str) -> str:
    """One of two drawings of the same plot, so that letters keep their size on a phone."""
    return f'<div class="narrow">{narrow}</div>\n<div class="wide">{wide}</div>'


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, first: bool = False, kind: str = ""
) -> str:
    """A table that scrolls by itself where it is too wide.

    Args:
        head: texts.
        rows: HTML cells.
        first: the first row is the one that the table is about.
        kind: CSS class; "tight" puts what is small below, for many columns.
    """
    names = "".join(f"<th>{text(name)}</th>" for name in head)
    lines = []
    for i, row in enumerate(rows):
        cells = "".join(f"<td>{cell}</td>" for cell in row)
        lines.append(f"<tr{_kind('first' if first and i == 0 else '')}>{cells}</tr>")
    inside = f"<tr>{names}</tr>\n{_joined(lines)}"
    return f'<div class="scroll"><table{_kind(kind)}>\n{inside}\n</table></div>'


def facts(rows: Iterable[tuple[object, object]]) -> str:
    """Names and what they are, two columns of plain text."""
    lines = (f"<tr><td>{text(name)}</td><td>{text(value)}</td></tr>" for name, value in rows)
    return f'<div class="scroll"><table class="facts">\n{_joined(lines)}\n</table></div>'


def legend(entries: Iterable[tuple[str, str, bool]]) -> str:
    """What the lines of all plots of a section are.

    Args:
        entries: (name, role of its colour, whether it is dashed).
    """
    spans = (
        f'<span style="color:var(--{role})"{_kind("dashed" if dashed else "")}>{text(name)}</span>'
        for name, role, dashed in entries
    )
    return f'<p class="legend">{"".join(spans)}</p>'


def details(summary: str, content: str) -> str:
    """What most readers skip, behind one line."""
    return f"<details>\n<summary>{text(summary)}</summary>\n{content}\n</details>"


def image(data: bytes, alt: str, kind: str = "pixels", *, width: str = "") -> str:
    """A picture inside the page.

    Args:
        data: of a PNG or GIF file.
        alt: what it shows, for those who cannot see it.
        kind: CSS class.
        width: largest, as CSS says it.
    """
    style = f' style="max-width:{width}"' if width else ""
    return f'<img{_kind(kind)}{style} src="{_uri(data)}" alt="{text(alt)}">'


def moving(data: bytes, still: bytes, alt: str, *, width: str) -> str:
    """An animation; readers who asked for less motion get the still picture."""
    return (
        f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{_uri(still)}">'
        f"{image(data, alt, width=width)}</picture>"
    )


def strip(rows: Sequence[tuple[str, str, str]], cells: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Rows of pictures in one raster, with rows of numbers under their columns.

    Args:
        rows: (name, CSS class of the name, image).
        cells: (name, one text a column).
    """
    parts = [f'<div class="name {kind}">{text(name)}</div>{img}' for name, kind, img in rows]
    for name, values in cells:
        columns = f"grid-template-columns:repeat({len(values)},1fr)"
        inside = "".join(f"<span>{text(value)}</span>" for value in values)
        parts.append(f'<div class="name">{text(name)}</div>')
        parts.append(f'<div class="cells" style="{columns}">{inside}</div>')
    return f'<div class="strip">\n{_joined(parts)}\n</div>'


def page(title: str, *parts: str) -> str:
    """The whole document."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"{_joined(parts)}\n</body>\n</html>\n"
    )


def _uri(data: bytes) -> str:
    """A picture as a data URI."""
    kind = "gif" if data[:3] == b"GIF" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _kind(name: str) -> str:
    """A class attribute, if there is a class."""
    return f' class="{name}"' if name else ""


def _joined(parts: Iterable[str]) -> str:
    """Lines."""
    return "\n".join(part for part in parts if part)
