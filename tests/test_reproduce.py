"""The runner: refusals before a kernel starts, failures as one line and an exit code, nothing left behind."""
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clrepro import reproduce as runner
from clrepro.core import DataError, UsageError
from clrepro.reproduce import reproduce, write_back

ROOT = Path(__file__).resolve().parents[1]

def alive(pid: int) -> bool:
    try: return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError: return False

def gone(pid: int, seconds: float = 10) -> bool:
    "Whether the process ends in time."
    until = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < until: time.sleep(0.1)
    return not alive(pid)

@pytest.fixture
def no_kernel(monkeypatch):
    def refuse(*_): raise AssertionError('a kernel was started')
    monkeypatch.setattr(runner, 'execute', refuse)

@pytest.mark.parametrize('given, words', [
    ({'sedes': '3'}, "unknown parameter 'sedes'. Did you mean 'seeds'? Valid: data, device"),
    ({'profile': 'quik'}, "unknown profile 'quik'. Did you mean 'quick'? Valid: full, quick, smoke, study"),
    ({'jobs': '2'}, "jobs='2': expected int"),
    ({'jobs': -1}, 'jobs=-1: expected 0'),
    ({'fresh': 1}, 'fresh=1: expected bool'),
    ({'seeds': 'three'}, "seeds='three': expected a count"),
    ({'device': 'gpu'}, "device='gpu': expected auto, cpu, cuda"),
    ({'methods': 'bcl_dul'}, "unknown method 'bcl_dul'. Did you mean 'bcl_dual'?"),
    ({'only': 'fig99'}, "unknown figure 'fig99'"),
    ({'stages': 'draw'}, "unknown stage 'draw'. Valid: figures, run"),
    ({'live': 'visdon'}, "Did you mean 'visdom'?"),
    ({'overrides': {'lrr': 0.1}}, "unknown override 'lrr'. Did you mean 'lr'?"),
    ({'overrides': {'bcl_dual.lr': 'big'}}, "bcl_dual.lr='big': expected float"),
    ({'overrides': 'lr=1'}, 'expected a dict'),
    ({'profile': 'smoke', 'data': 'real'}, 'profile smoke runs on stand-in data'),
])
def test_refused_before_a_kernel_starts(register, no_kernel, given, words):
    register('toy')
    with pytest.raises(UsageError) as refusal: reproduce([], given)
    assert words in str(refusal.value)

def test_unknown_paper(register, no_kernel):
    register('toy')
    with pytest.raises(UsageError, match="unknown paper 'tyo'. Did you mean 'toy'"): reproduce(['tyo'], {})

def test_real_data_that_is_not_there(register, no_kernel, no_data):
    register('toy')
    with pytest.raises(DataError, match='clrepro data get mnist'): reproduce([], {'data': 'real'})

def test_dry_run(register, no_kernel, no_data, capsys):
    register('toy')
    assert reproduce([], {'overrides': {'lr': 0.1}, 'seeds': '3,5'}, dry_run=True) == 0
    said = capsys.readouterr().out
    for words in ('mnist (stand-in)', 'expected', 'minutes', "seeds = '3,5'", "overrides = {'lr': 0.1}", 'results    ' + os.path.relpath(ROOT/'out/quick/toy')):
        assert words in said, said

def test_lower_profile_keeps_off_a_higher_one(register, no_kernel, tmp_path):
    register('toy')
    (tmp_path/'results.json').write_text('{"profile": "study"}')
    with pytest.raises(UsageError, match='holds profile study'): reproduce([], {'out': str(tmp_path)})
    assert runner.plan(runner.find()[0], {'out': str(tmp_path), 'stages': 'figures'}).out == tmp_path

def test_parameters_arrive_in_this_interpreter(register, tmp_path, monkeypatch, capsys):
    stranger = tmp_path/'kernels'/'python3'
    stranger.mkdir(parents=True)
    (stranger/'kernel.json').write_text(json.dumps({'argv': ['/bin/false', '{connection_file}'], 'display_name': 'x', 'language': 'python'}))
    monkeypatch.setenv('JUPYTER_PATH', str(tmp_path))
    monkeypatch.setenv('JUPYTER_PREFER_ENV_PATH', '0')
    register('toy')
    out = tmp_path/'out'
    assert reproduce(['toy'], {'out': str(out), 'seeds': '3,5', 'jobs': 2, 'overrides': {'lr': 0.5, 'data_file': "it's"}}) == 0
    assert json.loads((out/'results.json').read_text())['seen'] == {
        'seeds': '3,5', 'jobs': 2, 'overrides': {'lr': 0.5, 'data_file': "it's"}, 'python': sys.executable}
    assert sorted(path.name for path in out.iterdir()) == ['report.html', 'results.json', 'toy.ipynb']
    said = capsys.readouterr()
    assert said.err.startswith('profile quick, since none is given: no CUDA GPU') and 'toy: profile quick, data mnist (stand-in), about 1.5 minutes' in said.err
    header, row, report, last = said.out.strip().splitlines()
    assert row.split()[:6] == ['toy', 'quick', '2', 'holds,', '1', 'undecided'] and str(out/'toy.ipynb') in row
    assert last.startswith('STAND-IN') and 'mnist' in last and report == f'report: {out/"report.html"}'
    assert 'Not shown:' in (out/'report.html').read_text(), 'results.json of the toy has no schema'

