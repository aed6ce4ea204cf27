# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A report as blocks, written as Markdown; tables as CSV too. web.py writes it as a page."""
from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence, Tuple, Union

MISSING = '-'
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column: which value of a row, under which title, with how many digits."""

    key: str
    title: str
    digits: Optional[int] = None
    band: str = ''
    """Title over several columns, such as whose numbers these are."""
    optional: bool = False
    """Left out where no row has a value; of a band, where no column of it has one."""


@dataclass(frozen=True)
class Table:
    """Rows of one kind and what must be known to read them."""

    title: str
    columns: Tuple[Column, ...]
    rows: Tuple[Row, ...]
    notes: Tuple[str, ...] = ()
    bands: Mapping[str, str] = field(default_factory=dict)
    """What a band is called in full, where there is room."""

    def shown(self) -> List[Column]:
        """Return the columns without the optional ones that are empty, of a band all or none."""
        filled = [c for c in self.columns
                  if any(row.get(c.key) is not None for row in self.rows)]
        bands = {c.band for c in filled if c.band}
        return [c for c in self.columns if not c.optional or c in filled or c.band in bands]


@dataclass(frozen=True)
class Figure:
    """A picture that lies beside the report: path below it without suffix, and its caption."""

    stem: str
    caption: str
    svg: bool = True


@dataclass(frozen=True)
class Heading:
    """The title of a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str


Block = Union[Heading, Paragraph, Table, Figure]


def cell_text(value: Any, digits: Optional[int] = None) -> str:
    """Return a cell as people read it: a dash where nothing is known."""
    if value is None or value == '':
        return MISSING
    if isinstance(value, float) or digits is not None:
        return f'{value:.{3 if digits is None else digits}f}'
    return str(value)


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Return the report as Markdown; figures are linked as PNG."""
    lines = [f'# {_escaped(title)}', '']
    for block in blocks:
        if isinstance(block, Heading):
            lines += [f'## {_escaped(block.text)}', '']
        elif isinstance(block, Paragraph):
            lines += [_escaped(block.text), '']
        elif isinstance(block, Figure):
            also = f' ([SVG]({block.stem}.svg))' if block.svg else ''
            lines += [f'![{_escaped(block.caption)}]({block.stem}.png)', '',
                      f'*{_escaped(block.caption)}*{also}', '']
        else:
            lines += [*_markdown_table(block), '']
    return '\n'.join(lines).rstrip() + '\n'


def _markdown_table(table: Table) -> List[str]:
    columns = table.shown()
    titles = [_escaped(f'{c.band}: {c.title}' if c.band else c.title) for c in columns]
    lines = [f'**{_escaped(table.title)}**', '', f'| {" | ".join(titles)} |',
             f'|{"|".join("---:" if is_numeric(table, c) else "---" for c in columns)}|']
    lines += [f'| {" | ".join(_escaped(cell_text(row.get(c.key), c.digits)) for c in columns)} |'
              for row in table.rows]
    return [*lines, '', *(f'- {_escaped(note)}' for note in table.notes)]


def _escaped(text: str) -> str:
    for sign in ('\\', '|', '*', '<', '['):
        text = text.replace(sign, f'\\{sign}')
    return text.replace('\n', ' ')


def is_numeric(table: Table, column: Column) -> bool:
    """Return whether a column holds numbers, to be set to the right."""
    values = [row.get(column.key) for row in table.rows]
    return column.digits is not None or any(isinstance(v, (int, float)) for v in values)


def to_csv(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Write rows for a spreadsheet or pandas; what is missing is an empty cell."""
    with path.open('w', encoding='utf-8', newline='') as out:
        writer = csv.writer(out, lineterminator='\n')
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_csv_cell(row.get(key)) for key in columns])


def _csv_cell(value: Any) -> Any:
    if isinstance(value, float):
        return f'{value:.6g}'
    return '' if value is None else value
