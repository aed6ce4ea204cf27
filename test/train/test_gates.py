# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Gates close what is useless or dear, and what they closed is cut without a difference."""
from __future__ import annotations

import copy
import math

import pytest

torch = pytest.importorskip('torch', reason='gates need torch')

from accelerate import Accelerator  # noqa: E402, I100
from evit_seg.core.errors import ConfigError  # noqa: E402
from evit_seg.core.labels import load_label_map  # noqa: E402
from offline_train import train as train_stage  # noqa: E402
from offline_train.compression.block_costs import block_costs, BlockCost  # noqa: E402
from offline_train.compression.gates import closed_cuts, fold_gates, Gates  # noqa: E402
from offline_train.config import GateConfig, load_config  # noqa: E402
from offline_train.models import zoo  # noqa: E402
from offline_train.models.token_pyramid import TokenBlock  # noqa: E402
from offline_train.objective import Objective  # noqa: E402
from offline_train.run_dir import RunDir  # noqa: E402
from offline_train.run_network import load_network  # noqa: E402
from offline_train.surgery.cuts import apply_cuts, Cut  # noqa: E402
from offline_train.training_state import TrainingState  # noqa: E402
from tiny_runs import losses, parse, TINY, write_scenes  # noqa: E402

GATED = ['model.name=token_pyramid', 'input.height=64', 'input.width=64',
         'augment.crop_height=64', 'augment.crop_width=64', 'data.workers=0']


def network_of(name):
    if name != 'token_pyramid':
        pytest.importorskip('timm', reason="its backbone is timm's")
        pytest.importorskip('segmentation_models_pytorch', reason='so is its decoder')
    torch.manual_seed(0)
    network = zoo.build_model(name, 3, image_size=64)
    with torch.no_grad():  # norms and biases are no identities and no zeros, as after training
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def gates_of(network, **settings):
    return Gates(network, GateConfig(**settings), block_costs(network, 'macs', (64, 64)))


def set_gates(gates, **log_alphas):
    with torch.no_grad():
        for name, values in log_alphas.items():
            gates.get_parameter(name).copy_(torch.tensor(values))


@pytest.mark.parametrize('name', ['token_pyramid', 'upernet_mobilevit_s', 'upernet_swinv2_t',
                                  'segformer_b0'])
def test_the_folded_and_cut_network_answers_as_the_gated_one(name, one_thread):
    network = network_of(name)
    gated = copy.deepcopy(network)
    gates = gates_of(gated, weight=1.0).eval()
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(2, 3, 64, 64, generator=generator)
    with torch.no_grad():
        for index, parameter in enumerate(gates.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 3)
            if index % 5 == 0:
                parameter.fill_(-4.0)  # a whole block closed
        gates.draw()
        wanted, plain = gated(image), network(image)
    assert gated.state_dict().keys() == network.state_dict().keys()
    cuts = fold_gates(network, gates.values())
    assert {cut.kind for cut in cuts} == {'heads', 'drop'}
    apply_cuts(network, cuts)
    with torch.no_grad():
        got = network(image)
    size = wanted.abs().max()
    assert (got - wanted).abs().max() < 1e-5 * size
    assert (plain - wanted).abs().max() > 1e-2 * size


EVEN = {'attention.0': BlockCost(1.0), 'attention.0.mlp': BlockCost(1.0)}


