# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy against latency of all models measured on one data set and one machine."""
from __future__ import annotations

from dataclasses import dataclass
import math
from statistics import mean
from typing import Any, List, Sequence, Tuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox
import numpy as np
from offline_train.reporting.join import arms, data_keys, Entry
from offline_train.reporting.records import DataKey, size_text
from offline_train.reporting.style import COLOURS, GREY, INK, new_figure, RC

MARKERS = {'fp32': 'o', 'fp16': 's', 'int8': '^'}
OTHER_MARKER = 'D'
FRONT, BEHIND = COLOURS[0], GREY
_MARKER_PX = 14.0
_ANGLES_DEG = (0, 45, 90, -45, 135, 180, -90, -135, 20, -20, 160, -160)
_RING_PX, _RINGS, _PLAIN_RINGS = 9.0, 24, 2
"""Labels are tried at so many distances; on the first two they need no line."""


@dataclass(frozen=True)
class Point:
    """One model: median latency, mIoU, and the lowest and highest mIoU of its seeds."""

    label: str
    precision: str
    latency_ms: float
    miou: float
    low: float
    high: float


def points_of(entries: Sequence[Entry], data: DataKey, setup: str) -> List[Point]:
    """
    Return the models measured on both; seeds are one point, at their mean.

    Where frames of several sizes were timed the labels say which.
    """
    columns = arms([e for e in entries if e.on(data)])
    frames = {arm.label: {size_text(b.frame_hw) for e in arm.entries for b in e.benches
                          if b.setup == setup and b.p50_ms is not None} for arm in columns}
    sizes = {label: ', '.join(sorted(found)) for label, found in frames.items() if found}
    points = []
    for arm in columns:
        mious = [s.miou for s in (e.on(data) for e in arm.entries) if s and s.miou is not None]
        times = [b.p50_ms for e in arm.entries for b in e.benches
                 if b.setup == setup and b.p50_ms is not None]
        if mious and times:
            seeds = f' ({len(mious)} seeds)' if len(mious) > 1 else ''
            size = f' {sizes[arm.label]}' if len(set(sizes.values())) > 1 else ''
            points.append(Point(f'{arm.label}{seeds}{size}', arm.entries[0].precision, mean(times),
                                mean(mious), min(mious), max(mious)))
    return points


def measured_pairs(entries: Sequence[Entry]) -> List[Tuple[DataKey, str]]:
    """Return the (data, machine) pairs that at least two models were measured on."""
    setups = dict.fromkeys(b.setup for e in entries for b in e.benches)
    return [(data, setup) for data in data_keys(entries) for setup in setups
            if len(points_of(entries, data, setup)) > 1]


def pareto(points: Sequence[Point]) -> List[Point]:
    """Return the points that none beats in both, from the fastest on."""
    front: List[Point] = []
    for point in sorted(points, key=lambda p: (p.latency_ms, -p.miou)):
        if not front or point.miou > front[-1].miou:
            front.append(point)
    return front


def draw_frontier(points: Sequence[Point], data: str, setup: str) -> Figure:
    """Return mIoU over median latency: the Pareto line, a marker per precision, labels."""
    front = pareto(points)
    with rc_context(RC):
        figure, (ax,) = new_figure(10.0, 6.6)
        ax.set_xscale('log')
        if len(front) > 1:
            ax.step([p.latency_ms for p in front], [p.miou for p in front], where='post',
                    color=FRONT, linewidth=1.8, zorder=2, label='Pareto front')
        for point in points:
            colour = FRONT if point in front else BEHIND
            if point.high > point.low:
                ax.vlines(point.latency_ms, point.low, point.high, color=colour, zorder=2)
            ax.scatter(point.latency_ms, point.miou, s=90, zorder=3,
                       marker=MARKERS.get(point.precision, OTHER_MARKER), color=colour,
                       edgecolor='white', linewidth=1.0)
        _scale(ax, points)
        ax.set_title(f'mIoU against latency\n{data}', color=INK)
        ax.set_xlabel(f'median latency, ms per frame (log scale)\n{setup}')
        ax.set_ylabel('dataset mIoU')
        _legend(ax, points)
        place_labels(figure, ax, points, front)
    return figure


def _scale(ax: Axes, points: Sequence[Point]) -> None:
    """Leave room for labels and mark 1, 2, 5 of each decade in plain numbers."""
    low = min(p.latency_ms for p in points)
    high = max(p.latency_ms for p in points)
    ax.set_xlim(low / 1.5, high * 2.0)
    bottom, top = min(p.low for p in points), max(p.high for p in points)
    room = max(0.02, 0.16 * (top - bottom))
    ax.set_ylim(max(0.0, bottom - room), min(1.0, top + room))
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _legend(ax: Axes, points: Sequence[Point]) -> None:
    shown = dict.fromkeys(p.precision for p in points)
    handles: List[Any] = [
        Line2D([], [], linestyle='none', marker=MARKERS.get(name, OTHER_MARKER), color=INK,
               markersize=9, label=name) for name in shown]
    ax.legend(handles=[*handles, *ax.get_legend_handles_labels()[0]], loc='lower right')


