"""The four benchmarks of the original's script, end to end at profile `full`, cut to two tasks of twenty samples, on folders of the sets' own layouts."""
import json
import os
import subprocess
import sys

import pytest
from test_folders import write_cub, write_miniimagenet

CUT = ['--seeds', '1', '--set', 'n_tasks=2', '--set', 'use=20', '--set', 'n_test=20', '--set', 'pretrained=False']
STREAMS = {'permuted_mnist': [], 'split_cifar100': [], 'split_cub': ['--set', 'image_size=64'], 'split_miniimagenet': ['--set', 'image_size=32']}


def clrepro(*args, data):
    done = subprocess.run([sys.executable, '-m', 'clrepro', *args], capture_output=True, text=True, env=os.environ | {'CLREPRO_DATA': str(data)})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "Both sets that have no stand-in, a few small pictures a class, imported."
    raw, folder = tmp_path_factory.mktemp('raw'), tmp_path_factory.mktemp('data')
    clrepro('data', 'import', 'cub', str(write_cub(raw/'cub')), data=folder)
    clrepro('data', 'import', 'miniimagenet', str(write_miniimagenet(raw/'mini')), data=folder)
    return folder


@pytest.mark.parametrize('stream', STREAMS)
def test_full_runs_end_to_end(stream, data, tmp_path):
    clrepro('reproduce', 'bcl', '--profile', 'full', '--device', 'cpu', '--streams', stream, *CUT, *STREAMS[stream], '--out', str(tmp_path), data=data)
    results = json.loads((tmp_path/'results.json').read_text())
    main = {run['method']: run for run in results['runs'] if run['variant'] == 'main' and run['stream'] == stream}
    known = {'finetune', 'offline', 'er', 'kdr', 'bcl_single', 'bcl_dual', 'ewc', 'gem', 'agem', 'mer', 'lwf', 'ftml', 'independent'}
    assert set(main) == (known | {'icarl'}) - {'permuted_mnist': {'icarl'}, 'split_cub': {'independent'}}.get(stream, set())
    for name, run in main.items():
        accuracies = [value for row in run['accuracy_matrix'] if row for value in row]
        assert accuracies and all(0 <= value <= 1 for value in accuracies), name
    selection = {entry['method'] for entry in results['selection']}
    assert selection == {'permuted_mnist': known, 'split_cifar100': {'icarl'}}.get(stream, set())
