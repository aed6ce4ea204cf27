# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Launch files that include ours, and the companion's own.

launch is not on PyPI: a stand-in takes its place, and the real one is used where it is installed.
"""
from __future__ import annotations

import importlib.util
from pathlib import Path
import sys
from types import SimpleNamespace

import evit_seg.ros.companion_params as companion_params
from evit_seg.ros.params import check_values
import pytest
from test_launch_file import stand_in
import yaml

ROOT = Path(__file__).resolve().parents[2]
INTEGRATION = ROOT / 'config' / 'integration'
LARGE_DATA = {'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA'}


def load(name):
    spec = importlib.util.spec_from_file_location(name.split('.')[0], ROOT / 'launch' / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def given_of(parameter_file):
    """Return the parameters of a file by full name."""
    document = yaml.safe_load(Path(parameter_file).read_text(encoding='utf-8'))
    assert list(document) == ['/**']

    def walk(prefix, tree):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from walk(f'{prefix}{key}.', value)
            else:
                yield f'{prefix}{key}', value
    return dict(walk('', document['/**']['ros__parameters']))


class Scopes:
    """Launch's configurations: a group has a copy of its own, an include leaves its traces."""

    def __init__(self, monkeypatch, given):
        self.now, self.nodes = dict(given), []
        stand_in(monkeypatch, self.now, {})
        modules = sys.modules
        modules['launch.substitutions'].LaunchConfiguration = lambda name: SimpleNamespace(
            perform=lambda context: self.now.get(name, ''))
        modules['launch.actions'].GroupAction = lambda actions: lambda: self.group(actions)
        modules['launch.actions'].IncludeLaunchDescription = (
            lambda source, launch_arguments: lambda: self.include(source, launch_arguments))
        monkeypatch.setitem(modules, 'launch.launch_description_sources', SimpleNamespace(
            PythonLaunchDescriptionSource=lambda path: path))

    def run(self, path):
        for action in load(Path(path).name).generate_launch_description():
            if hasattr(action, 'default_value'):
                self.now.setdefault(action.name, action.default_value)
            elif getattr(action, '__name__', '') == 'start_node':
                self.nodes += action(None)
            else:
                action()

    def group(self, actions):
        before = self.now
        self.now = dict(before)
        for action in actions:
            action()
        self.now = before

    def include(self, path, arguments):
        for name, value in arguments:
            self.now[name] = value if isinstance(value, str) else value.perform(None)
        self.run(path)


def two_cameras(monkeypatch, **given):
    scopes = Scopes(monkeypatch, given)
    scopes.run('two_cameras.launch.py')
    assert 'namespace' not in scopes.now  # or whoever includes this file would be in `down`
    return scopes.nodes


def test_two_cameras_without_arguments(monkeypatch):
    assert two_cameras(monkeypatch) == [
        {'package': 'evit_seg', 'executable': 'seg_node', 'output': 'screen',
         'namespace': camera, 'parameters': [str(INTEGRATION / f'{camera}.yaml')],
         'additional_env': LARGE_DATA} for camera in ('front', 'down')]


def expect_each_camera_to_get_its_own(front, down):
    assert front['remappings'] == [('image_raw', '/cam0/image')]
    assert 'remappings' not in down
    assert front['parameters'] == [str(INTEGRATION / 'front.yaml'), {'use_sim_time': True}]
    assert down['parameters'][0] == 'mine.yaml'
    assert set(down['parameters'][1]) == {'model', 'use_sim_time'}
    assert (front['namespace'], down['namespace']) == ('front', 'down')


GIVEN = {'front_image_topic': '/cam0/image', 'down_model': 'demo', 'use_sim_time': 'true',
         'down_params_file': 'mine.yaml'}


def test_each_camera_gets_its_own_arguments(monkeypatch):
    expect_each_camera_to_get_its_own(*two_cameras(monkeypatch, **GIVEN))


def test_the_real_launch_includes_it_within_a_namespace(monkeypatch):
    launch_ros = pytest.importorskip('launch_ros.actions', reason='launch_ros is not on PyPI')
    from launch import LaunchContext
    from launch.actions import IncludeLaunchDescription, LogInfo
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    started, contexts = [], []

    def node(**options):
        started.append(options)
        return LogInfo(msg=options['namespace'])
    monkeypatch.setattr(launch_ros, 'Node', node)
    context = LaunchContext()

    def visit(entity):
        for more in entity.visit(context) or ():
            if isinstance(more, LogInfo):
                contexts.append(context.launch_configurations.get('ros_namespace'))
            visit(more)
    visit(launch_ros.PushRosNamespace('drone1'))
    visit(IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(ROOT / 'launch' / 'two_cameras.launch.py')),
        launch_arguments=list(GIVEN.items())))
    assert 'namespace' not in context.launch_configurations
    expect_each_camera_to_get_its_own(*started)
    assert [name.strip('/') for name in contexts] == ['drone1', 'drone1']


def companion(monkeypatch, **given):
    scopes = Scopes(monkeypatch, given)
    scopes.run('companion.launch.py')
    (node,) = scopes.nodes
    return node


def test_the_companions_launch_file(monkeypatch):
    assert companion(monkeypatch) == {
        'package': 'evit_seg', 'executable': 'seg_companion', 'output': 'screen',
        'parameters': [str(INTEGRATION / 'companion.yaml')]}
    node = companion(monkeypatch, namespace='d1', log_level='debug', use_sim_time='False',
                     params_file='my.yaml')
    assert node['parameters'] == ['my.yaml', {'use_sim_time': False}]
    assert (node['namespace'], node['ros_arguments']) == ('d1', ['--log-level', 'debug'])
    with pytest.raises(ValueError, match="use_sim_time: expected true or false, got 'maybe'"):
        companion(monkeypatch, use_sim_time='maybe')


def test_the_real_launch_accepts_the_companions_file():
    pytest.importorskip('launch_ros', reason='launch_ros is not on PyPI')
    from launch import LaunchContext
    description = load('companion.launch.py').generate_launch_description()
    context = LaunchContext()
    context.launch_configurations.update(
        {argument.name: '' for argument in description.get_launch_arguments()})
    (node,) = description.entities[-1].execute(context)
    assert node.node_executable == 'seg_companion'


def test_the_companions_file_holds_its_defaults():
    given = given_of(INTEGRATION / 'companion.yaml')
    assert given == {row.name: row.default for row in companion_params.TABLE}
    assert companion_params.check_values(given) == companion_params.check_values({})


@pytest.mark.parametrize('name', ['front', 'down', 'nav2_seg_node'])
def test_the_parameter_files_of_the_examples_fit_the_node(name):
    given = given_of(INTEGRATION / f'{name}.yaml')
    values, _ = check_values(given)
    assert {key: values[key] for key in given} == {
        key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
