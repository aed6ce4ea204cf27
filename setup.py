# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""ament_python package: colcon and pip both read this file."""
from pathlib import Path

from setuptools import find_packages, setup

NAME = 'evit_seg'

RUNTIME = ['onnxruntime>=1.17', 'opencv-python-headless>=4.8']
INSPECT = ['onnx']
REPLAY = ['rosbags>=0.11.9', 'tqdm',
          'jinja2>=3', 'matplotlib>=3.6']  # the report as a page
# ROS 2 Kilted from PyPI: x86-64, CPython 3.10 to 3.13. Elsewhere ROS 2 comes from apt.
ROS = ['ros-rclpy[fastrtps]', 'ros-sensor-msgs', 'ros-std-msgs', 'ros-std-srvs',
       'ros-diagnostic-msgs', 'ros-geometry-msgs']
TRAIN = ['torch>=2.11', 'torchvision', 'timm>=1.0', 'segmentation-models-pytorch>=0.5',
         'accelerate', 'onnx', 'safetensors', 'tensorboard', 'matplotlib', 'tqdm']
TEST = ['pytest', 'hypothesis', 'psutil', 'ruff', 'mypy', 'types-PyYAML', 'vermin',
        'ros-ament-flake8', 'ros-ament-pep257', 'flake8-builtins', 'flake8-blind-except',
        'flake8-class-newline', 'flake8-comprehensions', 'flake8-deprecated',
        'flake8-docstrings', 'flake8-import-order', 'flake8-quotes',
        'colcon-common-extensions', 'setuptools<80', 'torch-pruning>=1.6', 'openvino>=2024.0']


def share_files():
    """Return (target, files) pairs that place config, launch and models under share/evit_seg."""
    folders = {}
    for top in ('config', 'launch', 'models'):
        for path in sorted(Path(top).rglob('*')):
            if path.is_file() and '__pycache__' not in path.parts:
                folders.setdefault(f'share/{NAME}/{path.parent}', []).append(str(path))
    return sorted(folders.items())


setup(
    name=NAME,
    version='0.1.0',
    packages=find_packages(include=[NAME, f'{NAME}.*', 'offline_train', 'offline_train.*']),
    package_data={f'{NAME}.replay.page': ['*.css', '*.jinja']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        *share_files(),
    ],
    python_requires='>=3.8',
    install_requires=['setuptools', 'numpy', 'pyyaml'],
    # OpenCV has several distributions and ROS 2 has apt, so neither is forced on anyone.
    extras_require={
        'runtime': RUNTIME,
        'inspect': RUNTIME + INSPECT,
        'ros': ROS,
        'replay': REPLAY,
        'demo': RUNTIME + ROS + REPLAY,
        'train': RUNTIME + TRAIN,
        'test': RUNTIME + ROS + REPLAY + TRAIN + TEST,
    },
    zip_safe=True,
    maintainer='The evit_seg authors',
    maintainer_email='evit-seg@users.noreply.github.com',
    description='On-board semantic segmentation for disaster drones',
    license='Apache-2.0',
    entry_points={
        'console_scripts': [
            'seg_node = evit_seg.ros.node:main',
            'seg_companion = evit_seg.ros.companion:main',
            'bag_eval = evit_seg.replay.bag_eval:main',
            'make_bag = evit_seg.replay.make_bag:main',
            'bench = evit_seg.bench:main',
            'bundle = evit_seg.bundle_cli:main',
            'offline_train = offline_train.cli:main',
        ],
    },
)
