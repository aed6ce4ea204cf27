# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Attention is folded back to where the tokens came from, and drawn before and after."""
from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='heat maps need torch')

from evit_seg.core.errors import ConfigError  # noqa: E402, I100
from offline_train import heat_maps as heat_maps_stage  # noqa: E402
from offline_train import train as train_stage  # noqa: E402
from offline_train.compression.heat_maps import (  # noqa: E402
    attention_maps,
    draw_heat_maps,
    HeatMap,
)
from offline_train.models import zoo  # noqa: E402
from offline_train.run_dir import RunDir  # noqa: E402
from offline_train.run_network import load_network, write_cut_run  # noqa: E402
from offline_train.surgery.blocks import attention_blocks  # noqa: E402
from offline_train.surgery.cuts import apply_cuts, Cut  # noqa: E402
from tiny_runs import parse, TINY, write_scenes  # noqa: E402
from torch import nn  # noqa: E402

SIZE = (64, 160)  # no square: a map turned around is a mistake


def network_of(name, size=SIZE):
    if name != 'token_pyramid':
        pytest.importorskip('timm', reason="its backbone is timm's")
        pytest.importorskip('segmentation_models_pytorch', reason='so is its decoder')
    torch.manual_seed(0)
    network = zoo.build_model(name, 3, image_size=size).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if any(part in name for part in ('qkv', 'q.weight', 'kv.weight', 'query_key')):
                parameter.mul_(20)  # attention that is far from even
    return network


def image_of(size=SIZE):
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))


