# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The node beside the bare Segmenter: frames/s, latency, processor time and memory.

Two setups: the camera in another process than the node, and both in one process. Each has a ROS
domain of its own and is spoken to over ROS alone; this process runs the bare Segmenter.
"""
from __future__ import annotations

import contextlib
from dataclasses import dataclass
import importlib.util
import os
from pathlib import Path
import tempfile
import time
from types import TracebackType
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Type

from evit_seg.benchmark.frames import encode, JPEG, source_frames
from evit_seg.benchmark.processes import environment, Process
from evit_seg.core.bundle import find_bundle
from evit_seg.core.errors import ConfigError, EvitSegError
from evit_seg.core.segmenter import Segmenter
import numpy as np
import yaml

SETUPS = ('two_processes', 'one_process')
FLOOD = 1.2
"""Rate offered to find what the node can do, as a multiple of the bare Segmenter's."""
MOST_DROPS = 0.05
PEAK_STEPS = 8
START_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class NodeBench:
    """
    What is measured.

    `seconds` is the length of one measurement, `rounds` how often the bare Segmenter and the
    setups take turns; size is (height, width), `transport` a key of TRANSPORTS.
    """

    model: str
    source_hw: Tuple[int, int] = (512, 512)
    encoding: str = 'bgr8'
    transport: str = 'large_data'
    setups: Sequence[str] = SETUPS
    rates_hz: Sequence[float] = (5.0, 10.0, 30.0)
    seconds: float = 5.0
    rounds: int = 3
    threads: int = 0
    engine: str = 'onnxruntime'
    provider: str = 'cpu'
    precision: Optional[str] = None


def bench_node(what: NodeBench) -> Dict[str, Any]:
    """
    Return the node's figures beside the bare Segmenter's; ConfigError where rclpy is missing.

    `ros_cost` holds frames/s of both, measured in turns; `runs` a row for every rate offered.
    """
    if importlib.util.find_spec('rclpy') is None:
        raise ConfigError('--node needs ROS 2: the Python module rclpy is not there; source '
                          'the setup file of a ROS 2 installation, or pip install evit_seg[ros]')
    segmenter = Segmenter.open(what.model, engine=what.engine, threads=what.threads,
                               provider=what.provider, precision=what.precision)
    with contextlib.closing(segmenter), tempfile.TemporaryDirectory() as folder:
        segmenter.warm_up()
        frames = source_frames(segmenter.bundle, what.source_hw)
        encode(frames[0], what.encoding)  # an encoding that does not fit is said at once
        result, runs = _ros_cost(what, segmenter, frames, Path(folder))
        for setup in what.setups:
            for rate_hz in what.rates_hz:
                # A node of its own, as its stage times are those of its last 256 frames.
                with Setup(setup, what, Path(folder)) as other:
                    runs.append(other.offer(rate_hz, what.seconds, 'fixed rate'))
        engine = segmenter.engine
        return {'name': segmenter.manifest.name, 'sha256': segmenter.bundle.sha256,
                'engine': engine.name, 'provider': engine.provider,
                'precision': engine.precision, 'input_hw': list(engine.input_hw),
                'threads': what.threads, 'height': what.source_hw[0],
                'width': what.source_hw[1], 'encoding': what.encoding,
                'transport': what.transport, 'seconds': what.seconds, **result, 'runs': runs}


def _ros_cost(what: NodeBench, segmenter: Segmenter, frames: Sequence[np.ndarray], folder: Path
              ) -> Tuple[Dict[str, Any], List[Dict[str, Any]]]:
    """Let the bare Segmenter and the setups take turns, then look for the peak of each setup."""
    runs: List[Dict[str, Any]] = []
    bare_hz: List[float] = []
    with contextlib.ExitStack() as stack:
        setups = [stack.enter_context(Setup(name, what, folder)) for name in what.setups]
        memory_mb = {setup.name: setup.node.memory_mb()['now'] for setup in setups}
        for _ in range(what.rounds):
            bare_hz.append(_bare_hz(segmenter, frames, what.seconds))
            for setup in setups:
                runs.append(setup.offer(FLOOD * bare_hz[-1], what.seconds, 'flood'))
        cost = {setup.name: _cost_row(bare_hz, runs, setup.name) for setup in setups}
        for setup in setups:
            cost[setup.name]['start_rss_mb'] = memory_mb[setup.name]
            start_hz = cost[setup.name]['node_hz']
            if start_hz is not None:
                found = list(_climb(setup, start_hz, what.seconds))
                runs.extend(found)
                cost[setup.name]['peak_hz'] = max(
                    (run['sent_hz'] for run in found if run['drops'] < MOST_DROPS), default=None)
        about = setups[0].about if setups else {}
    return {**about, 'bare_hz': _median(bare_hz), 'ros_cost': cost}, runs


