# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""An engine that hangs: one frame and one thread are lost, the node goes on; then it ends."""
from __future__ import annotations

import re
import shutil

import pytest
from tiny_bundle import painted_frame, write_tiny_bundle

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402, I100
from evit_seg.core.errors import EngineHang  # noqa: E402
from evit_seg.ros.watchdog import LOAD_ALLOWED_S  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from rclpy.time import Time  # noqa: E402
from ros_rig import DEADLINE_S, FakeClock, raw_message, wait_until  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402

LONG_S = 100.0
assert LONG_S > LOAD_ALLOWED_S


class Hang:
    """A node with a frame in an engine that does not come back, on a clock that stands still."""

    def __init__(self, rig, **parameters):
        self.rig, self.clock = rig, FakeClock()
        rig.start_node(clock=self.clock, **parameters)
        self.reports = rig.record(DiagnosticArray, '/diagnostics')
        self.masks = rig.record(Image, '/seg_node/mask')
        self.image_HWC, _ = painted_frame()
        self.publish = rig.camera()
        self.engine = self.fill()
        self.thread = rig.node._worker._thread

    def offer(self):
        """Publish a frame stamped now; returns its header."""
        self.clock.advance(0.01)
        message = raw_message(self.image_HWC, self.clock.ns)
        self.publish(message)
        return message.header

    def fill(self):
        """Put a frame into the newest engine and keep it there; returns the engine."""
        engine = self.rig.gates.engine
        engine.shut()
        before = engine.entered
        self.offer()
        wait_until(lambda: engine.entered == before + 1, 'the frame in the engine')
        return engine

    def sentences(self, level=None):
        """Return the sentences on /diagnostics so far, those of a level where one is given."""
        return [report.status[0].message for report in self.reports
                if level in (None, report.status[0].level)]

    def numbers(self):
        """Return the values of a report that is made now."""
        asked = self.rig.node.get_clock().now()
        self.rig.node.report()
        wait_until(lambda: self.reports and Time.from_msg(
            self.reports[-1].header.stamp) >= asked, 'a report made after it was asked for')
        return {pair.key: pair.value for pair in self.reports[-1].status[0].values}


def test_a_hang_costs_one_frame_and_the_next_one_is_answered(rig):
    hang = Hang(rig)
    hang.offer()
    newest = hang.offer()
    hang.clock.advance(LONG_S)  # from here on the node's own timer does it all
    rig.wait_count('processed', 1)
    assert (rig.count('failed'), rig.count('replaced'), rig.count('in_work')) == (1, 1, 0)
    wait_until(lambda: hang.masks, 'the answer of the new engine')
    assert hang.masks[0].header == newest
    assert len(rig.gates.engines) == 2
    assert not hang.engine.closed, 'a thread is still in it'
    wait_until(lambda: hang.sentences(DiagnosticStatus.ERROR), 'the error')
    (said,) = set(hang.sentences(DiagnosticStatus.ERROR))
    assert re.fullmatch(r'not running: the engine hangs: onnxruntime on \w+ did not come back for '
                        r'100\.\d s; the frame is given up, a new engine is loaded', said)

    hang.engine.open()  # far too late
    hang.thread.join(DEADLINE_S)
    assert not hang.thread.is_alive()
    assert hang.engine.closed
    assert not rig.gates.engine.closed
    last = hang.offer()
    rig.wait_count('processed', 2)
    wait_until(lambda: len(hang.masks) == 2, 'the second answer')
    assert hang.masks[1].header == last, 'the late answer was published'
    assert rig.node.counters.balanced()
    numbers = hang.numbers()
    assert (numbers['given up frames'], numbers['frames failed']) == ('1', '1')
    assert hang.sentences()[-1] == 'running: nobody there, no alert is active'
    assert not rig.ended_by


def test_a_late_error_does_no_harm_either(rig):
    hang = Hang(rig)
    hang.clock.advance(LONG_S)
    rig.wait_count('failed', 1)
    hang.offer()
    rig.wait_count('processed', 1)
    hang.engine.failing = RuntimeError('CUDA error 719')
    hang.engine.open()
    hang.thread.join(DEADLINE_S)
    assert hang.engine.closed
    assert (rig.count('failed'), rig.count('processed'), rig.node.pipeline.fault) == (1, 1, '')


