# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Half precision and TorchScript beside the plain ONNX: what they compute, how they are opened."""
from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')
onnx = pytest.importorskip('onnx', reason='export needs onnx')

from evit_seg.core.bundle import open_bundle, select_variant, self_test  # noqa: E402, I100
from evit_seg.core.errors import BundleError, ConfigError  # noqa: E402
from evit_seg.core.segmenter import Segmenter  # noqa: E402
from offline_train import export as export_stage  # noqa: E402
from offline_train import half as half_module  # noqa: E402
from offline_train import train as train_stage  # noqa: E402
from offline_train.config import InputConfig  # noqa: E402
from offline_train.deployed import Deployed, export_onnx, onnx_runner  # noqa: E402
from offline_train.half import fit_half, to_half  # noqa: E402
from offline_train.run_dir import RunDir  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from tiny_runs import parse, TINY, write_scenes  # noqa: E402
from torch import nn  # noqa: E402

SMALL = InputConfig(height=32, width=32)
FLOAT, HALF = 1, 10  # onnx.TensorProto's numbers


class Applied(nn.Module):
    """A network that is one function of the normalised image (N, 3, H, W)."""

    stride = 1

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, image_NCHW):
        return self.function(image_NCHW)


@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    """Return a bundle of all variants, of a run that has learnt a little."""
    root = tmp_path_factory.mktemp('variants')
    scenes = write_scenes(root)
    args = parse(train_stage, '--out', root / 'run', *TINY, f'data.train=[{scenes}]',
                 f'data.validation=[{scenes}]', 'optim.steps=30', 'optim.learning_rate=0.02',
                 'run.validate_every=30')
    assert train_stage.main(args) == 0
    assert export_stage.main(parse(export_stage, '--run', root / 'run', '--precision', 'fp32',
                                   'fp16', '--torchscript')) == 0
    return open_bundle(root / 'run' / 'bundle' / 'run')


def half_of(function, config=SMALL, opset=17):
    return to_half(export_onnx(Deployed(Applied(function), config).eval(), config, opset))


def computed(half, image):
    """Compute as onnx's own evaluator does: every half is one, as on a GPU."""
    with np.errstate(all='ignore'):
        return ReferenceEvaluator(onnx.load_from_string(half)).run(None, {'image': image})[0]


def noise(config=SMALL):
    return np.random.default_rng(4).integers(0, 256, (1, config.height, config.width, 3), np.uint8)


def test_the_plain_variant_is_opened_unless_half_is_asked_for(bundle):
    assert [v.precision for v in bundle.manifest.variants] == ['fp32', 'fp16', 'fp32']
    assert select_variant(bundle).file == 'model.onnx'
    assert select_variant(bundle, precision='fp16').file == 'model_fp16.onnx'
    logits = {}
    for precision in ('fp32', 'fp16'):
        segmenter = Segmenter.open(str(bundle.folder), precision=precision, threads=1)
        assert segmenter.engine.precision == precision
        assert self_test(segmenter) >= {'fp32': 0.999, 'fp16': 0.995}[precision]
        logits[precision] = segmenter.engine.infer(noise(InputConfig(64, 96))[0])
    difference = np.abs(logits['fp16'] - logits['fp32']).max()
    assert 0 < difference < 0.02 * np.abs(logits['fp32']).max()


def test_variants_stand_in_the_order_asked_for(bundle, tmp_path):
    run = RunDir.open(bundle.folder.parents[1])
    both = export_stage.export(run, tmp_path / 'both', precisions=('fp16', 'fp32'))
    assert [v.precision for v in both.manifest.variants] == ['fp16', 'fp32']
    alone = export_stage.export(run, tmp_path / 'alone', precisions=('fp16',))
    assert [p.name for p in alone.folder.glob('*.onnx')] == ['model_fp16.onnx']
    assert self_test(Segmenter.open(str(alone.folder), threads=1)) == 1.0


