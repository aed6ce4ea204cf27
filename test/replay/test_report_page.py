# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The report as a page: all sections, no network, nothing that a name could smuggle in.

One real run of bag_eval, two bundles over a painted flight with positions, is the material; parts
are then taken out of its JSON or made hostile.
"""
from __future__ import annotations

from collections import Counter
import copy
from html.parser import HTMLParser
import json
from pathlib import Path
import re
import shutil
import subprocess
import sys
from typing import Any

import cv2
from evit_seg.core.errors import ConfigError, InputError
from evit_seg.replay import bag_eval, make_bag
from evit_seg.replay.page import write
from evit_seg.replay.page.blocks import Chart, Table
from evit_seg.replay.page.markdown import escaped
from evit_seg.replay.page.write import build_page, page_html, write_page
import numpy as np
import pytest
from tiny_bundle import anchor_colours, write_tiny_bundle

BACKGROUND, PERSON, VEHICLE = 0, 10, 13
SECTIONS = ['summary', 'alerts', 'map', 'classes', 'sizes', 'thresholds', 'frames', 'speed',
            'facts', 'notes']
BROWSER = next((path for name in ('chromium', 'chromium-browser', 'google-chrome')
                if (path := shutil.which(name))), None)
HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(2)>-->]]>$x_{2}$|`*[a](b)'
VOID = {'meta', 'img', 'wbr'}


def paint_flight(folder: Path) -> Path:
    """
    Write 6 s at 5 Hz over the equator, flying east, a square of 16 px in the middle.

    It is a person in frames 5 to 14; in frames 20 to 27 it looks like a vehicle and is none.
    """
    for name in ('IMG', 'GT'):
        (folder / name).mkdir(parents=True)
    rows = ['file,latitude_deg,longitude_deg,relative_altitude_m,yaw_deg,focal_length_mm,'
            'sensor_width_mm,time_s']
    boxes = ['frame,class,instance,x,y,w,h']
    for i in range(30):
        seen = np.zeros((64, 64), np.uint8)
        truth = np.zeros((64, 64), np.uint8)
        if 5 <= i < 15:
            seen[24:40, 24:40] = truth[24:40, 24:40] = PERSON
            boxes.append(f'f{i:03},person,1,24,24,16,16')
        elif 20 <= i < 28:
            seen[24:40, 24:40] = VEHICLE
        cv2.imwrite(str(folder / 'IMG' / f'f{i:03}.png'), anchor_colours()[seen][..., ::-1])
        cv2.imwrite(str(folder / 'GT' / f'f{i:03}.png'), truth)
        rows.append(f'f{i:03}.png,0.0,{10 + i * 1e-5:.6f},40,0,6.0,6.0,{i / 5}')
    (folder / 'frames.csv').write_text('\n'.join(rows))
    (folder / 'objects.csv').write_text('\n'.join(boxes))
    (folder / 'events.csv').write_text('class,instance,t_from,t_to,max_height_px\n'
                                       'person,1,1.0,2.8,16\n')
    return folder


@pytest.fixture(scope='module')
def made(tmp_path_factory) -> tuple[int, Path]:
    """Run the command once; return its exit code and the folder of what it wrote."""
    out = tmp_path_factory.mktemp('page')
    flight = paint_flight(out / 'flight')
    assert make_bag.main([str(flight), '--out', str(out / 'bag'), '--quiet']) == 0
    write_tiny_bundle(out / 'one')
    write_tiny_bundle(out / 'two', temperature=3.0)
    code = bag_eval.main([
        str(out / 'bag'), '--model', str(out / 'one'), '--model', str(out / 'two'),
        '--objects', str(flight / 'objects.csv'), '--events', str(flight / 'events.csv'),
        '--fail-under', 'miou=0.5', '--fail-over', 'vehicle.false_alerts_per_min=0',
        '--threads', '1', '--quiet', '--json', str(out / 'report.json'),
        '--html', str(out / 'report.html'), '--markdown', str(out / 'report.md')])
    return code, out


@pytest.fixture(scope='module')
def report(made) -> dict[str, Any]:
    return json.loads((made[1] / 'report.json').read_text())


class Reader(HTMLParser):
    """What stands in a page: tags, ids, links, styles and text; complains of open tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text = ''
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or '') for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or '') for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != 'style':
            self.text += f' {data}'

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


def html_of(content: dict[str, Any]) -> str:
    return page_html(build_page(content, 'bag_eval bag --html report.html'))


