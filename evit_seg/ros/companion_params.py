# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Every parameter of seg_companion in one table, as params.py has those of seg_node."""
from __future__ import annotations

from dataclasses import dataclass
import re
from typing import Any, Mapping, Tuple

from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import nearest
from evit_seg.ros.params import Row

PREFIXES = ('watch', 'heartbeat', 'statustext', 'waypoint', 'snapshot')
"""First parts of the names that are ours: a name under them that is not in the table is a typo."""

ROS_NAME = r'/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*'
EXAMPLES = {'watch': '/front/seg_node', 'snapshot.service': '/rosbag2_recorder/snapshot'}

TABLE: Tuple[Row, ...] = (
    Row('watch', 'seg_node', 'The node to watch: a name in the own namespace, or a full one such '
        f'as {EXAMPLES["watch"]}.'),
    Row('heartbeat.component', 191, 'MAV_COMPONENT that the state is sent as; 191: onboard '
        'computer, 196: obstacle avoidance, which PX4 may wait for.', low=1, high=255),
    Row('heartbeat.start_grace_s', 60.0, 'So long the node may take to its first report; the '
        'state is boot.', low=0, high=3600, unit='s'),
    # It reports once a second.
    Row('heartbeat.critical_after_s', 3.0, 'Silent for so long the node is critical.', low=1.5,
        high=3600, unit='s'),
    Row('heartbeat.terminal_after_s', 15.0, 'Silent for so long it counts as terminated; 0: '
        'never.', low=0, high=3600, unit='s'),
    Row('statustext.min_interval_s', 1.0, 'At most one text in so long; the worst goes first.',
        low=0, high=60, unit='s'),
    Row('waypoint.altitude_m', 0.0, 'Altitude above home of a proposed waypoint; 0: the present '
        'one.', low=0, high=5000, unit='m'),
    Row('waypoint.min_altitude_m', 10.0, 'A proposed waypoint is never lower above home.', low=0,
        high=5000, unit='m'),
    Row('snapshot.service', '', 'Service of `ros2 bag record --snapshot-mode` that is called when '
        f'an alert is raised, such as {EXAMPLES["snapshot.service"]}; empty: none.'),
    Row('snapshot.min_interval_s', 10.0, 'At most one snapshot in so long; one that is wanted '
        'earlier is taken at its end.', low=0, high=3600, unit='s'),
)


@dataclass(frozen=True)
class CompanionConfig:
    """The checked parameters, dots as underscores; the table says what each one means."""

    watch: str
    heartbeat_component: int
    heartbeat_start_grace_s: float
    heartbeat_critical_after_s: float
    heartbeat_terminal_after_s: float
    statustext_min_interval_s: float
    waypoint_altitude_m: float
    waypoint_min_altitude_m: float
    snapshot_service: str
    snapshot_min_interval_s: float


def check_values(given: Mapping[str, Any]) -> CompanionConfig:
    """
    Check parameter values and fill in the defaults.

    `given` may hold other nodes' parameters, which are left alone. ConfigError for an unknown
    name under our prefixes, with the nearest known one, or for a value that does not fit.
    """
    rows = {row.name: row for row in TABLE}
    for name in sorted(given):
        if name not in rows and name.split('.')[0] in PREFIXES:
            guess = nearest(name, rows)
            raise ConfigError(f'unknown parameter {name!r}'
                              + (f'; did you mean {guess!r}?' if guess else ''))
    values = {name.replace('.', '_'): row.check(given[name]) if name in given else row.default
              for name, row in rows.items()}
    config = CompanionConfig(**values)
    for name, value in (('watch', config.watch), ('snapshot.service', config.snapshot_service)):
        if not re.fullmatch(ROS_NAME, value) and (value or name == 'watch'):
            raise ConfigError(f'{name}: expected a ROS name such as {EXAMPLES[name]}, got '
                              f'{value!r}')
    if 0 < config.heartbeat_terminal_after_s <= config.heartbeat_critical_after_s:
        raise ConfigError('heartbeat.terminal_after_s: expected more than '
                          'heartbeat.critical_after_s '
                          f'({config.heartbeat_critical_after_s:g} s) or 0, got '
                          f'{config.heartbeat_terminal_after_s!r}')
    return config
