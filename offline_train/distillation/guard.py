# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Stop a run whose distillation diverges, as the paper saw it with KL (arXiv 2309.02617)."""
from __future__ import annotations

from collections import deque
import math
from typing import Deque

from evit_seg.core.errors import ConfigError, EvitSegError
import torch
from torch import Tensor


class TrainingDiverged(EvitSegError):
    """A loss that is no number any more, or far above what it had been."""


class DivergenceGuard:
    """
    Watches one term of the loss and raises TrainingDiverged when it runs away.

    That is when the mean of the last `window` values is more than `limit` times the least such
    mean so far, or when a value is not finite. While there are fewer values it is the mean of all,
    from a fifth of the window on: one lucky batch is no measure. Least means below
    `floor` count as `floor`: a student that starts as its teacher's copy has a term near zero, and
    ten times nothing is no divergence.
    """

    def __init__(self, limit: float, window: int = 50, term: str = 'kl',
                 floor: float = 0.1) -> None:
        """Watch `distil.<term>`, whose limit the configuration calls `distil.<term>_limit`."""
        if not limit > 1:
            raise ConfigError(f'distil.{term}_limit: expected a factor above 1, got {limit!r}')
        if window < 1:
            raise ConfigError(f'the guard of distil.{term}: expected a window of 1 step or more, '
                              f'got {window!r}')
        self._limit = limit
        self._term = term
        self._floor = floor
        self._least = math.inf
        self._enough = max(window // 5, 1)
        self._values: Deque[float] = deque(maxlen=window)

    def feed(self, value: float, step: int) -> None:
        """Take the term's value of a step, before its weight; raise when it has diverged."""
        if not math.isfinite(value):
            self._stop(f'is {value} at step {step}')
        self._values.append(value)
        if len(self._values) < self._enough:
            return
        mean = math.fsum(self._values) / len(self._values)
        self._least = min(self._least, mean)
        least = max(self._least, self._floor)
        if mean > self._limit * least:
            self._stop(f'is {value:.4g} at step {step}; its mean of the last {len(self._values)} '
                       f'steps, {mean:.4g}, is {mean / least:.1f} times the least one')

    def state(self) -> Tensor:
        """Return what a resumed run needs: float64, the least mean, then the last values."""
        return torch.tensor([self._least, *self._values], dtype=torch.float64)

    def load(self, state: Tensor) -> None:
        """Go on from a state; a shorter window keeps the newest values."""
        self._least, *values = state.tolist()
        self._values.clear()
        self._values.extend(values)

    def _stop(self, what: str) -> None:
        term = f'distil.{self._term}'
        least = f'{self._least:.4g}' if math.isfinite(self._least) else 'none yet'
        raise TrainingDiverged(
            f'{term} has diverged: it {what} (least mean so far {least}, counted as '
            f'{self._floor:g} or more; {term}_limit {self._limit:g}). Lower {term}, raise '
            f'{term}_temperature or lower optim.learning_rate')
