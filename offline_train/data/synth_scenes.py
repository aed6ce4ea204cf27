# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Still scenes for training: many small worlds, a few varied views of each."""
from __future__ import annotations

from typing import Iterator, List, Tuple

import numpy as np
from offline_train.data.synth_camera import looking_at
from offline_train.data.synth_draw import Picture
from offline_train.data.synth_hazards import TEXTURES
from offline_train.data.synth_noise import rng_for
from offline_train.data.synth_render import render
from offline_train.data.synth_world import build_world, RIVERS, Site, World, WorldPlan

VIEWS_PER_WORLD = 4
_SIDE_M = 76.0
_SCENES = 1  # first number of the generator's name, apart from flights


def scene_plan(rng: np.random.Generator) -> WorldPlan:
    """Return a plan of a small square world: a few hazards, houses, roads and people."""
    plan = WorldPlan((_SIDE_M, _SIDE_M))

    def spot(margin_m: float = 14.0) -> Tuple[float, float]:
        east, south = rng.uniform(margin_m, _SIDE_M - margin_m, 2)
        return float(east), float(south)

    slugs = list(rng.permutation(sorted(TEXTURES)))[:int(rng.integers(2, 5))]
    for slug in slugs:
        river = slug in RIVERS and rng.random() < 0.3
        plan.sites.append(Site(slug, *spot(), float(rng.uniform(7, 15)), river))
    for _ in range(int(rng.choice([0, 1, 1, 2]))):
        plan.roads.append((*spot(20.0), float(rng.uniform(0, np.pi))))
    if rng.random() < 0.85:
        centre, share = np.array(spot()), rng.choice([0.0, 0.5, 1.0])
        for _ in range(int(rng.integers(3, 9))):
            east, south = centre + rng.normal(0, 14, 2)
            plan.houses.append((float(east), float(south), bool(rng.random() < share)))
    for _ in range(int(rng.choice([0, 1, 2, 2, 3, 4]))):
        centre = np.array(spot())
        for _ in range(int(rng.integers(1, 6))):
            east, south = centre + rng.normal(0, 4.5, 2)
            plan.people.append((float(east), float(south)))
    plan.vehicles = [spot() for _ in range(int(rng.integers(0, 9)))]
    plan.fires = [spot() for _ in range(int(rng.choice([0, 1, 2])))]
    plan.bushes = int(rng.integers(5, 50))
    plan.clutter = int(rng.integers(4, 20))
    return plan


def scenes_of_world(seed: int, index: int, size_wh: Tuple[int, int],
                    views: int = VIEWS_PER_WORLD) -> Iterator[Tuple[Picture, World]]:
    """Yield the views of world number `index`; the same seed and number give the same pixels."""
    rng = rng_for(seed, _SCENES, index)
    plan = scene_plan(rng)
    world = build_world(rng, plan)
    targets: List[Tuple[float, float]] = [(s.east_m, s.south_m) for s in plan.sites]
    targets += [(h.east_m, h.south_m) for h in world.buildings[:2]]
    targets += [(p.east_m, p.south_m) for p in world.people[:6]]
    targets += [(v.east_m, v.south_m) for v in world.vehicles[:2]]
    targets += [(f.east_m, f.south_m) for f in world.fires[:2]]
    for _ in range(views):
        east, south = targets[int(rng.integers(len(targets)))]
        east, south = (float(v) for v in np.array([east, south]) + rng.normal(0, 7.0, 2))
        camera = looking_at(east, south, float(rng.uniform(26, 58)), float(rng.uniform(0, 360)),
                            -float(rng.uniform(48, 90)), size_wh)
        yield render(world, camera, float(rng.uniform(0, 60)), rng), world
