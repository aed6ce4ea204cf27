# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One slot, one thread: the newest frame wins, and the executor never waits for a frame."""
from __future__ import annotations

from collections import deque
from concurrent.futures import Future
import threading
from typing import Any, Callable, Deque, Generic, Optional, Tuple, TypeVar

T = TypeVar('T')


class Worker(Generic[T]):
    """
    A thread that takes the newest item from a place for one and works on it; runs once.

    `work` is called in the thread with each item taken and must not raise; `dropped` is called
    with why for an item that nobody will work on: 'replaced' by a newer one, or 'stopped'.
    """

    def __init__(self, work: Callable[[T], None], dropped: Callable[[str], None]) -> None:
        self._work = work
        self._dropped = dropped
        self._changed = threading.Condition()
        self._slot: Optional[T] = None
        self._actions: Deque[Tuple[Callable[[], Any], Future]] = deque()
        self._running = True
        # A daemon: an engine that hangs must not keep a node that was told to end.
        self._thread = threading.Thread(target=self._loop, name='seg_worker', daemon=True)
        self._thread.start()

    def offer(self, item: T) -> None:
        """Put an item into the slot, in place of one that still waits there."""
        with self._changed:
            running = self._running
            waiting = self._slot
            if running:
                self._slot = item
                self._changed.notify()
        if not running:
            self._dropped('stopped')
        elif waiting is not None:
            self._dropped('replaced')

    def between(self, action: Callable[[], Any]) -> Any:
        """Run `action` in the thread, after the item in hand and before the next; its result."""
        future: Future = Future()
        with self._changed:
            running = self._running
            if running:
                self._actions.append((action, future))
                self._changed.notify()
        return future.result() if running else action()

    def stop(self, timeout_s: float) -> bool:
        """Drop what waits, finish the item in hand; False when that took longer than allowed."""
        with self._changed:
            waiting, self._slot = self._slot, None
            self._running = False
            self._changed.notify()
        if waiting is not None:
            self._dropped('stopped')
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._slot is not None or self._actions or not self._running)
                actions, self._actions = self._actions, deque()
                item = None if actions else self._slot
                if item is not None:
                    self._slot = None
                ending = not self._running
            for action, future in actions:
                _settle(action, future)
            if ending:
                return
            if item is not None:
                self._work(item)


def _settle(action: Callable[[], Any], future: Future) -> None:
    """Run the action and hand its result, or what it raised, to whoever waits for it."""
    try:
        future.set_result(action())
    except Exception as error:  # noqa: BLE001  it is raised again where the result is awaited
        future.set_exception(error)
