"Installed image sets: what import refuses, what load and verify find, what a full disk or a kill leaves."
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clrepro import data
from clrepro.core import DataError, DiskError, UsageError

REAL = Path(__file__).parents[2]/'shared'/'data'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    "The data folder of this test."
    monkeypatch.setenv('CLREPRO_DATA', str(tmp_path/'data'))
    return tmp_path/'data'


@pytest.fixture
def copy(tmp_path):
    "A small set of its own as a plain folder with meta.json."
    return write_set(tmp_path/'copy', 'own')


def write_set(path, name, seed=0, **meta):
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True)
    sums = {}
    for split, n in (('train', 20), ('test', 6)):
        images, labels = rng.integers(0, 256, (n, 5, 5, 3), np.uint8), np.arange(n) % 4
        np.save(path/f'{split}_images.npy', images)
        np.save(path/f'{split}_labels.npy', labels)
        sums[split] = data.content_hash(images, labels)
    facts = {'name': name, 'source': 'a test', 'licence': 'none', 'lossless': True, 'note': 'n', 'sha256': sums}
    (path/'meta.json').write_text(json.dumps({**facts, **meta}))
    return path


def test_import_records_source_licence_and_hash(copy, folder):
    [row] = data.import_folder(copy)
    images = data.load('own', 'real')
    assert images.entry() == {'name': 'own', 'source': 'a test', 'sha256': row['sha256'], 'standin': False, 'lossless': True}
    assert (images.licence, images.note, images.n_classes) == ('none', 'n', 4)
    assert json.loads((folder/'installed.json').read_text())['own']['sha256'] == row['sha256']
    assert sorted(os.listdir(folder/'own')) == sorted([*data.FILES, 'meta.json'])


def test_import_of_a_folder_of_several(tmp_path):
    for seed, name in enumerate(('one', 'two', 'three')): write_set(tmp_path/'all'/name, name, seed)
    assert [row['name'] for row in data.import_folder(tmp_path/'all', 'two')] == ['two']
    assert [row['name'] for row in data.import_folder(tmp_path/'all')] == ['one', 'three', 'two']
    assert len(data.verify()) == 6


def test_name_only_without_meta(copy):
    with pytest.raises(UsageError, match="says 'own'"): data.import_folder(copy, 'other')
    (copy/'meta.json').unlink()
    with pytest.raises(UsageError, match='clrepro data import NAME'): data.import_folder(copy)
    [row] = data.import_folder(copy, 'other')
    assert row['name'] == 'other' and not row['lossless']


@pytest.mark.parametrize('file, array, words', [
    ('train_images.npy', np.zeros((20, 5, 5, 3), np.float32), 'float32'),
    ('train_images.npy', np.zeros((20, 5, 5, 4), np.uint8), r'\[20, 5, 5, 4\]'),
    ('train_labels.npy', np.zeros(19, np.int64), r'20 whole numbers.*found int64 \[19\]'),
    ('train_labels.npy', np.zeros(20), 'float64'),
    ('test_labels.npy', np.array([0, 1, 2, 3, 0, -1]), 'labels 0-255, found -1-3'),
    ('test_labels.npy', np.array([0, 1, 2, 3, 0, 0]), 'test: expected content sha256 [0-9a-f]{64}.*found [0-9a-f]{64}.*import'),
])
def test_import_refuses(copy, folder, file, array, words):
    np.save(copy/file, array)
    with pytest.raises(DataError, match=words): data.import_folder(copy)
    assert not data.installed()


def test_import_refuses_truncated_pickled_missing_and_bad_meta(copy):
    path = copy/'train_images.npy'
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(DataError, match='train_images.npy is not a whole .npy array'): data.import_folder(copy)
    np.save(path, np.array([print], object))
    with pytest.raises(DataError, match='train_images.npy is not a whole .npy array'): data.import_folder(copy)
    path.unlink()
    with pytest.raises(DataError, match='train_images.npy is missing'): data.import_folder(copy)
    path.write_bytes(whole)
    (copy/'meta.json').write_text('{"name": ')
    with pytest.raises(DataError, match='meta.json is not JSON'): data.import_folder(copy)


def test_manifest_decides_what_mnist_is(tmp_path):
    "A set of the right shape that isn't MNIST is refused, whatever its meta.json says."
    path = tmp_path/'fake'
    path.mkdir()
    for split, n in data.SETS['mnist'].sizes.items():
        np.save(path/f'{split}_images.npy', np.zeros((n, 28, 28), np.uint8))
        np.save(path/f'{split}_labels.npy', np.zeros(n, np.int64))
    (path/'meta.json').write_text('{"name": "mnist"}')
    expected = data.manifest()['mnist']['sha256']['train']
    with pytest.raises(DataError, match=f'{expected}.*manifest.*clrepro data get mnist'): data.import_folder(path)


def test_names_cannot_leave_the_folder(tmp_path):
    path = write_set(tmp_path/'evil', '../../evil')
    with pytest.raises(UsageError, match='lower-case'): data.import_folder(path)


