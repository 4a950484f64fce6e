"""How much training on the seed axis costs beside the bare arithmetic.

For each method on BCL's scaled tier (10 tasks x 1000 samples, MLP 784-128-128-128-10): CPU seconds a seed-run for S seeds side by side on one
thread, training and evaluation apart; the floor, which is the same multiply-adds as bare batched matrix products of the same shapes in the same
process, left out where a method drives the layers by itself (GEM, MER); peak memory of the process. Random uint8 images of MNIST's shape, no data needed.

    python benchmarks/seed_axis.py [--methods er,bcl_dual] [--seeds 1,5,10] [--tasks 10] [--repeats 3] [--json FILE]
"""
import argparse
import json
import multiprocessing
import os
import resource
import time

os.environ.setdefault('OMP_NUM_THREADS', '1')

METHODS = {'finetune': {}, 'er': {}, 'kdr': {}, 'bcl_single': {'inner_steps': 4}, 'bcl_dual': {}, 'offline': {},
           'ewc': {'n_memories': 10}, 'gem': {}, 'agem': {}, 'lwf': {}, 'ftml': {}, 'mer': {}, 'independent': {}}
SCALED = {'n_memories': 50, 'replay_batch_size': 64, 'lr': 0.1}
SIZES = (784, 128, 128, 128, 10)


def random_images():
    "An image set of MNIST's shape: 10,000 training and 1,000 test images of noise."
    import numpy as np
    from clrepro.data import ImageSet
    g = np.random.default_rng(0)
    images, labels = (lambda n: g.integers(0, 256, (n, 28, 28), np.uint8)), (lambda n: g.integers(0, 10, n))
    return ImageSet('noise', images(10_000), labels(10_000), images(1000), labels(1000), 10, {'train': '', 'test': ''}, 'noise', '', True)


def passes(run) -> list:
    "The (rows, times) of all forward-backward passes of one run, from the shapes the network was called with."
    seen = {}

    def note(net, inputs):
        if net.training: seen[inputs[0].shape[1]] = seen.get(inputs[0].shape[1], 0) + 1
    hook = run.method.net.register_forward_pre_hook(note)
    evaluate = run.evaluate
    run.evaluate = lambda tasks: (run.method.net.eval(), evaluate(tasks), run.method.net.train())[1]
    run.train()
    hook.remove()
    return sorted(seen.items())


def floor(size: int, shapes, repeats: int) -> float:
    "CPU seconds of the bare batched products behind those passes: forward, weight gradients, and input gradients of all layers but the first."
    import torch
    total = 0.0
    for rows, times in shapes:
        x = [torch.rand(size, rows, n) for n in SIZES]
        w = [torch.rand(size, a, b) for a, b in zip(SIZES, SIZES[1:])]
        layers = range(len(w))

        def products():
            for i in layers: torch.bmm(x[i], w[i])
            for i in layers: torch.bmm(x[i].mT, x[i + 1])
            for i in layers[1:]: torch.bmm(x[i + 1], w[i].mT)
        rounds = max(20, min(times, 300))
        for _ in range(5): products()
        best = float('inf')
        for _ in range(repeats):
            began = time.process_time()
            for _ in range(rounds): products()
            best = min(best, time.process_time() - began)
        total += best / rounds * times
    return total


def measure(name: str, size: int, tasks: int, repeats: int, out) -> None:
    "Best of `repeats` runs of one method, sent through the pipe `out`."
    import torch
    from clrepro.engine import Run, Training, build_method
    from clrepro.runs import known_methods
    from clrepro.streams import PermutedStream
    torch.set_num_threads(1)
    seeds, noise = tuple(range(size)), random_images()

    def fresh():
        stream = PermutedStream(seeds, n_tasks=tasks, use=1000, n_test=1000)
        stream.images = noise
        cls = known_methods()[name]
        settings = {key: value for key, value in (SCALED | METHODS[name]).items() if key in cls.fields()}
        method = build_method(cls, seeds, stream, Training(), 'cpu', **settings)
        return Run(method, stream, Training())
    counted = fresh()
    shapes = passes(counted)
    whole = sum(rows * times for rows, times in shapes) >= counted.method.counts['rows']
    trained, evaluated, bare = [], [], []
    for _ in range(repeats):
        run = fresh()
        run.clock = time.process_time
        run.train()
        trained.append(run.seconds)
        evaluated.append(run.eval_seconds)
        bare.append(floor(size, shapes, 1) if whole else float('nan'))
    best = min(trained) / size
    out.send({'method': name, 'seeds': size, 'train_seconds': best, 'eval_seconds': min(evaluated) / size, 'floor_seconds': min(bare) / size,
              'ratio': best / (min(bare) / size), 'peak_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--methods', default=','.join(METHODS), help='names with commas (default: all)')
    parser.add_argument('--seeds', default='1,5,10', help='numbers of seeds side by side (default: 1,5,10)')
    parser.add_argument('--tasks', type=int, default=10, help='tasks of the stream (default: 10)')
    parser.add_argument('--repeats', type=int, default=3, help='runs of which the fastest counts (default: 3)')
    parser.add_argument('--json', help='write the rows to this file as well')
    args = parser.parse_args()
    rows = []
    print('| method | S | train s a seed-run | evaluation s | floor s | train / floor | peak MB |\n|---|---|---|---|---|---|---|')
    for name in args.methods.split(','):
        for size in map(int, args.seeds.split(',')):
            receive, send = multiprocessing.Pipe(False)
            process = multiprocessing.get_context('spawn').Process(target=measure, args=(name, size, args.tasks, args.repeats, send))
            process.start()
            send.close()
            rows.append(row := receive.recv())
            process.join()
            print('| {method} | {seeds} | {train_seconds:.2f} | {eval_seconds:.2f} | {floor_seconds:.2f} | {ratio:.2f} | {peak_mb:.0f} |'.format(**row),
                  flush=True)
    if args.json:
        with open(args.json, 'w') as file: json.dump(rows, file, indent=1)


if __name__ == '__main__': main()
