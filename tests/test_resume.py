"""A run that is killed at any moment and started again ends with the same record, bit for bit but for seconds and start time."""
import json
import multiprocessing
import os
import random
import signal

import pytest
import torch

from clrepro.records import Store
from clrepro.runs import Cell, complete

KILLS = 20
TIMING = {'seconds', 'eval_seconds', 'started'}
SETTINGS = dict(n_tasks=3, use=150, n_test=100, hidden=(32, 32), n_memories=20, replay_batch_size=16, inner_steps=2)


def cell(method):
    fields = Cell(method, 'permuted_mnist', (3, 8)).classes()[0].fields()
    stream = {'n_tasks', 'use', 'n_test', 'hidden'}
    return Cell(method, 'permuted_mnist', (3, 8), options={k: v for k, v in SETTINGS.items() if k in stream or k in fields})


def work(cell, folder, last_write=None):
    "Complete a cell; dies inside that write, the new file beside the old one."
    torch.set_num_threads(1)
    if last_write is not None:
        writes, replace = iter(range(last_write)), os.replace
        os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL) if next(writes, None) is None else replace(*paths)
    complete(cell, 'cpu', 'standin', Store(folder), every=0.0)


def stable(records):
    return json.dumps([{k: v for k, v in record.items() if k not in TIMING} for record in records], sort_keys=True)


def leftovers(folder): return [path.name for path in folder.rglob('*') if path.is_file() and path.name.startswith('.')]


@pytest.mark.parametrize('method', ['finetune', 'er', 'kdr', 'bcl_single', 'bcl_dual', 'offline', 'ewc', 'lwf', 'independent', 'gem', 'agem', 'ftml', 'mer'])
def test_killed_runs_end_the_same(method, tmp_path):
    plan = cell(method)
    expected = complete(plan, 'cpu', 'standin', Store(tmp_path/'whole'))
    store, draw = Store(tmp_path/'killed'), random.Random(method)
    fork = multiprocessing.get_context('fork')
    kills = inside_a_write = 0
    while kills < KILLS:
        process = fork.Process(target=work, args=(plan, store.folder, draw.randrange(12) if kills % 4 == 3 else None))
        process.start()
        process.join(draw.uniform(0.03, 0.25) if kills % 4 < 3 else None)
        if process.is_alive(): os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        half = leftovers(store.folder)
        inside_a_write += bool(half)
        for name in half: next(store.folder.rglob(name)).unlink()
        if all(store.get(record['config_hash']) for record in expected):
            if kills < KILLS:  # it came to the end: check it, then begin another run to kill
                assert stable(complete(plan, 'cpu', 'standin', store)) == stable(expected)
                store.forget([record['config_hash'] for record in expected])
    assert stable(complete(plan, 'cpu', 'standin', store)) == stable(expected)
    assert inside_a_write >= KILLS // 4, 'every fourth kill falls inside a write'


def test_a_finished_run_is_never_repeated(tmp_path):
    plan, events = cell('er'), []
    first = complete(plan, 'cpu', 'standin', Store(tmp_path))
    assert complete(plan, 'cpu', 'standin', Store(tmp_path), events.append) == first and not events


def test_a_record_lost_between_two_writes_comes_back_the_same(tmp_path):
    "All but the first record of a group were lost to a kill: the group's own checkpoint gives them back."
    plan, store = cell('bcl_dual'), Store(tmp_path)

    class Killed(Exception): pass

    put, calls = store.put, []

    def dies_at_the_second(record, **arrays):
        calls.append(1)
        if len(calls) == 2: raise Killed
        return put(record, **arrays)
    store.put = dies_at_the_second
    with pytest.raises(Killed): complete(plan, 'cpu', 'standin', store)
    assert len(list(tmp_path.glob('*.json'))) == 1
    again = complete(plan, 'cpu', 'standin', Store(tmp_path))
    assert stable(again) == stable(complete(plan, 'cpu', 'standin', None))
