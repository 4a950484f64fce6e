"""Brain-inspired replay with exaggeration: kills, the seed axis, terms that are off, PDFs, fronts, the original's commands, graphs, real digits."""
import multiprocessing
import os
import pickle
import re
import signal
from functools import partial

import conftest
import pytest
import torch

from clrepro import cli
from clrepro.bir_figures import write_pdfs
from clrepro.bir_options import METHODS
from clrepro.bir_plan import IN_PIXELS, SCALED
from clrepro.bir_run import BirRun
from clrepro.bir_streams import PAPER_STREAMS
from clrepro.core import DataError, UsageError
from clrepro.data import load
from clrepro.engine import Checkpoint, Training, build_method
from clrepro.front import Front, cached_features, folder, import_front, the_front
from clrepro.papers import PAPERS, fields

S1, XDG, CIFAR = 'split_mnist_14_class', 'split_mnist_task', 'split_cifar10_class'
reproduce = partial(conftest.reproduce, 'bir_exaggeration')
TINY = dict(iters=6, lr=0.01, fc_units=16, z_dim=5, dg_prop=0.5, view2='noise', c=10., ewc_lambda=100., fisher_n=20)
ON_S1 = [name for name in METHODS if name not in (*IN_PIXELS, 'xdg')]


def built(name, seeds=(11, 12), where=None, device='cpu', dtype='float32', graph=False, saved=None, front=None, **fields):
    "A run of three tasks that has not begun."
    cls, where = METHODS[name], where or (XDG if name == 'xdg' else S1)
    fields = {field: value for field, value in TINY.items() if field in cls.fields()} | fields
    stream = PAPER_STREAMS[where](seeds, data='standin', device=device, n_tasks=3, use=100, n_test=20, **{'front_name': front} if front else {})
    training = Training(batch_size=8, dtype=dtype, graph=graph)
    return BirRun(build_method(cls, seeds, stream, training, device, **fields), stream, training, checkpoint=saved)


def flat(run): return torch.cat([p.detach().flatten(1).cpu() for p in run.method.params], 1)  # (S, P)


def alike(a, b) -> bool:
    "Whether two states are equal, tensors bit for bit."
    if isinstance(a, torch.Tensor): return torch.equal(a, b) or bool(a.isnan().all() and b.isnan().all())
    if isinstance(a, dict): return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(alike, a, b))
    return a == b


# a kill inside the second task

KILLED = ['bir_si_rr_ra', 'bir_si_contrastive', 'ewc_online', 'gr']


def dies(name, path, last_write):
    "Train with a checkpoint a step; dies inside that write, the new file beside the old one."
    torch.set_num_threads(1)
    writes, replace = iter(range(last_write)), os.replace
    os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL) if next(writes, None) is None else replace(*paths)
    built(name, saved=Checkpoint(path, 0.0), observe='statistics').train()


@pytest.mark.parametrize('write', [5, 8])  # five checkpoints a task: the first of the second one, and one in its middle
@pytest.mark.parametrize('name', KILLED)
def test_killed_runs_end_the_same(name, write, tmp_path):
    whole, path = built(name, observe='statistics').train(), tmp_path/'run.pt'
    process = multiprocessing.get_context('fork').Process(target=dies, args=(name, path, write))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and [file for file in tmp_path.iterdir() if file != path], 'it died inside a write'
    saved = Checkpoint(path).load('cpu')
    assert (saved['task'], saved['step']) == ((1, write - 5) if write > 5 else (0, 5))
    again = built(name, saved=Checkpoint(path, 0.0), observe='statistics').train()
    assert alike(again.method.state_dict(), whole.method.state_dict()) and torch.equal(again.matrix, whole.matrix)
    assert again.losses[-1] == whole.losses[-1]
    for i in range(2): assert repr(again.recorded(i)) == repr(whole.recorded(i))


# the seed axis

def together_equals_alone(name, dtype='float64', atol=1e-9, **options):
    together, *alone = (built(name, seeds, dtype=dtype, iters=4, **options).train() for seeds in ((11, 12, 14), (11,), (12,), (14,)))
    assert torch.allclose(flat(together), torch.cat([flat(run) for run in alone]), rtol=0, atol=atol)
    assert torch.equal(together.matrix.nan_to_num(), torch.cat([run.matrix for run in alone]).nan_to_num())


@pytest.mark.parametrize('name', [*ON_S1, 'xdg'])
def test_seeds_together_equal_each_alone(name): together_equals_alone(name)


