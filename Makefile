# make book              environment, notebooks, book           (data that comes with the package, no network)
# make book PROFILE=...  the same with profiles/PROFILE.yml     (standard: real data, see README.md)
# make check             linter, formatter, types, imports, the fast tests: for every change
# make test              all that is checked
# make faults            kills, flipped bits, full disks, odd input by the thousand (40 minutes; goes on where it stopped)
PROFILE ?= quick
JOBS ?= 2
# One more than there are cores to use, as some tests wait for others' deaths.
WORKERS ?= 3
PYTEST ?=

export PROFILE
export MIALAB_CACHE ?= $(CURDIR)/.cache/mialab
PY := .venv/bin/python
TESTS := $(PY) -m pytest -n $(WORKERS) --dist worksteal -rsx

.PHONY: book test check tests fast-tests faults static coverage env sync lock vulnerabilities format clean

book: env
	@$(PY) -m doit -n $(JOBS) book
	@echo "The book (profile $(PROFILE)): file://$(CURDIR)/_build/html/index.html"

# The linters and the types beside the tests.
test: env
	@$(MAKE) --no-print-directory -j 2 static tests

check: env
	@$(MAKE) --no-print-directory -j 2 static fast-tests

tests: env
	$(TESTS) $(PYTEST)

fast-tests: env
	$(TESTS) -m "not slow" $(PYTEST)

# What faults that are injected come to, as a table in results/: make faults FAULTS="--only kills --n 20" for some.
faults: env
	$(PY) tests/faults/run.py --jobs $(JOBS) $(or $(FAULTS),--table)

static: env
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports --no-cache --no-logo

# Which lines and branches the tests reach.
coverage: env
	$(TESTS) --cov --cov-report=term-missing:skip-covered $(PYTEST)

env:
	@.ci/env

# Bring notebooks/*.py and their .ipynb pairs in step; the younger wins.
sync: env
	@$(PY) -m mialab sync

# Bring requirements.lock in step with pyproject.toml; pins stay where they can: make lock LOCK="-P seaborn" renews one.
lock: env
	@$(PY) -m uv pip compile pyproject.toml --extra test --universal --python-version 3.11 --no-annotate --quiet \
		--custom-compile-command "make lock" $(LOCK) -o requirements.lock

# Known vulnerabilities of the locked packages; asks a server on the network.
vulnerabilities: env
	@$(PY) -m uv tool run pip-audit==2.9.0 --requirement requirements.lock --no-deps --disable-pip

format: env
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

# Remove pages and the built book; trainings stay cached in .cache.
clean:
	rm -rf _build book/chapters runs .cache/doit.db*
