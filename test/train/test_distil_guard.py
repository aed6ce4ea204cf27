# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The guard stops a term that runs away, and no other."""
from __future__ import annotations

import math
import re

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='the guard keeps its state in tensors')

from evit_seg.core.errors import ConfigError  # noqa: E402, I100
from offline_train.distillation.guard import DivergenceGuard, TrainingDiverged  # noqa: E402


def noisy_fall(steps=600):
    """Falls from 8 to 1 with a log-normal noise of factor 2, as a KL term over small batches."""
    noise = np.random.default_rng(4).normal(size=steps)
    return (1 + 7 * np.exp(-np.arange(steps) / 100)) * np.exp(0.7 * noise)


def test_the_guard_lets_a_noisy_falling_term_pass():
    guard = DivergenceGuard(limit=3.0, window=50)
    for step, value in enumerate(noisy_fall()):
        guard.feed(value, step)


def test_the_guard_stops_a_term_that_turns_and_says_what_to_do():
    guard = DivergenceGuard(limit=3.0, window=50)
    series = np.concatenate([noisy_fall(), 1.05 ** np.arange(200)])
    with pytest.raises(TrainingDiverged) as caught:
        for step, value in enumerate(series):
            guard.feed(value, step)
    text = str(caught.value)
    means = [series[max(0, i - 49):i + 1].mean() for i in range(len(series))]
    first = next(i for i in range(len(series)) if means[i] > 3.0 * min(means[:i + 1]))
    assert first > 600
    for part in ('distil.kl has diverged', f'is {series[first]:.4g} at step {first};',
                 f'least mean so far {min(means[:first]):.4g}', 'kl_limit 3', 'Lower distil.kl,',
                 'raise distil.kl_temperature', 'lower optim.learning_rate'):
        assert part in text


def test_the_guard_compares_with_the_least_mean_by_hand():
    guard = DivergenceGuard(limit=2.0, window=2)
    for step, value in enumerate([4.0, 2.0, 2.0, 5.9]):  # means 4, 3, 2, 3.95
        guard.feed(value, step)
    with pytest.raises(TrainingDiverged, match=r'is 2\.2 at .* 2 steps, 4\.05, is 2\.0 times'):
        guard.feed(2.2, 4)


def test_the_guard_sees_a_run_that_diverges_within_its_first_window():
    guard = DivergenceGuard(limit=10.0, window=50)
    with pytest.raises(TrainingDiverged):
        for step in range(20):
            guard.feed(2.0 ** step, step)


def test_the_guard_does_not_measure_a_run_by_its_first_batch():
    guard = DivergenceGuard(limit=10.0, window=50)
    for step in range(100):
        guard.feed(0.2 if step == 0 else 5.0, step)


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_the_guard_stops_at_a_value_that_is_no_number(value):
    for before, least in ((0, 'none yet'), (20, '1')):
        guard = DivergenceGuard(limit=10.0)
        for step in range(before):
            guard.feed(1.0, step)
        text = rf'is {value} at step {before} .*so far {least}, .*learning'
        with pytest.raises(TrainingDiverged, match=text):
            guard.feed(value, before)


def test_the_guard_does_not_take_growth_from_nothing_for_divergence():
    guard = DivergenceGuard(limit=10.0, window=5)
    for step in range(50):  # a copy of the teacher that moves away a little
        guard.feed(step * 0.01, step)
    with pytest.raises(TrainingDiverged):
        for step in range(50, 60):
            guard.feed(2.0, step)


def test_a_resumed_guard_stops_at_the_same_step():
    series = np.concatenate([noisy_fall(130), 10 * 1.1 ** np.arange(60)])

    def stop(resume_at):
        guard = DivergenceGuard(limit=3.0, window=40)
        for step, value in enumerate(series):
            if step == resume_at:
                state = guard.state()
                assert state.dtype == torch.float64 and state.ndim == 1
                guard = DivergenceGuard(limit=3.0, window=40)
                guard.load(state)
            try:
                guard.feed(value, step)
            except TrainingDiverged as error:
                return str(error)
        return 'no stop'

    straight = stop(None)
    last = int(re.search(r'at step (\d+)', straight).group(1))
    assert last > 130
    assert all(stop(resume_at) == straight for resume_at in (0, 7, 125, last - 10, last))


@pytest.mark.parametrize(('limit', 'window'), [(1.0, 50), (math.nan, 50), (10.0, 0)])
def test_a_guard_that_cannot_work_is_refused(limit, window):
    with pytest.raises(ConfigError, match='expected a'):
        DivergenceGuard(limit, window)
