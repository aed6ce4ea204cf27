# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The report as Markdown: every fact and table of the page, without its drawings."""
from __future__ import annotations

from collections.abc import Iterator
import re

from evit_seg.replay.page.blocks import (
    Block,
    Cards,
    Cell,
    Code,
    Facts,
    Folded,
    Heading,
    Page,
    PictureRow,
    Pictures,
    Table,
    Text,
    Verdict,
)


def to_markdown(page: Page) -> str:
    """Return the report; what a name holds is escaped and never taken for Markdown or HTML."""
    lines = [f'# {escaped(page.title)}', '', escaped(page.subtitle), '']
    for section in page.sections:
        lines += [f'## {escaped(section.title)}', '']
        for block in section.blocks:
            lines += _lines(block)
    return '\n'.join(lines).rstrip() + '\n'


def escaped(text: str) -> str:
    """Return a text on one line whose signs mean themselves."""
    return re.sub(r'([\\`*_\[\]<>|#~$])', r'\\\1', ' '.join(text.split()))


def _lines(block: Block) -> Iterator[str]:
    if isinstance(block, (Text, Verdict)):
        strong = '**' if isinstance(block, Verdict) else ''
        yield from (f'{strong}{escaped(block.text)}{strong}', '')
    elif isinstance(block, Heading):
        yield from (f'### {escaped(block.text)}', '')
    elif isinstance(block, Cards):
        for card in block.cards:
            hint = f' ({escaped(card.hint)})' if card.hint else ''
            yield f'- {escaped(card.title)}: **{escaped(card.value)}**{hint}'
        yield ''
    elif isinstance(block, Facts):
        yield from (f'- {escaped(term)}: {escaped(text)}' for term, text in block.rows)
        yield ''
    elif isinstance(block, Table):
        yield from _table(block)
    elif isinstance(block, Pictures):
        yield from (_frame(row) for row in block.rows)
        yield ''
    elif isinstance(block, Code):
        yield from (f'    {line}' for line in block.text.splitlines() or [''])
        yield ''
    elif isinstance(block, Folded):
        yield from (f'**{escaped(block.title)}**', '')
        for inner in block.blocks:
            yield from _lines(inner)


def _table(table: Table) -> Iterator[str]:
    if table.title:
        yield from (f'**{escaped(table.title)}**', '')
    yield f'| {" | ".join(escaped(column.title) for column in table.columns)} |'
    yield f'|{"|".join("---:" if column.numeric else "---" for column in table.columns)}|'
    for row in table.rows:
        yield f'| {" | ".join(_cell(cell) for cell in row)} |'
    yield ''
    if table.note:
        yield from (escaped(table.note), '')


def _cell(cell: Cell) -> str:
    return escaped(f'{cell.text} ({cell.hint})' if cell.hint else cell.text)


def _frame(row: PictureRow) -> str:
    return f'- {escaped(row.title)}: {escaped(row.text)}'
