# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Alert rules from parameter files; what stands in them is what the rules say."""
from __future__ import annotations

from evit_seg.core.alerts import AlertRule
from evit_seg.core.errors import ConfigError, InputError, LabelMapMismatch
from evit_seg.core.labels import load_label_map
from evit_seg.replay.alert_params import load_alert_rules
import pytest

LABELS = load_label_map()


def rules_of(tmp_path, text: str) -> list[AlertRule]:
    (tmp_path / 'seg.yaml').write_text(text)
    return load_alert_rules(tmp_path / 'seg.yaml', LABELS)


def test_the_shipped_file_holds_the_defaults():
    rules = load_alert_rules(None, LABELS)
    assert [rule.slug for rule in rules] == ['person', 'vehicle', 'fire_flare']
    for rule in rules:
        assert rule.class_id == LABELS.by_slug(rule.slug).id


def test_own_value_before_default_before_the_table(tmp_path):
    person, flood = rules_of(tmp_path, """
/**:
  ros__parameters:
    model: other
    alert.classes: [person, flood_water_river_sea]
    alert:
      default: {min_pixels: 7, confirm_k: 2}
      person: {min_pixels: 3.5}
""")
    assert person == AlertRule(10, 'person', min_pixels=3.5, confirm_k=2)
    assert flood == AlertRule(7, 'flood_water_river_sea', min_pixels=7.0, confirm_k=2)


def test_a_file_for_a_named_node_in_a_namespace(tmp_path):
    text = '/uav/seg_node: {ros__parameters: {alert: {default: {clear_after_s: 9}}}}\n' \
           'camera: {ros__parameters: {alert: {default: {clear_after_s: 1}}}}\n'
    assert {rule.clear_after_s for rule in rules_of(tmp_path, text)} == {9.0}


@pytest.mark.parametrize(('alert', 'message'), [
    ('{persn: {min_pixels: 3}}', "did you mean 'alert.person.min_pixels'"),
    ('{person: {min_pixel: 3}}', "did you mean 'alert.person.min_pixels'"),
    ('{person: {min_pixels: many}}', "expected float, got 'many'"),
    ('{person: {confirm_k: 2.5}}', 'expected int, got 2.5'),
    ('{person: {min_pixels: true}}', 'expected float, got True'),
    ('{person: {min_confidence: 1.5}}', 'expected 0 to 1, got 1.5'),
    ('{classes: person}', 'expected a list of slugs'),
    ('{classes: [person, person]}', 'each once'),
])
def test_what_the_node_would_refuse_is_refused(tmp_path, alert, message):
    with pytest.raises(ConfigError, match=message) as caught:
        rules_of(tmp_path, f'/**: {{ros__parameters: {{alert: {alert}}}}}')
    assert 'seg.yaml' in str(caught.value)


def test_a_class_the_network_lacks(tmp_path):
    with pytest.raises(LabelMapMismatch, match="did you mean 'person'"):
        rules_of(tmp_path, '/**: {ros__parameters: {alert: {classes: [persons]}}}')


@pytest.mark.parametrize(('text', 'error'), [
    ('', ConfigError), ('other: {ros__parameters: {alert: {}}}', ConfigError),
    ('[1, 2]', ConfigError), ('a: [', InputError)])
def test_a_file_without_our_parameters(tmp_path, text, error):
    with pytest.raises(error, match=r'seg\.yaml'):
        rules_of(tmp_path, text)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match='cannot be read'):
        load_alert_rules(tmp_path / 'absent.yaml', LABELS)
