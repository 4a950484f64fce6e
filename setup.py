"Package metadata comes from settings.ini, which nbdev reads too."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=['='])
config.read('settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=cfg['author'],
    license='Apache-2.0',
    keywords=cfg['keywords'].split(),
    packages=find_packages(include=['clrepro', 'clrepro.*']),
    package_data={'clrepro': ['experiments/*/*.yaml', 'experiments/*/*.yaml.j2']},
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require={'dev': cfg['dev_requirements'].split(), 'tensorboard': ['tensorboard>=2.16'], 'mlflow': ['mlflow-skinny>=3']},
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': ['clrepro=clrepro._modidx:d']},
)
