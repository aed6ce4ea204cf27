# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Who is in the engine and since when: a frame comes back from it or is given up, never both."""
from __future__ import annotations

from contextlib import contextmanager
import threading
from typing import Callable, Iterator, NamedTuple, Optional


class GivenUp(Exception):
    """What came back from the engine is not awaited any more: it was given up meanwhile."""


class _Stay(NamedTuple):
    since_s: float
    allowed_s: float


class EngineWatch:
    """Watches one thread at a time in its calls of the engine, on a steady clock."""

    def __init__(self, steady_s: Callable[[], float]) -> None:
        self._steady_s = steady_s
        self._lock = threading.Lock()
        self._stay: Optional[_Stay] = None

    @contextmanager
    def inside(self, allowed_s: float) -> Iterator[None]:
        """
        Watch the calls of the engine made under `with`; they are allowed so long at least.

        GivenUp at the end, in place of what the engine raised too, when they took too long for
        `give_up`: then another thread works with another engine, and this one must leave
        everything alone.
        """
        stay = _Stay(self._steady_s(), allowed_s)
        with self._lock:
            self._stay = stay
        try:
            yield
        finally:
            with self._lock:
                awaited = self._stay is stay
                if awaited:
                    self._stay = None
            if not awaited:
                raise GivenUp

    def give_up(self, hang_after_s: float) -> Optional[float]:
        """
        Give up what is in the engine for longer than `hang_after_s` and than it is allowed.

        Returns for how many seconds it has been there, None when nothing was given up. 0 is
        never: a stay without an end.
        """
        with self._lock:
            stay = self._stay
            if stay is None or hang_after_s == 0:
                return None
            busy_s = self._steady_s() - stay.since_s
            if busy_s <= max(hang_after_s, stay.allowed_s):
                return None
            self._stay = None
            return busy_s
