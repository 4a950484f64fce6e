"""The command line: fast, documented, one line for an error."""
import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clrepro import cli, cli_data
from clrepro.papers import PAPERS, fields, parameters
from clrepro.results import example, save

ROOT = Path(__file__).resolve().parents[1]
CLREPRO = [sys.executable, '-m', 'clrepro']

def run(*args): return subprocess.run([*CLREPRO, *args], capture_output=True, text=True, cwd=ROOT)

def refused(capsys, *args) -> str:
    "The one line on stderr of a command that ends with exit code 2."
    assert cli.main(args) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith('clrepro: ')
    return line

@pytest.mark.parametrize('args', [['--help'], ['list'], ['list', '--params']])
def test_answers_at_once(args):
    def seconds():
        start = time.perf_counter()
        assert run(*args).returncode == 0
        return time.perf_counter() - start
    assert min(seconds() for _ in range(3)) < 1.5

def test_imports_nothing_heavy():
    code = 'import sys, clrepro.cli as cli; cli.main(["list", "--params"]); print(sorted(sys.modules))'
    loaded = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.splitlines()[-1]
    for name in ('torch', 'numpy', 'papermill', 'visdom', 'matplotlib', 'pandas', 'scipy', 'nbdev', 'fastcore'): assert f"'{name}'" not in loaded

def parsers(parser=None):
    "Every parser below `parser`."
    parser = parser or cli.build_parser()
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values(): yield from parsers(sub)

def test_every_command_and_option_says_what_it_means_and_its_default():
    seen = 0
    for parser in parsers():
        assert parser.description
        for action in parser._actions:
            if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)): continue
            assert action.help and len(action.help) > 10, (parser.prog, action.dest)
            if action.option_strings or action.nargs in ('*', '?'): assert '(default: ' in action.help, (parser.prog, action.dest)
            seen += 1
    assert seen > 30

def test_every_notebook_parameter_has_an_option():
    [sub] = [parser for parser in parsers() if parser.prog == 'clrepro reproduce']
    options = {action.dest for action in sub._actions}
    for paper in PAPERS.values(): assert set(parameters(paper.path)) - {'overrides'} <= options

def test_list(capsys):
    assert cli.main(['list', 'bcl']) == 0
    said = capsys.readouterr().out
    for words in ('Bilevel Continual Learning', 'arXiv:2007.15553', 'data: mnist', 'expected minutes: smoke', 'fig1'): assert words in said

def test_list_params_names_every_parameter_and_what_it_means(capsys):
    assert cli.main(['list', 'bcl', '--params']) == 0
    said = capsys.readouterr().out
    for name in parameters(PAPERS['bcl'].path): assert re.search(rf'^  {name} ', said, re.M)
    for row in fields(PAPERS['bcl']):
        assert row.meaning, f'{row.owner}.{row.name} has no comment that says what it means'
        assert re.search(rf'^  {row.name} +{row.type.__name__} +{re.escape(repr(row.default))} +{re.escape(row.meaning)} .*{row.owner}', said, re.M)
    for name in ('data_path', 'data_file', 'use', 'n_memories', 'memory_strength', 'temperature', 'lr', 'beta', 'adapt', 'adapt_lr', 'inner_steps',
                 'n_meta', 'n_val', 'replay_batch_size'): assert re.search(rf'^  {name} ', said, re.M), name

@pytest.mark.parametrize('args, words', [
    (['list', 'blc'], "unknown paper 'blc'. Did you mean 'bcl'?"),
    (['reproduce', '--set', 'lr'], 'expected name=value'),
    (['reproduce', '--set', 'bcl_dual.n_metta=2'], "Did you mean 'bcl_dual.n_meta'?"),
    (['reproduce', '--set', 'lr=fast'], "lr='fast': expected float"),
    (['reproduce', '--seeds', 'x'], "seeds='x': expected a count"),
    (['reproduce', '--methods', 'er,kdrr'], "unknown method 'kdrr'. Did you mean 'kdr'?"),
    (['reproduce', '--only', 'figg1'], "Did you mean 'fig1'?"),
    (['data', 'get', 'mnits'], "Did you mean 'mnist'?"),
    (['data', 'gem', 'mnist_permutation', 'x'], "Did you mean 'mnist_permutations'?"),
])
def test_mistakes_are_one_line(capsys, args, words): assert words in refused(capsys, *args)

def test_errors_keep_their_exit_code(capsys, no_data, tmp_path):
    assert cli.main(['data', 'verify', 'mnist']) == 3
    assert cli.main(['compare', str(tmp_path), str(tmp_path)]) == 3
    assert cli.main(['data', 'import', str(tmp_path/'nothing')]) == 3
    assert all(line.startswith('clrepro: ') for line in capsys.readouterr().err.splitlines())

def test_usage_error_of_the_parser(capsys):
    with pytest.raises(SystemExit) as end: cli.main(['reproduce', '--profile', 'quik'])
    assert end.value.code == 2 and 'quick' in capsys.readouterr().err

def test_interrupted(monkeypatch, capsys):
    def interrupt(args): raise KeyboardInterrupt
    monkeypatch.setattr(cli, 'run_list', interrupt)
    assert cli.main(['list']) == 130 and capsys.readouterr().err.startswith('clrepro: interrupted')

