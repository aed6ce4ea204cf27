# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Where the drone flew and where its alerts lie on the ground: a report's section `places`."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evit_seg.core.alerts import AlertEvent
from evit_seg.core.errors import ConfigError
from evit_seg.core.geo import NotGeotagged, offset_m
from evit_seg.core.labels import nearest
from evit_seg.core.position import GeoParameters, is_fix, not_geotagged, places_of, Positions
from evit_seg.core.share import share_file
from evit_seg.replay.alert_params import read_parameters
from evit_seg.replay.bag import Bag, BagMessage, ImageTopic
from evit_seg.replay.live_position import position_topics
from evit_seg.replay.observer import SeenFrame
from evit_seg.replay.run import Stamps
import numpy as np

MAX_POINTS = 1000
"""Of the track: a report draws no more, and a fix may come a hundred times a second."""
SHOWN = ('raised', 'updated')
"""Kinds of events that bring places; the others end an alert."""
NO_POSITION = 'places: no position (sensor_msgs/NavSatFix) can be taken from this bag: no map'


@dataclass(frozen=True)
class PlacedEvent:
    """
    An event and the places of its alert's regions, in their order.

    `places` are (latitude, longitude, radius in m), None for a region that has none; empty where
    nothing could be geotagged. `note` says why a place is missing.
    """

    event: AlertEvent
    places: Sequence[tuple[float, float, float] | None] = ()
    note: str = ''


class FlightTrack:
    """The positions of a bag, thinned evenly as they come: memory does not grow with the bag."""

    def __init__(self, on_bag_time: bool = False) -> None:
        self.fixes = 0
        self._on_bag_time = on_bag_time
        self._kept: list[tuple[int, float, float]] = []
        self._newest: tuple[int, float, float] | None = None
        self._every = 1

    def time_of(self, message: BagMessage) -> int:
        """Return a fix's time in ns, on the clock of the images."""
        return message.bag_ns if self._on_bag_time else message.stamp_ns

    def add(self, message: BagMessage) -> None:
        """Take a NavSatFix; one without a position is left out."""
        fix = message.content
        if isinstance(fix, Exception) or not is_fix(fix):
            return
        longitude = float(fix.longitude)
        if abs(longitude) > 180:
            longitude = (longitude + 180) % 360 - 180
        self._newest = (self.time_of(message), float(fix.latitude), longitude)
        if self.fixes % self._every == 0:
            if len(self._kept) == MAX_POINTS - 1:  # one place is the last fix's
                self._kept = self._kept[::2]
                self._every *= 2
            if self.fixes % self._every == 0:
                self._kept.append(self._newest)
        self.fixes += 1

    def points(self) -> list[tuple[int, float, float]]:
        """Return (ns, latitude, longitude), at most MAX_POINTS, the first and last among them."""
        last = [] if self._newest is None or self._kept[-1] is self._newest else [self._newest]
        return self._kept + last


class Places:
    """Looks on during a run: pairs each alert with the position of its frame, as the node does."""

    key = 'places'

    def __init__(self, topics: Mapping[str, str], geo: GeoParameters, stamps: Stamps) -> None:
        self._topics = dict(topics)
        self._geo = geo
        self._first_ns = stamps.image_ns[0]
        self._track = FlightTrack(stamps.clock == 'bag')
        self._positions = Positions()
        self._positions.topics.update({name: topic for topic, name in topics.items()})
        self._info: Any = None
        self._placed: list[PlacedEvent] = []

    @property
    def topics(self) -> Sequence[str]:
        """Return the bag's topics of position, heading, height and calibration."""
        return list(self._topics)

    def take_message(self, message: BagMessage) -> None:
        """Remember a message of one of them."""
        content, name = message.content, self._topics[message.topic]
        if isinstance(content, Exception):
            return
        if name == 'fix':
            self._track.add(message)
            self._positions.fixes.add(self._track.time_of(message), content)
        elif name == 'heading':
            self._positions.headings_deg.add(message.bag_ns, float(content.data))
        elif name == 'height':
            self._positions.heights_m.add(message.bag_ns, float(content.data))
        else:  # ROS 1 writes CameraInfo's matrices in capitals
            self._info = SimpleNamespace(
                **{field.lower(): value for field, value in vars(content).items()})

    def take_frame(self, seen: SeenFrame) -> None:
        """Place the alerts that this frame raised or updated."""
        for event in seen.events:
            self._placed.append(self._place(event, seen) if event.kind in SHOWN
                                else PlacedEvent(event))

    def _place(self, event: AlertEvent, seen: SeenFrame) -> PlacedEvent:
        try:
            view = self._positions.view(seen.stamp_ns, seen.result.geometry.source_hw, self._info,
                                        self._geo)
        except NotGeotagged as error:
            return PlacedEvent(event, note=not_geotagged(str(error)))
        tags, note = places_of(event.alert.regions, *view)
        return PlacedEvent(event, [
            None if tag is None else (tag.latitude_deg, tag.longitude_deg, tag.radius_m)
            for tag in tags], note)

    def take_pair(self, index: int, truth_HW: np.ndarray, mask_HW: np.ndarray) -> None:
        """Take no notice."""

    def section(self) -> dict[str, Any]:
        """Return the track and the places."""
        return places_section(self._topics, self._track, self._placed, self._first_ns)


