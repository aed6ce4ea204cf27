# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The memory one bundle costs, measured in a process of its own.

In one process the peak of the first bundle would hide the second, and what an engine does not
give back would be counted twice. `python -m offline_train.measuring.memory JSON` is that process.
"""
from __future__ import annotations

import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from evit_seg.core.bundle import open_bundle, select_variant
from evit_seg.core.engine import load_engine
from evit_seg.core.errors import EvitSegError
from evit_seg.core.machine import process_memory_mb, system_memory_mb
from evit_seg.core.segmenter import Segmenter
import numpy as np
from offline_train.measuring.nvidia import Gpu, GpuMissing, open_gpu

FRAMES = 10


def measure_memory(folder: Path, *, precision: str, height: int, provider: str, threads: int,
                   size: Sequence[int]) -> Dict[str, Any]:
    """
    Return what a child process needs for a few frames of `size` (height, width), in MB.

    rss_mb, peak_rss_mb, swap_mb: the child's, by the kernel; rss_before_mb: the same child's
    before it had engine and model. system_mb, system_swap_mb: the whole machine's, and _before.
    gpu_mb with gpu_source. The child's own error is raised here, with its exit code.
    """
    task = {'folder': str(Path(folder).resolve()), 'precision': precision, 'height': height,
            'provider': provider, 'threads': threads, 'size': list(size)}
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get('PYTHONPATH')])]
    done = subprocess.run(
        [sys.executable, '-m', 'offline_train.measuring.memory', json.dumps(task)],
        stdout=subprocess.PIPE, text=True, check=False,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)})
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        how = f'was ended by signal {-done.returncode} (9: out of memory?)' \
            if done.returncode < 0 else f'ended with {done.returncode}'
        raise EvitSegError(f'memory of {folder}: the process that measures it {how}; '
                           'its own words stand above')
    answer: Dict[str, Any] = json.loads(lines[-1])  # a provider may have printed before it
    if 'error' in answer:
        failure = EvitSegError(answer['error'])
        failure.exit_code = answer['exit_code']
        raise failure
    return answer


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Measure the bundle described by the one JSON argument; print the answer as JSON."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        answer = _measure_here(json.loads(arguments[0]))
    except EvitSegError as error:
        answer = {'error': str(error), 'exit_code': error.exit_code}
    print(json.dumps(answer), flush=True)
    return 0


def _measure_here(task: Mapping[str, Any]) -> Dict[str, Any]:
    before, system_before = process_memory_mb(), system_memory_mb()
    gpu_reading = GpuReading(task['provider'])
    bundle = open_bundle(Path(task['folder']))
    variant = select_variant(bundle, precision=task['precision'], height=task['height'])
    segmenter = Segmenter(bundle, load_engine(bundle, variant=variant, threads=task['threads'],
                                              provider=task['provider']))
    frame_HWC = np.random.default_rng(0).integers(0, 256, (*task['size'], 3), dtype=np.uint8)
    for _ in range(FRAMES):
        segmenter(frame_HWC, 'bgr')
    after, system_after = process_memory_mb(), system_memory_mb()
    gpu_mb, gpu_source = gpu_reading.end()
    segmenter.close()
    return {'rss_mb': after['rss'], 'peak_rss_mb': after['peak_rss'], 'swap_mb': after['swap'],
            'rss_before_mb': before['rss'],
            'system_mb': system_after['used'], 'system_before_mb': system_before['used'],
            'system_swap_mb': system_after['swap_used'],
            'system_swap_before_mb': system_before['swap_used'],
            'gpu_mb': gpu_mb, 'gpu_source': gpu_source}


class GpuReading:
    """The GPU's memory now and at the end; a GPU that does not tell gives the reason instead."""

    def __init__(self, provider: str) -> None:
        self._reason = 'the provider is cpu'
        self._gpu: Optional[Gpu] = None
        if provider != 'cpu':
            try:
                self._gpu = open_gpu()
                self._before_mb = self._gpu.used_mb()
            except GpuMissing as error:
                self._gpu, self._reason = None, str(error)

    def end(self) -> Tuple[Optional[float], str]:
        """Return what this process has taken since in MB, or None, and what was counted."""
        if self._gpu is None:
            return None, self._reason
        try:
            own_mb = self._gpu.process_mb(os.getpid())
            if own_mb is not None:
                return round(own_mb, 1), f'{self._gpu.name}: this process'
            return (round(self._gpu.used_mb() - self._before_mb, 1),
                    f'{self._gpu.name}: growth of the whole GPU while the model was loaded')
        except GpuMissing as error:
            return None, str(error)


if __name__ == '__main__':
    sys.exit(main())
