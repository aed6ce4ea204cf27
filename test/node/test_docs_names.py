# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Nothing in the documents and example files names what the code does not have."""
from __future__ import annotations

import ast
import dataclasses
import importlib.util
from pathlib import Path
import re
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2, which `make test` brings')

from docs_names import Names, ROOT, wrong_names  # noqa: E402, I100
from evit_seg.core.labels import load_label_map  # noqa: E402
from evit_seg.ros.companion import Companion, TYPED_TOPICS  # noqa: E402
from evit_seg.ros.companion_params import TABLE as COMPANION_TABLE  # noqa: E402
from evit_seg.ros.params import _ALERT_ROWS, TABLE  # noqa: E402
import offline_train.sections  # noqa: E402
import rclpy  # noqa: E402
from rclpy.context import Context  # noqa: E402
from ros_rig import next_domain, Rig  # noqa: E402
from test_launch_file import stand_in  # noqa: E402
from test_readme_topics import of_node, OF_ROS, OF_VISION_MSGS, type_name  # noqa: E402

DOCUMENTS = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md')),
             ROOT / 'config' / 'seg.yaml', *sorted((ROOT / 'config' / 'integration').iterdir())]


def names_of(node, topics):
    """Return what follows ~/ in the names of a node's topics and services."""
    home = f'/{node.get_name()}/'
    used = set(topics) | {service.srv_name for service in node.services}
    return {name[len(start):] for name in used for start in (home, '~/') if name.startswith(start)}


