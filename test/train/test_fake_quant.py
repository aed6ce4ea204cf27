# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What rounds in training is what int8 does, and a network that trained with it stands it."""
from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='fake quantization needs torch')

from offline_train.compression.fake_quant import (  # noqa: E402, I100
    FakeQuantizer,
    QuantConfig,
    round_activation,
    round_weight,
    scale_and_zero_point,
)
from offline_train.models import zoo  # noqa: E402
from offline_train.models.bilateral import BilateralNet, ConvBn  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_thread')
AT_ONCE = QuantConfig(enabled=True, observe=0)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float32)


def tiny(seed=1):
    torch.manual_seed(seed)
    return BilateralNet(5, (4, 4, 8, 8, 8))


def image(seed=2, count=2, side=64):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_activations_go_to_the_nearest_of_256_values_by_hand():
    scale, zero_point = scale_and_zero_point(tensor(-1), tensor(1.55))
    assert scale.item() == pytest.approx(0.01)
    assert zero_point.item() == 100
    x = tensor(0.0, 0.014, 0.016, -0.016, 2.0, -3.0)  # a floor would give 0.01 for 0.016
    wanted = [0.0, 0.01, 0.02, -0.02, 1.55, -1.0]
    assert round_activation(x, tensor(-1)[0], tensor(1.55)[0]).tolist() == pytest.approx(wanted)


@pytest.mark.parametrize('low, high', [(-0.7, 2.9), (0.0, 3.0), (0.4, 3.0), (-5.0, -1.0)])
def test_activations_equal_a_quantizer_of_numpy(low, high):
    x = np.random.default_rng(3).normal(0, 3, 2000).astype(np.float32)
    bottom, top = min(low, 0.0), max(high, 0.0)
    scale = (top - bottom) / 255
    zero = np.rint(-bottom / scale)
    wanted = (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale
    got = round_activation(torch.from_numpy(x), torch.tensor(low), torch.tensor(high)).numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert len(np.unique(got)) > 100


@pytest.mark.parametrize('shape', [(6, 3, 3, 3), (6, 1, 5, 5), (6, 40)])
def test_weights_equal_a_quantizer_of_numpy_per_output(shape):
    sizes = 10.0 ** np.arange(-3, 3).reshape(-1, *[1] * (len(shape) - 1))
    weight = (np.random.default_rng(4).normal(size=shape) * sizes).astype(np.float32)
    weight[2] = 0
    got = round_weight(torch.from_numpy(weight)).numpy()
    for row, rounded in zip(weight, got, strict=True):
        scale = np.abs(row).max() / 127 or 1.0
        np.testing.assert_allclose(rounded, np.rint(row / scale) * scale, rtol=1e-5, atol=1e-12)
        assert np.abs(rounded).max() == pytest.approx(np.abs(row).max())


def test_gradients_pass_inside_the_range_and_stop_outside():
    x = tensor(-2.0, -0.9, 0.0, 0.37, 1.5, 1.7).requires_grad_()
    round_activation(x, torch.tensor(-1.0), torch.tensor(1.55)).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    round_weight(weight).sum().backward()
    assert weight.grad.eq(1).all()


def test_a_batch_norm_folded_afterwards_rounds_the_same():
    """Rounding, then folding, is folding, then rounding: also where gamma is negative."""
    torch.manual_seed(5)
    block = ConvBn(3, 8, relu=False).eval()
    conv, norm = block[0], block[1]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.2, 5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    assert (norm.weight < 0).any() and (norm.weight > 0).any()
    factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    folded = round_weight(conv.weight * factor[:, None, None, None])
    x = image(side=8)
    wanted = nn.functional.conv2d(x, folded, norm.bias - norm.running_mean * factor, 1, 1)
    quantizer = FakeQuantizer(block, QuantConfig(enabled=True), 100)  # weights only so far
    with torch.no_grad(), quantizer.active():
        got = block(x)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert (block(x) - wanted).abs().max() > 1e-3


def test_one_layer_by_hand():
    layer = nn.Linear(2, 2, bias=True)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.27, 0.014], [-25.4, 0.31]]))
        layer.bias.copy_(tensor(0.123456, 0))
    quantizer = FakeQuantizer(layer, AT_ONCE, 10)
    with torch.no_grad(), quantizer.active():
        got = layer(torch.tensor([[2.55, 0.016]]))
    # Range 0..2.55: steps of 0.01. Weight steps: 0.01 and 0.2.
    wanted = [2.55 * 1.27 + 0.02 * 0.01 + 0.123456, 2.55 * -25.4 + 0.02 * 0.4]
    assert got[0].tolist() == pytest.approx(wanted, rel=1e-5)


