"""`clrepro compare A B` from the outside."""
import subprocess
import sys

from clrepro.results import example, save

def claim(verdict):
    return {'id': 'S1', 'statement': 'ACC(ER) >= 70 %', 'kind': 'inequality', 'reported': None, 'source': '', 'ours': .77, 'ci95': None, 'n': 3,
            'margin': .7, 'verdict': verdict}

def compare(*paths):
    return subprocess.run([sys.executable, '-m', 'clrepro', 'compare', *map(str, paths)], capture_output=True, text=True)

def test_differences_missing_runs_and_verdicts(tmp_path):
    save(example(('er', 'kdr'), claims=[claim('holds')]), tmp_path/'a'/'results.json')
    save(example(('er', ('er', 'k4')), shift=-.02, claims=[claim('undecided')]), tmp_path/'b'/'results.json')
    result = compare(tmp_path/'a'/'results.json', tmp_path/'b')
    assert result.returncode == 0 and result.stderr == ''
    lines = result.stdout.splitlines()
    [er] = [line.split() for line in lines if line.startswith('permuted_mnist/er/main')]
    assert er[1:4] == ['3', '-2.00', '(2.00)'] and er[4:6] == ['+0.00', '(0.00)'] and er[6:] == ['-2.00', '(2.00)']
    assert 'only in a: permuted_mnist/kdr/main, seeds 0, 1, 2' in lines and 'only in b: permuted_mnist/er/k4, seeds 0, 1, 2' in lines
    assert '  S1: holds -> undecided' in lines

def test_equal_results_differ_in_nothing(tmp_path):
    path = save(example(claims=[claim('holds')]), tmp_path/'results.json')
    text = compare(path, path).stdout
    assert 'no verdict changed' in text and 'only in' not in text and 'config of' not in text
    assert all('+0.00 (0.00)' in line for line in text.splitlines() if line.startswith('permuted_mnist/'))

def test_a_broken_file_is_one_line(tmp_path):
    path = save(example(), tmp_path/'results.json')
    path.write_text(path.read_text().replace('"seed": 0,', '', 1))
    result = compare(path, path)
    [line] = result.stderr.splitlines()
    assert result.returncode == 3 and str(path) in line and "runs[0]: 'seed' is missing" in line and result.stdout == ''
