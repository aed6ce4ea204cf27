# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`offline_train report` on run folders and result files written by hand."""
from __future__ import annotations

import argparse
import base64
import csv
import json
import re

import cv2
from evit_seg.core.errors import ConfigError, InputError, LabelMapMismatch
from evit_seg.core.labels import load_label_map
import numpy as np
import pytest
from tiny_bundle import painted_frame, write_tiny_bundle
import yaml

pytest.importorskip('matplotlib', reason='the report draws with matplotlib')

from offline_train import report  # noqa: E402, I100
from offline_train.reporting.curves import smooth  # noqa: E402
from offline_train.reporting.frontier import draw_frontier, pareto, Point  # noqa: E402
from offline_train.reporting.join import join  # noqa: E402
from offline_train.reporting.paper import load_papers  # noqa: E402
from offline_train.reporting.runs import read_collection  # noqa: E402

LPCV = load_label_map()
VAL = {'name': 'LPCV 2023', 'split': 'val', 'frames': 9, 'size': [512, 512]}
SCENES = {'name': 'scenes', 'split': 'val', 'frames': 4, 'size': [720, 1280]}
DESK = {'processor': 'Desk CPU', 'cores': 8, 'load_1min': 0.25}
MOBILEVIT = 'upernet_mobilevit_s'


def bundle(sha, precision='fp32', **other):
    return {'name': f'b_{sha}', 'sha256': sha * 8, 'precision': precision,
            'parameters': 5_580_000, **other}


def evaluation(sha, miou, data=VAL, precision='fp32', person=0.4):
    """Return an evaluate file: Person and Background have truth, all else has none."""
    rows = []
    for entry in LPCV:
        seen = entry.slug in ('background', 'person')
        recall = person if entry.slug == 'person' else 0.9
        rows.append({'id': entry.id, 'name': entry.name, 'slug': entry.slug,
                     'iou': miou if seen else None, 'precision': 0.75 if seen else None,
                     'recall': recall if seen else None,
                     'truth_px': {'background': 300, 'person': 100}.get(entry.slug, 0)})
    sizes = [{'min_px': 16, 'max_px': 63, 'objects': 12, 'hit': 3, 'recall': 0.25},
             {'min_px': 64, 'max_px': None, 'objects': 0, 'hit': 0, 'recall': None}]
    return {'kind': 'evaluate', 'bundle': bundle(sha, precision), 'data': data,
            'scores': {'dataset': {'miou': miou, 'accuracy': 0.8}, 'lpcv': {'dice': 0.33},
                       'classes': rows}, 'object_recall': {'person': sizes}}


def bench(sha, p50_ms, precision='fp32', **other):
    return {'kind': 'bench', 'bundle': bundle(sha, precision), 'machine': DESK,
            'engine': 'onnxruntime', 'provider': 'cpu', 'threads': 2, 'size': [512, 512],
            'latency_ms': {'p50': p50_ms, 'p95': p50_ms + 1}, 'fps': 1000 / p50_ms,
            'gmacs': 9.3, 'peak_rss_mb': 356.0, 'gpu_mb': None, 'energy_mj_per_frame': None,
            'energy_source': 'none (RAPL: not readable)', **other}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def run_folder(folder, model=MOBILEVIT, seed=1, teacher='', initial='', miou=0.5):
    config = {'model': {'name': model, 'initial': initial}, 'run': {'seed': seed},
              'data': {'dataset': 'lpcv2023', 'root': 'LPCV'}, 'optim': {'steps': 40}}
    if teacher:
        config.update(teacher={'path': teacher}, distil={'mse': 1.0})
    write(folder / 'config.yaml', yaml.safe_dump(config))
    log = [{'step': step, 'loss': 3 - step / 20, 'terms': {'mse': 1 / step} if teacher else {}}
           for step in range(1, 41)]
    log.append({'step': 40, 'validation_miou': miou, 'validation_iou': {}})
    write(folder / 'log.jsonl', '\n'.join(map(json.dumps, log)) + '\n')
    return folder


def colours_of(picture_HWC):
    """Return the colours of a BGR picture as numbers 0xRRGGBB."""
    return set(np.unique(picture_HWC.astype(np.uint32) @ (1, 1 << 8, 1 << 16)).tolist())


def run_report(*words):
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    return report.main(parser.parse_args([str(word) for word in words]))


