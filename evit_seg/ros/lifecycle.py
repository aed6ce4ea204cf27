# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The base of a node that has states; a plain one where rclpy has no lifecycle, before Humble."""
from __future__ import annotations

from enum import Enum
from typing import Any

from rclpy.node import Node


class PlainReturn(Enum):
    """What a transition came to, by the names that rclpy.lifecycle uses."""

    SUCCESS = 'success'
    FAILURE = 'failure'


class PlainNode(Node):
    """
    Starts as a lifecycle node does, on its own; no manager can ask it for a transition.

    The transitions that it needs for that are the callbacks of the node made of it.
    """

    def trigger_configure(self) -> Any:
        """Configure the node."""
        return self.on_configure(None)  # type: ignore[attr-defined]

    def trigger_activate(self) -> Any:
        """Activate the node."""
        return self.on_activate(None)  # type: ignore[attr-defined]


try:
    from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
    MANAGED = True
except ImportError:
    LifecycleNode, TransitionCallbackReturn = PlainNode, PlainReturn  # type: ignore
    MANAGED = False
"""Whether a lifecycle manager can drive the node; without one it has to start itself."""
