"""What a training step of the reduced ResNet18 costs on the seed axis, beside a plain torch.nn network trained seed by seed.

A step is forward, cross-entropy, backward and SGD on 10 + 65 images in two passes. Seconds a seed-step (CPU seconds on a CPU), S seeds side by side, on one
thread; their ratio to the plain network's, measured in turn with it in the same process and in PyTorch's default layout; peak memory of a process that does
nothing else. `one by one` and `folded` are the network's two paths, of which it takes the first on a CPU and the second on a GPU. Images are random.

    python benchmarks/resnet_step.py [--seeds 1,2,5] [--size 32] [--rows 10,65] [--repeats 7] [--device cpu] [--json FILE]
"""
import argparse
import json
import multiprocessing
import os
import resource
import time

os.environ.setdefault('OMP_NUM_THREADS', '1')

OUTPUTS, LR = 85, 0.01


def plain_network():
    "The same network as one would write it for one seed."
    import torch.nn.functional as F
    from torch import nn

    class Block(nn.Module):
        def __init__(self, n_in, n_out, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out)
            self.conv2, self.bn2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out)
            self.shortcut = nn.Identity() if stride == 1 else nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

        def forward(self, x): return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))
    blocks = [Block(a, b, 1 + (a != b)) for a, b in zip((20, 20, 20, 40, 40, 80, 80, 160), (20, 20, 40, 40, 80, 80, 160, 160))]
    stem = nn.Conv2d(3, 20, 3, 1, 1, bias=False), nn.BatchNorm2d(20), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, OUTPUTS))


def plain_step(size: int, device: str):
    "S plain networks, trained one after the other."
    import torch
    import torch.nn.functional as F
    nets = [plain_network().to(device) for _ in range(size)]
    optimisers = [torch.optim.SGD(net.parameters(), LR) for net in nets]

    def step(batches):
        for s, (net, optimiser) in enumerate(zip(nets, optimisers)):
            optimiser.zero_grad()
            sum(F.cross_entropy(net(x[s].movedim(-1, 1).contiguous().float().div(255)), y[s]) for x, y in batches).backward()
            optimiser.step()
    return step


def axis_step(size: int, device: str, path: str):
    "One network on the seed axis."
    import torch
    from clrepro.nn import cross_entropy, descend
    from clrepro.resnet import ReducedResNet18
    net = ReducedResNet18(range(size), OUTPUTS).to(device)
    forward, params = {'one by one': net.one_by_one, 'folded': net.folded}[path], list(net.parameters())

    def step(batches):
        loss = sum(cross_entropy(forward(x), y) for x, y in batches)
        descend(params, torch.autograd.grad(loss.sum(), params), LR)
    return step


def setting(args, size: int, what: str):
    "Step and batches of `what` = plain, one by one or folded."
    import torch
    torch.set_num_threads(1)
    step = plain_step(size, args.device) if what == 'plain' else axis_step(size, args.device, what)
    batches = [(torch.randint(0, 256, (size, n, args.size, args.size, 3), dtype=torch.uint8, device=args.device),
                torch.randint(0, OUTPUTS, (size, n), device=args.device)) for n in map(int, args.rows.split(','))]
    return step, batches


def seconds(args, size: int, what: str, out) -> None:
    "Fastest of `repeats` steps of `what` and of the plain networks, a seed each."
    import torch

    def timed(step, batches):
        wait, clock = (torch.cuda.synchronize, time.perf_counter) if args.device.startswith('cuda') else (lambda: None, time.process_time)
        wait()
        began = clock()
        step(batches)
        wait()
        return (clock() - began) / size
    pair = setting(args, size, what), setting(args, size, 'plain')
    for _ in range(2): [timed(*each) for each in pair]
    rounds = [[timed(*each) for each in pair] for _ in range(args.repeats)]
    out.send([min(column) for column in zip(*rounds)])


def peak(args, size: int, what: str, out) -> None:
    "Peak memory in MB: of the process on a CPU, of the allocator on a GPU."
    import torch
    step, batches = setting(args, size, what)
    for _ in range(3): step(batches)
    if args.device.startswith('cuda'): out.send(torch.cuda.max_memory_allocated() / 2**20)
    else: out.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def apart(work, *args):
    "What `work` sends, from a process of its own."
    receive, send = multiprocessing.Pipe(False)
    process = multiprocessing.get_context('spawn').Process(target=work, args=(*args, send))
    process.start()
    send.close()
    result = receive.recv()
    process.join()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seeds', default='1,2,5', help='numbers of seeds side by side (default: 1,2,5)')
    parser.add_argument('--size', type=int, default=32, help='height and width of the images (default: 32)')
    parser.add_argument('--rows', default='10,65', help='images of each pass of a step (default: 10,65)')
    parser.add_argument('--repeats', type=int, default=7, help='steps of which the fastest counts (default: 7)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: cpu)')
    parser.add_argument('--json', help='write the rows to this file as well')
    args = parser.parse_args()
    rows = []
    print('| path | S | s a seed-step | plain s | ratio | peak MB | plain peak MB |\n|---|---|---|---|---|---|---|')
    for size in map(int, args.seeds.split(',')):
        plain_mb = apart(peak, args, size, 'plain')
        for path in ('one by one', 'folded'):
            ours, plain = apart(seconds, args, size, path)
            rows.append(row := {'path': path, 'seeds': size, 'seconds': ours, 'plain_seconds': plain, 'ratio': ours / plain,
                                'peak_mb': apart(peak, args, size, path), 'plain_peak_mb': plain_mb})
            print('| {path} | {seeds} | {seconds:.4f} | {plain_seconds:.4f} | {ratio:.2f} | {peak_mb:.0f} | {plain_peak_mb:.0f} |'.format(**row), flush=True)
    if args.json:
        with open(args.json, 'w') as file: json.dump(rows, file, indent=1)


if __name__ == '__main__': main()
