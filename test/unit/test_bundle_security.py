# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle is data from a stranger: it runs nothing and opens nothing outside."""
from __future__ import annotations

import ast
import contextlib
from pathlib import Path
import resource
import struct
import subprocess
import sys
import zlib

from evit_seg.core.bundle import open_bundle, self_test
from evit_seg.core.errors import BundleError, BundleHashMismatch, EvitSegError
from evit_seg.core.manifest import load_manifest, MAX_MANIFEST_BYTES
from evit_seg.core.segmenter import Segmenter
from hypothesis import given, settings, strategies
import pytest
from tampering import rewrite
from tiny_bundle import write_tiny_bundle
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    return write_tiny_bundle(tmp_path / 'tiny')


def edit(folder, **changes):
    """Change the manifest; a change of `variant` or `golden` goes into that part of it."""
    path = folder / 'manifest.yaml'
    manifest = yaml.safe_load(path.read_text())
    manifest['variants'][0].update(changes.pop('variant', {}))
    manifest['golden'].update(changes.pop('golden', {}))
    manifest.update(changes)
    path.write_text(yaml.safe_dump(manifest))


# The manifest: names, sizes, types.

@pytest.mark.parametrize('name', ['../tiny.onnx', '/etc/passwd', 'a/b.onnx', '..', 'tiny.onnx/',
                                  7, ['tiny.onnx'], None, 'a\0b'])
@pytest.mark.parametrize('part, key', [('variant', 'file'), ('golden', 'image'),
                                       ('golden', 'mask')])
def test_names_stay_in_the_folder(folder, name, part, key):
    edit(folder, **{part: {key: name}})
    with pytest.raises(BundleError):
        open_bundle(folder)


@pytest.mark.parametrize('name', ['tiny.onnx', 'golden_image.png', 'golden_mask.png'])
def test_a_link_out_of_the_folder_is_refused(folder, tmp_path, name):
    outside = tmp_path / 'outside'
    (folder / name).rename(outside)  # the very same bytes: the hash is right
    (folder / name).symlink_to(outside)
    with pytest.raises(BundleError, match='out of the folder of the manifest'):
        open_bundle(folder)


def test_a_bundle_that_is_linked_file_by_file_is_whole(folder, tmp_path):
    linked = tmp_path / 'install'  # as colcon build --symlink-install lays it out
    linked.mkdir()
    for path in folder.iterdir():
        (linked / path.name).symlink_to(path)
    assert open_bundle(linked).sha256 == open_bundle(folder).sha256
    (tmp_path / 'other').symlink_to(folder)
    assert open_bundle(tmp_path / 'other').sha256 == open_bundle(folder).sha256


@pytest.mark.parametrize('changes', [
    {'variant': {'height': 100_000, 'width': 100_000}}, {'variant': {'height': 8192,
                                                                     'width': 8192}},
    {'variant': {'height': 0}}, {'variant': {'height': -64}}, {'variant': {'height': 64.0}},
    {'variant': {'height': True}}, {'variant': {'height': '64'}},
    {'variant': {'height': 10 ** 30, 'width': 10 ** 30}},
    {'variant': {'height': 4096, 'width': 4096, 'stride': 1}},  # 0.9 GB of logits
    {'variant': {'stride': 0}}, {'variant': {'stride': -8}}, {'variant': {'bytes': -1}},
    {'variant': {'bytes': 2 ** 40}}, {'variant': {'bytes': 'many'}}, {'variant': {'sha256': 5}},
    {'variant': {'engine': ['onnxruntime']}}, {'variant': {'surprise': 1}},
    {'golden': {'min_agreement': {'fp32': float('nan')}}},  # nan < agreement would pass the test
    {'golden': {'min_agreement': {'fp32': 'high'}}}, {'golden': {'min_agreement': []}},
    {'golden': {'image_sha256': 1}}, {'temperature': float('inf')}, {'temperature': 'warm'},
    {'temperature': float('nan')}, {'name': ['tiny']}, {'description': 7}, {'data': ['text']},
    {'scores': []}, {'label_map': 3}, {'label_map': {}}, {'label_map': [1]}, {'input': []},
    {'variants': {}}, {'variants': [7]}, {'ignore_index': 'none'}, {'schema': 'one'},
    {'schema': True}, {'schema': 10 ** 30}])
