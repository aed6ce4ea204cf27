# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML page that needs no other file, for a screen, a phone and paper."""
from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import List, Sequence

from offline_train.reporting.page import (
    Block,
    cell_text,
    Column,
    Figure,
    Heading,
    is_numeric,
    Paragraph,
    Table,
)


def to_html(title: str, blocks: Sequence[Block], folder: Path) -> str:
    """Return the report as one page; the figures' PNG files are read from `folder`."""
    body = [f'<h1>{html.escape(title)}</h1>']
    for block in blocks:
        if isinstance(block, Heading):
            body.append(f'<h2>{html.escape(block.text)}</h2>')
        elif isinstance(block, Paragraph):
            body.append(f'<p>{html.escape(block.text)}</p>')
        elif isinstance(block, Figure):
            body.append(_html_figure(block, folder))
        else:
            body.append(_html_table(block))
    return _PAGE.format(title=html.escape(title), style=_STYLE, body='\n'.join(body))


def _html_figure(figure: Figure, folder: Path) -> str:
    data = base64.b64encode((folder / f'{figure.stem}.png').read_bytes()).decode()
    caption = html.escape(figure.caption)
    return (f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
            f'<figcaption>{caption}</figcaption></figure>')


def _html_table(table: Table) -> str:
    columns = table.shown()
    numeric = {c.key: is_numeric(table, c) for c in columns}
    parts = ['<section class="table">', f'<h3>{html.escape(table.title)}</h3>',
             '<div class="wide"><table>', '<thead>']
    if any(c.band for c in columns):
        parts.append(f'<tr>{"".join(_html_bands(table, columns))}</tr>')
    heads = [_html_cell('th', c.title, numeric[c.key], _starts_band(columns, i), 'col')
             for i, c in enumerate(columns)]
    parts += [f'<tr>{"".join(heads)}</tr>', '</thead>', '<tbody>']
    for row in table.rows:
        cells = [_html_cell('th' if i == 0 else 'td', cell_text(row.get(c.key), c.digits),
                            numeric[c.key], _starts_band(columns, i), 'row' if i == 0 else '')
                 for i, c in enumerate(columns)]
        parts.append(f'<tr>{"".join(cells)}</tr>')
    parts += ['</tbody></table></div>']
    if table.notes:
        notes = ''.join(f'<li>{html.escape(note)}</li>' for note in table.notes)
        parts.append(f'<ul class="notes">{notes}</ul>')
    return '\n'.join([*parts, '</section>'])


def _html_bands(table: Table, columns: Sequence[Column]) -> List[str]:
    cells, start = [], 0
    for index in range(1, len(columns) + 1):
        if index == len(columns) or columns[index].band != columns[start].band:
            band = table.bands.get(columns[start].band, columns[start].band)
            edge = _starts_band(columns, start)
            cells.append(f'<th colspan="{index - start}" class="band{" edge" if edge else ""}">'
                         f'{html.escape(band)}</th>')
            start = index
    return cells


def _starts_band(columns: Sequence[Column], index: int) -> bool:
    return index > 0 and columns[index].band != columns[index - 1].band


def _html_cell(tag: str, text: str, numeric: bool, edge: bool, scope: str) -> str:
    names = ' '.join(name for name, on in (('number', numeric), ('edge', edge)) if on)
    classes = f' class="{names}"' if names else ''
    scoped = f' scope="{scope}"' if scope else ''
    return f'<{tag}{scoped}{classes}>{html.escape(text)}</{tag}>'


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
_STYLE = """
body { margin: 0; background: #fff; color: #1b1b1b;
  font: 16px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif; }
main { max-width: 84rem; margin: 0 auto; padding: 1rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 0.5rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 0.5rem; padding-top: 0.75rem;
  border-top: 2px solid #1b1b1b; }
h3 { font-size: 1rem; margin: 1.5rem 0 0.4rem; }
p, .notes { max-width: 46rem; }
.notes { font-size: 0.85rem; color: #444; margin: 0.5rem 0 0; padding-left: 1.1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.8rem; font-variant-numeric: tabular-nums;
  border-top: 1.5px solid #1b1b1b; border-bottom: 1.5px solid #1b1b1b; }
th, td { padding: 0.3rem 0.45rem; text-align: left; white-space: nowrap; }
thead th { white-space: normal; vertical-align: bottom; font-weight: 600;
  border-bottom: 1px solid #1b1b1b; }
thead th.band { border-bottom: 0; padding-bottom: 0; color: #444; font-weight: 400; }
tbody th { font-weight: 600; position: sticky; left: 0; background: #fff; }
tbody tr + tr > * { border-top: 1px solid #e4e4e4; }
.number { text-align: right; }
.edge { border-left: 1px solid #bbb; }
figure { margin: 1.5rem 0; }
img { max-width: min(100%, 60rem); height: auto; display: block; }
figcaption { font-size: 0.85rem; color: #444; max-width: 46rem; margin-top: 0.4rem; }
@media (max-width: 40rem) {
  main { padding: 0.5rem 0.75rem 3rem; }
  tbody th { min-width: 7.5rem; white-space: normal; overflow-wrap: anywhere; }
}
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  table { font-size: 7.5pt; }
  th, td { padding: 0.15rem 0.35rem; }
  .wide { overflow: visible; }
  tbody th { position: static; }
  section.table tr, figure { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
"""