def test_closed_pipe_is_quiet():
    process = subprocess.Popen([*CLREPRO, 'list', '--params'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    process.stdout.close()
    assert process.stderr.read() == b'' and process.wait() in (0, 1)

def test_set_values():
    assert cli.setting('n_val=0.1') == ('n_val', 0.1) and cli.setting('accumulate=False') == ('accumulate', False)
    assert cli.setting('data_path=../files') == ('data_path', '../files')

def test_options_become_parameters(monkeypatch):
    seen = []
    monkeypatch.setattr('clrepro.reproduce.reproduce', lambda *args: seen.append(args) or 0)
    assert cli.main('reproduce bcl --profile study --seeds 100-109 --jobs 2 --live --fresh --set lr=0.1 --set er.n_memories=50 --dry-run'.split()) == 0
    given = {'profile': 'study', 'seeds': '100-109', 'jobs': 2, 'live': 'visdom', 'fresh': True, 'overrides': {'lr': 0.1, 'er.n_memories': 50}}
    assert seen == [(['bcl'], given, True, False)]

def test_the_seed_of_the_original_is_exactly_that_seed(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr('clrepro.reproduce.reproduce', lambda *args: seen.append(args[1]) or 0)
    assert cli.main('reproduce bcl --set seed=3 --set n_epochs=2'.split()) == 0 and cli.main('reproduce bcl --set seed=0'.split()) == 0
    assert seen == [{'seeds': '3-3', 'overrides': {'n_epochs': 2}}, {'seeds': '0-0', 'overrides': {}}]
    assert 'expected one of them' in refused(capsys, 'reproduce', 'bcl', '--seeds', '2', '--set', 'seed=3')
    assert 'whole number' in refused(capsys, 'reproduce', 'bcl', '--set', 'seed=first')

def test_show(capsys, tmp_path):
    path = save(example(('er', ('er', 'k4'), 'offline')), tmp_path/'results.json')
    assert cli.main(['show', str(path), '--method', 'er', '--seed', '1']) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == 'er/main on permuted_mnist, seed 1' and re.fullmatch(r'ACC 0\.\d{4} FM 0\.\d{4} LA 0\.\d{4} seconds \d\.\d\d seed=1 .*', said[-1])
    for words in ('arguments: ', 'final accuracy: ', 'diagonal accuracy: ', 'backward: ', 'forward: ', 'forgetting: ', 'untrained  ', 'task 4  '):
        assert sum(line.startswith(words) for line in said) == 1, words
    cli.main(['show', str(tmp_path)]), cli.main(['show', str(tmp_path), '--variant', 'all', '--stream', 'permuted_mnist'])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if ' on permuted_mnist' in line] == [
        *['offline/main'] * 3, *['er/main'] * 3, *['offline/main'] * 3, *['er/main'] * 3, *['er/k4'] * 3]
    assert refused(capsys, 'show', str(path), '--method', 'gem').endswith('The methods there are: offline, er')
    assert refused(capsys, 'show', str(path), '--method', 'er', '--seed', '9').endswith('The seeds there are: 0, 1, 2')
    assert "Did you mean 'bcl'" in refused(capsys, 'show', 'blc')

def test_show_reads_the_folder_of_the_profile(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, 'root', lambda: tmp_path)
    save(example(('er',), seeds=[4]), tmp_path/'out'/'quick'/'bcl'/'results.json')
    assert cli.main(['show', 'bcl', '--profile', 'quick']) == 0 and 'seed 4' in capsys.readouterr().out
    assert cli.main(['show', 'bcl']) == 3 and 'does not exist' in capsys.readouterr().err

def test_help_names_what_can_be_written_and_imported():
    from clrepro.gem import KINDS
    assert cli_data.GEM_KINDS == tuple(KINDS)
    said = run('data', 'import', '--help').stdout
    assert 'CUB-200-2011' in said and 'miniimagenet' in said

def test_doctor(capsys, no_data):
    assert cli.main(['doctor']) == 0
    said = capsys.readouterr().out
    for what in ('Python', 'packages', 'device', 'kernel', 'data: mnist', 'front', 'disk', 'visdom'): assert re.search(rf'^{what} +(ok|note)', said, re.M), said
    assert re.search('data: mnist +note +absent +clrepro data get mnist', said)

def test_doctor_names_damage(capsys, no_data):
    files = {f'{split}_{kind}.npy': {'bytes': 1, 'mtime_ns': 0, 'sha256': 'x'} for split in ('train', 'test') for kind in ('images', 'labels')}
    (no_data/'installed.json').write_text(json.dumps({'mnist': {'files': files, 'sha256': {}}}))
    assert cli.main(['doctor']) == 1
    (no_data/'fronts').mkdir()
    (no_data/'fronts'/'cifar10-seed0-e30.pt').write_bytes(b'cut')
    said = capsys.readouterr().out
    assert re.search('data: mnist +problem +damaged +clrepro data get mnist', said) and re.search('front +note +none +clrepro front train', said)
    assert cli.main(['doctor']) == 1
    assert re.search('front +problem +.*cifar10-seed0-e30.* +delete that file, then clrepro front train', capsys.readouterr().out)

def test_data_list(capsys, no_data):
    assert cli.main(['data', 'list']) == 0
    said = capsys.readouterr().out
    assert re.search('^mnist +absent', said, re.M) and str(no_data) in said
    assert all(re.search(f'^{name} ', said, re.M) for name in ('fashion_mnist', 'kmnist', 'svhn', 'cifar10', 'cifar100'))

def test_get_takes_papers_too(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr('clrepro.download.get', lambda *args: asked.append(args) or [])
    cli.main(['data', 'get']), cli.main(['data', 'get', 'bcl', 'kmnist'])
    [every, *rest], [named, *_] = asked
    assert set(every) == {name for paper in PAPERS.values() for name in paper.data} and len(every) == len(set(every)) and rest == [None, False]
    assert named == [*PAPERS['bcl'].data, 'kmnist']
