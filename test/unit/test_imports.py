# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: the walls of the house, checked on the source's syntax trees."""
from __future__ import annotations

import ast
from pathlib import Path
from typing import Iterator, Tuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROS = ('rclpy', 'sensor_msgs', 'std_msgs', 'std_srvs', 'diagnostic_msgs', 'geometry_msgs',
       'vision_msgs', 'lifecycle_msgs', 'rcl_interfaces', 'rosgraph_msgs', 'cv_bridge',
       'launch', 'launch_ros', 'mavros_msgs', 'rosbag2_interfaces')
HEAVY = ('torch', 'timm', 'torchvision', 'onnxruntime', 'openvino', 'rosbags', 'onnx')
TRAINING = ('torch', 'timm', 'torchvision', 'offline_train')
STARTS_THE_NODE = ('evit_seg/replay/live.py', 'evit_seg/bench.py')

# place -> modules it never imports, at whatever depth in a function
NEVER = {
    'evit_seg/core': (*ROS, 'rosbags', 'timm', 'offline_train', 'evit_seg.ros',
                      'evit_seg.replay'),
    'evit_seg/ros': (*TRAINING, 'rosbags', 'evit_seg.replay'),
    'evit_seg/benchmark': (*TRAINING, 'rosbags', 'evit_seg.replay'),
    'evit_seg/replay': (*TRAINING, *ROS, 'evit_seg.ros'),
    'offline_train': (*ROS, 'evit_seg.ros', 'evit_seg.replay', 'rosbags'),
}
# place -> modules it imports inside functions only
NOT_AT_THE_TOP = {
    'evit_seg/core': HEAVY,
    'evit_seg/benchmark/[!c]*.py': (*ROS, 'evit_seg.ros'),
    'evit_seg/benchmark/camera.py': ('evit_seg.ros',),
    'offline_train/data/synth*.py': ('torch', 'timm', 'torchvision', 'offline_train.train'),
    'offline_train/cli.py': (*HEAVY, 'offline_train.train', 'offline_train.export'),
}


def imports(path: Path, top_only: bool = False) -> Iterator[Tuple[str, int]]:
    tree = ast.parse(path.read_text(encoding='utf-8'))
    for node in _module_level(tree) if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}:{node.lineno}: relative import'
            yield node.module, node.lineno
            yield from ((f'{node.module}.{alias.name}', node.lineno) for alias in node.names)


def _module_level(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield what runs at import time; not function bodies, not `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and getattr(node.test, 'id', '') == 'TYPE_CHECKING':
            continue
        yield node
        yield from _module_level(node)


def sources(place: str) -> Iterator[Path]:
    pattern = place if place.endswith('.py') else f'{place}/**/*.py'
    found = sorted(ROOT.glob(pattern))
    assert found, f'nothing to check at {place}'
    return iter(found)


def breaches(path: Path, forbidden: Tuple[str, ...], top_only: bool = False) -> Iterator[str]:
    for module, line in imports(path, top_only):
        if any(module == name or module.startswith(f'{name}.') for name in forbidden):
            yield f'{path.relative_to(ROOT)}:{line} imports {module}'


@pytest.mark.parametrize('place', NEVER)
def test_tenants_never_meet(place):
    found = [b for path in sources(place) for b in breaches(path, NEVER[place])
             if path.relative_to(ROOT).as_posix() not in STARTS_THE_NODE]
    assert not found


@pytest.mark.parametrize('place', NOT_AT_THE_TOP)
def test_heavy_modules_are_imported_on_demand(place):
    found = [b for path in sources(place)
             for b in breaches(path, NOT_AT_THE_TOP[place], top_only=True)]
    assert not found


def test_the_live_player_starts_the_node_without_importing_it():
    for place in STARTS_THE_NODE:
        assert not list(breaches(ROOT / place, (*TRAINING, 'evit_seg.ros')))


def test_the_check_sees_a_breach(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), 'ROOT', tmp_path)
    bad = tmp_path / 'bad.py'
    bad.write_text('def f():\n    from torch.nn import functional\nimport rclpy.node\n')
    assert [b.split()[-1] for b in breaches(bad, ('torch', 'rclpy'))] == [
        'rclpy.node', 'torch.nn', 'torch.nn.functional']
    assert [b.split()[-1] for b in breaches(bad, ('torch', 'rclpy'), top_only=True)] == [
        'rclpy.node']


def test_no_package_marker_where_it_would_shadow():
    assert not (ROOT / 'launch' / '__init__.py').exists()
    assert not list((ROOT / 'test').rglob('__init__.py'))
