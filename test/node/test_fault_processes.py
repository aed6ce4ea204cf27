# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How the node's process ends: by a hang, by a signal, by force; and that the next one serves."""
from __future__ import annotations

import signal

import numpy as np
import pytest
from tiny_bundle import painted_frame

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from node_process import Peer  # noqa: E402, I100
from ros_rig import DEADLINE_S, mask_of  # noqa: E402

HANGS = """
import ctypes, functools
from evit_seg.core.engine import load_engine
class Hangs:
    def __init__(self, engine, on):
        self._engine, self._on = engine, on
    def __getattr__(self, name):
        return getattr(self._engine, name)
    def infer(self, image_HWC):
        if (image_HWC == self._on).all():
            ctypes.CDLL(None).sleep(10 ** 6)  # out of Python's reach, as a driver is
        return self._engine.infer(image_HWC)
colours = [255, 0]  # the first engine hangs on white, the second one on black
node_module.SegNode = functools.partial(node_module.SegNode, load=lambda *given, **options: Hangs(
    load_engine(*given, **options), colours.pop(0)))
"""
WHITE_HWC = np.full((64, 64, 3), 255, np.uint8)
BLACK_HWC = np.zeros_like(WHITE_HWC)


def test_the_second_hang_ends_the_process_with_code_6(tiny):
    with Peer(HANGS) as peer:
        peer.start(f'model:={tiny}', 'engine.hang_after_s:=0.1')
        peer.image_HWC = WHITE_HWC
        peer.spin_until(lambda: peer.masks, 'an answer of the second engine')
        peer.spin_until(lambda: peer.number('given up frames') == '1', 'a report of the hang')
        peer.image_HWC = BLACK_HWC
        code, output = peer.spin_until_it_ends()
        assert code == 6, output
        assert 'Traceback' not in output
        assert peer.sentences()[-1].startswith('not running: the engine hangs again')
        assert peer.number('given up frames') == '2'


BEFORE_HUMBLE = """
import sys
assert 'rclpy.lifecycle' in sys.modules
for name in [name for name in sys.modules if name.startswith(('rclpy.lifecycle', 'evit_seg.ros'))]:
    del sys.modules[name]
sys.modules['rclpy.lifecycle'] = None  # importing it fails from here on
import evit_seg.ros.node as node_module
assert not hasattr(node_module.SegNode, 'trigger_cleanup')
"""


def test_where_rclpy_has_no_lifecycle_the_node_runs_all_the_same(tiny):
    with Peer(BEFORE_HUMBLE) as peer:
        peer.start(f'model:={tiny}')
        image_HWC, ids_HW = painted_frame()
        peer.image_HWC = image_HWC
        peer.spin_until(lambda: peer.masks and peer.reports, 'a mask and a report')
        assert (mask_of(peer.masks[0])[8::16, 8::16] == ids_HW[8::16, 8::16]).all()
        peer.spin_until(lambda: peer.number('state') == 'active'
                        and peer.sentences()[-1].startswith('running: '), 'a good report')
        peer.process.send_signal(signal.SIGINT)
        code, output = peer.spin_until_it_ends()
        assert code == 0, output
        assert 'Traceback' not in output


def test_without_lifecycle_the_exit_codes_are_the_same_and_autostart_is_a_must(tmp_path):
    for parameters, exit_code, said in (
            ((f'model:={tmp_path / "missing"}',), 2, 'the folder does not exist'),
            (('autostart:=false',), 1, 'autostart: expected true')):
        with Peer(BEFORE_HUMBLE) as peer:
            peer.start(*parameters)
            code, output = peer.spin_until_it_ends()
            assert code == exit_code, output
            assert said in output
            assert 'Traceback' not in output


HANGS_IN_LOADING = """
import functools, threading
def load(*given, **options):
    print('loading', flush=True)
    threading.Event().wait()
node_module.SegNode = functools.partial(node_module.SegNode, load=load)
"""


@pytest.mark.parametrize('end', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_in_time_whatever_the_engine_does(tiny, end):
    with Peer(HANGS) as peer:
        peer.start(f'model:={tiny}', 'engine.hang_after_s:=0.0')
        peer.image_HWC = WHITE_HWC
        peer.spin_until(lambda: peer.number('frames in_work') == '2', 'a frame in hand')
        peer.process.send_signal(end)
        peer.spin_until(lambda: ']: ends' in peer.output(), 'the end to begin')
        peer.process.send_signal(signal.SIGINT)  # the impatient, and launch, send another one
        code, output = peer.spin_until_it_ends(DEADLINE_S)
        assert code == 0, output
        assert 'ends all the same: the frame in hand was not finished within 3 s' in output
        assert 'Traceback' not in output


@pytest.mark.parametrize('end', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_model_is_loaded_is_an_orderly_end(tiny, end):
    with Peer(HANGS_IN_LOADING) as peer:
        peer.start(f'model:={tiny}')
        peer.spin_until(lambda: 'loading' in peer.output(), 'the engine to be loaded')
        peer.process.send_signal(end)
        code, output = peer.spin_until_it_ends(DEADLINE_S)
        assert code == 0, output
        assert 'Traceback' not in output


def test_after_sigkill_a_new_process_serves_the_same_topics(tiny):
    with Peer() as peer:
        peer.image_HWC = painted_frame()[0]
        for _ in range(2):
            peer.start(f'model:={tiny}')
            peer.masks.clear()
            peer.reports.clear()
            peer.spin_until(lambda: peer.masks and peer.number('frames processed') != '',
                            'masks and a report')
            peer.spin_until(lambda: int(peer.number('frames processed')) > 0, 'the count')
            peer.process.kill()
            code, _ = peer.spin_until_it_ends()
            assert code == -signal.SIGKILL
