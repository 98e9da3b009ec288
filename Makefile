# make demo: from demonstrations to a better policy. make test: the fast tests. Both make .venv first.
# make docs: the documentation as a site, in site/. It has an environment of its own, .venv-docs, which needs no torch.
# make pins: does PyPI have every version in constraints.txt? This machine's own wheels and indexes do not count.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
READY := $(VENV)/.ready
DOCS := .venv-docs
CHECK_PYTHON = $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	|| { echo "awac_pl needs Python 3.11 or 3.12; say which: make PYTHON=/path/to/python3.11 $@"; exit 1; }
DOCS_EXTRA = import tomllib; \
	print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: demo test learning faults check docs pins clean

demo: $(READY)
	mlflow run . --env-manager=local --experiment-name awac -P task=pen -P preset=quick

test: $(READY)
	pytest -q -n 2

learning: $(READY)
	pytest -q -m learning

faults: $(READY)
	pytest -q -n 2 -m faults

check: $(READY)
	ruff format --check .
	ruff check .
	mypy

docs: $(DOCS)/.ready
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict
	@echo "open site/index.html"

pins: $(READY)
	PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= PIP_EXTRA_INDEX_URL= $(VENV)/bin/python -m pip install -q --dry-run \
		--ignore-installed --no-deps --only-binary :all: -r constraints.txt

$(READY): pyproject.toml constraints.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@

$(DOCS)/.ready: pyproject.toml constraints.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(DOCS)
	$(PYTHON) -c '$(DOCS_EXTRA)' > $(DOCS)/requirements.txt
	$(DOCS)/bin/python -m pip install -q --no-compile -c constraints.txt -r $(DOCS)/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) $(DOCS) runs mlartifacts mlflow.db site
