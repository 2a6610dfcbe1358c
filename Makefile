# make demo   set up all that is needed, then fit and show an ensemble in napari; results in demo/
# make test   set up all that is needed, then run every test, the viewer ones on a real canvas, as many side by
#             side as there are cores, up to four;   make test ARGS="-k fit -x"   some of them, one by one
# make coverage   which lines and branches of the numerical core the tests reach
# make docs   the documentation site, into site/; a broken link or a docstring that lacks a section fails
# make lint   ruff and mypy;   make bench   timings, beside the authors' code if AUTHORS=path is given

PYTHON ?= python3
BIN = .venv/bin
# The demo gets a virtual screen where there is none; tests always do, from pytest-xvfb.
VIRTUAL_SCREEN = $(shell command -v xvfb-run >/dev/null 2>&1 && echo 'xvfb-run -a -s "-screen 0 1600x1200x24"')
NO_DISPLAY = $(if $(DISPLAY)$(WAYLAND_DISPLAY)$(filter Darwin,$(shell uname -s)),,yes)

# What Python and pytest compile of napari and of the tests is kept: made anew it takes each process seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test soak coverage docs lint bench clean

demo: .venv/installed
	$(if $(NO_DISPLAY),$(VIRTUAL_SCREEN)) $(BIN)/python -m napari_ensir.viewer.plugin.demo --out demo $(if $(NO_DISPLAY),--close)

test: .venv/installed
	$(BIN)/python -m pytest $(or $(ARGS),-n auto --maxprocesses 4 --dist worksteal)

# The long forms of tests: random files, interruptions, many rounds in one viewer.
soak: .venv/installed
	NAPARI_ENSIR_MUTATIONS=10000 NAPARI_ENSIR_INTERRUPTIONS=300 NAPARI_ENSIR_ROUNDS=1000 $(BIN)/python -m pytest \
		--timeout=4000 -s -k "hostile_files or altered_archives or changed_settings or interruptions_leave or rounds_of_fit or mutated"

# The compiled loops are run a second time as plain Python, where coverage can see them and numpy warns of
# what compiled code does in silence.
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
