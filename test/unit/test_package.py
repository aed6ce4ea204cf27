# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The package as ROS and pip see it: package.xml, entry points, share files, a colcon build."""
from __future__ import annotations

import ast
import os
from pathlib import Path
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ('seg_node', 'seg_companion', 'bag_eval', 'make_bag', 'bench', 'bundle',
            'offline_train')


def test_package_xml_is_what_colcon_takes_for_ament_python():
    package = ElementTree.parse(ROOT / 'package.xml').getroot()
    assert package.get('format') == '3'
    assert package.findtext('export/build_type') == 'ament_python'
    assert package.findtext('name') == 'evit_seg'
    assert package.findtext('license') == 'Apache-2.0'
    address = package.find('maintainer').get('email')
    assert '@' in address and '.' in address.split('@')[1]


def test_versions_agree():
    package = ElementTree.parse(ROOT / 'package.xml').getroot()
    call = ast.parse((ROOT / 'setup.py').read_text()).body[-1].value
    keywords = {k.arg: k.value for k in call.keywords}
    version = ast.literal_eval(keywords['version'])
    assert package.findtext('version') == version
    assert f'## {version}' in (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')


def test_every_source_file_names_its_licence():
    files = [p for top in ('evit_seg', 'offline_train', 'launch', 'test')
             for p in (ROOT / top).rglob('*.py')]
    bare = [str(p.relative_to(ROOT)) for p in files
            if 'SPDX-License-Identifier: Apache-2.0' not in p.read_text(encoding='utf-8')[:200]]
    assert files and not bare


@pytest.mark.skipif(shutil.which('colcon', path=f'{Path(sys.executable).parent}{os.pathsep}'
                                 f'{os.environ["PATH"]}') is None,
                    reason='colcon is not installed (pip install colcon-common-extensions)')
def test_colcon_builds_it_as_ament_python(tmp_path):
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    colcon = [shutil.which('colcon', path=path), '--log-base', str(tmp_path / 'log')]
    env = {**os.environ, 'PATH': path}

    def run(*args):
        return subprocess.run([*colcon, *args], cwd=ROOT, env=env, text=True, timeout=300,
                              capture_output=True)

    listed = run('list', '--base-paths', '.')
    assert '(ros.ament_python)' in listed.stdout, listed.stdout + listed.stderr
    built = run('build', '--base-paths', '.', '--build-base', str(tmp_path / 'build'),
                '--install-base', str(tmp_path / 'install'))
    assert built.returncode == 0, built.stdout + built.stderr
    programs = tmp_path / 'install' / 'evit_seg' / 'lib' / 'evit_seg'
    assert sorted(p.name for p in programs.iterdir()) == sorted(PROGRAMS)
    share = tmp_path / 'install' / 'evit_seg' / 'share'
    assert (share / 'ament_index/resource_index/packages/evit_seg').is_file()
    examples = [path.relative_to(ROOT) for top in ('config/integration', 'launch')
                for path in (ROOT / top).iterdir() if path.is_file()]
    for name in ('config/seg.yaml', 'config/labels/lpcv2023.yaml', 'launch/seg.launch.py',
                 'models/demo/manifest.yaml', 'package.xml', *examples):
        assert (share / 'evit_seg' / name).is_file(), name
