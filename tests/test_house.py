"""The house: notebooks and modules agree, the README tells the truth, nothing of one machine is in the tree."""
import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clrepro.papers import PAPERS, parameters

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
NOTEBOOKS = sorted((ROOT/'nbs').rglob('[!.]*.ipynb'))
NOTEBOOKS = [path for path in NOTEBOOKS if '.ipynb_checkpoints' not in path.parts]

def tracked() -> list[Path]:
    "Files that git tracks, or would: nothing ignored."
    command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', '-z']
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode: pytest.skip('not a git checkout')
    return [path for path in map(Path, filter(None, listed.stdout.split('\0'))) if (ROOT/path).is_file()]

@pytest.fixture(scope='module')
def processed(tmp_path_factory):
    "A copy of the tree after nbdev_clean and nbdev_export."
    copy = tmp_path_factory.mktemp('tree')
    for path in tracked():
        (copy/path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT/path, copy/path)
    for command in ('nbdev_clean', 'nbdev_export'):
        done = subprocess.run([BIN/command], cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return copy

def test_clean_and_export_leave_no_diff(processed):
    changed = [str(path) for path in tracked() if (ROOT/path).read_bytes() != (processed/path).read_bytes()]
    new = {path.relative_to(processed) for path in (processed/'clrepro').glob('*.py')} - set(tracked())
    assert not changed and not new

@pytest.mark.parametrize('name', PAPERS)
def test_parameters_tag_survives_cleaning(processed, name):
    kept = parameters(processed/PAPERS[name].notebook)
    assert list(kept) == ['profile', 'data', 'device', 'seeds', 'live', 'out', 'methods', 'streams', 'only', 'stages', 'jobs', 'fresh', 'overrides']
    assert all(row.meaning for row in kept.values())

def test_every_paper_notebook_is_registered_and_small():
    papers = sorted((ROOT/'nbs'/'papers').glob('*.ipynb'))
    assert [path.stem for path in papers] == sorted(PAPERS)
    assert all(path.stat().st_size < 300_000 for path in papers)

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_anywhere(path):
    notebook = json.loads(path.read_text())
    assert notebook['metadata']['kernelspec']['name'] == 'python3'
    title, *_ = notebook['cells']
    assert title['cell_type'] == 'markdown' and title['source'][0].startswith('# ')

def test_nothing_of_one_machine_is_in_the_tree():
    here = '|'.join(re.escape(f'{folder}/') for folder in (ROOT, Path.home()))
    mine = re.compile(rb'/home/\w|/Users/\w|file:///|' + here.encode())
    bad = [str(path) for path in tracked() if path != Path('tests/test_house.py') and mine.search((ROOT/path).read_bytes())]
    assert not bad

def test_pinned():
    pins = dict(re.findall(r'^([\w.-]+)==([^\s;]+)', (ROOT/'constraints.txt').read_text(), re.M))
    settings = (ROOT/'settings.ini').read_text()
    wanted = re.search(r'^requirements = (.*)$', settings, re.M)[1].split() + re.search(r'^dev_requirements = (.*)$', settings, re.M)[1].split()
    assert {re.match(r'[\w.-]+', text)[0] for text in wanted} <= set(pins)
    assert settings.endswith('\n') and '%' not in settings

def test_ruff():
    done = subprocess.run([BIN/'ruff', 'check', '--no-cache', '--quiet', '.'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

def test_make_help_lists_every_target():
    phony = re.search(r'^\.PHONY: (.*)$', (ROOT/'Makefile').read_text(), re.M)[1].split()
    rules = re.findall(r'^([a-z-]+):', (ROOT/'Makefile').read_text(), re.M)
    said = subprocess.run(['make', '-s', 'help'], cwd=ROOT, capture_output=True, text=True).stdout
    assert sorted(phony) == sorted(rules)
    for target in phony: assert re.search(rf'^make {target} +\w', said, re.M), target

def test_make_says_which_python_it_needs(tmp_path):
    for name in ('Makefile', 'constraints.txt', 'settings.ini', 'setup.py', 'pyproject.toml'): shutil.copy(ROOT/name, tmp_path)
    done = subprocess.run(['make', 'setup', 'PYTHON=false'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode and 'clrepro needs Python 3.11 or later' in done.stderr and not (tmp_path/'.venv').exists()

def test_make_passes_its_variables_through():
    done = subprocess.run(['make', '-n', 'reproduce', 'PROFILE=study', 'PAPERS=bcl', 'SEEDS=3,5'], cwd=ROOT, capture_output=True, text=True)
    assert 'clrepro data get bcl' in done.stdout and 'clrepro reproduce bcl --profile study --seeds 3,5' in done.stdout

def test_examples_of_the_readme(tmp_path, capsys):
    code, own, learner = re.findall(r'```python\n(.*?)```', (ROOT/'README.md').read_text(), re.S)
    assert len([line for line in code.splitlines() if line]) <= 5
    names = {}
    exec(code, names)
    assert [record['seed'] for record in names['records']] == [0, 1] and all(0 < record['metrics']['acc'] <= 1 for record in names['records'])
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert len([line for line in own.splitlines() if line]) < 30
    (tmp_path/'own.py').write_text(own + "print([record['stream'] for record in records])")
    done = subprocess.run([sys.executable, 'own.py'], cwd=tmp_path, env=os.environ | {'PYTHONPATH': str(ROOT)}, capture_output=True, text=True)
    assert done.stdout == "['inverted_mnist', 'inverted_mnist']\n", done.stderr
    exec(learner, names)
    assert names['predicted'].shape == (10,)

def test_generated_blocks_of_the_readme_are_up_to_date():
    from clrepro.report import update_readme
    assert update_readme(check=True), 'run: clrepro report'
    assert (ROOT/'README.md').read_text().count('<!-- generated: ') == 1

def test_first_cells_of_the_paper_notebooks_are_up_to_date():
    from clrepro.colab import TAG, refresh
    assert refresh(check=True), 'run: clrepro report'
    for paper in PAPERS.values():
        first = next(cell for cell in json.loads(paper.path.read_text())['cells'] if cell['cell_type'] == 'code')
        assert first['metadata']['tags'] == [TAG]

def test_readme_tells_the_truth():
    readme = (ROOT/'README.md').read_text()
    for link in re.findall(r'\]\(([^)#:]+)\)', readme): assert (ROOT/link).exists(), link
    targets = re.search(r'^\.PHONY: (.*)$', (ROOT/'Makefile').read_text(), re.M)[1].split()
    assert set(re.findall(r'^    make ([a-z-]+)', readme, re.M)) <= set(targets)

def test_core_needs_only_torch_and_numpy():
    allowed = {'torch', 'numpy', 'clrepro'} | set(sys.stdlib_module_names)
    for name in ('core', 'rng', 'data', 'standin', 'streams', 'splits', 'nn', 'resnet', 'sparse_layers', 'sparse_nets', 'memory', 'methods',
                 'regularised', 'projection', 'meta', 'icarl', 'bcl', 'engine', 'metrics', 'records', 'runs', 'adapter'):
        for node in ast.parse((ROOT/'clrepro'/f'{name}.py').read_text()).body:
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level: found = [node.module]
            assert {full.split('.')[0] for full in found} <= allowed, name
