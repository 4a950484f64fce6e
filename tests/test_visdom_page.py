"The visdom page as a watcher sees it: a real run, its windows drawn by a headless Chromium."
import base64
import contextlib
import json
import shutil
import subprocess
import time

import numpy as np
import pytest
from test_live import train, visdom

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)
FLAGS = ('--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
         '--disable-component-update --disable-sync --remote-debugging-port=0 --window-size=1250,950').split()

# What is drawn, window by window: title, axis titles, points of each line (letters of its path), numbers in heat maps.
DRAWN = '''
JSON.stringify([...document.querySelectorAll('.plotly-graph-div')].map(plot => ({
    title: plot.querySelector('.gtitle')?.textContent ?? '',
    axes: ['.xtitle', '.ytitle'].map(axis => plot.querySelector(axis)?.textContent ?? ''),
    legend: [...plot.querySelectorAll('.legendtext')].map(text => text.textContent),
    lines: [...plot.querySelectorAll('.scatterlayer .trace .lines path')].map(path =>
        [...path.getAttribute('d').matchAll(/[MLHVC]/g)].length),
    markers: plot.querySelectorAll('.scatterlayer .points path').length,
    heat: plot.querySelectorAll('.heatmaplayer image').length,
    numbers: [...plot.querySelectorAll('.heatmaplayer text')].map(text => text.textContent).filter(Boolean).map(Number)})))
'''


class Page:
    "One page of a Chromium, spoken to over its debugging socket."
    def __init__(self, address):
        import websocket
        self.socket, self.calls = websocket.create_connection(address, timeout=20, suppress_origin=True), 0

    def call(self, method, **params):
        self.calls += 1
        self.socket.send(json.dumps({'id': self.calls, 'method': method, 'params': params}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get('id') == self.calls: return answer['result']

    def evaluate(self, code):
        return self.call('Runtime.evaluate', expression=code)['result'].get('value')

    def wait(self, condition, seconds=20):
        "What DRAWN gives as soon as `condition` holds of it, or at the end of the time."
        until = time.monotonic() + seconds
        while True:
            drawn = json.loads(self.evaluate(DRAWN) or '[]')
            if condition(drawn) or time.monotonic() > until: return drawn
            time.sleep(0.2)

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call('Page.captureScreenshot')['data']))


@contextlib.contextmanager
def browser(url, folder):
    "A headless Chromium showing `url`, with its profile in `folder`."
    import urllib.request
    command = [CHROMIUM, *FLAGS, f'--user-data-dir={folder}', url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file, until = folder/'DevToolsActivePort', time.monotonic() + 20
        while not (port_file.exists() and port_file.read_text().count('\n')):
            if time.monotonic() > until or process.poll() is not None: pytest.fail('Chromium does not start')
            time.sleep(0.1)
        port = port_file.read_text().split()[0]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        targets = json.load(opener.open(f'http://127.0.0.1:{port}/json/list', timeout=10))
        yield Page(next(target['webSocketDebuggerUrl'] for target in targets if target['type'] == 'page'))
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on this machine')
def test_page_follows_a_run(tmp_path):
    pytest.importorskip('websocket')
    with visdom(tmp_path) as (port, _), browser('about:blank', tmp_path/'profile') as page:
        early = []

        def look(event):
            if event['kind'] == 'task' and event['task'] == 1:
                time.sleep(1)
                page.call('Page.navigate', url=f'http://127.0.0.1:{port}/env/clrepro')
                early.extend(page.wait(lambda windows: len(windows) == 3 and windows[2]['heat']))
        matrix = np.mean(train(live=f'visdom:{port}', store=tmp_path/'runs', on_event=look), 0)
        loss, accuracy, heat = page.wait(lambda windows: len(windows) == 3 and len(windows[2]['numbers']) == 9)
        time.sleep(1)
        page.screenshot(tmp_path/'page.png')
    label = 'er · permuted_mnist · seeds 0-1'
    assert len(early) == 3 and len(early[2]['numbers']) == 3 and early[0]['legend'] == [label]
    assert loss['title'] == 'loss, mean over seeds' and loss['axes'] == ['step', 'loss']
    assert loss['legend'] == [f'{label} · ACC {matrix[-1].mean():.3f}'] and len(loss['lines']) == 1 and loss['lines'][0] >= 3
    assert label in accuracy['title'] and accuracy['axes'] == ['after task', 'test accuracy']
    assert accuracy['legend'] == ['mean', 'task 1', 'task 2', 'task 3']
    assert accuracy['lines'] == [3, 2, 3] and accuracy['markers'] == 9
    assert label in heat['title'] and heat['axes'] == ['task', 'after task'] and heat['heat'] == 1
    assert sorted(heat['numbers']) == pytest.approx(sorted(matrix.flatten().tolist()), abs=0.00501)


@pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on this machine')
def test_pictures_of_every_kind_are_drawn(tmp_path):
    "Points, grey images and coloured ones, as brain-inspired replay sends them."
    from clrepro.live import VisdomSink
    pytest.importorskip('websocket')
    cell = {'cell': 'c', 'kind': 'picture', 'task': 0}
    events = [{'what': 'representation', 'xy': [[0, 1], [1, 0]], 'label': [0, 1]}, {'what': 'generated', 'shape': [2, 2], 'images': [[0, 255, 9, 9]]},
              {'what': 'nearest', 'shape': [2, 2, 3], 'images': [[0, 255, 9] * 4]}]
    with visdom(tmp_path) as (port, _), browser('about:blank', tmp_path/'profile') as page:
        sink = VisdomSink(port)
        for event in events: sink.send(cell | event)
        sink.close()
        page.call('Page.navigate', url=f'http://127.0.0.1:{port}/env/clrepro')
        drawn = page.wait(lambda windows: len(windows) == 3 and sum(window['heat'] for window in windows) == 1)
        images = page.evaluate("document.querySelectorAll('.imagelayer image').length")
    assert sorted(window['title'].split(',')[0] for window in drawn) == [
        'Generated samples', 'Generated samples: nearest test images', 'Visualization of extracted representation']
    assert images == 1 and sum(window['markers'] for window in drawn) == 2