def place_labels(figure: Figure, ax: Axes, points: Sequence[Point],
                 front: Sequence[Point]) -> None:
    """
    Write each point's label beside it, where it covers no marker, no other label, no edge.

    Directions are tried in turn at growing distance; a label that had to go far gets a line.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine('none')
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # Agg's
    scale = figure.dpi / 72.0
    markers = [ax.transData.transform((p.latency_ms, p.miou)) for p in points]
    taken = [Bbox.from_extents(x - _MARKER_PX * scale / 2, y - _MARKER_PX * scale / 2,
                               x + _MARKER_PX * scale / 2, y + _MARKER_PX * scale / 2)
             for x, y in markers]
    taken += _line_boxes(ax, front, scale)
    legend = ax.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent(renderer))
    frame = ax.get_window_extent(renderer)
    for index in sorted(range(len(points)), key=lambda i: float(markers[i][1])):
        point = points[index]
        colour = FRONT if point in front else INK
        text = ax.text(0, 0, point.label, transform=None, fontsize=11)
        box = text.get_window_extent(renderer)
        text.remove()
        place, plain = _free_place(index, markers, (box.width, box.height), taken, frame, scale)
        taken.append(place)
        middle = ((place.x0 + place.x1) / 2, (place.y0 + place.y1) / 2)
        x, y = ax.transData.inverted().transform(middle)
        if not plain:
            ax.plot([point.latency_ms, x], [point.miou, y], color=GREY, linewidth=0.8, zorder=1.5)
        ax.text(x, y, point.label, ha='center', va='center', fontsize=11, zorder=5, color=colour,
                bbox={'facecolor': 'white', 'edgecolor': 'none', 'pad': 0.5, 'alpha': 0.85})


def _line_boxes(ax: Axes, front: Sequence[Point], scale: float) -> List[Bbox]:
    """Return thin boxes around the horizontal and vertical parts of the Pareto line."""
    boxes = []
    at = [ax.transData.transform((p.latency_ms, p.miou)) for p in front]
    for (x0, y0), (x1, y1) in zip(at, at[1:], strict=False):
        boxes.append(Bbox.from_extents(x0, y0 - scale, x1, y0 + scale))
        boxes.append(Bbox.from_extents(x1 - scale, y0, x1 + scale, y1))
    return boxes


def _free_place(index: int, markers: Sequence[np.ndarray], size: Tuple[float, float],
                taken: Sequence[Bbox], frame: Bbox, scale: float) -> Tuple[Bbox, bool]:
    """
    Return the nearest free place for a label, pixels, and whether it needs no line to its marker.

    It needs one where it is far, or nearer to the marker of another. Where nothing is free it
    is the place that hides least.
    """
    least: Tuple[float, Bbox] = (math.inf, frame)
    free: List[Bbox] = []
    for ring in range(1, _RINGS + 1):
        for angle in _ANGLES_DEG:
            box = _beside(markers[index], size, angle, ring * _RING_PX * scale)
            wide = Bbox.from_extents(box.x0 - 2, box.y0 - 2, box.x1 + 2, box.y1 + 2)
            hidden = sum(_overlap(wide, other) for other in taken)
            hidden += max(0.0, wide.width * wide.height - _overlap(wide, frame))
            least = min(least, (hidden, box), key=lambda item: item[0])
            if hidden < 1.0:
                near = [_distance(box, marker) for marker in markers]
                if ring <= _PLAIN_RINGS and near[index] <= min(near):
                    return box, True
                free.append(box)
        if free and ring >= _PLAIN_RINGS:
            return free[0], False
    return least[1], False


def _beside(at: np.ndarray, size: Tuple[float, float], angle_deg: float, gap: float) -> Bbox:
    """Return the box of a text whose nearest edge or corner is `gap` away in that direction."""
    dx, dy = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    left = at[0] + dx * gap - size[0] * (0.0 if dx > 0.3 else 1.0 if dx < -0.3 else 0.5)
    bottom = at[1] + dy * gap - size[1] * (0.0 if dy > 0.3 else 1.0 if dy < -0.3 else 0.5)
    return Bbox.from_bounds(float(left), float(bottom), *size)


def _distance(box: Bbox, at: np.ndarray) -> float:
    return math.hypot(max(box.x0 - at[0], 0.0, at[0] - box.x1),
                      max(box.y0 - at[1], 0.0, at[1] - box.y1))


def _overlap(one: Bbox, other: Bbox) -> float:
    common = Bbox.intersection(one, other)
    return 0.0 if common is None else float(common.width * common.height)