@pytest.fixture(scope='module')
def shown(tmp_path_factory):
    """Return the folder of a report on runs with and without results, and two loose files."""
    home = tmp_path_factory.mktemp('report')
    runs = home / 'runs'
    run_folder(runs / 'teacher', 'upernet_swinv2_t')
    for seed, miou, ms in ((1, 0.50, 200.0), (2, 0.54, 210.0)):
        run = run_folder(runs / f'kd_s{seed}', seed=seed, teacher='runs/teacher', miou=miou)
        write(run / 'scores' / 'evaluate.json', evaluation(f'kd{seed}', miou))
        write(run / 'speed' / 'bench.json', bench(f'kd{seed}', ms))
    first = runs / 'kd_s1'
    write(first / 'evaluate_fp16.json', evaluation('kd1', 0.49, precision='fp16', person=0.25))
    write(first / 'bench_fp16.json', bench('kd1', 100.0, 'fp16'))
    child = run_folder(runs / 'pruned', initial='elsewhere/kd_s2')
    small = evaluation('cut', 0.51)
    small['bundle']['parameters'] = 3_000_000
    write(child / 'evaluate.json', small)
    write(run_folder(runs / 'other') / 'evaluate.json', evaluation('oth', 0.7, SCENES))
    write(home / 'loose.json', evaluation('loo|se', 0.3))
    write(runs / 'notes.json', {'kind': 'shopping'})
    assert run_report(runs, home / 'loose.json', '--out', home / 'out',
                      '--title', 'A <b> & c') == 0
    return home / 'out'


def rows_of(path, **wanted):
    with path.open(newline='') as stream:
        return [row for row in csv.DictReader(stream)
                if all(row[key] == value for key, value in wanted.items())]