@pytest.mark.parametrize('name, options', [('gr_plus_int', {}), ('bir_si_augmented', {'view2': 'legacy'}), ('bir_si_contrastive_scores', {'view2': 'legacy'})])
def test_seeds_together_equal_each_alone_on_features(name, options, fronts):
    together_equals_alone(name, 'float32', 1e-4, where=CIFAR, front='mine', **options)


# terms that are off

@pytest.fixture(scope='module')
def baseline(): return flat(built('bir_si', iters=20).train())


WEIGHTS = ('lambda_recon_rep', 'lambda_recon_atr', 'lambda_rep')


@pytest.mark.parametrize('name', [name for name in METHODS if re.fullmatch('bir_si_(rr|ra|dr).*', name)])
def test_no_weight_is_the_baseline(name, baseline):
    off = {field: 0. for field in WEIGHTS if field in METHODS[name].fields()}
    assert off and torch.equal(flat(built(name, iters=20, **off).train()), baseline)
    strong = flat(built(name, iters=20, **dict.fromkeys(off, 1.)).train())
    assert (strong - baseline).abs().max() > 1e-3


def test_the_augmented_baseline_differs_and_the_forks_does_not(baseline):
    assert not torch.equal(flat(built('bir_si_augmented', iters=20).train()), baseline)
    assert torch.equal(flat(built('bir_si_augmented', iters=20, legacy_augmented=True).train()), baseline)


# the notebook

def test_a_command_of_the_readme_and_its_pdf(tmp_path):
    flags = ('experiment=splitMNIST scenario=class replay=generative brain_inspired=true si=true recon_repulsion=true recon_attraction=true '
             'recon_rep_aver=true lamda_recon_rep=0.5 iters=4 fc_units=16 batch=16 pdf=true')
    results, done = reproduce(tmp_path, '--data', 'standin', *(word for flag in flags.split() for word in ('--set', flag)))
    [run] = results['runs']
    settings = run['config']['method'] | run['config']['training']
    assert (run['method'], run['stream'], len(run['accuracy_matrix'])) == ('bir_si_rr_ra', 'split_mnist_class', 5) and 'STAND-IN' in done.stdout
    wanted = dict(lambda_recon_rep=0.5, lambda_recon_atr=1e-6, c=0.1, iters=4, fc_units=16, z_dim=100, batch_size=16)
    assert {name: settings[name] for name in wanted} == wanted
    [path] = tmp_path.glob('*.pdf')
    pages = path.read_bytes()
    assert path.stem == run['config_hash'] and len(re.findall(rb'/Type /Page\b', pages)) == 2 and re.search(rb'/Count 2\b', pages)
    (tmp_path/'again').mkdir()
    [again] = write_pdfs(results, tmp_path/'again', {'bir_si_rr_ra.pdf': True})
    assert again.read_bytes() == pages and not write_pdfs(results, tmp_path/'again', {'bir_si.pdf': True})


def test_every_row_and_stream_can_be_chosen():
    rows = fields(PAPERS['bir_exaggeration'])
    assert {row.owner for row in rows if row.kind == 'method'} == set(METHODS)
    assert {row.owner for row in rows if row.kind == 'stream'} == set(PAPER_STREAMS)


# fronts

@pytest.fixture
def fronts(tmp_path, monkeypatch):
    "An empty data folder and in it a front named `mine`, imported from a file in the original's layout; the file."
    monkeypatch.setenv('CLREPRO_DATA', str(tmp_path/'data'))
    torch.manual_seed(0)
    front = Front()
    state = {key: value for key, value in front.state_dict().items() if not key.endswith('num_batches_tracked')}
    torch.save({'state': state, 'mean_acc': 0.5}, tmp_path/'C3-5x16-bn', _use_new_zipfile_serialization=False)
    import_front(tmp_path/'C3-5x16-bn', 'mine')
    return tmp_path/'C3-5x16-bn'


def test_a_front_of_the_originals_layout(fronts):
    front, entry = the_front(name='mine')
    state = torch.load(fronts, weights_only=True)['state']
    assert len(state) == 26 and not front.training and entry['name'] == 'front mine' and not entry['standin']
    assert all(torch.equal(value, state[key]) for key, value in front.state_dict().items() if key in state)


