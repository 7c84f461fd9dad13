# DoRA end to end. `make help` explains every target.
.DEFAULT_GOAL := help
.PHONY: demo learning ui up down worker run test test-fast lint format bench lock clean help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# A file's tests share what they draw, so files are what is shared out, in the order that tests/conftest.py gives them.
WORKERS := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

demo: .venv/ready  ## the whole chain in miniature, through Prefect; VIDEO='file URL city list.txt' runs it on other footage
	@$(BIN)/python -m infra.local demo $(if $(VIDEO),--video "$(VIDEO)")

run: .venv/ready  ## one deployment and what it needs: make run NAME=evaluate ARGS='--param rerun=[\"evaluate\"]'
	@$(BIN)/python -m infra.local run $(NAME) $(ARGS)

learning: .venv/ready  ## what DoRA, DINO, iBOT and nobody learn on the miniature, three seeds: a day of two cores, cell by cell
	@$(BIN)/python -m infra.local run learning $(ARGS)

up: .venv/ready  ## Prefect's server, deployments and a worker until Ctrl-C; DETACH=1: until make down; HOST=10.0.0.5: for others too
	@$(BIN)/python -m infra.local up $(if $(HOST),--host $(HOST)) $(if $(DETACH),--detach)

down: .venv/ready  ## end what make up started; runs save their state and go on at the next make up
	@$(BIN)/python -m infra.local down

worker: .venv/ready  ## take runs of a server elsewhere until Ctrl-C: make worker SERVER=http://HOST:4200/api POOL=gpu
	@$(BIN)/python -m infra.local worker $(if $(SERVER),--server $(SERVER)) $(if $(POOL),--pool $(POOL)) $(ARGS)

ui: .venv/ready  ## Prefect's pages about past runs, until Ctrl-C
	@$(BIN)/python -m infra.local ui

test: .venv/ready  ## every test, the slow ones too
	$(BIN)/python -m pytest -m "slow or not slow" $(WORKERS) --durations=15

test-fast: .venv/ready  ## the tests that run while you wait
	$(BIN)/python -m pytest $(WORKERS)

lint: .venv/ready  ## format, style and types, all strict
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: .venv/ready  ## let ruff lay the code out
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/ready  ## speed against plain baselines in the same run; ONLY=name,… picks some
	$(BIN)/python tests/bench.py ONLY=$(ONLY)

lock: .venv/ready  ## choose versions anew: names, versions and hashes into requirements.lock
	$(BIN)/uv pip compile --universal --upgrade --generate-hashes --no-emit-index-url --no-annotate --no-header \
	  --all-extras --python-version 3.11 pyproject.toml -o requirements.lock

clean:  ## remove the virtual environment; artifacts stay
	rm -rf .venv

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

# Everything that any target needs, from the lock alone. The stamp is written last, so an interrupted
# installation is begun again. Bytecode is compiled once here rather than at every start.
.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=…")'
	@echo "installing into .venv (about 6 GB, one to five minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@
