# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Publishers and subscriptions whose QoS ROS's own `qos_overrides` parameters may change."""
from __future__ import annotations

import copy
from typing import Any, Callable, List, Optional

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

PREFIX = 'qos_overrides.'


def create_publisher(node: Node, kind: Any, topic: str, qos: QoSProfile,
                     group: Optional[CallbackGroup] = None) -> Any:
    """
    Return a publisher; `qos_overrides.<topic>.publisher.*` stand above `qos`.

    Reliability, depth and history can be set so, with the topic's full name, at the start only.
    group: of its events; what is made again and again needs one that goes with it, because the
    node's own never forgets anybody (3 KB for each nine publishers, rclpy 9.1).
    """
    # rclpy writes what was set into the profile it is given.
    return node.create_publisher(kind, topic, copy.copy(qos), callback_group=group,
                                 qos_overriding_options=_options())


def create_subscription(node: Node, kind: Any, topic: str, callback: Callable[[Any], None],
                        qos: QoSProfile, group: Optional[CallbackGroup] = None) -> Any:
    """Return a subscription; `qos_overrides.<topic>.subscription.*` stand above `qos`."""
    return node.create_subscription(kind, topic, callback, copy.copy(qos), callback_group=group,
                                    qos_overriding_options=_options())


def _options() -> QoSOverridingOptions:
    return QoSOverridingOptions.with_default_policies()


def unused_overrides(node: Node) -> List[str]:
    """Return the `qos_overrides` that were given and belong to nothing the node has made."""
    given = [name for name in node._parameter_overrides if name.startswith(PREFIX)]
    return sorted(name for name in given if not node.has_parameter(name))
