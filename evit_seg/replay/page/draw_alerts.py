# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The alert time line and the threshold curves as SVG."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evit_seg.replay.page.blocks import clock, clock_tick, short
from evit_seg.replay.page.figures import (
    AMBER,
    BLUE,
    colour_of,
    dash_of,
    GREEN,
    GREY,
    in_style,
    INK,
    new_figure,
    PAGE,
    RED,
    to_svg,
)
from evit_seg.replay.page.source import (
    alert_classes,
    event_rows,
    in_view,
    part,
    parts,
    row_of,
    Run,
    Source,
)
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

WIDTH_PX, LANE_PX = 860, 26
MODE_COLOURS = {'nominal': GREEN, 'degraded': AMBER}


@in_style
def draw_time_line(source: Source, runs: Sequence[Run], name: str) -> str:
    """Return one lane per class and bundle, the node's mode, and how sure the network was."""
    slugs = alert_classes(source)
    length_s = max((run.length_s for run in runs), default=0.0) or 1.0
    lanes = [(slug, run) for slug in slugs for run in runs]
    modes = [run for run in runs if parts(run.report, 'mode_timeline')]
    sure = [run for run in runs if parts(run.report, 'frames', 'confidence')]
    rows = len(lanes) + len(modes)
    figure, axes = new_figure(
        WIDTH_PX, 45 + LANE_PX * rows + (85 if sure else 0), nrows=2 if sure else 1, sharex=True,
        height_ratios=[LANE_PX * rows, 70] if sure else [1])
    top = axes[0]
    for at, (slug, run) in enumerate(lanes):
        _lane(top, at, run, slug, length_s)
    for at, run in enumerate(modes, start=len(lanes)):
        _modes(top, at, run, length_s)
    several = len(runs) > 1
    labels = [f'{source.name(slug)} · {run.bundle}' if several else source.name(slug)
              for slug, run in lanes] + ["the node's mode"] * len(modes)
    top.set_yticks(range(rows), labels=[short(label) for label in labels])
    top.set_ylim(rows - 0.5, -0.5)
    top.set_xlim(0, length_s)
    top.grid(visible=False, axis='y')
    top.tick_params(axis='y', length=0)
    top.spines['left'].set_visible(False)
    for index, run in enumerate(sure):
        frames = run.report['frames']
        axes[1].plot(frames['t_s'], frames['confidence'], color=colour_of(index),
                     linestyle=dash_of(index), linewidth=1.3)
    if sure:
        axes[1].set_ylabel('confidence')
        axes[1].yaxis.set_major_locator(MaxNLocator(3))
        if several:
            axes[1].legend(axes[1].get_lines(), [short(run.bundle) for run in sure],
                           loc='lower left', ncols=4, fontsize=9)
    bottom = axes[-1]
    bottom.xaxis.set_major_formatter(FuncFormatter(lambda x, _: clock_tick(x, length_s)))
    bottom.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 3, 5, 6, 10]))
    return to_svg(figure, name, f'Alerts over {clock(length_s)} of flight, a lane per class')


def _lane(axes: Axes, at: int, run: Run, slug: str, length_s: float) -> None:
    views = in_view(run, slug)
    for begin, end in views or ():
        axes.barh(at + 0.27, max(end - begin, length_s / 400), left=begin, height=0.16,
                  color=GREY, alpha=0.75, linewidth=0)
    for begin, end in alert_spans(run, slug):
        seen = [view for view in views or () if begin <= view[1] and view[0] <= end]
        lonely = views is not None and not seen
        # Pale where the alert outlasts what raised it.
        axes.barh(at - 0.1, max(end - begin, length_s / 400), left=begin, height=0.46,
                  color=RED if lonely else BLUE, alpha=0.4 if seen else 1.0, linewidth=0,
                  hatch='///' if lonely else None, edgecolor=PAGE)
        for first, last in seen:
            since, until = max(begin, first), min(end, last)
            axes.barh(at - 0.1, max(until - since, length_s / 400), left=since, height=0.46,
                      color=BLUE, linewidth=0)
    for begin, end in missed_views(run, slug):
        axes.barh(at - 0.1, max(end - begin, length_s / 400), left=begin, height=0.46,
                  color='none', edgecolor=RED, linewidth=1.4)


