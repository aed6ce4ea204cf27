# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Recipes of `offline_train compress`: what they may say, and what becomes of their guards."""
from __future__ import annotations

from evit_seg.core.boards import BOARDS, roofline
from evit_seg.core.errors import ConfigError, InputError
from evit_seg.core.onnx_graph import Graph, Node
from evit_seg.core.share import share_file
from offline_train.compression.budgets import Budgets, check_budgets, parse_budgets
from offline_train.compression.guards import (
    check_floors,
    check_guardable,
    FAILED,
    Floor,
    GuardResult,
    NOT_MEASURED,
    parse_floors,
    PASSED,
    verdict,
    verdict_lines,
)
from offline_train.compression.recipe import load_recipe
import pytest
import yaml

RECIPE = {
    'data': {'folder': 'scenes'},
    'config': {'run.threads': 1, 'optim.steps': 9},
    'stages': [{'stage': 'prune', 'filters': 0.25, 'heads': 2},
               {'stage': 'distil', 'teacher': '$start', 'config': {'optim.steps': 800}},
               {'stage': 'export', 'precision': ['fp32', 'fp16']},
               {'stage': 'quantize', 'calibration': 'percentile'}],
    'budgets': {'latency_ms': 60, 'miou': 0.3},
    'floors': {'person': 5, 'vehicle': {'points': 2.5, 'least': 0.2}}}


def load(tmp_path, content, *overrides):
    path = tmp_path / 'mine.yaml'
    path.write_text(yaml.safe_dump(content))
    return load_recipe(path, overrides)


def changed(**sections):
    return {**RECIPE, **sections}


def record(step, checked=True, **hits):
    """Return what a floor looks at: hits of 1000 pixels of truth by slug."""
    return {'step': step, 'checked': checked, 'data': {'name': 'scenes', 'split': 'val'},
            'classes': {slug: {'hit_px': hit, 'truth_px': 1000, 'recall': hit / 1000}
                        for slug, hit in hits.items()}}


def test_a_recipe_is_read(tmp_path):
    recipe = load(tmp_path, RECIPE)
    assert (recipe.name, recipe.data.split, recipe.export.opset) == ('mine', 'val', 17)
    prune, recover, bundle, int8 = recipe.steps
    assert [s.name for s in recipe.steps] == ['1_prune', '2_recover', '3_bundle', '4_int8']
    assert [s.check for s in recipe.steps] == [False, True, False, True]
    assert prune.options == {'filters': 0.25, 'heads': 2} and not prune.config
    assert recover.config == {'run.threads': 1, 'optim.steps': 800}
    assert recover.learning.teacher == '$start' and not recover.learning.fresh
    assert bundle.options == {'precision': ['fp32', 'fp16']}
    assert (bundle.measure, int8.measure) == ('', 'int8')
    assert recipe.floors == (Floor('person', 5.0), Floor('vehicle', 2.5, 0.2))
    assert recipe.budgets == Budgets(latency_ms=(('here', 60.0),), miou=0.3)


def test_the_command_line_has_the_last_word(tmp_path):
    recipe = load(tmp_path, RECIPE, 'data.limit=7', 'floors.person=3', 'config.optim.batch=4',
                  '2_recover.config.optim.steps=5', '1_prune.filters=0.5', '1_prune.check=true')
    assert recipe.data.limit == 7 and recipe.floors[0].points == 3
    assert recipe.steps[0].options['filters'] == 0.5 and recipe.steps[0].check
    assert recipe.steps[1].config == {'run.threads': 1, 'optim.batch': 4, 'optim.steps': 5}


def test_the_last_stage_is_always_checked(tmp_path):
    recipe = load(tmp_path, changed(stages=[{'stage': 'distil', 'check': False},
                                            {'stage': 'prune'}]))
    assert [step.check for step in recipe.steps] == [False, True]
    with pytest.raises(ConfigError, match=r'1_prune\.check: the last stage is always checked'):
        load(tmp_path, changed(stages=[{'stage': 'prune', 'check': False}]))
    with pytest.raises(ConfigError, match=r'1_recover\.measure.*or say `check: false`'):
        load(tmp_path, changed(stages=[{'stage': 'distil', 'measure': 'none'},
                                       {'stage': 'export'}]))


