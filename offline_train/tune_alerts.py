# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Find alert thresholds of a class on validation flights: recall against false alerts.

The network runs once over each frame; its logits, kept as half floats, then go through core's
regions, tracker and appearance score for each combination of thresholds. Never run it on the
flights a claim is tested on.

Recall and false alerts alone would choose an alert that never goes out: one long span that meets a
person somewhere is no false alert by the definition. So the table also says for which share of the
time without any object of the class the alert was active, and the order of the rows counts it.
"""
from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
import itertools
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Tuple

import cv2
from evit_seg.core.alerts import AlertRule, AlertTracker
from evit_seg.core.appearances import (
    AppearanceScore,
    ObjectBox,
    read_events,
    read_objects,
    score_appearances,
    ScoredFrame,
    VisibleSpan,
)
from evit_seg.core.errors import InputError
from evit_seg.core.preprocess import Geometry
from evit_seg.core.regions import find_regions
from evit_seg.core.segmenter import Segmenter
import numpy as np
from tqdm import tqdm


@dataclass(frozen=True)
class FlightLogits:
    """The network's answers to a flight: logits float16 (C, h, w), a name and a time per frame."""

    names: Tuple[str, ...]
    times_s: Tuple[float, ...]
    logits: Tuple[np.ndarray, ...]
    geometry: Geometry
    objects: Tuple[ObjectBox, ...]
    events: Tuple[VisibleSpan, ...]


