# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
rosbags' reader of ROS 1 bags with an index of 20 bytes a message instead of 200.

A flight of an hour has a million messages: the inertial unit's alone are hundreds a second.
"""
from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from rosbags.rosbag1.reader import IndexData, Reader


class MessageIndex:
    """Where the messages of one connection lie, by time once it is sorted."""

    def __init__(self) -> None:
        self._times_ns = array('q')
        self._chunks = array('q')
        self._offsets = array('I')

    def append(self, entry: IndexData) -> None:
        """Add a message."""
        self._times_ns.append(entry.time)
        self._chunks.append(entry.chunk_pos)
        self._offsets.append(entry.offset)

    def sort(self) -> None:
        """Order by time; what has the same stays in the order of the file."""
        order = np.argsort(self._times_ns, kind='stable')
        for column in (self._times_ns, self._chunks, self._offsets):
            values = np.frombuffer(column, column.typecode)
            values[:] = values[order]

    def __len__(self) -> int:
        return len(self._times_ns)

    def __iter__(self) -> Iterator[IndexData]:
        return map(IndexData, self._times_ns, self._chunks, self._offsets)


class Ros1Reader(Reader):
    """Reads ROS 1 bags; a bag without its index is for SalvagedRos1."""

    def open(self) -> None:  # noqa: A003
        """Open the bag and read its index."""
        self._lean: dict[int, Any] = defaultdict(MessageIndex)
        super().open()
        self.use_index(self._lean)

    def read_index_data(self, pos: int, indexes: dict[int, Any]) -> None:
        """Read index data from position into the lean index."""
        super().read_index_data(pos, self._lean)

    def use_index(self, found: dict[int, MessageIndex]) -> None:
        """Read messages by this index."""
        for index in found.values():
            index.sort()
        indexes: Any = {connection.id: found[connection.id] for connection in self.connections}
        self.indexes = indexes
        self.connections = [connection._replace(msgcount=len(found[connection.id]))
                            for connection in self.connections]
