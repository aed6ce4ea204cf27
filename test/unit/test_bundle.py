# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles: written, verified, refused, with an exit code for each way to be wrong."""
from __future__ import annotations

from evit_seg import bundle_cli
from evit_seg.core.bundle import find_bundle, open_bundle, select_variant, self_test, write_bundle
from evit_seg.core.errors import (
    BundleError,
    BundleHashMismatch,
    BundleMissing,
    BundleTruncated,
    LabelMapMismatch,
)
from evit_seg.core.manifest import dump_manifest, load_manifest
from evit_seg.core.segmenter import Segmenter
from evit_seg.core.share import share_file
import numpy as np
import pytest
from tiny_bundle import painted_frame, tiny_onnx, write_tiny_bundle
import yaml


@pytest.fixture
def folder(tmp_path):
    return write_tiny_bundle(tmp_path / 'tiny')


def edit_manifest(folder, **changes):
    path = folder / 'manifest.yaml'
    content = yaml.safe_load(path.read_text())
    content.update(changes)
    path.write_text(yaml.safe_dump(content))


def test_manifest_survives_yaml(folder):
    manifest = load_manifest(folder / 'manifest.yaml')
    (folder / 'manifest.yaml').write_text(dump_manifest(manifest), encoding='utf-8')
    assert load_manifest(folder / 'manifest.yaml') == manifest


def test_golden_frame_agrees(folder):
    assert self_test(Segmenter.open(str(folder))) >= 0.75


def test_self_test_fails_on_another_answer(tmp_path):
    wrong = 13 - painted_frame()[1]
    folder = write_tiny_bundle(tmp_path / 'wrong', golden_mask=wrong)
    with pytest.raises(BundleError, match='self-test'):
        self_test(Segmenter.open(str(folder)))


def missing(folder):
    (folder / 'tiny.onnx').unlink()


def truncated(folder):
    data = (folder / 'tiny.onnx').read_bytes()
    (folder / 'tiny.onnx').write_bytes(data[:-7])


def flipped(folder):
    data = bytearray((folder / 'tiny.onnx').read_bytes())
    data[-7] ^= 1
    (folder / 'tiny.onnx').write_bytes(bytes(data))


def other_golden(folder):
    (folder / 'golden_mask.png').write_bytes((folder / 'golden_image.png').read_bytes())


@pytest.mark.parametrize('harm, error, code', [
    (missing, BundleMissing, 2), (truncated, BundleTruncated, 3), (flipped, BundleHashMismatch, 4),
    (other_golden, BundleHashMismatch, 4),
])
def test_harm_is_told_apart(folder, harm, error, code, capsys):
    harm(folder)
    with pytest.raises(error):
        open_bundle(folder)
    assert bundle_cli.main(['verify', str(folder)]) == code
    assert 'copy the bundle again' in capsys.readouterr().err


def test_class_count_that_does_not_fit(tmp_path):
    folder = write_tiny_bundle(tmp_path / 'unfit', network_classes=9)
    with pytest.raises(LabelMapMismatch, match='answers with 9 classes'):
        Segmenter.open(str(folder))
    assert bundle_cli.main(['verify', str(folder)]) == 5


@pytest.mark.parametrize('changes, message', [
    ({'schema': 2}, 'has schema 2'),
    ({'surprise': 1}, 'surprise'),
    ({'variants': []}, 'at least one'),
    ({'temperature': 0}, 'above 0'),
    ({'input': {'colour': 'hsv'}}, 'input.colour'),
    ({'label_map': [{'id': 3, 'name': 'A', 'colour': [0, 0, 0]}]}, 'expected ids'),
])
def test_bad_manifests_are_refused(folder, changes, message):
    edit_manifest(folder, **changes)
    with pytest.raises(BundleError, match=message):
        open_bundle(folder)


@pytest.mark.parametrize('name', ['../tiny.onnx', '/etc/passwd', '', '..', 'a/b.onnx'])
def test_a_bundle_cannot_name_files_outside_itself(folder, name):
    variants = yaml.safe_load((folder / 'manifest.yaml').read_text())['variants']
    edit_manifest(folder, variants=[{**variants[0], 'file': name}])
    with pytest.raises(BundleError, match='own folder'):
        open_bundle(folder)


def test_yaml_cannot_run_code(folder):
    (folder / 'manifest.yaml').write_text('!!python/object/apply:os.system ["true"]')
    with pytest.raises(BundleError, match='not YAML'):
        open_bundle(folder)


def test_no_variant_is_taken_in_anothers_place(folder):
    with pytest.raises(BundleError, match='it holds onnxruntime/fp32/64x64'):
        select_variant(open_bundle(folder), precision='int8')


def test_a_bundle_is_never_overwritten(folder):
    with pytest.raises(BundleError, match='not empty'):
        write_tiny_bundle(folder)


def test_files_that_were_not_given_are_named(folder, tmp_path):
    manifest = load_manifest(folder / 'manifest.yaml')
    with pytest.raises(BundleError, match='golden_image'):
        write_bundle(tmp_path / 'new', manifest, {'tiny.onnx': tiny_onnx()})


@pytest.mark.parametrize('name', ['no_such_model', './no/such/folder', ''])
def test_find_says_what_is_missing(name):
    with pytest.raises(BundleMissing):
        find_bundle(name)


def test_a_bare_name_is_the_packages_own(tmp_path, monkeypatch):
    (tmp_path / 'demo').mkdir()
    write_tiny_bundle(tmp_path / 'mine')
    monkeypatch.chdir(tmp_path)
    assert find_bundle('demo') == share_file('models/demo')
    assert find_bundle('./demo').samefile(tmp_path / 'demo')
    assert find_bundle('mine').samefile(tmp_path / 'mine')


def test_show_prints_the_manifest(folder, capsys):
    assert bundle_cli.main(['show', str(folder)]) == 0
    assert 'input 64x64 rgb uint8' in capsys.readouterr().out


def test_verify_runs_the_golden_frame(folder, capsys):
    assert bundle_cli.main(['verify', str(folder)]) == 0
    assert 'golden frame agrees' in capsys.readouterr().out


def test_golden_mask_holds_class_ids(folder):
    bundle = open_bundle(folder)
    assert bundle.manifest.golden is not None
    assert np.unique(painted_frame()[1]).max() < len(bundle.manifest.label_map)
