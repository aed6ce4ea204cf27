# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
What an NVIDIA GPU tells about itself: memory, power, energy.

Through `pynvml` (pip: nvidia-ml-py) where it is installed, else the program nvidia-smi, which
tells less. A Jetson's GPU shares the board's memory and answers neither.
"""
from __future__ import annotations

from dataclasses import dataclass
import os
from pathlib import Path
import shutil
import subprocess
from typing import Any, Callable, List, Optional

from evit_seg.core.errors import InputError

ROOT = Path('/')
_DEVICE_FILES = ('dev/nvidiactl', 'dev/dxg')


class GpuMissing(InputError):
    """No GPU that answers; the message is the reason."""


@dataclass(frozen=True)
class Gpu:
    """
    Readings of one GPU; None stands for a reading this GPU or driver does not have.

    used_mb: memory taken on the whole GPU. process_mb: memory of a process id, None when the
    driver does not show that process (in a container, for one). MB are 10^6 bytes.
    """

    name: str
    used_mb: Callable[[], float]
    process_mb: Callable[[int], Optional[float]]
    watts: Optional[Callable[[], float]]
    millijoules: Optional[Callable[[], int]]


def open_gpu(root: Path = ROOT) -> Gpu:
    """Return the GPU that a program started here would use first; GpuMissing with the reason."""
    if not any((root / name).exists() for name in _DEVICE_FILES):
        raise GpuMissing('absent: no driver of an NVIDIA card (a Jetson has none of this kind)')
    visible = os.environ.get('CUDA_VISIBLE_DEVICES', '').partition(',')[0].strip() or '0'
    try:
        import pynvml
    except ImportError:
        return _open_smi(root, visible)
    try:
        return _open_nvml(pynvml, visible)
    except pynvml.NVMLError as error:
        raise GpuMissing(f'NVML, GPU {visible}: {error}') from error


def _open_nvml(nvml: Any, visible: str) -> Gpu:
    nvml.nvmlInit()
    handle = nvml.nvmlDeviceGetHandleByIndex(int(visible)) if visible.isdigit() else \
        nvml.nvmlDeviceGetHandleByUUID(visible)
    name = nvml.nvmlDeviceGetName(handle)

    def checked(call: Callable[[Any], Any]) -> Callable[[], Any]:
        def read() -> Any:
            try:
                return call(handle)
            except nvml.NVMLError as error:
                raise GpuMissing(f'NVML, GPU {visible}: {error}') from error
        return read

    def process_mb(pid: int) -> Optional[float]:
        rows = checked(nvml.nvmlDeviceGetComputeRunningProcesses)()
        used = [row.usedGpuMemory for row in rows if row.pid == pid]
        return used[0] / 1e6 if used and used[0] is not None else None

    return Gpu(name.decode() if isinstance(name, bytes) else name,
               checked(lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used / 1e6), process_mb,
               _if_it_answers(checked(lambda gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3)),
               _if_it_answers(checked(nvml.nvmlDeviceGetTotalEnergyConsumption)))


def _if_it_answers(read: Callable[[], Any]) -> Optional[Callable[[], Any]]:
    try:
        read()
    except GpuMissing:
        return None
    return read


def _open_smi(root: Path, visible: str) -> Gpu:
    tool = shutil.which('nvidia-smi') if root == ROOT else str(root / 'usr/bin/nvidia-smi')
    if tool is None or not Path(tool).is_file():
        raise GpuMissing('neither the Python package pynvml (pip install nvidia-ml-py) nor '
                         'nvidia-smi is here')
    ask = [tool, f'--id={visible}', '--format=csv,noheader,nounits']

    def field(name: str) -> str:
        rows = _run([*ask, f'--query-gpu={name}'])
        return rows[0].strip() if rows else ''

    def number(name: str) -> float:
        text = field(name)
        try:
            return float(text)
        except ValueError as error:
            raise GpuMissing(f'nvidia-smi, GPU {visible}: {name} is {text!r}') from error

    def process_mb(pid: int) -> Optional[float]:
        rows = [row.split(',') for row in _run([*ask, '--query-compute-apps=pid,used_memory'])]
        used = [row[1].strip() for row in rows if row[0].strip() == str(pid)]
        return int(used[0]) * 1.048576 if used and used[0].isdigit() else None

    return Gpu(field('name'), lambda: number('memory.used') * 1.048576, process_mb,
               _if_it_answers(lambda: number('power.draw')), None)


def _run(command: List[str]) -> List[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GpuMissing(f'nvidia-smi did not run: {error}') from error
    if done.returncode != 0:
        raise GpuMissing(f'nvidia-smi ended with {done.returncode}: '
                         f'{(done.stdout + done.stderr).strip()[:200]}')
    return done.stdout.splitlines()