def watch_places(bag: Bag, image: ImageTopic, stamps: Stamps,
                 geo: GeoParameters) -> tuple[list[Places], list[str]]:
    """Return the observer of the places and notes; none, and why, for a bag without position."""
    topics, notes = position_topics(bag, image)
    if 'fix' not in topics.values():
        return [], [*notes, NO_POSITION]
    return [Places(topics, geo, stamps)], notes


def places_section(topics: Mapping[str, str], track: FlightTrack,
                   placed: Iterable[PlacedEvent], first_ns: int) -> dict[str, Any]:
    """
    Return the section: `track` and `alerts`, each place in degrees (WGS-84) and metres.

    Metres are east and north of the first fix. Digits end where the node's words do. A raised
    alert has all its regions; an update only those that are further from every place the alert
    has than their own radius, and no row where there is none.
    """
    points = track.points()
    origin = points[0][1:] if points else None
    return {'datum': 'WGS-84',
            'north': 'north_m is true north, east_m is east, metres from origin',
            'origin': None if origin is None else {'lat': origin[0], 'lon': origin[1]},
            'first_ns': first_ns,
            'topics': {name: topic for topic, name in topics.items()},
            'fixes': track.fixes,
            'track': [{'t_s': (at_ns - first_ns) / 1e9, **_point(latitude, longitude, origin)}
                      for at_ns, latitude, longitude in points],
            'alerts': _alert_rows(placed, first_ns, origin)}


def _alert_rows(placed: Iterable[PlacedEvent], first_ns: int,
                origin: tuple[float, float] | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    lasting: dict[str, list[dict[str, Any]]] = {}
    known: dict[str, list[dict[str, Any]]] = {}
    for one in placed:
        event = one.event
        if event.kind not in SHOWN:
            for row in lasting.pop(event.alert.alert_id, ()):
                row['until_s'] = (event.stamp_ns - first_ns) / 1e9
                row['until_ns'] = event.stamp_ns
            continue
        regions = [_region(place, origin) for place in one.places]
        there = known.setdefault(event.alert.alert_id, [])
        if event.kind == 'updated':
            regions = [region for region in regions if _is_new(region, there)]
            if not regions:
                continue
        there += [region for region in regions if region['lat'] is not None]
        rows.append({
            't_s': (event.stamp_ns - first_ns) / 1e9, 'stamp_ns': event.stamp_ns,
            'until_s': None, 'until_ns': None, 'kind': event.kind,
            'alert_id': event.alert.alert_id, 'class': event.alert.slug,
            'confidence': round(max((r.confidence for r in event.alert.regions), default=0.0), 3),
            'regions': regions, 'geo_note': one.note})
        lasting.setdefault(event.alert.alert_id, []).append(rows[-1])
    return rows


def _is_new(region: Mapping[str, Any], known: Iterable[Mapping[str, Any]]) -> bool:
    """Tell whether a region has a place, and none of the alert's lies within its radius."""
    return region['lat'] is not None and all(
        math.hypot(region['east_m'] - other['east_m'], region['north_m'] - other['north_m'])
        > region['radius_m'] for other in known)


def _region(place: tuple[float, float, float] | None,
            origin: tuple[float, float] | None) -> dict[str, Any]:
    if place is None:
        return dict.fromkeys(('lat', 'lon', 'radius_m', 'east_m', 'north_m'))
    latitude, longitude, radius_m = place
    return {'radius_m': round(radius_m, 1), **_point(latitude, longitude, origin)}


def _point(latitude: float, longitude: float,
           origin: tuple[float, float] | None) -> dict[str, float]:
    lat, lon = round(latitude, 7), round(longitude, 7)
    east_m, north_m = offset_m(*(origin or (lat, lon)), lat, lon)
    return {'lat': lat, 'lon': lon, 'east_m': round(east_m, 2), 'north_m': round(north_m, 2)}


def placed_in_words(event: AlertEvent, words: Mapping[str, str]) -> PlacedEvent:
    """Return an event with its places as the node told them; 'nan' stands for one it has not."""
    rows = zip(*(words[name].split() for name in ('lat', 'lon', 'radius_m')))
    numbers = [(float(lat), float(lon), float(radius_m)) for lat, lon, radius_m in rows]
    return PlacedEvent(event, [None if math.isnan(row[0]) else row for row in numbers],
                       words['geo_note'])


def load_geo_parameters(path: Path | None) -> GeoParameters:
    """
    Return the parameters `geo.*` of a ROS parameter file, `config/seg.yaml` when None.

    ConfigError for a name or value the node would refuse.
    """
    path = path or share_file('config/seg.yaml')
    known = [f'geo.{field.name}' for field in fields(GeoParameters)]
    given = {name: value for name, value in read_parameters(path).items()
             if name.startswith('geo.')}
    for name in given:
        if name not in known:
            guess = nearest(name, known)
            hint = f'; did you mean {guess!r}?' if guess else ''
            raise ConfigError(f'{path}: unknown parameter {name!r}{hint}')
    try:
        return GeoParameters(**{name[len('geo.'):]: value for name, value in given.items()})
    except ConfigError as error:
        raise ConfigError(f'{path}: {error}') from error
