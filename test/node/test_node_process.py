# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node as its own process: exit codes, what it imports, images in and masks back."""
from __future__ import annotations

import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

import pytest
from tiny_bundle import painted_frame, write_tiny_bundle

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

import rclpy  # noqa: E402, I100
from rclpy.context import Context  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from ros_rig import DEADLINE_S, mask_of, next_domain, raw_message  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SECONDS_TO_START = 180  # many at once, on a busy machine


def run_python(*arguments, domain=None):
    environment = dict(os.environ, PYTHONUNBUFFERED='1')
    if domain is not None:
        environment['ROS_DOMAIN_ID'] = str(domain)
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def start_node(*parameters, domain=None):
    arguments = [argument for parameter in parameters for argument in ('-p', parameter)]
    return run_python('-m', 'evit_seg.ros.node', '--ros-args', *arguments,
                      domain=domain or next_domain())


@pytest.fixture(scope='module')
def failed_starts(tmp_path_factory):
    """Start the node on each kind of broken bundle, all at once; name -> (exit code, output)."""
    folder = tmp_path_factory.mktemp('broken')
    whole = write_tiny_bundle(folder / 'whole')
    for name in ('truncated', 'exchanged'):
        shutil.copytree(whole, folder / name)
    content = (whole / 'tiny.onnx').read_bytes()
    (folder / 'truncated' / 'tiny.onnx').write_bytes(content[:-1])
    (folder / 'exchanged' / 'tiny.onnx').write_bytes(content[:-1] + b'?')
    write_tiny_bundle(folder / 'misfit', network_classes=13)
    parameters = {name: (f'model:={folder / name}',)
                  for name in ('missing', 'truncated', 'exchanged', 'misfit')}
    parameters['alert class'] = (f'model:={whole}', "alert.classes:=['pedestrian']")
    parameters['misspelt'] = (f'model:={whole}', 'alert.persn.min_pixels:=3')
    processes = {name: start_node(*given) for name, given in parameters.items()}
    try:
        outputs = {name: process.communicate(timeout=SECONDS_TO_START)[0]
                   for name, process in processes.items()}
        return {name: (process.returncode, outputs[name]) for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()


@pytest.mark.parametrize('name, code, said', [
    ('missing', 2, 'the folder does not exist'),
    ('truncated', 3, 'is truncated'),
    ('exchanged', 4, 'is not the file of this bundle'),
    ('misfit', 5, 'answers with 13 classes, the label map'),
    ('alert class', 5, "the label map has no class 'pedestrian'"),
    ('misspelt', 1, "unknown parameter 'alert.persn.min_pixels'; did you mean "
                    "'alert.person.min_pixels'?"),
])
def test_a_node_that_cannot_start_exits_with_its_own_code_and_message(
        failed_starts, name, code, said):
    returned, output = failed_starts[name]
    assert returned == code, output
    assert said in output
    assert 'Traceback' not in output


def test_importing_the_node_brings_no_training_library():
    check = ('import sys, evit_seg.ros.node; '
             "heavy = {'torch', 'timm', 'torchvision', 'onnxruntime', 'onnx', 'offline_train'}; "
             'print(sorted(heavy & set(sys.modules)))')
    output, _ = run_python('-c', check).communicate(timeout=SECONDS_TO_START)
    assert output.splitlines()[-1] == '[]', output


@pytest.mark.parametrize('the_context_ended, code', [(True, 0), (False, 1)])
def test_a_signal_in_the_middle_of_a_wait_is_an_orderly_end(tiny, the_context_ended, code):
    ending = 'rclpy.shutdown()' if the_context_ended else 'pass'
    check = f"""
import sys, rclpy, evit_seg.ros.node as node_module
from rclpy._rclpy_pybind11 import RCLError
def spin(node):
    {ending}
    raise RCLError('failed to initialize wait set')
rclpy.spin = spin
sys.argv = ['seg_node', '--ros-args', '-p', 'model:={tiny}']
raise SystemExit(node_module.main())
"""
    process = run_python('-c', check, domain=next_domain())
    output, _ = process.communicate(timeout=SECONDS_TO_START)
    assert process.returncode == code, output
    assert ('Traceback' in output) is not the_context_ended, output


@pytest.mark.parametrize('end', [signal.SIGINT, signal.SIGTERM])
def test_images_in_one_process_masks_from_another(tiny, end):
    domain = next_domain()
    process = start_node(f'model:={tiny}', domain=domain)
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = rclpy.create_node('camera', context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    masks = []
    node.create_subscription(Image, '/seg_node/mask', masks.append, 10)
    camera = node.create_publisher(Image, '/image_raw', 1)
    image_HWC, ids_HW = painted_frame()
    sent = []

    def send():  # until the two have found each other, frames and masks are lost
        sent.append(raw_message(image_HWC, stamp_ns=10 ** 18 + len(sent)))
        camera.publish(sent[-1])
    node.create_timer(0.05, send)
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while len(masks) < 3 and process.poll() is None and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.1)
        assert len(masks) >= 3, 'no masks came back'
        sent_headers = [message.header for message in sent]
        numbers = [sent_headers.index(mask.header) for mask in masks]
        assert numbers == sorted(set(numbers)), 'a mask per frame at most, in their order'
        assert (mask_of(masks[0])[8::16, 8::16] == ids_HW[8::16, 8::16]).all()
        process.send_signal(end)
        output, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, output
        assert 'Traceback' not in output
    finally:
        process.kill()
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()
