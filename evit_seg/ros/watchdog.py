# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The watchdog: an engine that does not come back costs one frame, a second one the process.

A thread that hangs in a driver cannot be ended from outside. So it is left alone, its frame is
counted, and a new thread with a newly loaded engine goes on; one such thread is bearable. One
that came back late, after a stall of the machine, is gone and does not count.
"""
from __future__ import annotations

from functools import partial
import math
import threading
from typing import Any, Callable, Optional

from evit_seg.core.errors import ConfigError, EngineHang
from evit_seg.ros.engine_watch import GivenUp
from evit_seg.ros.model import Model
from evit_seg.ros.pipeline import HANG_FACTOR, Pipeline
from evit_seg.ros.report import sentence
from evit_seg.ros.worker import Worker

LOOK_EVERY_S = 0.1
LOAD_ALLOWED_S = 60.0
"""A new engine that is not loaded by then hangs like the old one, if that was not as slow."""


class Watchdog:
    """
    Gives up a frame on which the engine hangs, and has a new engine loaded for the next one.

    `load` loads the bundle of a folder; `tell` is called when a frame was given up, for a report
    at once. `given_up` is the number of frames given up in the life of the node.
    """

    def __init__(self, load: Callable[[str], Model], tell: Callable[[], None], log: Any) -> None:
        self.given_up = 0
        self._load = load
        self._tell = tell
        self._log = log
        self._end: Optional[EngineHang] = None
        self._abandoned: Optional[threading.Thread] = None

    def look(self, pipeline: Optional[Pipeline], worker: Optional[Worker]) -> None:
        """
        Give up what is overdue; to be called often, by the thread that owns the node.

        EngineHang when an earlier one has still not come back, or when no new engine could be
        loaded: the process has to end.
        """
        if self._end is None and pipeline is not None and worker is not None:
            self._give_up(pipeline, worker)
        if self._end is not None:
            raise self._end

    def _give_up(self, pipeline: Pipeline, worker: Worker) -> None:
        busy_s = pipeline.watch.give_up(pipeline.config.engine_hang_after_s)
        if busy_s is None:
            return
        engine = pipeline.model.segmenter.engine
        what = f'{engine.name} on {engine.provider} did not come back for {busy_s:.1f} s'
        again = bool(pipeline.hang) or (self._abandoned is not None
                                        and self._abandoned.is_alive())
        if again:
            self._end = EngineHang(f'the engine hangs again: {what}; this process ends, its '
                                   'supervisor has to start a new one')
        if pipeline.hang:  # it was not a frame: the new engine hangs while it is loaded
            pipeline.hang = str(self._end)
        else:
            self.given_up += 1
            pipeline.give_up(str(self._end) if again else
                             f'the engine hangs: {what}; the frame is given up, a new engine is '
                             'loaded')
        self._log.error(pipeline.hang)
        if not again:
            self._abandoned = worker.abandon(partial(self.renew, pipeline))
        self._tell()

    def renew(self, pipeline: Pipeline) -> None:
        """Load a new engine in place of the one that was given up; in the worker's thread."""
        model: Optional[Model] = None
        try:
            with pipeline.watch.inside(max(LOAD_ALLOWED_S, HANG_FACTOR * pipeline.model.load_s)):
                model = self._load(str(pipeline.model.segmenter.bundle.folder))
            pipeline.swap(model)
        except GivenUp:
            if model is not None:
                model.close()
            return
        except Exception as error:  # noqa: BLE001  the engine may raise anything
            self._end = EngineHang('the engine hung and a new one cannot be loaded: '
                                   f'{sentence(error)}')
            return
        self._log.info(f'goes on with a new engine: model {model.describe()}')

    def stop(self, pipeline: Pipeline, worker: Worker, timeout_s: float) -> None:
        """
        Stop the worker after the frame in hand; one on which the engine hangs is given up.

        ConfigError when it takes longer than `timeout_s` for another reason.
        """
        for _ in range(math.ceil(timeout_s / LOOK_EVERY_S)):
            if worker.stop(LOOK_EVERY_S):
                return
            self.look(pipeline, worker)
        raise ConfigError(f'the frame in hand was not finished within {timeout_s:g} s; end this '
                          'process')