@pytest.fixture(scope='module')
def companion():
    context = Context()
    rclpy.init(context=context, domain_id=next_domain())
    node = Companion(context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


def launch_arguments():
    """Return the arguments that each launch file declares."""
    found = {}
    for path in (ROOT / 'launch').glob('*.launch.py'):
        with pytest.MonkeyPatch.context() as patch:
            stand_in(patch, {}, {})
            sys.modules['launch.actions'].GroupAction = lambda actions: None
            sys.modules['launch.actions'].IncludeLaunchDescription = lambda *args, **kwargs: None
            patch.setitem(sys.modules, 'launch.launch_description_sources', SimpleNamespace(
                PythonLaunchDescriptionSource=lambda path: None))
            spec = importlib.util.spec_from_file_location('launch_file', path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            found[path.name] = {action.name for action in module.generate_launch_description()
                                if hasattr(action, 'default_value')}
    return found


def all_parameters():
    """Return every parameter of the nodes, and every key of a training run's configuration."""
    names = {row.name for row in TABLE + COMPANION_TABLE}
    names |= {f'alert.{entry.slug}.{row[0]}' for entry in load_label_map() for row in _ALERT_ROWS}
    for section in vars(offline_train.sections).values():
        if dataclasses.is_dataclass(section):
            prefix = section.__name__.replace('Config', '').lower()
            names |= {f'{prefix}.{field.name}' for field in dataclasses.fields(section)}
    return names


def programs():
    call = ast.parse((ROOT / 'setup.py').read_text(encoding='utf-8')).body[-1].value
    (points,) = [k.value for k in call.keywords if k.arg == 'entry_points']
    return {text.split(' = ')[0] for text in ast.literal_eval(points)['console_scripts']}


@pytest.fixture(scope='module')
def names(tiny, companion):
    rig = Rig(tiny)
    node = rig.start_node()
    topics = {e.topic_name for e in [*node.publishers, *node.subscriptions]}
    heard = {s.topic_name.lstrip('/') for s in companion.subscriptions}
    yield Names(
        private={'seg_node': names_of(node, topics | set(OF_VISION_MSGS)),
                 'seg_companion': names_of(companion, {
                     p.topic_name for p in companion.publishers} | set(TYPED_TOPICS))},
        mavros={name for name in heard | set(TYPED_TOPICS) if name.startswith('mavros/')}
        | OF_MAVROS,
        parameters=all_parameters(), launch=launch_arguments(), programs=programs())
    rig.close()


# Topics and services of MAVROS's own that a user remaps or calls.
OF_MAVROS = {'mavros/global_position/global', 'mavros/global_position/compass_hdg',
             'mavros/mission/push'}


def test_every_name_in_the_documents_is_the_codes(names):
    wrong = {f'{path.relative_to(ROOT)}: {complaint}' for path in DOCUMENTS
             for complaint in wrong_names(path.read_text(encoding='utf-8'), names, path.parent)}
    assert not wrong


@pytest.mark.parametrize('text, complaint', [
    ('listen to `~/masks`', 'topic ~/masks'),
    ('echo /front/seg_node/alert_event now', 'topic seg_node/alert_event'),
    ('see seg_companion/mask', 'topic seg_companion/mask'),
    ('it sends mavros/statustext/sent', 'topic mavros/statustext/sent'),
    ('set `alert.persn.min_pixels`', 'parameter alert.persn.min_pixels'),
    ('set `alert.<class>.min_pixel`', 'parameter alert.<class>.min_pixel'),
    ('set `waypoint.altitude`', 'parameter waypoint.altitude'),
    ('ros2 run evit_seg seg_node --ros-args -p modell:=demo', 'parameter modell'),
    ('ros2 launch evit_seg segment.launch.py', 'launch file segment.launch.py'),
    ('ros2 launch evit_seg seg.launch.py \\\n    image:=/a model:=b',
     'argument image of seg.launch.py'),
    ('pass `large:=false`', 'argument large'),
    ('ros2 run evit_seg segnode', 'program segnode'),
    ('start seg_nodes', 'program seg_nodes'),
    ('python -m evit_seg.ros.parameters', 'module evit_seg.ros.parameters'),
    ('copy `config/seg.yml`', 'file config/seg.yml'),
    ('see [that](docs/nothing.md#there)', 'link docs/nothing.md')])
def test_the_check_sees_a_wrong_name(names, text, complaint):
    assert complaint in list(wrong_names(text, names, ROOT))


def test_the_check_takes_right_ones(names):
    text = ('`~/mask`, /d1/seg_node/alert_events, ~/proposed_waypoint, mavros/statustext/send, '
            '`alert.person.*`, `geo.*_error_*`, `alert.default.min_pixels`, evit_seg/ros/node.py, '
            'ros2 launch evit_seg seg.launch.py model:=demo, config/recipes/*.yaml, cd ~/ws/src, '
            'python -m evit_seg.ros.params, [x](docs/security.md#sros2), `quant.enabled=true`')
    assert list(wrong_names(text, names, ROOT)) == []


def table(head, title):
    """Return what the rows of a table of docs/integration.md say, backticks taken off."""
    text = (ROOT / 'docs' / 'integration.md').read_text(encoding='utf-8')
    rows = re.search(rf'^\| {head} \| {title} \|.*\n\|[-|]+\n((?:\|.*\n)+)', text, re.MULTILINE)
    return [[cell.strip().strip('`') for cell in row.strip('|').split(' | ')]
            for row in rows.group(1).splitlines()]


def test_the_companions_topics_are_those_of_the_document(companion):
    heard = of_node(companion.subscriptions)
    assert {row[0].lstrip('| `').lstrip('/'): row[1] for row in table('companion in', 'type')} == {
        name.replace('~/', 'seg_node/'): kind for name, kind in heard.items()}
    said = {p.topic_name.replace('/seg_companion/', '~/').lstrip('/'): type_name(p.msg_type)
            for p in companion.publishers if p.topic_name not in OF_ROS}
    typed = dict(zip(TYPED_TOPICS, ('mavros_msgs/StatusText', 'mavros_msgs/CompanionProcessStatus',
                                    'mavros_msgs/Waypoint')))
    assert {row[0].lstrip('| `').lstrip('/'): row[1]
            for row in table('companion out', 'type')} == {**typed, **said}


def test_the_companions_parameters_are_those_of_the_document():
    wanted = [[row.name, repr(row.default), row.text] for row in COMPANION_TABLE]
    text = (ROOT / 'docs' / 'integration.md').read_text(encoding='utf-8')
    for name, default, what in wanted:
        assert f'| `{name}` | `{default}` | {what} |\n' in text
    assert text.count('\n| `') >= len(wanted)
    assert [row[0].lstrip('| `') for row in table('parameter', 'default')] == [
        row[0] for row in wanted]


def test_the_companions_launch_arguments_are_those_of_the_document():
    assert [row[0].lstrip('| `') for row in table('launch argument', 'meaning')] == [
        'params_file', 'namespace', 'log_level', 'use_sim_time']
    assert launch_arguments()['companion.launch.py'] == {
        'params_file', 'namespace', 'log_level', 'use_sim_time'}


def test_no_document_is_left_out():
    assert {path.name for path in DOCUMENTS} >= {
        'README.md', 'security.md', 'integration.md', 'companion.yaml', 'foxglove_layout.json',
        'evit_seg.perspective', 'evit_seg.service', 'Dockerfile.l4t'}
    assert all(isinstance(path, Path) and path.is_file() for path in DOCUMENTS)
