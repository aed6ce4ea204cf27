# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
What the numbers were measured on and with: the machine, its memory, its heat.

All of it is read from /proc and /sys; what a machine does not tell is None or absent, never a
guess. `root` is where those trees hang, another folder in tests.
"""
from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
import platform
import re
from typing import Dict, List, Optional, Sequence

import numpy as np

ROOT = Path('/')
PI_FLAGS = {0: 'too low a voltage', 1: 'clock capped', 2: 'throttled', 3: 'soft temperature limit'}
"""Bits of the Raspberry Pi's get_throttled that tell of now; 16 higher: since boot."""


def machine_facts(root: Path = ROOT) -> Dict[str, object]:
    """
    Return processor, usable cores, load and the versions that matter for speed and results.

    `board` names a single-board computer, `governor` the CPU's frequency policies, `power_mode` a
    Jetson's nvpmodel mode; each is None where the machine has no such thing.
    """
    return {'processor': _processor(), 'architecture': platform.machine(),
            'board': _text(root / 'proc/device-tree/model'),
            'cores': len(os.sched_getaffinity(0)), 'load_1min': round(os.getloadavg()[0], 2),
            'governor': _governor(root), 'power_mode': _power_mode(root),
            'memory_mb': system_memory_mb(root)['total'],
            'system': f'{platform.system()} {platform.release()}',
            'python': platform.python_version(), 'numpy': np.__version__,
            'onnxruntime': _version('onnxruntime', 'onnxruntime-gpu'),
            'opencv': _version('opencv-python-headless', 'opencv-python')}


def _text(path: Path) -> Optional[str]:
    """Return a small file of /proc or /sys without its trailing NUL, None if not readable."""
    try:
        return path.read_text(encoding='utf-8', errors='replace').replace('\0', '').strip()
    except OSError:
        return None


def _processor() -> str:
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding='utf-8', errors='replace').splitlines():
            if line.startswith(('model name', 'Model')):
                return line.partition(':')[2].strip()
    return platform.machine()


def _governor(root: Path) -> Optional[str]:
    """Return the frequency governor of the cores, several with a comma, None without cpufreq."""
    found = {_text(path) for path in
             root.glob('sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor')}
    return ', '.join(sorted(name for name in found if name)) or None


def _power_mode(root: Path) -> Optional[str]:
    """Return a Jetson's power mode as 'ID NAME' (NVIDIA's nvpmodel), None on other machines."""
    status = re.search(r'pmode:(\d+)', _text(root / 'var/lib/nvpmodel/status') or '')
    if status is None:
        return None
    mode = int(status.group(1))
    name = re.search(rf'POWER_MODEL\s+ID={mode}\s+NAME=(\S+)',
                     _text(root / 'etc/nvpmodel.conf') or '')
    return f'{mode} {name.group(1)}' if name else str(mode)


def _version(*names: str) -> Optional[str]:
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _kilobytes(path: Path) -> Dict[str, float]:
    """Return the 'Name: 12 kB' lines of a /proc file in MB (10^6 bytes)."""
    rows = re.findall(r'^(\w+):\s+(\d+) kB$', _text(path) or '', re.MULTILINE)
    return {name: round(int(value) * 1024 / 1e6, 1) for name, value in rows}


def process_memory_mb(root: Path = ROOT, pid: str = 'self') -> Dict[str, Optional[float]]:
    """Return `rss`, its highest value so far `peak_rss`, and `swap` of a process in MB."""
    rows = _kilobytes(root / 'proc' / pid / 'status')
    return {'rss': rows.get('VmRSS'), 'peak_rss': rows.get('VmHWM'), 'swap': rows.get('VmSwap')}


