"The live view beside a real run: what reaches the file and TensorBoard; a missing, dying or silent server costs one line."
import contextlib
import http.server
import json
import multiprocessing
import socket
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pytest

from clrepro import visdom_server
from clrepro.core import ClreproError, DiskError, UsageError
from clrepro.live import VisdomSink, open_sinks
from clrepro.runs import run

CELL = 'er/main/permuted_mnist/0-1'


def train(**options):
    "A small real run; R of both seeds."
    small = dict(n_tasks=3, use=200, n_test=100, hidden=(16,), n_memories=20, lr=0.1)
    records = run('er', 'permuted_mnist', 2, data='standin', device='cpu', **small, **options)
    return [record['accuracy_matrix'] for record in records]


def kinds(folder):
    "The kinds of the events in a folder's file, but for the losses."
    found = [json.loads(line)['kind'] for line in (folder/'events.jsonl').read_text().splitlines()]
    assert found.count('loss') >= 3
    return [kind for kind in found if kind != 'loss']


WHOLE = ['plan', 'start', 'task', 'task', 'task', 'end']


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def visdom(folder):
    "A visdom server of its own, as `clrepro live` runs it; yields port and process."
    port = free_port()
    with open(folder/'server.log', 'w') as log:
        code = f'from clrepro.visdom_server import serve; serve({port}, {str(folder/"env")!r})'
        process = subprocess.Popen([sys.executable, '-c', code], stdout=log, stderr=subprocess.STDOUT)
    try:
        while not visdom_server.server_ready(port):
            if process.poll() is not None:
                said = (folder/'server.log').read_text()
                if "can't be had" in said: pytest.skip(said.splitlines()[-1])
                pytest.fail(said)
            time.sleep(0.1)
        yield port, process
    finally:
        process.kill()
        process.wait()


def test_jsonl_holds_every_event_in_order(tmp_path):
    sent = []
    train(live='jsonl', store=tmp_path, on_event=sent.append)
    text = (tmp_path/'events.jsonl').read_text()
    assert text.endswith('\n') and [json.loads(line) for line in text.splitlines()] == sent
    assert kinds(tmp_path) == WHOLE
    with open_sinks('jsonl', tmp_path) as live: live.send(sent[0])
    assert (tmp_path/'events.jsonl').read_text().startswith(text)


def test_forked_process_appends_to_the_same_file(tmp_path):
    with open_sinks('jsonl,tensorboard', tmp_path) as live:
        live.send({'kind': 'loss', 'cell': 'parent', 'step': 1, 'loss': 1.})

        def work():
            for step in range(100): live.send({'kind': 'loss', 'cell': 'child', 'step': step, 'loss': 1.})
            live.close()
        child = multiprocessing.get_context('fork').Process(target=work)
        child.start()
        child.join(20)
        child.kill()
    assert child.exitcode == 0
    cells = [json.loads(line)['cell'] for line in (tmp_path/'events.jsonl').read_text().splitlines()]
    assert cells == ['parent'] + ['child'] * 100


def test_full_disk_costs_one_line(tmp_path, capfd):
    (tmp_path/'events.jsonl').symlink_to('/dev/full')
    train(live='jsonl', store=tmp_path)
    said = [line for line in capfd.readouterr().err.splitlines() if 'live view' in line]
    assert len(said) == 1 and 'No space left' in said[0]


def test_tensorboard(tmp_path):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    matrix = train(live='tensorboard', store=tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path/'tensorboard')).Reload()
    expected = np.mean(matrix, 0)
    for i in range(3):
        points = events.Scalars(f'accuracy/{CELL}/task {i + 1}')
        assert [point.step for point in points] == [1, 2, 3]
        assert [point.value for point in points] == pytest.approx(expected[:, i].tolist(), abs=1e-6)
    assert events.Scalars(f'acc/{CELL}')[0].value == pytest.approx(expected[-1].mean(), abs=1e-6)
    assert len(events.Scalars(f'loss/{CELL}')) >= 3


