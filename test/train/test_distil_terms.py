# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Distillation terms against numpy and torch's own functions, and their invariances."""
from __future__ import annotations

import math
import re

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='the terms need torch')

from evit_seg.core.errors import ConfigError  # noqa: E402, I100
from offline_train.distillation import logit_terms  # noqa: E402
from offline_train.distillation.feature_terms import Generation, Mimic  # noqa: E402

functional = torch.nn.functional
channel_wise, dist = logit_terms.channel_wise, logit_terms.dist
kl_divergence, logit_mse = logit_terms.kl_divergence, logit_terms.logit_mse
TERMS = {
    'mse': logit_mse,
    'kl': lambda student, teacher: kl_divergence(student, teacher, 4.0),
    'cwd': lambda student, teacher: channel_wise(student, teacher, 4.0),
    'dist': dist,
}
each_term = pytest.mark.parametrize('term', TERMS.values(), ids=TERMS)


pytestmark = pytest.mark.usefixtures('one_thread')


def random_pair(shape=(2, 5, 6, 8), scale=3.0):
    generator = torch.Generator().manual_seed(7)
    return (torch.randn(shape, generator=generator) * scale,
            torch.randn(shape, generator=generator) * scale)


def softmax(values, axis):
    powers = np.exp(np.asarray(values, np.float64))
    return powers / powers.sum(axis=axis, keepdims=True)


def test_mse_is_the_mean_over_all_logits_by_hand():
    student = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 2, 1, 2)
    teacher = torch.tensor([1.0, 0.0, 6.0, 4.0]).reshape(1, 2, 1, 2)
    assert logit_mse(student, teacher).item() == pytest.approx((0 + 4 + 9 + 0) / 4)


def test_kl_of_one_pixel_by_hand():
    # At temperature 2 the logits are log 3 and 0, the student's 0 and 0: p = 3/4, 1/4.
    teacher = torch.tensor([2 * math.log(3), 0.0]).reshape(1, 2, 1, 1)
    expected = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    got = kl_divergence(torch.zeros(1, 2, 1, 1), teacher, 2.0)
    assert got.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_kl_is_torchs_mean_over_the_pixels(temperature):
    student, teacher = random_pair()
    flat = [x.permute(0, 2, 3, 1).reshape(-1, 5) / temperature for x in (student, teacher)]
    expected = functional.kl_div(flat[0].log_softmax(1), flat[1].softmax(1),
                                 reduction='batchmean') * temperature ** 2
    torch.testing.assert_close(kl_divergence(student, teacher, temperature), expected)


def test_cwd_is_the_mean_over_images_and_classes_in_numpy():
    student, teacher = random_pair()
    p, q = (softmax(x.numpy().reshape(2, 5, 48) / 3.0, 2) for x in (teacher, student))
    expected = np.mean([np.sum(p[n, c] * np.log(p[n, c] / q[n, c])) * 9
                        for n in range(2) for c in range(5)])
    assert channel_wise(student, teacher, 3.0).item() == pytest.approx(expected, rel=1e-4)


def test_dist_is_numpys_correlation_between_and_within_classes():
    student, teacher = random_pair()
    p, q = (softmax(x.numpy(), 1).transpose(1, 0, 2, 3).reshape(5, 96)
            for x in (student, teacher))
    between = np.mean([np.corrcoef(p[:, i], q[:, i])[0, 1] for i in range(96)])
    within = np.mean([np.corrcoef(p[c], q[c])[0, 1] for c in range(5)])
    expected = 0.5 * (1 - between) + 2 * (1 - within)
    assert dist(student, teacher, 0.5, 2.0).item() == pytest.approx(expected, rel=1e-4)


@each_term
def test_a_term_is_zero_for_equals_and_positive_otherwise(term):
    student, teacher = random_pair()
    assert term(student, student.clone()).item() == pytest.approx(0, abs=1e-5)
    assert term(student, teacher).item() > 0.1


@each_term
def test_a_term_does_not_grow_with_the_batch(term):
    student, teacher = random_pair()
    twice = term(torch.cat([student, student]), torch.cat([teacher, teacher]))
    torch.testing.assert_close(twice, term(student, teacher))


@each_term
def test_a_finer_teacher_is_averaged_to_the_students_grid(term):
    student, _ = random_pair((2, 5, 3, 4))
    _, teacher = random_pair((2, 5, 6, 8))
    coarse = teacher.reshape(2, 5, 3, 2, 4, 2).mean(dim=(3, 5))  # bilinear at half the size
    torch.testing.assert_close(term(student, teacher), term(student, coarse))


