# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The track of the flight and the places of its alerts as SVG, north up, in metres."""
from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

from evit_seg.replay.page.figures import GREY, in_style, INK, new_figure, PAGE, to_svg
from evit_seg.replay.page.source import parts, Source
from matplotlib.axes import Axes
from matplotlib.patches import Circle

WIDTH_PX, SHORTEST_PX, LONGEST_PX = 640, 280, 640
LABELS_AT_MOST = 12
"""More names than this hide one another; the table has them all."""
LABEL_SHIFTS_PX = (4, -13, 16)
"""Upwards: alerts that are raised together often lie together."""


@in_style
def draw_map(source: Source, places: Mapping[str, Any], name: str) -> str:
    """Return the plot: equal scales, track from its start (ring) to its end (square)."""
    track = [(point['east_m'], point['north_m']) for point in parts(places, 'track')]
    found = [(alert, region) for alert in parts(places, 'alerts')
             for region in parts(alert, 'regions') if region.get('east_m') is not None]
    west, east, south, north = _bounds(track, found)
    figure, (axes,) = new_figure(WIDTH_PX, WIDTH_PX * (north - south) / (east - west))
    axes.set_aspect('equal')
    axes.set_xlim(west, east)
    axes.set_ylim(south, north)
    axes.tick_params(length=0, labelbottom=False, labelleft=False)
    for spine in axes.spines.values():
        spine.set_visible(True)
    if track:
        easts, norths = zip(*track)
        axes.plot(easts, norths, color=GREY, linewidth=1.5, zorder=2)
        axes.plot(easts[0], norths[0], marker='o', color=GREY, markerfacecolor=PAGE,
                  markersize=7, zorder=3)
        axes.plot(easts[-1], norths[-1], marker='s', color=GREY, markersize=6, zorder=3)
    _places(axes, source, found)
    _scale(axes, west, south, east - west)
    axes.annotate('N', xy=(0.965, 0.97), xytext=(0.965, 0.86), xycoords='axes fraction',
                  ha='center', va='center', color=INK,
                  arrowprops={'arrowstyle': '-|>', 'color': INK, 'linewidth': 1.4})
    return to_svg(figure, name, 'Track of the flight and places of its alerts, north up')


def _bounds(track: list[tuple[float, float]],
            found: list[tuple[Mapping[str, Any], Mapping[str, Any]]]
            ) -> tuple[float, float, float, float]:
    """
    Return west, east, south and north with a margin, of a shape that a page has room for.

    A drone that hovers still gets 20 m.
    """
    easts = [east for east, _ in track] or [0.0]
    norths = [north for _, north in track] or [0.0]
    for _, region in found:
        reach = region.get('radius_m') or 0.0
        easts += [region['east_m'] - reach, region['east_m'] + reach]
        norths += [region['north_m'] - reach, region['north_m'] + reach]
    margin = max(5.0, 0.06 * (max(easts) - min(easts)), 0.06 * (max(norths) - min(norths)))
    centre_e, centre_n = (max(easts) + min(easts)) / 2, (max(norths) + min(norths)) / 2
    half_e = max(10.0, (max(easts) - min(easts)) / 2 + margin)
    half_n = max(10.0, (max(norths) - min(norths)) / 2 + margin)
    half_n = max(half_n, half_e * SHORTEST_PX / WIDTH_PX)
    half_e = max(half_e, half_n * WIDTH_PX / LONGEST_PX)
    return centre_e - half_e, centre_e + half_e, centre_n - half_n, centre_n + half_n


def _places(axes: Axes, source: Source,
            found: list[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
    raised = [alert['alert_id'] for alert, _ in found if alert.get('kind') == 'raised']
    crowd = min(0.15, 2 / max(1, len(raised)))  # the more circles, the paler each
    seen: set[str] = set()
    for alert, region in found:
        colour = source.colour(str(alert['class']))
        at = region['east_m'], region['north_m']
        news = alert.get('kind') != 'raised'
        if region.get('radius_m') and not news:
            axes.add_patch(Circle(at, region['radius_m'], facecolor=colour, alpha=crowd,
                                  edgecolor='none', zorder=1))
            axes.add_patch(Circle(at, region['radius_m'], facecolor='none', edgecolor=colour,
                                  linewidth=1.0, alpha=min(1.0, 6 * crowd), zorder=4))
        axes.plot(*at, marker='o', color=colour, markersize=3.5 if news else 6.5, zorder=5,
                  markeredgecolor=INK, markeredgewidth=0.6)
        if not news and alert['alert_id'] not in seen and len(set(raised)) <= LABELS_AT_MOST:
            axes.annotate(str(alert['alert_id']), at, zorder=6, textcoords='offset points',
                          xytext=(7, LABEL_SHIFTS_PX[len(seen) % 3]), fontsize=10, color=INK)
            seen.add(alert['alert_id'])
    for slug in dict.fromkeys(str(alert['class']) for alert, _ in found):
        axes.plot([], [], marker='o', linestyle='', color=source.colour(slug), markersize=6.5,
                  markeredgecolor=INK, markeredgewidth=0.6, label=source.name(slug))
    if found:
        axes.legend(loc='upper left', frameon=True, facecolor=PAGE, edgecolor='none')


def _scale(axes: Axes, west: float, south: float, width_m: float) -> None:
    """Draw a bar of a round length, a fifth to a half of the width."""
    decade = 10.0 ** math.floor(math.log10(width_m / 5))
    length_m = max(factor * decade for factor in (1, 2, 5) if factor * decade <= width_m / 3)
    left, bottom = west + 0.03 * width_m, south + 0.03 * width_m
    axes.plot([left, left + length_m], [bottom, bottom], color=INK, linewidth=3, zorder=6,
              solid_capstyle='butt')
    text = f'{length_m / 1000:g} km' if length_m >= 1000 else f'{length_m:g} m'
    axes.text(left + length_m / 2, bottom + 0.01 * width_m, text, ha='center',
              va='bottom', zorder=6)
