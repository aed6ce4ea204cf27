# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Objects pasted from other frames: which, where, how large, and what they leave alone."""
from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')
pytest.importorskip('torchvision', reason='the augmentation needs torchvision')

from evit_seg.core.labels import IGNORE_INDEX, load_label_map  # noqa: E402, I100
from offline_train.config import AugmentConfig, load_config  # noqa: E402
from offline_train.data.copy_paste import Paster  # noqa: E402
from offline_train.data.crops import CropDataset  # noqa: E402
from tiny_runs import MemoryFrames  # noqa: E402

LABELS = load_label_map()
ROAD, BUILDING, PERSON, VEHICLE = (LABELS.by_slug(slug).id for slug in (
    'road_railway_bridge', 'building_undamaged', 'person', 'vehicle'))
PURPLE, GREEN = (250, 0, 250), (0, 250, 0)
SIZE = (96, 128)


def empty(size=SIZE, class_id=ROAD):
    return np.full((*size, 3), 90, np.uint8), np.full(size, class_id, np.uint8)


def frame(*boxes, size=SIZE):
    """Return a road with boxes on it: (top, left, rows, columns, colour, class)."""
    image, mask = empty(size)
    for top, left, rows, columns, colour, class_id in boxes:
        image[top:top + rows, left:left + columns] = colour
        mask[top:top + rows, left:left + columns] = class_id
    return image, mask


def paste(donor, seed=0, target=None, frame_px=SIZE, own=0, **settings):
    """Return crop and target after pasting from the frames (nothing, donor) into an own one."""
    augment = AugmentConfig(**{'copy_paste': 1.0, **settings})
    paster = Paster(MemoryFrames(empty(), donor), LABELS, [PERSON, VEHICLE], augment)
    crop, plain = empty()
    target = plain if target is None else target.copy()
    paster.paste(crop, target, own, frame_px, np.random.default_rng(seed))
    return crop, target


def area(target, class_id=PERSON):
    return int((target == class_id).sum())


LONE = frame((40, 50, 20, 10, PURPLE, PERSON))


def test_an_object_appears_in_image_and_mask_and_nothing_else_changes():
    for seed in range(10):
        crop, target = paste(LONE, seed)
        person = (target == PERSON).astype(np.uint8)
        assert 100 < person.sum() < 400
        core = cv2.erode(person, np.ones((3, 3), np.uint8)) > 0
        assert (np.abs(crop[core].astype(int) - PURPLE) <= 40).all()
        away = cv2.dilate(person, np.ones((5, 5), np.uint8)) == 0
        assert (crop[away] == 90).all()
        assert (target[person == 0] == ROAD).all()