def test_smaller_inputs_stand_behind_the_full_one_and_pass_their_self_test(bundle, tmp_path):
    run = RunDir.open(bundle.folder.parents[1])
    sizes = export_stage.export(run, tmp_path / 'sizes', precisions=('fp32', 'fp16'),
                                also_heights=(32,))
    assert [(v.file, v.precision, v.input_hw) for v in sizes.manifest.variants] == [
        ('model.onnx', 'fp32', (64, 96)), ('model_fp16.onnx', 'fp16', (64, 96)),
        ('model_32.onnx', 'fp32', (32, 64)), ('model_32_fp16.onnx', 'fp16', (32, 64))]
    assert sizes.manifest.provenance['parity_with_torch_32']['agreement'] >= 0.999
    assert sizes.manifest.provenance['parity_with_torch_fp16_32']['agreement'] >= 0.995
    for precision in ('fp32', 'fp16'):
        small = Segmenter.open(str(sizes.folder), precision=precision, height=32, threads=1)
        share = sizes.manifest.golden.min_agreement[f'{precision}@32']
        assert 0 < share < self_test(small) < 1, 'another mask than the golden one, as exported'
        assert small(np.zeros((48, 80, 3), np.uint8)).mask_HW.shape == (48, 80)
        compute = small.engine.infer
        small.engine.infer = lambda image, compute=compute: -compute(image)
        with pytest.raises(BundleError, match='self-test'):
            self_test(small)


@pytest.mark.parametrize('height', [0, 33, 64, 96])
def test_a_height_that_is_no_smaller_input_is_refused(bundle, tmp_path, height):
    run = RunDir.open(bundle.folder.parents[1])
    with pytest.raises(ConfigError, match='--also-height: expected multiples of 32 below 64'):
        export_stage.export(run, tmp_path / 'no', also_heights=(height,))


def test_proportions_are_kept_as_nearly_as_the_network_allows():
    full = InputConfig(384, 640)
    assert [(s.height, s.width) for s in (export_stage.smaller_input(full, rows)
                                          for rows in (256, 192, 320, 32))] == [
        (256, 416), (192, 320), (320, 544), (32, 64)]


def test_half_takes_bytes_and_gives_floats_in_half_the_space(bundle):
    half = onnx.load(bundle.folder / 'model_fp16.onnx')
    assert half.graph.input[0].type.tensor_type.elem_type == 2  # uint8
    assert half.graph.output[0].type.tensor_type.elem_type == FLOAT
    assert not {'Identity', 'Constant'} & {node.op_type for node in half.graph.node}
    weights = {t.name: t for t in half.graph.initializer}
    convolved = [weights[n.input[1]] for n in half.graph.node if n.op_type == 'Conv']
    assert convolved and all(t.data_type == HALF for t in convolved)
    sizes = [(bundle.folder / name).stat().st_size for name in ('model.onnx', 'model_fp16.onnx')]
    plain_parameters = bundle.manifest.provenance['parameters']
    assert sizes[0] - sizes[1] > 1.5 * plain_parameters


def test_parity_of_each_variant_is_written_down(bundle):
    provenance = bundle.manifest.provenance
    assert provenance['parity_with_torch']['agreement'] >= 0.999
    assert provenance['parity_with_torch_torchscript']['max_difference'] < 1e-5
    assert provenance['parity_with_torch_fp16']['agreement'] >= 0.995
    assert 0 < provenance['parity_with_torch_fp16']['max_difference'] < 0.1
    assert 1 < provenance['parity_with_torch_fp16']['largest_value'] < 65504
    assert provenance['parity_with_torch_fp16']['single_nodes'] == 0


@pytest.mark.filterwarnings('ignore:.*torch.jit.load.*:FutureWarning')
def test_torchscript_computes_the_logits_of_the_onnx_variant(bundle):
    variant = select_variant(bundle, 'torchscript')
    assert variant.file == 'model.ts' and variant.opset is None
    image = noise(InputConfig(64, 96))
    with torch.no_grad():
        got = torch.jit.load(bundle.folder / variant.file)(torch.from_numpy(image)).numpy()
    wanted = Segmenter.open(str(bundle.folder), threads=1).engine.infer(image[0])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[0], wanted, atol=1e-4)


def test_a_mean_that_is_no_half_is_subtracted_as_it_is():
    half = half_of(lambda x: x, InputConfig(32, 32, mean=(123.675,) * 3))
    logits = computed(half, np.full((1, 32, 32, 3), 124, np.uint8))
    # 123.675 is 123.6875 in half precision: 0.3125 would come out before the division
    np.testing.assert_allclose(logits[0, :, 0, 0], 0.325 / np.array(SMALL.std), rtol=1e-3)


@pytest.mark.parametrize('opset', [13, 17])
def test_a_layer_norm_of_large_numbers_does_not_overflow(opset):
    def normalise(x):
        return nn.functional.layer_norm(2000 * x, (32,))

    image = noise()
    wanted = normalise(Deployed(Applied(lambda x: x), SMALL)(torch.from_numpy(image))).numpy()
    got = computed(half_of(normalise, opset=opset), image)
    np.testing.assert_allclose(got, wanted, atol=0.01)


