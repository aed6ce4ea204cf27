# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A bag through the Segmenter, frame by frame: masks, scores, alerts and stage times."""
from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
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
from evit_seg.replay.truth_folder import TruthFolder
import numpy as np
from tqdm import tqdm


@dataclass(frozen=True)
class Stamps:
    """
    The stamps of all frames and labels, in the bag's order, ns.

    They are the headers' own; where every frame's header says zero, the bag's time.
    """

    image_ns: Sequence[int]
    truth_ns: Sequence[int]
    clock: str
    """'header' or 'bag'."""


def read_stamps(bag: Bag, image: ImageTopic, truth: ImageTopic | None,
                progress: bool = False) -> Stamps:
    """Read through the bag once for its stamps."""
    both = {topic.name: (array('q'), array('q')) for topic in (image, truth) if topic is not None}
    for message in tqdm(bag.messages(list(both)), unit='message', desc='stamps',
                        total=image.messages + (truth.messages if truth else 0),
                        disable=None if progress else True):  # None: only on a terminal
        stamps_ns, bag_ns = both[message.topic]
        stamps_ns.append(message.stamp_ns)
        bag_ns.append(message.bag_ns)
    if not both[image.name][0]:
        raise InputError(f'{bag.path}: not one message of {image.name} can be read')
    which = 0 if any(both[image.name][0]) else 1
    return Stamps(both[image.name][which], both[truth.name][which] if truth else array('q'),
                  ('header', 'bag')[which])


@dataclass
class Refused:
    """How many could not be decoded, and why the first could not."""

    count: int = 0
    first: str = ''

    def add(self, error: FrameError) -> None:
        """Count one."""
        self.first = self.first or str(error)
        self.count += 1


@dataclass
class Outcome:
    """
    What a run over a bag gave; bags are long, so that little is kept of each frame.

    `processed` are the places in the bag of the frames that could be decoded, `stage_ms` is stage
    -> one value for each of them. Of what is malformed the first reason is kept.
    """

    frames: int = 0
    malformed: Refused = field(default_factory=Refused)
    malformed_labels: Refused = field(default_factory=Refused)
    truth_resized: int = 0
    pairs: int = 0
    lost_pairs: int = 0
    class_px: Any = None
    scores: ScoreAccumulator | None = None
    events: list[AlertEvent] = field(default_factory=list)
    alerts: dict[int, tuple[Alert, ...]] = field(default_factory=dict)
    """Active alerts after each processed frame that has a name, by its place in the bag."""
    processed: array[int] = field(default_factory=lambda: array('q'))
    stage_ms: dict[str, array[float]] = field(default_factory=dict)
    wall_s: float = 0.0


class BagRun:
    """Feeds the messages of one bag to a Segmenter in the bag's order."""

    def __init__(self, segmenter: Segmenter, rules: Sequence[AlertRule], stamps: Stamps,
                 tolerance_ns: int = 0, observers: Sequence[Observer] = (), *,
                 masks: TruthFolder | None = None,
                 names: Mapping[int, tuple[str, float]] | None = None) -> None:
        self._masks = masks
        self._names = names or {}
        self._segmenter = segmenter
        self._observers = observers
        self._rules = rules
        self._stamps = stamps
        self._tracker = AlertTracker(rules)
        pairs = pair_stamps(stamps.image_ns, stamps.truth_ns, tolerance_ns)
        self._mask_of = pairs if masks is not None else {}
        self._matcher = MaskMatcher({} if masks is not None else pairs)
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
            self.outcome.malformed.add(error)
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
        self.outcome.processed.append(index)
        active = tuple(self._tracker.active())
        if index in self._names:
            self.outcome.alerts[index] = active
        counts = np.bincount(result.mask_HW.reshape(-1), minlength=len(self.outcome.class_px))
        self.outcome.class_px += counts
        stages = {'decode': (decoded_s - start_s) * 1e3, **result.stage_ms,
                  'alerts': (tracked_s - answered_s) * 1e3, 'total': (tracked_s - start_s) * 1e3}
        for stage, value_ms in stages.items():
            self.outcome.stage_ms.setdefault(stage, array('d')).append(value_ms)
        seen = SeenFrame(index, self._stamps.image_ns[index], frame, result, regions, events,
                         active, self._stamps.image_ns[0], self._names.get(index))
        for observer in self._observers:
            observer.take_frame(seen)
        truth_HW = self._read_mask(index) if self._masks is not None \
            else self._matcher.add_prediction(index, result.mask_HW)
        if truth_HW is not None:
            self._score(index, truth_HW, result.mask_HW)

    def _read_mask(self, index: int) -> np.ndarray | None:
        if self._masks is None or index not in self._mask_of:
            return None
        try:
            return self._masks.read(self._mask_of[index])
        except FrameError as error:
            self.outcome.malformed_labels.add(error)
            return None

    def take_truth(self, message: BagMessage) -> None:
        """Take one label and score the prediction it belongs to, if that is there."""
        index, self._truths = self._truths, self._truths + 1
        try:
            truth_HW = decode_label(message)
        except FrameError as error:
            self.outcome.malformed_labels.add(error)
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
            observers: Sequence[Observer] = (), masks: TruthFolder | None = None,
            names: Mapping[int, tuple[str, float]] | None = None,
            progress: bool = False) -> Outcome:
    """
    Return what the bag gave; InputError when not one frame of it could be decoded.

    Ground truth comes from the topic `truth` or from `masks`, whose stamps are then those of
    `stamps`. `names` are the frames' stems and times in frames.csv, for observers.
    """
    run = BagRun(segmenter, rules, stamps, tolerance_ns, observers, masks=masks, names=names)
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
                         f'{image.name} can be decoded; the first: {outcome.malformed.first}')
    return outcome
