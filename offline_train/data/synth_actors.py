# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What stands and moves on the ground: people, vehicles, and clutter that is neither."""
from __future__ import annotations

from dataclasses import dataclass
from typing import List, Tuple

import numpy as np
from offline_train.data.synth_draw import Capsule, Facet, Part
from offline_train.data.synth_palette import pick_colour

Colour = Tuple[float, float, float]

_CLOTHES: Tuple[Colour, ...] = (
    (200, 40, 40), (40, 70, 170), (235, 120, 30), (240, 235, 230), (30, 32, 38), (60, 120, 70),
    (225, 200, 60), (120, 60, 120), (90, 90, 95), (130, 95, 70), (60, 140, 190), (170, 60, 90),
)
_SKIN: Tuple[Colour, ...] = ((224, 176, 148), (190, 138, 106), (140, 96, 70), (92, 62, 46))


def colour_of(values: np.ndarray) -> Colour:
    """Return an RGB triple of plain floats, clipped to 0-255."""
    red, green, blue = (float(v) for v in np.clip(values, 0, 255))
    return red, green, blue


def _pick(rng: np.random.Generator, pool: Tuple[Colour, ...]) -> Colour:
    base = np.asarray(pool[int(rng.integers(len(pool)))]) * rng.uniform(0.8, 1.15)
    return colour_of(base + rng.normal(0, 6, 3))


@dataclass(frozen=True)
class Person:
    """One person: where (metres east, south), what they wear, what they do."""

    instance: int
    east_m: float
    south_m: float
    heading_rad: float
    pose: str  # stand, wave, walk, sit, lie
    tall_m: float
    speed_m_s: float
    walk_m: float
    phase: float
    shirt: Colour
    trousers: Colour
    skin: Colour
    hair: Colour

    def place(self, time_s: float) -> Tuple[float, float, float]:
        """Return east, south (m) and heading (rad): walkers go to and fro on a line."""
        if self.speed_m_s == 0.0:
            return self.east_m, self.south_m, self.heading_rad
        way = (self.phase * self.walk_m + time_s * self.speed_m_s) % (2 * self.walk_m)
        back = way > self.walk_m
        gone = 2 * self.walk_m - way if back else way
        gone -= self.walk_m / 2
        return (self.east_m + gone * np.cos(self.heading_rad),
                self.south_m + gone * np.sin(self.heading_rad),
                self.heading_rad + (np.pi if back else 0.0))

    def parts(self, time_s: float) -> List[Part]:
        """Return the body as capsules in world metres at a time."""
        east, south, heading = self.place(time_s)
        swing = 0.0
        if self.pose == 'walk':
            swing = 0.28 * np.sin(2 * np.pi * (1.7 * time_s + self.phase))
        lift = 0.25 * np.sin(2 * np.pi * (1.1 * time_s + self.phase)) if self.pose == 'wave' \
            else 0.0
        body = _skeleton(self.pose, swing, lift)
        cos, sin = np.cos(heading), np.sin(heading)
        parts: List[Part] = []
        for start, end, radius, what in body:
            ends = []
            for x, y, z in (start, end):
                x, y, z = x * self.tall_m / 1.75, y * self.tall_m / 1.75, z * self.tall_m / 1.75
                ends.append(np.array([east + x * cos - y * sin, south + x * sin + y * cos, -z]))
            colour = {'shirt': self.shirt, 'trousers': self.trousers, 'skin': self.skin,
                      'hair': self.hair}[what]
            parts.append(Capsule(ends[0], ends[1], radius, colour))
        return parts


Bone = Tuple[Tuple[float, float, float], Tuple[float, float, float], float, str]


