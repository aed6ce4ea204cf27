# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The example files of config/integration: they load, and say what the node does."""
from __future__ import annotations

import ast
import configparser
import json
import os
import re
import shlex
import shutil
import subprocess

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from evit_seg.core import errors  # noqa: E402, I100
from evit_seg.core.labels import load_label_map  # noqa: E402
from evit_seg.ros.params import check_values  # noqa: E402
from test_launch_includes import given_of, INTEGRATION  # noqa: E402
from test_readme_topics import table  # noqa: E402
import yaml  # noqa: E402

# README's tables are held against the node by test_readme_topics.
OUT = {name.replace('~/', '/seg_node/'): kind for name, kind in table('out').items()}
OTHERS = {'/rosout': 'rcl_interfaces/Log', '/fix': table('in')['fix'],
          '/seg_companion/messages': 'std_msgs/String'}
PARAMETERS_OF_THE_LAYER = {
    'plugin', 'enabled', 'combination_method', 'observation_sources', 'publish_debug_topics',
    'use_approximate_time_sync'}
OF_A_SOURCE = {
    'segmentation_topic', 'confidence_topic', 'labels_topic', 'pointcloud_topic',
    'observation_persistence', 'expected_update_rate', 'class_types', 'max_obstacle_distance',
    'min_obstacle_distance', 'tile_map_decay_time', 'visualize_tile_map', 'use_cost_selection'}
OF_A_CLASS_TYPE = {'classes': list, 'base_cost': int, 'max_cost': int, 'mark_confidence': int,
                   'samples_to_max_cost': int, 'dominant_priority': bool}
"""What semantic_segmentation_layer of April 2026 declares, by level."""


def layer():
    document = yaml.safe_load((INTEGRATION / 'nav2_semantic_layer.yaml').read_text())
    costmap = document['local_costmap']['local_costmap']['ros__parameters']
    assert set(costmap['plugins']) <= set(costmap)
    return costmap['semantic_layer']


def test_the_layer_gets_parameters_it_has():
    given = layer()
    (source,) = given['observation_sources'].split()
    assert set(given) <= PARAMETERS_OF_THE_LAYER | {source}
    camera = given[source]
    assert set(camera) <= OF_A_SOURCE | set(camera['class_types'])
    assert set(camera['class_types']) <= set(camera)
    for name in camera['class_types']:
        assert {key: type(value) for key, value in camera[name].items()} == OF_A_CLASS_TYPE
        assert all(0 <= camera[name][key] <= 254 for key in ('base_cost', 'max_cost'))
    assert {type(camera[key]) for key in OF_A_SOURCE if 'distance' in key or '_time' in key} == {
        float}


def test_the_layer_listens_to_what_the_node_publishes():
    camera = layer()['camera']
    assert OUT[camera['segmentation_topic']] == 'sensor_msgs/Image'
    assert OUT[camera['confidence_topic']] == 'sensor_msgs/Image'
    assert OUT[camera['labels_topic']] == 'vision_msgs/LabelInfo'
    homes = {camera[name].rpartition('/')[0] for name in (
        'segmentation_topic', 'confidence_topic', 'labels_topic')}
    assert len(homes) == 1
    _, config = check_values(given_of(INTEGRATION / 'nav2_seg_node.yaml'))
    assert config.mask_confidence
    assert config.mask_size == 'source'


def test_the_layer_knows_each_class_once():
    camera = layer()['camera']
    named = [name for kind in camera['class_types'] for name in camera[kind]['classes']]
    # label_info adds `unlabelled`, see test_messages.
    assert sorted(named) == sorted([*(entry.name for entry in load_label_map()), 'unlabelled'])


def leaves(tree):
    if isinstance(tree, str):
        return [tree]
    assert set(tree) == {'direction', 'first', 'second', 'splitPercentage'}
    assert tree['direction'] in ('row', 'column')
    return leaves(tree['first']) + leaves(tree['second'])


# Panel type to the key that names its topic, of Lichtblick 2026, and the types it can show.
PANELS = {
    'Image': ('imageMode', {'sensor_msgs/Image', 'sensor_msgs/CompressedImage'}),
    'DiagnosticSummary': ('topicToRender', {'diagnostic_msgs/DiagnosticArray'}),
    'DiagnosticStatusPanel': ('topicToRender', {'diagnostic_msgs/DiagnosticArray'}),
    'Table': ('topicPath', {'diagnostic_msgs/DiagnosticArray'}),
    'StateTransitions': ('paths', {'std_msgs/String'}),
    'RawMessages': ('topicPath', {'std_msgs/String'}),
    'map': ('followTopic', {'sensor_msgs/NavSatFix'}),
    'RosOut': ('topicToRender', {'rcl_interfaces/Log'}),
}


def topic_of(panel, config):
    value = config[PANELS[panel][0]]
    if panel == 'Image':
        value = value['imageTopic']
    if panel == 'StateTransitions':
        (value,) = [path['value'] for path in value]
    return re.match(r'[\w/]+', value).group()