def test_failing_paper_does_not_stop_the_next(register, tmp_path, capsys):
    register('bad', 'print("before")', '1 / 0', 'print("after")')
    register('good')
    assert reproduce([], {'out': str(tmp_path/'out')}) == 5
    said = capsys.readouterr()
    [line] = [line for line in said.err.splitlines() if line.startswith('clrepro:')]
    failed = tmp_path/'out'/'bad'/'bad.failed.ipynb'
    assert line == f'clrepro: bad: a cell failed with ZeroDivisionError: division by zero (traceback in {failed})'
    assert 'ZeroDivisionError' in failed.read_text() and 'Traceback' not in said.err
    assert (tmp_path/'out'/'good'/'results.json').exists() and 'FAILED (KernelError)' in said.out

def test_exit_codes(register, tmp_path, capsys):
    register('data', "from clrepro.core import DataError\nraise DataError('no such\\nset')")
    register('disk', "from clrepro.core import DiskError\nraise DiskError('full')")
    assert reproduce(['data'], {'out': str(tmp_path/'a')}) == 3
    assert 'clrepro: data: no such set (traceback in' in capsys.readouterr().err
    assert reproduce([], {'out': str(tmp_path/'b')}) == 1

def test_dead_kernel_is_one_line_and_leaves_no_worker(register, tmp_path, capsys):
    pids = tmp_path/'pid'
    register('dead', f"import os, subprocess\nopen({str(pids)!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid))\nos.kill(os.getpid(), 9)")
    assert reproduce([], {'out': str(tmp_path/'out')}) == 5
    said = capsys.readouterr().err
    assert re.search(r'^clrepro: dead: the kernel died \(signal 9\) in the cell .*same command goes on', said, re.M) and 'Traceback' not in said
    assert gone(int(pids.read_text()))

@pytest.mark.parametrize('failures, code', [(1, 0), (2, 5)])
def test_kernel_that_does_not_start_is_tried_once_more(register, tmp_path, monkeypatch, capsys, failures, code):
    import papermill
    real, tries = papermill.execute_notebook, []
    def execute(*args, **options):
        tries.append(args)
        if len(tries) <= failures: raise RuntimeError('Kernel died before replying to kernel_info')
        return real(*args, **options)
    monkeypatch.setattr(papermill, 'execute_notebook', execute)
    register('toy')
    assert reproduce([], {'out': str(tmp_path/'out')}) == code and len(tries) == 2
    assert ('clrepro: toy: no kernel starts: Kernel died' in capsys.readouterr().err) == bool(code)

def test_folder_that_cannot_be_written(register, tmp_path, capsys):
    register('toy')
    (tmp_path/'file').write_text('')
    assert reproduce([], {'out': str(tmp_path/'file'/'out')}) == 4
    assert re.search('clrepro: toy: cannot write .*file.*choose another folder with --out', capsys.readouterr().err)

@pytest.fixture
def small_disk(tmp_path):
    "A file system of 256 kB."
    folder = tmp_path/'disk'
    folder.mkdir()
    mount = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', str(folder)], capture_output=True)
    if mount.returncode: pytest.skip('cannot mount a small file system: run as root')
    yield folder
    subprocess.run(['umount', '-l', str(folder)])

@pytest.mark.parametrize('cells', [["from clrepro.core import atomic_write\natomic_write(out + '/big', b'x' * 10**6)"], ["print('x' * 10**6)", '1']])
def test_full_disk_is_one_line_and_loses_nothing(register, small_disk, capsys, cells):
    register('toy', RECORD, *cells)
    assert reproduce([], {'out': str(small_disk)}) == 4
    said = capsys.readouterr().err
    [line] = [line for line in said.splitlines() if line.startswith('clrepro:')]
    assert str(small_disk) in line and re.search('[Ff]ree some space', line) and 'Traceback' not in said
    assert (small_disk/'record.json').read_text() == '{}'

