# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What Linux tells about the board, for the diagnostics: memory, heat, clock, power."""
from __future__ import annotations

from pathlib import Path
from typing import Dict, Optional, Tuple

from evit_seg.core.errors import InputError
from evit_seg.core.machine import (
    clocks_mhz,
    process_memory_mb,
    ROOT,
    temperatures_c,
    throttling,
)
from evit_seg.core.power import open_ina3221, open_rapl, Sensor, SensorMissing


class Board:
    """The readings of one board; what it does not tell is left out, but for the power's reason."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._sensor, self._no_power = _power_sensor(root)
        self._before: Optional[Tuple[float, float]] = None

    def values(self, now_s: float) -> Dict[str, str]:
        """Return the readings in words; the power is the mean since the last call."""
        resident = process_memory_mb(self._root)['rss']
        values = {} if resident is None else {'resident memory MB': f'{resident:.0f}'}
        values.update({f'temperature {name} C': f'{celsius:.1f}'
                       for name, celsius in temperatures_c(self._root).items()})
        clocks = zip(clocks_mhz(self._root, 'scaling_cur_freq'),
                     clocks_mhz(self._root, 'cpuinfo_max_freq'))
        clock = ', '.join(f'{now:.0f} of {most:.0f}' for now, most in clocks)
        if clock:
            values['CPU clock MHz'] = clock
        slowed = throttling(self._root)
        if slowed is not None:
            values['throttling'] = ', '.join(slowed) or 'none'
        values['power W'] = self._power(now_s)
        return values

    def _power(self, now_s: float) -> str:
        if self._sensor is None:
            return self._no_power
        try:
            joules = self._sensor.joules()
        except (OSError, InputError) as error:
            self._before = None
            return f'not readable: {error}'
        before_s, before_joules = self._before or (now_s, joules)
        self._before = now_s, joules
        if now_s <= before_s:
            return f'not known before the next report ({self._sensor.source})'
        watts = (joules - before_joules) / (now_s - before_s)
        return f'{watts:.2f} ({self._sensor.source})'


def _power_sensor(root: Path) -> Tuple[Optional[Sensor], str]:
    """Return the sensor that sees most of the board, or why there is none."""
    reasons = []
    for opener in (open_ina3221, open_rapl):
        try:
            return opener(root), ''
        except SensorMissing as error:
            reasons.append(str(error))
    return None, 'not readable: ' + '; '.join(reasons)
