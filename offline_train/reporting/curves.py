# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Loss curves: all runs in one plot, raw and smoothed, each term and the validation mIoU."""
from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
import numpy as np
from offline_train.reporting.join import Arm
from offline_train.reporting.runs import Run, Series
from offline_train.reporting.style import colour_of, dash_of, INK, new_figure, RC

SMOOTHED_PART = 0.05
"""Of a curve's points that one point of the smooth line is the mean of."""
LOG_RATIO = 20.0
"""Losses that fall by more than this are drawn on a logarithmic axis."""


def smooth(values: Sequence[float]) -> np.ndarray:
    """Return the centred moving mean over 5 % of the points; at the ends over those there are."""
    raw = np.asarray(values, float)
    half = round(len(raw) * SMOOTHED_PART / 2)
    sums = np.concatenate([[0.0], np.cumsum(raw)])
    first = np.clip(np.arange(len(raw)) - half, 0, None)
    last = np.clip(np.arange(len(raw)) + half + 1, None, len(raw))
    return np.asarray((sums[last] - sums[first]) / (last - first))


def draw_curves(arms: Sequence[Arm], data: str) -> Optional[Figure]:
    """
    Return the curves of runs that validate on `data`; None where they logged nothing.

    Runs that are seeds of one have one colour.
    """
    panels = _panels([e.run for arm in arms for e in arm.entries if e.run])
    if not panels:
        return None
    rows = (len(panels) + 1) // 2
    legend_rows = (len(arms) + 3) // 4
    with rc_context(RC):
        figure, axes = new_figure(12.0 if len(panels) > 1 else 7.5,
                                  3.6 * rows + 0.3 * legend_rows + 0.6,
                                  nrows=rows, ncols=min(2, len(panels)))
        for ax, (title, unit) in zip(axes, panels, strict=False):
            for index, arm in enumerate(arms):
                for entry in arm.entries:
                    if entry.run:
                        _draw(ax, _series(entry.run, title), index, title, len(arm.entries))
            _finish(ax, title, unit)
        for ax in axes[len(panels):]:
            ax.set_axis_off()
        handles = [Line2D([], [], color=colour_of(i), linestyle=dash_of(i), linewidth=2.5)
                   for i in range(len(arms))]
        names = [arm.label if len(arm.entries) == 1 else f'{arm.label} ({len(arm.entries)} seeds)'
                 for arm in arms]
        figure.suptitle(f'Training, validated on {data}', x=0.01, ha='left', color=INK,
                        fontsize=13)
        figure.legend(handles, names, loc='outside lower left', ncols=min(4, len(arms)))
    return figure


VALIDATION, LOSS = 'validation mIoU', 'training loss'


def _panels(runs: Sequence[Run]) -> List[Tuple[str, str]]:
    """Return (title, y label) of what the runs have, terms in the order of their names."""
    terms = sorted({name for run in runs for name in run.log.terms})
    panels = [(LOSS, 'loss')] if any(run.log.loss for run in runs) else []
    panels += [(VALIDATION, 'mIoU')] if any(run.log.validation_miou for run in runs) else []
    return panels + [(f'term: {name}', 'loss term') for name in terms]


def _series(run: Run, title: str) -> Series:
    if title == VALIDATION:
        return run.log.validation_miou
    return run.log.loss if title == LOSS else run.log.terms.get(title.partition(': ')[2], {})


def _draw(ax: Axes, series: Series, index: int, title: str, seeds: int) -> None:
    if not series:
        return
    steps, values = list(series), list(series.values())
    colour, dash, width = colour_of(index), dash_of(index), 2.0 if seeds == 1 else 1.3
    if title == VALIDATION:
        ax.plot(steps, values, color=colour, linestyle=dash, linewidth=width, marker='o',
                markersize=4)
        return
    ax.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    ax.plot(steps, smooth(values), color=colour, linestyle=dash, linewidth=width)


def _finish(ax: Axes, title: str, unit: str) -> None:
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.lines])
    if title == VALIDATION:
        ax.set_ylim(0.0, min(1.0, max(0.1, 1.1 * values.max())))
    elif values.min() > 0 and values.max() / values.min() > LOG_RATIO:
        ax.set_yscale('log')
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    else:
        ax.set_ylim(bottom=min(0.0, values.min()))
    ax.set_title(title, color=INK)
    ax.set_xlabel('optimiser step')
    ax.set_ylabel(unit)
    ax.set_xlim(left=0)