def test_refused_import_keeps_the_installed_set(copy, folder):
    data.import_folder(copy)
    before = data.load('own').entry()
    np.save(copy/'test_labels.npy', np.zeros(6, np.int64))
    with pytest.raises(DataError): data.import_folder(copy)
    assert data.load('own').entry() == before and data.verify()


def test_changed_byte_is_found(copy, folder):
    "A byte changed in place is found by load; with the old time of change put back, by verify."
    data.import_folder(copy)
    path = folder/'own'/'train_images.npy'
    state = path.stat()
    with open(path, 'r+b') as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    found = 'expected sha256 [0-9a-f]{64} .*found [0-9a-f]{64} .*'
    message = f'{path} is damaged or missing: {found}Mend it with: clrepro data import'
    with pytest.raises(DataError, match=message): data.load('own')
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    data.load('own')
    with pytest.raises(DataError, match=message): data.verify()
    data.import_folder(copy)
    assert data.verify()


def test_one_error_names_every_damaged_set(copy, folder, tmp_path):
    data.import_folder(copy)
    data.import_folder(write_set(tmp_path/'second', 'second', 1))
    (folder/'own'/'test_labels.npy').unlink()
    (folder/'second'/'meta.json').unlink()
    with pytest.raises(DataError) as caught: data.verify()
    first, second = str(caught.value).splitlines()
    assert 'own/test_labels.npy' in first and 'found no file' in first and 'second/meta.json is missing' in second
    states = {row['name']: row['state'] for row in data.status()}
    assert states['own'] == states['second'] == 'damaged' and states['mnist'] == 'absent'


def test_damaged_set_is_never_replaced_by_a_standin(copy, folder):
    (folder/'mnist').mkdir(parents=True)
    known = {'bytes': 1, 'mtime_ns': 0, 'sha256': '0' * 64}
    entry = {'sha256': {}, 'files': dict.fromkeys(data.FILES, known)}
    (folder/'installed.json').write_text(json.dumps({'mnist': entry}))
    with pytest.raises(DataError, match='clrepro data get mnist'): data.load('mnist', 'auto')
    assert data.load('mnist', 'standin').standin


def test_standin_warns_once_a_process(monkeypatch, capsys):
    monkeypatch.setattr(data, '_warned', set())
    assert data.load('cifar10').standin and data.load('cifar10').standin
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and 'STAND-IN' in lines[0] and 'clrepro data get cifar10' in lines[0]
    data.load('cifar10', 'standin')
    assert not capsys.readouterr().err
    with pytest.raises(DataError, match='cifar10 is not installed'): data.load('cifar10', 'real')


def test_too_little_space_is_refused_before_writing(copy, folder, monkeypatch):
    usage = data.shutil.disk_usage(copy)
    monkeypatch.setattr(data.shutil, 'disk_usage', lambda path: usage._replace(free=10))
    with pytest.raises(DiskError, match='own needs .* MB'): data.import_folder(copy)
    assert not folder.exists()


@pytest.mark.parametrize('limit, file', [(100, 'own'), (1600, 'own'), (1700, 'installed.json')])
def test_disk_that_fills_up(copy, folder, tmp_path, limit, file):
    "Wherever in a file the space ends, the set installed before is whole and there is no litter. (Largest array: 1628 bytes.)"
    data.import_folder(write_set(tmp_path/'second', 'second'))
    data.import_folder(write_set(tmp_path/'old', 'own', 1))
    before = data.load('own').entry()
    program = ('import sys; from clrepro import data\n'
               'try: data.import_folder(sys.argv[1])\n'
               'except data.DiskError as error: sys.exit(str(error))')
    no_more = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    run = subprocess.run([sys.executable, '-c', program, str(copy)], capture_output=True, text=True, preexec_fn=no_more)
    assert run.returncode == 1 and run.stderr.startswith(f'cannot write {folder/file}') and 'Traceback' not in run.stderr
    assert data.load('own').entry() == before and data.verify() and not list(folder.glob('.new-*'))


def test_litter_of_a_killed_import_is_swept(copy, folder):
    (folder/'.new-dead').mkdir(parents=True)
    data.import_folder(copy)
    assert not list(folder.glob('.new-*'))


def test_imports_no_torch():
    program = 'import sys, clrepro.data, clrepro.standin; assert not {"torch", "scipy", "sklearn"} & set(sys.modules)'
    subprocess.run([sys.executable, '-c', program], check=True)


def test_real_mnist(tmp_path, folder):
    "The unpacked MNIST of a neighbouring folder has the manifest's content."
    if not (REAL/'unpack.py').exists(): pytest.skip(f'no real MNIST: {REAL} is not there')
    subprocess.run([sys.executable, REAL/'unpack.py', tmp_path/'unpacked', 'mnist'], check=True, capture_output=True,
                   env={**os.environ, 'PYTHONDONTWRITEBYTECODE': '1'})
    [row] = data.import_folder(tmp_path/'unpacked')
    assert row['sha256'] == data.manifest()['mnist']['sha256']
    images = data.load('mnist', 'real')
    assert images.train_images.shape == (60000, 28, 28) and not images.standin and images.lossless
    assert np.bincount(images.train_labels)[:3].tolist() == [5923, 6742, 5958]
