# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Budgets of a recipe: latency, memory, size, and the least mIoU, on this machine or on a board.

What this machine measured passes or fails. Of a board there is only a model (the roofline with its
assumptions, the memory taken here), and such a budget is not measured, whatever the model says.
"""
from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Dict, List, Mapping, Optional, Tuple

from evit_seg.core.boards import Board, find_board, roofline
from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import nearest
from evit_seg.core.onnx_graph import Graph
from offline_train.compression.guards import FAILED, GuardResult, NOT_MEASURED, number, PASSED

HERE = 'here'
"""The place of a budget that is measured: the machine that runs the recipe."""


@dataclass(frozen=True)
class Budgets:
    """Limits on the last step of a recipe; places are `here` or names of boards."""

    latency_ms: Tuple[Tuple[str, float], ...] = ()
    """Median of the whole call, frame in and mask out, by place."""
    memory_mb: Tuple[Tuple[str, float], ...] = ()
    """Peak resident memory of a process that runs the bundle, by place."""
    latency_ratio: Optional[float] = None
    """Median latency over the first network's, in turns on this machine."""
    eager_ratio: Optional[float] = None
    """Median of the whole call over that of the first network in eager PyTorch, in turns here."""
    size_mb: Optional[float] = None
    """Size of the model's file."""
    miou: Optional[float] = None
    """Least mIoU on the recipe's data."""


def parse_budgets(content: Mapping[str, Any]) -> Budgets:
    """Return the budgets of a recipe; a plain number for a place means `here`."""
    known = [f.name for f in fields(Budgets)]
    values: Dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            guess = nearest(str(key), known)
            hint = f'did you mean {guess!r}?' if guess else f'there are {", ".join(known)}'
            raise ConfigError(f"unknown key 'budgets.{key}'; {hint}")
        if key in ('latency_ms', 'memory_mb'):
            values[key] = _by_place(value, f'budgets.{key}')
        else:
            values[key] = number(value, f'budgets.{key}', 1 if key == 'miou' else float('inf'))
    return Budgets(**values)


def _by_place(value: Any, name: str) -> Tuple[Tuple[str, float], ...]:
    places = value if isinstance(value, dict) else {HERE: value}
    for place in places:
        if place != HERE:
            find_board(str(place))  # ConfigError for an unknown one
    return tuple((str(place), number(limit, f'{name}.{place}')) for place, limit in places.items())


def on_board(budgets: Budgets) -> bool:
    """Return whether the latency on a board is asked for, which is modelled from the graph."""
    return any(place != HERE for place, _ in budgets.latency_ms)


def check_budgets(budgets: Budgets, record: Mapping[str, Any], graph: Optional[Graph] = None,
                  eager_ratio: Optional[float] = None) -> List[GuardResult]:
    """
    Return what became of each budget on a step's record.

    Record: `latency_ms` {p50}, `latency_ratio` {p50}, `peak_rss_mb`, `file_mb`, `miou`,
    `precision`; what is None was not measured. graph: for the roofline of a board.
    """
    results = []
    for place, limit in budgets.latency_ms:
        results.append(_at_most('latency here', _median(record['latency_ms']), limit, 'ms')
                       if place == HERE else
                       _board_latency(find_board(place), limit, record['precision'], graph))
    for place, limit in budgets.memory_mb:
        results.append(_at_most('memory here', record['peak_rss_mb'], limit, 'MB')
                       if place == HERE else _board_memory(find_board(place), limit, record))
    if budgets.latency_ratio is not None:
        results.append(_at_most('latency ratio to the first network',
                                _median(record['latency_ratio']), budgets.latency_ratio, ''))
    if budgets.eager_ratio is not None:
        results.append(_at_most('latency ratio to eager PyTorch', eager_ratio,
                                budgets.eager_ratio, ''))
    if budgets.size_mb is not None:
        results.append(_at_most('size', record['file_mb'], budgets.size_mb, 'MB'))
    if budgets.miou is not None:
        results.append(_at_least('mIoU', record['miou'], budgets.miou))
    return results


def _median(value: Optional[Mapping[str, float]]) -> Optional[float]:
    return None if value is None else value['p50']


def _at_most(name: str, value: Optional[float], limit: float, unit: str) -> GuardResult:
    unit = f' {unit}' if unit else ''
    if value is None:
        return GuardResult(name, NOT_MEASURED, f'at most {limit:g}{unit} wanted')
    return GuardResult(name, PASSED if value <= limit else FAILED,
                       f'{value:.4g}{unit}, at most {limit:g}{unit} wanted')


def _at_least(name: str, value: Optional[float], limit: float) -> GuardResult:
    if value is None:
        return GuardResult(name, NOT_MEASURED, f'at least {limit:g} wanted')
    return GuardResult(name, PASSED if value >= limit else FAILED,
                       f'{value:.4f}, at least {limit:g} wanted')


def _board_latency(board: Board, limit: float, precision: Optional[str],
                   graph: Optional[Graph]) -> GuardResult:
    """Return the roofline as text; the board has to measure itself."""
    name, wanted = f'latency on {board.name}', f'at most {limit:g} ms wanted'
    if precision not in board.peak_ops_per_s:
        return GuardResult(name, NOT_MEASURED, f'{wanted}; the board has no {precision} '
                           f'arithmetic (it has {", ".join(board.peak_ops_per_s)})')
    if graph is None:
        return GuardResult(name, NOT_MEASURED, f'{wanted}; there is no ONNX graph to model')
    model = roofline(board, [node.flops for node in graph.nodes],
                     [node.fused_bytes for node in graph.nodes], str(precision))
    beaten = '; not even the roofline is within it' if model.seconds * 1e3 > limit else ''
    return GuardResult(name, NOT_MEASURED, f'{wanted}{beaten}; {model}',
                       (f'of {graph.flops / 1e9:.3g} GFLOP; element-wise work is joined to its '
                        'neighbours', *model.assumptions))


def _board_memory(board: Board, limit: float, record: Mapping[str, Any]) -> GuardResult:
    name = f'memory on {board.name}'
    here = record['peak_rss_mb']
    taken = 'nothing was measured here' if here is None else \
        f'a process here took {here:.0f} MB at its peak with another engine'
    beyond = '; that is beyond it' if here is not None and here > limit else ''
    return GuardResult(name, NOT_MEASURED,
                       f'at most {limit:g} MB wanted of {board.free_bytes / 2**20:.0f} beside the '
                       f'idle system; {taken}{beyond}')
