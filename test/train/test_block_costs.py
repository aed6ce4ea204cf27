# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Counted costs of heads and MLPs are what cutting them saves; tables are checked."""
from __future__ import annotations

import copy
import json

import pytest

torch = pytest.importorskip('torch', reason='block costs need torch')

from evit_seg.core.errors import ConfigError, InputError  # noqa: E402, I100
from offline_train.compression.block_costs import (  # noqa: E402
    block_costs,
    BlockCost,
    write_table,
)
from offline_train.models import zoo  # noqa: E402
from offline_train.surgery.blocks import attention_blocks, mlp_blocks  # noqa: E402
from offline_train.surgery.cuts import apply_cuts, Cut  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

SIZE = (64, 128)
NETWORKS = ['token_pyramid', 'upernet_mobilevit_s', 'upernet_swinv2_t', 'segformer_b0']


def network_of(name, size=SIZE):
    if name != 'token_pyramid':
        pytest.importorskip('timm', reason="its backbone is timm's")
        pytest.importorskip('segmentation_models_pytorch', reason='so is its decoder')
    torch.manual_seed(0)
    return zoo.build_model(name, 3, image_size=size).eval()


def counted_macs(network, *cuts):
    cut = copy.deepcopy(network)
    apply_cuts(cut, cuts)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        cut.to('meta')(torch.empty(1, 3, *SIZE, device='meta'))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize('name', NETWORKS)
def test_multiply_adds_are_what_torch_counts_before_and_after_a_cut(name, one_thread):
    network = network_of(name)
    costs = block_costs(network, 'macs', SIZE)
    whole = counted_macs(network)
    attention = attention_blocks(network)
    for block in attention[:1]:
        module = network.get_submodule(block.name)
        # torch counts Swin's position bias (2 -> 512 -> heads), a constant when deployed
        offsets = module.relative_coords_table.numel() // 2 if 'swin' in name else 0
        cost, bias = costs[block.name], offsets * 512
        saved = whole - counted_macs(network, Cut('drop', block.name))
        assert block.heads * (cost.gate + bias) + cost.rest + 2 * bias == saved
        if block.heads > 1:
            kept = tuple(range(1, block.heads))
            assert cost.gate + bias == whole - counted_macs(network,
                                                            Cut('heads', block.name, kept))
    for block in mlp_blocks(network)[-1:]:
        saved = whole - counted_macs(network, Cut('drop', block.name))
        assert costs[block.name] == BlockCost(saved)


def test_bytes_of_a_token_block_are_those_counted_by_hand():
    costs = block_costs(network_of('token_pyramid'), 'bytes', SIZE)
    channels, tokens = 16 + 32 + 64 + 96, 2
    head = 64 * channels + 32 * channels  # weights
    head += 2 * tokens * (64 + 32)  # query, key, value and what comes out: written and read
    head += 4 * tokens ** 2  # the matrix: written, read, written, read
    assert costs['attention.0'] == BlockCost(4 * head, 4 * 2 * tokens * channels)
    hidden = 2 * channels
    mlp = 2 * channels * hidden + 9 * hidden + tokens * (2 * channels + 4 * hidden)
    assert costs['attention.0.mlp'] == BlockCost(4 * mlp)
    assert block_costs(network_of('token_pyramid'), 'bytes', SIZE, 'int8')[
        'attention.0.mlp'] == BlockCost(mlp)


@pytest.mark.parametrize('name', ['token_pyramid', 'segformer_b0'])
def test_a_measured_table_has_every_block_and_is_read_again(name, tmp_path, one_thread):
    pytest.importorskip('onnxruntime', reason='blocks are measured in ONNX Runtime')
    network = network_of(name, (64, 64))
    path = tmp_path / 'table.json'
    write_table(path, network, (64, 64))
    table = json.loads(path.read_text())
    costs = block_costs(network, str(path), (64, 64))
    assert set(table) == set(costs) and min(table.values()) > 0
    for block in attention_blocks(network):
        assert costs[block.name] == BlockCost(table[block.name] / block.heads)
    for block in mlp_blocks(network):
        assert costs[block.name] == BlockCost(table[block.name])


def test_a_wide_mlp_takes_longer_than_a_narrow_one(one_thread):
    pytest.importorskip('onnxruntime', reason='blocks are measured in ONNX Runtime')
    network = network_of('token_pyramid')
    apply_cuts(network, [Cut('out', f'attention.0.mlp.{at}', tuple(range(8)))
                         for at in ('0.0', '0.1', '1')] + [
                             Cut('in', 'attention.0.mlp.3.0', tuple(range(8)))])
    costs = block_costs(network, 'latency', (512, 1024))
    assert costs['attention.0.mlp'].gate < 0.8 * costs['attention.1.mlp'].gate


@pytest.mark.parametrize('content, error, said', [
    ('{"attention.0": 1.0}', ConfigError, r"block 'attention\.1', got None"),
    ('{"attention.0": -1.0}', ConfigError, r"block 'attention\.0', got -1\.0"),
    ('{"attention.0": true}', ConfigError, r"block 'attention\.0', got True"),
    ('[1, 2]', InputError, 'JSON object of block name to number, got list'),
    ('{', InputError, 'macs, bytes, latency or a readable JSON table')])
def test_a_wrong_table_is_named(content, error, said, tmp_path):
    path = tmp_path / 'table.json'
    path.write_text(content)
    with pytest.raises(error, match=said):
        block_costs(network_of('token_pyramid'), str(path), SIZE)


def test_a_misspelt_cost_is_named():
    with pytest.raises(InputError, match=r"expected macs, bytes, latency .* got 'latencie'"):
        block_costs(network_of('token_pyramid'), 'latencie', SIZE)