@each_term
def test_only_the_student_gets_a_gradient_and_descent_lowers_the_term(term):
    student, teacher = (x.requires_grad_() for x in random_pair())
    first = term(student, teacher)
    optimiser = torch.optim.Adam([student], lr=0.05)
    for _ in range(20):
        optimiser.zero_grad()
        term(student, teacher).backward()
        optimiser.step()
    assert teacher.grad is None
    assert term(student, teacher).item() < 0.9 * first.item()


@each_term
def test_half_precision_logits_are_compared_in_float32(term):
    student, teacher = (x.bfloat16() for x in random_pair())
    with torch.autocast('cpu', torch.bfloat16):
        got = term(student, teacher)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, term(student.float(), teacher.float()), rtol=0, atol=0)


@each_term
@pytest.mark.parametrize(('batch', 'classes'), [(2, 4), (1, 5)])
def test_a_teacher_of_other_classes_or_images_is_refused(term, batch, classes):
    expected = re.escape(f'student (2, 5), got ({batch}, {classes})')
    with pytest.raises(ConfigError, match=expected):
        term(torch.zeros(2, 5, 6, 8), torch.zeros(batch, classes, 6, 8))


@each_term
def test_extreme_and_flat_logits_give_finite_values_and_gradients(term):
    certain = torch.full((1, 5, 4, 4), -200.0)
    certain[:, 2] = 200.0  # the other classes' probabilities are zero in float32
    for student, teacher in [(torch.zeros_like(certain), certain),
                             (certain.clone(), torch.zeros_like(certain)),
                             (certain.roll(1, 1), certain)]:
        student.requires_grad_()
        value = term(student, teacher)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(student.grad).all()


def test_cwd_does_not_see_a_constant_added_to_a_class_and_kl_none_added_to_a_pixel():
    student, _ = random_pair()
    per_class = student + torch.arange(5.0).reshape(1, 5, 1, 1)
    per_pixel = student + torch.arange(48.0).reshape(1, 1, 6, 8) / 8
    assert channel_wise(student, per_class, 4.0).item() == pytest.approx(0, abs=1e-5)
    assert channel_wise(student, per_pixel, 4.0).item() > 0.1
    assert kl_divergence(student, per_pixel, 4.0).item() == pytest.approx(0, abs=1e-5)
    assert kl_divergence(student, per_class, 4.0).item() > 0.1


def test_dist_does_not_see_how_sharp_predictions_are_where_its_part_says_so():
    _, teacher = random_pair()
    probabilities = teacher.softmax(1)
    # Affine at each pixel: towards the uniform answer by another amount everywhere.
    sharpness = torch.linspace(0.2, 0.9, 48).reshape(1, 1, 6, 8)
    blurred = (sharpness * probabilities + (1 - sharpness) / 5).log()
    assert dist(blurred, teacher, 1.0, 0.0).item() == pytest.approx(0, abs=1e-4)
    assert dist(blurred, teacher, 0.0, 1.0).item() > 0.01
    # Affine within each class: towards one answer by the same amount everywhere.
    prior = torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1]).reshape(1, 5, 1, 1)
    shifted = (0.7 * probabilities + 0.3 * prior).log()
    assert dist(shifted, teacher, 0.0, 1.0).item() == pytest.approx(0, abs=1e-4)
    assert dist(shifted, teacher, 1.0, 0.0).item() > 0.01


def test_a_rare_class_counts_within_dist():
    _, teacher = random_pair()
    teacher[:, 4] -= 14.0  # a probability of about 1e-6
    student = teacher.clone()
    assert dist(student, teacher, 0.0, 1.0).item() == pytest.approx(0, abs=1e-4)
    student[:, 4] = teacher[:, 4].flip(2)  # its pixels in the wrong places
    assert dist(student, teacher, 0.0, 1.0).item() > 0.1


@pytest.mark.parametrize('term', [kl_divergence, channel_wise])
@pytest.mark.parametrize('temperature', [0.0, -1.0, math.nan])
def test_a_temperature_above_zero_is_expected(term, temperature):
    with pytest.raises(ConfigError, match='temperature above 0, got'):
        term(*random_pair(), temperature)


def test_mimic_is_the_squared_error_over_the_teachers_power_by_hand():
    mimic = Mimic(1, 2)
    with torch.no_grad():
        mimic.adapter.weight.copy_(torch.tensor([2.0, -1.0]).reshape(2, 1, 1, 1))
        mimic.adapter.bias.copy_(torch.tensor([0.0, 1.0]))
    student = torch.tensor([1.0, 3.0]).reshape(1, 1, 1, 2)  # adapted: 2 6 and 0 -2
    teacher = torch.tensor([1.0, 6.0, 0.0, 1.0]).reshape(1, 2, 1, 2)
    assert mimic(student, teacher).item() == pytest.approx((1 + 0 + 0 + 9) / (1 + 36 + 0 + 1))


