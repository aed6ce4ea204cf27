# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Two cameras, each with its own seg_node: an example of how another launch file includes ours.

ros2 launch evit_seg two_cameras.launch.py front_image_topic:=/cam0/image down_model:=demo

The nodes are /front/seg_node and /down/seg_node, or below the namespace of whoever includes this
file. What is not given is not passed on: see seg.launch.py.
"""
from __future__ import annotations

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

HERE = Path(__file__).resolve().parent
PARAMS_FILES = {camera: str(HERE.parent / 'config' / 'integration' / f'{camera}.yaml')
                for camera in ('front', 'down')}
SHARED = {
    'log_level': 'debug, info, warn, error or fatal.',
    'use_sim_time': 'true to take the time from /clock, as when a bag is played.',
    'large_data': 'false to leave the transports of Fast DDS as they are, see seg.launch.py.',
}


def generate_launch_description() -> LaunchDescription:
    """Include seg.launch.py once for each camera."""
    declared = [DeclareLaunchArgument(name, default_value='', description=text)
                for name, text in SHARED.items()]
    for camera, params_file in PARAMS_FILES.items():
        declared += [
            DeclareLaunchArgument(f'{camera}_image_topic', default_value='',
                                  description=f'Camera topic; default: {camera}/image_raw.'),
            DeclareLaunchArgument(f'{camera}_model', default_value='',
                                  description="Bundle; default: the parameter file's."),
            DeclareLaunchArgument(f'{camera}_params_file', default_value=params_file,
                                  description='Parameter file of this camera.')]
    return LaunchDescription([*declared, *map(camera_node, PARAMS_FILES)])


def camera_node(camera: str) -> GroupAction:
    """Return the action that starts the node of one camera in a namespace of its name."""
    arguments = {'namespace': camera, **{name: LaunchConfiguration(name) for name in SHARED}}
    for name in ('image_topic', 'model', 'params_file'):
        arguments[name] = LaunchConfiguration(f'{camera}_{name}')
    # A group has a scope of its own: else these arguments would stay set for all that follows.
    return GroupAction([IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / 'seg.launch.py')),
        launch_arguments=list(arguments.items()))])
