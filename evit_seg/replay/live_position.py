# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What geotags need, from the bag to the node: position, heading, height, calibration, time."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evit_seg.replay.bag import Bag, BagMessage, ImageTopic

TYPES = {'fix': 'sensor_msgs/msg/NavSatFix', 'heading': 'std_msgs/msg/Float64',
         'height': 'std_msgs/msg/Float64', 'camera_info': 'sensor_msgs/msg/CameraInfo'}
"""The node's names of these topics, and their types."""
OTHER_NAMES = {'heading': ('compass_hdg',), 'height': ('rel_alt',)}
"""What MAVROS calls them, in the same units."""


def position_topics(bag: Bag, image: ImageTopic) -> tuple[dict[str, str], list[str]]:
    """
    Return bag topic -> the node's name for it, and notes for the user.

    A topic is taken by its type and the last part of its name, or MAVROS's name for it; a bag's
    only NavSatFix by its type alone; camera_info beside the image only.
    """
    parent = image.name[:-len('/compressed')] if image.compressed else image.name
    parent = parent.rsplit('/', 1)[0]
    topics, notes = {}, []
    for name, type_name in TYPES.items():
        of_type = [topic for topic, its_type in sorted(bag.topic_types.items())
                   if its_type == type_name]
        if name == 'camera_info':
            found = [topic for topic in of_type if topic == f'{parent}/camera_info']
        else:
            found = next(filter(None, (_ending_in(last, of_type)
                                       for last in (name, *OTHER_NAMES.get(name, ())))), [])
        if name == 'fix' and not found:
            found = of_type
        if len(found) == 1:
            topics[found[0]] = name
        elif found:
            notes.append(f'{name} is not used: the bag has {", ".join(found)}, and nothing says '
                         "which of them is the drone's")
    return topics, notes


def _ending_in(last: str, topics: Iterable[str]) -> list[str]:
    return [topic for topic in topics if topic.rsplit('/', 1)[-1] == last]


class PositionPlayer:
    """Publishes these topics, by their names in the bag, and the time; publishers are rclpy's."""

    def __init__(self, publishers: Mapping[str, Any], clock: Any) -> None:
        self._publishers = publishers
        self._clock = clock
        self.told_ns = 0
        """The time of the bag as it was told last."""

    def all(self) -> list[Any]:  # noqa: A003
        """Return the publishers."""
        return [self._clock, *self._publishers.values()]

    def tell_time(self, bag_ns: int) -> None:
        """Publish the time of the bag: headings and heights have no other."""
        message = self._clock.msg_type()
        message.clock.sec, message.clock.nanosec = divmod(bag_ns, 10 ** 9)
        self._clock.publish(message)
        self.told_ns = bag_ns

    def publish(self, message: BagMessage) -> None:
        """Publish one message of the bag."""
        publisher = self._publishers[message.topic]
        out = publisher.msg_type()
        copy_fields(message.content, out)
        publisher.publish(out)


def copy_fields(content: Any, out: Any) -> None:
    """Copy a message as rosbags decodes it into one of rclpy, field by field of the latter."""
    for name in out.get_fields_and_field_types():
        # ROS 1 writes CameraInfo's matrices in capitals.
        value = getattr(content, name if hasattr(content, name) else name.upper())
        target = getattr(out, name)
        if hasattr(target, 'get_fields_and_field_types'):
            copy_fields(value, target)
        elif isinstance(target, (bool, int, float, str)):
            setattr(out, name, type(target)(value))
        else:
            setattr(out, name, [float(v) for v in value])
