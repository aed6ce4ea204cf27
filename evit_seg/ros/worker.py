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
    `first` is run in the thread before everything else.
    """

    def __init__(self, work: Callable[[T], None], dropped: Callable[[str], None],
                 first: Optional[Callable[[], None]] = None) -> None:
        self._work = work
        self._dropped = dropped
        self._changed = threading.Condition()
        self._slot: Optional[T] = None
        self._actions: Deque[Tuple[Callable[[], Any], Future]] = deque()
        if first is not None:
            self._actions.append((first, Future()))
        self._running = True
        self._ended = False
        self._thread = self._new_thread()
        self._thread.start()

    def _new_thread(self) -> threading.Thread:
        # A daemon: an engine that hangs must not keep a node that was told to end.
        return threading.Thread(target=self._loop, name='seg_worker', daemon=True)

    def offer(self, item: T) -> None:
        """Put an item into the slot, in place of one that still waits there."""
        with self._changed:
            running = self._running
            waiting = self._slot
            if running:
                self._slot = item
                self._changed.notify_all()
        if not running:
            self._dropped('stopped')
        elif waiting is not None:
            self._dropped('replaced')

    def between(self, action: Callable[[], Any]) -> Any:
        """Run `action` in the thread, after the item in hand and before the next; its result."""
        future: Future = Future()
        with self._changed:
            ended = self._ended
            if not ended:
                self._actions.append((action, future))
                self._changed.notify_all()
        return action() if ended else future.result()

    def abandon(self, first: Callable[[], None]) -> threading.Thread:
        """
        Leave the thread alone with what it has in hand; a new one goes on with what waits.

        Before that it runs `first`, unless the worker was stopped. The old thread is returned; it
        ends when it comes back.
        """
        with self._changed:
            old = self._thread
            if self._running:
                self._actions.appendleft((first, Future()))
            self._thread = self._new_thread()
            self._thread.start()
        return old

    def stop(self, timeout_s: float) -> bool:
        """Drop what waits, finish the item in hand; False when that took longer than allowed."""
        with self._changed:
            waiting, self._slot = self._slot, None
            self._running = False
            self._changed.notify_all()
            thread = self._thread
        if waiting is not None:
            self._dropped('stopped')
        thread.join(timeout_s)
        return not thread.is_alive()

    def _loop(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._slot is not None or self._actions
                                       or not self._running or self._thread is not me)
                if self._thread is not me:
                    return
                awaited = self._actions.popleft() if self._actions else None
                item = None if awaited else self._slot
                if awaited is None and item is None:  # stopped, and nothing is left to do
                    self._ended = True
                    return
                if item is not None:
                    self._slot = None
            if awaited is not None:
                settle(*awaited)
            elif item is not None:
                self._work(item)


def settle(action: Callable[[], Any], future: Future) -> None:
    """Run the action and hand its result, or what it raised, to whoever waits for it."""
    try:
        future.set_result(action())
    except Exception as error:  # noqa: BLE001  it is raised again where the result is awaited
        future.set_exception(error)
