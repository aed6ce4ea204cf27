# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""From the configuration to a model that is known to work: loaded, self-tested, warmed up."""
from __future__ import annotations

from typing import Callable, NamedTuple, Tuple

from evit_seg.core.alerts import AlertRule
from evit_seg.core.bundle import find_bundle, open_bundle, select_variant, self_test
from evit_seg.core.engine import Engine, load_engine
from evit_seg.core.segmenter import Segmenter
from evit_seg.ros.params import NodeConfig

EngineLoader = Callable[..., Engine]
"""`core.engine.load_engine`, or what a test puts in its place."""


class Model(NamedTuple):
    """A loaded bundle, the alert rules that fit its classes, and what its self-test gave."""

    segmenter: Segmenter
    rules: Tuple[AlertRule, ...]
    agreement: float

    def describe(self) -> str:
        """Return name, hash and engine in a line."""
        engine, bundle = self.segmenter.engine, self.segmenter.bundle
        return (f'{bundle.manifest.name} (sha256 {bundle.sha256[:12]}, {engine.name} on '
                f'{engine.provider}, {engine.precision}, {engine.input_hw[0]}x'
                f'{engine.input_hw[1]}, self-test {self.agreement:.4f})')


def load_model(config: NodeConfig, load: EngineLoader = load_engine) -> Model:
    """
    Open the bundle, hold the alert classes against its label map, load and try the engine.

    Raises the errors of `open_bundle`, `load_engine` and `self_test`, and LabelMapMismatch for an
    alert class that the network does not know. Nothing stays open after an error.
    """
    bundle = open_bundle(find_bundle(config.model))
    rules = config.alert_rules(bundle.manifest.label_map)
    variant = select_variant(bundle, config.engine_name, precision=config.engine_precision or None,
                             height=config.engine_height or None)
    segmenter = Segmenter(bundle, load(bundle, config.engine_name, variant=variant,
                                       threads=config.engine_threads,
                                       provider=config.engine_provider))
    try:
        agreement = self_test(segmenter)
        segmenter.warm_up()
    except BaseException:
        segmenter.close()
        raise
    return Model(segmenter, rules, agreement)
