"""What brain-inspired replay with Synaptic Intelligence costs on the seed axis, beside its own products.

Split MNIST at 14x14, five tasks of 200 iterations, 64 current and 64 replayed rows, 128 units, 32 latents: CPU seconds a seed of training S seeds side by
side on one thread; the floor, which is the products of forward, backward, generation and teacher as bare `baddbmm` of the same shapes and one fused pass
of Adam a step, in the same process. Floor and run take turns, the fastest of each counts. Random images, no data needed.

    python benchmarks/replay_floor.py [--method bir_si] [--seeds 1,5,10] [--iters 200] [--repeats 3] [--json FILE]
"""
import argparse
import json
import multiprocessing
import os
import time

os.environ.setdefault('OMP_NUM_THREADS', '1')

SETTINGS = dict(lr=1e-3, fc_units=128, z_dim=32, dg_prop=0.8)
ROWS, TASKS = 64, 5


def random_images():
    "An image set of MNIST's shape: 10,000 training and 1,000 test images of noise."
    import numpy as np
    from clrepro.data import ImageSet
    g = np.random.default_rng(0)
    images, labels = (lambda n: g.integers(0, 256, (n, 28, 28), np.uint8)), (lambda n: np.arange(n) % 10)
    return ImageSet('noise', images(10_000), labels(10_000), images(1000), labels(1000), 10, {'train': '', 'test': ''}, 'noise', '', True)


def fresh(name: str, size: int, iters: int):
    "A run that has not begun."
    import torch
    from clrepro.bir_options import METHODS
    from clrepro.bir_run import BirRun
    from clrepro.bir_streams import SplitDigits14
    from clrepro.engine import Training, build_method
    seeds, training = tuple(range(11, 11 + size)), Training(batch_size=ROWS)
    stream = SplitDigits14(seeds)
    stream.images = random_images()
    cls = METHODS[name]
    settings = {key: value for key, value in (SETTINGS | {'iters': iters, 'c': 10.0}).items() if key in cls.fields()}
    run = BirRun(build_method(cls, seeds, stream, training, 'cpu', **settings), stream, training)
    run.clock, run.evaluate = time.process_time, lambda tasks: torch.zeros(size, len(tasks))
    return run


def floor(method, iters: int) -> float:
    """CPU seconds of the bare products behind a run of that method: of each layer the forward pass and the gradients of weights and of inputs, the latter not
    of the first; of replayed rows what their generation and the teacher's answer take, 16 steps at a time; a fused pass of Adam over all parameters a step."""
    import torch
    from torch.optim.adam import adam
    net, size = method.net, len(method.seeds)
    bare = lambda layers: [(layer.weight.detach(), torch.zeros(size, 1, layer.weight.shape[2]) if layer.bias is None else layer.bias.detach())
                           for layer in layers]
    encoder, heads, decoder = bare(net.encoder), bare([net.mu, net.logvar, net.classifier]), bare(net.decoder)
    filled = lambda layers, rows: [(torch.rand(size, rows, w.shape[1]), torch.rand(size, rows, w.shape[2]), w, b) for w, b in layers]

    def forward(layers):
        for x, _, w, b in layers: torch.baddbmm(b, x, w)

    def backward(layers, first: bool):
        zero = torch.zeros(())
        for number, (x, g, w, _) in enumerate(layers):
            torch.baddbmm(zero, x.mT, g, beta=0)
            if number or not first: torch.baddbmm(zero, g, w.mT, beta=0)
    options = dict(fused=True, amsgrad=False, beta1=0.9, beta2=0.999, lr=1e-3, weight_decay=0.0, eps=1e-8, maximize=False)
    params = [p.detach().clone() for p in net.parameters()]
    grads, means, squares = ([torch.full_like(p, 1e-3) for p in params] for _ in range(3))
    steps = [torch.zeros(()) for _ in params]
    spent = 0.0
    for replayed, tasks in ((0, 1), (ROWS, TASKS - 1)):
        whole = [filled(layers, ROWS + replayed) for layers in (encoder, heads, decoder)]
        ahead = [filled(layers, 16 * replayed) for layers in (decoder, encoder, heads[2:])]
        began = time.process_time()
        for step in range(iters * tasks):
            if replayed and step % 16 == 0:
                for layers in ahead: forward(layers)
            for number, layers in enumerate(whole):
                forward(layers)
                backward(layers, not number)
            adam(params, grads, means, squares, [], steps, **options)
        spent += time.process_time() - began
    return spent


def measure(name: str, size: int, iters: int, repeats: int) -> dict:
    "Training and floor, CPU seconds a seed, and their ratio."
    from clrepro.runs import start_worker
    start_worker()
    floor(fresh(name, size, iters).method, 20)
    trained, bare = [], []
    for _ in range(repeats):
        run = fresh(name, size, iters)
        run.stream.order(0), run.stream.train(0, run.stream.order(0)[:, :1])  # the images are there
        run.train()
        trained.append(run.seconds / size)
        bare.append(floor(run.method, iters) / size)
    return {'method': name, 'seeds': size, 'train_seconds': min(trained), 'floor_seconds': min(bare), 'ratio': min(trained) / min(bare)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--method', default='bir_si', help='a row with one network that replays (default: bir_si)')
    parser.add_argument('--seeds', default='1,5,10', help='numbers of seeds side by side (default: 1,5,10)')
    parser.add_argument('--iters', type=int, default=200, help='iterations a task (default: 200)')
    parser.add_argument('--repeats', type=int, default=3, help='runs of which the fastest counts (default: 3)')
    parser.add_argument('--json', help='write the rows to this file as well')
    args = parser.parse_args()
    rows = []
    print('| method | S | train s a seed | floor s | train / floor |\n|---|---|---|---|---|')
    for size in map(int, args.seeds.split(',')):
        with multiprocessing.get_context('spawn').Pool(1) as pool: rows.append(pool.apply(measure, (args.method, size, args.iters, args.repeats)))
        print('| {method} | {seeds} | {train_seconds:.2f} | {floor_seconds:.2f} | {ratio:.2f} |'.format(**rows[-1]), flush=True)
    if args.json:
        with open(args.json, 'w') as file: json.dump(rows, file, indent=1)


if __name__ == '__main__': main()