def _skeleton(pose: str, swing: float, lift: float) -> List[Bone]:
    """Return the bones of a 1.75 m person: x ahead, y right, z up (m), radius, what it wears."""
    if pose == 'sit':
        return [((0.0, -0.1, 0.15), (0.5, -0.14, 0.12), 0.10, 'trousers'),
                ((0.0, 0.1, 0.15), (0.5, 0.14, 0.12), 0.10, 'trousers'),
                ((0.0, -0.1, 0.2), (0.0, -0.12, 0.72), 0.14, 'shirt'),
                ((0.0, 0.1, 0.2), (0.0, 0.12, 0.72), 0.14, 'shirt'),
                ((0.02, -0.26, 0.66), (0.28, -0.2, 0.35), 0.06, 'shirt'),
                ((0.02, 0.26, 0.66), (0.28, 0.2, 0.35), 0.06, 'shirt'),
                ((0.03, 0.0, 0.95), (0.03, 0.0, 0.98), 0.13, 'skin'),
                ((-0.03, 0.0, 1.02), (-0.03, 0.0, 1.03), 0.12, 'hair')]
    stand: List[Bone] = [
        ((swing, -0.11, 0.08), (0.0, -0.1, 0.85), 0.09, 'trousers'),
        ((-swing, 0.11, 0.08), (0.0, 0.1, 0.85), 0.09, 'trousers'),
        ((0.0, -0.1, 0.92), (0.0, -0.12, 1.38), 0.14, 'shirt'),
        ((0.0, 0.1, 0.92), (0.0, 0.12, 1.38), 0.14, 'shirt'),
        ((0.02, 0.0, 1.62), (0.02, 0.0, 1.66), 0.13, 'skin'),
        ((-0.03, 0.0, 1.68), (-0.03, 0.0, 1.70), 0.12, 'hair')]
    if pose == 'wave':
        stand += [((0.0, -0.26, 1.4), (0.05, -0.48 + lift * 0.4, 2.0), 0.06, 'skin'),
                  ((0.0, 0.26, 1.4), (0.05, 0.48 + lift, 2.0), 0.06, 'skin')]
    else:
        stand += [((0.0, -0.27, 1.38), (-swing, -0.33, 0.82), 0.06, 'shirt'),
                  ((0.0, 0.27, 1.38), (swing, 0.33, 0.82), 0.06, 'shirt')]
    if pose == 'lie':
        flat = []
        for (x0, y0, z0), (x1, y1, z1), radius, what in stand:
            wide = 1.5 if what == 'trousers' or abs(y0) > 0.2 else 1.0
            flat.append(((z0 - 0.9, y0 * wide, 0.12 + x0 * 0.2),
                         (z1 - 0.9, y1 * wide, 0.12 + x1 * 0.2), radius, what))
        return flat
    return stand


def new_person(rng: np.random.Generator, instance: int, east_m: float, south_m: float) -> Person:
    """Return a person dressed and posed at random."""
    pose = str(rng.choice(['stand', 'wave', 'walk', 'sit', 'lie'],
                          p=[0.26, 0.2, 0.32, 0.08, 0.14]))
    hair = colour_of(np.array([60.0, 48, 40]) * rng.uniform(0.4, 2.2))
    if rng.random() < 0.2:  # a helmet or a cap
        hair = _pick(rng, _CLOTHES)
    return Person(instance, east_m, south_m, float(rng.uniform(0, 2 * np.pi)), pose,
                  float(rng.uniform(1.55, 1.92)),
                  float(rng.uniform(0.7, 1.4)) if pose == 'walk' else 0.0,
                  float(rng.uniform(4, 10)), float(rng.uniform(0, 2)), _pick(rng, _CLOTHES),
                  _pick(rng, _CLOTHES[1:]), _pick(rng, _SKIN), hair)


def box_facets(east_m: float, south_m: float, heading_rad: float, length_m: float, width_m: float,
               low_m: float, high_m: float, colour: np.ndarray, sun_rad: float,
               taper: float = 1.0) -> List[Part]:
    """Return the five visible faces of a box, shaded by the sun; `taper` narrows its top."""
    cos, sin = np.cos(heading_rad), np.sin(heading_rad)
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
    rings = []
    for height, scale in ((low_m, 1.0), (high_m, taper)):
        x, y = signs[:, 0] * length_m / 2 * scale, signs[:, 1] * width_m / 2 * scale
        rings.append(np.stack([east_m + x * cos - y * sin, south_m + x * sin + y * cos,
                               np.full(4, -height)], axis=1))
    faces: List[Part] = []
    for side in range(4):
        after = (side + 1) % 4
        outward = rings[0][side, :2] + rings[0][after, :2] - 2 * np.array([east_m, south_m])
        facing = np.arctan2(outward[1], outward[0])
        light = 0.68 + 0.22 * np.cos(facing - sun_rad)
        faces.append(Facet(np.stack([rings[0][side], rings[0][after], rings[1][after],
                                     rings[1][side]]), colour_of(colour * light)))
    faces.append(Facet(rings[1], colour_of(colour)))
    return faces


