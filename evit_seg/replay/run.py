# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A bag through the Segmenter, frame by frame: masks, scores, alerts and stage times."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import time
from typing import Any

from evit_seg.core.alerts import Alert, AlertEvent, AlertRule, AlertTracker
from evit_seg.core.errors import FrameError, InputError
from evit_seg.core.metrics import resize_truth, ScoreAccumulator
from evit_seg.core.regions import find_regions
from evit_seg.core.segmenter import Segmenter
from evit_seg.replay.bag import Bag, BagMessage, decode_frame, decode_label, ImageTopic
from evit_seg.replay.observer import Observer, SeenFrame
from evit_seg.replay.truth import MaskMatcher, pair_stamps
import numpy as np
from tqdm import tqdm


@dataclass(frozen=True)
class Stamps:
    """
    The stamps of all frames and labels, in the bag's order, ns.

    They are the headers' own; where every frame's header says zero, the bag's time.
    """

    image_ns: list[int]
    truth_ns: list[int]
    clock: str
    """'header' or 'bag'."""


def read_stamps(bag: Bag, image: ImageTopic, truth: ImageTopic | None,
                progress: bool = False) -> Stamps:
    """Read through the bag once for its stamps."""
    both: dict[str, list[tuple[int, int]]] = {image.name: []}
    if truth is not None:
        both[truth.name] = []
    for message in tqdm(bag.messages(list(both)), unit='message', desc='stamps',
                        total=image.messages + (truth.messages if truth else 0),
                        disable=None if progress else True):  # None: only on a terminal
        both[message.topic].append((message.stamp_ns, message.bag_ns))
    which = 0 if any(stamp_ns for stamp_ns, _ in both[image.name]) else 1
    return Stamps([pair[which] for pair in both[image.name]],
                  [pair[which] for pair in both[truth.name]] if truth else [],
                  ('header', 'bag')[which])


@dataclass
class Outcome:
    """What a run over a bag gave; `stage_ms` is stage -> one value per frame."""

    frames: int = 0
    malformed: list[str] = field(default_factory=list)
    malformed_labels: list[str] = field(default_factory=list)
    truth_resized: int = 0
    pairs: int = 0
    lost_pairs: int = 0
    class_px: Any = None
    scores: ScoreAccumulator | None = None
    events: list[AlertEvent] = field(default_factory=list)
    alerts: dict[int, tuple[Alert, ...]] = field(default_factory=dict)
    """Active alerts after each frame that could be decoded, by its place in the bag."""
    stage_ms: dict[str, list[float]] = field(default_factory=dict)
    wall_s: float = 0.0


