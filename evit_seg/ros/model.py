# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""From the configuration to a model that is known to work: loaded, self-tested, warmed up."""
from __future__ import annotations

import time
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

from evit_seg.core.alerts import AlertRule
from evit_seg.core.bundle import Bundle, find_bundle, open_bundle, select_variant, self_test
from evit_seg.core.engine import Engine, load_engine
from evit_seg.core.machine import process_memory_mb
from evit_seg.core.manifest import Variant
from evit_seg.core.segmenter import Segmenter
from evit_seg.ros.params import NodeConfig
from evit_seg.ros.safe_zone import zone_rule

EngineLoader = Callable[..., Engine]
"""`core.engine.load_engine`, or what a test puts in its place."""


class Smaller(NamedTuple):
    """The same network at smaller inputs, the largest first, and what they take of memory."""

    segmenters: Tuple[Segmenter, ...]
    memory_mb: Optional[float]

    def describe(self) -> str:
        """Return sizes and memory in words."""
        sizes = ', '.join('{}x{}'.format(*s.engine.input_hw) for s in self.segmenters)
        if not sizes:
            return 'smaller inputs for budget.latency_ms: none in the bundle'
        taken = '' if self.memory_mb is None else f', {self.memory_mb:.0f} MB more resident memory'
        return f'smaller inputs for budget.latency_ms: {sizes}{taken}'

    def close(self) -> None:
        """Free the engines."""
        for segmenter in self.segmenters:
            segmenter.close()


class Model(NamedTuple):
    """
    A loaded bundle, the alert rules that fit its classes, and what its self-test gave.

    warm_up_s: the slowest run of its warm-up. load_s: how long all of that took. smaller: None
    until a latency budget asks for it.
    """

    segmenter: Segmenter
    rules: Tuple[AlertRule, ...]
    agreement: float
    warm_up_s: float
    load_s: float
    smaller: Optional[Smaller] = None

    @property
    def inputs(self) -> Tuple[Segmenter, ...]:
        """Return the network at every loaded size of its input, the full one first."""
        return (self.segmenter, *(() if self.smaller is None else self.smaller.segmenters))

    def describe(self) -> str:
        """Return name, hash and engine in a line, and the smaller inputs."""
        engine, bundle = self.segmenter.engine, self.segmenter.bundle
        return (f'{bundle.manifest.name} (sha256 {bundle.sha256[:12]}, {engine.name} on '
                f'{engine.provider}, {engine.precision}, {engine.input_hw[0]}x'
                f'{engine.input_hw[1]}, self-test {self.agreement:.4f})'
                + ('' if self.smaller is None else f'; {self.smaller.describe()}'))

    def close(self) -> None:
        """Free the engines."""
        for segmenter in self.inputs:
            segmenter.close()


def load_model(config: NodeConfig, load: EngineLoader = load_engine) -> Model:
    """
    Open the bundle, hold the alert classes against its label map, load and try the engine.

    With a latency budget the smaller inputs too. Raises the errors of `open_bundle`,
    `load_engine` and `self_test`, and LabelMapMismatch for an alert class, or a class to land on,
    that the network does not know. Nothing stays open after an error.
    """
    start_s = time.monotonic()
    bundle = open_bundle(find_bundle(config.model))
    rules = config.alert_rules(bundle.manifest.label_map)
    if config.safe_zone_publish:
        zone_rule(config, bundle.manifest.label_map)
    variant = select_variant(bundle, config.engine_name, precision=config.engine_precision or None,
                             height=config.engine_height or None)
    segmenter = _loaded(config, bundle, variant, load)
    try:
        agreement = self_test(segmenter)
        warm_up_s = segmenter.warm_up()
        smaller = load_smaller(config, segmenter, load) if config.budget_latency_ms else None
    except BaseException:
        segmenter.close()
        raise
    return Model(segmenter, rules, agreement, warm_up_s, time.monotonic() - start_s, smaller)


def load_smaller(config: NodeConfig, full: Segmenter, load: EngineLoader = load_engine) -> Smaller:
    """
    Load and try the variants that differ from `full`'s in nothing but a smaller input.

    Raises what `load_engine` and `self_test` do; nothing stays open after an error.
    """
    before_mb = process_memory_mb()['rss']
    segmenters: List[Segmenter] = []
    try:
        for variant in smaller_variants(full):
            segmenters.append(_loaded(config, full.bundle, variant, load))
            self_test(segmenters[-1])
            segmenters[-1].warm_up()
    except BaseException:
        for segmenter in segmenters:
            segmenter.close()
        raise
    after_mb = process_memory_mb()['rss']
    taken_mb = None if before_mb is None or after_mb is None else after_mb - before_mb
    return Smaller(tuple(segmenters), taken_mb)


def smaller_variants(full: Segmenter) -> List[Variant]:
    """Return the variants of smaller height, same engine and precision, the highest first."""
    engine = full.engine
    own = select_variant(full.bundle, engine.name, precision=engine.precision,
                         height=engine.input_hw[0])
    heights: Dict[int, Variant] = {}
    for variant in full.manifest.variants:
        if ((variant.engine, variant.precision) == (own.engine, own.precision)
                and variant.height < own.height):
            heights.setdefault(variant.height, variant)
    return [heights[height] for height in sorted(heights, reverse=True)]


def _loaded(config: NodeConfig, bundle: Bundle, variant: Variant, load: EngineLoader) -> Segmenter:
    return Segmenter(bundle, load(bundle, config.engine_name, variant=variant,
                                  threads=config.engine_threads,
                                  provider=config.engine_provider,
                                  cpus=config.engine_cpus,
                                  cache_dir=config.engine_cache_dir))
