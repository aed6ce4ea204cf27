# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Power and energy that the kernel tells of: RAPL of x86 processors, a Jetson's INA3221.

Every sensor gives joules since it was opened; one that only knows power is integrated over its
own readings by the trapezoidal rule, so somebody must keep reading it.
"""
from __future__ import annotations

from pathlib import Path
import time
from typing import Any, Callable, Dict, List, Optional, Protocol, Sequence, Tuple

from evit_seg.core.errors import InputError

ROOT = Path('/')
BOARD_RAILS = ('VDD_IN', 'POM_5V_IN')
"""INA3221 rails that carry all that a Jetson module takes (NVIDIA's developer guide)."""


class SensorMissing(InputError):
    """A sensor that is not there or may not be read; the message is the reason."""


class Sensor(Protocol):
    """What measures energy; `source` says what exactly is counted, for the report."""

    name: str
    source: str
    period_s: float

    def joules(self) -> float:
        """Return the energy since the sensor was opened; OSError or InputError if it fails."""


class CounterSensor:
    """Energy counters of the hardware; each may begin again at 0 after its own `span`."""

    def __init__(self, name: str, source: str, *, joules_per_unit: float, period_s: float,
                 counters: Sequence[Tuple[Callable[[], int], Optional[int]]]) -> None:
        self.name, self.source, self.period_s = name, source, period_s
        self._joules_per_unit = joules_per_unit
        self._counters = counters
        self._last = [read() for read, _ in counters]
        self._units = 0

    def joules(self) -> float:
        """Return the energy since opening; right if no counter went round twice since last."""
        for number, (read, span) in enumerate(self._counters):
            value = read()
            step = value - self._last[number]
            if step < 0:
                if span is None:
                    raise InputError(f'{self.name}: an energy counter fell from '
                                     f'{self._last[number]} to {value}: was the driver restarted?')
                step += span
            self._units += step
            self._last[number] = value
        return self._units * self._joules_per_unit


class PowerSensor:
    """A reading of power in watts, integrated over the readings by the trapezoidal rule."""

    def __init__(self, name: str, source: str, watts: Callable[[], float], *, period_s: float,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.source, self.period_s = name, source, period_s
        self.watts, self._clock = watts, clock
        self._last_watts, self._last_s = watts(), clock()
        self._joules = 0.0

    def joules(self) -> float:
        """Read the power once more and return the energy since opening."""
        watts, now_s = self.watts(), self._clock()
        self._joules += (watts + self._last_watts) / 2 * (now_s - self._last_s)
        self._last_watts, self._last_s = watts, now_s
        return self._joules


def open_rapl(root: Path = ROOT) -> Sensor:
    """
    Open the energy counters of all CPU packages and of their memory where it is apart.

    Intel's and AMD's drivers share this place. `core` and `uncore` are parts of the package,
    `psys` and the second door intel-rapl-mmio count the same energy again: all left out.
    """
    counters: List[Tuple[Callable[[], int], Optional[int]]] = []
    names = []
    for zone in sorted((root / 'sys/class/powercap').glob('intel-rapl:*')):
        name = _read(zone / 'name')
        if name.startswith('package') or name == 'dram':
            counters.append((_reader(zone / 'energy_uj', int),
                             _reader(zone / 'max_energy_range_uj', int)()))
            names.append(name)
    if not any(name.startswith('package') for name in names):
        raise SensorMissing('absent: no CPU package in /sys/class/powercap/intel-rapl:*')
    return CounterSensor('rapl', f'RAPL counters of {", ".join(names)} (CPU, not the board)',
                         joules_per_unit=1e-6, period_s=1.0, counters=counters)


def open_ina3221(root: Path = ROOT) -> Sensor:
    """
    Open the power monitor of a Jetson: the rail of the whole board, else the sum of all rails.

    Newer kernels give millivolts and milliamperes of three channels in hwmon, those of JetPack 4
    milliwatts in iio.
    """
    rails = {**_hwmon_rails(root), **_iio_rails(root)}
    if not rails:
        raise SensorMissing('absent: no labelled rail under /sys/bus/i2c/drivers/ina3221*')
    board = [label for label in rails if label in BOARD_RAILS]
    chosen = board[:1] or _answering(rails)
    source = f'INA3221 rail {chosen[0]} (all the module takes)' if board else \
        f'INA3221 sum of {", ".join(chosen)} (no rail of the whole board; rails may overlap)'
    return PowerSensor('ina3221', source, lambda: sum(rails[label]() for label in chosen),
                       period_s=0.1)


def _answering(rails: Dict[str, Callable[[], float]]) -> List[str]:
    """Return the rails that can be read, sorted: a channel that is switched off cannot."""
    answering, reason = [], ''
    for label in sorted(rails):
        try:
            rails[label]()
            answering.append(label)
        except SensorMissing as error:
            reason = str(error)
    if not answering:
        raise SensorMissing(reason)
    return answering


def _hwmon_rails(root: Path) -> Dict[str, Callable[[], float]]:
    rails = {}
    for path in sorted(root.glob('sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*/in[123]_label')):
        label, channel = _read(path), path.name[2]
        current = path.with_name(f'curr{channel}_input')
        if label not in ('', 'NC') and current.is_file():
            rails[label] = _product(_reader(path.with_name(f'in{channel}_input'), int),
                                    _reader(current, int))
    return rails


def _product(millivolts: Callable[[], int], milliamperes: Callable[[], int]
             ) -> Callable[[], float]:
    return lambda: millivolts() * milliamperes() * 1e-6


def _iio_rails(root: Path) -> Dict[str, Callable[[], float]]:
    rails = {}
    for path in sorted(root.glob('sys/bus/i2c/drivers/ina3221x/*/iio*/rail_name_*')):
        label, channel = _read(path), path.name[len('rail_name_'):]
        power = path.with_name(f'in_power{channel}_input')
        if label not in ('', 'NC') and power.is_file():
            rails[label] = _reader(power, lambda text: int(text) * 1e-3)
    return rails


def _read(path: Path) -> str:
    """Return the text of a file of /sys; SensorMissing with the reason if it cannot be read."""
    try:
        return path.read_text(encoding='utf-8').strip()
    except PermissionError as error:
        raise SensorMissing(f'no permission to read {path}: run as root, or '
                            f'sudo chmod a+r {path}') from error
    except OSError as error:
        raise SensorMissing(f'{path} cannot be read: {error.strerror}') from error


def _reader(path: Path, parse: Callable[[str], Any]) -> Callable[[], Any]:
    def read() -> Any:
        text = _read(path)
        try:
            return parse(text)
        except ValueError as error:
            raise SensorMissing(f'{path}: expected a number, got {text!r}') from error
    return read
