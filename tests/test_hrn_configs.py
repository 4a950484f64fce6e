"Every shipped experiment of HRN runs: two steps of two tasks on stand-ins of the right shape."
import pytest

from clrepro.hrn_configs import BODY, EXPERIMENTS, KEY, METHODS, read
from clrepro.runs import Cell, execute

ROWS = {'pmnist': [*METHODS], 'fmnist_mnist': ['hrn_freeze_after_task', 'vc', 'ewc_logits', 'ell']}


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_two_steps(name):
    for method in ROWS.get(name, [BODY.name]):
        asked = read({KEY: name, 'method': method, 'n_tasks': 2, 'epochs': 1, 'batch_size': 4, 'n_train': 8, 'n_test': 10})
        [record] = execute([Cell(asked.method, asked.stream, (3,), 'main', asked.options)], None, 'cpu', 'standin', 1)
        assert record['n_batches'] == 4 and record['config']['training']['batch_size'] == 4 and len(record['accuracy_matrix']) == 2
        assert record['method'] == method and record['stream'] == asked.stream.name and all(entry['standin'] for entry in record['data'])
        if issubclass(asked.method, BODY): assert record['config']['method']['embedding'] == read({KEY: name}).options['embedding']
