"""The page of all results in a browser, and `clrepro verify` on what is committed."""
import json
import re
import shutil
import time
from pathlib import Path

import pytest
from test_visdom_page import CHROMIUM, browser

from clrepro import cli
from clrepro.page import build, entry, report_html, sha256
from clrepro.papers import PAPERS
from clrepro.report import results_below
from clrepro.results import example, load, save

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = [path for path in results_below(ROOT/'figures') if path.name in PAPERS]
EVIL = '"><script>document.title = "run"</script>'

def claim(id, verdict):
    return {'id': id, 'statement': EVIL, 'kind': 'inequality', 'reported': None, 'source': EVIL, 'ours': .1, 'ci95': [.05, .15], 'n': 3, 'margin': .08,
            'verdict': verdict}

@pytest.fixture
def page(tmp_path):
    "A page of two papers, text of the user's that would run wherever it is not escaped."
    for name in ('bcl', 'anytime'):
        results = example(claims=[claim('S1', 'holds'), claim(EVIL, 'undecided')])
        data = [{**entry, 'source': EVIL} for entry in results['data']]
        save({**results, 'paper': name, 'data': data, 'provenance': {**results['provenance'], 'device': EVIL}}, tmp_path/name/'results.json')
    cell = {'cell_type': 'code', 'source': EVIL, 'outputs': [{'output_type': 'stream', 'text': EVIL}, {'data': {'text/html': EVIL}}]}
    (tmp_path/'bcl'/'bcl.ipynb').write_text(json.dumps({'cells': [{'cell_type': 'markdown', 'source': EVIL}, cell]}))
    return build(tmp_path)

def test_text_of_users_is_escaped_and_nothing_is_fetched(page):
    text = page.read_text()
    assert '<script' not in text and text.count('&lt;script&gt;') > 8
    assert not re.search(r'src="(?!data:)|url\(|@import|<link|<iframe', text) and "default-src 'none'" in text and 'unsafe' not in text

@pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on this machine')
@pytest.mark.parametrize('width', [375, 1280])
def test_page_fits_and_filters(page, tmp_path, width):
    pytest.importorskip('websocket')
    with browser('about:blank', tmp_path/'profile') as tab:
        tab.call('Emulation.setDeviceMetricsOverride', width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
        tab.call('Page.navigate', url=page.as_uri())
        until = time.monotonic() + 20
        while not tab.evaluate('document.querySelectorAll("tr.claim").length') and time.monotonic() < until: time.sleep(.2)
        tab.evaluate('document.querySelectorAll("details").forEach(one => one.open = true)')
        assert tab.evaluate('document.documentElement.scrollWidth') <= width and tab.evaluate('document.title') == 'clrepro: results'
        assert tab.evaluate('getComputedStyle(document.querySelector("summary")).cursor') == 'pointer', 'the style is let in'
        shown = lambda what: tab.evaluate(f'[...document.querySelectorAll("{what}")].filter(one => one.offsetParent).length')
        assert shown('tr.claim') == 4 and shown('section') == len(PAPERS)
        tab.evaluate('document.querySelector("#v-undecided").click()')
        assert shown('tr.claim') == shown('tr.v-undecided') == 2 and not shown('.rest')
        tab.evaluate(f'document.querySelector("#p-{list(PAPERS).index("bcl")}").click()')
        assert shown('tr.claim') == 1 and shown('section') == shown('#bcl') == 1
        tab.evaluate('document.querySelectorAll("input").forEach(one => one.checked = false)')
        assert shown('tr.claim') == 4

def test_the_committed_page_is_up_to_date(tmp_path):
    "It shows the committed results, notebooks and ledgers; pictures are compared by their number, since their bytes depend on the platform's zlib."
    page = ROOT/'figures'/'report.html'
    if not page.exists(): pytest.skip('no page: clrepro report')
    text = page.read_text()
    [built] = re.findall('name="clrepro-results" content="(.*?)"', text)
    assert set(built.split()) >= {f'{path.name}/study={sha256(load(path))}' for path in COMMITTED}, 'run: clrepro report'
    bare = lambda text: re.sub('base64,[^"]*', '', text)
    assert bare(report_html([entry(path) for path in results_below(ROOT/'figures')])) == bare(text), 'run: clrepro report'

def test_the_page_needs_only_the_results(tmp_path, no_data):
    (tmp_path/'bcl').mkdir()
    shutil.copy(ROOT/'figures'/'bcl'/'results.json', tmp_path/'bcl')
    text = build(tmp_path).read_text()
    assert text.count('<img alt="fig') == 8 and 'Protocol ledger' in text and 'Executed notebook' not in text

@pytest.mark.parametrize('folder', COMMITTED, ids=lambda path: path.name)
def test_committed_results_verify(folder, capsys):
    results = load(folder)
    run = results['runs'][0]
    cell = f'{folder.name}/table/{run["stream"]}/{run["method"]}/{run["variant"]}/acc'
    for target in (str(sorted(folder.glob('fig*.svg'))[-1]), f'{folder.name}/table', cell, f'{folder.name}/{results["claims"][0]["id"]}'):
        assert cli.main(['verify', target]) == 0, target
        said = capsys.readouterr().out
        for word in ('commit', 'seeds', 'versions', 'sha256', 'record', 'rebuilt'): assert word in said

@pytest.mark.parametrize('folder', COMMITTED, ids=lambda path: path.name)
def test_every_claim_is_judged_again_to_the_same_verdict(folder):
    from clrepro.verify import claims_of, close, evaluate
    results = load(folder)
    again = {row['id']: row for row in evaluate(claims_of(results), results['runs'])}
    assert [claim['id'] for claim in results['claims'] if not close(claim, again.get(claim['id']))] == []

def test_verify_says_no_and_what_there_is(tmp_path, capsys):
    save({**example(), 'paper': 'bcl'}, tmp_path/'results.json')
    (tmp_path/'table.md').write_text('edited')
    assert cli.main(['verify', str(tmp_path/'table.md')]) == 1 and 'NO: 6 bytes there' in capsys.readouterr().out
    for target, says in (('bcl/fgi1', 'unknown claim, figure or table'), ('nothing', 'is neither a file'), (str(tmp_path/'fig99.svg'), 'unknown figure')):
        assert cli.main(['verify', target]) == 2 and says in capsys.readouterr().err, target
