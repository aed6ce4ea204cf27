# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Energy from the sensors that machines have: RAPL, NVML, INA3221, the Raspberry Pi 5's PMIC.

What cannot be read is not estimated: `find_sensor` says for each sensor why it was not taken.
Somebody must keep reading a sensor (see core/power.py): `EnergyMeter` does.
"""
from __future__ import annotations

from pathlib import Path
import re
import subprocess
import threading
import time
from typing import Callable, Dict, NamedTuple, Optional

from evit_seg.core.errors import InputError
from evit_seg.core.power import (
    CounterSensor,
    open_ina3221,
    open_rapl,
    PowerSensor,
    ROOT,
    Sensor,
    SensorMissing,
)
from offline_train.measuring.nvidia import GpuMissing, open_gpu

_PMIC_ROW = re.compile(r'(\w+)_([AV])\s+\w+\(\d+\)=([\d.]+)[AV]')


class EnergyMeter:
    """
    Joules and seconds of a `with` block; a thread reads the sensor meanwhile.

    After the block `joules` is None if the sensor stopped answering, and `failure` says how.
    """

    def __init__(self, sensor: Sensor, clock: Callable[[], float] = time.perf_counter) -> None:
        self._sensor, self._clock = sensor, clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name='energy', daemon=True)
        self.joules: Optional[float] = None
        self.seconds = 0.0
        self.failure = ''

    def __enter__(self) -> EnergyMeter:
        """Begin to count."""
        self._begin_j, self._begin_s = self._take(), self._clock()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """End the count."""
        self._stop.set()
        self._thread.join()
        end_j, self.seconds = self._take(), self._clock() - self._begin_s
        if end_j is not None and self._begin_j is not None and not self.failure:
            self.joules = end_j - self._begin_j

    def _poll(self) -> None:
        while not self._stop.wait(self._sensor.period_s):
            self._take()

    def _take(self) -> Optional[float]:
        try:
            return self._sensor.joules()
        except (OSError, InputError) as error:
            self.failure = f'{self._sensor.name} stopped answering: {error}'
            return None


class Found(NamedTuple):
    """The sensor to use, or None, and why each of the others was not taken."""

    sensor: Optional[Sensor]
    reasons: Dict[str, str]


def find_sensor(root: Path = ROOT, provider: str = 'cpu') -> Found:
    """
    Return the sensor that sees most of what a frame costs on this provider.

    Board sensors come first. Without one, the CPU's packages are counted for the provider 'cpu'
    and the GPU for any other: a GPU's energy says nothing about a frame computed on the CPU.
    """
    reasons: Dict[str, str] = {}
    unfit = 'rapl' if provider != 'cpu' else 'nvml'
    for name, opener in OPENERS.items():
        if name == unfit:
            reasons[name] = f'does not see the work of the provider {provider!r}'
            continue
        try:
            return Found(opener(root), reasons)
        except SensorMissing as error:
            reasons[name] = str(error)
    return Found(None, reasons)


def open_pmic(root: Path = ROOT) -> Sensor:
    """Open the Raspberry Pi 5's power chip: volts times amperes, summed over its rails."""
    tool = root / 'usr/bin/vcgencmd'
    if not tool.is_file():
        raise SensorMissing(f'absent: no {tool}')
    _pmic_watts(tool)
    return PowerSensor('pmic', "Raspberry Pi 5 PMIC rails (without its own losses, USB's 5 V and "
                       'what HATs take)', lambda: _pmic_watts(tool), period_s=0.2)


def _pmic_watts(tool: Path) -> float:
    try:
        done = subprocess.run([str(tool), 'pmic_read_adc'], capture_output=True, text=True,
                              timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SensorMissing(f'{tool} did not run: {error}') from error
    volts: Dict[str, float] = {}
    amperes: Dict[str, float] = {}
    for name, unit, value in _PMIC_ROW.findall(done.stdout):
        (volts if unit == 'V' else amperes)[name] = float(value)
    rails = volts.keys() & amperes.keys()
    if not rails:
        said = (done.stdout + done.stderr).strip().partition('\n')[0]
        raise SensorMissing(f'{tool} pmic_read_adc gave no rail but {said!r}: not a Raspberry Pi '
                            '5, or not in the group `video`')
    return sum(volts[name] * amperes[name] for name in rails)


def open_nvml(root: Path = ROOT) -> Sensor:
    """Open the GPU's energy counter, or its power reading where it has no counter."""
    try:
        gpu = open_gpu(root)
        if gpu.millijoules is not None:
            return CounterSensor('nvml', f'NVML energy counter of {gpu.name} (GPU, not the board)',
                                 joules_per_unit=1e-3, period_s=1.0,
                                 counters=[(gpu.millijoules, None)])
        if gpu.watts is not None:
            return PowerSensor('nvml', f'power reading of {gpu.name} (GPU, not the board)',
                               gpu.watts, period_s=0.1)
    except GpuMissing as error:
        raise SensorMissing(str(error)) from error
    raise SensorMissing(f'{gpu.name} tells neither energy nor power')


OPENERS: Dict[str, Callable[[Path], Sensor]] = {
    'ina3221': open_ina3221, 'pmic': open_pmic, 'rapl': open_rapl, 'nvml': open_nvml}
"""The sensors by name, in the order in which they are preferred."""
