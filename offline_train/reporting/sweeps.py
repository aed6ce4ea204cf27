# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The joined results of a sweep as a table and as curves: a key over an axis, a line per value."""
from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from evit_seg.core.errors import ConfigError, InputError
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from offline_train.reporting.page import Row
from offline_train.reporting.style import colour_of, dash_of, INK, new_figure, RC, save

ROLES = ('x', 'y', 'line', 'panel')
SEED = 'seed'
"""The axis whose values are repetitions: a marker each, the line through their mean."""
LABELS = {'miou': 'dataset mIoU', 'latency_ms': 'median latency, ms',
          'ratio': 'part cut or zeroed', 'heads': 'heads per attention block',
          'parameters': 'parameters', 'person_recall': 'recall of Person',
          'vehicle_recall': 'recall of Vehicle'}


def plot(out: Path, words: Sequence[str]) -> Path:
    """Draw what `x=AXIS y=KEY ...` says of a sweep's folder; return the path without suffix."""
    results = read_results(out)
    roles, fixed = parse_words(words, results)
    stem = out / 'figures' / '_'.join(
        [roles['y'], 'over', roles['x'], *(roles[r] for r in ('line', 'panel') if r in roles),
         *(f'{axis}-{value}' for axis, value in fixed.items())])
    save(draw_sweep(results, roles, fixed), stem)
    return stem


def read_results(out: Path) -> Dict[str, Any]:
    """Return what a sweep joined; InputError where there is nothing."""
    path = out / 'results.json'
    try:
        results: Dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise InputError(f'{path}: expected the results of a sweep, which `offline_train sweep '
                         f'--grid ... --out {out} --jobs 0` joins: {error}') from error
    if not isinstance(results, dict) or not {'title', 'axes', 'keys', 'rows'} <= set(results):
        raise InputError(f'{path}: expected title, axes, keys and rows of a sweep')
    return results


def parse_words(words: Sequence[str], results: Mapping[str, Any]
                ) -> Tuple[Dict[str, str], Dict[str, str]]:
    """Return what plays which role, and the values that other axes are held at."""
    axes, keys = results['axes'], results['keys']
    roles: Dict[str, str] = {}
    fixed: Dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition('=')
        allowed = keys if name == 'y' else axes if name in ROLES else \
            [str(v) for v in axes.get(name, ())]
        if not equals or value not in allowed:
            raise ConfigError(f'expected x=, line=, panel= with one of {", ".join(axes)}, y= with '
                              f'one of {", ".join(keys)}, or AXIS=VALUE, got {word!r}')
        (roles if name in ROLES else fixed)[name] = value
    if not {'x', 'y'} <= set(roles):
        raise ConfigError(f'--plot: expected x=AXIS y=KEY, got {list(words)}')
    for axis, values in axes.items():
        if axis not in (*roles.values(), *fixed, SEED) and len(values) > 1:
            raise ConfigError(f'--plot: axis {axis!r} has several values, which one curve would '
                              f'mix: add line={axis}, panel={axis} or {axis}={values[0]}')
    return roles, fixed


def draw_sweep(results: Mapping[str, Any], roles: Mapping[str, str],
               fixed: Mapping[str, str]) -> Figure:
    """Return the figure; InputError where no row has a number for it."""
    x, y = roles['x'], roles['y']
    rows = [row for row in results['rows'] if row.get(y) is not None
            and all(str(row[axis]) == value for axis, value in fixed.items())]
    if not rows or any(isinstance(row[y], (str, bool)) for row in rows):
        raise InputError(f'--plot: expected numbers of {y!r} to draw, found '
                         f'{"text" if rows else "none"}')
    panels = _shown(results, rows, roles.get('panel'))
    lines = _shown(results, rows, roles.get('line'))
    places = _places(_shown(results, rows, x))
    with rc_context(RC):
        figure, axes = new_figure(max(7.0, 5.6 * len(panels)), 4.9, ncols=len(panels),
                                  sharey=True)
        for ax, panel in zip(axes, panels, strict=True):
            for index, line in enumerate(lines):
                mine = [row for row in rows if _is(row, roles.get('panel'), panel)
                        and _is(row, roles.get('line'), line)]
                _draw(ax, [(places[row[x]], float(row[y])) for row in mine], index,
                      '' if line is None else str(line))
            _finish(ax, places, x, '' if panel is None else f'{roles["panel"]}: {panel}')
        axes[0].set_ylabel(LABELS.get(y, y))
        if min(float(row[y]) for row in rows) >= 0:
            axes[0].set_ylim(bottom=0)
        held = ''.join(f', {axis} {value}' for axis, value in fixed.items())
        figure.suptitle(f'{results["title"]}{held}', x=0.01, ha='left', color=INK, fontsize=13)
        if 'line' in roles:
            handles, names = axes[0].get_legend_handles_labels()
            figure.legend(handles, names, loc='outside lower left', ncols=min(4, len(lines)),
                          title=LABELS.get(roles['line'], roles['line']), alignment='left')
    return figure


def _shown(results: Mapping[str, Any], rows: Sequence[Row], axis: Optional[str]) -> List[Any]:
    """Return the values of an axis that rows have, in the grid's order; [None] without one."""
    if axis is None:
        return [None]
    present = [row[axis] for row in rows]
    return [value for value in results['axes'][axis] if value in present]


def _places(values: Sequence[Any]) -> Dict[Any, float]:
    """Return where values of x are: numbers at themselves, texts one beside the other."""
    if any(isinstance(value, str) for value in values):
        return {value: float(index) for index, value in enumerate(values)}
    return {value: float(value) for value in values}


def _is(row: Row, axis: Optional[str], value: Any) -> bool:
    return axis is None or row[axis] == value


def _draw(ax: Axes, points: Sequence[Tuple[float, float]], index: int, label: str) -> None:
    by_x: Dict[float, List[float]] = {}
    for x, y in sorted(points):
        by_x.setdefault(x, []).append(y)
    ax.plot(list(by_x), [mean(ys) for ys in by_x.values()], color=colour_of(index),
            linestyle=dash_of(index), linewidth=2.0, label=label)
    ax.plot([x for x, _ in points], [y for _, y in points], color=colour_of(index),
            linestyle='none', marker='o', markersize=5, markeredgecolor='white')


def _finish(ax: Axes, places: Mapping[Any, float], x: str, title: str) -> None:
    ax.set_xlabel(LABELS.get(x, x))
    ax.set_title(title, color=INK)
    if any(isinstance(value, str) for value in places) or len(places) <= 6:
        ax.set_xticks(list(places.values()), [str(value) for value in places])