class Shown(nn.Module):
    """Answers with a number for each token instead of its features: (groups, tokens)."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers = numbers

    def forward(self, x, **_options):
        return self.numbers[..., None].expand(*self.numbers.shape, x.shape[-1])


def received(matrix):
    return matrix.mean(dim=(1, 2)) * matrix.shape[3]


def test_tokens_of_mobilevit_are_every_second_pixel(one_thread):
    network, seen = network_of('upernet_mobilevit_s'), {}
    name = 'backbone.stages_2.1.transformer.0.attn'
    heat = attention_maps(network, image_of())[name]
    attention = network.get_submodule(name)
    attention.register_forward_pre_hook(lambda _m, args: seen.update(x=args[0]))
    with torch.no_grad():
        network(image_of())
        query, key, _ = attention.qkv(seen['x']).chunk(3, dim=-1)
    logits = torch.stack([q @ k.transpose(1, 2) for q, k in zip(
        query.split(36, -1), key.split(36, -1), strict=True)], 1) / 6  # 144 channels in 4 heads
    numbers = received(logits.softmax(-1))
    assert numbers.shape == (4, 4 * 10) and heat.map_HW.shape == (8, 20)
    for y in range(8):  # timm: a sequence for each place within the 2x2 patches, row by row
        for x in range(20):
            wanted = numbers[y % 2 * 2 + x % 2, y // 2 * 10 + x // 2].item()
            assert heat.map_HW[y, x] == pytest.approx(wanted, rel=1e-3)
    assert heat.heads == 4 and heat.map_HW.std() > 0.05


def test_tokens_of_swin_go_where_its_own_windows_put_them(one_thread):
    network, matrices = network_of('upernet_swinv2_t', (64, 96)), {}
    heat = attention_maps(network, image_of((64, 96)))
    blocks = attention_blocks(network)[:2]  # one plain, one shifted
    for block in blocks:
        network.get_submodule(f'{block.name}.softmax').register_forward_hook(
            lambda _m, _i, out, name=block.name: matrices.update({name: out}))
    with torch.no_grad():
        network(image_of((64, 96)))
        for block, shifted in zip(blocks, (False, True), strict=True):
            outer = network.get_submodule(block.name.rpartition('.')[0])
            assert any(outer.shift_size) == shifted
            outer.attn = Shown(received(matrices[block.name]))
            wanted = outer._attn(torch.zeros(1, 16, 24, outer.dim))[0, :, :, 0].numpy()
            np.testing.assert_allclose(heat[block.name].map_HW, wanted, rtol=1e-4)
            assert wanted.std() > 0.05


def test_keys_of_segformer_are_the_smaller_map(one_thread):
    network, seen = network_of('segformer_b0'), {}
    heat = attention_maps(network, image_of())
    attention = network.backbone.block2[0].attn  # stride 8, reduced by 4
    attention.q.register_forward_hook(lambda _m, _i, out: seen.update(q=out))
    attention.kv.register_forward_hook(lambda _m, _i, out: seen.update(kv=out))
    with torch.no_grad():
        network(image_of())
    wanted = 0
    for head in range(2):
        part = slice(32 * head, 32 * head + 32)
        logits = seen['q'][0, :, part] @ seen['kv'][0, :, part].T * 32 ** -0.5
        wanted = wanted + logits.softmax(1).mean(0) / 2 * 10
    np.testing.assert_allclose(heat['backbone.block2.0.attn'].map_HW,
                               wanted.reshape(2, 5).numpy(), rtol=1e-4)


def test_a_cut_head_leaves_the_map_of_the_others(one_thread):
    network = network_of('token_pyramid', (128, 192))
    image, alone = image_of((128, 192)), []
    for head in range(4):
        cut = network_of('token_pyramid', (128, 192))
        apply_cuts(cut, [Cut('heads', 'attention.0', (head,))])
        alone.append(attention_maps(cut, image)['attention.0'])
    whole = attention_maps(network, image)['attention.0']
    assert whole.map_HW.shape == (2, 3) and whole.heads == 4 and alone[0].heads == 1
    np.testing.assert_allclose(whole.map_HW, np.mean([a.map_HW for a in alone], axis=0),
                               rtol=1e-4)
    assert np.std([a.map_HW for a in alone], axis=0).max() > 1e-3
    assert whole.map_HW.mean() == pytest.approx(1.0, rel=1e-5)


def test_a_network_without_attention_is_named():
    with pytest.raises(ConfigError, match='BilateralNet has none'):
        attention_maps(zoo.build_model('bilateral', 3), image_of())


def test_colours_of_a_row_mean_the_same_and_a_lost_block_is_said():
    even, steep = HeatMap(np.ones((2, 2), np.float32), 2), HeatMap(np.eye(2, dtype='f') * 3, 1)
    figure = draw_heat_maps(np.zeros((40, 60, 3), np.uint8),
                            {'before': {'a': even, 'b': even}, 'after': {'a': steep}})
    titles = [ax.get_title(loc='left') for ax in figure.axes]
    assert 'before: 2 heads, up to 1' in titles and 'after: 1 head, up to 3' in titles
    assert titles.count('after: taken out') == 1
    before, after = (ax.images[1] for ax in figure.axes[1:3])
    assert before.get_clim() == after.get_clim() == (0, 3)


def test_the_stage_draws_a_run_and_its_cut_one(tmp_path, one_thread):
    scenes = write_scenes(tmp_path)
    args = parse(train_stage, '--out', tmp_path / 'run', *TINY, 'model.name=token_pyramid',
                 'augment.crop_height=64', 'optim.steps=1', 'gates.weight=1',
                 f'data.train=[{scenes}]')
    assert train_stage.main(args) == 0
    run = RunDir.open(tmp_path / 'run')
    cut = write_cut_run(tmp_path / 'cut', run, *_cut(run))
    frame = scenes / 'IMG' / '0.png'
    for words in ((), ('--after', cut.path)):
        out = tmp_path / f'maps{len(words)}.png'
        assert heat_maps_stage.main(parse(heat_maps_stage, '--run', run.path, *words, '--image',
                                          frame, '--out', out)) == 0
        assert cv2.imread(str(out)).std() > 1
    for wrong, said in ((['--after', run.path], 'another run'), (['--out', 'a.jpg'], r'\.png')):
        with pytest.raises(ConfigError, match=said):
            heat_maps_stage.main(parse(heat_maps_stage, '--run', run.path, '--image', frame,
                                       '--out', tmp_path / 'x.png', *wrong))


def _cut(run):
    network, cuts = load_network(run, 14), [Cut('drop', 'attention.1')]
    apply_cuts(network, cuts)
    return network, cuts
