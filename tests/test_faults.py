"""What goes wrong while papers run: one line, the documented exit code, every finished record intact, and the next run completes.

Unknown parameters and ill-typed values are in test_reproduce and test_cli, what a download may meet in test_get, damaged sets in test_data.
"""
import contextlib
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from clrepro import cli, data

ROOT = Path(__file__).resolve().parents[1]
TIMING = {'seconds', 'eval_seconds', 'started'}

CELLS = """tiny = dict(n_tasks=2, use=100, n_test=50, hidden=(16,))
cells = [Cell('finetune', 'permuted_mnist', (seed,), options=tiny) for seed in range(4)]
cells += [Cell('er', 'permuted_mnist', (seed,), options=tiny | dict(n_tasks={n_tasks}, n_memories=10)) for seed in range(2)]
"""

PAPER = """import json, os, pathlib
from clrepro.runs import Cell, execute, watch
store = pathlib.Path({store!r})
with open({pids!r}, 'a') as file: file.write(f'{{os.getpid()}}\\n')
{cells}
def note(event):
    if event['kind'] in ('start', 'end'):
        with open({events!r}, 'a') as file: file.write(json.dumps(event) + '\\n')
with watch(live, out, note) as send: rows = execute(cells, store, 'cpu', data, 2, fresh, send, every=0.0)
results = {{'profile': profile, 'claims': [], 'data': rows[0]['data'], 'runs': [row['config_hash'] for row in rows]}}
pathlib.Path(out, 'results.json').write_text(json.dumps(results))
"""

RUN = """import json, sys
from dataclasses import replace
from clrepro.papers import PAPERS
import clrepro.cli
papers = json.loads(sys.argv[1])
model = PAPERS['bcl']
PAPERS.clear()
PAPERS.update({name: replace(model, name=name, notebook=path) for name, path in papers.items()})
sys.exit(clrepro.cli.main(['reproduce', *sys.argv[2:]]))
"""

class House:
    "Papers of six small runs each, a second or two altogether, on one store."
    def __init__(self, register, folder, names=('toy',), n_tasks=2, store=None):
        self.out, self.store, self.pids = folder/'out', Path(store or folder/'store'), folder/'pids'
        self.n_tasks = n_tasks
        source = PAPER.format(store=str(self.store), pids=str(self.pids), events=str(folder/'events'), cells=CELLS.format(n_tasks=n_tasks))
        self.papers = {name: str(register(name, source)) for name in names}
        self.args = ['--device', 'cpu', '--data', 'standin', '--out', str(self.out)]

    def start(self, *more):
        command = [sys.executable, '-c', RUN, json.dumps(self.papers), *self.args, *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)

    def run(self, *more) -> int: return cli.main(['reproduce', *self.args, *more])

    def records(self) -> dict:
        "{file: record} of what is finished."
        return {path.name: json.loads(path.read_text()) for path in self.store.glob('*.json')}

    def events(self) -> list[dict]: return [json.loads(line) for line in (self.out.parent/'events').read_text().splitlines()]

    def wait_for_a_record(self, process) -> list[int]:
        "Wait for the first finished run while others go on; the kernels' process ids."
        until = time.monotonic() + 120
        while not self.records():
            assert process.poll() is None and time.monotonic() < until, process.stderr.read()
            time.sleep(0.02)
        return [int(pid) for pid in self.pids.read_text().split()]

    def completes(self, before: dict) -> None:
        "The next run ends well, leaves finished records alone, and all six are what they'd have been."
        assert self.run() == 0
        after = self.records()
        assert len(after) == 6 and {name: after[name] for name in before} == before
        if 'real' not in self.args: assert stable(after) == undisturbed(self.n_tasks)

def stable(records: dict) -> dict: return {name: {key: value for key, value in record.items() if key not in TIMING} for name, record in records.items()}

