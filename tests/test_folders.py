"CUB-200-2011 and miniImageNet from tiny folders of their layout: import, refusals, streams, GEM files there and back."
import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from clrepro import cli, data, download, folders, gem
from clrepro.core import DataError, DiskError, UsageError
from clrepro.splits import STREAMS, resized

SIZE = 32   # of the images stored here


def photo(path, rng, shape=(24, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(path, 'JPEG')


def write_cub(path, train=2, test=1):
    "CUB's layout: 200 classes with so many images each."
    rng, number = np.random.default_rng(0), 0
    lists = {'images.txt': [], 'image_class_labels.txt': [], 'train_test_split.txt': []}
    for label in range(1, 201):
        for i in range(train + test):
            number += 1
            name = f'{label:03d}.Bird_{label}/Bird_{label}_{i:04d}.jpg'
            photo(path/'images'/name, rng)
            for file, value in zip(lists, (name, label, int(i < train))): lists[file].append(f'{number} {value}\n')
    for file, lines in lists.items(): (path/file).write_text(''.join(lines))
    return path


def write_miniimagenet(path, each=6):
    "miniImageNet's layout: 100 classes with so many images each, 64 in the first list, 16 in the second, 20 in the third."
    rng = np.random.default_rng(1)
    names = [f'n{label:08d}' for label in np.random.default_rng(2).permutation(100)]
    for file, labels in (('train.csv', names[:64]), ('val.csv', names[64:80]), ('test.csv', names[80:])):
        rows = [(f'{label}{i:08d}.jpg', label) for label in labels for i in range(1, each + 1)]
        for name, _ in rows: photo(path/'images'/name, rng)
        (path/file).write_text('filename,label\n' + ''.join(f'{name},{label}\n' for name, label in rows))
    return path


@pytest.fixture(scope='module')
def copies(tmp_path_factory):
    "A folder of each layout, never changed."
    where = tmp_path_factory.mktemp('copies')
    return {'cub': write_cub(where/'cub'), 'miniimagenet': write_miniimagenet(where/'miniimagenet')}


@pytest.fixture(scope='module')
def small(copies, tmp_path_factory):
    "A data folder that holds both sets, stored small."
    where = tmp_path_factory.mktemp('data')
    for name, run in folders.IMPORTERS.items(): run(copies[name], SIZE, where)
    return where


@pytest.fixture
def both(small, monkeypatch):
    monkeypatch.setenv('CLREPRO_DATA', str(small))
    return small


@pytest.fixture
def copy(copies, tmp_path):
    "copy(name): a folder of that layout whose files may be replaced; the images are links."
    def make(name):
        target = tmp_path/name
        for path in sorted(copies[name].rglob('*')):
            new = target/path.relative_to(copies[name])
            if path.is_dir(): new.mkdir(parents=True)
            elif path.suffix == '.jpg': new.symlink_to(path)
            else: new.parent.mkdir(parents=True, exist_ok=True), new.write_bytes(path.read_bytes())
        return target
    return make


def by_pil(path, size): return np.asarray(Image.open(path).resize((size, size), Image.Resampling.BILINEAR))


def edit(path, line, text):
    "Replace a line, counted from 1; None deletes it."
    lines = path.read_text().splitlines()
    lines[line - 1:line] = [] if text is None else [text]
    path.write_text('\n'.join(lines) + '\n')


def test_cub_by_the_command_line(copies, no_data, capsys):
    "import, list, verify, get; 224x224; the images are in the order of the list."
    assert cli.main(['data', 'import', 'cub', str(copies['cub'])]) == 0
    told = capsys.readouterr()
    assert told.out.startswith('cub: installed, https://www.vision.caltech.edu/') and told.err == 'cub: not the whole set: 600 of 11,788 images\n'
    birds = data.load('cub', 'auto')
    assert birds.train_images.shape == (400, 224, 224, 3) and birds.test_images.shape == (200, 224, 224, 3)
    assert isinstance(birds.train_images, np.memmap) and not birds.standin and not birds.lossless and birds.n_classes == 200
    assert birds.note == 'not the whole set: 600 of 11,788 images' and (np.bincount(birds.train_labels) == 2).all()
    assert (birds.test_images[6] == by_pil(copies['cub']/'images/007.Bird_7/Bird_7_0002.jpg', 224)).all() and birds.test_labels[6] == 6
    assert cli.main(['data', 'list']) == 0 and 'cub            installed  400+200' in capsys.readouterr().out
    assert cli.main(['data', 'verify']) == 0 and 'cub train: 400 images' in capsys.readouterr().out
    assert cli.main(['data', 'get', 'cub']) == 0 and 'already installed' in capsys.readouterr().out
    assert sorted(os.listdir(no_data)) == ['.lock', 'cub', 'installed.json']
    (no_data/'cub'/'test_labels.npy').unlink()
    assert cli.main(['data', 'verify']) == 3 and 'clrepro data import cub DIR' in capsys.readouterr().err


def test_miniimagenet_by_the_command_line(copies, no_data, capsys):
    assert cli.main(['data', 'import', 'miniimagenet', str(copies['miniimagenet'])]) == 0
    assert capsys.readouterr().err == 'miniimagenet: not the whole set: 600 of 60,000 images\n'
    images = data.load('miniimagenet', 'real')
    assert images.train_images.shape == (500, 84, 84, 3) and images.test_images.shape == (100, 84, 84, 3)
    assert images.test_labels.tolist() == list(range(100)) and images.train_labels.tolist() == [label for label in range(100) for _ in range(5)]
    own = [by_pil(copies['miniimagenet']/f'images/n00000042{i:08d}.jpg', 84) for i in range(1, 7)]   # labels are sorted
    found = [*images.train_images[images.train_labels == 42], *images.test_images[images.test_labels == 42]]
    assert {image.tobytes() for image in own} == {image.tobytes() for image in found}


def test_where_the_set_may_lie(copies, small, tmp_path):
    "The folder around CUB_200_2011 will do, and so will a set that is installed elsewhere; the note goes with it."
    (tmp_path/'around').mkdir()
    (tmp_path/'around'/'CUB_200_2011').symlink_to(copies['cub'])
    entry = folders.import_cub(tmp_path/'around', SIZE, tmp_path/'one')
    [again] = data.import_folder(small/'cub', folder=tmp_path/'two')
    assert entry['sha256'] == again['sha256'] and again['note'].endswith('stored as 32x32, not 224x224')


def test_split_does_not_depend_on_the_lists(copy, small, tmp_path):
    path = copy('miniimagenet')
    rows = [line for file in ('train.csv', 'val.csv', 'test.csv') for line in (path/file).read_text().splitlines()[1:]]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    for file, part in (('train.csv', rows[:10]), ('val.csv', rows[10:]), ('test.csv', [])):
        (path/file).write_bytes('\r\n'.join(['filename,label', *part, '']).encode('utf-8-sig'))
    assert folders.import_miniimagenet(path, SIZE, tmp_path/'data')['sha256'] == data.installed(small)['miniimagenet']['sha256']


@pytest.mark.parametrize('file, line, text, words', [
    ('images.txt', 5, 'nonsense', 'images.txt, line 5: expected an image number and the name of its file, found .nonsense'),
    ('images.txt', 5, '4 001.Bird_1/Bird_1_0000.jpg', 'images.txt, line 5: image 4 for the second time'),
    ('images.txt', 5, '5 001.Bird_1/none.jpg', 'images/001.Bird_1/none.jpg is missing: .*images.txt, line 5'),
    ('images.txt', 5, '5 ../../secret.jpg', 'images.txt, line 5: expected a file in .*images, found'),
    ('images.txt', 5, '5 /etc/passwd', 'images.txt, line 5: expected a file in'),
    ('image_class_labels.txt', 7, '7 201', 'image_class_labels.txt, line 7: expected a class from 1 to 200, found 201'),
    ('image_class_labels.txt', 7, '7 0', 'from 1 to 200, found 0'),
    ('image_class_labels.txt', 7, '7 -1', 'image_class_labels.txt, line 7: expected an image number and its class'),
    ('image_class_labels.txt', 7, None, 'image_class_labels.txt: no line for image 7, which is in .*images.txt, line 7'),
    ('train_test_split.txt', 9, '9 2', 'train_test_split.txt, line 9: expected an image number and 1 for training or 0, found'),
    ('train_test_split.txt', 9, None, 'train_test_split.txt: no line for image 9'),
    ('train_test_split.txt', 9, '9 1', 'at least one test image of each of the 200 classes of CUB-200-2011, found none of 1: 2 '),
])
def test_cub_refuses(copy, tmp_path, file, line, text, words):
    path = copy('cub')
    edit(path/file, line, text)
    with pytest.raises(DataError, match=words): folders.import_cub(path, SIZE, tmp_path/'data')
    assert not (tmp_path/'data').exists()


@pytest.mark.parametrize('file, line, text, words', [
    ('train.csv', 1, 'n1.jpg,n1', 'train.csv, line 1: expected the header filename,label'),
    ('val.csv', 3, 'a,b,c', "val.csv, line 3: expected filename,label, found 'a,b,c'"),
    ('val.csv', 3, 'none.jpg,n00000042', 'images/none.jpg is missing: .*val.csv, line 3'),
    ('test.csv', 2, 'n0000004200000001.jpg,n00000042', 'n0000004200000001.jpg for the second time'),
    ('test.csv', 2, 'n0000004200000001.JPG,other', 'expected labels of 100 classes in the three lists together, found 101'),
])
def test_miniimagenet_refuses(copy, tmp_path, file, line, text, words):
    path = copy('miniimagenet')
    edit(path/file, line, text)
    with pytest.raises(DataError, match=words): folders.import_miniimagenet(path, SIZE, tmp_path/'data')
    assert not (tmp_path/'data').exists()


@pytest.mark.parametrize('name, file', [('cub', 'images.txt'), ('cub', 'train_test_split.txt'), ('miniimagenet', 'val.csv')])
def test_missing_and_unreadable_lists(copy, tmp_path, name, file):
    path = copy(name)
    (path/file).write_bytes(b'\xff\xfe\x00')
    with pytest.raises(DataError, match=f'{file} is no text file'): data.import_folder(path, name, tmp_path/'data')
    (path/file).unlink()
    with pytest.raises(DataError, match=f'{file}: No such file or directory. Expected {folders.LAYOUT[name][:8]}'):
        data.import_folder(path, name, tmp_path/'data')
    with pytest.raises(DataError, match='nothing to import.*clrepro data import cub DIR'): data.import_folder(path, folder=tmp_path/'data')


def test_class_with_a_single_image(copy, tmp_path):
    path = copy('miniimagenet')
    lines = (path/'test.csv').read_text().splitlines()
    (path/'test.csv').write_text('\n'.join(lines[:2] + lines[7:]) + '\n')
    with pytest.raises(DataError, match='at least one train image of each of the 100 classes.*found none of 1'):
        folders.import_miniimagenet(path, SIZE, tmp_path/'data')


@pytest.mark.parametrize('lone', [False, True])
def test_pickle_caches_are_refused(copy, tmp_path, lone):
    "Never opened, with the lists beside them or without, or named themselves."
    path = tmp_path/'lone' if lone else copy('miniimagenet')
    path.mkdir(exist_ok=True)
    for file in ('mini-imagenet-cache-train.pkl', 'cache.pickle'):
        (path/file).write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
        for source in (path, path/file):
            with pytest.raises(DataError, match=f'{file}: a pickle can run any code.*Expected a folder with images/ and the lists train.csv'):
                data.import_folder(source, 'miniimagenet', tmp_path/'data')
        (path/file).unlink()


@pytest.mark.parametrize('spoil', [lambda whole: whole[:300], lambda whole: b'', lambda whole: b'%!PS-Adobe-3.0 EPSF-3.0\n'], ids=['cut', 'empty', 'eps'])
def test_damaged_image_keeps_what_is_installed(copy, tmp_path, spoil):
    path = copy('cub')
    before = folders.import_cub(path, 8, tmp_path/'data')
    broken = path/'images/150.Bird_150/Bird_150_0001.jpg'
    whole = broken.read_bytes()
    broken.unlink()
    broken.write_bytes(spoil(whole))
    with pytest.raises(DataError, match='Bird_150_0001.jpg is no whole JPEG or PNG image .*images.txt, line 449'):
        folders.import_cub(path, SIZE, tmp_path/'data')
    assert data.installed(tmp_path/'data')['cub']['sha256'] == before['sha256'] and data.verify(folder=tmp_path/'data')
    assert sorted(os.listdir(tmp_path/'data')) == ['.lock', 'cub', 'installed.json']


def test_disk_that_fills_up(copies, small, tmp_path, monkeypatch):
    "While the images are decoded, or before."
    program = ('import sys; from clrepro import folders\n'
               'try: folders.import_cub(sys.argv[1], 32, sys.argv[2])\n'
               'except folders.DiskError as error: sys.exit(str(error))')
    no_more = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
    run = subprocess.run([sys.executable, '-c', program, copies['cub'], tmp_path/'data'], capture_output=True, text=True, preexec_fn=no_more)
    assert run.returncode == 1 and f'cannot write {tmp_path/"data"}: File too large' in run.stderr and 'Traceback' not in run.stderr
    assert not os.listdir(tmp_path/'data')
    usage = data.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(data.shutil, 'disk_usage', lambda path: usage._replace(free=10**6))
    with pytest.raises(DiskError, match='cub needs 3.7 MB'): folders.import_cub(copies['cub'], SIZE, tmp_path/'other')


@pytest.mark.parametrize('name', folders.IMPORTERS)
def test_no_standin_and_no_download(name, no_data, capsys):
    for mode in data.MODES:
        with pytest.raises(DataError, match=f'{name} .*clrepro data import {name} DIR.* {data.SETS[name].page}'): data.load(name, mode)
    with pytest.raises(DataError, match=f'{name} has to be fetched by hand from {data.SETS[name].page}; then: clrepro data import {name} DIR'):
        download.get([name])
    assert 'STAND-IN' not in capsys.readouterr().err
    assert {row['name']: row['state'] for row in data.status()}[name] == 'absent'
    with pytest.raises(DataError, match='has no stand-in'): STREAMS[f'split_{name}']([0])
    with pytest.raises(DataError, match='has no stand-in'): gem.convert(name, no_data/'gem')


def test_more_than_the_whole_set(copy, tmp_path, monkeypatch):
    monkeypatch.setitem(data.SETS['cub'].sizes, 'train', 300)
    with pytest.raises(DataError, match='CUB-200-2011 has 6,094 images, found 7,000'):
        folders._install('cub', tmp_path, [folders.Photo(tmp_path, i % 200, data.SPLITS[i // 200 % 2], '') for i in range(7000)], 8, tmp_path)


@pytest.mark.parametrize('name, width, stored', [('cub', 10, (2, 1)), ('miniimagenet', 5, (5, 1))])
def test_stream(both, name, width, stored):
    "20 tasks, three of them for validation; classes in the order of seed 0; every image where its label says."
    images, make = data.load(name), STREAMS[f'split_{name}']
    stream = make([0, 1], image_size=SIZE)
    order = torch.randperm(20 * width, generator=torch.Generator().manual_seed(0))   # new label of each class
    assert torch.equal(stream.ranks[0], order) and torch.equal(stream.ranks[0], stream.ranks[1])
    assert stream.n_tasks == 17 and stream.n_classes == 17 * width and stream.heads.width == width and not stream.ragged
    assert stream.order(4).shape == (2, stored[0] * width)
    x, y = stream.train(4, stream.order(4))
    assert x.shape == (2, stored[0] * width, SIZE, SIZE, 3) and x.dtype == torch.uint8 and set(y.flatten().tolist()) == set(range(4 * width, 5 * width))
    old = order.argsort()[y + 3 * width]
    for image, label in zip(x[1], old[1]): assert (images.train_images[images.train_labels == int(label)] == image.numpy()).all((1, 2, 3)).any()
    tested = torch.cat([order.argsort()[y[0] + 3 * width][valid[0]] for t in range(17) for _, y, valid in stream.test(t, 7)])
    held_out = make([0], image_size=SIZE, validation=True)
    kept = torch.cat([order.argsort()[y[0]] for t in range(3) for _, y, _ in held_out.test(t, 1000)])
    assert sorted([*tested.tolist(), *kept.tolist()]) == list(range(20 * width)) and held_out.n_tasks == 3
    assert stream.config()['image_size'] == SIZE and make([0]).image_shape == (*data.SETS[name].shape[:2], 3)


def test_what_the_streams_ask_for(both):
    birds, mini = STREAMS['split_cub']([0], image_size=SIZE), STREAMS['split_miniimagenet']([0], image_size=SIZE)
    assert (birds.network, birds.normalise, mini.network, mini.normalise) == ('resnet18', 'imagenet', 'reduced_resnet18', 'none')
    with pytest.raises(UsageError, match='image_size=-1'): STREAMS['split_cub']([0], image_size=-1)


def test_only_the_tasks_used_are_on_the_device_resized(both):
    stream, whole = (STREAMS['split_cub']([0], image_size=size, n_tasks=2) for size in (12, SIZE))
    assert [len(part) for part in (*stream.train_set, *stream.test_set)] == [40, 40, 20, 20]
    assert stream.train_set[0].shape == (40, 12, 12, 3)
    at = stream.order(1)
    assert torch.equal(stream.train(1, at)[0][0], resized(whole.train(1, at)[0][0], 12))
    assert torch.equal(STREAMS['split_cub']([0], image_size=0, n_tasks=2).train_set[0], whole.train_set[0])


@pytest.mark.parametrize('name, width', [('cub', 10), ('miniimagenet', 5)])
def test_gem_file_and_stream_are_the_same(both, name, width, tmp_path, capsys):
    "Same samples, labels, heads; pixels divided by 255, channels first."
    rows = gem.convert(name, tmp_path)
    assert f'{name}: 20 tasks, 7.4 MB' in capsys.readouterr().err and [row['tasks'] for row in rows] == [3, 17] and not rows[0]['standin']
    stream = STREAMS[f'split_{name}']([0, 1], image_size=SIZE)
    file = STREAMS['gem_file']([0, 1], data_path=str(tmp_path), data_file=f'{name}-cl.pt')
    assert file.n_classes == stream.n_classes and file.heads.width == stream.heads.width == width and file.network == 'reduced_resnet18'
    assert [descriptor for descriptor, _, _ in file.sets['train']] == [(t * width, (t + 1) * width) for t in range(17)]
    for task in (0, 16):
        n = stream.order(task).shape[1]
        position = torch.arange(n).expand(2, -1)
        (x, y), (planes, same) = stream.train(task, position), file.train(task, position)
        assert planes.shape == (2, n, 3, SIZE, SIZE) and torch.equal(planes, x.permute(0, 1, 4, 2, 3) / 255) and torch.equal(y, same)
        [(x, y, _)], [(planes, same, _)] = stream.test(task, 1000), file.test(task, 1000)
        key = lambda images, labels: sorted((label, image.contiguous().numpy().tobytes()) for label, image in zip(labels.tolist(), images))
        assert key(x[0].permute(0, 3, 1, 2) / 255, y[0]) == key(planes[0], same[0])
    val, _ = gem.read(tmp_path/f'{name}-val.pt')
    assert val[2][0] == (2 * width, 3 * width) and val[0][1].is_contiguous()


def test_gem_file_cut_and_by_the_command_line(both, tmp_path, capsys):
    assert cli.main(['data', 'gem', 'cub', str(tmp_path), '--use', '3', '--tasks', '10', '--val-tasks', '8']) == 0
    assert '2 tasks, 6 + 40 samples' in capsys.readouterr().out
    train, _ = gem.read(tmp_path/'cub-cl.pt')
    assert [len(y) for _, _, y in train] == [3, 3] and train[1][0] == (20, 40) and train[0][1].shape == (3, 3, SIZE, SIZE)
    with pytest.raises(UsageError, match='7 tasks: 200 classes do not divide evenly'): gem.convert('cub', tmp_path, 7)


def test_what_gem_files_ask_for(tmp_path):
    for shape, network in (((784,), 'mlp'), ((3072,), 'reduced_resnet18'), ((3, 8, 8), 'reduced_resnet18')):
        samples, name = torch.rand(4, *shape), f'{len(shape)}-{shape[0]}.pt'
        tasks = [[(2 * t, 2 * t + 2), samples, torch.tensor([0, 1, 0, 1]) + 2 * t] for t in range(2)]
        gem.write(tmp_path/name, tasks, tasks)
        stream = STREAMS['gem_file']([0, 1], data_path=str(tmp_path), data_file=name)
        x, _ = stream.train(1, stream.order(1))
        assert stream.network == network and x.shape == (2, 4, *samples.shape[1:]) and stream.heads.width == 2
        assert torch.equal(x[0], samples[stream.order(1)[0]])


def test_entry_is_recorded(both):
    known = json.loads((both/'installed.json').read_text())
    assert data.load('cub').entry() == {'name': 'cub', 'source': data.SETS['cub'].page, 'sha256': known['cub']['sha256'], 'standin': False,
                                        'lossless': False}