@pytest.mark.parametrize(('sections', 'message'), [
    ({'stagse': []}, "unknown key 'stagse'; did you mean 'stages'"),
    ({'data': {'folder': 'a', 'splt': 'val'}}, r"'data.splt'; did you mean 'split'"),
    ({'data': {'folder': 'a', 'limit': '9'}}, "data.limit: expected int, got '9'"),
    ({'data': {}}, 'expected one of data.folder and data.dataset'),
    ({'data': {'folder': 'a', 'root': 'b'}}, "data.root: .* 'b' beside data.folder 'a'"),
    ({'bench': {'runs': 0}}, 'bench.runs: expected 1 or more, got 0'),
    ({'bench': 5}, 'bench: expected a section with keys, got 5'),
    ({'stages': []}, 'stages: expected a list of stages'),
    ({'stages': [{'filters': 1}]}, 'number 1: expected a mapping with `stage`'),
    ({'stages': [{'stage': 'prun'}]}, "unknown stage 'prun'; did you mean 'prune'"),
    ({'stages': [{'stage': 'export', 'name': '../a'}]}, r"number 1: .*'\.\./a'"),
    ({'stages': [{'stage': 'export', 'check': 'yes'}]}, "1_bundle.check: .* got 'yes'"),
    ({'stages': [{'stage': 'distil', 'teecher': 'a'}]}, "'teecher'; did you mean 'teacher'"),
    ({'stages': [{'stage': 'distil', 'fresh': 1}]}, '1_student.fresh: expected bool, got 1'),
    ({'stages': [{'stage': 'distil', 'config': {'optim.stps': 1}}]},
     "'1_recover.config: optim.stps'; did you mean 'steps'"),
    ({'stages': [{'stage': 'distil', 'config': {'optm.steps': 1}}]}, "did you mean 'optim'"),
    ({'stages': [{'stage': 'distil', 'config': {'optim.steps': 0.5}}]},
     r'optim\.steps: expected int, got 0\.5'),
    ({'budgets': {'latncy_ms': 3}}, "'budgets.latncy_ms'; did you mean 'latency_ms'"),
    ({'budgets': {'latency_ms': {'orin-nan': 3}}}, "did you mean 'orin-nano'"),
    ({'budgets': {'latency_ms': {'here': '3'}}}, "budgets.latency_ms.here: .* got '3'"),
    ({'budgets': {'miou': 30}}, 'budgets.miou: expected a number of 0 to 1, got 30'),
    ({'floors': {'person': True}}, 'floors.person.points: .* got True'),
    ({'floors': {'person': {'points': 1, 'lest': 1}}}, "'lest'; did you mean 'least'"),
    ({'floors': {'person': {'least': 0.5}}}, 'floors.person: expected points'),
    ({'floors': {}, 'budgets': {}}, 'at least one thing that must hold'),
])
def test_what_a_recipe_cannot_say(tmp_path, sections, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, changed(**sections))


@pytest.mark.parametrize(('override', 'message'), [
    ('limit=3', "expected section.key=value, got 'limit=3'"),
    ('dta.limit=3', "section or step 'dta'; did you mean 'data'"),
    ('2_recovr.config.optim.steps=3', "did you mean '2_recover'"),
])
def test_wrong_overrides(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, RECIPE, override)


def test_a_missing_or_broken_file(tmp_path):
    with pytest.raises(InputError, match='expected a readable YAML'):
        load_recipe(tmp_path / 'none.yaml')
    (tmp_path / 'a.yaml').write_text('a: [')
    with pytest.raises(InputError, match='expected a readable YAML'):
        load_recipe(tmp_path / 'a.yaml')


def test_a_floor_counts_points_exactly():
    # 0.7 - 0.65 is more than 0.05 in floats.
    records = [record('0_start', person=700), record('1_recover', person=650)]
    result, = check_floors([Floor('person', 5.0)], records)
    assert result.status == PASSED and '5.0 points lost, 5 allowed' in result.text
    result, = check_floors([Floor('person', 4.9)], records)
    assert result.status == FAILED


def test_a_broken_floor_names_class_stage_and_numbers():
    records = [record('0_start', person=700, vehicle=500),
               record('1_prune', False, person=0, vehicle=480),
               record('2_recover', person=310, vehicle=490)]
    person, vehicle = check_floors([Floor('person', 5.0), Floor('vehicle', 5.0)], records)
    assert vehicle.status == PASSED and person.status == FAILED
    for part in ('person is lost at 2_recover', 'died in 1_prune, from 0.700 to 0.000',
                 '0.700 at 0_start, 0.000 at 1_prune (not checked), 0.310 at 2_recover',
                 '39.0 points lost, 5 allowed'):
        assert part in person.text
    gained, = check_floors([Floor('person', 0.0)], [records[2], records[0]])
    assert gained.status == PASSED


def test_the_least_recall_is_absolute():
    records = [record('0_start', person=320), record('1_recover', person=299)]
    result, = check_floors([Floor('person', 5.0, 0.3)], records)
    assert result.status == FAILED and 'at least 0.3 needed' in result.text
    records[1] = record('1_recover', person=300)
    assert check_floors([Floor('person', 5.0, 0.3)], records)[0].status == PASSED


def test_what_was_not_there_cannot_be_guarded():
    first = record('0_start', person=0, vehicle=100)
    first['classes']['fire'] = {'hit_px': 0, 'truth_px': 0, 'recall': None}
    check_guardable([Floor('vehicle', 5.0, 0.1), Floor('vehicle', 9.9),
                     Floor('vehicle', 10.0, 0.05)], first)
    for floor, message in ((Floor('person', 5.0), 'recall is 0 before anything'),
                           (Floor('fire', 5.0), 'not a pixel of it'),
                           (Floor('vehicel', 5.0), "did you mean 'vehicle'"),
                           (Floor('vehicle', 10.0), 'that is all of its recall of 0.100'),
                           (Floor('vehicle', 5.0, 0.2), '0.2 is not reached before')):
        with pytest.raises(ConfigError, match=message):
            check_guardable([floor], first)


