# make demo       a small comparison of methods on the embedded suite (about 8 minutes on 2 cores)
# make test       all tests except the slow ones, in their own environment
# make check      required for every change: format, lint, types, tests
# make lint       format, lint and types without the tests
# make check-all  make check, then the tests marked slow
# make test-slurm the tests with a Slurm of one node, which it installs on Debian (needs root)
# make torture    kills, signals, small disks, damaged files, equal bits, large stores; figures in results/measured/torture
# make benchmarks  speed and memory beside textbook forms, one CPU thread; results/measured/speed
# make look       pictures of the reports, LaTeX and pages (needs TeX and Chromium)
# make results    the reports of results/measured and the tables of README.md and docs/, from the records there
# make docs       docs/methods, docs/support.md, docs/capabilities.md and docs/recipes.md, from the code
# make site       the documentation as a site that works offline, in build/site
# make wheel      the archive for pip, in dist
# make format     formats the code and repairs what ruff can repair
# make clean      removes the environment, builds and caches

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
JOBS ?= 2
# Bytecode is kept: tests start many processes, and each would compile all modules anew.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

# petlbench extends its __path__, which type checkers do not see; they read this folder of links.
types:
	@mkdir -p .types/petlbench
	@ln -sfn $(CURDIR)/petlbench/* $(CURDIR)/methods $(CURDIR)/conf .types/petlbench/

.PHONY: types demo test test-slurm lint check check-all torture benchmarks look results docs site wheel format install install-dev clean

demo: install
	$(BIN)/python -m petlbench -m experiment=demo results.root=results/demo/runs
	$(BIN)/python -m petlbench.report demo --records results/demo/runs --out results/demo

test: install-dev
	$(PYTEST) -n $(JOBS) --dist worksteal

lint: install-dev types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

test-slurm: install-dev
	@command -v slurmctld >/dev/null || { apt-get update && apt-get install --yes --no-install-recommends slurm-wlm munge; }
	$(PYTEST) tests/test_slurm.py -m '' -rs

# slow tests: every bad value of every key; properties on more examples (tests/conftest.py)
check-all: check
	$(PYTEST) -n $(JOBS) -m slow -s
	$(PYTEST) -m "" tests/test_properties.py

torture: install-dev
	$(BIN)/python -m tests.torture --out results/measured/torture/attacks.json
	$(BIN)/python -m tests.torture.scale --out results/measured/torture/scale.json

benchmarks: install
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.page

# Debian: apt install texlive-latex-extra poppler-utils chromium
look: install
	$(BIN)/python -m tests.look results/look

REPORT := $(BIN)/python -m petlbench.report
MEASURED := results/measured
BEST := loha hydra glora fact_tk vera lily noah_subnet adamss adapter_houlsby dora hira adalora
results: install
	$(REPORT) demo --records $(MEASURED)/demo/runs --out $(MEASURED)/demo
	$(REPORT) mini --records $(MEASURED)/mini/runs --out $(MEASURED)/mini
	$(REPORT) mini_all --records $(MEASURED)/mini/rates/runs --out $(MEASURED)/mini/rates
	$(REPORT) leaderboard --records $(MEASURED)/mini/rates/runs $(MEASURED)/mini/rates/seeds --methods $(BEST) --name mini_seeds --out $(MEASURED)/mini/rates
	$(REPORT) efficiency --records $(MEASURED)/probe/runs --backbone vit_b16 --out $(MEASURED)/probe
	$(REPORT) efficiency --records $(MEASURED)/probe/runs --backbone swin_b --out $(MEASURED)/probe/swin_b
	$(REPORT) table1 --records $(MEASURED)/probe/runs --out $(MEASURED)/probe
	$(REPORT) claims --records $(MEASURED)/probe/runs $(MEASURED)/multitask/runs --out $(MEASURED)/claims
	$(REPORT) multitask --records $(MEASURED)/multitask/runs --out $(MEASURED)/multitask
	$(REPORT) efficiency --records $(MEASURED)/memory/runs --backbone vit_b16 --out $(MEASURED)/memory/vit_b16
	$(REPORT) costs --records $(MEASURED)/memory/runs --backbone dinov2_b14 --vary backbone.fused_attention --out $(MEASURED)/memory/dinov2_b14
	$(REPORT) folder --records $(MEASURED)/photographs/runs/folder/cifar10 --out $(MEASURED)/photographs/cifar10
	$(REPORT) folder --records $(MEASURED)/photographs/runs/folder/sign_digits --out $(MEASURED)/photographs/sign_digits
	$(BIN)/python -m tools.readme README.md docs/results.md docs/costs.md docs/memory.md

# docs/support.md: one backbone of each family; DeiT, MAE, CLIP and DINOv2 are plain ViTs
docs: install-dev
	$(BIN)/python -m tools.catalogue docs/methods
	printf '%s\n' '# Which method works where' '' 'Made by `make docs`. *yes*: the method can be built on the backbone, tried on shapes with the values of its yaml; a number leads to the reason for a refusal. DeiT, MAE, CLIP, DINOv2 and the larger ViT behave like `vit_b16`. `python -m petlbench.support BACKBONE ...` prints the table for other backbones.' '' > docs/support.part
	$(BIN)/python -m petlbench.support vit_b16 siglip_b16 swin_b convnext_b dinov3_b16 eva02_b14 >> docs/support.part
	mv docs/support.part docs/support.md
	$(BIN)/python -m tools.capabilities > docs/capabilities.part
	mv docs/capabilities.part docs/capabilities.md
	$(BIN)/python -m tools.recipes_page > docs/recipes.part
	mv docs/recipes.part docs/recipes.md

# Dead links, missing headings and files of other hosts end the build. It needs no torch, so only
# the extra itself is installed.
DOCS := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])
site: | $(BIN)/python
	$(PIP) install --quiet $$($(BIN)/python -c '$(DOCS)')
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean

wheel: | $(BIN)/python
	$(PIP) wheel --no-deps --wheel-dir dist .

format: install-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "petlbench needs Python >= 3.11 as '$(PYTHON)'; on Debian: apt install python3 python3-venv, or make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	    { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment; on Debian: apt install python3-venv"; exit 1; }

$(VENV)/installed: pyproject.toml | $(BIN)/python
	@echo "installing petlbench and torch into $(VENV) (several GB; a few minutes)"
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	@echo "installing petlbench, torch and the test tools into $(VENV) (several GB; a few minutes)"
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
