# Needs Python 3.11 or newer with its venv and pip, nothing else; `make` lists the commands.
PYTHON ?= python3
BIN := .venv/bin

# The kernels run in notebooks/: a relative folder would mean another one there. (make's own abspath splits
# at blanks.)
ifdef MNIST_KIT_DATA
export MNIST_KIT_DATA := $(shell $(PYTHON) -c 'import os; print(os.path.abspath(os.path.expanduser(os.environ["MNIST_KIT_DATA"])))')
endif
ifdef MNIST_KIT_HOME
export MNIST_KIT_HOME := $(shell $(PYTHON) -c 'import os; print(os.path.abspath(os.path.expanduser(os.environ["MNIST_KIT_HOME"])))')
endif

.DEFAULT_GOAL := help
.PHONY: help run test lab notebooks html bench bench-tried bench-accuracy bench-pad measure clean

help:  ## list the commands
	@grep -hE '^[a-z-]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 18

run: .venv/ready  ## execute the notebooks on copies, then sum up
	@$(BIN)/python tools/series.py

test: .venv/ready  ## run every test
	@$(BIN)/python -m pytest

lab: .venv/ready  ## open JupyterLab on the notebooks (127.0.0.1, with its token)
	@# Only the series' own, as they are in git: else JupyterLab shows no widget after a reload, and a notebook that
	@# came from elsewhere has to be trusted by hand.
	@for notebook in $$(git ls-files 'notebooks/*.ipynb' 2>/dev/null); do git diff --quiet HEAD -- $$notebook && echo $$notebook; done \
		| xargs -r $(BIN)/jupyter trust >/dev/null
	@$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 notebooks

notebooks: .venv/ready  ## execute the notebooks in place, to be committed
	@$(BIN)/python tools/series.py --in-place

html: .venv/ready  ## the notebooks as pages of HTML, pictures described, in data/html/
	@$(BIN)/jupyter nbconvert --to html --TemplateExporter.extra_template_basedirs=tools --template described \
		--output-dir data/html notebooks/*.ipynb

bench: .venv/ready  ## measure training beside its floor and its rivals, in two minutes or so
	@$(BIN)/python -m benchmarks.speed

bench-tried: .venv/ready  ## measure what makes a step shorter, and what does not
	@$(BIN)/python -m benchmarks.tried

bench-accuracy: .venv/ready  ## measure the time to 99.0, 99.2 and 99.4 % (about an hour); a second call goes on
	@$(BIN)/python -m benchmarks.accuracy --resume

bench-pad: .venv/ready  ## measure in a real browser how fast the drawing pad is
	@$(BIN)/python -m benchmarks.pad

measure: .venv/ready  ## measure how well drawings, pictures and numbers are read, on what is in the data folder
	@$(BIN)/python tools/measure_reading.py

clean:  ## remove .venv and caches; data/ and figs/ stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

# uv sorts out and unpacks 2 GB several times faster than pip; compiled bytecode saves seconds at each kernel start.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@echo "Setting up .venv (once, some minutes) …"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode \
		--constraint constraints.txt --editable . --group dev
	@touch $@
