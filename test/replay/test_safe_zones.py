# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Landing zones over a bag: shares, radii and wrong zones by hand."""
from __future__ import annotations

import json
from pathlib import Path

import cv2
from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import LabelClass, LabelMap, load_label_map
from evit_seg.core.safe_zone import SafeZone, ZoneRule
from evit_seg.replay import bag_eval, make_bag
from evit_seg.replay.safe_zones import pixels_in, SafeZones, zone_rule
import numpy as np
import pytest
from tiny_bundle import anchor_colours, write_tiny_bundle

BACKGROUND, WATER, PERSON, ROAD = 0, 7, 10, 12
PARAMS = """/**:
  ros__parameters:
    alert: {classes: [person]}
    safe_zone: {publish: true, confirm_n: 2, min_radius_px: 5, margin_px: 0, max_rate_hz: 3.0}
"""


@pytest.fixture(scope='module')
def tiny(tmp_path_factory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp('bundle') / 'tiny')


def section_of(tmp_path, tiny, seen, truth=None, params=PARAMS):
    """Return the section of a 2 Hz flight of frames in one class each, and truths (H, W)."""
    folder = tmp_path / 'f'
    for kind in ('IMG', *(['GT'] if truth else [])):
        (folder / kind).mkdir(parents=True)
    rows = ['file,time_s']
    for i, class_id in enumerate(seen):
        image = np.full((64, 64, 3), anchor_colours()[class_id][::-1], np.uint8)
        cv2.imwrite(str(folder / 'IMG' / f'f{i}.png'), image)
        if truth:
            cv2.imwrite(str(folder / 'GT' / f'f{i}.png'), truth[i])
        rows.append(f'f{i}.png,{i / 2}')
    (folder / 'frames.csv').write_text('\n'.join(rows))
    assert make_bag.main([str(folder), '--out', str(tmp_path / 'bag')]) == 0
    (tmp_path / 'params.yaml').write_text(params)
    assert bag_eval.main([str(tmp_path / 'bag'), '--model', str(tiny), '--threads', '1', '--json',
                          str(tmp_path / 'o.json'), '--quiet', '--params',
                          str(tmp_path / 'params.yaml')]) == 0
    return json.loads((tmp_path / 'o.json').read_text())['runs'][0]['safe_zone']


def truth_with(*pixels, ground=BACKGROUND):
    mask_HW = np.full((64, 64), ground, np.uint8)
    for y, x, value in pixels:
        mask_HW[y, x] = value
    return mask_HW


def test_a_flight_by_hand(tmp_path, tiny):
    # Two frames confirm a zone; the water of frame 4 blocks frames 4 and 5. The circle has its
    # centre at (27.5, 27.5) and 28 px.
    truth = [truth_with(), truth_with(), truth_with((30, 30, PERSON)),
             truth_with((30, 30, 255), (63, 63, PERSON)), truth_with(), truth_with(),
             truth_with((28, 0, WATER), (0, 28, PERSON)), truth_with()]
    found = section_of(tmp_path, tiny, [BACKGROUND] * 4 + [WATER] + [BACKGROUND] * 3, truth)
    assert found['over_time'] == [{'t_s': 0, 'radius_px': 0.0}, {'t_s': 1, 'radius_px': 28.0},
                                  {'t_s': 2, 'radius_px': 0.0}, {'t_s': 3, 'radius_px': 28.0}]
    assert (found['frames'], found['with_zone'], found['share']) == (8, 5, 0.625)
    assert found['radius_px'] == {'p5': 28.0, 'p50': 28.0, 'p95': 28.0}
    assert (found['classes'], found['hazards'], found['confirm_n'], found['jumps']) == (
        ['background', 'road_railway_bridge'], ['fire_flare', 'person', 'vehicle'], 2, 0)
    # Zones in frames 1, 2, 3, 6 and 7: the person in 2 lies in it, that in 3 outside; in 6 the
    # water and the person lie at its left and upper edges, 27.5 px from the centre.
    assert found['truth'] == {
        'zones': 5, 'not_free': 2, 'share_not_free': 0.4,
        'by_class': {'flood_water_river_sea': 1, 'person': 2}}


def test_what_is_printed(tmp_path, tiny, capsys):
    section_of(tmp_path, tiny, [BACKGROUND] * 3, [truth_with((30, 30, PERSON))] * 3)
    assert ('landing zones: in 2 of 3 frames, radius p50 28 px; 2 of 2 not free by the truth, '
            'person in 2') in capsys.readouterr().out


def test_without_truth_nothing_is_said_of_it(tmp_path, tiny):
    found = section_of(tmp_path, tiny, [WATER] * 3)
    assert (found['share'], found['radius_px'], found['truth']) == (0.0, None, None)


def test_pixels_by_their_centres():
    mask_HW = np.arange(25, dtype=np.uint8).reshape(5, 5)
    assert sorted(pixels_in(SafeZone(2, 2, 1.01), mask_HW)) == [7, 11, 12, 13, 17]
    assert sorted(pixels_in(SafeZone(2, 2, 1.0), mask_HW)) == [12]
    assert sorted(pixels_in(SafeZone(0.5, 4, 1.0), mask_HW)) == [20, 21]


def test_the_rule_is_that_of_the_file():
    labels = load_label_map()
    assert zone_rule({}, labels, []) == ZoneRule((BACKGROUND, ROAD), (6, PERSON, 13))
    assert zone_rule({'safe_zone.classes': ['background'], 'safe_zone.margin_px': 2,
                      'safe_zone.publish': True, 'model': 'x'}, labels, []) == ZoneRule(
        (BACKGROUND,), (6, PERSON, 13), margin_px=2)
    for values, said in (({'safe_zone.margin': 2}, "unknown parameter 'safe_zone.margin'"),
                         ({'safe_zone.margin_px': 'wide'}, 'expected a number'),
                         ({'safe_zone.classes': 'background'}, 'expected a list of slugs')):
        with pytest.raises(ConfigError, match=said):
            zone_rule(values, labels, [])


def test_a_label_map_without_the_classes_is_said_and_nothing_else(tiny):
    class Segmenter:
        label_map = LabelMap((LabelClass(0, 'sky', 'sky', (1, 1, 1)),))

        class manifest:  # noqa: N801
            temperature = 1.0
    zones = SafeZones(Segmenter(), [])
    zones.take_frame(None)
    zones.take_pair(0, None, None)
    assert zones.section() == {
        'note': "no zones were looked for: the label map has no class 'background'; there are sky"}
