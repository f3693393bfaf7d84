# make train     install, download food5 or generate pictures, fine-tune on them with two processes
# make test      install, then the quick tests and one two-process job: minutes
# make test-all  every test: also jobs, clusters of several hosts, browser and benchmarks
# make lint      ruff, import-linter, mypy, shellcheck and hadolint
# make docs      the API reference, in docs/api
# make docker-check   build the Dockerfile with buildah and use the image; as root
# make install   only the environment, in .venv
# make clean     remove the environment and build files; data sets and runs stay

# Of make train; launch/first_run.sh describes them, and has the defaults.
export DATA MODEL WEIGHTS NUM_PROCS TRAIN_FLAGS
EXTRAS      ?= cpu horovod board parquet
PYTEST_ARGS ?=
DOCKER_FLAGS ?=

BIN := .venv/bin
# A test that hangs is stopped after five minutes, with the stacks of all its threads, and a worker
# that crashes ends the session. Three workers, since jobs spend much of their time waiting; a
# module's tests stay together and share its fixtures.
PYTEST := $(BIN)/python -m pytest tests --timeout 300 --durations 10 --numprocesses 3 --dist loadfile \
    --max-worker-restart 0

.PHONY: help install train test test-all lint docs docker-check clean

help:
	@sed -n 's/^# make /make /p' Makefile

install:
	@launch/install.sh $(EXTRAS)

train: install
	@launch/first_run.sh

test:
	@launch/install.sh $(EXTRAS) dev
	$(PYTEST) -m "not (jobs or cluster or browser or benchmarks)" $(PYTEST_ARGS)

test-all:
	@launch/install.sh $(EXTRAS) dev
	$(PYTEST) $(PYTEST_ARGS)

lint:
	@launch/install.sh $(EXTRAS) dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/shellcheck .ci/run launch/*.sh launch/ssh/ssh launch/slurm.sbatch tests/*/*.sh
	$(BIN)/hadolint --config .ci/hadolint.yaml Dockerfile

docs:
	@launch/install.sh $(EXTRAS) docs
	$(BIN)/python -W ignore -m pdoc dist_ft '!dist_ft.compat' -o docs/api

# DOCKER_FLAGS=cu112 checks the image for GPUs; CACHE=DIR keeps Horovod's wheel for the next check.
docker-check:
	tests/docker/check.sh $(DOCKER_FLAGS)

clean:
	rm -rf docs/api .venv build dist_ft.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
