# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How all figures look, and how they are saved. No pyplot: nothing global, no display needed."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence, Tuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any colour vision; their yellow is too light on white.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
DASHES = ('-', '--', ':', '-.')
INK, GREY, RULE = '#1b1b1b', '#767676', '#dddddd'
PNG_DPI = 200
RC: Any = {  # rcParams; matplotlib types its keys as a list of literals
    'font.size': 12, 'axes.titlesize': 13, 'axes.labelsize': 12, 'xtick.labelsize': 11,
    'ytick.labelsize': 11, 'legend.fontsize': 11, 'axes.titlelocation': 'left',
    'axes.titleweight': 'bold', 'axes.spines.top': False, 'axes.spines.right': False,
    'axes.edgecolor': GREY, 'axes.labelcolor': INK, 'text.color': INK, 'xtick.color': INK,
    'ytick.color': INK, 'axes.grid': True, 'axes.axisbelow': True, 'grid.color': RULE,
    'grid.linewidth': 0.8, 'legend.frameon': False, 'svg.hashsalt': 'evit_seg',
}


def colour_of(index: int) -> str:
    """Return the colour of the index-th thing; with `dash_of` 28 lines stay apart."""
    return COLOURS[index % len(COLOURS)]


def dash_of(index: int) -> Any:
    """Return the line style of the index-th thing."""
    return DASHES[index // len(COLOURS) % len(DASHES)]


def new_figure(width_in: float, height_in: float, **grid: Any) -> Tuple[Figure, Sequence[Axes]]:
    """Return a figure in the report's style and its axes in reading order."""
    with rc_context(RC):
        figure = Figure(figsize=(width_in, height_in), layout='constrained')
        FigureCanvasAgg(figure)
        axes = figure.subplots(squeeze=False, **grid).ravel()
    return figure, list(axes)


def save(figure: Figure, stem: Path, *, svg: bool = True) -> None:
    """Write STEM.png at 200 dpi and, where lines are drawn and not photographs, STEM.svg."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(RC):
        figure.savefig(stem.with_suffix('.png'), dpi=PNG_DPI, metadata={'Software': None})
        if svg:
            figure.savefig(stem.with_suffix('.svg'), metadata={'Date': None, 'Creator': None})