class BagRun:
    """Feeds the messages of one bag to a Segmenter in the bag's order."""

    def __init__(self, segmenter: Segmenter, rules: Sequence[AlertRule], stamps: Stamps,
                 tolerance_ns: int = 0, observers: Sequence[Observer] = ()) -> None:
        self._segmenter = segmenter
        self._observers = observers
        self._rules = rules
        self._stamps = stamps
        self._tracker = AlertTracker(rules)
        pairs = pair_stamps(stamps.image_ns, stamps.truth_ns, tolerance_ns)
        self._matcher = MaskMatcher(pairs)
        self._images = 0
        self._truths = 0
        classes = len(segmenter.label_map)
        self.outcome = Outcome(pairs=len(pairs), class_px=np.zeros(classes, np.int64),
                               scores=ScoreAccumulator(classes) if stamps.truth_ns else None)

    def take_image(self, message: BagMessage) -> None:
        """Segment one frame, follow its alerts, and score it if its truth is there."""
        index, self._images = self._images, self._images + 1
        start_s = time.perf_counter()
        try:
            frame = decode_frame(message)
        except FrameError as error:
            self.outcome.malformed.append(str(error))
            self._matcher.give_up_image(index)
            return
        decoded_s = time.perf_counter()
        result = self._segmenter(frame.image_HWC, frame.colour)
        answered_s = time.perf_counter()
        regions = find_regions(result.logits_CHW, result.geometry, self._rules,
                               self._segmenter.manifest.temperature)
        events = self._tracker.update(self._stamps.image_ns[index], regions)
        tracked_s = time.perf_counter()

        self.outcome.frames += 1
        self.outcome.events += events
        active = self.outcome.alerts[index] = tuple(self._tracker.active())
        counts = np.bincount(result.mask_HW.reshape(-1), minlength=len(self.outcome.class_px))
        self.outcome.class_px += counts
        stages = {'decode': (decoded_s - start_s) * 1e3, **result.stage_ms,
                  'alerts': (tracked_s - answered_s) * 1e3, 'total': (tracked_s - start_s) * 1e3}
        for stage, value_ms in stages.items():
            self.outcome.stage_ms.setdefault(stage, []).append(value_ms)
        seen = SeenFrame(index, self._stamps.image_ns[index], frame, result, regions, events,
                         active)
        for observer in self._observers:
            observer.take_frame(seen)
        truth_HW = self._matcher.add_prediction(index, result.mask_HW)
        if truth_HW is not None:
            self._score(index, truth_HW, result.mask_HW)

    def take_truth(self, message: BagMessage) -> None:
        """Take one label and score the prediction it belongs to, if that is there."""
        index, self._truths = self._truths, self._truths + 1
        try:
            truth_HW = decode_label(message)
        except FrameError as error:
            self.outcome.malformed_labels.append(str(error))
            self._matcher.give_up_truth(index)
            return
        image_index = self._matcher.image_of(index)
        mask_HW = self._matcher.add_truth(index, truth_HW)
        if mask_HW is not None and image_index is not None:
            self._score(image_index, truth_HW, mask_HW)

    def take_other(self, message: BagMessage) -> None:
        """Hand a message that is neither image nor label to those who asked for its topic."""
        for observer in self._observers:
            if message.topic in observer.topics:
                observer.take_message(message)

    def _score(self, index: int, truth_HW: np.ndarray, mask_HW: np.ndarray) -> None:
        if truth_HW.shape != mask_HW.shape:
            self.outcome.truth_resized += 1
            truth_HW = resize_truth(truth_HW, (mask_HW.shape[0], mask_HW.shape[1]))
        if self.outcome.scores is not None:
            self.outcome.scores.add(truth_HW, mask_HW)
        for observer in self._observers:
            observer.take_pair(index, truth_HW, mask_HW)

    def finish(self, wall_s: float) -> Outcome:
        """Return the outcome of the whole bag."""
        self.outcome.lost_pairs = self._matcher.lost
        self.outcome.wall_s = wall_s
        return self.outcome


def run_bag(bag: Bag, segmenter: Segmenter, rules: Sequence[AlertRule], image: ImageTopic,
            truth: ImageTopic | None, stamps: Stamps, *, tolerance_ns: int = 0,
            observers: Sequence[Observer] = (), progress: bool = False) -> Outcome:
    """Return what the bag gave; InputError when not one frame of it could be decoded."""
    run = BagRun(segmenter, rules, stamps, tolerance_ns, observers)
    segmenter.warm_up()
    labels = truth.name if truth else None
    topics = {image.name, *([labels] if labels else []),
              *(topic for observer in observers for topic in observer.topics)}
    start_s = time.perf_counter()
    with tqdm(total=len(stamps.image_ns), unit='frame', desc='bag_eval',
              disable=None if progress else True) as bar:
        for message in bag.messages(sorted(topics)):
            if message.topic == image.name:
                run.take_image(message)
                bar.update()
            elif message.topic == labels:
                run.take_truth(message)
            else:
                run.take_other(message)
    outcome = run.finish(time.perf_counter() - start_s)
    if not outcome.frames:
        raise InputError(f'{bag.path}: not one of the {len(stamps.image_ns)} frames of '
                         f'{image.name} can be decoded; the first: {outcome.malformed[0]}')
    return outcome
