# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Start seg_companion beside a seg_node, as its voice towards MAVROS.

ros2 launch evit_seg companion.launch.py namespace:=drone1
"""
from __future__ import annotations

from pathlib import Path
from typing import Any, List

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

NOT_GIVEN = ''
ARGUMENTS = {
    'params_file': "Parameter file; default: the package's config/integration/companion.yaml.",
    'namespace': 'Namespace of seg_node and of MAVROS, which is where this node goes too.',
    'log_level': 'debug, info, warn, error or fatal.',
    'use_sim_time': 'true to take the time from /clock, as when a bag is played.',
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
    # Beside this file in a source tree as well as in share/evit_seg of an installation.
    default_file = Path(__file__).parent.parent / 'config' / 'integration' / 'companion.yaml'
    parameters: List[Any] = [given.get('params_file', str(default_file))]
    if 'use_sim_time' in given:
        value = given['use_sim_time'].lower()
        if value not in ('true', 'false'):
            raise ValueError(
                f'launch argument use_sim_time: expected true or false, got {value!r}')
        parameters.append({'use_sim_time': value == 'true'})
    options = {}
    if 'namespace' in given:
        options['namespace'] = given['namespace']
    if 'log_level' in given:
        options['ros_arguments'] = ['--log-level', given['log_level']]
    return [Node(package='evit_seg', executable='seg_companion', output='screen',
                 parameters=parameters, **options)]