def test_the_network_keeps_its_names_and_its_outputs():
    network = tiny().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    wanted = network(image())
    quantizer = FakeQuantizer(network, AT_ONCE, 10)
    with quantizer.active():
        rounded = network(image())
        assert list(network.state_dict()) == list(before)
    assert torch.equal(network(image()), wanted)
    assert not torch.equal(rounded, wanted)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert list(quantizer.state_dict()) == ['low', 'high', 'seen']
    assert list(quantizer.parameters()) == []


def test_an_error_inside_leaves_the_network_plain():
    network = tiny().eval()
    wanted = network(image())
    quantizer = FakeQuantizer(network, AT_ONCE, 10)
    with pytest.raises(RuntimeError), quantizer.active():
        network(torch.zeros(1, 4, 64, 64))
    assert torch.equal(network(image()), wanted)


def test_ranges_are_the_mean_of_the_first_batches_then_an_average():
    layer = nn.Linear(2, 1)
    quantizer = FakeQuantizer(layer, QuantConfig(enabled=True, range_decay=0.6), 100)
    highs = []
    for high in (1.0, 3.0, 8.0, 0.0):
        with quantizer.active():
            layer(torch.tensor([[-high / 2, high]]))
        highs.append(quantizer.high.item())
        assert quantizer.low.item() == pytest.approx(-quantizer.high.item() / 2)
    assert highs == pytest.approx([1.0, 2.0, 2.0 + 0.4 * 6, (2.0 + 0.4 * 6) * 0.6])


def test_it_watches_first_then_rounds_then_leaves_the_ranges_alone():
    layer = nn.Linear(3, 2)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    quantizer = FakeQuantizer(layer, QuantConfig(enabled=True, observe=2, freeze=0.5), 8)
    only_weights = nn.functional.linear(x, round_weight(layer.weight), layer.bias)
    for step in range(8):
        quantizer.at_step(step)
        before = quantizer.high.clone()
        with quantizer.active():
            out = layer(x * (step + 1))
            assert torch.equal(layer(x) if step < 2 else only_weights, only_weights)
        assert bool((quantizer.high > before).item()) == (step < 4), step
        plain = nn.functional.linear(x * (step + 1), round_weight(layer.weight), layer.bias)
        assert torch.equal(out, plain) == (step < 2), step


def test_outside_of_training_ranges_stand_still():
    layer = nn.Linear(3, 2)
    quantizer = FakeQuantizer(layer, AT_ONCE, 10).eval()
    with quantizer.active():
        layer(torch.ones(1, 3))
    assert quantizer.high.item() == 0 and quantizer.seen.item() == 0


@pytest.mark.parametrize('name', ['upernet_mobilevit_s', 'upernet_swinv2_t', 'segformer_b0'])
def test_every_layer_of_a_transformer_is_rounded(name):
    """Swin v2 hands the weight of its qkv layer to a function: no hook of the layer would see."""
    pytest.importorskip('timm', reason='the backbones come from timm')
    pytest.importorskip('segmentation_models_pytorch', reason='the decoders come from smp')
    torch.manual_seed(1)
    network = zoo.build_model(name, 5, image_size=64).train()
    layers = sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in network.modules())
    quantizer = FakeQuantizer(network, AT_ONCE, 10)
    with quantizer.active():
        network(image())
    assert len(quantizer.names) == layers
    if name == 'upernet_mobilevit_s':
        assert layers == 84
    assert quantizer.seen.tolist() == [1] * layers
    assert (quantizer.high > quantizer.low).all()


