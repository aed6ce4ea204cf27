# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the node knows about itself: where every frame went and how long each stage took."""
from __future__ import annotations

from collections import deque
import threading
from typing import Deque, Dict, Mapping, NamedTuple, Tuple

import numpy as np

OUTCOMES: Tuple[str, ...] = ('processed', 'replaced', 'too_old', 'malformed', 'disabled', 'failed',
                             'skipped')
"""
How a frame can end; one that has not ended yet is 'in_work'.

'failed': the engine raised. 'skipped': left out on purpose, for the latency budget.
"""


class FrameCounters:
    """
    Count every frame exactly once, from any thread.

    At all times received = in_work + the sum of the outcomes. `in_work` holds the frames that
    wait in the slot and the one the worker has in its hands. It is counted on its own, not
    computed as the rest, so that `balanced` can fail when a frame is lost or counted twice.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received = 0
        self._in_work = 0
        self._ended: Dict[str, int] = dict.fromkeys(OUTCOMES, 0)

    def arrive(self) -> None:
        """Count a frame the moment its callback begins: received and in work."""
        with self._lock:
            self._received += 1
            self._in_work += 1

    def finish(self, outcome: str) -> None:
        """
        Count the end of one frame that has arrived.

        `outcome` is one of OUTCOMES. ValueError for any other word, or when no frame is in work:
        both are mistakes of the caller, and a wrong count must not pass silently.
        """
        with self._lock:
            if outcome not in self._ended:
                raise ValueError(f'outcome: expected one of {OUTCOMES}, got {outcome!r}')
            if self._in_work == 0:
                raise ValueError(f'finish({outcome!r}) without a frame in work: '
                                 'arrive() was not called or finish() was called twice')
            self._in_work -= 1
            self._ended[outcome] += 1

    def snapshot(self) -> Dict[str, int]:
        """Return received, in_work and every outcome as they stood at one instant."""
        with self._lock:
            return {'received': self._received, 'in_work': self._in_work, **self._ended}

    def balanced(self) -> bool:
        """Return whether received = in_work + the sum of the outcomes at this instant."""
        counts = self.snapshot()
        return counts.pop('received') == sum(counts.values())


class StageSummary(NamedTuple):
    """Percentiles of one stage over the window, in ms, and how many samples they rest on."""

    p50_ms: float
    p95_ms: float
    samples: int


class StageTimes:
    """The last `window` durations of each stage; memory does not grow, any thread may write."""

    def __init__(self, window: int = 256) -> None:
        if window < 1:
            raise ValueError(f'window: expected at least 1 sample, got {window!r}')
        self._window = window
        self._lock = threading.Lock()
        self._samples_ms: Dict[str, Deque[float]] = {}

    def add(self, stage_ms: Mapping[str, float]) -> None:
        """Add one frame's durations in ms, keyed by stage (decode, pre, infer, post, publish)."""
        with self._lock:
            for stage, duration_ms in stage_ms.items():
                samples = self._samples_ms.get(stage)
                if samples is None:
                    samples = self._samples_ms[stage] = deque(maxlen=self._window)
                samples.append(float(duration_ms))

    def clear(self) -> None:
        """Forget all samples, as after a change of model or of the network's input size."""
        with self._lock:
            self._samples_ms.clear()

    def summary(self) -> Dict[str, StageSummary]:
        """Return p50 and p95 of every stage seen so far; stages without samples are absent."""
        with self._lock:
            samples_ms = {stage: np.array(kept) for stage, kept in self._samples_ms.items()}
        result = {}
        for stage, kept_ms in samples_ms.items():
            p50_ms, p95_ms = np.percentile(kept_ms, (50, 95))
            result[stage] = StageSummary(float(p50_ms), float(p95_ms), len(kept_ms))
        return result
