# make demo       install, then fit and show an ensemble in napari; results in demo/
# make test       install, then run all tests in up to four processes, viewer tests on a real canvas
#                 make test ARGS="-k fit -x"   run some tests in one process
# make soak       run the long forms of tests, and mutation tests of the numerical core
# make coverage   report line and branch coverage of the numerical core
# make docs       build the documentation site into site/; broken links and incomplete docstrings are errors
# make lint       run ruff, mypy and lint-imports, and count lines of code
# make bench      run timings; AUTHORS=path adds the authors' code

PYTHON ?= python3
BIN = .venv/bin
# The demo uses a virtual display if there is none; tests always do, through pytest-xvfb.
VIRTUAL_SCREEN = $(shell command -v xvfb-run >/dev/null 2>&1 && echo 'xvfb-run -a -s "-screen 0 1600x1200x24"')
NO_DISPLAY = $(if $(DISPLAY)$(WAYLAND_DISPLAY)$(filter Darwin,$(shell uname -s)),,yes)

# Keep compiled bytecode: recompiling napari and the tests takes seconds in each process.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test soak coverage docs lint bench clean

demo: .venv/installed
	$(if $(NO_DISPLAY),$(VIRTUAL_SCREEN)) $(BIN)/python -m napari_ensir.viewer.plugin.demo --out demo $(if $(NO_DISPLAY),--close)

test: .venv/installed
	$(BIN)/python -m pytest $(or $(ARGS),-n auto --maxprocesses 4 --dist worksteal --durations=10)

# Long forms of tests: random files, interruptions, many rounds in one viewer.
soak: .venv/installed
	NAPARI_ENSIR_MUTATIONS=10000 NAPARI_ENSIR_INTERRUPTIONS=300 NAPARI_ENSIR_ROUNDS=1000 NAPARI_ENSIR_FULL_SIZE=yes \
		$(BIN)/python -m pytest --timeout=4000 -s -k "test_properties or published_tables or hostile_files or altered_archives or changed_settings or interrupted_commands or killed_saves or rounds_of_fit or mutated"
	$(BIN)/python tools/mutate.py --mutants 200

# Run the compiled loops again as plain Python, where coverage sees them and numpy warns of overflow.
COVER = -m pytest -q --cov=napari_ensir.ensemble --cov-branch
LOOPS = $(addprefix tests/ensemble/,estimators/test_em.py statistics/test_statistics.py arrays)

coverage: .venv/installed
	$(BIN)/python $(COVER) --cov-report= tests/ensemble tests/viewer src/napari_ensir/ensemble
	NUMBA_DISABLE_JIT=1 $(BIN)/python $(COVER) --cov-append --cov-report=term-missing -W ignore::RuntimeWarning $(LOOPS)

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/count_code.py

bench: .venv/installed
	$(BIN)/python benchmarks/bench.py $(AUTHORS)

.venv/installed: pyproject.toml constraints.txt
	sh tools/system_packages.sh
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade "pip>=25.1"
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[all]" --group test
	touch $@

clean:
	rm -rf .venv demo build dist site