RECORD = "from clrepro.core import atomic_write\nimport pathlib\natomic_write(pathlib.Path(out)/'record.json', '{}')"

RUN = """
import sys
from dataclasses import replace
from clrepro.papers import PAPERS
import clrepro.cli
paper = PAPERS.pop('bcl')
PAPERS['toy'] = replace(paper, name='toy', notebook=sys.argv[1])
sys.exit(clrepro.cli.main(['reproduce', 'toy', '--data', 'standin', '--out', sys.argv[2]]))
"""

@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signal_stops_kernel_and_workers(register, tmp_path, number):
    pids = tmp_path/'pids'
    notebook = register('toy', 'import os, subprocess, time\n'
                               "worker = subprocess.Popen(['sleep', '600'])\n"
                               f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{worker.pid}}\\n')\n"
                               'time.sleep(600)')
    with open(tmp_path/'stderr', 'w') as stderr:
        process = subprocess.Popen([sys.executable, '-c', RUN, str(notebook), str(tmp_path/'out')], stderr=stderr,
                                   env=os.environ | {'TMPDIR': str(tmp_path)})
    until = time.monotonic() + 60
    while not (pids.exists() and pids.read_text().endswith('\n')) and time.monotonic() < until: time.sleep(0.1)
    kernel, worker = map(int, pids.read_text().split())
    process.send_signal(number)
    code, said = process.wait(timeout=30), (tmp_path/'stderr').read_text()
    assert gone(kernel)
    if number == signal.SIGKILL: os.kill(worker, signal.SIGKILL)  # nobody was left to do it
    else:
        assert code == 130 and 'clrepro: interrupted' in said and 'Traceback' not in said
        assert gone(worker) and list((tmp_path/'out').iterdir()) == []