def test_bfloat16_autocast_and_channels_last():
    network = tiny().train().to(memory_format=torch.channels_last)
    quantizer = FakeQuantizer(network, AT_ONCE, 10)
    with torch.autocast('cpu', torch.bfloat16), quantizer.active():
        logits, auxiliary = network(image())
    (logits.float().square().mean() + auxiliary.float().square().mean()).backward()
    assert logits.dtype == torch.bfloat16
    assert (quantizer.seen == 1).all()
    gradients = [p.grad for p in network.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert sum(bool(g.abs().sum() > 0) for g in gradients) > 0.9 * len(gradients)


def test_ranges_are_restored_from_a_state():
    network = tiny().train()
    quantizer = FakeQuantizer(network, AT_ONCE, 10)
    with torch.no_grad(), quantizer.active():
        network(image())
    other = FakeQuantizer(network, AT_ONCE, 10)
    other.load_state_dict(quantizer.state_dict())
    network.eval()
    outputs = []
    for each in (quantizer.eval(), other.eval()):
        with torch.no_grad(), each.active():
            outputs.append(network(image(9)))
    assert torch.equal(*outputs)


def hostile(factor):
    """
    Return a network that is the worse in int8 the farther `factor` is from 1.

    The first of its maps is so many times larger, and what reads it so many times smaller: the
    same function in float. Above 1 the map is an outlier in the activations, below 1 its weights
    are outliers among those of each output.
    """
    torch.manual_seed(3)
    network = nn.Sequential(ConvBn(3, 8), ConvBn(8, 8), nn.Conv2d(8, 5, 1)).train()
    with torch.no_grad():
        for _ in range(30):  # running statistics
            network(torch.randn(4, 3, 16, 16))
        for norm, conv in ((network[0][1], network[1][0]), (network[1][1], network[2])):
            norm.weight[0] *= factor
            norm.bias[0] *= factor
            conv.weight[:, 0] /= factor
    return network.eval()


class Calibration:
    """Frames one by one, as ONNX Runtime's calibrators ask for them."""

    def __init__(self, frames):
        self._frames = iter(frames)

    def get_next(self):
        frame = next(self._frames, None)
        return None if frame is None else {'x': frame.numpy()}


def int8_session(network, frames, folder):
    """Return an ONNX Runtime session of the network, quantized with its range on the frames."""
    onnxruntime = pytest.importorskip('onnxruntime', reason='int8 is run there')
    pytest.importorskip('onnx', reason='the exporter needs it')
    from onnxruntime.quantization import quantize_static, QuantType
    plain, target = str(folder / 'plain.onnx'), str(folder / 'int8.onnx')
    torch.onnx.export(network, (frames[0],), plain, input_names=['x'], opset_version=17,
                      dynamo=False)
    quantize_static(plain, target, Calibration(frames), per_channel=True,
                    weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
                    op_types_to_quantize=['Conv', 'Relu'])
    return onnxruntime.InferenceSession(target, providers=['CPUExecutionProvider'])


def loss_of_int8(network, teacher, frames, test, folder):
    """Return the mean squared difference of the int8 network's logits from the teacher's."""
    session = int8_session(network, frames, folder)
    return float(np.mean([np.square(session.run(None, {'x': x.numpy()})[0]
                                    - teacher(x).detach().numpy()) for x in test]))


@pytest.mark.parametrize('factor', [100, 1 / 30])
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_a_hostile_network_loses_less_in_onnx_runtime_after_50_steps(factor, tmp_path):
    """Quantized as it is (PTQ) against after 50 steps of distillation from itself in float."""
    teacher = hostile(factor)
    student = copy.deepcopy(teacher)
    generator = torch.Generator().manual_seed(7)
    test, frames = ([torch.randn(1, 3, 16, 16, generator=generator) for _ in range(8)]
                    for _ in range(2))
    before = loss_of_int8(student, teacher, frames, test, tmp_path)
    quantizer = FakeQuantizer(student, QuantConfig(enabled=True, observe=2, freeze=0.9), 50)
    optimiser = torch.optim.Adam(student.parameters())
    for step in range(50):
        optimiser.param_groups[0]['lr'] = 0.001 * (1 - step / 50)
        quantizer.at_step(step)
        x = torch.randn(8, 3, 16, 16, generator=generator)
        with quantizer.active():
            loss = (student(x) - teacher(x).detach()).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = loss_of_int8(student, teacher, frames, test, tmp_path)
    assert after < 0.8 * before, (before, after)
