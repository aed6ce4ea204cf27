# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the numbers were measured on and with."""
from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
import platform
from typing import Dict, Optional, Sequence

import numpy as np


def machine_facts() -> Dict[str, object]:
    """Return processor, usable cores, load and the versions that matter for speed and results."""
    return {'processor': _processor(), 'architecture': platform.machine(),
            'cores': len(os.sched_getaffinity(0)), 'load_1min': round(os.getloadavg()[0], 2),
            'system': f'{platform.system()} {platform.release()}',
            'python': platform.python_version(), 'numpy': np.__version__,
            'onnxruntime': _version('onnxruntime', 'onnxruntime-gpu'),
            'opencv': _version('opencv-python-headless', 'opencv-python')}


def _processor() -> str:
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding='utf-8', errors='replace').splitlines():
            if line.startswith(('model name', 'Model')):
                return line.partition(':')[2].strip()
    return platform.machine()


def _version(*names: str) -> Optional[str]:
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def percentiles_ms(values_ms: Sequence[float]) -> Dict[str, float]:
    """Return mean, p50, p95, p99 and max of durations in ms, rounded to microseconds."""
    p50, p95, p99 = np.percentile(values_ms, (50, 95, 99))
    return {'mean': round(float(np.mean(values_ms)), 3), 'p50': round(float(p50), 3),
            'p95': round(float(p95), 3), 'p99': round(float(p99), 3),
            'max': round(float(np.max(values_ms)), 3)}
