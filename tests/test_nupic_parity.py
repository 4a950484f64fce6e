"""Our k-winners and sparse weights beside nupic.torch's own, where that package is importable: it isn't on the package index, and its licence is AGPL."""
import pytest
import torch
from torch import nn

from clrepro import sparse_layers as ours
from clrepro.nn import cross_entropy
from clrepro.sparse_nets import SparseMLP

nupic = pytest.importorskip('nupic.torch.modules', reason='nupic.torch is not installed; with a connection to GitHub: '
                            '.venv/bin/uv pip install --no-deps git+https://github.com/numenta/nupic.torch')


def same(a, b): torch.testing.assert_close(a.detach(), b.detach(), rtol=0, atol=0)


def compare(mine, theirs, batches, to_theirs):
    "Outputs, input gradients and duty cycles over `batches`, every fourth one in eval mode, then the boost schedule."
    for step, x in enumerate(batches):
        training = step % 4 != 3
        a, b = x.clone().requires_grad_(), to_theirs(x).clone().requires_grad_()
        y, wanted = mine.train(training)(a), theirs.train(training)(b)
        same(to_theirs(y), wanted)
        weight = torch.randn_like(y)
        y.backward(weight)
        wanted.backward(to_theirs(weight))
        same(to_theirs(a.grad), b.grad)
        torch.testing.assert_close(mine.duty_cycle[0], theirs.duty_cycle.flatten(), rtol=0, atol=1e-6)
        if training:
            mine.apply(ours.update_boost_strength)
            theirs.apply(nupic.update_boost_strength)
            assert float(mine.boost_strength[0]) == pytest.approx(float(theirs.boost_strength))


@pytest.mark.parametrize('beta', [0., 1., 5.])
def test_kwinners(beta):
    torch.manual_seed(0)
    options = dict(percent_on=0.05, k_inference_factor=1.5, boost_strength=beta, boost_strength_factor=0.95, duty_cycle_period=100, break_ties=True)
    batches = [torch.randn(1, 16, 300) + torch.linspace(-1, 1, 300) for _ in range(20)]
    compare(ours.KWinners(1, 300, **options), nupic.KWinners(300, **options), batches, lambda t: t[0])


@pytest.mark.parametrize('local', [True, False])
@pytest.mark.parametrize('beta', [0., 1., 5.])
def test_kwinners2d(beta, local):
    torch.manual_seed(0)
    options = dict(percent_on=0.2, k_inference_factor=1.5, boost_strength=beta, boost_strength_factor=0.95, duty_cycle_period=100, break_ties=True, local=local)
    batches = [torch.randn(16, 12, 5, 4) + torch.linspace(-1, 1, 12)[:, None, None] for _ in range(12)]
    compare(ours.KWinners2d(1, 12, **options), nupic.KWinners2d(12, **options), batches, lambda t: t)


@pytest.mark.parametrize('sense', ['weight_sparsity', 'sparsity'])
@pytest.mark.parametrize('fraction', [0.1, 0.3, 0.5])
def test_senses_and_fan_in_of_sparse_weights(sense, fraction):
    from clrepro.nn import Linear
    from clrepro.resnet import Conv2d
    linear, conv = Linear(1, 117, 9), Conv2d(1, 6, 8, 5)
    for p in (*linear.parameters(), *conv.parameters()): nn.init.ones_(p)
    kept = ours.SparseWeights(linear, **{sense: fraction}).weight.count_nonzero(1).flatten()
    assert kept.tolist() == nupic.SparseWeights(nn.Linear(117, 9), **{sense: fraction}).weight.count_nonzero(1).tolist()
    kept = ours.SparseWeights2d(conv, **{sense: fraction}).weight.flatten(2).count_nonzero(2).flatten()
    assert kept.tolist() == nupic.SparseWeights2d(nn.Conv2d(6, 8, 5), **{sense: fraction}).weight.flatten(1).count_nonzero(1).tolist()


def test_training_of_an_mlp():
    "The same start, masks and batches give the same network after SGD with momentum, and the same logits in eval mode."
    torch.manual_seed(0)
    options = dict(k_inference_factor=1.5, boost_strength=1., boost_strength_factor=0.9, duty_cycle_period=50)
    sparse = nupic.SparseWeights(nn.Linear(40, 60), weight_sparsity=0.4)
    theirs = nn.Sequential(sparse, nupic.KWinners(60, percent_on=0.1, break_ties=True, **options), nn.Linear(60, 10))
    mine = SparseMLP([0], 40, 10, 60, dropout=0., percent_on_fc=0.1, weight_sparsity_fc=0.4, **options)
    pairs = [(mine.layers[0], sparse), (mine.readout, theirs[2])]
    with torch.no_grad():
        for layer, reference in pairs:
            layer.weight[0] = reference.weight.T
            layer.bias[0, 0] = reference.bias
        mine.layers[0].mask[0] = sparse.weight.T != 0
    optimisers = [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4) for net in (mine, theirs)]
    for _ in range(20):
        x, y = torch.rand(1, 16, 40), torch.randint(0, 10, (1, 16))
        for net, loss, rezero, optimiser in ((mine, cross_entropy(mine(x), y).sum(), ours.rezero_weights, optimisers[0]),
                                             (theirs, nn.functional.cross_entropy(theirs(x[0]), y[0]), nupic.rezero_weights, optimisers[1])):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            net.apply(rezero)
    for layer, reference in pairs: torch.testing.assert_close(layer.weight[0].T, reference.weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(mine.eval()(x)[0], theirs.eval()(x[0]), rtol=0, atol=1e-5)
    assert (mine.layers[0].weight.count_nonzero(1) == 16).all()
