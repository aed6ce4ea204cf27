# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
A small world: ground, houses, roads, fires, vehicles, people and clutter, all from one seed.

`WorldPlan` says where hazards, houses, people and fires go; `build_world` makes them.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Optional, Tuple

import cv2
import numpy as np
from offline_train.data.synth_actors import (
    new_clutter,
    new_person,
    new_vehicle,
    Person,
    Vehicle,
)
from offline_train.data.synth_buildings import Building, ground_of_building, new_building
from offline_train.data.synth_draw import Part
from offline_train.data.synth_fire import Fire, new_fire
from offline_train.data.synth_ground import (
    Ground,
    new_ground,
    paint_region,
    paint_river,
    scatter_bushes,
)
from offline_train.data.synth_look import Look, new_look
from offline_train.data.synth_noise import GSD_M, px
from offline_train.data.synth_palette import class_ids
from offline_train.data.synth_roads import paint_road

RIVERS = ('flood_water_river_sea', 'ice_jam_flow', 'lava_flow', 'debris_mud_rock_flow')


@dataclass(frozen=True)
class Site:
    """A hazard of an area class: where (metres), how wide, and whether as a winding band."""

    slug: str
    east_m: float
    south_m: float
    radius_m: float
    river: bool


@dataclass
class WorldPlan:
    """Where things go on a canvas of east by south metres; points are (east, south)."""

    size_m: Tuple[float, float]
    sites: List[Site] = field(default_factory=list)
    roads: List[Tuple[float, float, float]] = field(default_factory=list)  # point, angle (rad)
    houses: List[Tuple[float, float, bool]] = field(default_factory=list)  # point, damaged
    people: List[Tuple[float, float]] = field(default_factory=list)
    vehicles: List[Tuple[float, float]] = field(default_factory=list)
    fires: List[Tuple[float, float]] = field(default_factory=list)
    bushes: int = 30
    clutter: int = 12
    pass_speed_m_s: float = 0.0  # the camera's, so that moving vehicles are met on the way


@dataclass
class World:
    """Everything a frame is drawn from; instance numbers are unique in a world."""

    ground: Ground
    look: Look
    sun_reach: np.ndarray  # (2,) shadow shift east, south per metre of height
    buildings: List[Building] = field(default_factory=list)
    people: List[Person] = field(default_factory=list)
    vehicles: List[Vehicle] = field(default_factory=list)
    fires: List[Fire] = field(default_factory=list)
    clutter: List[List[Part]] = field(default_factory=list)


def build_world(rng: np.random.Generator, plan: WorldPlan) -> World:
    """Return the world of a plan; the same generator state gives the same world."""
    size_hw = (int(plan.size_m[1] / GSD_M), int(plan.size_m[0] / GSD_M))
    ground = new_ground(rng, size_hw)
    sun_high = rng.uniform(np.radians(28), np.radians(65))
    away = -np.array([np.cos(ground.sun_rad), np.sin(ground.sun_rad)])
    world = World(ground, new_look(rng), away / np.tan(sun_high))
    for site in sorted(plan.sites, key=lambda s: not s.river):
        _paint_site(rng, ground, site)
    lines = [paint_road(rng, ground, np.array([east, south]) / GSD_M, angle)
             for east, south, angle in plan.roads]
    scatter_bushes(rng, ground, plan.bushes)
    for east, south, damaged in plan.houses:
        _add_house(rng, world, east, south, damaged)
    free = _free_ground(world)
    _add_vehicles(rng, world, plan, lines, free)
    for east, south in plan.people:
        spot = _free_spot(rng, free, east, south, 2.5)
        if spot is not None:
            world.people.append(new_person(rng, _next(world), spot[0], spot[1]))
    for east, south in plan.fires:
        _add_fire(rng, world, free, east, south)
    for _ in range(plan.clutter):
        east, south = (float(v) for v in rng.uniform(0, 1, 2) * plan.size_m)
        spot = _free_spot(rng, free, east, south, 3.0)
        if spot is not None:
            world.clutter.append(new_clutter(rng, spot[0], spot[1], ground.sun_rad))
    return world


def _next(world: World) -> int:
    return 1 + len(world.people) + len(world.vehicles) + len(world.fires)


def _paint_site(rng: np.random.Generator, ground: Ground, site: Site) -> None:
    centre = np.array([site.east_m, site.south_m]) / GSD_M
    angle = float(rng.uniform(0, np.pi))
    if site.river:  # across the direction of flight, so that a flight passes over it
        paint_river(rng, ground, site.slug, centre, np.pi / 2 + rng.uniform(-0.5, 0.5),
                    px(site.radius_m * 1.3))
    else:
        paint_region(rng, ground, site.slug, centre, px(site.radius_m), angle,
                     float(rng.uniform(1.0, 1.6)))


def _add_house(rng: np.random.Generator, world: World, east: float, south: float,
               damaged: bool) -> None:
    for trial in range(10):  # a little farther off each time until there is room
        x, y = (float(v) for v in np.array([east, south]) + rng.normal(0, 1.5 * trial, 2))
        house = new_building(rng, x, y, damaged, world.ground.sun_rad)
        if _has_room(world, house):
            ground_of_building(rng, world.ground, house, world.sun_reach)
            world.buildings.append(house)
            return