def test_tensorboard_not_installed(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    with open_sinks('tensorboard,jsonl', tmp_path) as live: live.send({'kind': 'other'})
    said = capfd.readouterr().err
    assert said.count('\n') == 1 and 'pip install tensorboard' in said
    assert (tmp_path/'events.jsonl').read_text() == '{"kind": "other"}\n'


def test_no_server_costs_one_line(tmp_path, capfd):
    alone = train()
    capfd.readouterr()
    beside = train(live=f'visdom:{free_port()},jsonl', store=tmp_path)
    said = capfd.readouterr()
    assert alone == beside and said.out == ''
    assert said.err.count('\n') == 1 and 'no visdom server' in said.err
    assert kinds(tmp_path) == WHOLE


def test_server_on_this_machine_only_and_its_death_in_mid_run(tmp_path, capfd):
    alone = train()
    with visdom(tmp_path) as (port, process):
        with pytest.raises(ConnectionRefusedError): socket.create_connection(('127.0.0.2', port), 5)
        with pytest.raises(UsageError, match='already'): visdom_server.serve(port)
        capfd.readouterr()

        def kill(event):
            if event['kind'] == 'task' and event['task'] == 0:
                process.kill()
                process.wait()
            elif event['kind'] == 'task': time.sleep(0.7)
        beside = train(live=f'visdom:{port},jsonl', store=tmp_path, on_event=kill)
    said = capfd.readouterr()
    assert alone == beside and said.out == ''
    assert said.err.count('\n') == 1 and "live view 'visdom' is off" in said.err
    assert kinds(tmp_path) == WHOLE


def test_slow_server_never_holds_up_the_run():
    taken, pause = [], 0.05

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            message = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
            if self.path == '/events': taken.append(message)
            time.sleep(pause)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_): pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sink = VisdomSink(server.server_port)
        began = time.perf_counter()
        for step in range(1, 101):
            sink.send({'kind': 'loss', 'cell': 'a', 'step': step, 'n_steps': 100, 'loss': 1.})
            time.sleep(0.006)
        took = time.perf_counter() - began
        sink.close()
        assert took < 2.5 and len(taken) <= 2 + 2 * took and taken[-1]['data'][0]['x'] == list(range(1, 101))
        pause, silent = 2, VisdomSink(server.server_port, timeout=0.5)
        silent.send({'kind': 'loss', 'cell': 'a', 'step': 1, 'n_steps': 1, 'loss': 1.})
        with pytest.raises((ConnectionError, TimeoutError)): silent.close()
        server.shutdown()


def test_port_of_another_program(monkeypatch, tmp_path):
    monkeypatch.setattr(visdom_server, 'install_page', lambda: False)
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        with pytest.raises(UsageError, match='taken'): visdom_server.serve(other.getsockname()[1], tmp_path)
    with pytest.raises(UsageError, match='expected 1'): visdom_server.serve(70000)


def fake_npm(folder, monkeypatch, body):
    "Put a program named npm first, and alone, on the path."
    folder.mkdir()
    (folder/'npm').write_text(f'#!{sys.executable}\nimport sys, tarfile\n{body}')
    (folder/'npm').chmod(0o755)
    monkeypatch.setenv('PATH', str(folder))


def test_page_from_npm(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', '')
    static = tmp_path/'static'
    static.mkdir()
    with pytest.raises(ClreproError, match='no npm'): visdom_server.install_page(static)
    fake_npm(tmp_path/'bad', monkeypatch, 'sys.exit(1)')
    with pytest.raises(ClreproError, match='npm fails'): visdom_server.install_page(static)
    for package, files in visdom_server.PAGE.items():
        with tarfile.open(tmp_path/f'{package.replace("@", "-")}.tgz', 'w:gz') as archive:
            (tmp_path/'member').write_text(package)
            for member in files.values(): archive.add(tmp_path/'member', f'package/{member}')
    fake_npm(tmp_path/'good', monkeypatch, f'''
import os, shutil
target = sys.argv[sys.argv.index('--pack-destination') + 1]
for package in sys.argv[sys.argv.index('--pack-destination') + 2:]:
    name = package.replace('@', '-') + '.tgz'
    shutil.copy(os.path.join({str(tmp_path)!r}, name), target)''')
    assert visdom_server.install_page(static) and not visdom_server.install_page(static)
    assert (static/'js/jquery.min.js').read_text() == 'jquery@3.1.1'
    assert (static/'version.built').read_text() == (visdom_server.visdom_folder()/'VERSION').read_text().strip()


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='/proc, where nobody may write')
def test_page_folder_not_writable():
    with pytest.raises(DiskError, match='not writable'): visdom_server.install_page('/proc')
