"""Sparse synapses from end to end on stand-in data: the notebook, the named experiments of the original, the study's plan cut to a few samples."""
import math
import subprocess
import sys
from functools import partial

import conftest
import pytest

from clrepro.papers import PAPERS, fields
from clrepro.sparse_plan import OBSERVED, figure_names

reproduce = partial(conftest.reproduce, 'sparse_synapses')
CUT = ['--seeds', '1', '--set', 'n_epochs=1', '--set', 'use=100', '--set', 'batch_size=16', '--set', 'n_test=20', '--set', 'train_per_class=20',
       '--set', 'test_per_class=5', '--set', 'hidden_units=30', '--set', 'channels=[4]',
       '--set', 'dynamic.update_every=2', '--set', 'dynamic_budget.update_every=2']


@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp('smoke')
    return out, *reproduce(out, '--profile', 'smoke', '--fresh')


def test_results(smoke):
    _, results, done = smoke
    assert results['profile'] == 'smoke' and all(entry['standin'] for entry in results['data'])
    assert {run['method'] for run in results['runs']} == {row.owner for row in fields(PAPERS['sparse_synapses']) if row.kind == 'method'}
    for run in results['runs']:
        values = [v for row in run['accuracy_matrix'] if row for v in row] + run['initial_accuracy'] + [run['metrics']['acc'], run['seconds']]
        assert all(map(math.isfinite, values)), run['method']
    assert {claim['verdict'] for claim in results['claims']} == {'not comparable'} and 'STAND-IN' in done.stdout


def test_statistics_are_in_the_records(smoke):
    results = smoke[1]
    watched = {run['method'] for run in results['runs'] if 'statistics' in run}
    assert watched == {*OBSERVED, 'dynamic_budget'}
    for run in results['runs']:
        if run['method'] == 'dynamic': assert min(run['statistics']['turnover']) > 0 and len(run['statistics']['fields'][0]) == 784
        if run['method'] == 'kwinners': assert run['statistics']['units_on'] == {'fc1': 2.0}


def test_files(smoke):
    names = {path.name for path in smoke[0].iterdir()}
    assert {'results.json', 'table.md', 'runs.csv', 'sparse_synapses.ipynb', *(f'{name}.svg' for name in figure_names('smoke'))} <= names


def test_a_named_experiment(tmp_path):
    results, _ = reproduce(tmp_path, '--data', 'standin', '--seeds', '3', '--set', 'name=MLP_1LayerSparse_small', '--set', 'num_batch=2', '--set', 'use=300',
                           '--set', 'hidden_units=100', '--set', 'train_ep=1')
    [run] = {run['method']: run for run in results['runs']}.values()
    assert run['method'] == 'kwinners' and run['config']['method']['percent_on_fc'] == 0.02 and run['config']['training']['n_epochs'] == 1
    assert run['config']['training']['n_epochs_inc'] == 4 and len(run['accuracy_matrix']) == 2 and 'perc_on_avg' in run['statistics']
    assert (tmp_path/'fig1.png').exists() and not results['claims']


@pytest.mark.parametrize('wrong, says', [
    (['name=MLP_1LayerSpars'], "Did you mean 'MLP_1LayerSparse'"), (['name=SplitMNIST', 'num_batch=10'], 'num_batch=5'),
    (['name=MLP_1Layer', 'hidden_unit=3'], "Did you mean 'hidden_units'"), (['hidden_unit=3'], "Did you mean 'hidden_units'"),
    (['dynamic.growth=hub', 'n_tasks=2'], 'growth'),
])
def test_errors(wrong, says, tmp_path):
    args = [part for text in wrong for part in ('--set', text)]
    done = subprocess.run([sys.executable, '-m', 'clrepro', 'reproduce', 'sparse_synapses', '--profile', 'smoke', '--out', str(tmp_path), *args],
                          capture_output=True, text=True)
    assert done.returncode == 2 and says in done.stderr, done.stderr


def test_the_study_runs(tmp_path):
    results, _ = reproduce(tmp_path, '--profile', 'study', '--data', 'standin', *CUT)
    assert len({run['stream'] for run in results['runs']}) == 7 and not [claim['id'] for claim in results['claims'] if claim['verdict'] == 'not run']
    missing = {name for name in figure_names('study') if not (tmp_path/f'{name}.svg').exists()}
    assert not missing