def section(text, title):
    """Return a Markdown table by its title: {first cell: {column title: cell}}."""
    _, _, rest = text.partition(f'**{title}')
    lines = rest.partition('\n\n')[2].split('\n\n')[0].splitlines()
    cells = [[cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_scores_and_speed_of_a_bundle_meet_beside_the_papers_row(shown):
    row, = rows_of(shown / 'table2.csv', run='kd_s1', precision='fp32')
    assert (row['data'], row['split'], row['compared_at']) == ('LPCV 2023', 'val', '512x512')
    assert (row['network'], row['distilled']) == (MOBILEVIT, 'yes')
    assert row['machine'] == 'Desk CPU, 8 cores; onnxruntime cpu, 2 threads'
    assert (row['fps'], row['miou'], row['lpcv_dice']) == ('5', '0.5', '0.33')
    assert row['accuracy'] == '0.8' and row['paper_score'] == '2.5'  # 0.5 / 0.2 s
    assert (row['parameters'], row['gmacs'], row['peak_rss_mb']) == ('5580000', '9.3', '356')
    assert (row['energy_mj_per_frame'], row['gpu_mb']) == ('', '')
    assert row['paper_name'] == 'UPerNet (MobileViT, KD)' and row['paper_miou'] == '0.6056'
    assert (row['paper_fps_rtx4090'], row['paper_fps_nano']) == ('56.75', '3.11')
    half, = rows_of(shown / 'table2.csv', run='kd_s1', precision='fp16')
    assert half['paper_name'] == 'UPerNet (MobileViT, KD, fp16)' and half['fps'] == '10'


def test_only_scores_of_one_data_set_split_and_size_share_a_table(shown):
    text = (shown / 'report.md').read_text()
    lpcv = section(text, 'Table 2: LPCV 2023, split val, 9 frames, compared at 512x512')
    other = section(text, 'Table 2: scenes, split val, 4 frames, compared at 1280x720')
    assert {row['model'] for row in lpcv} == {'kd_s1', 'kd_s2', 'pruned', 'b_loo\\|se'}
    assert [row['model'] for row in other] == ['other']
    assert 'LPCV 2023 test set' in text and 'the two are not compared' in text
    assert 'Desk CPU, 8 cores' in text and 'RAPL: not readable' in text


def test_a_run_without_results_is_a_row_of_dashes(shown):
    row, = section((shown / 'report.md').read_text(), 'Table 2: not evaluated')
    assert row['model'] == 'teacher' and row['network'] == 'upernet_swinv2_t'
    assert {row[key] for key in ('FPS', 'Acc', 'mIoU', 'GMACs', 'score')} == {'-'}
    assert row['paper: mIoU'] == '0.6468'


def test_a_pruned_network_is_not_set_beside_the_whole_one(shown):
    row, = rows_of(shown / 'table2.csv', run='pruned')
    assert row['network'] == MOBILEVIT and row['paper_name'] == ''


def test_seeds_of_one_configuration_are_a_mean_and_a_spread(shown):
    scored, trained = rows_of(shown / 'seeds.csv')
    for row in (scored, trained):
        assert (row['model'], row['n'], row['seeds']) == ('kd', '2', '1, 2')
        assert row['miou_mean'] == '0.52' and row['miou_sd'] == '0.0282843'  # 0.04 / sqrt(2)
    assert scored['person_recall_mean'] == '0.4' and scored['person_recall_sd'] == '0'
    assert trained['split'] == 'last validation in training'
    table = section((shown / 'report.md').read_text(), 'Seeds: LPCV 2023')
    assert table[0]['mIoU'] == '0.520 ± 0.028'


def test_variants_of_one_network_stand_in_table_3_with_what_they_lost(shown):
    half, = rows_of(shown / 'table3.csv', run='kd_s1', precision='fp16')
    assert half['family'] == 'kd_s1'
    assert (half['miou_change'], half['person_recall_change']) == ('-1', '-15')
    child, = rows_of(shown / 'table3.csv', run='pruned')
    assert (child['family'], child['from'], child['parameters']) == ('kd_s2', 'kd_s2', '3000000')
    assert child['miou_change'] == '-3' and child['fps'] == ''
    heads = rows_of(shown / 'table3.csv', source='arXiv 2309.02617')
    assert [(row['run'], row['from'], row['miou'], row['parameters']) for row in heads][:2] == [
        ('UPerNet (MobileViT)', '4 heads', '0.545', '5600000'),
        ('UPerNet (MobileViT)', '2 heads', '0.533', '4600000')]
    assert {row['run'] for row in rows_of(shown / 'table3.csv')} == {
        'kd_s1', 'kd_s2', 'pruned', 'UPerNet (MobileViT)', 'DeepLabv3 (MobileViT)'}


def test_classes_are_listed_with_the_rare_ones_marked_and_recall_by_size(shown):
    row, = rows_of(shown / 'classes.csv', run='kd_s2', **{'class': 'person'})
    assert (row['rare'], row['iou'], row['class_precision'], row['recall'], row['truth_px']) == \
        ('yes', '0.54', '0.75', '0.4', '100')
    size, = rows_of(shown / 'objects.csv', run='kd_s2', min_px='16')
    assert (size['class'], size['max_px'], size['objects'], size['recall']) == \
        ('person', '63', '12', '0.25')
    text = (shown / 'report.md').read_text()
    iou = section(text, 'IoU by class: LPCV 2023')
    assert [row['class'] for row in iou] == ['Background', 'Person (rare)']
    assert (iou[1]['of truth, %'], iou[1]['kd (mean of 2)'], iou[1]['kd_s1 fp16']) == \
        ('25.00', '0.520', '0.490')
    found = section(text, 'Recall by object size: LPCV 2023')
    assert [(row['class'], row['size, px'], row['objects']) for row in found] == \
        [('Person', '16 to 63', '12')]


def test_the_figures_are_there_and_not_blank(shown):
    drawn = sorted(path.stem for path in (shown / 'figures').glob('*.png'))
    assert drawn == ['classes_1_lpcv_2023', 'classes_2_scenes', 'curves_1', 'frontier_1_lpcv_2023']
    for stem in drawn:
        picture = cv2.imread(str(shown / 'figures' / f'{stem}.png'))
        assert min(picture.shape[:2]) > 300
        assert len(colours_of(picture)) > 50 and 0x0072B2 in colours_of(picture)
        assert (shown / 'figures' / f'{stem}.svg').read_text().count('<path') > 20


def test_the_page_needs_no_other_file_and_escapes_names(shown):
    page = (shown / 'report.html').read_text()
    assert '<b>' not in page and page.count('A &lt;b&gt; &amp; c<') == 2 and 'b_loo|se' in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == len(list((shown / 'figures').glob('*.png')))
    assert all(base64.b64decode(data).startswith(b'\x89PNG') for data in pictures)
    assert 'paper: arXiv 2309.02617, LPCV 2023 test set, 512x512</th>' in page
    assert all(f'figures/{path.name}' in (shown / 'report.md').read_text()
               for path in (shown / 'figures').glob('*.*'))


def test_a_report_is_not_overwritten(shown):
    before = (shown / 'report.md').read_text()
    with pytest.raises(ConfigError, match='not overwritten'):
        run_report(shown.parent / 'runs', '--out', shown)
    assert (shown / 'report.md').read_text() == before


@pytest.mark.parametrize('content, message', [
    ('{"kind": "evalu', r'bad\.json: expected a readable JSON file'),
    ({**bench('a', 5.0), 'fps': 'fast'}, r"bad\.json: fps: expected a finite number.*'fast'"),
    ({**bench('a', 5.0), 'size': [512]}, r'bad\.json: size: expected \[height, width\]'),
    ('{"kind": "bench", "bundle": {}}', r'bad\.json: bundle\.name: expected a text, got None'),
    (json.dumps({**evaluation('a', 0.5), 'scores': {'dataset': {'miou': float('nan')}}}),
     r'bad\.json: scores\.dataset\.miou: expected a finite number'),
])
def test_a_bad_result_file_is_named(tmp_path, content, message):
    write(run_folder(tmp_path / 'run') / 'deep' / 'bad.json', content)
    with pytest.raises(InputError, match=message):
        read_collection([tmp_path / 'run'])


def test_what_is_no_run_and_no_result_is_refused(tmp_path):
    (tmp_path / 'empty').mkdir()
    write(tmp_path / 'kind.json', {'kind': 'shopping'})
    write(run_folder(tmp_path / 'cut') / 'log.jsonl', '{"step": 1, "loss": 2}\n{"step": 2, "lo')
    write(run_folder(tmp_path / 'typo') / 'config.yaml', 'run: {sede: 3}')
    for path, message in (('empty', 'found none'), ('none', 'there is none'),
                          ('kind.json', "got kind 'shopping'"), ('cut', r'log\.jsonl, line 2'),
                          ('typo', r"config\.yaml: unknown key 'run\.sede'")):
        with pytest.raises(InputError, match=message):
            read_collection([tmp_path / path])


def test_a_bundle_belongs_to_one_run_and_has_one_result_on_one_data(tmp_path):
    for name in ('one', 'two'):
        write(run_folder(tmp_path / 'runs' / name) / 'evaluate.json', evaluation('same', 0.5))
    with pytest.raises(InputError, match=r"two/evaluate\.json.*'b_same'.*below .*one"):
        join(read_collection([tmp_path / 'runs']))
    one = tmp_path / 'runs' / 'one'
    write(one / 'again.json', evaluation('same', 0.5))
    entry, = join(read_collection([one]))
    assert len(entry.evaluations) == 1
    write(one / 'stale.json', evaluation('same', 0.6))
    with pytest.raises(InputError, match=r'stale\.json.*otherwise than .*(again|evaluate)\.json'):
        join(read_collection([one]))


def test_results_outside_of_a_run_join_those_inside(tmp_path):
    run = run_folder(tmp_path / 'run')
    write(run / 'evaluate.json', evaluation('x', 0.5))
    write(tmp_path / 'nano.json', bench('x', 300.0))
    entry, = join(read_collection([run, tmp_path / 'nano.json', run / 'evaluate.json']))
    assert (entry.label, len(entry.evaluations), len(entry.benches)) == ('run', 1, 1)


def test_the_papers_scores_are_its_miou_times_its_fps():
    rows = load_papers()['lpcv'].networks
    assert len(rows) == 10
    scored = [row for row in rows if row.score is not None]
    assert len(scored) == 6
    for row in scored:
        assert row.score == pytest.approx(row.miou * row.fps_board, abs=2e-3)


def test_the_papers_networks_are_ours_by_name_and_size():
    pytest.importorskip('torch', reason='the networks need torch')
    from offline_train.models.zoo import MODELS
    for row in load_papers()['lpcv'].networks:
        assert MODELS[row.model].paper_parameters_m == row.parameters_m
    assert {row.model for row in load_papers()['energy'].networks} <= set(MODELS)


def point(label, latency_ms, miou):
    return Point(label, 'fp32', latency_ms, miou, miou, miou)


def test_the_pareto_line_holds_what_none_beats_in_both():
    points = [point('slow', 100, 0.6), point('beaten', 50, 0.4), point('fast', 10, 0.5),
              point('same', 100, 0.55), point('middle', 40, 0.55), point('later', 60, 0.55)]
    assert [p.label for p in pareto(points)] == ['fast', 'middle', 'slow']


def test_labels_cover_no_marker_and_no_other_label():
    crowd = [point(f'a_network_{i}', 100 + 3 * (i % 4), 0.5 + 0.004 * (i // 4))
             for i in range(12)]
    figure = draw_frontier([*crowd, point('far', 5, 0.3)], 'data', 'machine')
    ax = figure.axes[0]
    texts = [t for t in ax.texts if t.get_text()]
    assert {t.get_text() for t in texts} == {p.label for p in crowd} | {'far'}
    renderer = figure.canvas.get_renderer()
    boxes = [t.get_window_extent(renderer) for t in texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1:])
        assert not any(box.contains(*ax.transData.transform((p.latency_ms, p.miou)))
                       for p in crowd)


def test_the_smooth_line_is_a_centred_mean():
    values = np.random.default_rng(0).normal(size=100)
    inside = np.convolve(values, np.full(5, 0.2), mode='valid')  # 5 % of 100
    assert smooth(values)[2:-2] == pytest.approx(inside)
    assert smooth(values)[0] == pytest.approx(values[:3].mean())
    assert smooth([4.0]) == pytest.approx([4.0])


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """Return four painted frames: 2 has most Person, 0 none, and no truth has Lava_flow."""
    root = tmp_path_factory.mktemp('scenes')
    image, mask = painted_frame()
    for index, rows in enumerate((0, 8, 24, 16)):
        truth = np.where((mask == 10) | (mask == 9), 0, mask).astype(np.uint8)
        truth[:rows, 48:] = 10
        for part, pixels in (('IMG', image[..., ::-1]), ('GT', truth)):
            (root / 'val' / part).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(root / 'val' / part / f'f{index}.png'), pixels)
    return root


def test_pictures_show_image_truth_and_masks_of_the_frames_with_most_people(
        scenes, tmp_path, monkeypatch):
    seen = {}
    draw = report.panels.draw_panels

    def spy(rows, titles, label_map):
        seen.update(rows=rows, titles=titles)
        return draw(rows, titles, label_map)

    monkeypatch.setattr(report.panels, 'draw_panels', spy)
    tiny = write_tiny_bundle(tmp_path / 'tiny')
    write(tmp_path / 'e.json', evaluation('x', 0.5))
    assert run_report(tmp_path / 'e.json', '--out', tmp_path / 'out', '--panels', 'synthetic',
                      scenes, 'val', '--bundles', f'teacher={tiny}', tiny, '--rows', 2) == 0
    assert seen['titles'] == ['image', 'truth', 'teacher', 'tiny']
    assert [row.tiles[0].caption for row in seen['rows']] == ['f2\n(frame 2)', 'f3\n(frame 3)']
    assert seen['rows'][0].tiles[1].caption == 'Person on 9.38% of the pixels'  # 24 x 16 of 64^2
    image, truth, teacher, student = (t.picture_HWC for t in seen['rows'][0].tiles)
    assert np.array_equal(image, painted_frame()[0]) and np.array_equal(teacher, student)
    person = np.array(LPCV.by_slug('person').colour)
    assert truth[4, 60] == pytest.approx(0.4 * image[4, 60] + 0.6 * person, abs=1)
    assert not np.array_equal(truth, teacher) and 10 in seen['rows'][0].ids
    assert seen['rows'][0].tiles[2].caption.endswith('Person IoU 0.00')
    picture = cv2.imread(str(tmp_path / 'out' / 'figures' / 'panels.png'))
    assert len(colours_of(picture)) > 100
    assert 'the 2 frames with most pixels of person' in (tmp_path / 'out/report.md').read_text()


@pytest.mark.parametrize('words, error, message', [
    (['--frames', '4'], ConfigError, r'--frames: expected 0 to 3.*got 4'),
    (['--most', 'persn'], LabelMapMismatch, "did you mean 'person'"),
    (['--most', 'lava_flow'], ConfigError, 'no frame of val shows that class'),
    (['--rows', '0'], ConfigError, '--rows: expected 1'),
])
def test_pictures_that_cannot_be_had_are_refused_before_anything_is_written(
        scenes, tmp_path, words, error, message):
    write(tmp_path / 'e.json', evaluation('x', 0.5))
    with pytest.raises(error, match=message):
        run_report(tmp_path / 'e.json', '--out', tmp_path / 'out', '--panels', 'synthetic',
                   scenes, 'val', '--bundles', 'demo', *words)
    assert not (tmp_path / 'out').exists()


def test_panels_need_bundles(tmp_path):
    with pytest.raises(ConfigError, match='expected both or none'):
        run_report(tmp_path, '--out', tmp_path / 'out', '--bundles', 'demo')
