"""Results on disk: written whole, committed ones true to themselves, and read without heavy imports."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

from clrepro.claims import Claim, difference, evaluate
from clrepro.core import DiskError
from clrepro.report import results_below
from clrepro.results import assemble, dumps, example, load, save
from clrepro.tables import runs_csv, table_md

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = results_below(ROOT/'figures')

def loaded_by(code: str) -> set:
    "The top-level modules that a fresh interpreter has loaded after `code`."
    code += '\nimport sys, json; print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))'
    return set(json.loads(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.splitlines()[-1]))

def test_reading_judging_and_reporting_load_nothing_heavy():
    code = 'from clrepro import claims, metrics, page, plots, report, results\npage.report_html([results.example()])'
    assert not loaded_by(code) & {'torch', 'matplotlib', 'seaborn', 'scipy', 'pandas', 'papermill'}

def test_equal_content_is_equal_text_whatever_the_order_and_the_process(tmp_path):
    results = example(seeds=range(4))
    again = assemble(results['paper'], results['profile'], [dict(reversed(run.items())) for run in reversed(results['runs'])],
                     results['claims'], results['selection'], results['data'], results['provenance'])
    assert dumps(again) == dumps(results)
    code = 'from clrepro.results import dumps, example; print(dumps(example(seeds=range(4))), end="")'
    for seed in ('1', '2'):
        text = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env={'PYTHONHASHSEED': seed}).stdout
        assert text == dumps(results)

def test_a_change_in_one_run_is_one_line_of_the_file(tmp_path):
    results = example()
    before = dumps(results).splitlines()
    results['runs'][3]['seconds'] += 1
    after = dumps(results).splitlines()
    assert len(before) == len(after) and sum(a != b for a, b in zip(before, after)) == 1

def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = save(example(), tmp_path/'results.json')
    old = path.read_bytes()
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(DiskError, match='No space left'): save(example(seeds=[7]), path)
    assert path.read_bytes() == old and [p.name for p in tmp_path.iterdir()] == ['results.json']

def test_verdicts_follow_from_the_rows_of_the_file(tmp_path):
    "What an outside tool recomputes from results.json is what stands there."
    claim = Claim('S1', 'ACC(BCL-Dual) - ACC(ER) >= 2 points', difference('acc', 'bcl_dual', 'er'), margin=.02)
    results = example(seeds=range(100, 110))
    judged = evaluate([claim], results['runs'])
    results = load(save({**results, 'claims': judged}, tmp_path/'results.json'))
    acc = {(run['method'], run['seed']): sum(run['accuracy_matrix'][-1]) / 5 for run in results['runs']}
    mean = sum(acc['bcl_dual', seed] - acc['er', seed] for seed in range(100, 110)) / 10
    [row] = results['claims']
    assert abs(row['ours'] - mean) < 1e-6 and row['ci95'][0] < mean < row['ci95'][1] and row['n'] == 10 and row['verdict'] == 'holds'

def test_a_family_keeps_its_adjusted_p_through_the_file(tmp_path):
    "Three paired differences whose t statistics are 2 √3, √3 and 0: with two degrees of freedom p = ½ - t / (2 √(2 + t²)), by Holm times 3, 2, 1."
    def rows(method, offsets):
        runs = example((method,), seeds=range(3))['runs']
        return [{**run, 'metrics': {**run['metrics'], 'acc': .5 + offset}} for run, offset in zip(runs, offsets)]
    base = example(('er', 'kdr', 'finetune', 'bcl_dual'), seeds=range(3))
    results = {**base, 'runs': [*rows('bcl_dual', (.1, .2, .3)), *rows('finetune', (0, 0, 0)), *rows('kdr', (.1, .1, .1)), *rows('er', (.2, .2, .2))]}
    claims = [Claim(f'A1 {m}', '', difference('acc', 'bcl_dual', m), margin=0., family='A1') for m in ('er', 'finetune', 'kdr')]
    judged = evaluate([*claims, Claim('S1', '', difference('acc', 'bcl_dual', 'er'), margin=0.)], results['runs'])
    stored = load(save({**results, 'claims': judged}, tmp_path/'results.json'))['claims']
    p = [.5 - t / (2 * (2 + t * t)**.5) for t in (2 * 3**.5, 3**.5, 0)]
    assert [row['p_holm'] for row in stored[:3]] == pytest.approx([p[2], 3 * p[0], 2 * p[1]], rel=1e-5) and 'p_holm' not in stored[3]
    assert [row['verdict'] for row in stored] == ['undecided'] * 4, 'the verdict is that of the interval'

@pytest.mark.skipif(not COMMITTED, reason='no results below figures/ yet: clrepro reproduce --profile study makes them')
@pytest.mark.parametrize('folder', COMMITTED, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_committed_tables_are_those_of_the_committed_results(folder):
    results = load(folder)
    assert (folder/'results.json').read_text(encoding='utf-8') == dumps(results)
    assert (folder/'table.md').read_text(encoding='utf-8') == table_md(results)
    assert (folder/'runs.csv').read_text(encoding='utf-8') == runs_csv(results)
    assert not any(entry['standin'] for entry in results['data'])
    watched = sum('statistics' in run or 'routing' in run for run in results['runs'])
    tested = sum(len(run['accuracy_matrix']) for run in results['runs'] if 'rounds' in run)
    assert (folder/'results.json').stat().st_size < 3_000 * len(results['runs']) + 15_000 * watched + 60 * tested