@dataclass(frozen=True)
class Trial:
    """The outcome of one rule over all flights."""

    rule: AlertRule
    appearances: int
    hits: int
    false_alerts: int
    minutes: float
    idle_share: float
    """Share of the frames without any object of the class in which an alert was active."""

    @property
    def recall(self) -> float:
        """Return the part of the appearances that were hit; 0 without any."""
        return self.hits / self.appearances if self.appearances else 0.0

    @property
    def false_per_minute(self) -> float:
        """Return false alerts per minute of flight."""
        return self.false_alerts / self.minutes if self.minutes else 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train tune_alerts`."""
    parser.add_argument('--bundle', required=True, help='bundle folder or name under models/')
    parser.add_argument('--flight', type=Path, action='append', required=True,
                        help='folder of a flight (IMG/, frames.csv, objects.csv, events.csv)')
    parser.add_argument('--class', dest='slug', default='person', help='default: %(default)s')
    parser.add_argument('--min-height', type=float, default=12.0, metavar='PX',
                        help='appearances of this height or more count (default: %(default)s)')
    parser.add_argument('--bias', type=float, nargs='+', default=[-2, -1, 0, 1])
    parser.add_argument('--confidence', type=float, nargs='+', default=[0.4, 0.5, 0.6, 0.7, 0.8])
    parser.add_argument('--pixels', type=float, nargs='+', default=[20, 100, 160])
    parser.add_argument('--confirm', type=_confirm, nargs='+', default=[(3, 5)], metavar='K/N')
    parser.add_argument('--show', type=int, default=12, help='rows of the table')


def main(args: argparse.Namespace) -> int:
    """Run `offline_train tune_alerts`: print the best rules, best first."""
    segmenter = Segmenter.open(args.bundle)
    class_id = segmenter.label_map.by_slug(args.slug).id
    flights = [run_flight(segmenter, folder) for folder in args.flight]
    rules = [AlertRule(class_id, args.slug, pixels, confidence, k, n, logit_bias=bias)
             for bias, confidence, pixels, (k, n) in itertools.product(
                 args.bias, args.confidence, args.pixels, args.confirm)]
    trials = [try_rule(flights, rule, segmenter.manifest.temperature, args.min_height)
              for rule in tqdm(rules, unit='rule')]
    print(f'{"bias":>6}{"confidence":>12}{"pixels":>8}{"k/n":>6}{"recall":>9}{"hits":>9}'
          f'{"false/min":>11}{"idle on":>9}')
    for trial in sorted(trials, key=_cost)[:args.show]:
        rule = trial.rule
        hits = f'{trial.hits}/{trial.appearances}'
        print(f'{rule.logit_bias:>6.1f}{rule.min_confidence:>12.2f}{rule.min_pixels:>8.0f}'
              f'{f"{rule.confirm_k}/{rule.confirm_n}":>6}{trial.recall:>9.3f}{hits:>9}'
              f'{trial.false_per_minute:>11.2f}{trial.idle_share:>9.2f}')
    segmenter.close()
    return 0


def run_flight(segmenter: Segmenter, folder: Path) -> FlightLogits:
    """Return the network's answers to a flight's frames."""
    rows = read_frame_rows(folder / 'frames.csv')
    logits: List[np.ndarray] = []
    for file, _ in tqdm(rows, desc=folder.parent.name, unit='frame'):
        image = cv2.imread(str(folder / 'IMG' / file), cv2.IMREAD_COLOR)
        if image is None:
            raise InputError(f'{folder / "IMG" / file}: expected an image, it cannot be decoded')
        result = segmenter(np.asarray(image), 'bgr', mask_hw=segmenter.engine.input_hw)
        logits.append(result.logits_CHW.astype(np.float16))
    return FlightLogits(tuple(Path(file).stem for file, _ in rows),
                        tuple(time_s for _, time_s in rows), tuple(logits), result.geometry,
                        tuple(read_objects(folder / 'objects.csv')),
                        tuple(read_events(folder / 'events.csv')))


def try_rule(flights: Sequence[FlightLogits], rule: AlertRule, temperature: float,
             min_height_px: float) -> Trial:
    """Return hits and false alerts of one rule over all flights, each from a fresh start."""
    outcomes = [score_flight(flight, rule, temperature, min_height_px) for flight in flights]
    scores = [score for score, _ in outcomes]
    idle = [active for _, frames in outcomes for active in frames]
    return Trial(rule, sum(len(s.appearances) for s in scores), sum(s.hits for s in scores),
                 sum(s.false_alerts for s in scores), sum(s.minutes for s in scores),
                 float(np.mean(idle)) if idle else 0.0)


def score_flight(flight: FlightLogits, rule: AlertRule, temperature: float,
                 min_height_px: float) -> Tuple[AppearanceScore, List[bool]]:
    """
    Return the appearance score of one rule on one flight, and the idle frames.

    The idle frames are those without any object of the class: was an alert active in each?
    """
    tracker, frames = AlertTracker([rule]), []
    for name, time_s, logits in zip(flight.names, flight.times_s, flight.logits, strict=True):
        stamp_ns = round(time_s * 1e9)
        regions = find_regions(logits.astype(np.float32), flight.geometry, [rule], temperature)
        tracker.update(stamp_ns, regions)
        frames.append(ScoredFrame(name, time_s, stamp_ns, tuple(tracker.active())))
    score = score_appearances(frames, flight.objects, rule.slug, min_height_px=min_height_px,
                              confirm_n=rule.confirm_n, events=flight.events)
    occupied = {box.frame for box in flight.objects if box.slug == rule.slug}
    return score, [bool(frame.alerts) for frame in frames if frame.name not in occupied]


def _cost(trial: Trial) -> Tuple[float, float]:
    """Order trials: a false alert a minute weighs as much as 0.1 of recall, as does idle 0.5."""
    cost = -trial.recall + 0.1 * trial.false_per_minute + 0.2 * trial.idle_share
    return cost, trial.rule.logit_bias


def _confirm(text: str) -> Tuple[int, int]:
    k, slash, n = text.partition('/')
    if not (slash and k.isdigit() and n.isdigit()):
        raise argparse.ArgumentTypeError(f'expected K/N such as 3/5, got {text!r}')
    return int(k), int(n)


def read_frame_rows(path: Path) -> List[Tuple[str, float]]:
    """Return file and time in seconds of each row of a flight's frames.csv."""
    try:
        with path.open(newline='', encoding='utf-8') as file:
            rows: Iterator[Dict[str, str]] = csv.DictReader(file)
            return [(row['file'], float(row['time_s'])) for row in rows]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f'{path}: expected a CSV with file and time_s: {error}') from error
