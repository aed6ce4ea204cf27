# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Start seg_node on a camera topic.

ros2 launch evit_seg seg.launch.py image_topic:=/camera/image_raw

Only what was given on the command line is passed on: the values that nobody gave are those of
the parameter file, and what the file leaves out are the node's own. Nothing is fetched. One thing
is set that nobody gave: the transport that large images want, see the argument large_data.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any, List

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

NOT_GIVEN = ''
TRANSPORTS = 'FASTDDS_BUILTIN_TRANSPORTS'
ARGUMENTS = {
    'image_topic': 'Camera topic to segment; with image.transport: compressed still the base '
                   'name, without /compressed. Default: image_raw in the namespace.',
    'model': 'Bundle: a folder, or a name under models/ of the package.',
    'params_file': "Parameter file; default: the package's config/seg.yaml.",
    'namespace': "Namespace of the node, such as a drone's name.",
    'log_level': 'debug, info, warn, error or fatal.',
    'use_sim_time': 'true to take the time from /clock, as when a bag is played.',
    'large_data': f'false to leave {TRANSPORTS} as it is. Default: the node gets LARGE_DATA, the '
                  'transport of Fast DDS for large images, unless the variable is set already. '
                  "The camera's process needs the same, and so does every process on another "
                  'machine that speaks with the node.',
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; which of them were given is known when the launch runs."""
    declared = [DeclareLaunchArgument(name, default_value=NOT_GIVEN, description=text)
                for name, text in ARGUMENTS.items()]
    return LaunchDescription([*declared, OpaqueFunction(function=start_node)])


def start_node(context: LaunchContext) -> List[Any]:
    """Return the node's action, made of the arguments that were given."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    given = {name: value for name, value in given.items() if value != NOT_GIVEN}
    options = {}
    if 'image_topic' in given:
        options['remappings'] = [('image_raw', given['image_topic'])]
    if 'namespace' in given:
        options['namespace'] = given['namespace']
    if 'log_level' in given:
        options['ros_arguments'] = ['--log-level', given['log_level']]
    already = EnvironmentVariable(TRANSPORTS, default_value=NOT_GIVEN).perform(context)
    if _true('large_data', given, 'true') and not already:
        options['additional_env'] = {TRANSPORTS: 'LARGE_DATA'}
    return [Node(package='evit_seg', executable='seg_node', output='screen',
                 parameters=parameters(given), **options)]


def parameters(given: dict) -> List[Any]:
    """Return the parameter file and, after it and so above it, what was given by argument."""
    # Beside this file in a source tree as well as in share/evit_seg of an installation.
    default_file = Path(__file__).parent.parent / 'config' / 'seg.yaml'
    chosen = {}
    if 'model' in given:  # a bundle may be called 123: it stays a string
        chosen['model'] = ParameterValue(given['model'], value_type=str)
    if 'use_sim_time' in given:
        chosen['use_sim_time'] = _true('use_sim_time', given, 'false')
    files = [given.get('params_file', str(default_file))]
    return files + [chosen] if chosen else files


def _true(name: str, given: dict, default: str) -> bool:
    value = given.get(name, default).lower()
    if value not in ('true', 'false'):
        raise ValueError(f'launch argument {name}: expected true or false, got {value!r}')
    return value == 'true'
