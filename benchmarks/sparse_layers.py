"""What k-winners cost on the seed axis.

CPU milliseconds a training step and seed (forward, backward, SGD with Nesterov momentum and weight decay, dropout 0.5, 128 rows, 784-H-10) on one thread: the
MLP with k winners and boosting against the dense one, S seeds side by side; with sparse weights too, re-zeroed after each step; and, where nupic.torch is
importable, the same network of its layers, and PyTorch's own dense one, with `nn.Dropout`. The arms take turns, so that whatever else the machine does meets
all of them; a step's time is the median, to which drawing dropout's noise, done in blocks of steps, adds its share. Random images, no data needed.

    python benchmarks/sparse_layers.py [--hidden 500,4000] [--seeds 1,5] [--steps 30] [--json FILE]
"""
import argparse
import json
import os
import statistics
import time

os.environ.setdefault('OMP_NUM_THREADS', '1')

import torch
from torch import nn

from clrepro.nn import cross_entropy
from clrepro.sparse_layers import rezero_weights
from clrepro.sparse_nets import SparseMLP

WINNERS = {500: (10,), 4000: (4, 200)}
ROWS, CLASSES = 128, 10


def on_the_axis(size: int, **options):
    "A function that does step k of training S seeds; S; milliseconds a step of drawing noise."
    net = SparseMLP(range(size), 784, CLASSES, **options)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    x, y = torch.randint(0, 256, (size, ROWS, 784), dtype=torch.uint8), torch.randint(0, CLASSES, (size, ROWS))
    noise = net.noise(0, [ROWS] * 1000)['keep']
    draws = []
    for _ in range(5):
        began = time.process_time()
        noise.fill(0)
        draws.append(1000 * (time.process_time() - began) / noise.steps)

    def step(k: int):
        optimiser.zero_grad()
        cross_entropy(net(x, noise[k % noise.steps]), y).sum().backward()
        optimiser.step()
        net.apply(rezero_weights)
    return step, size, statistics.median(draws)


def of_modules(*hidden):
    "The same for one seed and a network of plain modules, which draw noise in the step."
    net = nn.Sequential(*hidden, nn.Dropout(0.5), nn.LazyLinear(CLASSES))
    x, y = torch.randint(0, 256, (ROWS, 784), dtype=torch.uint8), torch.randint(0, CLASSES, (ROWS,))
    net(x / 255)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)

    def step(k: int):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x / 255), y).backward()
        optimiser.step()
    return step, 1, 0.


def arms(size: int, hidden: int, k: int) -> dict:
    "{name: (step, seeds, milliseconds of drawing)}; the dense arm comes first."
    winners = dict(hidden_units=hidden, percent_on_fc=k / hidden, boost_strength=1.)
    out = {'dense': on_the_axis(size, hidden_units=hidden, sparsify=False),
           'k-winners': on_the_axis(size, weight_sparsity_fc=1., **winners),
           'k-winners, weights 50 %': on_the_axis(size, weight_sparsity_fc=0.5, **winners)}
    if size > 1: return out
    out['PyTorch modules, dense'] = of_modules(nn.Linear(784, hidden), nn.ReLU())
    try: from nupic.torch.modules import KWinners
    except ImportError: return out
    for strict in (False, True):
        layer = KWinners(hidden, percent_on=k / hidden, k_inference_factor=1., boost_strength=1., boost_strength_factor=1., break_ties=strict)
        out['nupic.torch, break_ties' if strict else 'nupic.torch'] = of_modules(nn.Linear(784, hidden), layer)
    return out


def milliseconds(contestants: dict, steps: int) -> dict:
    "Median CPU milliseconds a step and seed of each, by turns; the first three steps don't count."
    seen = {name: [] for name in contestants}
    for k in range(steps):
        for name, (step, seeds, drawing) in contestants.items():
            began = time.process_time()
            step(k)
            seen[name].append((1000 * (time.process_time() - began) + drawing) / seeds)
    return {name: statistics.median(times[3:]) for name, times in seen.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--hidden', default='500,4000', help='hidden units, with commas (default: 500,4000)')
    parser.add_argument('--seeds', default='1,5', help='numbers of seeds side by side (default: 1,5)')
    parser.add_argument('--steps', type=int, default=30, help='steps of each arm, the first three of which only warm up (default: 30)')
    parser.add_argument('--json', help='write the rows to this file as well')
    args = parser.parse_args()
    if args.steps < 4: parser.error('--steps: at least 4')
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    print('| H | k | S | network | ms a step and seed | / dense |\n|---|---|---|---|---|---|')
    for hidden in map(int, args.hidden.split(',')):
        for k in WINNERS.get(hidden, (max(1, hidden // 50),)):
            for size in map(int, args.seeds.split(',')):
                times = milliseconds(arms(size, hidden, k), args.steps)
                for name, value in times.items():
                    rows.append({'hidden': hidden, 'k': k, 'seeds': size, 'network': name, 'milliseconds': value, 'ratio': value / times['dense']})
                    print('| {hidden} | {k} | {seeds} | {network} | {milliseconds:.2f} | {ratio:.2f} |'.format(**rows[-1]), flush=True)
    try: import nupic.torch  # noqa: F401
    except ImportError: print('\nnupic.torch is not importable here: its rows are left out.')
    if args.json:
        with open(args.json, 'w') as file: json.dump(rows, file, indent=1)


if __name__ == '__main__': main()
