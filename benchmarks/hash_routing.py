"""Milliseconds a training sample of a hash-routed network, batched and one sample at a time.

P-MNIST's shapes at HRN's published size (E = 300, K = 3, four units, batches of 16): CPU time of whole training steps (routing, bases, decoder, Adam) after a
warm-up, median over steps, on one thread; and of routing and its gradients in the oracle of nbs/30a_hrn_net.ipynb, written from the paper's section 4 without
batching. Random images, no data needed. The reference's own code took 46-68 ms a sample on a loaded machine.

    python benchmarks/hash_routing.py [--steps 200] [--json FILE]
"""
import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
ROWS, WARM_UP = 16, 50


def timed(step, n: int) -> float:
    "Median milliseconds of CPU a sample over n steps, after a warm-up."
    spent = []
    for _ in range(WARM_UP + n):
        began = time.process_time()
        step()
        spent.append(time.process_time() - began)
    return 1000 * statistics.median(spent[WARM_UP:]) / ROWS


def batched(n: int, **options) -> float:
    import torch

    from clrepro.engine import Training, build_method
    from clrepro.hrn_methods import HrnRenewFirstTask
    from clrepro.hrn_streams import SplitMnist
    stream = SplitMnist((0,), data='standin')
    method = build_method(HrnRenewFirstTask, [0], stream, Training(batch_size=ROWS), 'cpu', **options)
    method.begin_task(0)
    g = torch.Generator().manual_seed(0)
    tables = method.draw([ROWS] * (WARM_UP + n))
    steps = iter(range(WARM_UP + n))

    def step():
        k = next(steps)
        x, y = torch.randn(1, ROWS, 1, 28, 28, generator=g), torch.randint(2, (1, ROWS), generator=g)
        method.step(x=x, y=y, **{name: table[k] for name, table in tables.items()})
    return timed(step, n)


def one_by_one(n: int) -> float:
    import torch
    import torch.nn.functional as F

    from clrepro.hrn_net import Body
    from clrepro.hrn_units import parse_units
    cells = json.loads((Path(__file__).parents[1]/'nbs'/'30a_hrn_net.ipynb').read_text())['cells']
    names = {'torch': torch, 'F': F}
    exec(next(source for cell in cells if 'class Oracle' in (source := ''.join(cell['source']))), names)
    units = [spec for text in ('2x16k5s3p2', '2x16k2s3') for group in parse_units(text) for spec in group]
    body, g = Body(0, (1, 28, 28), units, dtype=torch.float64), torch.Generator().manual_seed(0)
    oracle = names['Oracle'](body)

    def step():
        _, _, loss = oracle.route(torch.randn(ROWS, 1, 28, 28, dtype=torch.float64, generator=g), torch.rand(ROWS, body.steps, generator=g))
        if loss.requires_grad: torch.autograd.grad(loss, list(body.parameters()), allow_unused=True)
    return timed(step, n)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--steps', type=int, default=200)
    parser.add_argument('--json', metavar='FILE')
    args = parser.parse_args()
    import torch
    torch.set_num_threads(1)
    found = {'batched': batched(args.steps), 'frozen units': batched(args.steps, train_units=False), 'oracle': one_by_one(max(10, args.steps // 10))}
    for name, value in found.items(): print(f'{name}: {value:.2f} ms a sample')
    if args.json: Path(args.json).write_text(json.dumps(found | {'torch': torch.__version__}))


if __name__ == '__main__': main()
