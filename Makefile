# Everything from a fresh clone: `make demo` runs the main job, `make test` the tests. Only Python >= 3.10 is needed.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test lint docs notebooks floor package stranger counts clean

demo: $(INSTALLED)
	$(BIN)/interp-hooks demo --out report.html --wiki wiki

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The manual, into site/: open site/index.html, or for its search, $(BIN)/python -m http.server --directory site
docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Runs every notebook and stores what it gives, with figures as SVG: notebooks/store.py. Some: make notebooks ONLY="..."
notebooks: $(INSTALLED)
	$(BIN)/python notebooks/store.py $(ONLY)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python >= 3.10 is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The lowest versions that pyproject.toml allows, in an environment of their own (several gigabytes: that torch brings
# CUDA). Another version of one: make floor INSTEAD="torch==2.13.0"
floor:
	$(PYTHON) tests/floor.py .venv-floor $(INSTEAD)

# The wheel and the source distribution, built, installed into an environment of their own, and tried there.
package:
	$(PYTHON) tests/package.py .venv-package

# What a stranger tries first, with that wheel: the README as it is typed, commands, mistakes, notebooks (some minutes).
# A part of it: make stranger PARTS="readme mistakes"
stranger: $(INSTALLED)
	$(BIN)/python -m tests.stranger .venv-stranger $(PARTS)

# How much of the manual there is, and how large the wheel
counts: $(INSTALLED)
	$(BIN)/python -m tests.counts

clean:
	rm -rf .venv .venv-floor .venv-package .venv-stranger report.html wiki wiki.partial site
