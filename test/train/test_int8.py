# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The 8-bit quantizer, its calibration and the scan for layers it hurts, against numpy."""
from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')
onnx = pytest.importorskip('onnx', reason='export needs onnx')

from evit_seg.core.errors import BundleError, ConfigError  # noqa: E402, I100
from offline_train.compression import int8  # noqa: E402
from offline_train.compression.quantizers import (  # noqa: E402
    Affine,
    asymmetric,
    sqnr_db,
    tensor_rows,
)
from offline_train.compression.sensitivity import (  # noqa: E402
    class_agreement,
    quantize_mixed,
    scan,
)
from offline_train.config import InputConfig  # noqa: E402
from offline_train.deployed import Deployed, export_onnx  # noqa: E402
from torch import nn  # noqa: E402

SMALL = InputConfig(height=32, width=48, mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0))


class Chain(nn.Module):
    """Three convolutions and a BatchNorm before them that follows none."""

    stride = 1

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, image_NCHW):
        return self.last(self.middle(self.first(self.norm(image_NCHW)).relu()).relu())


def exported(network, opset=13):
    return export_onnx(Deployed(network, SMALL).eval(), SMALL, opset)


def chain(outlier=0.0):
    """Return the chain; `outlier` is a constant that drowns the middle's other activations."""
    torch.manual_seed(3)
    network = Chain().eval()
    with torch.no_grad():
        network.norm.running_mean.copy_(torch.tensor([0.1, -0.2, 0.3]))
        network.norm.running_var.copy_(torch.tensor([0.5, 1.5, 2.0]))
        network.norm.weight.copy_(torch.tensor([1.5, 0.5, 1.0]))
        if outlier:  # the last layer does not look at it, but it sets the scale of the tensor
            network.middle.weight[0].zero_()
            network.middle.bias[0] = outlier
            network.last.weight[:, 0] = 0
    return network


def frames(count=3, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (SMALL.height, SMALL.width, 3)).astype(np.uint8)
            for _ in range(count)]


def normalised(images):
    return (np.stack(images).astype(np.float32) - np.float32(SMALL.mean)) / np.float32(SMALL.std)


def logits(content, images):
    return [answer for answer, in int8.run_all(content, images)]


def test_the_quantizer_of_a_range_by_hand():
    affine = asymmetric(-1.0, 4.1)  # 5.1 / 255 = 0.02, and 0 is level 50
    assert float(affine.scale) == pytest.approx(0.02) and int(affine.zero_point) == 50
    values = np.array([-1.0, -0.011, 0.0, 0.009, 0.011, 4.1, 9.0, -9.0])
    assert affine.quantize(values).tolist() == [0, 49, 50, 50, 51, 255, 255, 0]
    np.testing.assert_allclose(affine.dequantize(np.array([0, 50, 51, 255])),
                               [-1.0, 0.0, 0.02, 4.1], atol=1e-6)
    assert affine.range() == pytest.approx((-1.0, 4.1))


def test_zero_is_a_level_of_every_range():
    for low, high in ((0.5, 2.0), (-3.0, -1.0), (-0.3, 0.7), (0.0, 0.0)):
        affine = asymmetric(low, high)
        assert affine.dequantize(affine.quantize(np.zeros(1)))[0] == 0


def test_a_scale_per_channel_lies_along_its_axis():
    affine = Affine(np.array([1.0, 0.5]), np.array([0, 0], np.int8), -128, 127, axis=1)
    levels = affine.quantize(np.array([[3.0, 3.0], [-200.0, 70.0]]))
    assert levels.tolist() == [[3, 6], [-128, 127]]


def test_quantize_linear_rounds_as_the_reference_does():
    values = np.array([[-0.5, 0.5, 1.5, 2.5, 254.6, 300.0]], np.float32)
    node = onnx.helper.make_node('QuantizeLinear', ['x', 'scale', 'zero'], ['y'])
    from onnx.reference import ReferenceEvaluator
    got = ReferenceEvaluator(node).run(None, {
        'x': values, 'scale': np.array(1, np.float32), 'zero': np.array(3, np.uint8)})[0]
    wanted = Affine(np.array(1.0), np.array(3)).quantize(values)
    np.testing.assert_array_equal(got, wanted)


