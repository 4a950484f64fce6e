"Download against a server on 127.0.0.1 that is good, cuts short, sends something else, or says nothing."
import gzip
import hashlib
import io
import socket
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from clrepro import data, download
from clrepro.core import DataError, DiskError, UsageError

REAL = Path(__file__).parents[2]/'shared'/'data'/'mnist'
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('CLREPRO_DATA', str(tmp_path/'data'))
    for proxy in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'): monkeypatch.delenv(proxy, raising=False)
    return tmp_path/'data'


@pytest.fixture
def server():
    "A server whose `files` {path: bytes} are served after `spoil` has had them; `asked` lists the paths of GET."
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            body = self.server.files.get(self.path)
            if body is None: return self.send_error(404)
            length, sent = self.server.spoil(body)
            self.send_response(200)
            self.send_header('Content-Length', str(length))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_): pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.files, server.asked, server.spoil = {}, [], lambda body: (len(body), body)
    server.url = f'http://127.0.0.1:{server.server_port}'
    threading.Thread(target=server.serve_forever, args=(.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, '>u4').tobytes()
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def offer(server, files, **facts):
    "Serve the archives; what a manifest would say of them."
    server.files = {f'/{name}': body for name, body in files.items()}
    archives = {name: hashlib.md5(body).hexdigest() for name, body in files.items()}
    return {'source': 'a test', 'licence': 'none', 'lossless': True, 'mirrors': [server.url + '/'], 'archives': archives, **facts}


@pytest.fixture
def small(server):
    "A set of IDX archives on the server: the manifest's row, the arrays."
    arrays = {split: (rng.integers(0, 256, (n, 6, 6), np.uint8), np.arange(n) % 3) for split, n in (('train', 9), ('t10k', 4))}
    files = {f'{split}-{kind}-idx{axes}-ubyte.gz': idx(array) for split, pair in arrays.items()
             for kind, axes, array in zip(('images', 'labels'), (3, 1), pair)}
    return offer(server, files, format='idx'), arrays


def test_good(server, small, folder):
    facts, arrays = small
    entry = download.fetch('small', facts)
    assert entry['sha256'] == {'train': data.content_hash(*arrays['train']), 'test': data.content_hash(*arrays['t10k'])}
    assert (data.load('small', 'real').test_images == arrays['t10k'][0]).all()
    assert len(server.asked) >= 4 and not any((folder/'.download').iterdir())


@pytest.mark.parametrize('spoil', [lambda body: (len(body), body[:len(body) // 2]),
                                   lambda body: (len(body) // 2, body[:len(body) // 2]),
                                   lambda body: (len(body), bytes([body[0] ^ 1]) + body[1:])],
                         ids=['cut short', 'truncated', 'another file'])
def test_spoilt(server, small, folder, spoil):
    facts, _ = small
    server.spoil = spoil
    (file, md5), *_ = facts['archives'].items()
    message = f'{file}: expected md5 {md5}, found [0-9a-f]{{32}} .*import'
    with pytest.raises(DataError, match=message): download.fetch('small', facts)
    assert not data.installed() and not list((folder/'.download'/'small').iterdir())
    server.spoil = lambda body: (len(body), body)
    assert download.fetch('small', facts)


def test_whole_archives_are_kept_for_the_next_attempt(server, small):
    facts, _ = small
    last = f'/{list(facts["archives"])[-1]}'
    kept = server.files.pop(last)
    with pytest.raises(DataError, match='t10k-labels.*Not Found'): download.fetch('small', facts)
    server.files[last], server.asked = kept, []
    download.fetch('small', facts)
    assert set(server.asked) == {last}


def test_second_mirror(server, small):
    facts, _ = small
    assert download.fetch('small', {**facts, 'mirrors': [f'{server.url}/nothing', server.url]})


def test_content_that_disagrees(small):
    facts, _ = small
    with pytest.raises(DataError, match='train: expected content sha256 0000.*found'):
        download.fetch('small', {**facts, 'sha256': {'train': '0' * 64, 'test': '0' * 64}})
    assert not data.installed()


def test_get_by_name_through_a_mirror(server):
    "Sets of the manifest come from <mirror>/<set>/<file>; one that fails doesn't stop the others, and all are named."
    server.files = {'/cifar10/cifar-10-binary.tar.gz': b'something else'}
    with pytest.raises(DataError) as caught: download.get(['cifar10', 'svhn'], mirror=server.url)
    first, second = str(caught.value).splitlines()
    assert f'expected md5 {data.manifest()["cifar10"]["archives"]["cifar-10-binary.tar.gz"]}, found' in first
    assert 'clrepro data get cifar10' in first and 'train_32x32.mat' in second and 'Not Found' in second
    with pytest.raises(UsageError, match='Did you mean'): download.get(['cifar10', 'fashionmnist'], mirror=server.url)


def test_nobody_listens(folder):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        start = time.monotonic()
        with pytest.raises(DataError, match='mnist: train-images.*refused.*clrepro data get mnist'):
            download.get(['mnist'], mirror=f'http://127.0.0.1:{taken.getsockname()[1]}')
    assert time.monotonic() - start < 20


def test_server_that_says_nothing(monkeypatch):
    monkeypatch.setattr(download, 'STALL_SECONDS', .3)
    with socket.create_server(('127.0.0.1', 0)) as silent:
        with pytest.raises(DataError, match='timed out'):
            download.get(['cifar100'], mirror=f'http://127.0.0.1:{silent.getsockname()[1]}')


def test_name_that_is_never_looked_up(monkeypatch):
    "A look-up that hangs ends at the deadline."
    monkeypatch.setattr(download, 'CONNECT_SECONDS', .3)
    monkeypatch.setattr(download.socket, 'create_connection', lambda *_: threading.Event().wait(3) or socket.socket())
    start = time.monotonic()
    with pytest.raises(DataError, match='no answer within 0.3 s'): download.get(['cifar100'], mirror='http://nowhere.invalid')
    assert time.monotonic() - start < 2.5


def test_full_disk(server, small, folder, monkeypatch):
    import torchvision.datasets.utils as utils
    def full(url, filename, **_):
        Path(filename).write_bytes(b'half')
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(utils, '_urlretrieve', full)
    with pytest.raises(DiskError, match='No space left'): download.fetch('small', small[0])
    assert not list((folder/'.download'/'small').iterdir())


def tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w:gz') as archive:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return file.getvalue()


def test_cifar_archives(server, folder, tmp_path):
    "Records are read by name out of the archive; a member that points elsewhere is never written."
    images = rng.integers(0, 256, (12, 32, 32, 3), np.uint8)
    labels, planes = np.arange(12) % 10, images.transpose(0, 3, 1, 2).reshape(12, -1)
    ten = np.concatenate([labels[:, None], planes], 1).astype(np.uint8)
    members = {f'cifar-10-batches-bin/data_batch_{i + 1}.bin': ten[2 * i:2 * i + 2].tobytes() for i in range(5)}
    members |= {'cifar-10-batches-bin/test_batch.bin': ten[10:].tobytes(), '../../escaped': b'x'}
    download.fetch('ten', offer(server, {'ten.tar.gz': tar(members)}, format='cifar10'))
    got = data.load('ten', 'real')
    assert (got.train_images == images[:10]).all() and got.test_labels.tolist() == [0, 1]
    assert not list(tmp_path.parent.rglob('escaped'))

    hundred = np.concatenate([np.full((12, 1), 19), labels[:, None] + 90, planes], 1).astype(np.uint8)
    members = {'cifar-100-binary/train.bin': hundred[:9].tobytes(), 'cifar-100-binary/test.bin': hundred[9:].tobytes()}
    download.fetch('hundred', offer(server, {'hundred.tar.gz': tar(members)}, format='cifar100'))
    got = data.load('hundred', 'real')
    assert (got.test_images == images[9:]).all() and got.test_labels.tolist() == [99, 90, 91]


@pytest.mark.parametrize('form, body', [('cifar10', tar({'a': b'b'})), ('cifar100', b'no archive'), ('svhn', b'no matrix' * 99),
                                        ('cifar100', tar({'cifar-100-binary/train.bin': bytes(3075)}))],
                         ids=['no batches', 'no archive', 'no matrix', 'no test set'])
def test_undecodable(server, form, body):
    with pytest.raises(DataError, match=f'cannot be decoded as {form}'):
        download.fetch('bad', offer(server, {'train_bad': body}, format=form))


def test_real_mnist_downloaded_equals_imported(server):
    "The decoded IDX archives have the content the manifest lists; a second `get` leaves them alone, a damaged set is mended."
    if not REAL.is_dir(): pytest.skip(f'no real MNIST: {REAL} is not there')
    files = {name: (REAL/name).read_bytes() for name in data.manifest()['mnist']['archives']}
    facts = offer(server, files, format='idx')
    assert download.fetch('mnist', facts)['sha256'] == data.manifest()['mnist']['sha256']
    assert [row['state'] for row in download.get(['mnist'], mirror='http://127.0.0.1:1')] == ['already installed']
    (data.data_folder()/'mnist'/'test_labels.npy').unlink()
    with pytest.raises(DataError, match='clrepro data get mnist'): data.load('mnist')
    download.fetch('mnist', facts)
    assert data.verify(['mnist'])
