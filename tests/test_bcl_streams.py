"""The four benchmarks of the original's script, end to end at profile `full`, cut to two tasks of twenty samples, on folders of the sets' own layouts."""
import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

CUT = ['--seeds', '1', '--set', 'n_tasks=2', '--set', 'use=20', '--set', 'n_test=20', '--set', 'n_memories=10', '--set', 'pretrained=False']
STREAMS = {'permuted_mnist': [], 'split_cifar100': [], 'split_cub': ['--set', 'image_size=64'], 'split_miniimagenet': ['--set', 'image_size=32']}


def clrepro(*args, data):
    done = subprocess.run([sys.executable, '-m', 'clrepro', *args], capture_output=True, text=True, env=os.environ | {'CLREPRO_DATA': str(data)})
    assert done.returncode == 0, done.stderr
    return done.stdout


def picture(path, g):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(g.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(path)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "Both sets that have no stand-in, a few small pictures a class, imported."
    g, raw, folder = np.random.default_rng(0), tmp_path_factory.mktemp('raw'), tmp_path_factory.mktemp('data')
    names = [f'{c:03}.bird/bird_{c:03}_{i}.jpg' for c in range(1, 201) for i in range(3)]
    for name in names: picture(raw/'cub'/'images'/name, g)
    lists = {'images': names, 'image_class_labels': [int(name[:3]) for name in names], 'train_test_split': [int(i % 3 < 2) for i in range(len(names))]}
    for file, column in lists.items():
        (raw/'cub'/f'{file}.txt').write_text(''.join(f'{i} {value}\n' for i, value in enumerate(column, 1)))
    rows = [(f'n{c:08}_{i}.jpg', f'n{c:08}') for c in range(100) for i in range(6)]
    for name, _ in rows: picture(raw/'mini'/'images'/name, g)
    for part, classes in (('train', range(64)), ('val', range(64, 80)), ('test', range(80, 100))):
        with open(raw/'mini'/f'{part}.csv', 'w', newline='') as file:
            csv.writer(file).writerows([('filename', 'label'), *[row for row in rows if int(row[1][1:]) in classes]])
    clrepro('data', 'import', 'cub', str(raw/'cub'), data=folder)
    clrepro('data', 'import', 'miniimagenet', str(raw/'mini'), data=folder)
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
    assert selection == (known if stream == 'permuted_mnist' else set())
