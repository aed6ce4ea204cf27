# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The stage `prune`: a run in, a smaller run out that loads, exports and flies like any other."""
from __future__ import annotations

import pytest

torch = pytest.importorskip('torch', reason='training needs torch')
pytest.importorskip('onnx', reason='export needs onnx')

from evit_seg.core.bundle import self_test  # noqa: E402, I100
from evit_seg.core.errors import ConfigError  # noqa: E402
from evit_seg.core.segmenter import Segmenter  # noqa: E402
from offline_train import export as export_stage  # noqa: E402
from offline_train import prune as prune_stage  # noqa: E402
from offline_train.config import load_config  # noqa: E402
from offline_train.models import build_model  # noqa: E402
from offline_train.run_dir import RunDir  # noqa: E402
from offline_train.run_network import load_network  # noqa: E402
from tiny_runs import parse, TINY, write_scenes  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp('scenes'))


def write_run(path, scenes, *overrides):
    """Return a run of random weights: what prune does depends on nothing that is learned."""
    torch.manual_seed(4)
    run = RunDir.create(path, load_config(None, [
        *TINY, f'data.train=[{scenes}]', f'data.validation=[{scenes}]', *overrides]))
    network = build_model(run.config().model, 14, run.config().input)
    run.save_checkpoint(0, {f'{part}.{name}': value.clone() for part in ('model', 'ema')
                            for name, value in network.state_dict().items()}, keep=1)
    return run


@pytest.fixture(scope='module')
def run(scenes, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp('runs') / 'whole', scenes,
                     'model.widths=[16, 16, 24, 24, 32]')


@pytest.fixture(scope='module')
def tokens(scenes, tmp_path_factory):
    """Return a run of a network with attention, 4 heads and 384 hidden units in each block."""
    return write_run(tmp_path_factory.mktemp('runs') / 'tokens', scenes,
                     'model.name=token_pyramid')


def prune(run, out, *words):
    assert prune_stage.main(parse(prune_stage, '--run', run.path, '--out', out, *words)) == 0
    return RunDir.open(out)


def size(run):
    return sum(p.numel() for p in load_network(run, 14).parameters())


def test_a_pruned_run_loads_exports_and_flies(run, tmp_path, capsys):
    pruned = prune(run, tmp_path / 'pruned', '--filters', '0.5')
    printed = capsys.readouterr().out
    assert f'before: {size(run) / 1e6:.2f} M' in printed
    assert f'after:  {size(pruned) / 1e6:.2f} M' in printed
    assert size(pruned) < size(run)
    fresh = build_model(pruned.config().model, 14, pruned.config().input)
    fresh.load_state_dict(pruned.load_checkpoint().part('ema'), strict=True)
    bundle = export_stage.export(pruned)
    segmenter = Segmenter.open(str(bundle.folder), threads=1)
    assert self_test(segmenter) == 1.0
    segmenter.close()


def test_pruning_twice_adds_to_the_cuts(run, tmp_path):
    once = prune(run, tmp_path / 'once', '--filters', '0.3')
    twice = prune(once, tmp_path / 'twice', '--filters', '0.3')
    assert twice.config().model.cuts[:len(once.config().model.cuts)] == once.config().model.cuts
    assert size(twice) < size(once) < size(run)


@pytest.mark.parametrize('criterion', ['l2', 'taylor', 'lamp'])
def test_each_criterion_prunes(run, tmp_path, criterion):
    pruned = prune(run, tmp_path / 'out', '--filters', '0.4', '--criterion', criterion,
                   '--frames', '2')
    assert size(pruned) < size(run)


def test_exact_leaves_what_a_normalised_map_holds(scenes, tmp_path):
    whole = write_run(tmp_path / 'whole', scenes, 'model.name=upernet_mobilevit_s',
                      'model.decoder_width=16')
    widths = [load_network(pruned, 14).decoder.feature_norms[0].normalized_shape[0]
              for pruned in (whole, prune(whole, tmp_path / 'all', '--filters', '0.5'),
                             prune(whole, tmp_path / 'exact', '--filters', '0.5', '--exact'))]
    assert widths == [64, 32, 64]


def test_heads_by_number_and_hidden_by_part(tokens, tmp_path):
    pruned = prune(tokens, tmp_path / 'out', '--heads', '2', '--hidden', '0.5')
    network = load_network(pruned, 14)
    assert {block.heads for block in prune_stage.attention_blocks(network)} == {2}
    assert {block.hidden for block in prune_stage.mlp_blocks(network)} == {208}  # of 416
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 64, 96)).shape == (1, 14, 8, 12)


def test_heads_by_part(tokens, tmp_path):
    pruned = prune(tokens, tmp_path / 'out', '--heads', '0.25', '--criterion', 'attention',
                   '--frames', '1')
    assert {b.heads for b in prune_stage.attention_blocks(load_network(pruned, 14))} == {3}


def test_zeros_cut_nothing_and_say_so(run, tmp_path, capsys):
    zeroed = prune(run, tmp_path / 'out', '--zeros', 'unstructured', '0.5')
    printed = capsys.readouterr().out
    assert '50.00% of the weights' in printed and 'as slow as before' in printed
    assert zeroed.config().model.cuts == run.config().model.cuts
    assert size(zeroed) == size(run)
    zeros = sum(int((p == 0).sum()) for p in load_network(zeroed, 14).parameters() if p.ndim == 4)
    assert zeros >= 0.49 * sum(p.numel() for p in load_network(run, 14).parameters()
                               if p.ndim == 4)


def test_a_run_folder_is_never_overwritten(run, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'note').write_text('mine')
    with pytest.raises(ConfigError, match='not overwritten'):
        prune(run, tmp_path / 'out', '--filters', '0.5')
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['note']


@pytest.mark.parametrize(('words', 'message'), [
    ((), 'expected what to cut'),
    (('--filters', '1.0'), '--filters: expected a part'),
    (('--filters', '0.01'), 'nothing to cut'),
    (('--hidden', '0.0'), '--hidden: expected a part'),
    (('--heads', '2', '--tokens'), '--tokens: expected with --filters'),
    (('--heads', '2', '--exact'), '--exact: expected with --filters'),
    (('--filters', '0.5', '--tokens', '--exact'), 'one of the two'),
    (('--hidden', '0.5'), '--hidden 0.5: nothing to cut'),
    (('--heads', '2'), '--heads 2: nothing to cut'),
    (('--heads', '2.5'), 'a whole number of heads'),
    (('--heads', '-1'), 'a whole number of heads'),
    (('--heads', '2', '--criterion', 'lamp'), '--heads can be chosen by'),
    (('--filters', '0.5', '--criterion', 'attention'), '--filters can be chosen by'),
    (('--filters', '0.5', '--criterion', 'latency'), '--latency-ratio: expected with'),
    (('--filters', '0.5', '--latency-ratio', '0.5'), '--latency-ratio: expected with'),
    (('--filters', '0.5', '--criterion', 'latency', '--latency-ratio', '2'), 'got 2.0'),
    (('--filters', '0.5', '--frames', '0'), '--frames: expected 1'),
    (('--closed-gates',), 'trained with gates'),
])
def test_options_that_say_nothing_are_refused(run, tmp_path, words, message):
    with pytest.raises(ConfigError, match=message):
        prune(run, tmp_path / 'out', *words)
    assert not (tmp_path / 'out').exists()
