"""Figures are a function of results.json: equal bytes in every process, whatever its settings."""
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clrepro import plots
from clrepro.results import GAINS, example, fingerprint

DRAW = '''
import sys
from clrepro import plots
from clrepro.results import GAINS, example, fingerprint
results = example((*GAINS, ("er", "alone"), ("bcl_dual", "cleared")), seeds=range(3))
pair = {"main": "bcl_dual", "cleared": ("bcl_dual", "cleared")}
figures = {"fig1": plots.accuracy_curve(results), "fig2": plots.accuracy_heatmaps(results, ["finetune", "er"]), "fig3": plots.first_task_curve(results),
           "fig6": plots.lines_at_equal_cost(results, {4: pair}), "fig7": plots.bars(results, pair), "fig8": plots.seconds_bars(results)}
for name, figure in figures.items(): plots.save(figure, sys.argv[1], name, fingerprint(results))
print(sorted(name for name in sys.modules if name.startswith("matplotlib.backends.backend_")))
'''

def draw(folder, **environment) -> tuple[dict, str]:
    "{file: sha256} of all figures drawn by a process of its own, and the backends it loaded."
    env = {key: value for key, value in os.environ.items() if key not in ('DISPLAY', 'MPLBACKEND')} | environment
    result = subprocess.run([sys.executable, '-c', DRAW, str(folder)], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path(folder).iterdir())}, result.stdout

@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp('figures')
    return folder, *draw(folder, PYTHONHASHSEED='1', TZ='UTC')

def test_two_processes_write_equal_bytes(drawn, tmp_path):
    settings = tmp_path/'matplotlibrc'
    settings.write_text('svg.hashsalt: other\nfont.size: 20\nlines.linewidth: 9\nsavefig.dpi: 33\n')
    again, _ = draw(tmp_path/'figures', PYTHONHASHSEED='2', TZ='Asia/Tokyo', MATPLOTLIBRC=str(settings), SOURCE_DATE_EPOCH='1')
    assert again == drawn[1] and len(again) == 12

def test_no_display_is_needed_and_no_window_toolkit_is_loaded(drawn):
    assert 'backend_svg' in drawn[2] and not re.search('backend_(tk|qt|gtk|wx|macosx)', drawn[2])

def test_metadata_says_what_is_shown_and_not_when_or_by_what(drawn):
    folder, results = drawn[0], example((*GAINS, ('er', 'alone'), ('bcl_dual', 'cleared')), seeds=range(3))
    hashes = fingerprint(results)
    for path in folder.iterdir():
        content = path.read_bytes()
        assert hashes['configs'].encode() in content and hashes['data']['mnist']['train'].encode() in content, path.name
        assert not re.search(rb'dc:date|dc:creator|Software|[Mm]atplotlib v|tIME', content), path.name

def test_stand_in_data_is_named_in_every_figure_that_states_n():
    results = example(seeds=range(2))
    real = {**results, 'data': [{**entry, 'standin': False} for entry in results['data']]}
    titles = [[axes.get_title('left') for axes in plots.accuracy_curve(one).axes] for one in (results, real)]
    assert titles == [['mean ± std, n = 2 seeds, stand-in data'], ['mean ± std, n = 2 seeds']]

def test_the_curve_shows_the_numbers_of_the_file():
    results = example(('er', 'offline'), seeds=range(4), n_tasks=6)
    [axes] = plots.accuracy_curve(results).axes
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    er = [run['metrics']['acc'] for run in results['runs'] if run['method'] == 'er']
    offline = [run['metrics']['acc'] for run in results['runs'] if run['method'] == 'offline']
    assert lines['ER'][-1] == pytest.approx(100 * sum(er) / 4, abs=1e-3) and len(lines['ER']) == 6
    assert lines['Offline (all tasks at once)'][0] == pytest.approx(100 * sum(offline) / 4, abs=1e-3)

def test_the_legend_lies_beside_the_plot():
    figure = plots.accuracy_curve(example())
    plots.render(figure, 'png')
    [axes] = figure.axes
    assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1
    assert axes.get_legend().get_window_extent().x1 <= figure.bbox.x1