def missed_views(run: Run, slug: str) -> list[tuple[float, float]]:
    """Return the appearances of a class that raised no alert."""
    row = row_of(list(event_rows(run.report)), slug)
    return [(float(span['from_s']), float(span['to_s'])) for span in parts(row, 'spans')
            if not span.get('hit')]


def alert_spans(run: Run, slug: str) -> list[tuple[float, float]]:
    """Return when an alert of the class was on, from the time line or from the events."""
    spans = part(run.report, 'frames', 'classes', slug, 'on')
    if spans is not None:
        return [(float(span['from_s']), float(span['to_s'])) for span in spans]
    since: dict[str, float] = {}
    found = []
    for event in parts(run.report, 'alerts'):
        if event['class'] != slug:
            continue
        if event['kind'] == 'raised':
            since[event['alert_id']] = event['t_s']
        elif event['kind'] in ('cleared', 'reset') and event['alert_id'] in since:
            found.append((since.pop(event['alert_id']), float(event['t_s'])))
    return found + [(begin, max(run.length_s, begin)) for begin in since.values()]


def _modes(axes: Axes, at: int, run: Run, length_s: float) -> None:
    rows = [row for row in parts(run.report, 'mode_timeline') if row.get('source') == 'mode'] \
        or parts(run.report, 'mode_timeline')
    ends = [row['t_s'] for row in rows[1:]] + [max(length_s, rows[-1]['t_s'])]
    for row, end in zip(rows, ends):
        colour = MODE_COLOURS.get(row['mode'], RED)
        axes.barh(at, max(end - row['t_s'], length_s / 400), left=row['t_s'], height=0.5,
                  color=colour, linewidth=0)
        if end - row['t_s'] > length_s / 10:
            axes.text(row['t_s'] + length_s / 200, at, row['mode'], color=INK, va='center',
                      fontsize=9)


@in_style
def draw_curves(row: Mapping[str, Any], name: str) -> str:
    """Return recall, false alerts and idle time over min_confidence, a line per min_pixels."""
    points = parts(row, 'points')
    known = any(point.get('recall') is not None for point in points)
    panels = (('recall', 'recall'), ('false_alerts_per_min', 'false alerts\nper minute'),
              ('idle_share', 'on, with none\nin view')) if known \
        else (('alerts_per_min', 'alerts\nper minute'), ('on_share', 'share of\ntime on'))
    figure, axes = new_figure(390, 60 + 88 * len(panels), nrows=len(panels), sharex=True)
    sizes = sorted({point['min_pixels'] for point in points})
    for panel, (key, label) in zip(axes, panels):
        for order, size in enumerate(sizes):
            line = [point for point in points if point['min_pixels'] == size]
            panel.plot([point['min_confidence'] for point in line],
                       [float('nan') if point.get(key) is None else point[key]
                        for point in line],
                       color=BLUE, alpha=0.3 + 0.7 * (order + 1) / len(sizes),
                       linewidth=1.1 + order * 0.4, label=f'{size:g} px')
        for setting, marker, colour in (('shipped', 's', INK), ('recommended', '*', RED)):
            _mark(panel, points, row.get(setting), key, marker, colour)
        panel.set_ylabel(label, fontsize=9.5)
        if key in ('recall', 'idle_share', 'on_share'):
            panel.set_ylim(-0.06, 1.1)
            panel.set_yticks([0, 0.5, 1], labels=['0', '50 %', '100 %'])
        else:
            top = max(1.0, 1.1 * panel.get_ylim()[1])
            panel.set_ylim(-0.06 * top, top)
            panel.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes[-1].set_xlabel('smallest confidence of a region (min_confidence)')
    axes[0].legend(loc='lower left', ncols=2, fontsize=8.5, handlelength=1.2, borderaxespad=0.1)
    figure.align_ylabels()
    return to_svg(figure, name, 'What the alerts are worth over their thresholds')


def _mark(axes: Axes, points: Sequence[Mapping[str, Any]], setting: Mapping[str, Any] | None,
          key: str, marker: str, colour: str) -> None:
    if not setting:
        return
    for point in points:
        if all(point[name] == setting[name] for name in ('min_confidence', 'min_pixels')) \
                and point.get(key) is not None:
            axes.plot([point['min_confidence']], [point[key]], marker=marker, color=colour,
                      markersize=9, linestyle='', clip_on=False,
                      markerfacecolor=colour if marker == '*' else 'none', zorder=5,
                      markeredgewidth=0 if marker == '*' else 1.5)
