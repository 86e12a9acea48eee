# Two commands for a newcomer: `make demo` and `make test`. Both set up .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
# Tests and checks are many small computations: one thread each, and as many processes as there are cores.
export OMP_NUM_THREADS ?= 1

.PHONY: venv demo test test-slow test-wheel check bench bench-gpu gpu docs docs-site dist clean

venv: $(INSTALLED)

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	@echo "installing torch and friends into .venv (some minutes, 5 GB) ..."
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: venv
	$(BIN)/harness run --matrix quick
	$(BIN)/harness leaderboard
	@echo
	@echo "next: . .venv/bin/activate, then: harness new defense my-mark my-plugins   (plugins/README.md goes on)"

# `make test` leaves out the tests marked slow, which `make test-slow` runs: a change lands when both pass.
PYTEST := $(BIN)/pytest --numprocesses auto --dist loadfile --quiet
test: venv
	$(PYTEST) -m "not slow"

# Slow tests often wait for processes that they started: one worker more than there are cores. In the order of
# tests/conftest.py: pytest-xdist would begin with the files of many tests, and leave the longest tests to the end.
test-slow: venv
	$(PYTEST) --numprocesses $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --no-loadscope-reorder -m slow

# The same tests against the wheel, as it would be installed: built-in plugins come from inside the package.
# From another folder, and with the checkout last on the path, or `import harness` would find the checkout.
# Those that would notice how the package was installed.
CONCERNED = cli_errors contract_files docs export finding leaderboard matrix new options plan registry reproduce \
  status wheel
test-wheel: venv
	rm -rf build/wheel build/site
	$(BIN)/python -m build --wheel --no-isolation --outdir build/wheel . > /dev/null
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target build/site build/wheel/*.whl
	cd build && HARNESS_TEST_SITE="$(CURDIR)/build/site" PYTHONPATH="$(CURDIR)/build/site" ../$(BIN)/pytest \
	  --numprocesses auto --dist loadfile --quiet --import-mode append -c ../pyproject.toml --rootdir .. \
	  -m "not slow" $(CONCERNED:%=../tests/test_%.py)

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: venv
	$(BIN)/python -m benchmarks.bench

bench-gpu: venv
	$(BIN)/python -m benchmarks.bench --device cuda

# Everything that a machine with a GPU is for, in parts of ten minutes; see benchmarks/README.md. It runs where nothing
# can be installed. The recipe runs under `make -n` too (the plus), and then lists the parts.
gpu:
	+@PYTHONPATH="$(CURDIR)" $(firstword $(wildcard $(BIN)/python) $(PYTHON)) -m benchmarks.gpu_parts \
	  $(if $(findstring n,$(filter-out --%,$(firstword -$(MAKEFLAGS)))),--dry-run)

docs: venv
	$(BIN)/python -c "from pathlib import Path; from harness.storage import schema; Path('results/README.md').write_text(schema.document())"
	$(BIN)/python -c "from pathlib import Path; from harness.ranking import glossary; Path('docs/glossary.md').write_text(glossary.document())"
	$(BIN)/python -c "from pathlib import Path; from harness.inspect import schemes; Path('docs/schemes.md').write_text(schemes.document())"
	$(BIN)/python -c "from pathlib import Path; from harness.inspect import attacks; Path('docs/attacks.md').write_text(attacks.document())"

# The documents as a site, in build/docs: it needs no network when it is read.
docs-site: venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[site]'
	$(BIN)/mkdocs build --strict --quiet --site-dir build/docs

# The wheel and the source archive, as they would be uploaded: see docs/releasing.md.
dist: venv
	rm -rf dist
	$(BIN)/python -m build --no-isolation . > /dev/null
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
