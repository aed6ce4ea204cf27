# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Energy per frame: blocks of back-to-back frames under a sensor, and the power at rest."""
from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from offline_train.measuring.power import EnergyMeter, Found, Sensor

ENERGY_ROUNDS = 2


def measure_energy(calls: Sequence[Callable[[], Any]], found: Found, *, seconds: float,
                   idle_seconds: float, clock: Callable[[], float] = time.perf_counter,
                   sleep: Callable[[float], None] = time.sleep) -> List[Dict[str, Any]]:
    """
    Return for each call millijoules per frame, also above idle, and where they come from.

    In turns, ENERGY_ROUNDS blocks of back-to-back frames each, `seconds` in all. Above idle means
    less the power of the machine at rest with the models loaded; None without idle_seconds.
    """
    sensor = found.sensor
    if sensor is None:
        why = '; '.join(f'{name}: {reason}' for name, reason in found.reasons.items())
        return [_energy(f'none ({why})') for _ in calls]
    idle_watts: Optional[float] = None
    if idle_seconds:
        with EnergyMeter(sensor, clock) as rest:
            sleep(idle_seconds)
        if rest.joules is None:
            return [_energy(f'none ({rest.failure})') for _ in calls]
        idle_watts = rest.joules / rest.seconds
    blocks: List[List[Tuple[EnergyMeter, int]]] = [[] for _ in calls]
    for _ in range(ENERGY_ROUNDS):
        for call, own in zip(calls, blocks):
            own.append(_block(call, sensor, seconds / ENERGY_ROUNDS, clock))
    return [_block_energy(own, sensor, idle_watts) for own in blocks]


def _block(call: Callable[[], Any], sensor: Sensor, seconds: float, clock: Callable[[], float]
           ) -> Tuple[EnergyMeter, int]:
    frames = 0
    with EnergyMeter(sensor, clock) as meter:
        end_s = clock() + seconds
        while frames == 0 or clock() < end_s:
            call()
            frames += 1
    return meter, frames


def _block_energy(blocks: Sequence[Tuple[EnergyMeter, int]], sensor: Sensor,
                  idle_watts: Optional[float]) -> Dict[str, Any]:
    frames, seconds, joules = 0, 0.0, 0.0
    for meter, counted in blocks:
        if meter.joules is None:
            return _energy(f'none ({meter.failure})')
        frames, seconds, joules = frames + counted, seconds + meter.seconds, joules + meter.joules
    above = None if idle_watts is None else (joules - idle_watts * seconds) / frames
    return _energy(f'{sensor.name}: {sensor.source}', joules / frames, above, {
        'watts': round(joules / seconds, 3), 'seconds': round(seconds, 3), 'frames': frames,
        'idle_watts': None if idle_watts is None else round(idle_watts, 3)})


def _energy(source: str, joules: Optional[float] = None, above_idle: Optional[float] = None,
            detail: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
    return {'energy_mj_per_frame': None if joules is None else round(joules * 1e3, 3),
            'energy_above_idle_mj_per_frame':
                None if above_idle is None else round(above_idle * 1e3, 3),
            'energy_source': source, 'energy': detail}
