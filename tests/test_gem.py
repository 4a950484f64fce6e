"GEM files that are hostile, cut short or too large, and the stream that reads them."
import os
import pickle
import subprocess
import sys

import pytest
import torch

from clrepro import gem
from clrepro.core import DataError, DiskError
from clrepro.splits import STREAMS


class Hostile:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.system, (f'touch {self.path}',)


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize('save', [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))], ids=['torch', 'pickle'])
def test_nothing_is_executed(tmp_path, save):
    save([Hostile(tmp_path/'executed'), []], tmp_path/'file.pt')
    with pytest.raises(DataError, match='file.pt: no whole file of tensors'): gem.read(tmp_path/'file.pt')
    assert not (tmp_path/'executed').exists()


@pytest.mark.parametrize('size', [0, 1, 100, -100])
def test_cut_short(tmp_path, size):
    [row] = gem.convert('mnist_rotations', tmp_path, n_tasks=2, val_tasks=0, use=10, data='standin')
    path = tmp_path/'mnist_rotations-cl.pt'
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match='mnist_rotations-cl.pt'): gem.read(path)


def test_missing(tmp_path):
    with pytest.raises(DataError, match='none.pt is missing.*clrepro data gem'): gem.read(tmp_path/'none.pt')


def test_old_file_format(tmp_path):
    tasks = [[None, torch.rand(3, 4), torch.arange(3)]]
    torch.save([tasks, tasks], tmp_path/'old.pt', _use_new_zipfile_serialization=False)
    train, test = gem.read(tmp_path/'old.pt')
    assert torch.equal(train[0][1], tasks[0][1]) and test[0][2].tolist() == [0, 1, 2]


def test_size_is_said_first_and_refused_beyond_the_disk(tmp_path, monkeypatch, capsys):
    from clrepro import data
    usage = data.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(data.shutil, 'disk_usage', lambda path: usage._replace(free=10**6))
    with pytest.raises(DiskError, match='needs 14.4 MB in .*only 1.0 MB'):
        gem.convert('mnist_permutations', tmp_path/'out', n_tasks=8, use=73, data='standin')
    assert '8 tasks, 14.4 MB' in capsys.readouterr().err and not (tmp_path/'out').exists()


def test_disk_that_fills_up_leaves_no_file(tmp_path):
    "Wherever in the file the space ends, the last byte included."
    program = ('import os, resource, sys, torch; from clrepro import gem; from clrepro.core import DiskError\n'
               'tasks, path = [[0, torch.rand(50, 784), torch.zeros(50).long()]], sys.argv[1]\n'
               'size = gem.write(path, tasks, tasks).stat().st_size\n'
               'os.unlink(path)\n'
               'for missing in (1, 100, 5000, size - 10):\n'
               '    resource.setrlimit(resource.RLIMIT_FSIZE, (size - missing, size))\n'
               '    try: gem.write(path, tasks, tasks)\n'
               '    except DiskError as error: print(error)')
    run = subprocess.run([sys.executable, '-c', program, tmp_path/'a.pt'], capture_output=True, text=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 4 and all(line.startswith(f'cannot write {tmp_path/"a.pt"}') for line in lines), run.stderr
    assert not list(tmp_path.iterdir())


def test_stream_reads_what_was_written(tmp_path):
    "A file converted from the drawn colour images is a stream of tasks with a head each."
    gem.convert('cifar100', tmp_path, use=30, data='standin')
    stream = STREAMS['gem_file']([0, 1], data_path=str(tmp_path), data_file='cifar100-cl.pt')
    x, y = stream.train(16, stream.order(16)[:, :7])
    assert stream.n_tasks == 17 and stream.n_classes == 85 and x.shape == (2, 7, 3072)
    assert set(y.flatten().tolist()) <= set(range(80, 85))