def test_signal_to_noise_by_hand():
    assert sqnr_db(np.array([3.0, 4.0]), np.array([3.0, 3.5])) == pytest.approx(20.0)
    assert sqnr_db(np.ones(2), np.ones(2)) == float('inf')


def test_agreement_counts_a_rare_class_as_much_as_a_common_one():
    wanted, got = np.zeros((1, 3, 1, 10)), np.zeros((1, 3, 1, 10))
    wanted[0, 0, 0, :8] = wanted[0, 2, 0, 8:] = 1  # eight cells of class 0, two of class 2
    got[0, 0, 0, :9] = got[0, 2, 0, 9:] = 1  # one of the two is lost
    assert class_agreement([wanted], [got]) == pytest.approx((1 + 0.5) / 2)


@pytest.mark.parametrize('opset', [13, 17])
def test_the_prepared_graph_computes_the_same(one_thread, opset):
    network, images = chain(), frames()
    content = exported(network, opset)
    prepared = int8.prepare(content)
    model = onnx.load_from_string(prepared)
    assert 'BatchNormalization' not in {n.op_type for n in model.graph.node}
    assert [(o.domain, o.version) for o in model.opset_import] == [('', opset)]
    assert model.ir_version == {13: 7, 17: 8}[opset]
    with torch.no_grad():
        wanted = Deployed(network, SMALL).eval()(torch.from_numpy(np.stack(images))).numpy()
    np.testing.assert_allclose(np.concatenate(logits(prepared, images)), wanted, atol=1e-4)


def test_the_camera_bytes_are_normalised_in_float_and_quantized_once(one_thread):
    prepared = int8.prepare(exported(chain()))
    images = frames()
    ranges = int8.calibrate(prepared, images, 'minmax')
    graph = onnx.load_from_string(int8.quantize(prepared, ranges)).graph
    order = [node.op_type for node in graph.node if node.op_type != 'DequantizeLinear']
    assert order[:6] == ['Cast', 'Reshape', 'Sub', 'Mul', 'Reshape', 'Transpose']
    assert order[6:8] == ['QuantizeLinear', 'Conv']


def test_minmax_is_the_range_that_numpy_finds(one_thread):
    images = frames()
    prepared = int8.prepare(exported(chain()))
    ranges = int8.calibrate(prepared, images, 'minmax')
    name = next(n.output[0] for n in onnx.load_from_string(prepared).graph.node
                if n.op_type == 'Transpose')
    low, high = ranges[name].range_value
    values = normalised(images)
    np.testing.assert_allclose([low.item(), high.item()], [values.min(), values.max()], rtol=1e-6)


def test_percentile_cuts_both_ends_about_where_numpy_does(one_thread):
    images = frames()
    images[0][0, 0] = 0  # an end there is in any case
    prepared = int8.prepare(exported(chain()))
    name = next(n.output[0] for n in onnx.load_from_string(prepared).graph.node
                if n.op_type == 'Transpose')
    low, high = int8.calibrate(prepared, images, 'percentile', 98.0)[name].range_value
    values = normalised(images)
    wanted = np.percentile(values, [1, 99])
    np.testing.assert_allclose([float(low), float(high)], wanted, atol=0.02)
    assert wanted[0] > values.min() + 0.04 and wanted[1] < values.max() - 0.02


def test_entropy_leaves_out_a_far_outlier(one_thread, monkeypatch):
    monkeypatch.setattr(int8, 'ENTROPY_BINS', 512)  # a second instead of ten
    network = chain()
    images = [np.full((SMALL.height, SMALL.width, 3), 110, np.uint8) for _ in range(2)]
    rng = np.random.default_rng(1)
    for image in images:
        image += rng.integers(0, 20, image.shape).astype(np.uint8)
    images[0][5, 5] = 255  # one bright pixel
    prepared = int8.prepare(exported(network))
    name = next(n.output[0] for n in onnx.load_from_string(prepared).graph.node
                if n.op_type == 'Transpose')
    high = int8.calibrate(prepared, images, 'entropy')[name].range_value[1]
    values = normalised(images)
    inside = np.percentile(values, 99)
    assert inside * 0.9 < float(high) < 0.7 * values.max()


