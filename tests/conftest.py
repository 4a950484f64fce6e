"""What the tests share: one thread, tiny paper notebooks, a private data folder."""
import json
import os
from dataclasses import replace
from pathlib import Path

for variable in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'): os.environ.setdefault(variable, '1')

import pytest

from clrepro.papers import PAPERS

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

@pytest.fixture
def register(tmp_path, monkeypatch):
    "register(name, *sources): a paper whose notebook has these cells, or one that writes results; no other papers are known."
    model = PAPERS['bcl']
    for name in list(PAPERS): monkeypatch.delitem(PAPERS, name)
    def add(name, *sources):
        path = write_notebook(tmp_path/f'{name}.ipynb', *(sources or [RESULTS]))
        monkeypatch.setitem(PAPERS, name, replace(model, name=name, notebook=str(path)))
        return path
    return add

@pytest.fixture
def no_data(tmp_path, monkeypatch):
    "An empty data folder."
    folder = tmp_path/'data'
    folder.mkdir()
    monkeypatch.setenv('CLREPRO_DATA', str(folder))
    return folder
