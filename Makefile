# Every target sets up .venv on first use. All it needs is make and Python 3.10 or newer (3.11 is what CI runs).
PYTHON      ?= $(shell python3.11 -c "" 2>/dev/null && echo python3.11 || echo python3)
TORCH       ?= torch==2.14.1
TORCHVISION ?= torchvision==0.29.1
WORKERS     ?= 2
BIN         := .venv/bin
RUNTIME     := .venv/.runtime-ready
DEVELOPMENT := .venv/.development-ready
METADATA    := settings.ini setup.py pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help demo test notebooks widgets docs colab evidence bench readme export clean

help:       ## this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */	/' | while IFS='	' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

demo: $(RUNTIME)           ## SimCLR on handwritten digits, from nothing to a measured result, in two to five minutes on two cores
	$(BIN)/simclr demo

test: $(DEVELOPMENT)       ## every test: the library, its doctests, the notebooks, the wheel; two at a time, each on one core (WORKERS=4: four)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --doctest-modules simclr tests

notebooks: $(DEVELOPMENT)  ## run every notebook in nbs/ without a network, save its outputs and pictures (Chromium draws them), check the result
	$(BIN)/python tools/notebooks.py nbs/*.ipynb
	$(BIN)/python tools/pictures.py nbs/*.ipynb
	$(BIN)/python -m pytest -q tests/test_project.py tests/test_notebooks.py -k "not passes_offline"

widgets: $(DEVELOPMENT)    ## train on digits and make the widgets of the site and their pictures (in Chromium), some minutes
	$(BIN)/python tools/widgets.py

colab: $(DEVELOPMENT)      ## run every notebook with the versions that Colab has
	COLAB_ALL=1 $(BIN)/python -m pytest -q tests/test_colab.py

export: $(DEVELOPMENT)     ## write simclr/*.py from the notebooks
	$(BIN)/nbdev-export

readme: $(DEVELOPMENT)     ## write README.md from nbs/index.ipynb
	$(BIN)/python tools/readme.py

docs: $(DEVELOPMENT)       ## build the site in _docs, with Quarto if it is installed, else without
	$(BIN)/python tools/build_site.py

evidence: $(DEVELOPMENT)   ## the runs behind the post-mortem and the ablations, some hours on two cores; what the records hold is not done again
	$(BIN)/python bench/experiments.py why_80
	$(BIN)/python bench/experiments.py ablations

bench: $(DEVELOPMENT)      ## every ratio of the page Speed, against peers in one run: results/bench*.json; RUNS="a b": the Explorer of two runs too
	$(BIN)/python bench/all.py $(PARTS)
	$(if $(RUNS),$(BIN)/python bench/explorer.py $(RUNS))

clean:      ## remove what was built; .venv and runs/ stay
	rm -rf _docs _proc dist build *.egg-info .pytest_cache .hypothesis .ruff_cache
	find simclr tests tools bench nbs \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 10) and "Python 3.10 or newer is needed, $(PYTHON) is %d.%d; name another one: make PYTHON=/path/to/python3.11" % v[:2])'
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "$(PYTHON) cannot make environments; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv

$(RUNTIME): .venv/bin/python $(METADATA)
	$(BIN)/python -m pip install "$(TORCH)" "$(TORCHVISION)"
	$(BIN)/python -m pip install -e .
	@touch $@

$(DEVELOPMENT): $(RUNTIME)
	$(BIN)/python -m pip install -e ".[dev]"
	@touch $@