def test_claims_that_cannot_be_are_refused(folder, changes):
    edit(folder, **changes)
    with pytest.raises(BundleError) as caught:
        open_bundle(folder)
    assert len(str(caught.value)) < 2000


def aliases():
    """Return nine levels of ten aliases each: a billion entries, in 500 bytes."""
    lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x, x]']
    lines += [f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 10)}]' for i in range(1, 10)]
    return '\n'.join(lines)


@pytest.mark.parametrize('text, said', [
    ('!!python/object/apply:os.system ["touch /tmp/never"]', 'not YAML'),
    ('!!python/name:os.system', 'not YAML'), ('a: !!python/tuple [1]', 'not YAML'),
    (aliases(), 'alias'), ('a: &a [*a]', 'alias'), ('[' * 100_000, 'nested too deeply'),
    ('schema: ' + '9' * 10_000, 'not YAML|schema'), ('schema: 2001-99-99', 'not YAML'),
    ('\0', 'not YAML'),
    ('? [a]\n: b', 'not YAML'), ('a: ' + 'x' * MAX_MANIFEST_BYTES, 'larger than')],
    ids=['call', 'name', 'tuple', 'billion', 'itself', 'deep', 'digits', 'date', 'control', 'key',
         'large'])
def test_yaml_is_data_and_no_more_than_it_says(folder, text, said):
    (folder / 'manifest.yaml').write_text(text)
    with pytest.raises(BundleError, match=said):
        open_bundle(folder)


@settings(max_examples=200, deadline=None)
@given(strategies.data())
def test_no_damage_to_a_manifest_escapes_as_another_error(tmp_path_factory, data):
    base = tmp_path_factory.getbasetemp() / 'fuzzed'
    if not base.exists():
        write_tiny_bundle(base)
        (base / 'whole').write_bytes((base / 'manifest.yaml').read_bytes())
    content = bytearray((base / 'whole').read_bytes())
    for _ in range(data.draw(strategies.integers(1, 5))):
        at = data.draw(strategies.integers(0, len(content) - 1))
        content[at:at + data.draw(strategies.integers(0, 3))] = \
            data.draw(strategies.sampled_from([b'', b'9', b'-', b'[', b'{', b'&a ', b'*a', b'null',
                                               b': ', b'\n', b'.nan', b'!!', b'\xff', b'1e999']))
    (base / 'manifest.yaml').write_bytes(bytes(content))
    with contextlib.suppress(BundleError):
        load_manifest(base / 'manifest.yaml')


# Files: no more is read than was announced, no more is unpacked than fits a network.

def test_a_file_larger_than_announced_is_not_even_read(folder, monkeypatch):
    with (folder / 'tiny.onnx').open('ab') as stream:
        stream.truncate(1 << 40)  # a hole of a terabyte
    with pytest.raises(BundleHashMismatch, match='it has 1099511627776 bytes'):
        open_bundle(folder)


def test_a_golden_frame_larger_than_any_is_not_even_read(folder):
    with (folder / 'golden_image.png').open('ab') as stream:
        stream.truncate(1 << 40)
    with pytest.raises(BundleHashMismatch, match='it has 1099511627776 bytes'):
        open_bundle(folder)


def bomb(side_px, colour_type=2):
    """Return a PNG of side x side black pixels, packed a thousandfold."""
    def chunk(kind, content):
        return (struct.pack('>I', len(content)) + kind + content
                + struct.pack('>I', zlib.crc32(kind + content)))
    channels = {0: 1, 2: 3}[colour_type]
    packer = zlib.compressobj(9)
    row = bytes(1 + side_px * channels)
    packed = b''.join(packer.compress(row) for _ in range(min(side_px, 3000))) + packer.flush()
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', side_px, side_px, 8,
                                                              colour_type, 0, 0, 0))
            + chunk(b'IDAT', packed) + chunk(b'IEND', b''))


