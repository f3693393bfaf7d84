# make train    install, make a data set if there is none, fine-tune on it with two processes
# make test     install, then the whole test suite
# make lint     ruff, as the continuous integration runs it
# make install  only the environment, in .venv
# make clean    remove what the above made (the data set and the runs stay)

DATA        ?= food5
NUM_PROCS   ?= 2
RUN         ?= runs/food5
TRAIN_FLAGS ?= --config food5/finetune.yaml
WEIGHTS     ?= auto
EXTRAS      ?= cpu horovod board
PYTEST_ARGS ?=

BIN := .venv/bin

.PHONY: help install train test lint clean

help:
	@sed -n 's/^# //p' Makefile

install:
	@launch/install.sh $(EXTRAS)

train: install $(DATA)/train
	$(BIN)/horovodrun -np $(NUM_PROCS) -H 127.0.0.1:$(NUM_PROCS) --gloo $(BIN)/python -m dist_ft.train \
	    --data $(DATA) --weights $(WEIGHTS) --out $(RUN) $(TRAIN_FLAGS)
	@echo
	@echo "Written: $(RUN). To look at it: $(BIN)/tensorboard --logdir $(RUN)"

food5/train: | install
	$(BIN)/python food5/sample.py --out food5

# A test that hangs is ended after five minutes, with the stacks of all its threads.
test:
	@launch/install.sh $(EXTRAS) dev
	$(BIN)/python -m pytest tests --timeout 300 --durations 10 $(PYTEST_ARGS)

lint:
	@launch/install.sh $(EXTRAS) dev
	$(BIN)/ruff check --config .ci/ruff.toml .
	$(BIN)/ruff format --check --config .ci/ruff.toml .

clean:
	rm -rf .venv build dist_ft.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
