# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What seg_companion hands to MAVROS, as messages of mavros_msgs where that is installed."""
from __future__ import annotations

import importlib
import math
from types import ModuleType
from typing import Any, Optional

from evit_seg.core.companion_link import Place, Text
from std_msgs.msg import Header

FRAME_GLOBAL_REL_ALT = 3
NAV_WAYPOINT = 16
"""MAV_FRAME and MAV_CMD of a waypoint whose altitude is above home."""


def import_mavros_msgs() -> Optional[ModuleType]:
    """Return mavros_msgs.msg (2.x), or None where it is not installed."""
    try:
        return importlib.import_module('mavros_msgs.msg')
    except ModuleNotFoundError:
        return None


def status_text(mavros: ModuleType, header: Header, text: Text) -> Any:
    """Return a mavros_msgs/StatusText."""
    return mavros.StatusText(header=header, severity=text.severity, text=text.text)


def process_status(mavros: ModuleType, header: Header, state: int, component: int) -> Any:
    """Return a mavros_msgs/CompanionProcessStatus, which MAVROS sends as a heartbeat."""
    return mavros.CompanionProcessStatus(header=header, state=state, component=component)


def waypoint(mavros: ModuleType, place: Place, altitude_m: float) -> Any:
    """
    Return a mavros_msgs/Waypoint at `place`, `altitude_m` above home, for a mission of one's own.

    param4 is NaN: the autopilot keeps its own way of heading.
    """
    return mavros.Waypoint(
        frame=FRAME_GLOBAL_REL_ALT, command=NAV_WAYPOINT, is_current=False, autocontinue=True,
        param1=0.0, param2=0.0, param3=0.0, param4=math.nan, x_lat=place.latitude_deg,
        y_long=place.longitude_deg, z_alt=altitude_m)
