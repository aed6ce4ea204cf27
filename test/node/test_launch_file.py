# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The launch file passes on what was given and nothing else.

launch is not on PyPI: a stand-in with its documented calls takes its place, and the real one is
used where it is installed.
"""
from __future__ import annotations

import importlib.util
from pathlib import Path
import sys
from types import ModuleType, SimpleNamespace

from evit_seg.ros.params import TABLE
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILE = ROOT / 'launch' / 'seg.launch.py'


class Argument:
    def __init__(self, name, *, default_value, description):  # noqa: CNL100
        self.name, self.default_value, self.description = name, default_value, description


def stand_in(monkeypatch, given, environment):
    """Put a stand-in for launch and launch_ros in place; `given` is the command line."""
    modules = {
        'launch': {'LaunchContext': object, 'LaunchDescription': list},
        'launch.actions': {'DeclareLaunchArgument': Argument,
                           'OpaqueFunction': lambda function: function},
        'launch.substitutions': {
            'LaunchConfiguration': lambda name: SimpleNamespace(
                perform=lambda context: given.get(name, '')),
            'EnvironmentVariable': lambda name, *, default_value: SimpleNamespace(
                perform=lambda context: environment.get(name, default_value))},
        'launch_ros': {},
        'launch_ros.actions': {'Node': lambda **options: options},
        'launch_ros.parameter_descriptions': {
            'ParameterValue': lambda value, value_type: value_type(value)},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)


def load_launch_file():
    spec = importlib.util.spec_from_file_location('seg_launch', LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def launch(monkeypatch, environment=None, **given):
    stand_in(monkeypatch, given, environment or {})
    *arguments, start = load_launch_file().generate_launch_description()
    assert {argument.name for argument in arguments} >= {
        'image_topic', 'model', 'params_file', 'namespace', 'log_level', 'use_sim_time',
        'large_data'}
    assert all(argument.default_value == '' and argument.description for argument in arguments)
    (node,) = start(None)
    return node


LARGE_DATA = {'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA'}


def test_nothing_given_nothing_passed_but_the_file_and_the_transport(monkeypatch):
    assert launch(monkeypatch) == {
        'package': 'evit_seg', 'executable': 'seg_node', 'output': 'screen',
        'parameters': [str(ROOT / 'config' / 'seg.yaml')], 'additional_env': LARGE_DATA}


@pytest.mark.parametrize('given, environment, added', [
    ({}, {}, LARGE_DATA),
    ({'large_data': 'true'}, {}, LARGE_DATA),
    ({'large_data': 'True'}, {'FASTDDS_BUILTIN_TRANSPORTS': ''}, LARGE_DATA),
    ({'large_data': 'false'}, {}, None),
    ({}, {'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4'}, None),
    ({'large_data': 'true'}, {'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4'}, None)])
def test_the_transport_is_set_unless_it_was_chosen(monkeypatch, given, environment, added):
    assert launch(monkeypatch, environment, **given).get('additional_env') == added


def test_everything_given(monkeypatch):
    node = launch(monkeypatch, image_topic='/cam/image', model='123', params_file='my.yaml',
                  namespace='d1', log_level='debug', use_sim_time='True', large_data='false')
    assert node['parameters'] == ['my.yaml', {'model': '123', 'use_sim_time': True}]
    assert node['remappings'] == [('image_raw', '/cam/image')]
    assert node['namespace'] == 'd1'
    assert node['ros_arguments'] == ['--log-level', 'debug']
    assert 'additional_env' not in node


@pytest.mark.parametrize('name', ['use_sim_time', 'large_data'])
def test_a_word_that_is_no_truth_value_is_refused(monkeypatch, name):
    with pytest.raises(ValueError, match=f"{name}: expected true or false, got 'maybe'"):
        launch(monkeypatch, **{name: 'maybe'})


def test_the_launch_file_repeats_no_default_of_the_node():
    text = LAUNCH_FILE.read_text(encoding='utf-8')
    named = [row.name for row in TABLE if f"'{row.name}'" in text and row.name != 'model']
    assert named == []


def test_the_parameter_file_matches_any_node_name():
    assert list(yaml.safe_load((ROOT / 'config' / 'seg.yaml').read_text())) == ['/**']


def test_the_real_launch_accepts_the_file(monkeypatch):
    pytest.importorskip('launch_ros', reason='launch_ros is not on PyPI')
    from launch import LaunchContext
    description = load_launch_file().generate_launch_description()
    context = LaunchContext()
    context.launch_configurations.update(
        {argument.name: '' for argument in description.get_launch_arguments()})
    context.launch_configurations['image_topic'] = '/cam/image'
    (node,) = description.entities[-1].execute(context)
    assert node.node_executable == 'seg_node'


def test_the_readme_names_every_argument(monkeypatch):
    stand_in(monkeypatch, {}, {})
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    table = text[text.index('| launch argument |'):].partition('\n\n')[0]
    named = [line.split('`')[1] for line in table.splitlines()[2:]]
    assert named == list(load_launch_file().ARGUMENTS)
