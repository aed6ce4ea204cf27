# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Latencies as SVG: their distribution, and how they went over the flight."""
from __future__ import annotations

from collections.abc import Sequence

from evit_seg.replay.page.blocks import clock_tick, short
from evit_seg.replay.page.figures import colour_of, dash_of, GREY, in_style, new_figure, to_svg
from evit_seg.replay.page.source import Run
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

SIZE_PX = (390, 250)
MARKED = (50, 95, 99)


@in_style
def draw_distribution(runs: Sequence[Run], name: str) -> str:
    """Return the share of frames that took up to a time (the empirical distribution)."""
    figure, (axes,) = new_figure(*SIZE_PX)
    longest_ms = 0.0
    for index, run in enumerate(runs):
        values_ms = run.report['timing']['frames']['percentiles_ms']
        axes.plot(values_ms, range(len(values_ms)), color=colour_of(index),
                  linestyle=dash_of(index), linewidth=1.8)
        longest_ms = max(longest_ms, 1.15 * values_ms[99])
        for percentile in MARKED if len(runs) == 1 else ():
            axes.plot([values_ms[percentile]] * 2, [0, percentile], color=GREY, linewidth=1,
                      linestyle='--')
            axes.annotate(f'{values_ms[percentile]:.0f}', (values_ms[percentile], percentile),
                          xytext=(5, -4), textcoords='offset points', ha='left', va='top',
                          fontsize=9.5)
    axes.set_xlim(0, longest_ms or 1.0)
    axes.set_ylim(0, 103)
    axes.set_xlabel('ms a frame')
    axes.set_ylabel('% of frames, at most')
    _legend(axes, runs)
    return to_svg(figure, name, 'Share of the frames over latency')


@in_style
def draw_over_time(runs: Sequence[Run], name: str) -> str:
    """Return the latency of each frame, or of the slowest of a few, over the flight."""
    figure, (axes,) = new_figure(*SIZE_PX)
    length_s = max(run.length_s for run in runs)
    for index, run in enumerate(runs):
        frames = run.report['timing']['frames']
        axes.plot(frames['t_s'], frames['slowest_ms'], color=colour_of(index),
                  linestyle=dash_of(index), linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, length_s or 1.0)
    axes.set_ylabel('ms a frame')
    axes.set_xlabel('time of the flight')
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: clock_tick(x, length_s)))
    _legend(axes, runs)
    return to_svg(figure, name, 'Latency over the flight')


def _legend(axes: Axes, runs: Sequence[Run]) -> None:
    if len(runs) > 1:
        # Labels given here are shown even if they begin with '_'.
        axes.legend(axes.get_lines(), [short(run.bundle) for run in runs], loc='lower right')
