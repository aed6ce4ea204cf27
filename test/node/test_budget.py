# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The latency budget in the node: which engine answers, what is skipped, what is said of it."""
from __future__ import annotations

import shutil

import numpy as np
import pytest
from tiny_bundle import painted_frame, write_tiny_bundle

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402, I100
from evit_seg.core.engine import load_engine  # noqa: E402
from evit_seg.ros.board import Board  # noqa: E402
from ros_rig import (  # noqa: E402
    FakeClock,
    GatedEngine,
    Gates,
    mask_of,
    raw_message,
    Rig,
    wait_until,
)
from sensor_msgs.msg import Image  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

BUDGET = {'budget__latency_ms': 100, 'budget__window_s': 1.0, 'budget__return_after_s': 2.0,
          'budget__max_skip': 2}
SMALL = 'degraded: input 32x32 instead of 64x64'
PERIOD_NS = 260_000_000
WHY = '95 % of the frames took up to {} ms, budget.latency_ms is 100'


@pytest.fixture(scope='module')
def two_sizes(tmp_path_factory):
    """Return the folder of a bundle that holds the network at 64x64 and at 32x32."""
    return write_tiny_bundle(tmp_path_factory.mktemp('bundle') / 'sizes', smaller=((32, 32),))


@pytest.fixture
def rig(two_sizes):
    """Yield a client and the means to start a node beside it, on two sizes."""
    rig = Rig(two_sizes)
    yield rig
    rig.close()


class Flight:
    """Publishes frames; each takes so many ms in the engine by the fake clock."""

    def __init__(self, rig, **parameters):
        self.clock, self.rig = FakeClock(), rig
        rig.start_node(clock=self.clock, **parameters)
        self.masks = rig.record(Image, '/seg_node/mask')
        self.modes = rig.record(String, '/seg_node/mode', latched=True)
        wait_until(lambda: self.modes, 'the first mode')
        self._publish = rig.camera()
        for engine in rig.gates.engines:
            self.slow(engine)
        self.took_ms = {}

    def slow(self, engine):
        """Let an engine move the clock on while it computes."""
        compute = engine.infer

        def infer(image_HWC):
            self.clock.advance(self.took_ms[engine.input_hw[0]] / 1e3)
            return compute(image_HWC)
        engine.infer = infer

    def __call__(self, frames, *, full=50, small=50):
        """Fly on, a frame each 0.26 s: latency in ms at the full and at the smaller input."""
        self.took_ms.update({64: full, 32: small})
        for _ in range(frames):
            sent_ns = self.clock.ns
            self._publish(raw_message(painted_frame()[0], sent_ns))
            self.rig.wait_count('in_work', 0)
            self.clock.ns = sent_ns + PERIOD_NS
        assert self.rig.node.counters.balanced()

    @property
    def rung(self):
        return self.rig.node.pipeline.ladder.values()['budget rung']

    def status(self):
        """Return the level, the sentence and the values of a report."""
        got = self.rig.record(DiagnosticArray, '/diagnostics')
        self.rig.node.report()
        wait_until(lambda: got, 'diagnostics')
        (status,) = got[-1].status
        return status.level, status.message, {pair.key: pair.value for pair in status.values}


def test_over_the_budget_it_steps_down_says_so_and_steps_back(rig):
    fly = Flight(rig, **BUDGET)
    full, small = rig.gates.engines
    assert (full.input_hw, small.input_hw) == ((64, 64), (32, 32))
    warm = small.entered
    fly(4, full=150)
    assert [mode.data for mode in fly.modes] == ['nominal'] and small.entered == warm
    fly(1, full=150)
    wait_until(lambda: len(fly.modes) == 2, 'the degraded mode')
    assert fly.modes[1].data == f'{SMALL}: {WHY.format(150)}'
    assert (fly.rung, rig.node.pipeline.ladder.segmenter.engine) == ('1 of 2', small)
    level, sentence, values = fly.status()
    assert (level, sentence) == (DiagnosticStatus.WARN, fly.modes[1].data)
    assert values['mode'] == sentence and values['network input'] == '32x32'
    assert values['budget ladder'] == f'{SMALL[10:]}; {SMALL[10:]}, every 2nd frame'

    entered, shown = full.entered, len(fly.masks)
    fly(3, small=60)
    wait_until(lambda: len(fly.masks) == shown + 3, 'masks of the smaller input')
    assert full.entered == entered and small.entered > warm
    mask_HW = mask_of(fly.masks[-1])
    assert mask_HW.shape == (64, 64) and np.mean(mask_HW == painted_frame()[1]) > 0.8
    assert fly.status()[2]['budget latency p95 ms'] == '60.0'

    fly(12, small=60)
    wait_until(lambda: len(fly.modes) == 3, 'the way back')
    assert fly.modes[2].data == 'nominal' and fly.rung == '0 of 2'
    assert full.entered > entered
    assert rig.count('skipped') == 0
    level, sentence, _ = fly.status()
    assert level == DiagnosticStatus.OK and sentence.startswith('running')