def _has_room(world: World, house: Building) -> bool:
    reach = np.hypot(house.length_m, house.width_m) / 2
    for other in world.buildings:
        apart = np.hypot(other.east_m - house.east_m, other.south_m - house.south_m)
        if apart < reach + np.hypot(other.length_m, other.width_m) / 2:
            return False
    ids = class_ids()
    blocked = [ids[s] for s in ('flood_water_river_sea', 'ice_jam_flow', 'lava_flow',
                                'road_railway_bridge')]
    corners = house.corners(0.5)
    share = np.linspace(0, 1, 5)[:, None, None]
    points = np.concatenate([corners * share[i] + corners.mean(0) * (1 - share[i])
                             for i in range(5)] + [(corners + np.roll(corners, 1, 0)) / 2])
    cells = (points / GSD_M).astype(int)
    height, width = world.ground.size_px
    if (cells < 0).any() or (cells >= (width, height)).any():
        return False
    return not np.isin(world.ground.ids[cells[:, 1], cells[:, 0]], blocked).any()


def _free_ground(world: World) -> np.ndarray:
    """Return where people and vehicles may stand, (H, W) uint8 0 or 1, four pixels a cell."""
    ids = class_ids()
    small = world.ground.ids[::4, ::4]
    dry = ~np.isin(small, [ids[s] for s in ('flood_water_river_sea', 'ice_jam_flow',
                                            'lava_flow', 'fire_flare')])
    free = dry.astype(np.uint8)
    for house in world.buildings:
        outline = house.corners(0.8) / GSD_M / 4
        cv2.fillPoly(free, [np.round(outline).astype(np.int32)], 0)
    return free


def _free_spot(rng: np.random.Generator, free_HW: np.ndarray, east: float, south: float,
               spread_m: float) -> Optional[Tuple[float, float]]:
    for trial in range(8):
        x, y = np.array([east, south]) + rng.normal(0, spread_m * (0.5 + 0.5 * trial), 2)
        row, col = int(y / GSD_M / 4), int(x / GSD_M / 4)
        inside = 0 <= row < free_HW.shape[0] and 0 <= col < free_HW.shape[1]
        if inside and free_HW[row, col]:
            return float(x), float(y)
    return None


def _add_vehicles(rng: np.random.Generator, world: World, plan: WorldPlan,
                  lines: List[np.ndarray], free_HW: np.ndarray) -> None:
    for east, south in plan.vehicles:
        roads = [line for line in lines if len(line) > 6]
        mid_s = east / plan.pass_speed_m_s if plan.pass_speed_m_s else float(rng.uniform(0, 60))
        if roads and rng.random() < 0.6:  # on the nearest piece of some road
            line = roads[int(rng.integers(len(roads)))]
            near = int(np.argmin(((line * GSD_M - (east, south)) ** 2).sum(1)))
            near = int(np.clip(near + rng.integers(-6, 7), 1, len(line) - 2))
            ahead = line[near + 1] - line[near - 1]
            heading = float(np.arctan2(ahead[1], ahead[0])) + (np.pi if rng.random() < 0.5 else 0)
            side = np.array([-np.sin(heading), np.cos(heading)]) * rng.uniform(0.6, 1.4)
            spot = line[near] * GSD_M + side
            speed = float(rng.uniform(2, 5)) if rng.random() < 0.3 else 0.0
        else:
            found = _free_spot(rng, free_HW, east, south, 4.0)
            if found is None:
                continue
            spot, heading, speed = np.array(found), float(rng.uniform(0, 2 * np.pi)), 0.0
        row, col = int(spot[1] / GSD_M / 4), int(spot[0] / GSD_M / 4)
        if not (0 <= row < free_HW.shape[0] and 0 <= col < free_HW.shape[1] and free_HW[row, col]):
            continue  # a house or water in the way
        if any(np.hypot(v.east_m - spot[0], v.south_m - spot[1]) < 7.0 for v in world.vehicles):
            continue
        world.vehicles.append(new_vehicle(rng, _next(world), float(spot[0]), float(spot[1]),
                                          heading, speed, mid_s))


def _add_fire(rng: np.random.Generator, world: World, free_HW: np.ndarray, east: float,
              south: float) -> None:
    """Light a group of flames: on the ground, scorching it, or in a house near by."""
    base_m = 0.0
    near = [b for b in world.buildings if np.hypot(b.east_m - east, b.south_m - south) < 9.0]
    if near and rng.random() < 0.7:
        house = near[int(rng.integers(len(near)))]
        east, south, base_m = house.east_m, house.south_m, house.height_m * 0.7
    else:
        found = _free_spot(rng, free_HW, east, south, 3.0)
        if found is None:
            return
        east, south = found
        turns = np.linspace(0, 2 * np.pi, 20)
        ring = np.stack([np.cos(turns), np.sin(turns)], 1) * px(2.2)
        ring *= rng.uniform(0.6, 1.2, (20, 1))
        world.ground.darken(ring + np.array([east, south]) / GSD_M, 0.35)
    for _ in range(int(rng.integers(2, 6))):
        spot = np.array([east, south]) + rng.normal(0, 1.6, 2)
        world.fires.append(new_fire(rng, _next(world), float(spot[0]), float(spot[1]), base_m))