def test_progress_is_a_plain_line_every_few_seconds(register, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(runner.Progress.__init__, '__defaults__', (0.2,))
    register('toy', """import json, os, time
with open(os.environ['CLREPRO_PROGRESS'], 'a') as file:
    for event in ({'kind': 'plan', 'cells': {'a': 1, 'b': 1}}, {'kind': 'loss', 'cell': 'a', 'step': 5, 'n_steps': 10, 'loss': 1.0}):
        file.write(json.dumps(event) + '\\n')
time.sleep(1)""")
    assert reproduce([], {'out': str(tmp_path/'out')}) == 0
    assert re.search(r'^toy   25%  0/2 cells  a 5/10  0:00:0\d of about 0:01:30$', capfd.readouterr().err, re.M)

@pytest.mark.parametrize('jobs, marks', [(1, '+-+-'), (2, '++--')])
def test_papers_share_the_slots(register, tmp_path, jobs, marks):
    "One at a time, or both at once: a paper's cell waits until as many as there are slots have begun."
    file = tmp_path/'marks'
    file.touch()
    cell = f"""import pathlib, time
file = pathlib.Path({str(file)!r})
def mark(sign):
    with open(file, 'a') as out: out.write(sign)
mark('+')
until = time.monotonic() + 90
while file.read_text().count('+') < {jobs} and time.monotonic() < until: time.sleep(0.1)
time.sleep(0.5)
mark('-')"""
    for name in ('one', 'two'): register(name, cell)
    assert reproduce([], {'out': str(tmp_path/'out'), 'jobs': jobs}) == 0 and file.read_text() == marks

@pytest.mark.parametrize('found, state, words', [
    ((), 'installed', 'profile quick, since none is given: no CUDA GPU'),
    (({'name': 'a GPU', 'gb': 80.0},), 'stand-in', 'profile quick, since none is given: not all of the data'),
    (({'name': 'a GPU', 'gb': 80.0},), 'installed', 'profile study, since none is given: profile full would take about 240 minutes on a GPU'),
    (({'name': 'a GPU', 'gb': 80.0},) * 3, 'installed', 'profile study, since none is given: profile full would take about 240 minutes on a GPU'),
])
def test_profile_that_suits_the_machine(register, no_kernel, monkeypatch, capsys, tmp_path, found, state, words):
    register('toy')
    monkeypatch.setattr(runner.machine, 'gpus', lambda: found)
    monkeypatch.setattr(runner, 'data_state', lambda *_: {'mnist': state})
    assert reproduce([], {'out': str(tmp_path)}, dry_run=True) == 0
    said = capsys.readouterr().out
    assert said.startswith(words) and f"profile = '{words.split()[1][:-1]}'" in said

def test_full_where_it_is_short(register, no_kernel, monkeypatch, capsys, tmp_path):
    register('toy')
    monkeypatch.setitem(runner.find()[0].minutes, 'full', 100)
    monkeypatch.setattr(runner.machine, 'gpus', lambda: ({'name': 'a GPU', 'gb': 80.0},))
    monkeypatch.setattr(runner, 'data_state', lambda *_: {'mnist': 'installed'})
    assert reproduce([], {'out': str(tmp_path)}, dry_run=True) == 0
    assert capsys.readouterr().out.startswith('profile full, since none is given: profile full would take about 100 minutes')

def test_each_gpu_has_its_papers(register, monkeypatch, tmp_path):
    cell = "import json, os, pathlib\npathlib.Path(out, 'card').write_text(os.environ['CUDA_VISIBLE_DEVICES'])"
    for name in ('one', 'two', 'three'): register(name, cell)
    monkeypatch.setattr(runner.machine, 'gpus', lambda: ({'name': 'a GPU', 'gb': 80.0},) * 2)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5')
    assert reproduce([], {'out': str(tmp_path), 'profile': 'quick'}) == 0
    assert [(tmp_path/name/'card').read_text() for name in ('one', 'two', 'three')] == ['3', '5', '3']

def test_cuda_that_is_not_there(register, no_kernel, monkeypatch):
    register('toy')
    monkeypatch.setattr(runner.machine, 'gpus', lambda: ())
    monkeypatch.setattr('torch.cuda.device_count', lambda: 0)
    with pytest.raises(UsageError, match='torch sees 0 CUDA devices; use --device cpu'): reproduce([], {'device': 'cuda'})

def test_kernels_have_one_thread(register, tmp_path, monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS')
    register('toy', "import os, pathlib\npathlib.Path(out, 'threads').write_text(os.environ['OMP_NUM_THREADS'])")
    assert reproduce([], {'out': str(tmp_path)}) == 0 and (tmp_path/'threads').read_text() == '1'

def test_some_seeds_are_no_whole_study(register):
    register('toy')
    [paper] = runner.find()
    where = lambda **given: runner.plan(paper, {'profile': 'study', **given}).out
    assert where(seeds='1') == ROOT/'out'/'study'/'toy'

def test_what_nobody_foresaw_stops_one_paper(register, tmp_path, monkeypatch, capsys):
    register('bad'), register('good')
    real = runner.execute
    def execute(plan, *rest):
        if plan.paper.name == 'bad': raise ZeroDivisionError('a bug')
        real(plan, *rest)
    monkeypatch.setattr(runner, 'execute', execute)
    assert reproduce([], {'out': str(tmp_path/'out')}) == 5
    said = capsys.readouterr()
    assert 'clrepro: bad: ZeroDivisionError: a bug' in said.err and (tmp_path/'out'/'good'/'results.json').exists() and 'report: ' in said.out

def test_a_stuck_kernel_is_no_matter_of_the_disk(register, tmp_path, monkeypatch, capsys):
    import papermill
    def execute(*args, **options): raise TimeoutError('Timeout waiting for IOPub output')
    monkeypatch.setattr(papermill, 'execute_notebook', execute)
    register('toy')
    assert reproduce([], {'out': str(tmp_path/'out')}) == 5
    assert 'could not be run: Timeout waiting for IOPub output. Finished runs are kept' in capsys.readouterr().err

def test_what_is_ignored_stays_ignored():
    from clrepro.kernels import Crew
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Crew(Path()).signals_stop(): assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN and signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    finally: signal.signal(signal.SIGHUP, before)

def test_write_back_touches_outputs_only(register, tmp_path):
    notebook = register('toy')
    before = json.loads(notebook.read_text())
    assert reproduce([], {'out': str(tmp_path/'out'), 'seeds': '7'}, keep_outputs=True) == 0
    after = json.loads(notebook.read_text())
    assert after['cells'][1]['outputs'] == [{'name': 'stdout', 'output_type': 'stream', 'text': ['a line of output\n']}]
    for cell in after['cells']: cell['outputs'] = []
    assert after == before and '/tmp' not in notebook.read_text()

def test_write_back_refuses(register, tmp_path):
    notebook, executed = register('toy'), tmp_path/'executed.ipynb'
    text = notebook.read_text()
    executed.write_text(text.replace('undecided', 'holds'))
    with pytest.raises(UsageError, match='has changed since'): write_back(executed, notebook)
    done = json.loads(text)
    done['cells'][1]['outputs'] = [{'name': 'stdout', 'output_type': 'stream', 'text': ['x' * 300_000]}]
    executed.write_text(json.dumps(done))
    with pytest.raises(UsageError, match='is the limit'): write_back(executed, notebook)
    assert notebook.read_text() == text
