# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node and its engine: built beforehand, warm before the first frame, named on diagnostics."""
from __future__ import annotations

import importlib.util
import os
from pathlib import Path
import shutil
import subprocess
import sys
import threading

import pytest
from tiny_bundle import painted_frame

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402, I100
from evit_seg.core.engine import CacheState  # noqa: E402
from evit_seg.core.errors import ConfigError  # noqa: E402
from evit_seg.ros.build import Builds  # noqa: E402
from ros_rig import next_domain, raw_message, wait_until  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec('openvino') is None,
    reason='needs openvino, which `make test` brings where a wheel exists')


def build(*parameters):
    """Run `seg_node --build-only` to its end."""
    arguments = [argument for parameter in parameters for argument in ('-p', parameter)]
    return subprocess.run(
        [sys.executable, '-m', 'evit_seg.ros.node', '--build-only', '--ros-args', *arguments],
        cwd=ROOT, env=dict(os.environ, ROS_DOMAIN_ID=str(next_domain())), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_build_only_says_what_it_built_and_ends(tiny):
    run = build(f'model:={tiny}', 'engine.threads:=1')
    assert run.returncode == 0, run.stdout
    assert ('tiny.onnx: onnxruntime on cpu, fp32, 64x64; engine cache: this '
            'engine keeps none') in run.stdout
    assert 'self-test 0.8' in run.stdout and 'Traceback' not in run.stdout
    assert 'listening to' not in run.stdout


@needs_openvino
def test_build_only_takes_the_nodes_parameters(tiny):
    run = build(f'model:={tiny}', 'engine.name:=openvino', 'engine.cpus:=0-0')
    assert run.returncode == 0, run.stdout
    assert 'tiny.onnx: openvino on cpu, fp32' in run.stdout


def truncated(folder):
    content = (folder / 'tiny.onnx').read_bytes()
    (folder / 'tiny.onnx').write_bytes(content[:-1])


@pytest.mark.parametrize('harm, parameters, code, said', [
    (truncated, (), 3, 'is truncated'), (shutil.rmtree, (), 2, 'the folder does not exist'),
    (None, ('engine.provider:=tensorrt',), 1, 'has no TensorrtExecutionProvider'),
    (None, ('engine.nam:=openvino',), 1, "did you mean 'engine.name'?"),
    (None, ("alert.classes:=['pedestrian']",), 5, "no class 'pedestrian'")])
def test_build_only_ends_with_the_errors_own_code(tiny, tmp_path, harm, parameters, code, said):
    folder = shutil.copytree(tiny, tmp_path / 'bundle')
    if harm is not None:
        harm(folder)
    run = build(f'model:={folder}', *parameters)
    assert run.returncode == code, run.stdout
    assert said in run.stdout and 'Traceback' not in run.stdout


class Cached:
    """Loads real engines that report on a cache as TensorRT's do."""

    def __init__(self, gates, failed):
        self._gates = gates
        self._state = CacheState('none: No space left on device' if failed else 'built in /cache',
                                 failed)

    def __call__(self, *args, **options):
        engine = self._gates(*args, **options)
        engine.cache = self._state
        return engine


@pytest.mark.parametrize('failed, code', [(False, 0), (True, 1)])
def test_build_only_fails_when_the_cache_could_not_be_kept(tiny, failed, code):
    argv = ['seg_node', '--build-only', '--ros-args', '-p', f'model:={tiny}']
    script = f"""
import sys
sys.path[:0] = ['test', 'test/node']
from ros_rig import Gates
from test_node_engine import Cached
from evit_seg.ros.build import build_only
raise SystemExit(build_only({argv!r}, 'seg_node', Cached(Gates(), {failed})))
"""
    run = subprocess.run([sys.executable, '-c', script], cwd=ROOT, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert run.returncode == code, run.stdout
    assert ('No space left' if failed else 'engine cache: built in /cache') in run.stdout


def test_a_cache_that_could_not_be_kept_does_not_stop_the_node_and_is_said(rig):
    node = rig.make_node()
    node._load = Cached(rig.gates, failed=True)
    assert node.start() == 0
    rig.spin_node()
    reports = rig.record(DiagnosticArray, '/diagnostics')
    rig.camera()(raw_message(painted_frame()[0]))
    rig.wait_count('processed', 1)
    wait_until(lambda: reports, 'a report')
    values = {value.key: value.value for value in reports[-1].status[0].values}
    assert values['engine cache'] == 'none: No space left on device'
    assert (values['engine'], values['provider']) == ('onnxruntime', 'cpu')


def test_every_engine_that_is_opened_is_in_the_builders_list(rig, tiny):
    from evit_seg.core.bundle import open_bundle
    bundle = open_bundle(tiny)
    builds = Builds()
    for _ in range(2):
        builds(bundle, 'onnxruntime', variant=bundle.manifest.variants[0])
    assert len(builds.lines) == 2 and not builds.failed


@pytest.mark.parametrize('cpus, threads, wanted', [('', 0, 0), ('0-0', 0, 1), ('0-0', 3, 3)])
def test_cpus_and_cache_folder_reach_the_engine(rig, tmp_path, monkeypatch, cpus, threads, wanted):
    from evit_seg.core import engine_onnx
    asked = []
    real = engine_onnx.OnnxEngine

    def engine(*args, **options):
        asked.append((options['threads'], options['cache_dir'], os.sched_getaffinity(0)))
        return real(*args, **options)
    monkeypatch.setattr(engine_onnx, 'OnnxEngine', engine)
    before = os.sched_getaffinity(0)
    rig.start_node(engine__cpus=cpus, engine__threads=threads, engine__cache_dir=str(tmp_path))
    assert asked == [(wanted, str(tmp_path), {0} if cpus else before)]
    assert os.sched_getaffinity(0) == before


def test_a_cpu_that_is_not_there_stops_the_node(rig):
    node = rig.make_node(engine__cpus='0-4095')
    assert node.start() == 1
    assert isinstance(node.fault, ConfigError) and 'engine.cpus' in str(node.fault)


@needs_openvino
def test_another_engine_by_name_answers_alike(rig):
    rig.start_node(engine__name='openvino', engine__threads=1)
    masks = rig.record(Image, '/seg_node/mask')
    reports = rig.record(DiagnosticArray, '/diagnostics')
    image_HWC, ids_HW = painted_frame()
    rig.camera()(raw_message(image_HWC))
    wait_until(lambda: masks, 'a mask')
    assert bytes(masks[0].data)[8 * 64 + 8] == ids_HW[8, 8]
    wait_until(lambda: reports, 'a report')
    values = {value.key: value.value for value in reports[-1].status[0].values}
    assert (values['engine'], values['provider']) == ('openvino', 'cpu')


def test_no_frame_is_answered_before_the_warm_up(rig):
    node = rig.make_node()
    shut = threading.Event()

    def load(*args, **options):
        engine = rig.gates(*args, **options)
        engine.shut()
        shut.set()
        return engine
    node._load = load
    codes = []
    starter = threading.Thread(target=lambda: codes.append(node.start()))
    publisher = rig.client.create_publisher(Image, 'image_raw', 1)
    starter.start()
    try:
        assert shut.wait(30)
        for runs in range(1, 5):  # the golden frame and three of the warm-up
            wait_until(lambda r=runs: rig.gates.engine.entered == r, f'run {runs} of the warm-up')
            publisher.publish(raw_message(painted_frame()[0]))
            assert node.phase == 'unconfigured'
            assert not [s for s in node.subscriptions if s.topic_name == publisher.topic_name]
            assert rig.count('received') == 0
            rig.gates.engine.let_through()
        starter.join(30)
    finally:
        rig.gates.engine.open()
        starter.join(30)
    assert (codes, node.phase, rig.gates.engine.entered) == ([0], 'active', 4)
    rig.spin_node()
    rig.camera()(raw_message(painted_frame()[0]))
    rig.wait_count('processed', 1)
    assert rig.gates.engine.entered == 5