def _cost_row(bare_hz: Sequence[float], runs: Sequence[Mapping[str, Any]], setup: str
              ) -> Dict[str, Any]:
    node_hz = [run['masks_hz'] for run in runs if run['setup'] == setup]
    ratios = [None if node is None else node / bare for node, bare in zip(node_hz, bare_hz)]
    return {'bare_hz': list(bare_hz), 'rounds_hz': node_hz, 'ratios': ratios,
            'node_hz': _median(node_hz), 'ratio': _median(ratios), 'peak_hz': None}


def _median(values: Sequence[Optional[float]]) -> Optional[float]:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _bare_hz(segmenter: Segmenter, frames: Sequence[np.ndarray], seconds: float) -> float:
    begin_s = now_s = time.perf_counter()
    done = 0
    while now_s < begin_s + seconds:
        segmenter(frames[done % len(frames)], 'bgr')
        done += 1
        now_s = time.perf_counter()
    return done / (now_s - begin_s)


def _climb(setup: Setup, start_hz: float, seconds: float) -> Iterator[Dict[str, Any]]:
    """Offer less until few frames are dropped, or more as long as few are; yield each run."""
    rate_hz, step = start_hz, 0.0
    for _ in range(PEAK_STEPS):
        run = setup.offer(rate_hz, seconds, 'peak')
        yield run
        kept = run['drops'] < MOST_DROPS
        if step and kept == (step < 1):
            return
        step = 1.05 if kept else 1 / 1.05
        rate_hz *= step


class Setup:
    """A node and its camera, in one process or in two; ready when entered, ended when left."""

    def __init__(self, name: str, what: NodeBench, folder: Path) -> None:
        self.name = name
        bundle = find_bundle(what.model)
        parameters = _parameters(what, bundle, folder / 'parameters.yaml')
        around = environment(what.transport, 1 + (2 * os.getpid() + SETUPS.index(name)) % 100)
        here = name == 'one_process'
        self._processes: List[Process] = []
        camera = ['--model', str(bundle), '--height', str(what.source_hw[0]),
                  '--width', str(what.source_hw[1]), '--encoding', what.encoding]
        ros = ['--ros-args', '--params-file', str(parameters)]
        try:
            self._camera = self._start('evit_seg.benchmark.camera', [
                *camera, *(['--with-node', *ros] if here else [])], around, folder)
            self.node = self._camera if here else self._start('evit_seg.ros.node', ros, around,
                                                              folder)
            self.about = self._camera.answer()
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def _start(self, module: str, arguments: List[str], around: Mapping[str, str],
               folder: Path) -> Process:
        process = Process(module, arguments, around, folder / f'{self.name}_{module}.log')
        self._processes.append(process)
        return process

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._camera.ask({})['ready']:
            self.node.check()
            if time.monotonic() > deadline_s:
                raise EvitSegError('camera and node did not find each other within '
                                   f'{START_TIMEOUT_S:g} s; does a firewall block UDP?')

    def __enter__(self) -> Setup:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.stop()

    def offer(self, rate_hz: float, seconds: float, purpose: str) -> Dict[str, Any]:
        """Send frames at a rate; return the camera's figures and what the processes took."""
        before_s = {process: process.cpu_s() for process in self._processes}
        answer = self._camera.ask({'rate_hz': rate_hz, 'seconds': seconds},
                                  timeout_s=60.0 + 2 * seconds)
        self.node.check()
        cpu: Dict[Process, Optional[float]] = {}
        for process, begin_s in before_s.items():
            end_s = process.cpu_s()
            cpu[process] = None if begin_s is None or end_s is None \
                else (end_s - begin_s) / seconds
        return {'setup': self.name, 'purpose': purpose, **answer,
                'cpu_cores': {'node': cpu[self.node],
                              'camera': None if self.node is self._camera
                              else cpu[self._camera]},
                'rss_mb': self.node.memory_mb()}


def _parameters(what: NodeBench, bundle: Path, path: Path) -> Path:
    values: Dict[str, Any] = {
        'model': str(bundle), 'engine.name': what.engine, 'engine.provider': what.provider,
        'engine.threads': what.threads, 'engine.precision': what.precision or '',
        'image.transport': 'compressed' if what.encoding == JPEG else 'raw'}
    path.write_text(yaml.safe_dump({'/**': {'ros__parameters': values}}), encoding='utf-8')
    return path
