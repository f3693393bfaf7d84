# make train     install, make a data set if there is none, fine-tune on it with two processes
# make test      install, then the whole test suite
# make lint      ruff, as the continuous integration runs it
# make docs      the API's pages, in docs/api
# make docker-check   carry out the Dockerfile without Docker, and use what comes of it; as root, with debootstrap
# make install   the environment alone, in .venv
# make clean     remove the environment and what was built; data sets and runs stay

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

.PHONY: help install train test lint docs docker-check clean

help:
	@sed -n 's/^# make /make /p' Makefile

install:
	@launch/install.sh $(EXTRAS)

# The weights are seen to by one process, before there are many; its exit status is 69 where they are to be had nowhere.
# 127.0.0.1: not every machine has a line for localhost in /etc/hosts.
train: install $(DATA)/train
	@weights=$(WEIGHTS); \
	$(BIN)/python -m dist_ft.models.pretrained $$weights $(MODEL) || case $$? in \
	    69) weights=none; echo "warning: no pretrained weights, so this run starts from random numbers" ;; \
	    *) exit 1 ;; \
	esac; \
	$(BIN)/horovodrun -np $(NUM_PROCS) -H 127.0.0.1:$(NUM_PROCS) --gloo $(BIN)/python -m dist_ft.train \
	    --data $(DATA) --model $(MODEL) --weights $$weights --out $(RUN) $(TRAIN_FLAGS)

food5/train: | install
	$(BIN)/python food5/sample.py --out food5

# A test that hangs is ended after five minutes, with the stacks of all its threads. What Chromium showed, where it is
# installed, is in build/screenshots.
test:
	@launch/install.sh $(EXTRAS) dev
	$(BIN)/python -m pytest tests --timeout 300 --durations 10 $(PYTEST_ARGS)

lint:
	@launch/install.sh $(EXTRAS) dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs:
	@launch/install.sh $(EXTRAS) docs
	$(BIN)/python -W ignore -m pdoc dist_ft '!dist_ft.compat' -o docs/api

# DOCKER_FLAGS: --build-arg MXNET=cu112; --cache DIR keeps Horovod's wheel from one check to the next.
docker-check:
	python3 -m tests.docker.check $(DOCKER_FLAGS)

clean:
	rm -rf docs/api .venv build dist_ft.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