def test_the_node_answers_while_a_new_engine_is_loaded(rig):
    hang = Hang(rig)
    rig.gates.may_load.clear()
    reload_model = rig.client.create_client(Trigger, '/seg_node/reload_model')
    assert reload_model.wait_for_service(DEADLINE_S)
    hang.clock.advance(LONG_S)
    rig.wait_count('failed', 1)
    # The new engine is there no sooner than its gate opens: so these answers did not wait for it.
    assert rig.call(SetBool, '/seg_node/enable', SetBool.Request(data=True)).success
    assert rig.set_parameters(stale_after_s=3.0)[0].successful
    reloaded = reload_model.call_async(Trigger.Request())
    for _ in range(3):
        newest = hang.offer()
    assert (rig.count('replaced'), rig.count('in_work')) == (2, 1)
    hang.numbers()
    assert hang.sentences()[-1].endswith('a new engine is loaded')
    rig.gates.may_load.set()
    rig.wait_count('processed', 1)
    wait_until(lambda: hang.masks, 'the answer')
    assert hang.masks[0].header == newest
    wait_until(reloaded.done, 'the answer of reload_model')
    assert reloaded.result().success


def test_a_reload_that_waits_for_the_hung_frame_is_answered(rig, tmp_path):
    hang = Hang(rig)
    other = write_tiny_bundle(tmp_path / 'other', hw=(32, 32), stride=4)
    assert rig.set_parameters(model=str(other))[0].successful
    reload_model = rig.client.create_client(Trigger, '/seg_node/reload_model')
    assert reload_model.wait_for_service(DEADLINE_S)
    answer = reload_model.call_async(Trigger.Request())
    wait_until(lambda: rig.node._worker._actions, 'the model that waits to be swapped in')
    hang.clock.advance(LONG_S)
    wait_until(answer.done, 'the answer of reload_model')
    assert '32x32' in answer.result().message
    hung, reloaded, renewed = rig.gates.engines
    assert renewed.input_hw == (64, 64), 'the engine of the bundle in use, not of the wished one'
    assert (hung.closed, reloaded.closed, renewed.closed) == (False, False, True)
    assert rig.node.pipeline.model.segmenter.engine is reloaded
    hang.offer()
    rig.wait_count('processed', 1)


def test_the_second_hang_ends_the_node(rig):
    hang = Hang(rig)
    hang.clock.advance(LONG_S)
    rig.wait_count('failed', 1)
    wait_until(lambda: len(rig.gates.engines) == 2 and not rig.node.pipeline.hang, 'the new one')
    hang.fill()
    hang.clock.advance(LONG_S)
    wait_until(lambda: rig.ended_by, 'the end')
    (error,) = rig.ended_by
    assert isinstance(error, EngineHang)
    assert error.exit_code == 6
    assert rig.count('failed') == 2
    assert rig.node.counters.balanced()
    wait_until(lambda: f'not running: {error}' in hang.sentences(DiagnosticStatus.ERROR),
               'the last word')
    assert 'hangs again' in str(error)


def test_a_hang_that_was_a_stall_does_not_count(rig):
    hang = Hang(rig)
    for answered in (1, 2):  # a stall each time: the engine comes back, only too late
        hang.offer()
        hang.clock.advance(LONG_S)
        rig.wait_count('processed', answered)
        hang.engine.open()
        hang.thread.join(DEADLINE_S)
        assert not hang.thread.is_alive() and hang.engine.closed
        hang.thread = rig.node._worker._thread
        hang.engine = hang.fill()
    hang.engine.open()
    rig.wait_count('processed', 3)
    assert len(rig.gates.engines) == 3 and rig.ended_by == []
    assert hang.numbers()['given up frames'] == '2'


def test_a_new_engine_that_hangs_while_it_is_loaded_ends_the_node(rig):
    hang = Hang(rig)
    rig.gates.may_load.clear()
    hang.clock.advance(LONG_S)
    rig.wait_count('failed', 1)
    wait_until(lambda: rig.node.pipeline.watch._stay, 'the new engine to be loaded')
    hang.clock.advance(LONG_S)
    wait_until(lambda: rig.ended_by, 'the end')
    rig.gates.may_load.set()
    wait_until(lambda: len(rig.gates.engines) == 2 and rig.gates.engine.closed,
               'the engine that came too late to be closed')
    assert rig.count('failed') == 1


