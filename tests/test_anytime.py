"""Anytime learning from end to end on stand-in data: the notebook, the original's commands, classes of a user's own, the array script."""
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import conftest
import pytest

from clrepro.anytime_configs import METHODS
from clrepro.anytime_plan import CIFAR, MNIST, figure_names, plan
from clrepro.runs import execute
from clrepro.study import configure

CLI = [sys.executable, '-m', 'clrepro']
reproduce = partial(conftest.reproduce, 'anytime')


@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp('smoke')
    return out, *reproduce(out, '--profile', 'smoke', '--fresh')


def test_results(smoke):
    out, results, done = smoke
    ran = {(run['stream'], run['method']) for run in results['runs']}
    assert ran == {(stream, method) for stream in (MNIST, CIFAR) for method in METHODS} - {(MNIST, 'firefly')}
    for run in results['runs']:
        R = run['accuracy_matrix']
        assert all(len(row) == 1 and 0 <= row[0] <= 1 for row in R) and len(run['error_curve']) == len(R), run['method']
        metrics = run['metrics']
        assert metrics['fm'] is metrics['la'] is None and math.isclose(metrics['acc'], 1 - metrics['final_error'], abs_tol=1e-9)
        assert math.isclose(metrics['cer'], sum(run['error_curve']), abs_tol=1e-6) and run['train_flops'] == 6 * run['forward_mac'] > 0
        assert run['params_end'] == run['params_curve'][-1] and run['params_sum'] == sum(run['params_curve'])
    assert {claim['verdict'] for claim in results['claims']} == {'not comparable'} and 'STAND-IN' in done.stdout
    names = {path.name for path in out.iterdir()}
    assert {f'{name}.{kind}' for name in figure_names('smoke') for kind in ('svg', 'csv')} <= names


def test_the_command_of_the_readme(tmp_path):
    results, _ = reproduce(tmp_path, '--data', 'standin', '--set', 'config=mnist/test_finetune_mlp', '--set', 'n_megabatches=2', '--set', 'replay=1',
                           '--set', 'clmodel.max_epochs=200', '--set', 'clmodel.model.n_hidden=8', '--set', 'device=cpu')
    [run] = results['runs']
    config = run['config']
    assert (config['stream']['n_megabatches'], config['stream']['replay'], config['method']['max_epochs']) == (2, 1.0, 200) and len(run['accuracy_matrix']) == 2
    assert run['method'] == 'single' and run['rounds']['train'][1] > 1.9 * run['rounds']['train'][0] and run['epochs'][0] > 25


def test_a_grid_is_a_record_a_point(tmp_path):
    results, _ = reproduce(tmp_path, '--data', 'standin', '--seeds', '2', '--set', 'config=mnist/kensemble', '--set', 'clmodel.model.n_hidden=4,8',
                           '--set', 'use=120', '--set', 'max_epochs=2')
    assert [(run['variant'], run['seed']) for run in results['runs']] == [('n_hidden_4', 0), ('n_hidden_4', 1), ('n_hidden_8', 0), ('n_hidden_8', 1)]


def test_a_bare_name_means_mnist_and_says_so(tmp_path):
    results, _ = reproduce(tmp_path, '--data', 'standin', '--set', 'config=test_usage_gmoe', '--set', 'use=60', '--set', 'max_epochs=1')
    assert {(run['method'], run['stream']) for run in results['runs']} == {('gmoe', MNIST)}
    assert 'test_usage_gmoe' in (tmp_path/'anytime.ipynb').read_text().replace('\\"', '"')


def test_classes_of_a_users_own(tmp_path):
    (tmp_path/'mine.py').write_text('''
from clrepro.anytime_nets import UnitMLP
from clrepro.megabatches import MnistMegabatches

class Shorter(MnistMegabatches):
    name = 'shorter'
    n_megabatches: int = 3  # chunks

class Linear(UnitMLP):
    def __init__(self, units, shape, n_outputs, dtype): super().__init__(units, (shape[0] * shape[1], n_outputs), dtype)
''')
    results, _ = reproduce(tmp_path/'out', '--data', 'standin', '--set', 'stream.class_name=mine.Shorter',
                           '--set', 'clmodel.model.class_name=mine.Linear', '--set', 'use=90', '--set', 'max_epochs=1',
                           '--set', 'n_megabatches=3', env={'PYTHONPATH': str(tmp_path)})
    [run] = results['runs']
    assert run['stream'] == 'shorter' and len(run['accuracy_matrix']) == 3 and run['n_parameters'] == 7850


@pytest.mark.parametrize('profile', ['quick', 'study', 'full'])
def test_the_plan_runs(profile):
    "Every cell of a plan, cut to three megabatches of few samples; cells that are alike then run once."
    config = configure('anytime', profile=profile, device='cpu', data='standin', seeds='1')
    tiny = {'use': 90.0, 'n_test': 20, 'max_epochs': 1, 'n_megabatches': 3, 'n_hidden': 4, 'n_channels': 2, 'batch_size': 27}
    cells = {}
    for cell in plan(config):
        options = {name: tiny.get(name, value) for name, value in cell.options.items()} | {'wait': min(cell.options['wait'], 2)}
        if 'grow_every' in options: options['grow_every'] = 1
        cells.setdefault((cell.method.name, cell.stream.name, str(sorted(options.items()))), replace(cell, options=options))
    rows = execute(list(cells.values()), None, 'cpu', 'standin', jobs=1)
    assert len(rows) == len(cells) and all(0 <= row['metrics']['final_error'] <= 1 for row in rows)
    assert {row['method'] for row in rows} >= ({'single', 'ens', 'gens', 'moe', 'gmoe'} if profile == 'quick' else set(METHODS))


@pytest.mark.parametrize('wrong, says', [
    (['config=mnist/test_usage_gmo'], "Did you mean 'mnist/test_usage_gmoe'"), (['clmodel.max_epoch=3'], "Did you mean 'max_epochs'"),
    (['n_megabatchs=3'], "Did you mean 'n_megabatches'"), (['config=boosting_moe'], 'missing there too'), (['replay=2'], 'replay=2'),
])
def test_errors(wrong, says, tmp_path):
    args = [part for text in wrong for part in ('--set', text)]
    done = subprocess.run([*CLI, 'reproduce', 'anytime', '--profile', 'smoke', '--out', str(tmp_path), *args], capture_output=True, text=True)
    assert done.returncode == 2 and says in done.stderr, done.stderr


def test_sbatch(tmp_path):
    given = ['anytime', '--profile', 'smoke', '--methods', 'single', '--streams', MNIST]
    done = subprocess.run([*CLI, 'sbatch', *given, '--file', str(tmp_path/'job.sh'), '--partition', 'gpu'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (tmp_path/'job.sh').read_text()
    assert '#SBATCH --array=0-2\n' in text and '#SBATCH --partition=gpu\n' in text
    assert subprocess.run(['bash', '-n', tmp_path/'job.sh']).returncode == 0
    (tmp_path/'clrepro').write_text(f'#!/bin/bash\nexec {sys.executable} -m clrepro "$@"\n')
    (tmp_path/'clrepro').chmod(0o755)
    ran = subprocess.run(['bash', tmp_path/'job.sh'], capture_output=True, text=True,
                         env=os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_ARRAY_TASK_ID': '1'})
    assert ran.returncode == 0 and 'seed 0: ACC' in ran.stdout, ran.stderr
