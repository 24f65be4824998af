# Every target makes what it needs: a virtual environment a Python version (.venv/3.13.0, from PyPI by name) and the
# extension, built in place. A second run finds both and is quick. Another interpreter: make test PYTHON=python3.13

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import platform; print(platform.python_version())')
ifeq ($(VERSION),)
$(error no Python at "$(PYTHON)")
endif
VENV := .venv/$(VERSION)
RUN := $(VENV)/bin/python
GROUPS ?= test demo services viewers dashboards
NATIVE := $(wildcard native/*.c native/*.h native/build.py)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo build test test-all backends bench lint clean

help:  ## these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build  ## a shop with three faults, and who is to blame for each (about 25 s); writes build/report.html
	@mkdir -p build
	@$(RUN) -m tracedthread demo --force -o build/report.html

build: $(VENV)/.native  ## the extension for PYTHON, in place

test: build  ## all tests on PYTHON, and the short modules of CPython's own tests under the patch
	@mkdir -p build
	$(RUN) -m pytest -n 2 -m 'not alone'
	$(RUN) -m pytest -m alone
	$(RUN) tests/cpython/run.py --mode A --short

test-all:  ## all tests, and CPython's own, on every Python >= 3.10 of this machine, and on 3.14 and 3.15 (about 25 min)
	$(PYTHON) tests/pythons/matrix.py

backends:  ## a real collector, VictoriaMetrics and Prometheus for `make test`, into build/backends (Debian; about 2 min)
	bash tests/backends/fetch.sh build/backends

bench: build $(VENV)/.bench  ## what our locks cost, against the stock ones; and a service, with and without
	@status=0; for file in benchmarks/bench_*.py; do PYTHONPATH=$(CURDIR) $(RUN) $$file || status=1; done; exit $$status

lint: build $(VENV)/.lint  ## formatting, style and types
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(RUN) -m mypy.stubtest tracedthread._types tracedthread._native --ignore-missing-stub

clean:  ## remove what the other targets made, but for build/debian and build/backends
	rm -rf .venv dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	rm -f tracedthread/*.so
	find build -mindepth 1 -maxdepth 1 ! -name debian ! -name backends -exec rm -rf {} + 2>/dev/null || true
	find . -name __pycache__ -not -path './build/*' -prune -exec rm -rf {} +

$(VENV)/.made: pyproject.toml tests/pythons/venv.sh
	bash tests/pythons/venv.sh $(PYTHON) $(VENV) $(GROUPS)
	@touch $@

$(VENV)/.lint: $(VENV)/.made
	bash -c '$(RUN) -m pip --disable-pip-version-check -qq install --group lint'
	@touch $@

$(VENV)/.native: $(VENV)/.made $(NATIVE)
	$(RUN) native/build.py
	@touch $@

$(VENV)/.bench: $(VENV)/.made
	bash -c '$(RUN) -m pip --disable-pip-version-check -qq install --group bench'
	@touch $@