def test_without_a_new_engine_the_node_ends(rig, tmp_path):
    rig.bundle = shutil.copytree(rig.bundle, tmp_path / 'bundle')
    hang = Hang(rig)
    shutil.rmtree(rig.bundle)
    hang.clock.advance(LONG_S)
    wait_until(lambda: rig.ended_by, 'the end')
    assert 'a new one cannot be loaded: no bundle at' in str(rig.ended_by[0])


def test_hang_after_s_takes_effect_at_once_and_slow_engines_have_their_time(rig):
    hang = Hang(rig, engine__hang_after_s=0.0)
    pipeline = rig.node.pipeline
    hang.clock.advance(LONG_S)
    rig.node._look()
    assert rig.count('failed') == 0
    pipeline.watch._stay = pipeline.watch._stay._replace(allowed_s=4 * LONG_S)
    assert rig.set_parameters(engine__hang_after_s=2 * LONG_S)[0].successful
    hang.clock.advance(2 * LONG_S)
    rig.node._look()
    assert rig.count('failed') == 0, 'four times its slowest warm-up run is not over yet'
    hang.clock.advance(2 * LONG_S)
    rig.node._look()
    assert rig.count('failed') == 1


def test_the_time_an_engine_has_is_that_of_its_warm_up(rig):
    rig.start_node(clock=FakeClock())
    pipeline = rig.node.pipeline
    assert 0 < pipeline.model.warm_up_s < DEADLINE_S
    pipeline.model = pipeline.model._replace(warm_up_s=LONG_S)
    rig.gates.engine.shut()
    rig.camera()(raw_message(painted_frame()[0]))
    wait_until(lambda: pipeline.watch._stay, 'the frame in the engine')
    assert pipeline.watch._stay.allowed_s == 4 * LONG_S


def test_a_smaller_input_that_hangs_is_left_alone_and_all_others_are_freed(rig, tmp_path):
    rig.bundle = write_tiny_bundle(tmp_path / 'sizes', smaller=((32, 32),))
    clock = FakeClock()
    rig.start_node(clock=clock, budget__latency_ms=100, budget__window_s=1.0)
    full, small = rig.gates.engines
    compute = full.infer
    full.infer = lambda image_HWC: clock.advance(0.15) or compute(image_HWC)
    publish, frames, warm = rig.camera(), 0, small.entered
    while small.entered == warm:
        frames += 1
        assert frames < 50, 'the budget never stepped down'
        clock.advance(0.1)
        publish(raw_message(painted_frame()[0], clock.ns))
        rig.wait_count('processed', frames)
    small.shut()
    entered = small.entered
    publish(raw_message(painted_frame()[0], clock.ns))
    wait_until(lambda: small.entered > entered, 'the frame in the smaller input')
    clock.advance(LONG_S)
    rig.wait_count('failed', 1)
    publish(raw_message(painted_frame()[0], clock.ns))
    rig.wait_count('processed', frames + 1)
    assert (full.closed, small.closed, len(rig.gates.engines)) == (True, False, 4)
    small.open()
    wait_until(lambda: small.closed, 'the thread that comes back late to free it')


@pytest.mark.parametrize('back', [
    (Transition.TRANSITION_ACTIVATE,),
    (Transition.TRANSITION_CLEANUP, Transition.TRANSITION_CONFIGURE,
     Transition.TRANSITION_ACTIVATE)])
def test_a_node_that_is_deactivated_in_a_hang_comes_back_with_a_new_engine(rig, back):
    hang = Hang(rig)
    hang.clock.advance(LONG_S)
    assert rig.change_state(Transition.TRANSITION_DEACTIVATE)
    wait_until(lambda: any('the engine hangs' in said for said in hang.sentences(
        DiagnosticStatus.ERROR)), 'the error')
    for transition in back:
        assert rig.change_state(transition)
    assert not hang.engine.closed, 'a thread is still in it'
    hang.publish = rig.camera()
    hang.offer()
    rig.wait_count('processed', 1)
    assert (rig.count('failed'), len(rig.gates.engines)) == (1, 2)
    assert rig.node.counters.balanced()
