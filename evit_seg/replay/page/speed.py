# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How fast it was: latencies as a distribution, over time and by stage."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evit_seg.replay.page.blocks import (
    Block,
    cells,
    Chart,
    Charts,
    Column,
    columns,
    Folded,
    number,
    Section,
    Table,
    Text,
)
from evit_seg.replay.page.source import part, parts, Run, Source

STAGES = {'decode': 'decode the message', 'pre': 'prepare the input', 'infer': 'network',
          'post': 'make the mask', 'alerts': 'regions and alerts', 'total': 'whole frame',
          'latency': 'published to mask', 'age': 'age of the newest mask',
          'alert_latency': 'published to alert'}


def speed(source: Source) -> Section:
    """Return the pictures and tables of the latencies."""
    blocks: list[Block] = []
    for number_of, bag in enumerate(source.bags):
        runs = [run for run in source.runs_of(bag) if part(run.report, 'timing', 'frames')]
        if runs:
            blocks.append(_charts(source, bag, runs, number_of))
    tables = [(run, table) for run in source.runs
              if (table := _stages(source, run, part(run.report, 'timing') or {}))]
    for index, (run, table) in enumerate(tables):
        blocks.append(Folded(run.label, (table,)) if index > 3 else table)
    blocks += _live(source)
    if not blocks:
        blocks.append(Text('This report holds no times.'))
    return Section('speed', 'Speed', tuple(blocks))


def _charts(source: Source, bag: str, runs: list[Run], number_of: int) -> Block:
    def distribution() -> str:
        from evit_seg.replay.page.draw_speed import draw_distribution
        return draw_distribution(runs, f'latency-{number_of}')

    def over_time() -> str:
        from evit_seg.replay.page.draw_speed import draw_over_time
        return draw_over_time(runs, f'latency-time-{number_of}')
    of = f': {bag}' if len(source.bags) > 1 else ''
    every = max(part(run.report, 'timing', 'frames', 'every') or 1 for run in runs)
    shared = f' Each point is the slowest of {every} frames.' if every > 1 else ''
    what = 'From publishing a frame to its mask.' if source.live \
        else 'Decoding, network, mask and alerts of a frame, without ROS.'
    return Charts((
        Chart(f'Distribution of latencies{of}',
              what + (' Dashed: the median, 95 % and 99 % of the frames.' if len(runs) == 1
                      else ''), distribution,
              'small'),
        Chart(f'Latency over the flight{of}', shared.strip(), over_time, 'small')))


def _stages(source: Source, run: Run, timing: Mapping[str, Any]) -> Table | None:
    stages = dict(part(timing, 'stages_ms') or {})
    for key in ('latency', 'age', 'alert_latency'):
        if part(timing, f'{key}_ms'):
            stages[key] = timing[f'{key}_ms']
    if not stages:
        return None
    rows = tuple(cells(STAGES.get(stage, str(stage)),
                       *(number(row.get(key), 2) for key in ('p50', 'p95', 'p99', 'mean')))
                 for stage, row in stages.items())
    title = 'Stages, ms' if len(source.runs) == 1 else f'Stages, ms: {run.label}'
    return Table(title, columns('stage', 'p50', 'p95', 'p99', 'mean'), rows)


def _live(source: Source) -> Iterator[Block]:
    """Return what the node says of its own frames, in a report of live."""
    for run in source.runs:
        node = part(run.report, 'counts', 'node')
        if node:
            yield Table("The node's own count of frames", columns('what became of them', 'frames'),
                        tuple(cells(name.replace('_', ' '), str(count))
                              for name, count in node.items()))
        modes = [row for row in parts(run.report, 'mode_timeline') if row.get('reason')]
        if modes:
            heads = columns('time', 'mode', 'said by', numbers_from=9)
            yield Folded('What the node said of its state', (Table(
                '', (*heads, Column('why', wraps=True)),
                tuple(cells(number(row['t_s'], 1, ' s'), row['mode'], row['source'],
                            row['reason']) for row in modes)),))