def test_the_command_writes_a_page_and_markdown_of_what_is_in_the_json(made, report):
    code, out = made
    assert code == 1  # the gate on false alerts
    page, markdown = (out / 'report.html').read_text(), (out / 'report.md').read_text()
    reader = Reader(page)
    assert [name for name in reader.values('id') if name in SECTIONS] == SECTIONS
    first, second = report['models']
    miou = f'{first["scores"]["dataset"]["miou"]:.3f}'
    for text in (' '.join(reader.text.split()), markdown):
        assert f'{miou} ' in text
        # each of the two bundles raised one false vehicle alert in 30 frames at 5 Hz: 10 a minute
        assert '10.00' in text
        assert '100 %' in text.replace('\N{NO-BREAK SPACE}', ' ')  # the person was found
        assert f'tiny ({first["sha256"][:8]})' in text.replace('\\', '')
        assert f'tiny ({second["sha256"][:8]})' in text.replace('\\', '')
        assert f'tiny ({first["sha256"][:8]}): 1 of 2 gates not held.' in text.replace('\\', '')
        assert 'bag_eval' in text
        assert '--fail-under miou=0.5' in text
    # maps, time line, curves of three classes, latency twice; each bundle has map and curves
    assert reader.tags['svg'] == 1 + 2 + 2 * 3 + 2
    assert reader.tags['img'] == 3 * sum(min(6, len(run['worst']['frames']))
                                         for run in report['runs'])
    assert f'and tiny ({second["sha256"][:8]}) disagree' in reader.text


def test_the_page_needs_no_network_and_no_script(made):
    page = (made[1] / 'report.html').read_text()
    reader = Reader(page)
    assert reader.tags['script'] == reader.tags['link'] == reader.tags['iframe'] == 0
    assert not re.search(r'https?:', page)
    links = reader.values('href') + reader.values('src') + reader.values('xlink:href') \
        + re.findall(r'url\(([^)]*)\)', page)
    assert all(link.startswith(('#', 'data:image/')) for link in links)
    assert '@import' not in page
    [policy] = [value for value in reader.values('content') if 'default-src' in value]
    assert "default-src 'none'" in policy
    assert not [name for name, _ in reader.attributes if name.startswith('on')]


def test_every_id_is_there_once_and_every_reference_leads_somewhere(made):
    page = (made[1] / 'report.html').read_text()
    ids = Counter(Reader(page).values('id'))
    assert [name for name, count in ids.items() if count > 1] == []
    wanted = {link[1:] for link in Reader(page).values('href')} \
        | set(re.findall(r'url\(#([^)]*)\)', page))
    assert len(wanted) > len(SECTIONS)
    assert wanted <= set(ids)


def test_the_same_json_gives_the_same_bytes(made, report, tmp_path):
    first = (made[1] / 'report.md').read_text()
    command = next(line.strip() for line in first.splitlines() if line.startswith('    bag_eval'))
    write_page(report, html=tmp_path / 'b.html', markdown=tmp_path / 'b.md', command=command)
    assert (tmp_path / 'b.html').read_bytes() == (made[1] / 'report.html').read_bytes()
    assert (tmp_path / 'b.md').read_text() == first


def poorer(report: dict[str, Any], drop: bool) -> list[dict[str, Any]]:
    """Return a report for each part of a run, a pooled model and the whole, without that part."""
    found = []
    paths: list[tuple[Any, ...]] = [(key,) for key in report]
    for top in ('runs', 'models'):
        paths += [(top, 0, key) for key in report[top][0]]
        for key in ('scores', 'events', 'curves', 'sizes', 'flicker', 'frames', 'worst', 'places',
                    'timing', 'model', 'bag'):
            part = report[top][0].get(key)
            paths += [(top, 0, key, inner) for inner in part] if isinstance(part, dict) else []
    for path in paths:
        content = copy.deepcopy(report)
        place = content
        for key in path[:-1]:
            place = place[key]
        if drop:
            del place[path[-1]]
        else:
            place[path[-1]] = None
        found.append(content)
    return found


@pytest.mark.parametrize('drop', [True, False], ids=['absent', 'null'])
def test_any_part_may_be_missing(report, drop):
    small = copy.deepcopy(report)
    for run in small['runs']:
        run['worst'] = {**run['worst'], 'frames': run['worst']['frames'][:1]}
    for content in poorer(small, drop):
        page = build_page(content)
        assert [section.slug for section in page.sections] == SECTIONS


