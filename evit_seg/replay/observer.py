# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What looks on while a bag runs through a Segmenter, and makes a part of the report of it."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evit_seg.core.alerts import Alert, AlertEvent
from evit_seg.core.decode import Frame
from evit_seg.core.regions import Region
from evit_seg.core.segmenter import SegResult
from evit_seg.replay.bag import BagMessage
import numpy as np


@dataclass(frozen=True)
class SeenFrame:
    """
    One frame and all that was made of it.

    `index` is its place among the bag's images, `stamp_ns` the clock of the run (the header's, or
    the bag's time where every header says zero), `first_ns` that of the bag's first image.
    `regions` are those that hold evidence, by class id; `active` the alerts after this frame,
    `events` what it changed. `name` is the frame's stem and time in frames.csv, where known.
    """

    index: int
    stamp_ns: int
    frame: Frame
    result: SegResult
    regions: Mapping[int, Sequence[Region]]
    events: Sequence[AlertEvent]
    active: tuple[Alert, ...]
    first_ns: int = 0
    name: tuple[str, float] | None = None


class Observer(Protocol):
    """
    Looks on during a run; keeps little, as a bag may be long.

    `key` names its part of the report, `topics` the topics it wants beside images and labels.
    """

    key: str

    @property
    def topics(self) -> Sequence[str]:
        """Return the topics whose messages `take_message` is to get."""

    def take_message(self, message: BagMessage) -> None:
        """Take a message of one of `topics`, in the order of the bag's time."""

    def take_frame(self, seen: SeenFrame) -> None:
        """Take one frame; its arrays are valid during the call, keep copies."""

    def take_pair(self, index: int, truth_HW: np.ndarray, mask_HW: np.ndarray) -> None:
        """Take truth (255: ignore) and mask of frame `index`, both uint8 of the mask's size."""

    def section(self) -> Any:
        """Return its part of the report as JSON can hold it; the same in every run."""
