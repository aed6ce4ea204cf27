# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The latency budget at work: which engine answers, which frames are skipped, what ~/mode says."""
from __future__ import annotations

from typing import Any, Callable, Dict, List

from evit_seg.core.budget import BudgetRule, ladder, LatencyBudget, Rung
from evit_seg.core.segmenter import Segmenter
from evit_seg.ros.diagnostics import NOMINAL
from evit_seg.ros.model import Model
from evit_seg.ros.params import NodeConfig


class Ladder:
    """
    The rung of one pipeline; used in the worker's thread, `mode` and `values` from any.

    `tell` is called with the mode when it has changed: 'nominal', or what is degraded and why.
    """

    def __init__(self, model: Model, config: NodeConfig, tell: Callable[[str], None],
                 log: Any) -> None:
        self.mode = NOMINAL
        self._tell = tell
        self._log = log
        self._model = model
        self._config = config
        self._rungs = ladder(len(model.inputs), config.budget_max_skip)
        self._budget = LatencyBudget(_rule(config), len(self._rungs))
        self._over_ms: Dict[int, float] = {}
        self._passed = 0

    @property
    def segmenter(self) -> Segmenter:
        """Return the one that answers on this rung."""
        return self._model.inputs[self._rung.smaller]

    @property
    def _rung(self) -> Rung:
        return self._rungs[self._budget.rung]

    def use(self, model: Model, config: NodeConfig) -> None:
        """
        Go on with another model or other parameters, between two frames.

        Another network starts at the full input; more inputs of the same one change no rung that
        is an input.
        """
        if model is self._model and config is self._config:
            return
        if model.segmenter is not self._model.segmenter:
            self._budget.restart()
            self._over_ms.clear()
        self._follow(model, config)
        self._say()

    def _follow(self, model: Model, config: NodeConfig) -> None:
        changed = (_rule(config) != _rule(self._config)
                   or config.budget_max_skip != self._config.budget_max_skip
                   or model is not self._model)
        self._model, self._config = model, config
        if changed:
            self._rungs = ladder(len(model.inputs), config.budget_max_skip)
            self._budget.use(_rule(config), len(self._rungs))
            self._passed = 0

    def skips(self) -> bool:
        """Tell whether the frame that was just taken is skipped on purpose; call once for each."""
        self._passed = (self._passed + 1) % self._rung.every
        return self._passed != 0

    def answered(self, now_s: float, latency_ms: float) -> bool:
        """Count a frame that was answered; tells whether the next one is worked on otherwise."""
        before = self._budget.rung
        stepped = self._budget.add(now_s, latency_ms)
        if stepped:
            self._passed = 0
            if self._budget.rung > before:
                self._over_ms[self._budget.rung] = self._budget.over_ms
        self._say()
        return stepped

    def _say(self) -> None:
        mode = self._words()
        if mode == self.mode:
            return
        self.mode = mode
        if mode == NOMINAL:
            self._log.info(f'mode: {mode}')
        else:
            self._log.warning(f'mode: {mode}')
        self._tell(mode)

    def _words(self) -> str:
        over = self._budget.exhausted
        if self._budget.rung == 0 and not over:
            return NOMINAL
        over_ms = self._budget.over_ms if over else self._over_ms[self._budget.rung]
        what = self._what(self._rung) + (
            [] if not over else ['over the budget with nothing cheaper left'])
        return (f'degraded: {", ".join(what)}: 95 % of the frames took up to {over_ms:.0f} ms, '
                f'budget.latency_ms is {self._config.budget_latency_ms:g}')

    def _what(self, rung: Rung) -> List[str]:
        what = []
        if rung.smaller:
            what.append(f'input {_size(self._model.inputs[rung.smaller])} instead of '
                        f'{_size(self._model.segmenter)}')
        if rung.every > 1:
            what.append(f'every {_ordinal(rung.every)} frame')
        return what

    def values(self) -> Dict[str, str]:
        """Return the numbers for the diagnostics; none without a budget."""
        if self._config.budget_latency_ms == 0:
            return {}
        budget, steps = self._budget, [', '.join(self._what(rung)) for rung in self._rungs[1:]]
        p95_ms = budget.p95_ms
        return {'budget rung': f'{budget.rung} of {len(steps)}',
                'budget ladder': '; '.join(steps) or 'empty',
                'budget latency p95 ms': '' if p95_ms is None else f'{p95_ms:.1f}',
                'budget.latency_ms': f'{self._config.budget_latency_ms:g}',
                'budget wait before a step up s': f'{budget.wait_s:g}'}


def _rule(config: NodeConfig) -> BudgetRule:
    return BudgetRule(config.budget_latency_ms, config.budget_window_s,
                      config.budget_return_share, config.budget_return_after_s)


def _size(segmenter: Segmenter) -> str:
    return '{}x{}'.format(*segmenter.engine.input_hw)


def _ordinal(number: int) -> str:
    """Return '2nd', '11th', '23rd'."""
    teen = 10 < number % 100 < 20
    return f'{number}{"th" if teen else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")}'