def test_a_file_that_runs_code_is_refused(tmp_path, no_data, capsys):
    class Trap:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'sprung'),)
    for number, write in enumerate((torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, 2)))):
        write({'state': {'convLayer1.conv.weight': Trap()}}, tmp_path/f'{number}.pt')
        assert cli.main(['front', 'import', str(tmp_path/f'{number}.pt'), '--name', 'mine']) == 3
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith('clrepro: ') and 'Expected a file of PyTorch with the key state' in line
    assert not (tmp_path/'sprung').exists() and not list(folder().glob('*.pt'))


@pytest.mark.parametrize('change', ['a layer is missing', 'a layer is wider', 'no state'])
def test_another_network_is_no_front(change, fronts):
    state = torch.load(fronts, weights_only=True)['state']
    if change == 'a layer is missing': del state['convLayer3.conv.bias']
    if change == 'a layer is wider': state['convLayer5.conv.weight'] = torch.zeros(512, 128, 3, 3)
    torch.save({'weights': state} if change == 'no state' else {'state': state}, fronts)
    with pytest.raises(DataError, match='no front of five layers: convLayer'): import_front(fronts, 'other')


def damage(path, how):
    whole = path.read_bytes()
    if how == 'short': path.write_bytes(whole[:len(whole) // 2])
    elif how == 'empty': path.write_bytes(b'')
    elif how == 'text': path.write_text('<!doctype html>')
    else: path.write_bytes(whole[:-4000] + bytes([whole[-4000] ^ 255]) + whole[-3999:])


@pytest.mark.parametrize('how', ['short', 'empty', 'text', 'a bit'])
def test_a_damaged_front_is_one_clear_error(how, fronts):
    path = folder()/'mine.pt'
    if how == 'a bit':  # a file of PyTorch with another value in it
        value = torch.load(path, weights_only=True)
        value['state']['convLayer1.conv.bias'][0] += 1
        torch.save(value, path)
    else: damage(path, how)
    with pytest.raises(DataError, match=re.escape(str(path))) as caught: the_front(name='mine')
    assert 'Delete' in str(caught.value) and '\n' not in str(caught.value)


def test_a_damaged_fact_sheet_is_one_clear_error(fronts):
    (folder()/'mine.json').write_text('{')
    with pytest.raises(DataError, match='mine.json is missing or damaged. Delete'): the_front(name='mine')


@pytest.mark.parametrize('how', ['short', 'empty', 'text'])
def test_damaged_features_are_one_clear_error(how, fronts):
    front, entry = the_front(name='mine')
    images = load('cifar10', 'standin')
    table = cached_features(front, entry, images, 'test')
    [path] = folder().glob('features-*.npy')
    assert table.shape == (len(images.test_images), 1024) and torch.equal(torch.tensor(table), torch.tensor(cached_features(front, entry, images, 'test')))
    damage(path, how)
    with pytest.raises(DataError, match=re.escape(str(path))) as caught: cached_features(front, entry, images, 'test')
    assert 'Delete it' in str(caught.value) and '\n' not in str(caught.value)


def test_a_damaged_front_is_one_line_of_the_command(fronts, capsys):
    assert cli.main(['front', 'show']) == 0 and 'mine' in capsys.readouterr().out
    (folder()/'mine.pt').write_bytes(b'')
    assert cli.main(['front', 'show']) == 3
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith('clrepro: ') and 'mine.pt' in line and 'Delete' in line


# flags

@pytest.mark.parametrize('wrong, says', [
    (['name=reconstructions'], "Did you mean 'reconstruction'"), (['name=baseline', 'n_rep=2'], 'n_rep=2 is refused'),
    (['name=baseline', 'c_hard=true'], 'c_hard'),
    (['name=baseline', 'conv_type=resNet'], 'ResNet'), (['name=baseline', 'deconv_type=resNet'], 'ResNet'), (['name=baseline', 'tuning=true'], 'refused'),
    (['name=baseline', 'lamda_recon_rep=1'], 'lambda_recon_rep has no effect without recon_repulsion'), (['name=baseline', 'rep_f=5'], 'without use_rep_f'),
    (['name=repulsion', 'scenario=task'], 'scenario=class'), (['experiment=splitMNIST', 'scenario=class', 'xdg=true'], 'scenario=task'),
    (['experiment=splitMNIST', 'scenario=task', 'replay=generative', 'xdg=true'], 'exclude each other'),
    (['experiment=splitMNIST', 'replay=generative', 'only_last=true'], 'exclude each other'), (['replay=offline', 'si=true'], 'no row of the comparison'),
    (['replay=generativ'], "Did you mean 'generative'"), (['scenario=clas'], "Did you mean 'class'"), (['experiment=CIFAR'], "Did you mean 'CIFAR1"),
    (['lambda_recon_rp=1'], "Did you mean 'lambda_recon_rep'"), (['bir_si_rr_ra.lambda_rep=1'], 'lambda_rep'),
    (['name=baseline', 'dg_propp=1'], "Did you mean 'dg_prop'"),
])
def test_errors(wrong, says, capsys, tmp_path):
    args = [part for text in wrong for part in ('--set', text)]
    assert cli.main(['reproduce', 'bir_exaggeration', '--profile', 'smoke', '--out', str(tmp_path), *args]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith('clrepro: ') and says in line


@pytest.mark.parametrize('name, fields, says', [
    ('bir_si_dr', {'kl_js': 'jss'}, "Did you mean 'js'"), ('bir_si_contrastive', {'view2': 'image'}, 'no front'),
    ('bir_rr', {'where': XDG}, 'scenario=class'),
    ('gr_plus_int', {}, 'on MNIST'), ('xdg', {'where': S1}, 'scenario=task'), ('bir', {'temp': [1., 2.]}, 'one number for all seeds'),
    ('bir', {'fc_layers': 1}, 'fc_layers=1'),
])
def test_combinations_that_make_no_sense(name, fields, says):
    with pytest.raises(UsageError, match=re.escape(says)): built(name, **fields)


# CUDA

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')


@needs_cuda
@pytest.mark.parametrize('name', [*ON_S1, 'xdg'])
def test_graph_equals_eager(name):
    eager, graphed = (built(name, device='cuda', dtype='float64', iters=20, graph=graph).train() for graph in (False, True))
    assert eager.method.counts == graphed.method.counts and torch.allclose(flat(eager), flat(graphed), rtol=0, atol=1e-9)


@needs_cuda
@pytest.mark.parametrize('name', [*ON_S1, 'xdg'])
def test_no_sync_inside_steps(name):
    run = built(name, device='cuda', iters=16)
    method, source = run.method, run.source
    for task in range(run.phases):
        batches = run.batches(task)
        method.begin_task(task)
        tables = method.draw([batch.shape[1] for batch in batches])
        for k, batch in enumerate(batches):
            x, y = source.train(task, batch)
            inputs = {key: table[k] for key, table in tables.items()}  # a block of sixteen steps is made with the first of them
            torch.cuda.set_sync_debug_mode('error')
            try: method.step(x=x, y=y, **inputs)
            finally: torch.cuda.set_sync_debug_mode('default')
        method.end_task()


@needs_cuda
def test_a_cuda_run_resumes(tmp_path):
    whole, path = built('bir_si_rr_ra', device='cuda').train(), tmp_path/'run.pt'

    class Stop(Exception): pass

    class Stops(Checkpoint):
        def save(self, state):
            super().save(state)
            if state['task'] == 1 and state['step'] == 3: raise Stop
    with pytest.raises(Stop): built('bir_si_rr_ra', device='cuda', saved=Stops(path, 0.0)).train()
    again = built('bir_si_rr_ra', device='cuda', saved=Checkpoint(path)).train()
    assert torch.allclose(flat(again), flat(whole), rtol=0, atol=1e-6)


# real digits

@pytest.fixture(scope='module')
def accuracies(real_mnist):
    "Mean accuracy over two seeds after each task, by row: S1 of the specification with sixty iterations a task."
    def learned(name):
        settings = SCALED[S1] | {'iters': 60}
        cls, training = METHODS[name], Training(batch_size=settings['batch_size'])
        stream = PAPER_STREAMS[S1]((11, 12), data='real', n_test=500)
        method = build_method(cls, (11, 12), stream, training, 'cpu', **{field: value for field, value in settings.items() if field in cls.fields()})
        return BirRun(method, stream, training).train().matrix[:, -1].mean(0)
    return {name: learned(name) for name in ('none', 'gr', 'bir', 'bir_rr')}


def test_inequalities_on_real_digits(accuracies):
    final = {name: 100 * row.mean().item() for name, row in accuracies.items()}
    assert 19 <= final['none'] <= 21 and accuracies['none'][0] <= 0.02, final
    assert final['bir'] - final['gr'] >= 20 and accuracies['bir'][0] >= 0.4, final
    assert final['bir_rr'] - final['bir'] <= -4, final