def test_calibrations_that_are_none_are_named():
    with pytest.raises(ConfigError, match="expected percentile, entropy, minmax, got 'mse'"):
        int8.calibrate(b'', [], 'mse')


def test_eight_bits_are_near_and_seven_a_little_less(one_thread):
    images = frames()
    prepared = int8.prepare(exported(chain()))
    ranges = int8.calibrate(prepared, images, 'minmax')
    wanted = np.stack(logits(prepared, images))
    eight, seven = (sqnr_db(wanted, np.stack(logits(
        int8.quantize(prepared, ranges, reduce_range=reduce), images))) for reduce in
        (False, True))
    assert eight > 35 and 25 < seven < eight - 1


def test_weights_are_levels_of_their_channel(one_thread):
    network, images = chain(), frames(1)
    prepared = int8.prepare(exported(network))
    content = int8.quantize(prepared, int8.calibrate(prepared, images, 'minmax'))
    tensors = {t.name: onnx.numpy_helper.to_array(t)
               for t in onnx.load_from_string(content).graph.initializer}
    weight = network.middle.weight.detach().numpy()
    scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
    levels = np.rint(weight / scale[:, None, None, None])
    name = next(n for n, t in tensors.items() if t.shape == weight.shape)
    assert tensors[name].dtype == np.int8
    assert np.abs(tensors[name] - levels).max() <= 1
    np.testing.assert_allclose(tensors[name.replace('_quantized', '_scale')], scale, rtol=0.02)


def test_the_report_holds_the_quantizer_of_the_graph(one_thread):
    images = frames(2)
    prepared = int8.prepare(exported(chain()))
    ranges = int8.calibrate(prepared, images, 'minmax')
    rows = tensor_rows(int8.quantize(prepared, ranges), prepared, images)
    image_row = rows[0]
    values = normalised(images)
    affine = asymmetric(float(values.min()), float(values.max()))
    assert image_row.scale == pytest.approx(float(affine.scale), rel=1e-4)
    assert image_row.zero_point == int(affine.zero_point)
    noise = sqnr_db(values, affine.dequantize(affine.quantize(values)))
    assert image_row.sqnr_db == pytest.approx(noise, abs=0.1)
    assert {row.kind for row in rows} == {'activation', 'weight', 'bias'}
    assert 'logits' in [row.tensor for row in rows]


def test_the_scan_finds_the_layer_that_was_made_sensitive_and_leaves_it_in_float(one_thread):
    images = frames()
    prepared = int8.prepare(exported(chain(outlier=400.0)))
    ranges = int8.calibrate(prepared, images, 'minmax')
    effects = scan(prepared, ranges, images)
    assert {effects[0].node, effects[1].node} == {'/network/middle/Conv', '/network/last/Conv'}
    assert effects[1].sqnr_db < effects[2].sqnr_db - 10  # what makes the tensor, what takes it
    mixed = quantize_mixed(prepared, ranges, images, min_agreement=0.9, max_float=3)
    assert set(mixed.kept_float) == {'/network/middle/Conv', '/network/last/Conv'}
    assert mixed.agreement >= 0.9 and list(mixed.effects) == effects
    graph = onnx.load_from_string(mixed.content).graph
    floats = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    assert {n.name for n in graph.node if n.op_type == 'Conv' and n.input[1] in floats} == \
        set(mixed.kept_float)


def test_what_does_not_reach_the_bound_fails_and_says_by_how_much(one_thread):
    images = frames()
    prepared = int8.prepare(exported(chain(outlier=400.0)))
    ranges = int8.calibrate(prepared, images, 'minmax')
    with pytest.raises(BundleError, match=r'up to 0 nodes in float, at least 0\.9 is asked for '
                       r'\(--min-agreement\), 0\.\d{4} more.*--max-float'):
        quantize_mixed(prepared, ranges, images, min_agreement=0.9, max_float=0)


def test_the_same_frames_give_the_same_graph(one_thread):
    images = frames()
    made = []
    for _ in range(2):
        prepared = int8.prepare(exported(chain()))
        made.append(int8.quantize(prepared, int8.calibrate(prepared, images)))
    assert made[0] == made[1]