def test_a_bare_run_makes_a_whole_page():
    content = {'schema': 2, 'tool': 'bag_eval', 'runs': [{'bag': {'name': 'b'}}], 'models': [],
               'disagreement': [], 'gates': [], 'failed': []}
    reader = Reader(html_of(content))
    text = ' '.join(reader.text.split())
    assert [name for name in reader.values('id') if name in SECTIONS] == SECTIONS
    assert 'No ground truth: nobody knows here whether the masks and alerts are right.' in text
    assert 'No gates were set' in text
    assert 'No map: the bag holds no position that could be used.' in text


def test_where_nothing_could_be_evaluated_the_page_says_so():
    content = {'schema': 2, 'tool': 'bag_eval', 'runs': [], 'models': [], 'disagreement': [],
               'gates': [], 'failed': [{'bag': 'x.bag', 'model': 'demo', 'reason': 'no images'}]}
    assert 'Not evaluated with demo: x.bag: no images' in Reader(html_of(content)).text


def test_without_ground_truth_no_number_pretends_to_be_one(report):
    content = copy.deepcopy(report)
    content['gates'] = []
    for entry in (*content['runs'], *content['models']):
        entry.update(scores=None, appearances=None, sizes=None)
        entry['events']['truth'] = None
        for row in entry['events']['classes']:
            row.update(annotated=False, appearances=None, hits=None, recall=None, spans=None,
                       false_alerts=None, false_alerts_per_min=None, time_to_alert_s=None,
                       already_on=None, idle_s=None, empty_s=None)
    for run in content['runs']:
        for part in run['frames']['classes'].values():
            part['in_view'] = None
    summary, alerts, *_ = build_page(content).sections
    [table] = [block for block in summary.blocks if isinstance(block, Table)]
    values = {row[0].text: (row[1].text, row[1].hint) for row in table.rows}
    assert values['mIoU'] == ('–', 'no ground truth')
    assert values['Person recall'] == ('–', 'no ground truth')
    assert values['Person alerts per minute'][1] == '1 alert; true or false is not known'
    [chart] = [block for block in alerts.blocks if isinstance(block, Chart)]
    assert 'When the class truly was in view is not known' in chart.caption


def hostile(content: Any, key: str = '') -> Any:
    """Return the report with free texts that are code; class slugs are the package's own."""
    if isinstance(content, dict):
        return {name: hostile(value, name) for name, value in content.items()}
    if isinstance(content, list):
        return [hostile(value, key) for value in content]
    keep = ('slug', 'class', 'tool', 'kind', 'a', 'b', 'image', 'truth', 'mask', 'sha256')
    return HOSTILE + content if isinstance(content, str) and key not in keep else content


def test_names_are_text_and_never_code(made, report):
    content = hostile(report)
    content['runs'][0]['worst']['frames'][0]['image'] = f'data:image/png;base64,"{HOSTILE}'
    harmless, reader = Reader((made[1] / 'report.html').read_text()), Reader(html_of(content))
    assert reader.tags['script'] == 0
    assert set(reader.tags) == set(harmless.tags)
    assert reader.tags['img'] == harmless.tags['img']
    assert not [name for name, _ in reader.attributes if name.startswith('on')]
    assert reader.text.count('alert("1")') > 20
    assert not any(value.startswith(('javascript:', 'http')) for value in reader.values('href'))


def test_names_in_markdown_are_text_too(report, tmp_path):
    write_page(hostile(report), markdown=tmp_path / 'r.md', command=HOSTILE)
    lines = (tmp_path / 'r.md').read_text().splitlines()
    assert any('alert("1")' in line for line in lines)
    for line in lines:
        if not line.startswith('    '):  # code is shown as it is
            assert '<script' not in line.replace('\\<', '')
        if line.startswith('| '):
            assert line.replace('\\|', '').count('|') >= 3


def test_tables_in_markdown_have_as_many_cells_as_heads(made):
    heads = None
    for line in (made[1] / 'report.md').read_text().splitlines():
        if not line.startswith('|'):
            heads = None
            continue
        count = line.replace('\\|', '').count('|')
        heads = heads or count
        assert count == heads, line


def test_markdown_signs_mean_themselves():
    assert escaped('a|b *c* <d>\n[e]') == 'a\\|b \\*c\\* \\<d\\> \\[e\\]'


