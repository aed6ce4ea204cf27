# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Compiled engines on disk: used whole or not at all, and a disk that is full stops nobody."""
from __future__ import annotations

import json
import os
from pathlib import Path
import subprocess
import sys

from evit_seg.core import engine_cache
from evit_seg.core.engine_cache import cache_key, default_folder, open_cached
from evit_seg.core.errors import BundleError
import pytest

ROOT = Path(__file__).resolve().parents[2]
FACTS = {'model': 'a' * 64, 'device': 'Orin 8.7', 'precision': 'fp16'}


class Compiler:
    """Compiles into the folder it is given when that is empty, as TensorRT's provider does."""

    def __init__(self):
        self.compiled = 0
        self.calls = []
        self.refuses = b''

    def __call__(self, folder):
        self.calls.append(folder)
        plan = None if folder is None else folder / 'plan.engine'
        if plan is not None and plan.exists():
            if plan.read_bytes() == self.refuses:
                raise BundleError('the plan does not fit this device')
            return 'read'
        self.compiled += 1
        if plan is not None:
            plan.write_bytes(b'compiled')
        return 'compiled'


@pytest.fixture
def compiler():
    return Compiler()


def folder_of(root):
    return root / cache_key(FACTS)


def names(root):
    return sorted(path.name for path in root.iterdir())


def test_the_second_start_reads_what_the_first_compiled(tmp_path, compiler):
    first, state = open_cached(str(tmp_path / 'new' / 'cache'), FACTS, 100, compiler)
    folder = folder_of(tmp_path / 'new' / 'cache')
    assert (first, state) == ('compiled', (f'built in {folder}', False))
    assert compiler.calls[0].name.startswith(f'.{folder.name}.')  # under another name
    assert names(folder) == ['complete.json', 'plan.engine']
    assert names(folder.parent) == [folder.name]
    second, state = open_cached(str(folder.parent), FACTS, 100, compiler)
    assert (second, state) == ('read', (f'found in {folder}', False))
    assert compiler.compiled == 1
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize('fact', sorted(FACTS))
def test_another_fact_is_another_cache(tmp_path, compiler, fact):
    open_cached(str(tmp_path), FACTS, 100, compiler)
    assert open_cached(str(tmp_path), {**FACTS, fact: 'other'}, 100, compiler)[0] == 'compiled'
    assert len(names(tmp_path)) == 2


def cut(folder):
    (folder / 'plan.engine').write_bytes(b'comp')


def exchanged(folder):
    (folder / 'plan.engine').write_bytes(b'COMPILED')


def unlisted(folder):
    (folder / 'complete.json').unlink()