@pytest.mark.parametrize('opset', [13, 17])
def test_vectors_are_normalised_whether_they_are_long_or_zero(opset):
    def normalise(x):
        return nn.functional.normalize(16000 * x.relu() * (x > 1), dim=1)

    image = noise()
    image[0, 0, 0] = 255  # three halves, but their length is none
    wanted = normalise(Deployed(Applied(lambda x: x), SMALL)(torch.from_numpy(image))).numpy()
    assert (np.abs(wanted).max(axis=1) == 0).any()
    got = computed(half_of(normalise, opset=opset), image)
    np.testing.assert_allclose(got, wanted, atol=2e-3)


def test_a_sum_over_many_cells_does_not_overflow():
    def share(x):
        bright = 100 * x.relu()
        return bright / bright.sum((2, 3), keepdim=True)

    image = np.full((1, 32, 32, 3), 255, np.uint8)  # 1024 cells of 220 and more
    np.testing.assert_allclose(computed(half_of(share), image), 1 / 1024, rtol=2e-3)


BRIGHT = np.full((32, 32, 3), 255, np.uint8)
BRIGHTEST = ((255 - np.array(SMALL.mean)) / SMALL.std).max()


def test_the_largest_value_is_measured():
    content = export_onnx(Deployed(Applied(lambda x: x * 100 * 1e-4), SMALL).eval(), SMALL, 17)
    half = fit_half(content, [BRIGHT * 0, BRIGHT])
    assert half.largest == pytest.approx(100 * BRIGHTEST, rel=1e-3) and half.single == ()
    assert half.content == to_half(content)


def test_nodes_around_a_value_beyond_the_largest_half_stay_single():
    """On a CPU it would not show: ONNX Runtime computes halves in single precision there."""
    def function(x):
        return (x * -30000 + 1) * 1e-4 * 0.5

    content = export_onnx(Deployed(Applied(function), SMALL).eval(), SMALL, 17)
    assert np.isfinite(onnx_runner(to_half(content))(BRIGHT[None])).all()
    assert not np.isfinite(computed(to_half(content), BRIGHT[None])).all()
    half = fit_half(content, [BRIGHT * 0, BRIGHT])
    operators = {node.name: node.op_type for node in onnx.load_from_string(content).graph.node}
    assert sorted(operators[name] for name in half.single) == ['Add', 'Mul', 'Mul']
    assert half.largest == pytest.approx(3 * BRIGHTEST, rel=1e-3)
    wanted = onnx_runner(content)(BRIGHT[None])
    np.testing.assert_allclose(computed(half.content, BRIGHT[None]), wanted, rtol=2e-3)


def test_an_overflow_that_cannot_be_kept_out_is_an_error(monkeypatch):
    content = export_onnx(Deployed(Applied(lambda x: x * 2), SMALL).eval(), SMALL, 17)
    monkeypatch.setattr(half_module, 'measure_peaks', lambda *_: {'logits': 7.92e4})
    with pytest.raises(BundleError, match=r'logits reaches 7\.92e\+04, half precision ends'):
        fit_half(content, [BRIGHT])


def test_what_weights_alone_decide_is_computed_in_single_precision():
    table = torch.linspace(0, 33, 32)

    def scaled(x):
        return x + (table * (x.shape[3] / 32)).exp().log() / 100  # exp(33) is no half

    half = half_of(scaled)
    nodes = onnx.load_from_string(half).graph.node
    assert 'Exp' in {node.op_type for node in nodes}  # the exporter left it to ONNX Runtime
    image = noise()
    wanted = scaled(Deployed(Applied(lambda x: x), SMALL)(torch.from_numpy(image))).numpy()
    got = computed(half, image)
    np.testing.assert_allclose(got, wanted, atol=2e-3)


def test_a_variant_whose_mask_differs_is_refused(bundle, tmp_path, monkeypatch):
    run = RunDir.open(bundle.folder.parents[1])
    monkeypatch.setattr(export_stage, '_mask', lambda draft, variant, image: np.full(
        image.shape[:2], variant.precision == 'fp16', np.uint8))
    with pytest.raises(BundleError, match=r'0\.0000 of the golden mask agrees in fp16'):
        export_stage.export(run, tmp_path / 'other', precisions=('fp16', 'fp32'))
    assert not (tmp_path / 'other').exists()
