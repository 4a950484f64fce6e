"""Figures are a function of results.json: equal bytes in every process, whatever its settings."""
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clrepro import plots
from clrepro.claims import t_interval
from clrepro.results import GAINS, example, fingerprint, join

DRAW = '''
import sys
from clrepro import plots
from clrepro.results import GAINS, example, fingerprint, join
results = example((*GAINS, ("er", "alone"), ("bcl_dual", "cleared")), seeds=range(3), claims=[{
    "id": "A1", "statement": "ACC(a) - ACC(b)", "kind": "inequality", "reported": None, "source": "", "ours": .1, "ci95": [.05, .15], "n": 3, "margin": 0,
    "verdict": "holds", "p_holm": .01}])
two = join(results, example(("finetune", "er"), stream="split_cifar100", heads=5))
pair = {"main": "bcl_dual", "cleared": ("bcl_dual", "cleared")}
figures = {"fig1": plots.accuracy_curve(results), "fig2": plots.accuracy_heatmaps(results, ["finetune", "er"]), "fig3": plots.first_task_curve(results),
           "fig6": plots.lines_at_equal_cost(results, {4: pair}), "fig7": plots.bars(results, pair), "fig8": plots.seconds_bars(results),
           "fig4": plots.line_over(results, {"BCL-Dual": {1: "bcl_dual", 2: ("bcl_dual", "cleared")}}, "x"), "claims": plots.claim_bars(results, ["A1"]),
           "streams": plots.accuracy_curve(two)}
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
    assert again == drawn[1] and len(again) == 18

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

def streams():
    "Results on two streams, the second with heads of five outputs a task."
    return join(example((*GAINS, ('er', 'alone')), seeds=range(2)), example(('finetune', 'er', 'icarl'), seeds=range(3), stream='split_cifar100', heads=5))

def test_several_streams_are_a_panel_each_and_chance_is_a_line_where_tasks_have_their_heads():
    results = streams()
    for draw in (plots.accuracy_curve, plots.first_task_curve, plots.seconds_bars):
        figure = draw(results)
        assert [axes.get_title('left').split(':')[0] for axes in figure.axes] == ['permuted_mnist', 'split_cifar100']
        [alone] = draw(results, stream='split_cifar100').axes
        assert alone.get_title('left').startswith('mean')
    labels = [[line.get_label() for line in axes.get_lines()] for axes in plots.accuracy_curve(results).axes]
    assert 'chance (20 %)' not in labels[0] and labels[1] == ['Finetune', 'iCaRL', 'ER', 'chance (20 %)']
    [chance] = [line for line in plots.first_task_curve(results).axes[1].get_lines() if 'chance' in line.get_label()]
    assert set(chance.get_ydata()) == {20}

def test_heat_maps_are_a_row_a_stream():
    figure = plots.accuracy_heatmaps(streams(), ['er', 'icarl'])
    shown = [axes.get_title('left') for axes in figure.axes if axes.get_visible() and axes.get_title('left')]
    assert shown == ['ER', 'ER', 'iCaRL']
    assert [axes.get_title('left') for axes in plots.accuracy_heatmaps(streams(), ['er'], 'permuted_mnist').axes[:1]] == ['ER']

def test_a_swept_value_shows_means_and_their_intervals():
    results = example(('er', ('er', 'm_10'), ('er', 'm_100'), 'kdr'), seeds=range(4))
    figure = plots.line_over(results, {'ER': {10: ('er', 'm_10'), 50: 'er', 100: ('er', 'm_100')}, 'KDR': {50: 'kdr'}}, 'm')
    acc, fm = figure.axes
    bars = {one.get_label(): one for one in acc.containers}
    values = [100 * run['metrics']['acc'] for run in results['runs'] if run['variant'] == 'm_10']
    [[(_, low), (_, high)], *_] = bars['ER'].lines[2][0].get_segments()
    assert [low, high] == pytest.approx(t_interval(values)) and acc.get_xscale() == 'log' and len(bars) == 2
    assert [tick.get_text() for tick in acc.get_xticklabels()] == ['10', '50', '100'] and 'lower is better' in fm.get_ylabel()

def test_claims_show_verdict_n_and_adjusted_p():
    row = {'statement': 'a long claim', 'kind': 'inequality', 'reported': None, 'source': '', 'ours': .02, 'ci95': [.01, .03], 'n': 3, 'margin': 0,
           'verdict': 'holds'}
    results = example(claims=[{'id': 'A1', **row, 'p_holm': .0123}, {'id': 'A2', **row}, {'id': 'A3', **row, 'ours': None, 'ci95': None, 'n': 0,
                                                                                        'verdict': 'not run', 'p_holm': None}])
    [axes] = plots.claim_bars(results, ['A1', 'A2', 'A3']).axes
    assert [text.get_text() for text in axes.texts] == ['holds, n = 3, p = 0.012', 'holds, n = 3', 'not run']
    assert [label.get_text() for label in plots.claim_bars(results, {'A1': 'short'}).axes[0].get_yticklabels()] == ['short']
    with pytest.raises(plots.UsageError, match='no claim A9'): plots.claim_bars(results, ['A9'])