class OneBlock(torch.nn.Module):
    """A token block of which head 2 matters; heads 0, 1, 3 and the MLP add nothing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.attention = torch.nn.Sequential(TokenBlock(8))
        with torch.no_grad():
            columns = self.attention[0].project[1][0].weight
            columns[:, :64] = columns[:, 96:] = 0
            self.attention[0].mlp[3][1].weight.zero_()

    def forward(self, image_NCHW):
        return self.attention(image_NCHW)


def train_gates(costs, weight):
    """Let the gates alone learn to reproduce what the network says without them."""
    network = OneBlock().eval()
    plain = copy.deepcopy(network)
    gates = Gates(network, GateConfig(weight=weight), costs)
    optimiser = torch.optim.Adam(gates.parameters(), lr=0.3)
    for step in range(80):
        torch.manual_seed(step)
        image = torch.randn(1, 8, 4, 4)
        gates.draw()
        wanted = plain(image)
        lost = (network(image) - wanted).square().mean() / (wanted - image).square().mean()
        optimiser.zero_grad()
        (lost + weight * gates.open_cost()).backward()  # all that is lost: 1
        optimiser.step()
    return {name: value.tolist() for name, value in gates.values().items()}


def test_useless_heads_close_and_the_useful_one_stays(one_thread):
    values = train_gates(EVEN, 0.5)
    head_0, head_1, head_2, head_3 = values['attention.0']
    assert head_0 == head_1 == head_3 == 0 and head_2 > 0.8
    assert values['attention.0.mlp'] == [0.0]


def test_a_useful_head_closes_when_it_costs_more_than_it_is_worth(one_thread):
    kept = {}
    for price in (0.01, 100.0):  # against 1 for the MLP: a head is 1 % or 25 % of all
        costs = {'attention.0': BlockCost(price), 'attention.0.mlp': BlockCost(1.0)}
        kept[price] = train_gates(costs, weight=16.0)['attention.0'][2]
    assert kept[0.01] > 0.8 and kept[100.0] == 0


def test_the_open_cost_is_the_expected_one():
    network = OneBlock().eval()
    costs = {'attention.0': BlockCost(2.0, 1.0), 'attention.0.mlp': BlockCost(3.0)}
    gates = Gates(network, GateConfig(weight=1.0), costs)
    set_gates(gates, **{'attention/0': [0.5, -1.0, 2.0, 0.0], 'attention/0/mlp': [1.0]})
    gates.train()
    counts, head_0, draws = 0.0, 0, 4000
    torch.manual_seed(0)
    for _ in range(draws):  # what is open is counted, draw by draw
        gates.draw()
        opened = gates._drawn['attention.0'] > 0
        counts += 2.0 * opened.sum().item() + 1.0 * opened.any().item()
        counts += 3.0 * (gates._drawn['attention.0.mlp'] > 0).sum().item()
        head_0 += opened[0].item()
    assert gates.open_cost().item() == pytest.approx(counts / draws / 12, abs=0.01)
    # Louizos et al. 2018, eq. 12, by hand
    assert head_0 / draws == pytest.approx(
        1 / (1 + math.exp(-(0.5 - 2 / 3 * math.log(0.1 / 1.1)))), abs=0.02)


def test_the_threshold_closes_what_is_nearly_closed():
    gates = Gates(OneBlock(), GateConfig(threshold=0.3), EVEN)
    set_gates(gates, **{'attention/0': [-3.0, -1.0, -0.5, 4.0]})
    values = gates.values()['attention.0'].tolist()
    squash = 1.2 / (1 + math.exp(0.5)) - 0.1
    assert values == [0.0, 0.0, pytest.approx(squash), 1.0]


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp('scenes'))


def train(scenes, out, *overrides):
    args = parse(train_stage, '--out', out, *TINY, *GATED, f'data.train=[{scenes}]', *overrides)
    assert train_stage.main(args) == 0
    return RunDir.open(out)


CLOSING = ['gates.weight=5', 'gates.learning_rate=600', 'gates.start=0.4', 'optim.steps=6',
           'run.validate_every=3']


def test_a_run_closes_gates_and_what_flies_is_cut(scenes, tmp_path, one_thread):
    run = train(scenes, tmp_path / 'run', *CLOSING, f'data.validation=[{scenes}]')
    tensors = run.load_checkpoint()
    network = load_network(run, 14)
    assert set(tensors.part('ema')) == set(network.state_dict())
    assert tensors.part('gates')['attention/0'].shape == (4,)
    records = [record for record in run.records() if 'loss' in record]
    assert records[-1]['terms']['gates'] < records[0]['terms']['gates']
    before = sum(p.numel() for p in network.parameters())
    cuts = closed_cuts(run, network)
    assert cuts
    apply_cuts(network, cuts)
    assert sum(p.numel() for p in network.parameters()) < before


def test_a_resumed_run_with_gates_has_the_losses_of_an_uninterrupted_one(scenes, tmp_path,
                                                                         one_thread):
    whole = train(scenes, tmp_path / 'whole', *CLOSING)
    run = train(scenes, tmp_path / 'cut', *CLOSING)
    run.checkpoints()[-1].unlink()
    (run.path / 'log.jsonl').unlink()
    train_stage.main(parse(train_stage, '--resume', run.path))
    assert losses(run) == {step: losses(whole)[step] for step in (4, 5, 6)}
    for part in ('gates', 'optim', 'model'):
        kept, again = (r.load_checkpoint().part(part) for r in (whole, run))
        assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_weight_0_is_a_run_without_gates(scenes, tmp_path, one_thread):
    plain = train(scenes, tmp_path / 'plain')
    off = train(scenes, tmp_path / 'off', 'gates.start=0.5', 'gates.cost=bytes')
    assert losses(plain) == losses(off)
    assert not off.load_checkpoint().part('gates')
    with pytest.raises(ConfigError, match='expected a run trained with gates'):
        closed_cuts(off, load_network(off, 14))


def test_gates_have_their_own_learning_rate(one_thread):
    config = load_config(None, [*TINY, *GATED, 'gates.weight=1', 'gates.learning_rate=30',
                                'optim.learning_rate=0.01', 'optim.warm_up=0'])
    network = network_of('token_pyramid')
    weights = network.head.weight.detach().clone()
    state = TrainingState(Objective(network, config, torch.ones(3)), config,
                          Accelerator(cpu=True))
    start = {k: v.clone() for k, v in state.tensors().items() if k.startswith('gates.a')}
    state.update({'image': torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8),
                  'target': torch.randint(0, 3, (2, 32, 32), dtype=torch.uint8)})
    moved = [(state.tensors()[name] - value).abs().max().item() for name, value in start.items()]
    assert max(moved) == pytest.approx(0.3, rel=0.01)  # Adam's first step is the learning rate
    # decay and step of the rest: 0.01, decayed by 0.02 of a weight below 1
    assert (network.head.weight - weights).abs().max() < 0.011
    assert state.closed_cuts(network) == []


def test_a_state_names_the_cuts_of_its_closed_gates(one_thread):
    config = load_config(None, [*TINY, *GATED, 'gates.weight=1'])
    state = TrainingState(Objective(network_of('token_pyramid'), config, torch.ones(3)), config,
                          Accelerator(cpu=True))
    set_gates(state._objective.gates, **{'attention/1': [-9.0, 9.0, -9.0, 9.0],
                                         'attention/2/mlp': [-9.0]})
    assert state.closed_cuts(network_of('token_pyramid')) == [
        Cut('heads', 'attention.1', (1, 3)), Cut('drop', 'attention.2.mlp')]


@pytest.mark.parametrize('override, said', [
    ('gates.weight=-1', r'gates\.weight: expected 0 or more, got -1'),
    ('gates.start=1.0', r'gates\.start: expected above 0 and below 1, got 1\.0'),
    ('gates.threshold=1.0', r'gates\.threshold: expected 0 to below 1, got 1\.0'),
    ('gates.learning_rate=0', r'gates\.learning_rate: expected above 0, got 0'),
    ("gates.cost=''", r"gates\.cost: expected macs, .* got ''"),
    ('gates.wieght=1', r"did you mean 'weight'")])
def test_wrong_settings_are_named(override, said):
    with pytest.raises(ConfigError, match=said):
        load_config(None, [override])


def test_a_network_without_blocks_has_no_gates():
    config = load_config(None, [*TINY, 'gates.weight=1'])
    network = zoo.build_model('bilateral', len(load_label_map(None)))
    with pytest.raises(ConfigError, match='bilateral has no attention heads and no FFN blocks'):
        Objective(network, config, torch.ones(14))


def test_gates_of_another_network_are_refused():
    network = network_of('token_pyramid')
    values = gates_of(network_of('token_pyramid')).values()
    apply_cuts(network, [Cut('heads', 'attention.3', (0, 1))])
    with pytest.raises(ConfigError, match=r'differ at attention\.3'):
        fold_gates(network, values)