def feature_terms():
    return {'mimic': Mimic(6, 10), 'generation': Generation(6, 10, 0.5)}


@pytest.mark.parametrize('name', ['mimic', 'generation'])
def test_an_answer_of_zeros_costs_one_whatever_the_teachers_scale(name):
    term = feature_terms()[name]
    with torch.no_grad():
        for parameter in term.parameters():
            parameter.zero_()
    torch.manual_seed(1)
    teacher = torch.randn(2, 10, 1, 1).expand(2, 10, 4, 6)
    teacher = teacher / teacher.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    for factor in (1.0, 100.0):
        got = term(torch.randn(2, 6, 8, 12), teacher * factor)
        assert got.item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize('name', ['mimic', 'generation'])
@pytest.mark.parametrize('grid', [(8, 12), (4, 6), (2, 3)])
def test_a_feature_term_falls_while_adapters_and_student_learn(name, grid):
    torch.manual_seed(2)
    term = feature_terms()[name]
    teacher = functional.interpolate(torch.randn(2, 10, 2, 2), size=(4, 6)).requires_grad_()
    student = torch.randn(2, 6, *grid, requires_grad=True)
    optimiser = torch.optim.Adam([student, *term.parameters()], lr=0.03)
    losses = []
    for _ in range(30):
        loss = term(student, teacher)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.6 * losses[0]
    assert teacher.grad is None and torch.count_nonzero(student.grad) > 0
    assert all(p.grad is not None and p.grad.any() for p in term.parameters())


def test_generation_counts_masked_positions_only_and_hides_what_is_there():
    torch.manual_seed(3)
    term = Generation(3, 4, 0.25).requires_grad_(False)
    seen = []
    term.generator.register_forward_hook(lambda _m, inputs, output: seen.extend([*inputs, output]))
    student, teacher = torch.randn(2, 3, 4, 6), torch.randn(2, 4, 4, 6)
    term.token.fill_(50.0)
    got = term(student, teacher)
    given, generated = (x.numpy().transpose(0, 2, 3, 1) for x in seen)
    masked = (given == 50.0).all(axis=-1)  # (N, h, w)
    assert masked.sum(axis=(1, 2)).tolist() == [6, 6] and (masked[0] != masked[1]).any()
    adapted = term.adapter(student).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(given[~masked], adapted[~masked])
    target = teacher.numpy().transpose(0, 2, 3, 1)
    expected = np.mean((generated[masked] - target[masked]) ** 2) / np.mean(target ** 2)
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_generation_draws_from_torchs_seed_alone():
    term = Generation(3, 4, 0.5)
    student, teacher = torch.randn(1, 3, 6, 6), torch.randn(1, 4, 6, 6)
    values = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        values.append(term(student, teacher).item())
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(('share', 'grid'), [(0.01, (2, 2)), (0.99, (2, 2)), (0.5, (1, 1))])
def test_generation_masks_something_and_leaves_something_on_small_maps(share, grid):
    term = Generation(3, 4, share)
    positions = []
    term.generator.register_forward_hook(
        lambda _m, inputs, _o: positions.append((inputs[0] == 50.0).all(dim=1).sum().item()))
    with torch.no_grad():
        term.token.fill_(50.0)
    assert torch.isfinite(term(torch.randn(1, 3, *grid), torch.randn(1, 4, *grid)))
    cells = grid[0] * grid[1]
    assert 1 <= positions[0] <= max(cells - 1, 1)


@pytest.mark.parametrize('share', [0.0, 1.0, -0.5, math.nan])
def test_a_share_that_masks_nothing_or_all_is_refused(share):
    with pytest.raises(ConfigError, match='generation_mask: expected a share between 0 and 1'):
        Generation(3, 4, share)


@pytest.mark.parametrize(('name', 'layer'), [('mimic', 'adapter'), ('generation', 'generator')])
def test_feature_terms_compare_in_float32_under_autocast(name, layer):
    torch.manual_seed(4)
    term = feature_terms()[name]
    answers = []
    term.get_submodule(layer).register_forward_hook(lambda _m, _i, out: answers.append(out))
    teacher = torch.randn(1, 10, 1, 2)
    with torch.autocast('cpu', torch.bfloat16):
        loss = term(torch.randn(1, 6, 1, 2), teacher)
    loss.backward()
    error = (answers[0].float() - teacher).square().mean(dim=1)  # (1, 1, 2)
    shares = [error.mean()] if name == 'mimic' else [error[..., 0], error[..., 1]]  # one is masked
    assert answers[0].dtype == torch.bfloat16 and loss.dtype == torch.float32
    wanted = [(share / teacher.square().mean()).item() for share in shares]
    assert any(loss.item() == pytest.approx(value, rel=1e-5) for value in wanted)
