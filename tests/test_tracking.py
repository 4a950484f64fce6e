"What MLflow has of a run of HRN, read back: losses, tests, units, lifelong accuracy, parameters, weights, config."
import numpy as np
import pytest

from clrepro.hrn_configs import KEY, read
from clrepro.runs import Cell, execute
from clrepro.tracking import MlflowSink


def test_everything_is_there(tmp_path):
    pytest.importorskip('mlflow', reason='mlflow is not installed: pip install clrepro[mlflow]')
    from mlflow.tracking import MlflowClient
    asked = read({KEY: 'fmnist_mnist', 'epochs': 2, 'n_train': 40, 'n_test': 30, 'batch_size': 8, 'embedding': 20})
    sink = MlflowSink(tmp_path)
    [record] = execute([Cell(asked.method, asked.stream, (3,), 'main', asked.options)], tmp_path, 'cpu', 'standin', 1,
                       on_event=lambda event: sink.send({'paper': 'hrn'} | event))
    sink.close()
    client = MlflowClient((tmp_path/'mlruns').as_uri())
    [experiment] = [found for found in client.search_experiments() if found.name == 'hrn on fmnist_mnist']
    [run] = client.search_runs([experiment.experiment_id])
    history = lambda name: {point.step: point.value for point in client.get_metric_history(run.info.run_id, name)}
    R = record['accuracy_matrix']
    assert run.info.status == 'FINISHED' and run.data.tags['seeds'] == '3' and run.data.tags['paper'] == 'hrn'
    assert history('accuracy/task 1') == pytest.approx({1: R[0][0], 2: R[1][0]}) and history('accuracy/task 2') == pytest.approx({2: R[1][1]})
    assert history('accuracy/global') == pytest.approx({1: R[0][0], 2: np.average(R[1], weights=record['n_test'])})
    assert set(history('train/loss')) == {10, 20} == set(history('train/cross-entropy'))
    assert set(history('epoch/test accuracy')) == {5, 10, 15, 20} == set(history('unit 0 fill')) and set(history('unit 7 usage')) == {15, 20}
    assert history('unit 0 fill')[20] == record['routing']['fill'][-1][0] and {'unit 0 age', 'unit 0 usage', 'final/fm'} <= set(run.data.metrics)
    assert run.data.params['method.embedding'] == '20' and run.data.params['training.n_epochs'] == '2' and run.data.params['method.extra_units'] == '[0, 2]'
    fetch = lambda path: client.download_artifacts(run.info.run_id, path, str(tmp_path))
    assert 'task 2, epoch 2' in open(fetch('units.txt')).read() and 'embedding: 20' in open(fetch('seed 3/config.yaml')).read()
    with np.load(fetch(f'seed 3/{record["config_hash"]}.npz'), allow_pickle=False) as arrays:
        weights = [name for name in arrays if name.startswith('weights/')]
        assert len([name for name in weights if 'body' in name]) >= 8 and all(np.isfinite(arrays[name]).all() for name in weights)
