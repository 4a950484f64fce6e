# Every target runs in the environment .venv, which `make setup` builds from constraints.txt.
PROFILE ?=
PAPERS  ?=
SEEDS   ?=
PYTHON  ?=

VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
PINS    := -c constraints.txt --build-constraints constraints.txt

export OMP_NUM_THREADS ?= 1
.DEFAULT_GOAL := help
.PHONY: help setup reproduce test data report live lab export clean-nb check pins clean

help:  ## list every target
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "make %-10s %s\n", $$1, $$2}'
	@echo 'Variables: PROFILE=smoke|quick|study|full (the one that suits the machine)  PAPERS="bcl ..." (all)  SEEDS=100-109 (the profile'"'"'s)  PYTHON=python3.12 (found)'

setup: $(STAMP)  ## make .venv with the pinned versions (again only when constraints.txt or settings.ini change)

$(STAMP): constraints.txt settings.ini setup.py pyproject.toml
	@for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "clrepro needs Python 3.11 or later, and $(or $(PYTHON),python3) is not. Install one or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	"$$found" -m venv $(VENV) || { echo "$$found cannot make an environment. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(PINS) -e '.[dev]'
	@touch $(STAMP)

reproduce: setup  ## fetch the data, run the papers' notebooks, print figures and verdicts (PROFILE, PAPERS, SEEDS)
	@$(BIN)/clrepro data get $(PAPERS) || echo 'Data could not be fetched: stand-ins take its place.'
	$(BIN)/clrepro reproduce $(PAPERS) $(if $(PROFILE),--profile $(PROFILE)) $(if $(SEEDS),--seeds $(SEEDS))

test: setup  ## every test: the asserts in the notebooks, then pytest
	$(BIN)/nbdev_test --n_workers 2
	$(BIN)/python -m pytest -n 2 --dist loadfile

data: setup  ## fetch the data sets that the papers need (PAPERS)
	$(BIN)/clrepro data get $(PAPERS)

report: setup  ## build the page of all results
	$(BIN)/clrepro report

live: setup  ## start the visdom server for live plots on 127.0.0.1
	$(BIN)/clrepro live

lab: setup  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) nbs

export: setup  ## write clrepro/ from the notebooks
	$(BIN)/nbdev_export

clean-nb: setup  ## strip the notebooks of execution counts and editor metadata
	$(BIN)/nbdev_clean

check: setup  ## what must leave no diff and no complaint: clean, export, ruff
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	git diff --exit-code --stat -- nbs clrepro
	$(BIN)/ruff check .

pins: setup  ## resolve constraints.txt anew from the ranges in settings.ini
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --build-constraints constraints.txt \
	  --extra dev --no-annotate --no-header pyproject.toml -o constraints.txt

clean:  ## remove the environment and the git-ignored outputs (not data/ and not runs/)
	rm -rf $(VENV) out clrepro.egg-info .pytest_cache .ruff_cache
