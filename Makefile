# The two commands of the README, and the two long ones. Each sets up .venv/ once.
PY := .venv/bin/python
CLIENTS := .venv/clients

.PHONY: demo test soak bench check setup setup-demo

demo: setup-demo  ## set up .venv/, then train small models, serve them, predict, print a table
	$(PY) -m tests.demo

test: setup  ## set up .venv/, then format, lint, types, import layers, tests
	@$(MAKE) --no-print-directory check

check:
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy server predictors transformers controller tests
	.venv/bin/lint-imports
	$(PY) -m pytest

soak: setup  ## the tests of `make test` that count, at their full counts
	HEADRACE_SOAK=1 $(PY) -m pytest -m soak -s --timeout=0

bench: setup  ## beside kserve, mlserver, triton, litserve and bentoml; 40 minutes on a quiet machine
	$(PY) -m loadtests.compare

setup: .venv/.dev .venv/.clients .venv/.node
setup-demo: .venv/.dev .venv/.clients

.venv/.dev: pyproject.toml constraints.txt
	@echo "make: setting up .venv/ (a few minutes, once)"
	test -x $(PY) || python3 -m venv .venv
	$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# The real clients clash with each other in one process, so each has an environment of its own,
# with our server beside it.
.venv/.clients: .venv/.dev tests/clients/requirements-*.txt
	@echo "make: setting up the environments of the real clients in .venv/clients/ (once)"
	for each in tests/clients/requirements-*.txt; do \
	  name=$$(basename $$each .txt | sed s/requirements-//); \
	  test -x $(CLIENTS)/$$name/bin/python || python3 -m venv $(CLIENTS)/$$name || exit 1; \
	  $(CLIENTS)/$$name/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt \
	    -r $$each -e . || exit 1; \
	done
	@touch $@

# Azurite, the Azure Blob server of the storage tests.
.venv/.node: .venv/.dev
	mkdir -p .venv/node
	cd .venv/node && npm install --silent --no-audit --no-fund azurite@3
	@touch $@
