"A search that is killed goes on to the list of trials that it would have had."
import subprocess
import sys
import time

from clrepro.search import Sought, search

TEXT = '''method: finetune
stream: split_mnist_task
overrides: {n_tasks: 2, use: 60.0, hidden: [8]}
search:
  startup: 3
  space: {lr: {float: [0.001, 1.0], log: true}, batch_size: {choice: [5, 10]}}
'''
CODE = '''
import sys
from clrepro.search import Sought, search
search(Sought('bcl', sys.argv[1]), sys.argv[2], 30, 'cpu', 'standin', sys.argv[3], say=lambda line: print(line, flush=True))
'''


def same(rows): return [{key: value for key, value in row.items() if key != 'seconds'} for row in rows]


def test_killed_and_resumed(tmp_path):
    file = tmp_path/'mine.yaml'
    file.write_text(TEXT)
    options = dict(trials=8, device='cpu', data='standin', say=lambda line: None)
    whole = search(Sought('bcl', file), tmp_path/'whole', store=tmp_path/'a', **options)
    for lines in (2, 1):
        child = subprocess.Popen([sys.executable, '-c', CODE, file, tmp_path/'killed', tmp_path/'b'], stdout=subprocess.PIPE, text=True)
        for _ in range(lines): assert child.stdout.readline().startswith('trial ')
        time.sleep(0.05)
        child.kill()
        child.wait()
    killed = search(Sought('bcl', file), tmp_path/'killed', store=tmp_path/'b', **options)
    assert same(killed)[:8] == same(whole) and 8 <= len(killed) < 30
    assert {path.name for path in (tmp_path/'killed').iterdir()} >= {'search.db', 'trials.csv', 'parallel.svg', 'importance.svg', 'importance.csv'}
