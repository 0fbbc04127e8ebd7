# make run    the main job: a quantized mixture of experts on real data, compared, packed, saved and reported
# make test   everything that must hold: lint, types, all tests, a smoke run
# PYTHON=...  another Python of 3.11 or later

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)
TASK ?= digits
PLUGIN ?= curiosity_moe

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.PHONY: run test lint types unit smoke peers bench docs install clean

run: $(STAMP)
	$(BIN)/qcore run --plugin $(PLUGIN) --task $(TASK) $(ARGS)

test: lint types unit smoke
	@echo "make test: all parts passed"

install: $(STAMP)

# torch comes first and alone, so that pip does not look at other builds of it.
$(STAMP): requirements.txt requirements-dev.txt constraints.txt $(PROJECTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-dev.txt -c constraints.txt
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# Two workers with one torch thread each: the suites are many small jobs.
unit: $(STAMP)
	OMP_NUM_THREADS=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/python -m pytest -q -p xdist -n 2 --dist loadfile

smoke: $(STAMP)
	rm -rf runs/smoke
	$(BIN)/qcore run --plugin $(PLUGIN) --task $(TASK) --folds 2 --set epochs=3 --out runs/smoke
	test -s runs/smoke/summary.json && test -s runs/smoke/report.html

# Other libraries that `make bench` and `qcore bench` compare with where they are installed; nothing needs them.
peers: $(STAMP)
	$(BIN)/python -m pip install --quiet onnxruntime onnx openvino torchao -c constraints.txt

bench: $(STAMP)
	$(BIN)/python benchmarks/run_all.py

docs: $(STAMP)
	$(BIN)/python docs/build.py

clean:
	rm -rf $(VENV) runs site
