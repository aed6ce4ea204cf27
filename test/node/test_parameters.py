# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The table of parameters and the configuration made of it, without ROS."""
from __future__ import annotations

from dataclasses import fields
from pathlib import Path
import subprocess
import sys

from evit_seg.core.alerts import AlertRule
from evit_seg.core.errors import ConfigError, LabelMapMismatch
from evit_seg.core.labels import load_label_map
from evit_seg.core.share import share_file
from evit_seg.ros.params import check_values, is_ours, NodeConfig, PREFIXES, TABLE
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def flatten(tree, prefix=''):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def test_the_shipped_file_holds_every_default_and_nothing_else():
    content = yaml.safe_load(share_file('config/seg.yaml').read_text(encoding='utf-8'))
    shipped = dict(flatten(content['/**']['ros__parameters']))
    assert set(shipped) == {row.name for row in TABLE}
    assert check_values(shipped) == check_values({})


def test_the_defaults_of_the_alerts_are_the_alert_rules_own():
    rules = check_values({})[1].alert_rules(load_label_map())
    assert rules == tuple(AlertRule(class_id, slug) for class_id, slug in (
        (10, 'person'), (13, 'vehicle'), (6, 'fire_flare')))


def test_every_row_becomes_a_field():
    wanted = {row.name.replace('.', '_') for row in TABLE
              if not row.name.startswith('alert.default.')}
    assert {field.name for field in fields(NodeConfig)} == wanted | {'alert_values'}
    assert {row.name.split('.')[0] for row in TABLE} <= set(PREFIXES)


def test_a_class_overrides_the_default_of_all():
    config = check_values({'alert.classes': ['person', 'vehicle'], 'alert.default.min_pixels': 50,
                           'alert.person.min_pixels': 12, 'alert.person.confirm_k': 2})[1]
    person, vehicle = config.alert_rules(load_label_map())
    assert (person.min_pixels, person.confirm_k) == (12.0, 2)
    assert (vehicle.min_pixels, vehicle.confirm_k) == (50.0, 3)


@pytest.mark.parametrize('name, value, said', [
    ('image.max_age_s', -0.1, 'image.max_age_s: expected 0 to 3600, got -0.1'),
    ('image.max_age_s', float('nan'), 'expected float, got nan'),
    ('image.max_age_s', True, 'expected float, got True'),
    ('image.max_age_s', '1', "expected float, got '1'"),
    ('engine.threads', 1.0, 'expected int, got 1.0'),
    ('engine.threads', False, 'expected int, got False'),
    ('engine.name', 'caffe', "expected onnxruntime, openvino, torchscript, got 'caffe'"),
    ('mask.size', 'big', "mask.size: expected source, network, got 'big'"),
    ('mask.confidence', 1, 'expected bool, got 1'),
    ('model', 7, 'model: expected string, got 7'),
    ('model', None, 'model: expected string, got None'),
    ('alert.classes', [1], 'alert.classes: expected string list, got [1]'),
    ('alert.classes', ['person', 'person'], 'each class once'),
    ('alert.person.confirm_k', 6, 'alert.person.confirm_k: expected 1 to 5, got 6'),
    ('alert.default.min_confidence', 1.01, 'expected 0 to 1, got 1.01'),
    ('image.max_ag_s', 1.0, "unknown parameter 'image.max_ag_s'; did you mean 'image.max_age_s'?"),
    ('alert.persn.min_pixels', 1.0, "did you mean 'alert.person.min_pixels'?"),
    ('alert.avalanche.min_pixels', 1.0, "'avalanche' is not in alert.classes"),
    ('budget.latency', 50.0, "unknown parameter 'budget.latency'; did you mean "
     "'budget.latency_ms'?"),
])
def test_what_does_not_fit_is_said(name, value, said):
    with pytest.raises(ConfigError) as caught:
        check_values({name: value})
    assert said in str(caught.value)


def test_an_integer_is_taken_for_a_float_and_none_for_an_empty_list():
    values, config = check_values({'image.max_age_s': 3, 'alert.classes': None})
    assert type(values['image.max_age_s']) is float
    assert config.alert_values == {}


def test_an_alert_class_that_the_network_lacks():
    config = check_values({'alert.classes': ['pedestrian']})[1]
    with pytest.raises(LabelMapMismatch, match='pedestrian'):
        config.alert_rules(load_label_map())


def test_names_are_ours_by_their_first_part():
    assert is_ours('model') and is_ours('alert.x.y') and is_ours('geo.height_m')
    assert not is_ours('qos_overrides./image.publisher.depth')
    assert not is_ours('models.x') and not is_ours('use_sim_time')


def test_the_table_needs_no_ros():
    check = ('import sys; sys.modules["rclpy"] = None; import evit_seg.ros.params as p; '
             'print(p.markdown().count("| `alert.default."))')
    output = subprocess.run([sys.executable, '-c', check], cwd=ROOT, capture_output=True,
                            text=True, check=True)
    assert output.stdout.strip() == '7'
