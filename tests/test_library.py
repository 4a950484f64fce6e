"""clrepro as a library: a method and a stream from outside the package, and the engine's options."""
import subprocess
import sys

import pytest
import torch

import clrepro
from clrepro.core import UsageError
from clrepro.engine import Run, Training, build_method
from clrepro.methods import Finetune, Method
from clrepro.nn import descend
from clrepro.runs import known_methods
from clrepro.splits import SplitCifar100, SplitMnistTask
from clrepro.streams import PermutedStream, Stream

STEPWISE = sorted(name for name, cls in known_methods().items() if cls.runner == Method.runner)  # the engine's own, on any stream
TINY = dict(n_tasks=2, use=60, n_test=60, hidden=(16,), data='standin')


class Momentum(Finetune):
    "Finetune with a heavy ball."
    name = 'momentum'
    momentum: float = 0.9  # weight of the last direction

    def begin_task(self, task):
        super().begin_task(task)
        self.velocity = [torch.zeros_like(p) for p in self.params]

    def step(self, x, y):
        [logits] = self.forward(x)
        loss = self.cross_entropy(logits, y)
        for v, g in zip(self.velocity, self.gradient(loss, x.shape[1])): v.mul_(self.momentum).add_(g)
        descend(self.params, self.velocity, self.value('lr'))
        return loss.detach()


class Blobs(Stream):
    "Two tasks of two Gaussian blobs each, float inputs."
    name = 'blobs'
    n_classes, data = 2, [{'name': 'blobs', 'source': 'drawn', 'sha256': {}, 'standin': False, 'lossless': True}]

    def setup(self): self.n_tasks = 2

    def order(self, task): return torch.stack([torch.randperm(100, generator=torch.Generator().manual_seed(s + task)) for s in self.seeds])

    def train(self, task, position):
        y = position % 2
        offset = torch.tensor([[0., 4.], [4., 0.]])[task]
        return offset * (2 * y[..., None] - 1) + torch.sin(position[..., None].float()), y

    def test(self, task, chunk): yield *self.train(task, torch.arange(100, 140).expand(len(self.seeds), -1)), None


def test_own_method_and_stream():
    records = clrepro.run(Momentum, Blobs, seeds=2, lr=0.01, hidden=(8,))
    assert [r['method'] for r in records] == ['momentum'] * 2 and records[0]['config']['method'] == {'name': 'momentum', 'lr': 0.01, 'momentum': 0.9}
    assert all(r['accuracy_matrix'][0][0] > 0.9 for r in records)
    plain = clrepro.run(Momentum, 'permuted_mnist', seeds=1, momentum=0., **TINY)
    assert plain[0]['accuracy_matrix'] == clrepro.run('finetune', 'permuted_mnist', seeds=1, **TINY)[0]['accuracy_matrix']


def test_dotted_path(tmp_path, monkeypatch):
    (tmp_path/'mine.py').write_text('from clrepro.methods import Finetune\nclass Slow(Finetune):\n    name = "slow"\n    lr: float = 0.001  # step size\n')
    monkeypatch.syspath_prepend(tmp_path)
    [record] = clrepro.run('mine.Slow', 'permuted_mnist', seeds=1, **TINY)
    assert record['method'] == 'slow' and record['config']['method']['lr'] == 0.001


def test_rotated_and_split_streams_run():
    for stream, options in (('rotated_mnist', {}), ('split_mnist_class', {'n_tasks': 5}), ('split', {'dataset': 'fashion_mnist', 'n_tasks': 5}),
                            ('megabatches', {'n_tasks': 3}), ('split_mnist_task', {'n_tasks': 5, 'class_order': 'shuffled', 'use': 1.0})):
        records = clrepro.run('er', stream, seeds=2, **TINY | options)
        assert len(records) == 2 and all(0 <= r['metrics']['acc'] <= 1 for r in records), stream


@pytest.mark.parametrize('name', ['er', 'bcl_dual'])
def test_compiled_equals_eager(name):
    pytest.importorskip('torch._inductor')
    eager, compiled = (build(name, 'cpu', Training(hidden=(32,), dtype='float64', compile=flag)).train() for flag in (False, True))
    assert eager.method.counts == compiled.method.counts
    for p, q in zip(eager.method.params, compiled.method.params): assert torch.allclose(p, q, rtol=0, atol=1e-9)


