# make book              environment, notebooks, book           (data that comes with the package, no network)
# make book PROFILE=...  the same with profiles/PROFILE.yml     (standard: real data, see README.md)
# make test              environment, linter, formatter, tests
PROFILE ?= quick
JOBS ?= 2
PYTEST ?=

export PROFILE
export MIALAB_CACHE ?= $(CURDIR)/.cache/mialab
PY := .venv/bin/python

.PHONY: book test env sync lock format clean

book: env
	@$(PY) -m doit -n $(JOBS) book
	@echo "The book (profile $(PROFILE)): file://$(CURDIR)/_build/html/index.html"

test: env
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest -rs $(PYTEST)

env:
	@.ci/env

# Bring notebooks/*.py and their .ipynb pairs in step; the younger wins.
sync: env
	@$(PY) -m mialab sync

# Renew the pins from what is installed now (after e.g. `.venv/bin/pip install -U seaborn`).
lock:
	@$(PY) .ci/lock.py

format: env
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

# Remove pages and the built book; trainings stay cached in .cache.
clean:
	rm -rf _build book/chapters runs .cache/doit.db*
