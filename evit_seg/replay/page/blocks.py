# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a report is made of, before it is written as HTML or Markdown."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

LONGEST_LABEL = 34
NO_BREAK = '\N{NO-BREAK SPACE}'
MISSING = '–'
"""Stands where nothing defines a number; never 0."""


@dataclass(frozen=True)
class Text:
    """A paragraph; `kind` is '', 'note' (small) or 'warning'."""

    text: str
    kind: str = ''


@dataclass(frozen=True)
class Verdict:
    """The first thing to read; `state` is 'held', 'failed' or 'none'."""

    state: str
    text: str


@dataclass(frozen=True)
class Card:
    """One number of the summary, what it is, and what to know beside it."""

    title: str
    value: str
    hint: str = ''


@dataclass(frozen=True)
class Cards:
    """The numbers of one bundle in a row."""

    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Cell:
    """
    A cell of a table.

    `bar` (0 to 1) is drawn as a bar behind the text, `heat` (0 to 1) as the cell's depth of
    colour, `swatch` ('#rrggbb') as a dot before the text; `state` is '', 'good' or 'bad'. `hint`
    stands small below.
    """

    text: str
    bar: float | None = None
    heat: float | None = None
    swatch: str | None = None
    state: str = ''
    hint: str = ''


@dataclass(frozen=True)
class Column:
    """The head of a column; numbers are set to the right, sentences (`wraps`) over lines."""

    title: str
    numeric: bool = False
    wraps: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells below a title; `kind` is '' or 'matrix'."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ''
    kind: str = ''


@dataclass(frozen=True)
class Facts:
    """Terms and what they are."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Chart:
    """A drawing, for the page alone: `draw` makes its SVG; `kind` is 'wide', 'map' or 'small'."""

    title: str
    caption: str
    draw: Callable[[], str]
    kind: str = 'wide'


@dataclass(frozen=True)
class Charts:
    """Small drawings side by side where there is room."""

    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class PictureRow:
    """One frame: a title, what is known of it, and (label, data: URI) pictures."""

    title: str
    text: str
    pictures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Pictures:
    """Frames to look at, with the (name, '#rrggbb') of the classes in their masks."""

    rows: tuple[PictureRow, ...]
    legend: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Code:
    """A line to be copied."""

    text: str


@dataclass(frozen=True)
class Folded:
    """Blocks that are opened on demand."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Heading:
    """A title inside a section."""

    text: str


Block = (Text | Verdict | Cards | Table | Facts | Chart | Charts | Pictures | Code | Folded
         | Heading)


@dataclass(frozen=True)
class Section:
    """A part of the report under a title; `slug` is its anchor."""

    slug: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]


def number(value: float | None, digits: int = 3, unit: str = '') -> str:
    """Return a number as people read it, a dash where there is none."""
    return MISSING if value is None else f'{value:.{digits}f}{unit}'


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as a percentage; one that is not 0 never reads as 0."""
    if value is None:
        return MISSING
    least = 10.0 ** -digits
    if 0 < value * 100 < least:
        return f'< {least:.{digits}f}{NO_BREAK}%'
    return f'{value * 100:.{digits}f}{NO_BREAK}%'


def clock(seconds: float | None, longest_s: float = 0.0) -> str:
    """Return a time of the flight: seconds, or minutes and seconds beyond two minutes."""
    if seconds is None:
        return MISSING
    if max(longest_s, abs(seconds)) < 120:
        return f'{seconds:.1f}{NO_BREAK}s'
    sign, tenths = '-' if seconds < 0 else '', round(abs(seconds) * 10)
    minutes, rest = divmod(tenths, 600)
    return f'{sign}{minutes}:{rest / 10:04.1f}'


def clock_tick(seconds: float, longest_s: float) -> str:
    """Return a time below an axis: as `clock`, without a fraction that is 0."""
    text = clock(seconds, longest_s)
    return text.removesuffix('.0').replace(f'.0{NO_BREAK}', NO_BREAK)


def amount(count: int, noun: str) -> str:
    """Return '1 frame', '2 frames'."""
    return f'{count} {noun}' if count == 1 else f'{count} {noun}s'


def cells(*texts: str | Cell) -> tuple[Cell, ...]:
    """Return a row, plain texts as plain cells."""
    return tuple(text if isinstance(text, Cell) else Cell(text) for text in texts)


def columns(*titles: str, numbers_from: int = 1) -> tuple[Column, ...]:
    """Return the heads of a table whose columns hold numbers from that one on."""
    return tuple(Column(title, index >= numbers_from) for index, title in enumerate(titles))


def sentence(text: str) -> str:
    """Return a text that begins with a capital and ends with a full stop."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith(('.', '!', '?')) else f'{text}.'


def short(text: str) -> str:
    """Return a name that fits beside a drawing."""
    text = ' '.join(text.split())
    return text if len(text) <= LONGEST_LABEL else f'{text[:LONGEST_LABEL - 1]}…'


def joined(words: Sequence[str]) -> str:
    """Return 'a', 'a and b', 'a, b and c'."""
    return ' and '.join([', '.join(words[:-1]), words[-1]] if len(words) > 1 else list(words))
