# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import cv2
from evit_seg.core.errors import InputError
from evit_seg.core.labels import load_label_map
import numpy as np
from offline_train.data.folder import (
    FolderReader,
    list_pairs,
    open_frames,
    open_pairs,
    read_pair,
    split_sha256,
)
import pytest


def write_pair(folder, name, image, mask, suffix='.png'):
    for part, array in (('IMG', image), ('GT', mask)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        path = folder / part / f'{name}{suffix if part == "IMG" else ".png"}'
        assert cv2.imwrite(str(path), array)


def test_images_are_rgb_and_254_is_ignored(tmp_path):
    image = np.zeros((4, 6, 3), np.uint8)
    image[..., 0] = 200  # blue, as OpenCV writes it
    mask = np.full((4, 6), 10, np.uint8)
    mask[0, 0], mask[0, 1] = 254, 255
    write_pair(tmp_path, 'a', image, mask)
    frames = open_frames([tmp_path], load_label_map(), '')
    read_image, read_mask = frames.read(0)
    assert read_image[0, 0].tolist() == [0, 0, 200]
    assert read_mask[0, :3].tolist() == [255, 255, 10]
    assert frames.counts[0, 10] == 22 and frames.counts.sum() == 22


def test_the_cache_gives_the_same_frames_and_notices_new_ones(tmp_path):
    rng = np.random.default_rng(0)
    scenes, cache = tmp_path / 'train', tmp_path / 'cache'
    for name in 'ab':
        write_pair(scenes, name, rng.integers(0, 256, (8, 8, 3), np.uint8),
                   rng.integers(0, 14, (8, 8), np.uint8))
    for expected in (2, 3):
        decoded = open_frames([scenes], load_label_map(), '')
        cached = open_frames([scenes], load_label_map(), str(cache))
        assert len(cached) == len(decoded) == expected
        np.testing.assert_array_equal(cached.counts, decoded.counts)
        for index in range(expected):
            for one, other in zip(cached.read(index), decoded.read(index), strict=True):
                np.testing.assert_array_equal(one, other)
        write_pair(scenes, 'c', np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8))


@pytest.mark.parametrize(('mask', 'said'), [
    (np.zeros((4, 4, 3), np.uint8), 'expected one channel'),
    (np.zeros((4, 5), np.uint8), r'expected the image\'s size \(4, 4\)'),
    (np.full((4, 4), 200, np.uint8), 'expected ids below 14, 254 or 255, got 200'),
])
def test_a_bad_mask_is_named(tmp_path, mask, said):
    write_pair(tmp_path, 'bad', np.zeros((4, 4, 3), np.uint8), mask)
    with pytest.raises(InputError, match=f'GT/bad.png: {said}'):
        read_pair(list_pairs([tmp_path])[0], 14)


@pytest.mark.parametrize('extension', ['.png', '.jpg'])
def test_a_truncated_image_is_named(tmp_path, extension):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    write_pair(tmp_path, 'cut', noise, np.zeros((64, 64), np.uint8))
    (tmp_path / 'IMG' / 'cut.png').unlink()
    path = tmp_path / 'IMG' / f'cut{extension}'
    whole = cv2.imencode(extension, noise)[1].tobytes()
    path.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(InputError, match=rf'IMG/cut\{extension}: .*truncated'):
        read_pair(list_pairs([tmp_path])[0], 14)


def test_missing_folders_masks_and_images_are_named(tmp_path):
    with pytest.raises(InputError, match='expected a folder with IMG/ and GT/'):
        list_pairs([tmp_path])
    write_pair(tmp_path, 'a', np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8))
    (tmp_path / 'GT' / 'a.png').unlink()
    with pytest.raises(InputError, match=r'a\.png: expected a mask'):
        list_pairs([tmp_path])
    (tmp_path / 'IMG' / 'a.png').unlink()
    with pytest.raises(InputError, match='found none'):
        list_pairs([tmp_path])


def test_the_cache_keeps_frames_of_mixed_sizes_and_each_once(tmp_path):
    rng = np.random.default_rng(1)
    for name, shape in (('a', (4, 6)), ('b', (8, 3)), ('c', (5, 5))):
        write_pair(tmp_path / 'train', name, rng.integers(0, 256, (*shape, 3), np.uint8),
                   rng.integers(0, 14, shape, np.uint8))
    twice = [tmp_path / 'train', tmp_path / 'train']
    decoded = open_frames(twice, load_label_map(), '')
    cached = open_frames(twice, load_label_map(), str(tmp_path / 'cache'))
    assert len(cached) == len(decoded) == 6
    np.testing.assert_array_equal(cached.counts, decoded.counts)
    for index in range(6):
        for one, other in zip(cached.read(index), decoded.read(index), strict=True):
            np.testing.assert_array_equal(one, other)
    (folder,) = (tmp_path / 'cache').iterdir()
    assert (folder / 'masks.bin').stat().st_size == 4 * 6 + 8 * 3 + 5 * 5


def test_the_split_hash_follows_the_masks(tmp_path):
    write_pair(tmp_path, 'a', np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8))
    before = split_sha256(list_pairs([tmp_path]))
    write_pair(tmp_path, 'a', np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.uint8))
    assert split_sha256(list_pairs([tmp_path])) != before


def test_runs_that_make_the_cache_together_both_have_it(tmp_path):
    write_pair(tmp_path / 'train', 'a', np.full((8, 8, 3), 7, np.uint8),
               np.zeros((8, 8), np.uint8))
    pairs, cache = list_pairs([tmp_path / 'train']), tmp_path / 'cache'
    other = []

    class Overtaken(FolderReader):
        """Reads its first frame when another run has made the whole cache."""

        def read(self, pair):
            if not other:
                other.append(open_pairs(pairs, FolderReader(load_label_map()), str(cache)))
            return super().read(pair)

    mine = open_pairs(pairs, Overtaken(load_label_map()), str(cache))
    for frames in (mine, *other):
        np.testing.assert_array_equal(frames.read(0)[0], 7)
    assert len(list(cache.iterdir())) == 1