MEASURED = {'latency_ms': {'p50': 20.0}, 'latency_ratio': {'p50': 0.5}, 'peak_rss_mb': 300.0,
            'file_mb': 8.0, 'miou': 0.4, 'precision': 'fp16'}
GRAPH = Graph(13, 7, (), (), (Node('a', 'Conv', 4 * 10**9, 0, 3 * 10**6, 4 * 10**6, 10**6),
                              Node('b', 'Relu', 0, 10**6, 0, 10**6, 10**6)), 3 * 10**6, 0)


@pytest.mark.parametrize(('key', 'within', 'beyond'), [
    ('latency_ms', 20, 19.9), ('memory_mb', {'here': 300}, {'here': 299}),
    ('latency_ratio', 0.5, 0.49), ('eager_ratio', 0.3, 0.29), ('size_mb', 8, 7.9),
    ('miou', 0.4, 0.41)])
def test_a_budget_here_passes_or_fails(key, within, beyond):
    for limit, status in ((within, PASSED), (beyond, FAILED)):
        result, = check_budgets(parse_budgets({key: limit}), MEASURED, eager_ratio=0.3)
        assert result.status == status


@pytest.mark.parametrize('limit', [1e-6, 1e6])
def test_a_board_is_never_measured(limit):
    budgets = parse_budgets({'latency_ms': {'jetson-nano-2gb': limit},
                             'memory_mb': {'jetson-nano-2gb': limit}})
    latency, memory = check_budgets(budgets, MEASURED, GRAPH)
    assert (latency.status, memory.status) == (NOT_MEASURED, NOT_MEASURED)
    model = roofline(BOARDS['jetson-nano-2gb'], [4e9, 0], [3e6 + 4e6 + 1e6, 0], 'fp16')
    assert str(model) in latency.text and set(model.assumptions) <= set(latency.notes)
    assert ('not even the roofline' in latency.text) == (limit < 1)
    assert '300 MB' in memory.text and ('beyond it' in memory.text) == (limit < 1)
    assert verdict([latency, memory]) == NOT_MEASURED


def test_a_board_without_the_arithmetic_is_said():
    result, = check_budgets(parse_budgets({'latency_ms': {'jetson-nano-4gb': 50}}),
                            {**MEASURED, 'precision': 'int8'}, GRAPH)
    assert result.status == NOT_MEASURED and 'has no int8 arithmetic' in result.text


def test_nothing_missing_ever_passes():
    budgets = parse_budgets({'latency_ms': 1, 'memory_mb': 1, 'latency_ratio': 1, 'eager_ratio': 1,
                             'size_mb': 1, 'miou': 0})
    nothing = dict.fromkeys(MEASURED)
    assert {r.status for r in check_budgets(budgets, nothing)} == {NOT_MEASURED}
    result, = check_budgets(parse_budgets({'latency_ms': {'orin-nano': 9}}), MEASURED)
    assert result.status == NOT_MEASURED and 'no ONNX graph' in result.text


@pytest.mark.parametrize(('states', 'expected'), [
    ((PASSED, NOT_MEASURED), PASSED), ((PASSED, FAILED, NOT_MEASURED), FAILED),
    ((NOT_MEASURED,), NOT_MEASURED), ((), NOT_MEASURED)])
def test_the_verdict_is_of_what_was_measured(states, expected):
    results = [GuardResult(f'guard {i}', state, 'text') for i, state in enumerate(states)]
    assert verdict(results) == expected
    head = verdict_lines(results)[0]
    assert head.startswith(f'verdict: {expected}')
    for result in results:
        assert (result.name in head) == (result.status == NOT_MEASURED)


@pytest.mark.parametrize('name', ['x86', 'jetson_nano_4gb', 'jetson_nano_2gb', 'raspberry_pi_5',
                                  'orin_nano'])
def test_the_shipped_recipes_are_recipes(name):
    recipe = load_recipe(share_file(f'config/recipes/{name}.yaml'))
    assert {floor.slug for floor in recipe.floors} == {'person', 'vehicle'}
    places = {place for place, _ in recipe.budgets.latency_ms}
    if name == 'x86':
        assert places == set() and recipe.budgets.eager_ratio == pytest.approx(1 / 3, abs=1e-3)
        return
    board = BOARDS[name.replace('_', '-')]
    assert places == {board.name} and recipe.export.opset <= board.max_opset
    assert recipe.steps[-1].measure in board.peak_ops_per_s
    (_, limit), = recipe.budgets.memory_mb
    assert limit <= board.free_bytes / 2**20


def test_parse_floors_takes_both_forms():
    assert parse_floors({'a': 1, 'b': {'points': 2}}) == (Floor('a', 1.0), Floor('b', 2.0))
