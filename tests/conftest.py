"""What the tests share: one thread, tiny paper notebooks, a private data folder."""
import os

for variable in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'): os.environ.setdefault(variable, '1')

import json
from dataclasses import replace
from pathlib import Path

import pytest

from clrepro.papers import PAPERS

ROOT = Path(__file__).resolve().parents[1]

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

WRITE_RESULTS = """import json, pathlib
claims = [{'verdict': 'holds'}, {'verdict': 'holds'}, {'verdict': 'undecided'}]
rows = [{'name': 'mnist', 'standin': data == 'standin'}]
results = {'schema': 1, 'profile': profile, 'data': rows, 'claims': claims, 'parameters': [seeds, jobs, overrides]}
pathlib.Path(out, 'results.json').write_text(json.dumps(results))
"""

def notebook(path: Path, *sources: str, parameters: str = PARAMETERS) -> Path:
    "Write a notebook: the parameters cell, then a code cell for each source."
    cells = [{'cell_type': 'code', 'id': f'cell{i}', 'metadata': {}, 'execution_count': None, 'outputs': [], 'source': source.splitlines(True)}
             for i, source in enumerate((parameters, *sources))]
    cells[0]['metadata']['tags'] = ['parameters']
    metadata = {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}}
    path.write_text(json.dumps({'cells': cells, 'metadata': metadata, 'nbformat': 4, 'nbformat_minor': 5}, indent=1, sort_keys=True) + '\n')
    return path

@pytest.fixture
def paper(tmp_path, monkeypatch):
    "paper(name, *sources) registers a paper whose notebook has those cells; all other papers are away."
    for name in list(PAPERS): monkeypatch.delitem(PAPERS, name)
    bcl = Paper_of_record
    def register(name, *sources):
        path = notebook(tmp_path/f'{name}.ipynb', *sources)
        monkeypatch.setitem(PAPERS, name, replace(bcl, name=name, notebook=str(path)))
        return PAPERS[name]
    return register

Paper_of_record = PAPERS['bcl']

@pytest.fixture
def no_data(tmp_path, monkeypatch):
    "An empty data folder."
    folder = tmp_path/'data'
    folder.mkdir()
    monkeypatch.setenv('CLREPRO_DATA', str(folder))
    return folder
