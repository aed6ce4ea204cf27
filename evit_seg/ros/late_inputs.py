# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The smaller inputs of a bundle, loaded in flight when the latency budget is switched on."""
from __future__ import annotations

import threading
from typing import Any, Callable

from evit_seg.core.bundle import Bundle, open_bundle
from evit_seg.core.errors import BundleError
from evit_seg.ros.model import EngineLoader, load_smaller
from evit_seg.ros.pipeline import Pipeline
from evit_seg.ros.report import sentence


class LateInputs:
    """
    Loads them in a thread of its own: it takes seconds, and nobody waits for it.

    `between` runs an action between two frames of a pipeline that is still the node's and
    returns its result; False when it is not any more.
    """

    def __init__(self, load: EngineLoader, between: Callable[[Pipeline, Callable[[], bool]], bool],
                 log: Any) -> None:
        self._load = load
        self._between = between
        self._log = log
        self._thread = threading.Thread()

    def want(self, pipeline: Pipeline) -> None:
        """Begin to load what the pipeline's parameters ask for and is not there."""
        wanted = pipeline.config.budget_latency_ms > 0 and pipeline.model.smaller is None
        if wanted and not self._thread.is_alive():
            self._thread = threading.Thread(target=self._add, args=(pipeline,),
                                            name='seg_inputs', daemon=True)
            self._thread.start()

    def _add(self, pipeline: Pipeline) -> None:
        model = pipeline.model
        try:
            _check_unchanged(model.segmenter.bundle)
            smaller = load_smaller(pipeline.config, model.segmenter, self._load)
        except Exception as error:  # noqa: BLE001  an engine may raise anything
            self._log.error(f'budget.latency_ms: no smaller input can be used: {sentence(error)}')
            return
        if self._between(pipeline, lambda: pipeline.add_smaller(model, smaller)):
            self._log.info(smaller.describe())
        else:
            smaller.close()


def _check_unchanged(bundle: Bundle) -> None:
    if open_bundle(bundle.folder).sha256 != bundle.sha256:
        raise BundleError(f'{bundle.folder} is not what the node runs on any more; '
                          '~/reload_model takes the new one')