def test_beyond_the_smallest_input_frames_are_skipped_and_counted(rig):
    fly = Flight(rig, **BUDGET)
    fly(10, full=150, small=150)
    wait_until(lambda: len(fly.modes) == 3, 'the second step')
    assert fly.modes[2].data == f'{SMALL}, every 2nd frame: {WHY.format(150)}'
    before = rig.node.counters.snapshot()
    fly(4, small=150)
    after = rig.node.counters.snapshot()
    assert after['skipped'] - before['skipped'] == 2 == after['processed'] - before['processed']
    fly(10, small=150)
    wait_until(lambda: len(fly.modes) == 4, 'the end of the ladder')
    assert 'every 2nd frame, over the budget with nothing cheaper left: ' in fly.modes[3].data
    fly(40)
    wait_until(lambda: fly.modes[-1].data == 'nominal', 'the way back')
    assert [mode.data[:28] for mode in fly.modes[4:]] == [
        fly.modes[2].data[:28], fly.modes[1].data[:28], 'nominal']


def test_the_wait_in_the_slot_counts_and_the_stamp_does_not(rig):
    clock = FakeClock()
    rig.start_node(clock=clock)
    publish, engine = rig.camera(), rig.gates.engine
    entered = engine.entered
    engine.shut()
    publish(raw_message(painted_frame()[0], 5))  # of a clock that began in 1970
    wait_until(lambda: engine.entered == entered + 1, 'the first frame in the engine')
    publish(raw_message(painted_frame()[0], 6))
    clock.advance(0.3)
    engine.let_through()
    wait_until(lambda: engine.entered == entered + 2, 'the frame that waited in the engine')
    clock.advance(0.05)
    engine.let_through()
    rig.wait_count('processed', 2)
    latency = rig.node.pipeline.stages.summary()['arrival to publish']
    assert (latency.p50_ms, latency.p95_ms) == pytest.approx((325, 347.5), abs=0.01)


def test_without_a_budget_nothing_smaller_is_loaded_and_nothing_happens(rig):
    fly = Flight(rig)
    fly(60, full=1000)
    assert len(rig.gates.engines) == 1
    assert [mode.data for mode in fly.modes] == ['nominal']
    assert not [key for key in fly.status()[2] if key.startswith('budget')]


def test_switched_on_in_flight_it_loads_the_smaller_inputs_beside_the_frames(rig):
    fly = Flight(rig)
    fly(2)
    assert all(result.successful for result in rig.set_parameters(**BUDGET))
    wait_until(lambda: rig.node.pipeline.model.smaller is not None, 'the smaller input')
    fly.slow(rig.gates.engines[1])
    fly(5, full=150)
    wait_until(lambda: len(fly.modes) == 2, 'the degraded mode')
    assert fly.modes[1].data.startswith(SMALL)
    assert rig.set_parameters(budget__latency_ms=0)[0].successful
    fly(1)
    wait_until(lambda: len(fly.modes) == 3, 'the end of the budget')
    assert fly.modes[2].data == 'nominal'


def test_a_bundle_that_changed_on_disk_lends_no_smaller_input(rig, tmp_path):
    rig.bundle = shutil.copytree(rig.bundle, tmp_path / 'mine')
    fly = Flight(rig)
    manifest = rig.bundle / 'manifest.yaml'
    manifest.write_text(manifest.read_text() + '# another\n')
    results = rig.set_parameters(**{**BUDGET, 'budget__max_skip': 1})
    assert all(result.successful for result in results)
    late = rig.node._late_inputs
    wait_until(lambda: not late._thread.is_alive(), 'the attempt')
    fly(6, full=150)
    assert rig.node.pipeline.model.smaller is None
    wait_until(lambda: len(fly.modes) == 2, 'the degraded mode')
    assert fly.modes[1].data.startswith('degraded: over the budget with nothing cheaper left: ')


def test_reload_begins_at_the_full_input_and_frees_all_engines(rig):
    fly = Flight(rig, **BUDGET)
    old = list(rig.gates.engines)
    fly(6, full=150)
    assert fly.rung == '1 of 2'
    assert rig.call(Trigger, '/seg_node/reload_model', Trigger.Request()).success
    wait_until(lambda: fly.modes[-1].data == 'nominal', 'the new model')
    assert len(rig.gates.engines) == 4 and all(engine.closed for engine in old)
    assert not any(engine.closed for engine in rig.gates.engines[2:])
    rig.node.close()
    assert all(engine.closed for engine in rig.gates.engines)