def test_the_foxglove_layout_shows_what_there_is():
    layout = json.loads((INTEGRATION / 'foxglove_layout.json').read_text(encoding='utf-8'))
    assert sorted(leaves(layout['layout'])) == sorted(layout['configById'])
    for name, config in layout['configById'].items():
        panel = name.partition('!')[0]
        topic = topic_of(panel, config)
        assert {**OUT, **OTHERS}[topic] in PANELS[panel][1], name
    assert {name.partition('!')[0] for name in layout['configById']} == set(PANELS)


def test_the_rqt_perspective_shows_what_there_is():
    text = (INTEGRATION / 'evit_seg.perspective').read_text(encoding='utf-8')
    manager = json.loads(text)['groups']['pluginmanager']
    running = ast.literal_eval(manager['keys']['running-plugins']['repr'])
    instances = {f'plugin__{plugin.replace("/", "__")}__{number}'
                 for plugin, numbers in running.items() for number in numbers}
    assert set(running) == {'rqt_image_view/ImageView', 'rqt_robot_monitor/RobotMonitor',
                            'rqt_topic/TopicPlugin'}
    assert set(manager['groups']) <= instances
    shown = set()
    for group in manager['groups'].values():
        keys = group['groups']['plugin']['keys']
        assert all(value['type'] == 'repr' for value in keys.values())
        shown.add(ast.literal_eval(keys['topic']['repr']))
    assert shown == {'/seg_node/overlay', '/seg_node/mask'}
    assert {OUT[topic] for topic in shown} == {'sensor_msgs/Image'}


UNIT = INTEGRATION / 'evit_seg.service'


def unit():
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(UNIT, encoding='utf-8')
    return parser


def test_the_unit_tells_the_exit_codes_apart():
    service = unit()['Service']
    assert service['Restart'] == 'on-failure'
    stays_down = {int(code) for code in service['RestartPreventExitStatus'].split()}
    of_a_bundle = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type)
                   and issubclass(kind, (errors.BundleError, errors.InputError))}
    assert stays_down == of_a_bundle - {errors.ConfigError.exit_code}
    assert errors.EngineHang.exit_code not in stays_down
    assert unit()['Unit']['StartLimitBurst'] == '3'  # what ends a broken configuration, code 1


def test_the_units_settings_are_all_there():
    lines = (INTEGRATION / 'evit_seg.env').read_text(encoding='utf-8').splitlines()
    settings = {line.partition('=')[0] for line in lines if line and not line.startswith('#')}
    used = set(re.findall(r'(?<!\$)\$([A-Z_]+)', unit()['Service']['ExecStart']))
    assert used <= settings
    assert settings - used == {'ROS_DOMAIN_ID', 'FASTDDS_BUILTIN_TRANSPORTS'}


def test_the_units_command_starts_the_node_with_its_settings(tmp_path):
    # A workspace of stand-ins: they print what reaches them.
    program = tmp_path / 'prefix' / 'lib' / 'evit_seg' / 'seg_node'
    ros2 = tmp_path / 'bin' / 'ros2'
    for path, text in ((program, 'printf "%s\\n" "$@"\nexit 3'),
                       (ros2, f'[ "$*" = "pkg prefix evit_seg" ] && echo {tmp_path}/prefix')):
        path.parent.mkdir(parents=True)
        path.write_text(f'#!/bin/sh\n{text}\n', encoding='utf-8')
        path.chmod(0o755)
    for setup, text in (('opt/ros/humble/setup.bash', f'PATH={tmp_path}/bin:$PATH'),
                        ('ws/install/setup.bash', '')):
        (tmp_path / setup).parent.mkdir(parents=True)
        (tmp_path / setup).write_text(text, encoding='utf-8')
    lines = (INTEGRATION / 'evit_seg.env').read_text(encoding='utf-8').splitlines()
    settings = dict(line.split('=') for line in lines if line and not line.startswith('#'))
    command = shlex.split(unit()['Service']['ExecStart'])
    command[-1] = command[-1].replace('$$', '$').replace('/opt/ros', f'{tmp_path}/opt/ros')
    started = subprocess.run(command, text=True, timeout=120, capture_output=True, env={
        **settings, 'PATH': os.environ['PATH'], 'WORKSPACE': f'{tmp_path}/ws'})
    assert started.returncode == 3, started.stderr  # the node's own
    assert started.stdout.splitlines() == [
        '--ros-args', '--params-file', '/etc/evit_seg/seg.yaml', '-r', '__ns:=/',
        '-r', 'image_raw:=/camera/image_raw']


@pytest.mark.skipif(shutil.which('systemd-analyze') is None,
                    reason='systemd-analyze is not installed')
def test_systemd_takes_the_unit():
    checked = subprocess.run(['systemd-analyze', 'verify', str(UNIT)], text=True, timeout=120,
                             capture_output=True)
    ours = [line for line in checked.stderr.splitlines() if 'evit_seg' in line]
    assert (checked.returncode, ours) == (0, [])


@pytest.mark.parametrize('name', ['Dockerfile.x86', 'Dockerfile.l4t'])
def test_the_container_files_are_marked_untried(name):
    text = (INTEGRATION / name).read_text(encoding='utf-8')
    assert 'UNTRIED' in text.splitlines()[0]
    assert text.count('\nFROM ') == 1
    command = json.loads(re.search(r'^CMD (.+)$', text, re.MULTILINE).group(1))
    assert command == ['ros2', 'launch', 'evit_seg', 'seg.launch.py']