@dataclass(frozen=True)
class Vehicle:
    """A car, van or lorry; `speed_m_s` along its heading, about its place at `mid_s`."""

    instance: int
    east_m: float
    south_m: float
    heading_rad: float
    kind: str
    colour: Colour
    speed_m_s: float
    mid_s: float

    def parts(self, time_s: float, sun_rad: float) -> List[Part]:
        """Return the faces of body, cabin and windows in world metres at a time."""
        gone = self.speed_m_s * (time_s - self.mid_s)
        cos, sin = np.cos(self.heading_rad), np.sin(self.heading_rad)
        east, south = self.east_m + gone * cos, self.south_m + gone * sin
        paint, glass = np.array(self.colour), np.array([38.0, 46, 54])
        tyre = (24.0, 24.0, 26.0)
        length, width = {'car': (4.3, 1.85), 'van': (5.4, 2.1), 'lorry': (8.2, 2.5)}[self.kind]

        def at(ahead: float, side: float) -> Tuple[float, float]:
            return east + ahead * cos - side * sin, south + ahead * sin + side * cos

        parts: List[Part] = []
        for ahead in (-0.31, 0.31):
            for side in (-0.46, 0.46):
                x, y = at(ahead * length, side * width)
                parts.append(Capsule(np.array([x - 0.2 * cos, y - 0.2 * sin, -0.33]),
                                     np.array([x + 0.2 * cos, y + 0.2 * sin, -0.33]), 0.3, tyre))
        turn = self.heading_rad

        def box(ahead: float, long: float, wide: float, low: float, high: float,
                colour: np.ndarray, taper: float = 1.0) -> None:
            parts.extend(box_facets(*at(ahead, 0.0), turn, long, wide, low, high, colour,
                                    sun_rad, taper))

        if self.kind == 'car':
            box(0, length, width, 0.3, 0.9, paint)
            box(-0.25, 2.6, width * 0.94, 0.9, 1.3, glass, 0.82)
            box(-0.25, 2.0, width * 0.76, 1.3, 1.42, paint)
        elif self.kind == 'van':
            box(0, length, width, 0.35, 1.2, paint)
            box(-0.3, length * 0.84, width * 0.96, 1.2, 1.7, glass, 0.95)
            box(-0.4, length * 0.74, width * 0.9, 1.7, 2.0, paint)
        else:
            box(2.9, 2.1, width * 0.95, 0.5, 1.5, paint)
            box(2.9, 2.0, width * 0.93, 1.5, 2.1, glass, 0.95)
            box(2.85, 1.7, width * 0.9, 2.1, 2.4, paint)
            box(-1.1, 5.8, width, 0.6, 1.9 + 0.8 * (self.mid_s % 1.0), paint * 0.5 + 95)
        return parts


def new_vehicle(rng: np.random.Generator, instance: int, east_m: float, south_m: float,
                heading_rad: float, speed_m_s: float, mid_s: float) -> Vehicle:
    """Return a vehicle of random kind and paint."""
    pool: Tuple[Colour, ...] = ((230, 230, 232), (180, 182, 186), (110, 112, 118), (36, 38, 44),
                                (170, 36, 36), (36, 66, 140), (215, 170, 40), (50, 100, 70),
                                (140, 120, 95), (200, 90, 30))
    kind = str(rng.choice(['car', 'car', 'car', 'van', 'lorry']))
    return Vehicle(instance, east_m, south_m, heading_rad, kind, _pick(rng, pool), speed_m_s,
                   mid_s)


def new_clutter(rng: np.random.Generator, east_m: float, south_m: float,
                sun_rad: float) -> List[Part]:
    """Return a post, barrel, crate or stump: upright or boxy, of one colour, not a person."""
    kind = str(rng.choice(['post', 'barrel', 'crate', 'stump']))
    base = np.array([east_m, south_m, 0.0])
    if kind == 'crate':
        tone = pick_colour(rng, 'rubble', 0.5)
        return box_facets(east_m, south_m, float(rng.uniform(0, np.pi)),
                          float(rng.uniform(0.6, 1.8)), float(rng.uniform(0.6, 1.4)), 0.0,
                          float(rng.uniform(0.5, 1.2)), tone, sun_rad)
    tall, radius = {'post': (rng.uniform(1.2, 3.0), rng.uniform(0.05, 0.1)),
                    'barrel': (0.9, 0.32), 'stump': (0.4, rng.uniform(0.2, 0.4))}[kind]
    tone = pick_colour(rng, 'rubble', 0.5) if rng.random() < 0.85 else np.array(
        _pick(rng, _CLOTHES))
    foot, top = base + (0, 0, -radius * 0.5), base + (0, 0, -tall)
    lid = colour_of(tone * 1.2)
    return [Capsule(foot, top, radius, colour_of(tone)),
            Capsule(top, top + (0, 0, -0.02), radius * 0.95, lid)]
