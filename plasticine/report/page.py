"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from plasticine.report.lettering import number
from plasticine.report.style import css_variables, for_page
from plasticine.report.table import Table

__all__ = ["Picture", "Section", "page"]

_SHOWN = 40  # rows of a long table

_CSS = """
*{box-sizing:border-box}
body{margin:0 auto;max-width:1080px;padding:24px 20px 80px;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:26px;margin:8px 0 4px}
h2{font-size:20px;margin:48px 0 8px;border-top:1px solid var(--faint);padding-top:20px}
h3{font-size:16px;margin:28px 0 4px}p{max-width:75ch;margin:6px 0}.note,figcaption,.about{color:var(--muted)}
figcaption{max-width:90ch;font-size:13px}figure{margin:14px 0;overflow-x:auto}
figure svg{max-width:100%;height:auto;display:block}nav a{margin-right:14px}a{color:var(--hue0)}
.warning{border-left:4px solid var(--hue1);padding:6px 12px;margin:10px 0;max-width:85ch}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:13px;margin:8px 0}
th,td{text-align:left;padding:3px 14px 3px 0;border-bottom:1px solid var(--faint);vertical-align:top;max-width:60ch;
overflow-wrap:anywhere}th{color:var(--muted);font-weight:600;overflow-wrap:normal}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code{font-size:.92em}details{margin:8px 0}summary{cursor:pointer}
@media print{nav{display:none}}
"""


@dataclass(frozen=True)
class Picture:
    """A drawn figure: stem of its files, title, caption, SVG."""

    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: Its anchor.
        title: Heading.
        text: Paragraphs.
        warnings: Paragraphs that must not be missed.
        parts: Pictures and tables, in order.
    """

    name: str
    title: str
    text: Sequence[str] = ()
    warnings: Sequence[str] = ()
    parts: Sequence[Picture | Table] = field(default_factory=tuple)


def page(title: str, summary: Sequence[str], warnings: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the file. Every text is data: whatever a run was called, it is shown and never interpreted."""
    links = "".join(f'<a href="#{escape(s.name)}">{escape(s.title)}</a>' for s in sections)
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>{css_variables()}{_CSS}</style>\n</head>\n<body>",
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{_text(line)}</p>" for line in summary),
        *(f'<p class="warning">{_text(line)}</p>' for line in warnings),
        f"<nav>{links}</nav>",
        *(_section(section) for section in sections),
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _section(section: Section) -> str:
    parts = [f'<section id="{escape(section.name)}">', f"<h2>{escape(section.title)}</h2>"]
    parts += [f"<p>{_text(line)}</p>" for line in section.text]
    parts += [f'<p class="warning">{_text(line)}</p>' for line in section.warnings]
    parts += [_picture(part) if isinstance(part, Picture) else _table(part) for part in section.parts]
    return "\n".join([*parts, "</section>"])


def _text(text: str) -> str:
    """Escape, with `code` between backquotes."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _picture(picture: Picture) -> str:
    svg = for_page(picture.svg, re.sub(r"\W", "-", picture.name))
    return (
        f'<figure id="{escape(picture.name)}"><h3>{escape(picture.title)}</h3>{svg}'
        f"<figcaption>{_text(picture.caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    shown = table.rows[:_SHOWN]
    heads = "".join(f"<th>{escape(head)}</th>" for head in table.heads)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>\n" for row in shown)
    parts = [f"<h3>{escape(table.title)}</h3>"]
    if table.note:
        parts.append(f'<p class="note">{_text(table.note)}</p>')
    parts.append(
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>\n{body}</tbody></table></div>'
    )
    if len(table.rows) > len(shown):
        left = len(table.rows) - len(shown)
        parts.append(
            f'<p class="note">{left} more rows are in <code>tables/{escape(table.name)}.csv</code>.</p>'
        )
    return "\n".join(parts)


def _cell(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        text = str(value) if isinstance(value, int) else "–" if math.isnan(value) else number(value)
        return f'<td class="n">{escape(text)}</td>'
    return f"<td>{escape('' if value is None else str(value))}</td>"