@lru_cache
def undisturbed(n_tasks: int) -> dict:
    "The records of a run that nothing happens to."
    from clrepro.runs import Cell, execute
    names = {'Cell': Cell}
    exec(CELLS.format(n_tasks=n_tasks), names)
    with tempfile.TemporaryDirectory() as folder:
        execute(names['cells'], folder, 'cpu', 'standin', 1)
        return stable({path.name: json.loads(path.read_text()) for path in Path(folder).glob('*.json')})

def gone(pid: int, seconds: float = 20) -> bool:
    "Whether the process ends in time."
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try: state = Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0]
        except FileNotFoundError: return True
        if state == 'Z': return True
        time.sleep(0.1)
    return False

def the_line(said: str) -> str:
    "The one line of an error."
    [line] = [line for line in said.splitlines() if line.startswith('clrepro:')]
    assert 'Traceback' not in said
    return line

LONG = 20  # tasks: runs that are still going on when the first record is there

def test_killed_kernel(register, tmp_path):
    house = House(register, tmp_path, n_tasks=LONG)
    process = house.start()
    [kernel] = house.wait_for_a_record(process)
    os.kill(kernel, signal.SIGKILL)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 5 and 'the kernel died (signal 9)' in the_line(said) and 'same command goes on' in said
    before = house.records()
    assert 0 < len(before) < 6
    house.completes(before)

def test_killed_worker(register, tmp_path):
    house = House(register, tmp_path, n_tasks=LONG)
    process = house.start()
    [kernel] = house.wait_for_a_record(process)
    workers = [int(pid) for pid in Path(f'/proc/{kernel}/task/{kernel}/children').read_text().split()]
    python = [pid for pid in workers if 'ipykernel' in Path(f'/proc/{pid}/cmdline').read_text()]
    os.kill(python[0], signal.SIGKILL)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 5 and 'a worker process died' in the_line(said) and '--jobs 1' in said
    house.completes(house.records())

def test_killed_runner_leaves_no_worker(register, tmp_path):
    house = House(register, tmp_path, n_tasks=LONG)
    process = house.start()
    [kernel] = house.wait_for_a_record(process)
    workers = [int(pid) for pid in Path(f'/proc/{kernel}/task/{kernel}/children').read_text().split()]
    process.kill()
    process.communicate(timeout=60)
    assert all(gone(pid) for pid in (kernel, *workers))
    house.completes(house.records())
    assert not list(tmp_path.rglob('*.part.ipynb'))

def test_terminated_runner_stops_every_kernel(register, tmp_path):
    house = House(register, tmp_path, ('one', 'two'), n_tasks=LONG)
    process = house.start()
    house.wait_for_a_record(process)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and 'interrupted; what is finished is recorded' in the_line(said)
    assert all(gone(int(pid)) for pid in house.pids.read_text().split())
    assert not list(tmp_path.rglob('*.part.ipynb')) and not list(tmp_path.rglob('*.failed.ipynb'))
    before = house.records()
    assert 0 < len(before) < 6
    house.completes(before)

def test_two_runners_on_one_store(register, tmp_path):
    house = House(register, tmp_path, n_tasks=8)
    first, second = house.start(), house.start()
    said = [process.communicate(timeout=240)[1] for process in (first, second)]
    assert first.returncode == second.returncode == 0, said
    trained = [event['cell'] for event in house.events() if event['kind'] == 'start']
    assert len(trained) == len(set(trained)) == 6, 'each run is trained by one of them'
    house.completes(house.records())

def test_workers_share_the_slots(register, tmp_path):
    "A paper has two workers, and there is one slot: one run at a time."
    house = House(register, tmp_path, n_tasks=8)
    assert house.run('--jobs', '1') == 0
    kinds = [event['kind'] for event in house.events()]
    assert kinds == ['start', 'end'] * 6

