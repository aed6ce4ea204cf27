# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The result of `bench_node` as text."""
from __future__ import annotations

from typing import Any, Mapping, Optional


def node_table(result: Mapping[str, Any]) -> str:
    """Return the result of `bench_node` as text."""
    lines = [f"{result['name']} ({result['engine']}, {result['provider']}, "
             f"{result['precision']}), {result['width']}x{result['height']} "
             f"{result['encoding']}, transport {result['transport']}: bare Segmenter "
             f"{_number(result['bare_hz'], 1)} frames/s"]
    for setup, cost in result['ros_cost'].items():
        share = None if cost['ratio'] is None else 100 * cost['ratio']
        lines.append(f"  {setup.replace('_', ' ')}: {_number(cost['node_hz'], 1)} frames/s, "
                     f'{_number(share, 0)} % of the bare one; peak under 5 % drops '
                     f"{_number(cost['peak_hz'], 1)} frames/s")
    lines += ['                     offered  sent  lost dropped  answers  latency ms  to publish'
              '    cpu  memory',
              '  setup  purpose          Hz          DDS             Hz   p50   p95     p50 ms'
              '  cores      MB']
    lines += [_row(run) for run in result['runs']]
    return '\n'.join(lines)


def _row(run: Mapping[str, Any]) -> str:
    latency = run['latency_ms'] or {'p50': None, 'p95': None}
    published = run['node_ms'].get('stamp to publish', {'p50': None})
    return (f"  {run['setup'].partition('_')[0]:5}  {run['purpose']:10} "
            f"{run['offered_hz']:8.1f} {run['sent']:5} {run['transport_loss']:5} "
            f"{run['drops']:7.1%} {_number(run['masks_hz'], 1):>8} "
            f"{_number(latency['p50'], 1):>5} {_number(latency['p95'], 1):>5} "
            f"{_number(published['p50'], 1):>10} {_number(run['cpu_cores']['node'], 2):>6} "
            f"{_number(run['rss_mb']['now'], 0):>7}")


def _number(value: Optional[float], decimals: int) -> str:
    return '-' if value is None else f'{value:.{decimals}f}'
