"""observe and predict around every method: the engine's batches give the engine's accuracies, to the bit."""
import pytest
import torch

import clrepro
from clrepro.adapter import Learner
from clrepro.catalogue import known_methods, stepwise

OWN = 'clrepro.bir_run.BirRun', 'clrepro.hrn_run.HrnRun', 'clrepro.hrn_coders.BaselineRun'  # papers' own ways through a stream
METHODS = sorted(name for name, cls in known_methods().items() if not cls.joint and stepwise(cls) and cls.runner not in OWN)
TINY = dict(n_tasks=2, use=25, n_test=20, lr=0.05, hidden=(8,))


def follow(learner) -> list:
    "The accuracy matrix of a learner that is given the batches of its own stream."
    stream, size, matrix = learner.stream, learner.training.batch_size, []
    for task in range(stream.n_tasks):
        for _ in range(learner.training.n_epochs):
            for batch in stream.order(task).split(size, 1):
                x, y = stream.train(task, batch)
                learner.observe(x[0], task, y[0])
        matrix.append([torch.cat([learner.predict(x[0], t) == y[0] for x, y, _ in stream.test(t, 20)]).double().mean().item() for t in range(stream.n_tasks)])
    return matrix


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('passes', [1, 2])
def test_equals_a_run(name, passes):
    fields = known_methods()[name].fields()
    memory = {field: n for field, n in dict(n_memories=10, replay_batch_size=6).items() if field in fields}
    stream = 'split_cifar100' if name == 'icarl' else 'split_mnist_task'
    options = TINY | memory | {'n_epochs': passes}
    learner = Learner(name, stream, seed=7, data='standin', **options)
    [record] = clrepro.run(name, stream, seeds=[7], device='cpu', data='standin', **options)
    assert follow(learner) == [pytest.approx(row, abs=1e-9) for row in record['accuracy_matrix']]
    assert learner.method.counts['grad_evals'] == record['grad_evals'] and learner.method.stored == record['stored_samples']
