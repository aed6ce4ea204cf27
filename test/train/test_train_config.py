# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

from evit_seg.core.errors import ConfigError, InputError
from evit_seg.core.share import share_file
from offline_train.config import config_to_dict, load_config, TrainConfig
import pytest
import yaml


def write(path: Path, content: object) -> Path:
    path.write_text(yaml.safe_dump(content), encoding='utf-8')
    return path


def test_defaults_then_file_then_overrides(tmp_path):
    path = write(tmp_path / 'c.yaml', {'optim': {'steps': 7, 'batch': 3}})
    config = load_config(path, ['optim.batch=5', 'data.train=[a/train, b/train]'])
    assert (config.optim.steps, config.optim.batch) == (7, 5)
    assert config.data.train == ('a/train', 'b/train')
    assert config.optim.warm_up == TrainConfig().optim.warm_up


@pytest.mark.parametrize(('override', 'guess'), [
    ('optim.stepz=3', 'optim.steps'),
    ('optin.steps=3', 'optim'),
    ('augment.ocus=[person]', 'augment.focus'),
])
def test_an_unknown_key_names_the_nearest_one(override, guess):
    with pytest.raises(ConfigError, match=f"did you mean '{guess.split('.')[-1]}'"):
        load_config(None, [override])


@pytest.mark.parametrize(('override', 'expected'), [
    ('optim.steps=many', 'optim.steps: expected int'),
    ('optim.steps=2.5', 'optim.steps: expected int'),
    ('optim.steps=true', 'optim.steps: expected int'),
    ('data.train=scenes', 'data.train: expected a list'),
    ('optim=3', 'override: expected section.key=value'),
    ('optim.steps', 'override: expected section.key=value'),
    ('input.height=100', 'input.height: expected a multiple of 32'),
    ('augment.crop_width=1280', 'expected at most the input'),
    ('optim.precision=fp16', "expected 'bf16' or 'fp32'"),
    ('model.widths=[8, 8]', 'expected five channel counts'),
    ('input.std=[1.0, 0.0, 1.0]', 'std above 0'),
])
def test_a_wrong_value_says_what_was_expected(override, expected):
    with pytest.raises(ConfigError, match=expected):
        load_config(None, [override])


def test_integers_are_taken_for_floats():
    assert load_config(None, ['optim.learning_rate=1']).optim.learning_rate == 1.0


def test_a_file_that_is_no_mapping_or_is_missing(tmp_path):
    with pytest.raises(ConfigError, match='expected a mapping of sections'):
        load_config(write(tmp_path / 'list.yaml', [1, 2]))
    with pytest.raises(InputError, match='readable YAML'):
        load_config(tmp_path / 'missing.yaml')


@pytest.mark.parametrize('path', sorted(share_file('config/train').glob('*.yaml')),
                         ids=lambda path: path.stem)
def test_every_shipped_configuration_loads(path):
    assert load_config(path, []).optim.steps > 0


def test_a_configuration_survives_its_file(tmp_path):
    config = load_config(share_file('config/train/demo.yaml'), ['model.widths=[8, 8, 8, 8, 8]'])
    assert load_config(write(tmp_path / 'again.yaml', config_to_dict(config))) == config
