# Each target creates the virtual environment that it needs.
# PYTHON=python3.13 chooses the interpreter; each interpreter has environments of its own.

PYTHON ?= python3
# Further arguments for demo, bench, figures, instructions, matrix, soak, sanitize and wheels.
ARGS ?=
# Processes that run the tests. Tests wait more than they compute.
JOBS ?= 5
# Seconds of a soak: one tenth for the cores beside their model, half of the rest for each loop.
SOAK ?= 600
# The Pythons of the table of benchmarks: versions, or paths of interpreters that have the package.
PYTHONS ?= 3.11 3.13 3.14 3.15
# Runs that make bench ARGS="--json FILE" has saved: figures uses them instead of measuring.
RUNS ?=

VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
TEST := .venv/test-$(VERSION)
BENCH := .venv/bench-$(VERSION)
DEMO := .venv/demo-$(VERSION)
DOCS := .venv/docs-$(VERSION)

# Includes the directory, whose time changes when a file is added or removed.
SOURCES := LICENSE MANIFEST.in README.rst pyproject.toml setup.py pytest_aiowebsocketclient.py \
	aiowebsocketclient \
	$(wildcard aiowebsocketclient/*.py aiowebsocketclient/*.pyx aiowebsocketclient/*.pxd aiowebsocketclient/py.typed)

# Test the compiled core and the installed package, whatever the caller's shell has set, unless a
# target below says otherwise.
COMPILED := env -u AIOWEBSOCKETCLIENT_NO_EXTENSIONS
unexport PYTHONPATH PYTHONHOME
# Each process that runs tests would rewrite and compile them all, which takes longer than most tests.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-c test-py test-slow test-slow-c test-slow-py lint docs changes bench figures \
	write-figures instructions matrix soak sanitize wheel wheels clean

help:
	@echo 'make demo    run the pool against an echo server of its own'
	@echo 'make test    lint, documentation, tests with both cores: 6 minutes'
	@echo 'make test-slow  slow tests, source distribution and wheels: 15 minutes more'
	@echo 'make lint    ruff, mypy and pyright'
	@echo 'make changes  the change notes of the next release'
	@echo 'make docs    build the documentation into docs/_build/html'
	@echo 'make bench   time both cores beside other pools; ARGS=--quick: a verdict in 5 minutes'
	@echo 'make figures  write the tables of README.rst and docs/, and the plots: 12 minutes'
	@echo 'make instructions  count the instructions of a cycle and compare; needs valgrind'
	@echo 'make matrix  run the tests on every CPython found, old and new aiohttp, both cores'
	@echo 'make soak    callers, faults and restarts for 10 minutes, or SOAK=seconds'
	@echo 'make sanitize  run the compiled core under AddressSanitizer'
	@echo 'make wheel   build a wheel into dist/'
	@echo 'make wheels  build everything that is published into dist/, and test each wheel'
	@echo 'make clean   remove build results and virtual environments'
	@echo 'Also: PYTHON=python3.13, and ARGS="..." for all from bench to sanitize, demo and wheels;'
	@echo 'PYTHONS="3.13 ..." and RUNS="FILE ..." for figures.'

# -P: use the installed package, not the directory here, which is not compiled.
demo: $(DEMO)/.installed
	$(DEMO)/bin/python -P -m aiowebsocketclient $(ARGS)

# All steps run, even if one fails. test-slow runs the tests marked slow, test all others. The
# environments are made one by one, because each builds the package here; lint runs beside docs.
ALL := --no-print-directory --keep-going

test: $(TEST)/.installed
	-@$(MAKE) $(ALL) $(DOCS)/.installed
	@failed=; \
	$(MAKE) $(ALL) --jobs=2 --output-sync lint docs || failed=1; \
	$(MAKE) $(ALL) test-c test-py || failed=1; \
	test -z "$$failed"

test-slow:
	@$(MAKE) $(ALL) test-slow-c test-slow-py

# Not "python -m pytest", which would put this directory before the installed package.
# tests/once.txt leaves out tests that choose their core themselves, or use none.
C := $(COMPILED) $(TEST)/bin/pytest -n $(JOBS) --impl c
PY := AIOWEBSOCKETCLIENT_NO_EXTENSIONS=1 $(TEST)/bin/pytest -n $(JOBS) --impl py \
	@tests/once.txt

test-c: $(TEST)/.installed
	$(C) -m 'not slow'

test-py: $(TEST)/.installed
	$(PY) -m 'not slow'

test-slow-c: $(TEST)/.installed
	$(C) -m slow

test-slow-py: $(TEST)/.installed
	$(PY) -m slow

lint: $(TEST)/.installed
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/mypy
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(TEST)/bin/pyright --pythonpath $(TEST)/bin/python

changes: $(TEST)/.installed
	$(TEST)/bin/towncrier build --draft

# Build from scratch: an incremental build would not repeat warnings.
docs: $(DOCS)/.installed
	rm -rf docs/_build
	$(DOCS)/bin/python -P -m sphinx --fail-on-warning --keep-going --quiet \
		-d docs/_build/doctrees docs docs/_build/html
	@echo docs/_build/html/index.html

bench: $(BENCH)/.installed
	$(COMPILED) $(BENCH)/bin/python -m bench $(ARGS)

# The figures are of the newest CPython from 3.13 on, whatever PYTHON is.
figures:
	@$(MAKE) --no-print-directory $(if $(RUNS),,PYTHON="$$($(PYTHON) -m tests.pythons)") write-figures

# The first run is that of all figures but those of the table of the Pythons.
MEASURED := .venv/figures.json .venv/pythons.json
MEASURE := $(COMPILED) $(BENCH)/bin/python -m bench $(ARGS) --json

write-figures: $(BENCH)/.installed
	$(if $(RUNS),,$(MEASURE) $(word 1,$(MEASURED)) --shown --minutes 8)
	$(if $(RUNS),,$(MEASURE) $(word 2,$(MEASURED)) --minutes 3 --python $(PYTHONS))
	$(COMPILED) $(BENCH)/bin/python -m bench --plot docs/_static/bench \
		--rst README.rst --rst docs/benchmarks.rst --from $(or $(RUNS),$(MEASURED))

# ARGS=--update records today's numbers as the new reference.
instructions: $(TEST)/.installed
	$(COMPILED) $(TEST)/bin/python -m tests.instructions $(ARGS)

matrix:
	$(PYTHON) -m tests.matrix $(ARGS)

# With AIOWEBSOCKETCLIENT_NO_EXTENSIONS set, the soak uses the pure core.
soak: $(TEST)/.installed
	$(TEST)/bin/python -m tests.lockstep --seconds $$(( $(SOAK) / 10 ))
	$(TEST)/bin/python -m tests.soak --seconds $$(( $(SOAK) * 9 / 10 )) $(ARGS)

sanitize: $(TEST)/.installed
	$(TEST)/bin/python tests/sanitize.py $(ARGS)

# With AIOWEBSOCKETCLIENT_NO_EXTENSIONS set, the wheel is pure Python.
wheel: $(TEST)/.installed
	$(TEST)/bin/python -m build --wheel --outdir dist .

# ARGS=--quick runs only the tests that a build can break.
wheels: $(TEST)/.installed
	$(TEST)/bin/python -m tests.wheels $(ARGS)

clean:
	rm -rf .venv build dist docs/_build *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find aiowebsocketclient bench examples tests -name __pycache__ -prune -exec rm -rf {} +

$(TEST)/.installed: $(SOURCES) | $(TEST)/bin/pip
	$(COMPILED) $(TEST)/bin/pip install --quiet --group test .
	touch $@

$(BENCH)/.installed: $(SOURCES) | $(BENCH)/bin/pip
	$(COMPILED) $(BENCH)/bin/pip install --quiet --group suite '.[bench]'
	touch $@

$(DEMO)/.installed: $(SOURCES) | $(DEMO)/bin/pip
	$(COMPILED) $(DEMO)/bin/pip install --quiet '.[cli]'
	touch $@

# The core in plain Python has the full signatures.
$(DOCS)/.installed: $(SOURCES) | $(DOCS)/bin/pip
	AIOWEBSOCKETCLIENT_NO_EXTENSIONS=1 $(DOCS)/bin/pip install --quiet --group docs \
		'.[gql,opentelemetry,prometheus]'
	touch $@

.venv/%/bin/pip:
	@test -n "$(VERSION)" || { echo 'No $(PYTHON) here: say PYTHON=...' >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv/$*
	# --group is new in pip 25.1.
	.venv/$*/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
