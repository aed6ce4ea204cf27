# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Tasks in processes of their own, some at a time.

Each task has a new process, so that one that crashes, or that the kernel ends for its memory,
takes no other with it. Ctrl-C ends them all: they do not hear it themselves, so it is the parent
that has one thing to say. They end too when the parent is gone without a word.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
import multiprocessing
from multiprocessing import connection, resource_tracker
import os
import signal
import threading
from typing import Any, cast, Generic, TypeVar

from evit_seg.core.errors import EvitSegError

Task = TypeVar('Task')
Result = TypeVar('Result')
END_TIMEOUT_S = 10.0
"""How long a process that was told to end has for it."""


class WorkerDied(EvitSegError):
    """A task's process ended without an answer; what it had to say stands on stderr."""

    def __init__(self, exitcode: int) -> None:
        how = f'with exit code {exitcode}' if exitcode >= 0 else \
            f'by {signal.Signals(-exitcode).name}'
        hint = ' (was there memory enough? fewer --jobs take less)' \
            if exitcode == -signal.SIGKILL else ''
        super().__init__(f'its process was ended {how}{hint}')


class Workers(Generic[Task, Result]):
    """
    Runs `work(task)` of each task in its own process, at most `jobs` at a time.

    A context manager: leaving it ends what still runs. `work` is a function of a module; tasks and
    results can be pickled.
    """

    def __init__(self, work: Callable[[Task], Result], jobs: int) -> None:
        self._work = work
        self._jobs = jobs
        self._context = multiprocessing.get_context('spawn')
        self._running: dict[Any, tuple[int, Any]] = {}

    def __enter__(self) -> Workers[Task, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        processes = [process for _, process in self._running.values()]
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(END_TIMEOUT_S)
            if process.is_alive():
                process.kill()
                process.join()
        self._running.clear()

    def run(self, tasks: Sequence[Task],
            take: Callable[[int, Result | EvitSegError], None]) -> None:
        """
        Call `take(place of the task, what it gave)` for each, in the order in which they end.

        An EvitSegError that the task raised is handed over; for a process that died it is a
        WorkerDied. What `take` raises ends the rest.
        """
        waiting = deque(enumerate(tasks))
        while waiting or self._running:
            while waiting and len(self._running) < self._jobs:
                self._start(*waiting.popleft())
            for ready in connection.wait(list(self._running)):
                answers = cast(connection.Connection, ready)
                index, process = self._running[answers]
                try:
                    result = answers.recv()
                except EOFError:
                    process.join()
                    result = WorkerDied(process.exitcode)
                process.join()
                del self._running[answers]
                answers.close()
                take(index, result)

    def _start(self, index: int, task: Task) -> None:
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_serve, args=(theirs, self._work, task),
                                        daemon=True)
        # A new process inherits what is blocked: Ctrl-C, which the terminal sends to all, is the
        # parent's alone. The tracker, started here for the first time, would unblock it again.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            process.start()
            self._running[ours] = index, process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()


def _serve(answers: Any, work: Callable[[Any], Any], task: Any) -> None:
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        result = work(task)
    except EvitSegError as error:
        result = error
    answers.send(result)
    answers.close()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