def test_the_report_of_live_makes_a_page_as_it_is(report):
    run = report['runs'][0]
    live = {
        **{key: run[key] for key in ('bag', 'model', 'rules', 'notes', 'scores', 'alerts',
                                     'places', 'appearances')},
        'schema': 1, 'tool': 'live', 'rate': 1.0,
        'counts': {'sent': 30, 'answered': 28, 'node': {'received': 30, 'processed': 28,
                                                        'skipped': 2}},
        'timing': {'frames_per_s': 5.0, 'frames': run['timing']['frames'],
                   'latency_ms': {'p50': 10.0, 'p95': 20.0, 'p99': 30.0, 'mean': 11.0},
                   'age_ms': None, 'alert_latency_ms': None, 'machine': {'cores': 2}},
        'mode_timeline': [
            {'t_s': 0.0, 'source': 'mode', 'mode': 'nominal', 'reason': ''},
            {'t_s': 3.0, 'source': 'mode', 'mode': 'degraded', 'reason': 'every 2nd frame'}],
        'comparison': {'comparable': False, 'why': ['2 frames were skipped'], 'same_alerts': None,
                       'confirm_n': {'person': 5}, 'differences': []}}
    reader = Reader(html_of(live))
    text = ' '.join(reader.text.split())
    assert 'Live run: bag' in text
    assert '28 of 30' in text
    assert 'Not comparable with bag_eval: 2 frames were skipped' in text
    assert 'degraded' in text
    assert 'every 2nd frame' in text
    assert reader.tags['svg'] == 1 + 1 + 2  # time line, map, latency twice


def test_a_place_that_cannot_be_written_is_told(report, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot be written'):
        write_page(report, markdown=tmp_path / 'file' / 'r.md')


def test_a_missing_library_is_named_with_the_way_out(report, monkeypatch):
    def no_jinja(name: str, *arguments: Any, **options: Any) -> Any:
        if name == 'evit_seg.replay.page':
            raise ModuleNotFoundError("No module named 'jinja2'", name='jinja2')
        return real(name, *arguments, **options)
    real = __import__
    page = build_page(report)
    monkeypatch.setattr('builtins.__import__', no_jinja)
    with pytest.raises(ConfigError, match=r'jinja2 is missing: pip install .evit_seg\[replay\]'):
        write.page_html(page)


PROBE = """<!DOCTYPE html><meta charset="utf-8"><body><iframe id="f" style="border:0;
width:{width}px;height:900px"></iframe><pre id="said"></pre><script>
const frame = document.getElementById('f');
frame.onload = () => {{
  const page = frame.contentDocument, root = page.documentElement;
  page.querySelectorAll('details').forEach((fold) => {{ fold.open = true; }});
  const charts = [...page.querySelectorAll('svg')].map((svg) => svg.getBoundingClientRect());
  document.getElementById('said').textContent = 'said:' + JSON.stringify({{
    scroll: root.scrollWidth, client: root.clientWidth, charts: charts.length,
    flat: charts.filter((box) => box.width < 200 || box.height < 80).length,
    broken: [...page.images].filter((image) => image.complete && !image.naturalWidth).length,
    body: getComputedStyle(page.body).fontSize}}) + ':said';
}};
frame.srcdoc = {page};
</script>"""


@pytest.mark.skipif(BROWSER is None, reason='needs chromium to look at the page')
@pytest.mark.parametrize('width', [1280, 360])
def test_a_browser_shows_it_without_complaint_or_sideways_scroll(made, tmp_path, width):
    page = (made[1] / 'report.html').read_text().replace(' loading="lazy"', '')
    text = json.dumps(page).replace('</script', '<\\/script')
    (tmp_path / 'probe.html').write_text(PROBE.format(width=width, page=text))
    result = subprocess.run(
        [BROWSER, '--headless', '--no-sandbox', '--disable-gpu', '--enable-logging=stderr',
         '--virtual-time-budget=20000', f'--user-data-dir={tmp_path / "profile"}', '--dump-dom',
         (tmp_path / 'probe.html').as_uri()],
        capture_output=True, text=True, timeout=300, check=False)
    assert not [line for line in result.stderr.splitlines() if ':CONSOLE' in line]
    # The probe's own source holds the words too: what it wrote begins with 'said:{'.
    found = re.search(r'said:(\{.*?\}):said', result.stdout)
    assert found, result.stderr[-2000:]
    said = json.loads(found.group(1).replace('&quot;', '"'))
    assert said['scroll'] <= said['client']
    assert width - 20 <= said['client'] <= width  # less its scroll bar
    assert (said['charts'], said['flat'], said['broken']) == (11, 0, 0)


def test_the_drawing_libraries_are_loaded_only_for_a_page():
    code = ('import sys; import evit_seg.replay.bag_eval; '
            'print([name for name in ("matplotlib", "jinja2") if name in sys.modules])')
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                            timeout=300, check=True)
    assert result.stdout.strip() == '[]'