def half_listed(folder):
    text = (folder / 'complete.json').read_text()
    (folder / 'complete.json').write_text(text[:len(text) // 2])


def other_facts(folder):
    listed = json.loads((folder / 'complete.json').read_text())
    (folder / 'complete.json').write_text(json.dumps({**listed, 'facts': {}}))


def endless_list(folder):
    os.truncate(folder / 'complete.json', 2 << 20)


def odd_list(folder):
    (folder / 'complete.json').write_text('[1]')


def lost(folder):
    (folder / 'plan.engine').unlink()


def stranger_file(folder):
    (folder / 'more.engine').write_bytes(b'')


def writable_for_all(folder):
    folder.chmod(0o777)


def a_link(folder):
    folder.rename(folder.parent / 'elsewhere')
    folder.symlink_to(folder.parent / 'elsewhere')


def a_file(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_bytes(b'')


@pytest.mark.parametrize('harm', [
    cut, exchanged, unlisted, half_listed, other_facts, endless_list, odd_list, lost,
    stranger_file, writable_for_all, a_link, a_file])
def test_what_is_not_whole_is_never_read(tmp_path, compiler, harm):
    open_cached(str(tmp_path), FACTS, 100, compiler)
    harm(folder_of(tmp_path))
    opened, state = open_cached(str(tmp_path), FACTS, 100, compiler)
    assert (opened, state.failed) == ('compiled', False)
    assert open_cached(str(tmp_path), FACTS, 100, compiler)[0] == 'read'


def test_somebody_elses_cache_is_not_trusted(tmp_path, compiler, monkeypatch):
    open_cached(str(tmp_path), FACTS, 100, compiler)
    monkeypatch.setattr(os, 'geteuid', lambda: os.getuid() + 1)
    if os.getuid() == 0:  # root's would be trusted: give it to another
        os.chown(folder_of(tmp_path), 12345, -1)
    assert open_cached(str(tmp_path), FACTS, 100, compiler)[0] == 'compiled'


def test_a_cache_that_the_library_refuses_is_built_again(tmp_path, compiler):
    open_cached(str(tmp_path), FACTS, 100, compiler)
    compiler.refuses = b'compiled'
    folder = folder_of(tmp_path)
    assert open_cached(str(tmp_path), FACTS, 100, compiler) == (
        'compiled', (f'built in {folder}', False))
    assert compiler.compiled == 2


def test_a_cache_is_kept_until_another_is_built(tmp_path, compiler):
    open_cached(str(tmp_path), FACTS, 100, compiler)

    def out_of_memory(folder):
        raise BundleError('CUDA out of memory')
    with pytest.raises(BundleError, match='out of memory'):
        open_cached(str(tmp_path), FACTS, 100, out_of_memory)
    assert open_cached(str(tmp_path), FACTS, 100, compiler)[0] == 'read'
    assert compiler.compiled == 1


def test_a_build_that_was_killed_leaves_nothing_that_is_used(tmp_path):
    script = """
import os, sys
from evit_seg.core.engine_cache import open_cached
def build(folder):
    (folder / 'plan.engine').write_bytes(b'comp')
    os.kill(os.getpid(), 9)
open_cached(sys.argv[1], {'model': 'a'}, 100, build)
"""
    run = subprocess.run([sys.executable, '-c', script, str(tmp_path)], cwd=ROOT)
    assert run.returncode == -9
    (left,) = tmp_path.iterdir()
    compiler = Compiler()
    assert open_cached(str(tmp_path), {'model': 'a'}, 100, compiler)[0] == 'compiled'
    assert left.exists()  # it might be another process at work
    os.utime(left, (0, 0))
    (tmp_path / '.a.user').mkdir()
    os.utime(tmp_path / '.a.user', (0, 0))
    open_cached(str(tmp_path), {'model': 'a'}, 100, compiler)
    assert names(tmp_path) == ['.a.user', cache_key({'model': 'a'})]  # only our own names go


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def build(folder):
        raise BundleError('no such model')
    with pytest.raises(BundleError, match='no such model'):
        open_cached(str(tmp_path), FACTS, 100, build)
    assert names(tmp_path) == []


def test_a_library_that_cannot_write_works_without_a_cache(tmp_path):
    def build(folder):
        if folder is not None:
            raise BundleError('cannot write the plan')
        return 'compiled'
    opened, state = open_cached(str(tmp_path), FACTS, 100, build)
    assert (opened, state.failed) == ('compiled', True)
    assert state.text == ('none, it will be built again at the next start: cannot write the '
                          'plan; see engine.cache_dir')
    assert names(tmp_path) == []


def test_a_library_that_wrote_nothing_has_no_cache(tmp_path):
    opened, state = open_cached(str(tmp_path), FACTS, 100, lambda folder: 'compiled')
    assert opened == 'compiled' and state.failed and 'wrote nothing' in state.text
    assert names(tmp_path) == []


FULL = """
import resource, signal, sys
from evit_seg.core.engine_cache import open_cached
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
print(open_cached(sys.argv[1], {'model': 'a'}, int(sys.argv[2]), lambda folder: folder))
"""


def test_a_disk_without_room_is_seen_before_anything_is_compiled(tmp_path):
    run = subprocess.run([sys.executable, '-c', FULL, str(tmp_path), '2000'], cwd=ROOT,
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith('(None, CacheState(') and 'failed=True' in run.stdout
    assert 'File too large' in run.stdout
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_meanwhile(tmp_path, compiler, monkeypatch):
    def full(path):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(engine_cache, '_sync', full)
    opened, state = open_cached(str(tmp_path), FACTS, 100, compiler)
    assert (opened, state.failed) == ('compiled', True)  # what was loaded goes on
    assert compiler.compiled == 1 and 'No space left on device' in state.text
    assert names(tmp_path) == []


@pytest.mark.parametrize('place', ['/proc/no/such/place', '/dev/null/cache'])
def test_a_folder_that_cannot_be(place, compiler):
    opened, state = open_cached(place, FACTS, 100, compiler)
    assert (opened, state.failed) == ('compiled', True)
    assert compiler.calls == [None]


def test_a_user_without_a_home(monkeypatch, compiler):
    def no_home():
        raise RuntimeError('Could not determine home directory.')
    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.setattr(Path, 'home', no_home)
    opened, state = open_cached('', FACTS, 100, compiler)
    assert opened == 'compiled' and 'home directory' in state.text


def test_another_process_was_faster(tmp_path, compiler):
    def build(folder):
        open_cached(str(tmp_path), FACTS, 100, compiler)
        return compiler(folder)
    opened, state = open_cached(str(tmp_path), FACTS, 100, build)
    assert (opened, state.failed) == ('compiled', False)
    assert names(tmp_path) == [folder_of(tmp_path).name]
    assert open_cached(str(tmp_path), FACTS, 100, compiler)[0] == 'read'


def test_the_default_folder_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert default_folder() == tmp_path / 'evit_seg'
    monkeypatch.setenv('XDG_CACHE_HOME', 'not/absolute')  # the specification: to be ignored
    assert default_folder() == Path.home() / '.cache' / 'evit_seg'
