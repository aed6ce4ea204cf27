# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The label map: LPCV's classes, its file, its errors."""
from __future__ import annotations

from evit_seg.core.errors import ConfigError, InputError, LabelMapMismatch
from evit_seg.core.labels import LabelMap, load_label_map, nearest, slugify
from evit_seg.core.share import share_file
import numpy as np
import pytest
import yaml


def test_lpcv_is_the_default():
    label_map = load_label_map()
    assert label_map.names == [
        'Background', 'Avalanche', 'Building_undamaged', 'Building_damaged',
        'Cracks/fissure/subsidence', 'Debris/mud/rock_flow', 'Fire/flare',
        'Flood/water/river/sea', 'Ice_jam_flow', 'Lava_flow', 'Person', 'Pyroclastic_flow',
        'Road/railway/bridge', 'Vehicle']
    assert [c.slug for c in label_map if c.rare] == ['fire_flare', 'person', 'vehicle']
    assert label_map.by_slug('cracks_fissure_subsidence').id == 4


def test_slugs_are_made_from_names():
    label_map = load_label_map()
    assert label_map.slugs == [slugify(name) for name in label_map.names]
    assert slugify('Road/railway / bridge!') == 'road_railway_bridge'


def test_rows_survive_yaml(tmp_path):
    label_map = load_label_map()
    path = tmp_path / 'labels.yaml'
    path.write_text(yaml.safe_dump({'classes': label_map.to_list()}), encoding='utf-8')
    assert load_label_map(path) == label_map


def test_palette():
    label_map = load_label_map()
    palette = label_map.palette_rgb()
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    assert tuple(palette[10]) == label_map.by_slug('person').colour
    assert not palette[14:].any()


def test_unknown_slug_names_the_nearest():
    with pytest.raises(LabelMapMismatch, match="did you mean 'person'"):
        load_label_map().by_slug('persn')
    assert nearest('xyz', ['person']) is None


@pytest.mark.parametrize('rows, message', [
    ([], 'expected ids'),
    ([{'id': 1, 'name': 'A', 'colour': [0, 0, 0]}], 'expected ids'),
    ([{'id': 0, 'name': 'A', 'colour': [0, 0]}], 'expected id, name and colour'),
    ([{'id': 0, 'name': 'A', 'colour': [0, 0, 256]}], 'outside 0-255'),
    ([{'id': i, 'name': 'A', 'colour': [0, 0, 0]} for i in range(2)], 'not unique'),
    ([{'id': i, 'name': f'C{i}', 'colour': [0, 0, 0]} for i in range(255)], 'at most 254'),
])
def test_bad_rows_are_refused(rows, message):
    with pytest.raises(ConfigError, match=message):
        LabelMap.from_list(rows)


def test_missing_share_file_says_where_it_looked():
    with pytest.raises(InputError, match=r"'config/none.yaml'.*was not found in"):
        share_file('config/none.yaml')
