# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`bench --node` at a tiny scale: real processes, counts that add up; no time is tested."""
from __future__ import annotations

import json
import os
from pathlib import Path
import signal
import subprocess
import sys

import cv2
from evit_seg import bench
from evit_seg.benchmark import node as bench_node
from evit_seg.benchmark.processes import environment, Process
from evit_seg.core.errors import EvitSegError
import psutil
import pytest

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from evit_seg.benchmark.camera import message_of  # noqa: E402, I100
from evit_seg.ros.convert import frame_from_message  # noqa: E402
import numpy as np  # noqa: E402
from ros_rig import wait_until  # noqa: E402

SENT = 6
SECONDS_TO_END = 180  # a deadline for what would hang


@pytest.fixture
def no_training_library(tmp_path, monkeypatch):
    """Yield the file that a child process leaves behind when it imports torch or timm."""
    folder, trace = tmp_path / 'poison', tmp_path / 'imported'
    folder.mkdir()
    for name in ('torch', 'timm'):
        (folder / f'{name}.py').write_text(f'open({str(trace)!r}, "w").close()\n'
                                           'raise ImportError("not on a drone")\n')
    path = [str(folder), str(Path(__file__).resolve().parents[2])]
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join(path))
    return trace


def test_both_setups_beside_the_bare_segmenter(tiny, tmp_path, monkeypatch, capsys,
                                               no_training_library):
    monkeypatch.setattr(bench_node, 'PEAK_STEPS', 0)  # test_bench.py climbs
    monkeypatch.setattr(bench_node, '_bare_hz', lambda segmenter, frames, seconds: 10.0)
    out = tmp_path / 'bench.json'
    code = bench.main(['--node', str(tiny), '--size', '96x64', '--rates', '12', '--seconds', '0.5',
                       '--rounds', '1', '--threads', '1', '--json', str(out)])
    assert code == 0, capsys.readouterr().err
    whole = json.loads(out.read_text())
    result = whole['node']
    assert whole['machine']['cores'] >= 1 and 'commit' in whole
    assert (result['engine'], result['precision'], result['encoding']) == (
        'onnxruntime', 'fp32', 'bgr8')
    assert len(result['sha256']) == 64 and result['input_hw'] == [64, 64]
    assert result['rmw'].startswith('rmw_')
    assert set(result['message_ms']) == {'serialise', 'deserialise'}
    assert [(run['setup'], run['purpose']) for run in result['runs'][:2]] == [
        ('two_processes', 'flood'), ('one_process', 'flood')]
    assert [(run['setup'], run['purpose']) for run in result['runs'][-2:]] == [
        ('two_processes', 'fixed rate'), ('one_process', 'fixed rate')]
    for run in result['runs']:
        counts = run['counts']
        assert (run['offered_hz'], run['sent']) == (12.0, SENT)
        assert run['transport_loss'] == run['sent'] - counts['received'] >= 0
        assert counts['in_work'] == 0
        assert counts['received'] == sum(counts.values()) - counts['received']
        assert 0 < run['masks'] <= counts['processed']
        assert run['drops'] == pytest.approx(1 - run['masks'] / run['sent'])
        assert {'decode', 'pre', 'infer', 'post', 'publish', 'stamp to publish'} <= \
            set(run['node_ms'])
        assert run['latency_ms']['p50'] <= run['latency_ms']['p95']
        assert run['cpu_cores']['node'] >= 0 and run['rss_mb']['now'] > 1
    for setup in bench_node.SETUPS:
        cost = result['ros_cost'][setup]
        assert cost['ratio'] == pytest.approx(cost['node_hz'] / 10.0)
    assert 'two processes: ' in capsys.readouterr().out
    assert not no_training_library.exists()


def test_a_process_that_ends_is_reported_with_its_last_words(tmp_path):
    process = Process('evit_seg.no_such_module', [], environment('default', 1), tmp_path / 'log')
    try:
        with pytest.raises(EvitSegError, match=r'exit code 1: .*No module named'):
            process.answer()
    finally:
        process.stop()


def test_a_node_that_cannot_start_ends_the_measurement(tiny, tmp_path, monkeypatch):
    def wrong(what, bundle, path):
        path.write_text('/**: {ros__parameters: {model: /nowhere}}')
        return path
    monkeypatch.setattr(bench_node, '_parameters', wrong)
    for setup in bench_node.SETUPS:
        with pytest.raises(EvitSegError, match='ended with exit code'):
            bench_node.Setup(setup, bench_node.NodeBench(str(tiny)), tmp_path)


def test_ctrl_c_leaves_no_process_behind(tiny):
    bench_process = subprocess.Popen(
        [sys.executable, '-m', 'evit_seg.bench', '--node', str(tiny), '--size', '96x64',
         '--seconds', '1000'], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        # A test run in the background of a script inherits that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        parent = psutil.Process(bench_process.pid)
        wait_until(lambda: len(parent.children()) > 1, 'a camera and a node')
        children = parent.children()
        bench_process.send_signal(signal.SIGINT)
        _, said = bench_process.communicate(timeout=SECONDS_TO_END)
    finally:
        bench_process.kill()
    assert (bench_process.returncode, said) == (130, 'bench: interrupted\n')
    assert not psutil.wait_procs(children, timeout=SECONDS_TO_END)[1]


@pytest.mark.parametrize('encoding', ['bgr8', 'rgb8', 'bgra8', 'nv12', 'jpeg', 'mono8'])
def test_the_camera_sends_what_it_says(encoding):
    frame_HWC = np.full((32, 48, 3), (30, 90, 200), np.uint8)
    frame = frame_from_message(message_of(frame_HWC, encoding))
    wanted_HWC = frame_HWC
    if encoding == 'mono8':
        wanted_HWC = cv2.cvtColor(cv2.cvtColor(frame_HWC, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    got_HWC = frame.image_HWC if frame.colour == 'bgr' else frame.image_HWC[..., ::-1]
    np.testing.assert_allclose(got_HWC.astype(int), wanted_HWC, atol=4)