def build(name, device, training=None, dtype='float32', seeds=(0, 1), **options):
    training = training or Training(hidden=(32,), dtype=dtype)
    if name == 'icarl':
        training = Training(**training.config() | {'network': 'reduced_resnet18'})
        stream = SplitCifar100(seeds, device=device, data='standin', n_tasks=2, use=40, n_test=20)
    elif name == 'cumul_legacy': stream = SplitMnistTask(seeds, device=device, data='standin', n_tasks=2, use=200, n_test=60)
    else: stream = PermutedStream(seeds, device=device, data='standin', n_tasks=2, use=200, n_test=60)
    return Run(build_method(known_methods()[name], seeds, stream, training, device, **options), stream, training)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')


@needs_cuda
@pytest.mark.parametrize('name', STEPWISE)
def test_graph_equals_eager(name):
    eager = build(name, 'cuda', dtype='float64').train()
    graphed = build(name, 'cuda', Training(hidden=(32,), dtype='float64', graph=True)).train()
    assert eager.method.counts == graphed.method.counts
    for p, q in zip(eager.method.params, graphed.method.params): assert torch.allclose(p, q, atol=1e-9)


@needs_cuda
@pytest.mark.parametrize('name', STEPWISE)
def test_no_sync_inside_steps(name):
    run = build(name, 'cuda')
    method, source = run.method, run.source
    for task in range(run.phases):
        batches = run.batches(task)
        method.begin_task(task)
        tables = method.draw([b.shape[1] for b in batches])
        source.train(task, batches[0])
        torch.cuda.set_sync_debug_mode('error')
        try:
            for k, batch in enumerate(batches):
                x, y = source.train(task, batch)
                method.step(x=x, y=y, **{key: table[k] for key, table in tables.items()})
        finally: torch.cuda.set_sync_debug_mode('default')
        method.end_task()


@needs_cuda
def test_cpu_and_cuda_draw_the_same():
    cpu, cuda = build('bcl_dual', 'cpu', dtype='float64').train(), build('bcl_dual', 'cuda', dtype='float64').train()
    for p, q in zip(cpu.method.params, cuda.method.params): assert torch.allclose(p, q.cpu(), atol=1e-6)


def test_float32_seeds_in_company_equal_seeds_alone():
    for name in STEPWISE:
        together, alone = build(name, 'cpu', seeds=(4, 9)), build(name, 'cpu', seeds=(9,))
        for run in (together, alone):
            batches = run.batches(0)[:5]
            run.method.begin_task(0)
            tables = run.method.draw([b.shape[1] for b in batches])
            for k, batch in enumerate(batches):
                x, y = run.source.train(0, batch)
                run.method.step(x=x, y=y, **{key: table[k] for key, table in tables.items()})
        for p, q in zip(together.method.params, alone.method.params): assert torch.allclose(p[1:], q, atol=1e-5), name


def test_core_needs_only_torch_and_numpy():
    "What a bare GPU machine has is enough to import and run the library on stand-in free data."
    code = ('import sys\n'
            'for name in ("matplotlib", "seaborn", "scipy", "sklearn", "pandas", "papermill", "visdom", "tqdm", "nbdev", "fastcore",\n'
            '             "torchvision", "kornia"):\n'
            '    sys.modules[name] = None\n'
            'import clrepro, clrepro.bcl, clrepro.runs, clrepro.streams, clrepro.metrics, clrepro.records\n'
            'print(len(clrepro.run("er", "split", dataset="cifar10", data="standin", seeds=1, n_tasks=2, use=20, n_test=20, hidden=(8,))))')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == '1', done.stderr[-2000:]


def test_wrong_names_say_what_is_valid():
    with pytest.raises(UsageError, match="Did you mean 'bcl_dual'"): clrepro.run('bcl_duel', 'permuted_mnist')
    with pytest.raises(UsageError, match='Valid: .*permuted_mnist'): clrepro.run('er', 'permuted_mnits')


def test_a_user_file_in_gem_format_runs(tmp_path):
    from clrepro.gem import convert
    convert('mnist_permutations', tmp_path, n_tasks=5, val_tasks=3, use=80, data='standin')
    file = dict(data_path=str(tmp_path), data_file='mnist_permutations-cl.pt', hidden=(16,))
    records = clrepro.run('bcl_dual', 'gem_file', seeds=2, n_memories=20, **file)
    assert [len(r['accuracy_matrix']) for r in records] == [2, 2] and records[0]['config']['stream']['data_file'] == 'mnist_permutations-cl.pt'
    assert records[0]['data'][0]['name'] == 'mnist_permutations-cl.pt' and len(records[0]['data'][0]['sha256']['train']) == 64
    [joint] = clrepro.run('offline', 'gem_file', seeds=1, **file)
    assert joint['stored_samples'] == 160 and joint['memory_bytes'] == 160 * (784 * 4 + 8)
