# make train     install, generate a data set if there is none, fine-tune on it with two processes
# make test      install, then the quick tests and one two-process job: minutes
# make test-all  every test: also jobs, clusters of several hosts, browser and benchmarks
# make lint      ruff, import-linter, mypy, shellcheck and hadolint
# make docs      the API reference, in docs/api
# make docker-check   build the Dockerfile with buildah and use the image; as root
# make install   only the environment, in .venv
# make clean     remove the environment and build files; data sets and runs stay

DATA        ?= food5
MODEL       ?= resnet34_v2
WEIGHTS     ?= auto
NUM_PROCS   ?= 2
# A few minutes on two cores; the recipe of the real food5 is --config food5/finetune.yaml.
TRAIN_FLAGS ?= --image-size 96 --batch-size 25 --epochs 6
EXTRAS      ?= cpu horovod board
PYTEST_ARGS ?=
DOCKER_FLAGS ?=

BIN := .venv/bin
RUN := runs/$(notdir $(DATA))
# A test that hangs is stopped after five minutes, with the stacks of all its threads.
PYTEST := $(BIN)/python -m pytest tests --timeout 300 --durations 10

.PHONY: help install train test test-all lint docs docker-check clean

help:
	@sed -n 's/^# make /make /p' Makefile

install:
	@launch/install.sh $(EXTRAS)

# One process finds or downloads the weights before the ranks start; it exits with 69 if they are unavailable.
# 127.0.0.1, because not every machine has localhost in /etc/hosts.
train: install $(DATA)/train
	@weights=$(WEIGHTS); \
	$(BIN)/python -m dist_ft.models.pretrained $$weights $(MODEL) || case $$? in \
	    69) weights=none; echo "warning: no pretrained weights; this run starts from random parameters" ;; \
	    *) exit 1 ;; \
	esac; \
	$(BIN)/horovodrun -np $(NUM_PROCS) -H 127.0.0.1:$(NUM_PROCS) --gloo $(BIN)/python -m dist_ft.train \
	    --data $(DATA) --model $(MODEL) --weights $$weights --out $(RUN) $(TRAIN_FLAGS)

food5/train: | install
	$(BIN)/python food5/sample.py --out food5

test:
	@launch/install.sh $(EXTRAS) dev
	$(PYTEST) -m "not (jobs or cluster or browser or benchmarks)" $(PYTEST_ARGS)

# Two at a time, since jobs spend much of their time waiting; a module's tests stay together and share its fixtures.
test-all:
	@launch/install.sh $(EXTRAS) dev
	$(PYTEST) --numprocesses 2 --dist loadfile $(PYTEST_ARGS)

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
