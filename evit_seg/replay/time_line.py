# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Long series made short enough to be drawn, without losing their peaks."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MOST_POINTS = 500
"""No screen that the report is read on shows more along one axis."""


def frames_per_point(frames: int) -> int:
    """Return how many frames share a point so that there are MOST_POINTS at most."""
    return max(1, -(-frames // MOST_POINTS))


def thinned(values: Sequence[float], every: int, keep: Any) -> list[float]:
    """Return `keep` (such as max) of each `every` values in a row, to four digits."""
    return [float(f'{keep(values[start:start + every]):.4g}')
            for start in range(0, len(values), every)]


def thinned_times(times_s: Sequence[float], every: int) -> list[float]:
    """Return the time of the first of each `every` values in a row, to ms."""
    return [round(float(time_s), 3) for time_s in times_s[::every]]


def latency_line(times_s: Sequence[float], latency_ms: Sequence[float]) -> dict[str, Any]:
    """
    Return what a picture of latencies needs: the slowest frame of each point, and all percentiles.

    `times_s` and `latency_ms` have one value per frame, one or more. `percentiles_ms` are those
    from 0 to 100, of all frames.
    """
    every = frames_per_point(len(latency_ms))
    percentiles = np.percentile(np.asarray(latency_ms), np.arange(101))
    return {'every': every, 't_s': thinned_times(times_s, every),
            'slowest_ms': thinned(latency_ms, every, max),
            'percentiles_ms': [float(f'{value:.4g}') for value in percentiles]}