@pytest.mark.parametrize('side_px', [20_000, 2 ** 31 - 1])
def test_a_golden_frame_that_unpacks_to_gigabytes_is_refused_unopened(folder, side_px):
    content = bomb(side_px) if side_px < 10 ** 6 else bomb(8).replace(
        struct.pack('>II', 8, 8), struct.pack('>II', side_px, side_px))
    if side_px > 10 ** 6:  # the checksum of IHDR
        content = content[:29] + struct.pack('>I', zlib.crc32(content[12:29])) + content[33:]
    rewrite(folder, 'golden_image.png', content)
    segmenter = Segmenter.open(str(folder))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BundleError, match=f'claims {side_px}x{side_px} pixels'):
        self_test(segmenter)
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kb < 100_000  # 20,000 x 20,000 in colour are 1.2 GB


@pytest.mark.parametrize('content', [b'', b'\x89PNG\r\n\x1a\n', b'GIF89a', b'II*\0\x08\0\0\0',
                                     b'\x76\x2f\x31\x01\x02\0\0\0'],
                         ids=['empty', 'png', 'gif', 'tiff', 'exr'])
@pytest.mark.parametrize('name', ['golden_image.png', 'golden_mask.png'])
def test_a_golden_frame_is_a_png_and_nothing_else(folder, name, content):
    rewrite(folder, name, content)
    with pytest.raises(BundleError, match='is not a'):
        self_test(Segmenter.open(str(folder)))


# Code: none of it comes out of a bundle unless it was asked for.

RUNS_CODE = {'pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal'}
CALLS = {'eval', 'exec', 'compile', 'torch.load', 'torch.jit.load', 'np.load', 'numpy.load',
         'yaml.load'}
LOADERS = {'unsafe_load', 'full_load', 'load_all'}


def suspects(path):
    """Yield what in a source file could run code that is read from a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from {alias.name.split('.')[0] for alias in node.names} & RUNS_CODE
        elif isinstance(node, ast.ImportFrom):
            yield from {(node.module or '').split('.')[0]} & RUNS_CODE
        elif isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            called = ast.unparse(node.func)
            if '(' not in called and (called in CALLS or called.split('.')[-1] in LOADERS):
                yield called


def test_nothing_on_the_way_from_a_bundle_to_a_mask_runs_what_it_reads():
    found = {f'{path.relative_to(ROOT)}: {what}'
             for part in ('core', 'ros', 'replay', 'benchmark')
             for path in (ROOT / 'evit_seg' / part).rglob('*.py') for what in suspects(path)}
    assert found == {
        'evit_seg/core/engine_torch.py: torch.jit.load',  # asked for by name, says so
        'evit_seg/core/manifest.py: yaml.load'}  # of a SafeLoader's child, tested above


def test_the_search_sees_what_it_looks_for(tmp_path):
    bad = tmp_path / 'bad.py'
    bad.write_text('import pickle\nfrom joblib import load\neval("1")\nnp.load(p)\ntorch.load(p)\n'
                   'yaml.load(p)\nyaml.unsafe_load(p)\nre.compile("x")\n')
    assert sorted(suspects(bad)) == ['eval', 'joblib', 'np.load', 'pickle', 'torch.load',
                                     'yaml.load', 'yaml.unsafe_load']


def test_a_torchscript_file_is_opened_only_when_asked_for_by_name(folder):
    rewrite(folder, 'tiny.onnx', b'a program')
    edit(folder, variant={'engine': 'torchscript'})
    open_bundle(folder)  # verified, not opened
    check = f"""
import sys
from evit_seg.core.errors import BundleError
from evit_seg.core.segmenter import Segmenter
for engine in ('onnxruntime', 'openvino'):
    try:
        Segmenter.open({str(folder)!r}, engine=engine)
    except BundleError as error:
        assert 'has no variant' in str(error), error
print('torch' in sys.modules)
"""
    run = subprocess.run([sys.executable, '-c', check], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == 'False', run.stderr
    with pytest.raises(EvitSegError, match=r'cannot load|not installed'):
        Segmenter.open(str(folder), engine='torchscript')
