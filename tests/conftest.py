"""What the tests share: one thread, tiny paper notebooks, a private data folder."""
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

for variable in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'): os.environ.setdefault(variable, '1')

import pytest

from clrepro.core import DataError
from clrepro.data import import_folder, load
from clrepro.papers import PAPERS

PACK = Path(__file__).resolve().parents[2]/'shared'/'data'

PARAMETERS = """profile = 'quick'  # how much
data = 'standin'  # which data
device = 'auto'  # where
seeds = ''  # which seeds
live = ''  # live views
out = ''  # folder
methods = ''  # which methods
streams = ''  # which streams
only = ''  # which figures
stages = 'run,figures'  # what to do
jobs = 0  # processes
fresh = False  # repeat what is recorded
overrides = {}  # name: value
"""

RESULTS = """import json, pathlib, sys
claims = [{'verdict': 'holds'}, {'verdict': 'holds'}, {'verdict': 'undecided'}]
results = {'profile': profile, 'data': [{'name': 'mnist', 'standin': data == 'standin'}], 'claims': claims,
           'seen': {'seeds': seeds, 'jobs': jobs, 'overrides': overrides, 'python': sys.executable}}
pathlib.Path(out, 'results.json').write_text(json.dumps(results))
print('a line of output')
"""

def write_notebook(path: Path, *sources: str) -> Path:
    "A notebook with the parameters cell and a code cell for each source."
    cells = [{'cell_type': 'code', 'id': f'cell{i}', 'metadata': {}, 'execution_count': None, 'outputs': [], 'source': source.splitlines(True)}
             for i, source in enumerate((PARAMETERS, *sources))]
    cells[0]['metadata']['tags'] = ['parameters']
    metadata = {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}}
    notebook = {'cells': cells, 'metadata': metadata, 'nbformat': 4, 'nbformat_minor': 5}
    path.write_text(json.dumps(notebook, indent=1, sort_keys=True) + '\n')
    return path

def reproduce(paper: str, out: Path, *args, env: dict | None = None) -> tuple:
    "The results of `clrepro reproduce PAPER` on the CPU, and the finished process."
    done = subprocess.run([sys.executable, '-m', 'clrepro', 'reproduce', paper, '--device', 'cpu', '--out', str(out), *args], capture_output=True, text=True,
                          env=os.environ | (env or {}))
    assert done.returncode == 0, done.stderr
    return json.loads((out/'results.json').read_text()), done

@pytest.fixture
def register(tmp_path):
    "register(name, *sources): a paper whose notebook has these cells, or one that writes results; no other papers are known."
    every, model = dict(PAPERS), PAPERS['bcl']
    PAPERS.clear()
    def add(name, *sources):
        path = write_notebook(tmp_path/f'{name}.ipynb', *(sources or [RESULTS]))
        PAPERS[name] = replace(model, name=name, notebook=str(path))
        return path
    yield add
    PAPERS.clear()
    PAPERS.update(every)  # in their order

@pytest.fixture
def no_data(tmp_path, monkeypatch):
    "An empty data folder."
    folder = tmp_path/'data'
    folder.mkdir()
    monkeypatch.setenv('CLREPRO_DATA', str(folder))
    return folder

@pytest.fixture(scope='module')
def real_mnist(tmp_path_factory):
    "Real MNIST, from the user's own data folder or from the folder beside the checkout."
    try:
        yield load('mnist', 'real')
        return
    except DataError:
        if not PACK.exists(): pytest.skip('real MNIST is not installed (clrepro data get mnist) and ../shared/data is not there')
    folder = tmp_path_factory.mktemp('real')
    subprocess.run([sys.executable, str(PACK/'unpack.py'), str(folder/'raw'), 'mnist'], check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('CLREPRO_DATA', str(folder/'data'))
        import_folder(folder/'raw')
        yield load('mnist', 'real')
