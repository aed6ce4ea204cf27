# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
How drawings look: SVG that takes its colours from the page, in the light and in the dark.

Ink, grey and grid are drawn in stand-in colours that are replaced by the page's own. No pyplot:
nothing global, no display needed. The same data gives the same bytes.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
import io
import re
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, GREY, RULE, PAGE = '#010203', '#010204', '#010205', '#010206'
COLOURS = ('#010211', '#010212', '#010213', '#010214', '#010215', '#010216')
_PAGE_COLOURS = {INK: 'var(--ink)', GREY: 'var(--muted)', RULE: 'var(--rule)',
                 PAGE: 'var(--page)',
                 **{colour: f'var(--series-{index})' for index, colour in enumerate(COLOURS)}}
BLUE, RED, GREEN, AMBER = COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[4]
DASHES = ('-', '--', ':', '-.')
PX_PER_IN = 72.0
RC: Any = {  # rcParams; matplotlib types its keys as a list of literals
    'font.size': 11, 'axes.titlesize': 11, 'axes.labelsize': 11, 'xtick.labelsize': 10.5,
    'ytick.labelsize': 10.5, 'legend.fontsize': 10, 'axes.titlelocation': 'left',
    'axes.spines.top': False, 'axes.spines.right': False, 'axes.edgecolor': GREY,
    'axes.labelcolor': GREY, 'text.color': INK, 'xtick.color': GREY, 'ytick.color': GREY,
    'xtick.labelcolor': INK, 'ytick.labelcolor': INK, 'axes.grid': True, 'axes.axisbelow': True,
    'grid.color': RULE, 'grid.linewidth': 0.8, 'legend.frameon': False, 'svg.fonttype': 'none',
    'text.parse_math': False, 'axes.facecolor': 'none', 'figure.facecolor': 'none',
    'axes.unicode_minus': False, 'hatch.linewidth': 1.2,
}


def in_style(draw: Callable[..., str]) -> Callable[..., str]:
    """Return the function, its drawing made in the page's style and in no other's."""
    @wraps(draw)
    def styled(*arguments: Any) -> str:
        with rc_context(RC):
            return draw(*arguments)
    return styled


def colour_of(index: int) -> str:
    """Return the colour of the index-th thing."""
    return COLOURS[index % len(COLOURS)]


def dash_of(index: int) -> str:
    """Return the line style of the index-th thing: with the colour 24 lines stay apart."""
    return DASHES[index // len(COLOURS) % len(DASHES)]


def new_figure(width_px: float, height_px: float, **grid: Any) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure and its axes in reading order, in the style that is set."""
    figure = Figure(figsize=(width_px / PX_PER_IN, height_px / PX_PER_IN), dpi=PX_PER_IN,
                    layout='constrained')
    FigureCanvasSVG(figure)
    axes = figure.subplots(squeeze=False, **grid).ravel()
    return figure, list(axes)


def to_svg(figure: Figure, name: str, label: str) -> str:
    """
    Return the figure as an <svg> element to stand in a page.

    `name` is unlike that of the page's other drawings: their ids are made of it. `label` is read
    out where the drawing cannot be seen.
    """
    with rc_context({'svg.hashsalt': name}):
        out = io.StringIO()
        figure.savefig(out, format='svg', metadata={'Date': None, 'Creator': None, 'Format': None,
                                                    'Type': None})
    svg = out.getvalue()
    svg = svg[svg.index('<svg'):]
    svg = re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', svg)
    if box is None:
        raise RuntimeError('matplotlib wrote an SVG without a viewBox')
    svg = f'<svg {box.group()} role="img" aria-label="{_attribute(label)}">' \
          + svg[svg.index('>') + 1:]
    svg = svg.replace('xlink:href', 'href')
    wanted = set(re.findall(r'(?:href="#|url\(#)([^")]*)', svg))
    # What nothing refers to are names of groups, alike in every drawing.
    svg = re.sub(r' id="([^"]*)"', lambda found: found.group() if found.group(1) in wanted else '',
                 svg)
    for stand_in, colour in _PAGE_COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return svg.strip()


def _attribute(text: str) -> str:
    for sign, entity in (('&', '&amp;'), ('<', '&lt;'), ('>', '&gt;'), ('"', '&quot;')):
        text = text.replace(sign, entity)
    return ' '.join(text.split())
