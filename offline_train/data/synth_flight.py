# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A continuous flight over one long world that holds all classes, and its frames.csv."""
from __future__ import annotations

from dataclasses import dataclass
from typing import List, Tuple

import numpy as np
from offline_train.data.synth_camera import Camera, FOCAL_LENGTH_MM, SENSOR_WIDTH_MM
from offline_train.data.synth_hazards import TEXTURES
from offline_train.data.synth_noise import rng_for
from offline_train.data.synth_world import build_world, RIVERS, Site, World, WorldPlan

SPEED_M_S = 6.0
FRAME_COLUMNS = ('file', 'time_s', 'latitude_deg', 'longitude_deg', 'altitude_m',
                 'relative_altitude_m', 'yaw_deg', 'gimbal_pitch_deg', 'focal_length_mm',
                 'sensor_width_mm')
_WIDTH_M = 76.0
_LEAD_M = 25.0  # land before the first and after the last position
_AHEAD_M = 45.0
_CYCLE_S = 60.0  # every class comes by at least once in this time
_FLIGHT, _FRAME = 2, 3  # first numbers of the generators' names
_ORIGIN_LAT_DEG, _ORIGIN_LON_DEG, _GROUND_ALTITUDE_M = 0.5, -20.5, 12.0  # open ocean, made up
_METRES_PER_DEG_LAT, _METRES_PER_DEG_LON = 110_574.4, 111_315.3  # WGS 84 at 0.5 degrees north


@dataclass(frozen=True)
class Flight:
    """A flight by its seed: the path is smooth, the world is as long as it needs."""

    seed: int
    seconds: float
    rate_hz: float
    size_wh: Tuple[int, int]

    @property
    def frames(self) -> int:
        """Return the number of frames."""
        return round(self.seconds * self.rate_hz)

    def time_s(self, index: int) -> float:
        """Time of a frame since the first, in seconds."""
        return index / self.rate_hz

    def camera(self, time_s: float) -> Camera:
        """Return the pose at a time: eastward, swaying in course, height, yaw and pitch."""
        rng = rng_for(self.seed, _FLIGHT, 0)
        phase = rng.uniform(0, 2 * np.pi, 5)
        period = rng.uniform([23, 31, 17, 26, 41], [37, 47, 29, 40, 59])
        wave = np.sin(2 * np.pi * time_s / period + phase)
        shake = 0.25 * np.sin(2 * np.pi * time_s * np.array([0.9, 1.3]) + phase[:2])
        return Camera(_LEAD_M + SPEED_M_S * time_s, _WIDTH_M / 2 + 5.0 * wave[0],
                      41.0 + 8.0 * wave[1], 90.0 + 14.0 * wave[2] + shake[0],
                      -(68.0 + 14.0 * wave[3] + 2.0 * wave[4]) + shake[1], *self.size_wh)

    def frame_rng(self, index: int) -> np.random.Generator:
        """Return the generator of a frame's sensor noise."""
        return rng_for(self.seed, _FRAME, index)

    def frame_row(self, index: int, file: str) -> List[object]:
        """Return a frame's row of frames.csv."""
        view = self.camera(self.time_s(index))
        north_m, east_m = -view.south_m, view.east_m
        return [file, f'{self.time_s(index):.6f}',
                f'{_ORIGIN_LAT_DEG + north_m / _METRES_PER_DEG_LAT:.8f}',
                f'{_ORIGIN_LON_DEG + east_m / _METRES_PER_DEG_LON:.8f}',
                f'{_GROUND_ALTITUDE_M + view.height_m:.3f}', f'{view.height_m:.3f}',
                f'{view.yaw_deg:.3f}', f'{view.pitch_deg:.3f}', FOCAL_LENGTH_MM,
                SENSOR_WIDTH_MM]


def flight_world(flight: Flight) -> World:
    """Return the world a flight passes over."""
    rng = rng_for(flight.seed, _FLIGHT, 1)
    return build_world(rng, flight_plan(rng, flight.seconds))


def flight_plan(rng: np.random.Generator, seconds: float) -> WorldPlan:
    """
    Return a plan with every area class, houses, fires and people along the way.

    People stand in groups with empty stretches between, longer than a view is.
    """
    length = SPEED_M_S * seconds
    plan = WorldPlan((_LEAD_M + length + _AHEAD_M, _WIDTH_M), pass_speed_m_s=SPEED_M_S)
    cycles = max(round(seconds / _CYCLE_S), 1)
    span = length / cycles
    for cycle in range(cycles):
        start = _LEAD_M + 12.0 + cycle * span
        _plan_cycle(rng, plan, start, span)
    area = plan.size_m[0] * plan.size_m[1]
    plan.bushes, plan.clutter = int(area / 190), int(area / 420)
    return plan


def _plan_cycle(rng: np.random.Generator, plan: WorldPlan, start_m: float, span_m: float) -> None:
    middle = _WIDTH_M / 2

    def beside(reach_m: float) -> float:
        return float(middle + rng.uniform(-reach_m, reach_m))

    slugs = list(rng.permutation(sorted(TEXTURES)))
    step = span_m / len(slugs)
    for number, slug in enumerate(slugs):
        east = start_m + (number + rng.uniform(0.3, 0.7)) * step
        river = slug in RIVERS[:2] and rng.random() < 0.4
        side = (1 if number % 2 else -1) * rng.uniform(4, 13)
        radius = float(np.clip(step * 0.4, 8.0, 15.0) * rng.uniform(0.85, 1.1))
        plan.sites.append(Site(slug, float(east), float(middle + side), radius, river))
    plan.roads.append((start_m + span_m * float(rng.uniform(0.2, 0.4)), beside(8), 1.2))
    plan.roads.append((start_m + span_m * float(rng.uniform(0.6, 0.8)), beside(8), 2.2))
    for number in range(max(int(span_m / 18), 6)):
        east = start_m + span_m * float(rng.uniform(0, 1))
        away = (1 if number % 4 < 2 else -1) * rng.uniform(7, 18)
        plan.houses.append((east, float(middle + away), number % 2 == 0))
    for _ in range(max(int(span_m / 70), 2)):
        plan.fires.append((start_m + span_m * float(rng.uniform(0.05, 0.95)), beside(12)))
    for _ in range(max(int(span_m / 16), 7)):
        plan.vehicles.append((start_m + span_m * float(rng.uniform(0, 1)), beside(14)))
    groups = max(round(span_m / 120), 1)
    for group in range(groups):
        first = start_m + span_m * (group + rng.uniform(0.05, 0.2)) / groups
        reach = min(45.0, span_m / groups * 0.4)
        for _ in range(int(rng.integers(8, 13))):
            plan.people.append((float(first + rng.uniform(0, reach)), beside(13)))
