# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The latency budget: which rung of a ladder of cheaper ways to work keeps the answers in time.

The ladder goes from the full input over each smaller one to every 2nd, 3rd, ... n-th frame of the
smallest. A frame's latency is what this process adds to it: from the moment the node received it
to the moment its mask was published, so the wait in the slot and the work. The image's stamp has
no part in it: it may be of another machine's clock, or of a bag.

What the skipping buys: a frame that waited in the slot is dropped, and the worker is idle when
the next one arrives, which then waits for nobody; that is up to one period of the camera, and
every 2nd frame has all of it. Beyond that (every 3rd, 4th ...) the work on a frame takes as long
as before. What falls is the share of the time in which the board works, and with it its heat and
what other processes have to wait: so it helps where those are what made the work slow. Counted
are the frames the worker could have taken. To take every n-th of those that arrive would gain
nothing while the camera is faster than the engine: another one waits in the slot anyway.

Time is passed in; the same samples give the same steps.
"""
from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass
import math
from typing import Deque, List, NamedTuple, Optional, Tuple

from evit_seg.core.errors import ConfigError

LEAST_FRAMES = 3
"""p95 rests on so many frames at least, however long ago they came."""
LONGEST_WAIT = 32
"""The wait before a step up grows to at most so many times its first length."""


@dataclass(frozen=True)
class BudgetRule:
    """
    When to step; ConfigError if a value is out of its range.

    Down when 95 % of the frames of the last `window_s` took longer than `latency_ms` (0: never),
    up when they stayed below `return_share` of it for `return_after_s`.
    """

    latency_ms: float = 0.0
    window_s: float = 5.0
    return_share: float = 0.7
    return_after_s: float = 10.0

    def __post_init__(self) -> None:
        limits = (('latency_ms', 0, 60_000), ('window_s', 0.1, 60), ('return_share', 0.05, 0.95),
                  ('return_after_s', 0, 3600))
        for name, low, high in limits:
            value = getattr(self, name)
            if not low <= value <= high:  # NaN fails too
                raise ConfigError(f'budget.{name}: expected {low:g} to {high:g}, got {value!r}')


class Rung(NamedTuple):
    """`smaller` counts the inputs from the full one, 0; one of `every` frames is answered."""

    smaller: int
    every: int


def ladder(inputs: int, max_skip: int) -> Tuple[Rung, ...]:
    """Return the rungs for so many input sizes, the full one included, the dearest first."""
    return (*(Rung(number, 1) for number in range(inputs)),
            *(Rung(inputs - 1, every) for every in range(2, max_skip + 1)))


class LatencyBudget:
    """
    Which rung to work on, from the latencies of the frames so far.

    Over the budget for a whole window: one step down. Below the share for the wait: one step up;
    one that has to be taken back doubles the wait, up to LONGEST_WAIT, until one holds. After
    each step, and after a silence longer than the window, the window begins anew. One frame
    alone never decides. p95_ms: what 95 % of the frames of the window stay within, None with too
    few of them; of fewer than 40 frames the slowest one is left out. over_ms: what it was when
    it last went over the budget for a window. exhausted: it did, and there is no rung left.
    """

    def __init__(self, rule: BudgetRule, rungs: int) -> None:
        self.rung = 0
        self.p95_ms: Optional[float] = None
        self.over_ms = 0.0
        self.exhausted = False
        self._rule = rule
        self._rungs = rungs
        self._wait_factor = 1
        self._raised_s: Optional[float] = None
        self._frames: Deque[Tuple[float, float]] = deque()
        self._sorted_ms: List[float] = []
        self._since_s: Optional[float] = None
        self._calm_s: Optional[float] = None

    @property
    def wait_s(self) -> float:
        """Return how long it must be calm before the next step up."""
        return self._wait_factor * max(self._rule.return_after_s, self._rule.window_s)

    def use(self, rule: BudgetRule, rungs: int) -> None:
        """Go on with another rule or ladder, from the rung that is nearest to the present one."""
        self._rule, self._rungs = rule, rungs
        self.rung = min(self.rung, rungs - 1) if rule.latency_ms > 0 else 0
        self._wait_factor, self._raised_s, self.exhausted = 1, None, False
        self._begin()

    def restart(self) -> None:
        """Begin at the full input again: another network may be faster."""
        self.rung = 0
        self.use(self._rule, self._rungs)

    def add(self, now_s: float, latency_ms: float) -> bool:
        """
        Take a frame that ended at `now_s`, steady clock; tells whether `rung` has changed.

        A latency that is no number says nothing and is left out.
        """
        if self._rule.latency_ms == 0 or not math.isfinite(latency_ms):
            return False
        self._see(now_s, latency_ms)
        p95_ms = self.p95_ms
        if p95_ms is None or self._since_s is None:
            return False
        rule = self._rule
        if self._raised_s is not None and now_s - self._raised_s >= rule.window_s + self.wait_s:
            self._wait_factor, self._raised_s = 1, None  # the last step up has held
        if p95_ms >= rule.return_share * rule.latency_ms:
            self._calm_s = None
        else:
            self.exhausted = False
            self._calm_s = now_s if self._calm_s is None else self._calm_s
        if p95_ms > rule.latency_ms and now_s - self._since_s >= rule.window_s:
            return self._down(p95_ms)
        if self.rung > 0 and self._calm_s is not None and now_s - self._calm_s >= self.wait_s:
            self._raised_s = now_s
            return self._step(self.rung - 1)
        return False

    def _see(self, now_s: float, latency_ms: float) -> None:
        window_s = self._rule.window_s
        arrived_s = now_s - latency_ms / 1e3
        if self._frames and arrived_s - self._frames[-1][0] > window_s:  # nothing came meanwhile
            self._begin()
            if self._raised_s is not None:
                self._raised_s = now_s
        if self._since_s is None:
            self._since_s = now_s
        self._frames.append((now_s, latency_ms))
        insort(self._sorted_ms, latency_ms)
        while len(self._frames) > LEAST_FRAMES and self._frames[0][0] <= now_s - window_s:
            _, left_ms = self._frames.popleft()
            del self._sorted_ms[bisect_left(self._sorted_ms, left_ms)]
        frames = len(self._sorted_ms)
        if frames >= LEAST_FRAMES:
            self.p95_ms = self._sorted_ms[frames - 1 - max(1, frames // 20)]

    def _down(self, p95_ms: float) -> bool:
        if self.exhausted:
            return False
        self.over_ms = p95_ms
        if self.rung == self._rungs - 1:
            self.exhausted = True
            return False
        if self._raised_s is not None:  # the last step up is taken back
            self._wait_factor = min(2 * self._wait_factor, LONGEST_WAIT)
            self._raised_s = None
        return self._step(self.rung + 1)

    def _step(self, rung: int) -> bool:
        self.rung, self.exhausted = rung, False
        self._begin()
        return True

    def _begin(self) -> None:
        """Begin the window anew."""
        self._frames.clear()
        self._sorted_ms.clear()
        self.p95_ms = self._since_s = self._calm_s = None