def system_memory_mb(root: Path = ROOT) -> Dict[str, Optional[float]]:
    """
    Return `total`, `used` and `swap_used` memory of the machine in MB.

    Used is what no program could be given: total less the kernel's MemAvailable.
    """
    rows = _kilobytes(root / 'proc/meminfo')

    def less(whole: str, rest: str) -> Optional[float]:
        return round(rows[whole] - rows[rest], 1) if whole in rows and rest in rows else None

    return {'total': rows.get('MemTotal'), 'used': less('MemTotal', 'MemAvailable'),
            'swap_used': less('SwapTotal', 'SwapFree')}


def thermal_state(root: Path = ROOT) -> Dict[str, object]:
    """
    Return what tells a machine that throttles from one that does not, now.

    temperature_c: `temperatures_c`. cpu_mhz, cpu_max_mhz: clock and its limit of each frequency
    policy, the kernel's numbers. throttled: the Raspberry Pi's flags as it writes them
    (hexadecimal, 0 is good), None on other machines.
    """
    return {'temperature_c': temperatures_c(root),
            'cpu_mhz': clocks_mhz(root, 'scaling_cur_freq'),
            'cpu_max_mhz': clocks_mhz(root, 'cpuinfo_max_freq'),
            'throttled': throttled_flags(root)}


def temperatures_c(root: Path = ROOT) -> Dict[str, float]:
    """Return degrees Celsius of each thermal zone by its type, such as 'cpu-thermal'."""
    found: Dict[str, float] = {}
    for zone in sorted(root.glob('sys/class/thermal/thermal_zone*')):
        kind, value = _text(zone / 'type'), _text(zone / 'temp')  # one that sleeps answers EAGAIN
        if kind and value and re.fullmatch(r'-?\d+', value):
            name = f'{kind} {zone.name[12:]}' if kind in found else kind
            found[name] = int(value) / 1000
    return found


def clocks_mhz(root: Path, name: str) -> List[float]:
    """Return a clock of each frequency policy in its order, such as 'scaling_cur_freq'."""
    texts = [_text(policy / name) or '' for policy in
             sorted(root.glob('sys/devices/system/cpu/cpufreq/policy[0-9]*'))]
    return [int(text) / 1000 for text in texts if text.isdigit()]


def throttled_flags(root: Path = ROOT) -> Optional[str]:
    """Return the Raspberry Pi's flags, hexadecimal, None on other machines."""
    flags = [_text(path) for path in
             sorted(root.glob('sys/devices/platform/*/*firmware/get_throttled'))]
    return flags[0] if flags else None


def throttling(root: Path = ROOT) -> Optional[List[str]]:
    """
    Return in words what slows the machine down; [] for nothing, None where it does not tell.

    From the Raspberry Pi's flags (its documentation, `vcgencmd get_throttled`), and from the
    kernel's cooling devices that are at work, fans left out: they slow nothing down.
    """
    words: List[str] = []
    flags = throttled_flags(root)
    if flags and re.fullmatch(r'(0x)?[0-9a-fA-F]+', flags):
        bits = int(flags, 16)
        words += [f'{what} now' for bit, what in PI_FLAGS.items() if bits >> bit & 1]
        words += [f'{what} since boot' for bit, what in PI_FLAGS.items()
                  if bits >> (bit + 16) & 1 and not bits >> bit & 1]
    devices = sorted(root.glob('sys/class/thermal/cooling_device*'))
    for device in devices:
        kind, now, most = (_text(device / name) or '' for name in ('type', 'cur_state',
                                                                   'max_state'))
        if now.isdigit() and int(now) > 0 and 'fan' not in kind.lower():
            words.append(f'{kind} at {now} of {most}')
    return words if flags or devices else None


def percentiles_ms(values_ms: Sequence[float]) -> Dict[str, float]:
    """Return mean, p50, p95, p99 and max of durations in ms, rounded to microseconds."""
    p50, p95, p99 = np.percentile(values_ms, (50, 95, 99))
    return {'mean': round(float(np.mean(values_ms)), 3), 'p50': round(float(p50), 3),
            'p95': round(float(p95), 3), 'p99': round(float(p99), 3),
            'max': round(float(np.max(values_ms)), 3)}