def test_a_hang_at_the_smaller_input_frees_the_others_and_begins_at_the_full_one(rig):
    fly = Flight(rig, **BUDGET)
    full, small = rig.gates.engines
    fly(5, full=150)
    entered = small.entered
    small.shut()
    fly._publish(raw_message(painted_frame()[0], fly.clock.ns))
    wait_until(lambda: small.entered == entered + 1, 'the frame in the engine')
    fly.clock.advance(3600)
    wait_until(lambda: fly.modes[-1].data == 'nominal', 'the new engines')
    assert len(rig.gates.engines) == 4
    wait_until(lambda: full.closed, 'the end of the engine that did not hang')
    assert not small.closed, 'a thread is still in it'
    small.open()
    wait_until(lambda: small.closed, 'the end of the one that did')
    fly(1)
    counts = rig.node.counters.snapshot()
    assert (counts['failed'], counts['processed']) == (1, 6)


class Wrong(GatedEngine):
    """Computes something else at the smaller input."""

    def infer(self, image_HWC):
        logits_CHW = super().infer(image_HWC)
        return -logits_CHW if self.input_hw == (32, 32) else logits_CHW


class WrongGates(Gates):
    """Loads such engines."""

    def __call__(self, *given, **options):
        self.engines.append(Wrong(load_engine(*given, **options)))
        return self.engine


def test_a_smaller_input_that_computes_something_else_keeps_the_node_from_starting(rig):
    rig.gates = WrongGates()
    node = rig.make_node(**BUDGET)
    assert node.start() != 0
    assert 'self-test' in str(node.fault)
    assert [engine.closed for engine in rig.gates.engines] == [True, True]


@pytest.mark.parametrize(('name', 'value', 'slow', 'calm', 'usual'), [
    ('budget.latency_ms', 200, 5, 0, '1 of 2'), ('budget.window_s', 2.0, 5, 0, '1 of 2'),
    ('budget.max_skip', 1, 10, 0, '2 of 2'), ('budget.return_share', 0.3, 5, 12, '0 of 2'),
    ('budget.return_after_s', 9.0, 5, 12, '0 of 2')])
def test_each_parameter_changes_what_happens(rig, name, value, slow, calm, usual):
    """So many slow and then calm frames lead to another rung than with the usual value."""
    fly = Flight(rig, **BUDGET, budget__return_share=0.7)
    usual_value = rig.node.get_parameter(name).value
    assert rig.set_parameters(**{name: value})[0].successful
    fly(slow, full=150, small=150)
    fly(calm)
    assert fly.rung != usual
    assert rig.set_parameters(**{name: usual_value})[0].successful
    if calm:
        fly(calm)
    else:
        fly(slow, full=150, small=150)
    assert fly.rung == usual


def test_a_mask_of_the_networks_size_keeps_it_on_every_rung(rig):
    fly = Flight(rig, **BUDGET, mask__size='network')
    fly(8, full=150)
    wait_until(lambda: len(fly.masks) == 8, 'all masks')
    assert fly.rung == '1 of 2'
    assert {(mask.height, mask.width) for mask in fly.masks} == {(64, 64)}


def test_a_bundle_without_a_smaller_input_skips_frames(rig, tiny):
    rig.bundle = tiny
    fly = Flight(rig, **BUDGET)
    assert rig.node.pipeline.model.describe().endswith(
        'smaller inputs for budget.latency_ms: none in the bundle')
    fly(5, full=150)
    wait_until(lambda: len(fly.modes) == 2, 'the degraded mode')
    assert fly.modes[1].data == f'degraded: every 2nd frame: {WHY.format(150)}'


def test_the_report_shows_the_heat_beside_the_rung(rig, tmp_path):
    fly = Flight(rig, **BUDGET)
    zone = tmp_path / 'sys/class/thermal/thermal_zone0'
    zone.mkdir(parents=True)
    (zone / 'type').write_text('CPU-therm\n')
    (zone / 'temp').write_text('84500\n')
    rig.node._report._board = Board(tmp_path)
    fly(5, full=150)
    level, sentence, values = fly.status()
    assert level == DiagnosticStatus.WARN and sentence.startswith('degraded: ')
    assert (values['budget rung'], values['temperature CPU-therm C']) == ('1 of 2', '84.5')


def test_a_late_subscriber_gets_the_degraded_mode(rig):
    fly = Flight(rig, **BUDGET)
    fly(5, full=150)
    late = rig.record(String, '/seg_node/mode', latched=True, match=False)
    wait_until(lambda: late, 'the latched mode')
    assert [mode.data for mode in late] == [f'{SMALL}: {WHY.format(150)}']
