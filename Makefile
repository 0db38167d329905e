# Everything from a fresh clone: `make demo` runs the main job, `make test` the tests. Only Python >= 3.10 is needed.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test lint floor clean

demo: $(INSTALLED)
	$(BIN)/interp-hooks demo --out report.html

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python >= 3.10 is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The oldest versions that are supported, in an environment of their own (several gigabytes: that torch brings CUDA).
floor: .venv-floor/.installed
	.venv-floor/bin/python -m pytest tests/test_families.py tests/test_real_checkpoint.py -k "$(FLOOR)"

FLOOR ?= (gpt2 or neox or llama or gemma or qwen or real) and not japanese

.venv-floor/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-floor
	.venv-floor/bin/python -m pip install --quiet torch==2.6.0 transformers==5.9.0 --editable . pytest beartype
	@touch $@

clean:
	rm -rf .venv .venv-floor report.html