def test_full_disk_of_the_store(register, tmp_path, capsys):
    disk = tmp_path/'disk'
    disk.mkdir()
    mount = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', str(disk)], capture_output=True)
    if mount.returncode: pytest.skip('cannot mount a small file system: run as root')
    try:
        house = House(register, tmp_path, store=disk/'store')
        assert house.run() == 0
        for name in sorted(house.records())[2:]: (house.store/name).unlink()
        before = house.records()
        for folder in house.store.glob('checkpoints'): shutil.rmtree(folder)
        with contextlib.suppress(OSError), open(disk/'filler', 'wb', buffering=0) as file:
            while True: file.write(b'x' * 4096)
        capsys.readouterr()
        assert house.run() == 4
        line = the_line(capsys.readouterr().err)
        assert str(disk) in line and 'ree some space' in line and house.records() == before
        (disk/'filler').unlink()
        house.completes(before)
    finally: subprocess.run(['umount', '-l', str(disk)])

def install(folder: Path) -> Path:
    "A small set of random images in the place of MNIST; the file of its training images."
    source, draw = folder.parent/'own', np.random.default_rng(0)
    source.mkdir()
    for split, n in (('train', 300), ('test', 100)):
        np.save(source/f'{split}_images.npy', draw.integers(0, 256, (n, 28, 28), np.uint8))
        np.save(source/f'{split}_labels.npy', np.arange(n) % 10)
    data.import_folder(source, 'own', folder)
    (folder/'own').rename(folder/'mnist')
    listed = folder/'installed.json'
    listed.write_text(json.dumps({'mnist': json.loads(listed.read_text())['own']}))
    return folder/'mnist'/'train_images.npy'

@pytest.mark.parametrize('when', ['before', 'while it runs'])
def test_corrupt_data(register, tmp_path, no_data, capsys, when):
    "Found by the runner before a kernel starts, or by the notebook that loads the set; the set is mended, and the run completes."
    house, images = House(register, tmp_path), install(no_data)
    house.args[house.args.index('standin')] = 'real'
    whole = images.read_bytes()
    damaged = whole[:-1] + bytes([whole[-1] ^ 1])
    if when == 'before': images.write_bytes(damaged)
    else:
        notebook = json.loads(Path(house.papers['toy']).read_text())
        notebook['cells'][1]['source'].insert(0, f'import shutil; shutil.copyfile({str(tmp_path/"damaged")!r}, {str(images)!r})\n')
        (tmp_path/'damaged').write_bytes(damaged)
        Path(house.papers['toy']).write_text(json.dumps(notebook))
    assert house.run() == 3
    line = the_line(capsys.readouterr().err)
    assert str(images) in line and 'is damaged' in line and house.pids.exists() == (when != 'before')
    images.write_bytes(whole)
    (tmp_path/'damaged').write_bytes(whole)
    house.completes({})

def test_no_network(register, tmp_path, no_data, capsys):
    "The data can't be fetched: one line and exit code 3; stand-ins take their place and are named."
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        assert cli.main(['data', 'get', 'mnist', '--mirror', f'http://127.0.0.1:{taken.getsockname()[1]}']) == 3
    assert 'could not be downloaded' in the_line(capsys.readouterr().err)
    house = House(register, tmp_path)
    house.args[house.args.index('standin')] = 'auto'
    assert house.run() == 0 and capsys.readouterr().out.strip().splitlines()[-1].startswith('STAND-IN')
    house.completes(house.records())

class Pages(http.server.BaseHTTPRequestHandler):
    "What takes windows, as visdom does."
    def do_POST(self):
        self.rfile.read(int(self.headers['Content-Length']))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_): pass

def test_visdom_dies(register, tmp_path, capsys):
    "The run goes on without its page, says so once, and its records are the same."
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    house = House(register, tmp_path, n_tasks=LONG)
    process = house.start('--live', f'visdom:{server.server_port}')
    house.wait_for_a_record(process)
    server.shutdown(), server.server_close()
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    outputs = (house.out/'toy.ipynb').read_text()
    assert outputs.count("live view 'visdom' is off") == 1 and 'Traceback' not in outputs
    assert said.count("toy: live view 'visdom' is off") == 1
    house.completes(house.records())