def test_it_fades_out_at_its_edge():
    crop, target = paste(LONE, copy_paste_objects=1)
    edge = (target == PERSON) & (cv2.erode((target == PERSON).astype(np.uint8),
                                           np.ones((3, 3), np.uint8)) == 0)
    beyond = (cv2.dilate((target == PERSON).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0) \
        & (target != PERSON)
    assert 90 < crop[edge][:, 0].mean() < 250
    assert (crop[edge][:, 1] > 0).mean() > 0.9
    assert crop.astype(int)[~beyond & (target != PERSON)].max() == 90


def test_no_unlabelled_pixel_and_no_other_focus_object_is_covered():
    target = empty()[1]
    target[:, 40:60] = IGNORE_INDEX
    target[50:70, 80:110] = VEHICLE
    pasted = 0
    for seed in range(40):
        _, changed = paste(LONE, seed, target)
        pasted += area(changed) > 0
        kept = (target == IGNORE_INDEX) | (target == VEHICLE)
        np.testing.assert_array_equal(changed[kept], target[kept])
    assert pasted > 30


def test_pasted_objects_do_not_cover_one_another():
    donor = frame(*((10 + 25 * i, 10, 16, 8, PURPLE, PERSON) for i in range(3)),
                  *((10 + 25 * i, 60, 16, 8, PURPLE, PERSON) for i in range(3)))
    for seed in range(20):
        _, target = paste(donor, seed, copy_paste_objects=6)
        sizes = cv2.connectedComponentsWithStats((target == PERSON).astype(np.uint8))[2][1:, 4]
        assert len(sizes) <= 6
        assert sizes.min() >= 60 and sizes.max() <= 16 * 8 * 1.25 ** 2 * 1.2


def test_objects_stand_on_ground_alone():
    roofs = np.full(SIZE, BUILDING, np.uint8)
    assert not any(area(paste(LONE, seed, roofs)[1]) for seed in range(10))
    half = roofs.copy()
    half[:, 64:] = ROAD
    pasted = 0
    for seed in range(40):
        _, target = paste(LONE, seed, half)
        person = area(target)
        pasted += person > 0
        assert area(target[:, :64]) <= 0.1 * person
    assert pasted > 30


def test_at_most_so_many_objects():
    boxes = [(10 + 25 * row, 10 + 20 * column, 16, 8, PURPLE, PERSON)
             for row in range(3) for column in range(5)]
    counts = [cv2.connectedComponents((paste(frame(*boxes), seed, copy_paste_objects=3)[1]
                                       == PERSON).astype(np.uint8))[0] - 1 for seed in range(30)]
    assert min(counts) >= 1 and max(counts) == 3


@pytest.mark.parametrize('box', [
    (0, 50, 20, 10), (40, 118, 20, 10), (76, 50, 20, 10),  # cut by a border of the frame
    (10, 10, 60, 20), (10, 10, 20, 70),                    # half the crop's height or width
    (40, 50, 3, 3)])                                       # nine pixels are a speck
def test_cut_large_and_tiny_objects_are_left_alone(box):
    donor = frame((*box, PURPLE, PERSON))
    assert not any(area(paste(donor, seed)[1]) for seed in range(5))


def test_parts_of_objects_are_left_alone():
    donor = frame((10, 10, 20, 10, PURPLE, PERSON), (10, 60, 20, 10, PURPLE, PERSON),
                  (60, 60, 6, 4, GREEN, PERSON))
    for seed in range(10):
        crop, target = paste(donor, seed)
        assert area(target) and not ((crop[..., 1] > 200) & (crop[..., 0] < 90)).any()


def test_a_neighbour_within_the_bounding_box_does_not_come_along():
    image, mask = frame((20, 54, 30, 6, PURPLE, PERSON), (44, 30, 6, 30, PURPLE, PERSON),
                        (20, 34, 12, 14, GREEN, PERSON))
    sizes = set()
    for seed in range(20):
        crop, target = paste((image, mask), seed, copy_paste_objects=1)
        person = target == PERSON
        green = ((crop[..., 1] > 200) & person).any()
        purple = ((crop[..., 0] > 200) & person).any()
        assert green != purple
        sizes.add(bool(green))
    assert sizes == {True, False}


def test_a_frame_gives_nothing_to_itself():
    assert area(paste(LONE, own=1)[1]) == 0
    assert area(paste(LONE, own=0)[1]) > 0


def test_objects_keep_the_zoom_of_the_crop_whatever_the_size_of_their_frame():
    large = frame((80, 100, 40, 20, PURPLE, PERSON), size=(192, 256))
    for donor in (LONE, large):
        for zoom in (1.0, 1.5):
            ratios = [area(paste(donor, seed, frame_px=(96 * zoom, 128 * zoom),
                                 copy_paste_objects=1)[1]) / (200 * zoom ** 2)
                      for seed in range(30)]
            assert 0.8 ** 2 * 0.85 < min(ratios) < 0.85
            assert 1.2 < max(ratios) < 1.25 ** 2 * 1.15


def height_and_width(target):
    _, _, width, height = cv2.boundingRect((target == PERSON).astype(np.uint8))
    return height, width


def test_objects_are_turned_only_where_crops_are():
    donor = frame((40, 50, 24, 8, PURPLE, PERSON))
    upright = [height_and_width(paste(donor, seed, copy_paste_objects=1)[1])
               for seed in range(20)]
    assert all(height > width for height, width in upright)
    turned = [height_and_width(paste(donor, seed, copy_paste_objects=1, rotate=90.0)[1])
              for seed in range(20)]
    assert 4 < sum(height < width for height, width in turned) < 16


@pytest.mark.parametrize('rotate', [0.0, 90.0])
def test_the_mask_of_a_turned_and_mirrored_object_fits_its_pixels(rotate):
    image, mask = frame((30, 50, 24, 4, PURPLE, PERSON), (50, 54, 4, 10, PURPLE, PERSON))
    corners = set()
    for seed in range(30):
        crop, target = paste((image, mask), seed, copy_paste_objects=1, rotate=rotate)
        person = target == PERSON
        assert ((crop[..., 0] > 170) == person).mean() > 0.998
        y, x = np.argwhere(person).mean(axis=0) - np.argwhere(person).min(axis=0)
        height, width = height_and_width(target)
        corners.add((height > width, x > width / 2, y > height / 2))
    if rotate:
        assert len(corners) == 8
    else:  # the foot points left or right, but always down
        assert corners == {(True, False, True), (True, True, True)}


TINY = ['input.height=64', 'input.width=96', 'augment.crop_height=32', 'augment.crop_width=64',
        'optim.steps=20', 'optim.batch=2', 'loss.stride=1', 'augment.focus_fraction=0',
        'augment.balanced_fraction=0', 'augment.scale_max=0.75']


def test_crops_have_more_people_and_unlabelled_ones_have_none():
    small = frame((40, 50, 8, 8, PURPLE, PERSON))
    frames, unlabeled = MemoryFrames(small, empty(), empty()), MemoryFrames(small)
    with_people = {}
    for part in (0, 1):
        config = load_config(None, [*TINY, f'augment.copy_paste={part}'])
        samples = list(map(CropDataset(frames, LABELS, config, unlabeled).__getitem__, range(40)))
        with_people[part] = sum(area(s['target'].numpy()) for s in samples)
        bare = [s for s in samples if int(s['frame']) == 3]
        assert len(bare) > 5 and all((s['target'] == IGNORE_INDEX).all() for s in bare)
        assert all(image_has_purple(s) <= 1.0 for s in bare)
    assert with_people[1] > 1.5 * with_people[0]


def image_has_purple(sample):
    """Return how many separate purple objects an image has."""
    image = sample['image'].numpy().astype(int)
    purple = (image[..., 0] - image[..., 1] > 80).astype(np.uint8)
    return cv2.connectedComponents(purple, connectivity=8)[0] - 1


def test_pasting_is_a_matter_of_seed_and_index_alone():
    frames = MemoryFrames(LONE, frame((20, 20, 8, 8, PURPLE, PERSON)), empty())
    config = load_config(None, [*TINY, 'augment.copy_paste=1', 'augment.rotate=30'])
    first, second = (CropDataset(frames, LABELS, config) for _ in range(2))
    backwards = {index: second[index] for index in reversed(range(10))}
    for index in range(10):
        for key, value in first[index].items():
            assert torch.equal(value, backwards[index][key]), key
