# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""MobileViT's blocks: timm's numbers bit for bit, timm's names, and a graph for TensorRT 8.2."""
from __future__ import annotations

import copy
import io

from evit_seg.core.onnx_fold import fold_constants, shapes_of
from evit_seg.core.tensorrt8 import check, float_input
import pytest

pytest.importorskip('torch', reason='the networks need torch')
pytest.importorskip('timm', reason='the blocks are those of timm')

from offline_train.config import InputConfig  # noqa: E402, I100
from offline_train.deployed import Deployed, export_onnx, plain_attention  # noqa: E402
from offline_train.models.unfolding import fold, patched, PatchedBlock, unfold  # noqa: E402
from offline_train.models.zoo import build_model  # noqa: E402
from offline_train.surgery.cuts import apply_cuts, Cut  # noqa: E402
import onnx  # noqa: E402
from timm.models.mobilevit import MobileVitBlock  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_thread')
SIZES = ((1, 8, 8), (2, 6, 10), (3, 7, 8), (1, 5, 9), (2, 1, 1))


def timm_block(**options):
    torch.manual_seed(7)
    with plain_attention():
        return MobileVitBlock(in_chs=8, transformer_dim=12, patch_size=2, num_heads=3, **options)


class Holder(nn.Module):
    """A parent, as a backbone is one."""

    def __init__(self, block):
        super().__init__()
        self.block = block


@pytest.mark.parametrize('shape', SIZES)
@pytest.mark.parametrize('patch', [(2, 2), (1, 3), (4, 2)])
def test_a_patch_is_a_place_in_every_sequence(shape, patch):
    n, rows, columns = shape
    x = torch.arange(n * 3 * rows * patch[0] * columns * patch[1], dtype=torch.float32)
    x = x.reshape(n, 3, rows * patch[0], columns * patch[1])
    tokens = unfold(x, patch)
    for place in range(patch[0] * patch[1]):  # by slicing, not by reshaping
        i, j = divmod(place, patch[1])
        wanted = x[:, :, i::patch[0], j::patch[1]].flatten(2).transpose(1, 2)
        assert torch.equal(tokens[place::patch[0] * patch[1]], wanted)
    assert torch.equal(fold(tokens, (n, *x.shape[2:]), patch), x)


@pytest.mark.parametrize('shape', SIZES)
@pytest.mark.parametrize('options', [{}, {'no_fusion': True}, {'out_chs': 5}])
def test_the_block_gives_timms_numbers(shape, options):
    block = timm_block(**options).eval()
    x = torch.randn(shape[0], 8, *shape[1:], generator=torch.Generator().manual_seed(1))
    wanted = block(x)
    got = PatchedBlock(block)(x)
    assert torch.equal(got, wanted) and wanted.std() > 0.01


def test_gradients_and_statistics_are_timms():
    block = timm_block()
    ours = PatchedBlock(copy.deepcopy(block)).train()
    block.train()
    x = torch.randn(2, 8, 7, 10, generator=torch.Generator().manual_seed(2))
    for module in (block, ours):
        module(x).square().mean().backward()
    wanted = dict(block.named_parameters())
    assert [name for name, _ in ours.named_parameters()] == list(wanted)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-5, atol=1e-8)
    states = block.state_dict(), ours.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_block_whose_channels_are_cut_still_runs():
    network = Holder(timm_block().eval())
    kept = (0, 2, 3, 7, 8, 11)
    network.block.transformer = nn.Identity()  # its attention is cut by other means
    apply_cuts(network, [Cut('out', 'block.conv_1x1', kept), Cut('out', 'block.norm', kept),
                         Cut('in', 'block.conv_proj.conv', kept)])
    x = torch.randn(2, 8, 7, 8, generator=torch.Generator().manual_seed(3))
    assert torch.equal(PatchedBlock(network.block)(x), network.block(x))


def test_every_mobilevit_network_has_our_blocks():
    with plain_attention():
        for name in ('upernet_mobilevit_s', 'deeplabv3_mobilevit_s'):
            network = build_model(name, 3, image_size=64)
            blocks = [m for m in network.modules() if isinstance(m, PatchedBlock)]
            assert len(blocks) == 3
            assert not any(isinstance(m, MobileVitBlock) for m in network.modules())


def test_a_backbone_without_such_blocks_is_left_alone():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    before = list(backbone.named_modules())
    assert patched(backbone) is backbone and list(backbone.named_modules()) == before


@pytest.mark.parametrize('size', [(8, 12), (7, 9)])
def test_the_exported_block_is_for_tensorrt_8(size):
    block = PatchedBlock(timm_block().eval())
    buffer = io.BytesIO()
    torch.onnx.export(block, (torch.zeros(1, 8, *size),), buffer, opset_version=13, dynamo=False)
    model = onnx.load_from_string(buffer.getvalue())
    fold_constants(model)
    assert check(model) == []
    assert max(len(shape) for _, shape in shapes_of(model).values()) == 5


def test_the_exported_network_is_for_tensorrt_8():
    with plain_attention():
        network = build_model('upernet_mobilevit_s', 3, image_size=64)
    config = InputConfig(height=64, width=96)  # 96 / 32 = 3: the last block has odd columns
    model = onnx.load_from_string(export_onnx(Deployed(network, config).eval(), config, 13))
    assert check(float_input(model)) == []
