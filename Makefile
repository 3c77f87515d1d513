# One command a stage. CONFIG chooses the experiment, DATA the raw folder, SET passes options:
#   make preprocess train evaluate
#   make train CONFIG=configs/akoa.yaml DATA=/scans SET="--train.epochs 3"
#   make mnist DATA=/folder/with/mnist
# PYTHON uses an interpreter that is already set up; without it everything is installed into .venv.
CONFIG ?= configs/phantom.yaml
DATA ?=
SET ?=
INPUT ?=
RUNS ?=
PORT ?= 5000
NAME ?= breastmnist

ifdef PYTHON
RUN := $(PYTHON)
READY :=
else
RUN := .venv/bin/python
READY := .venv/.installed
endif
STAGE = $(RUN) -m pipeline
# A name as one word of the shell, whatever quotes it holds: what make prints can be copied.
WORD = '$(subst ','\'',$1)'
OPTIONS = --config $(call WORD,$(CONFIG)) $(if $(DATA),--data.raw_folder $(call WORD,$(DATA))) $(MORE) $(SET)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup fetch preprocess split pretrain train evaluate predict export attention cases compare leak-study \
	cross-validate learning-curve tune report audit folds mnist cifar10 cifar100 medmnist modelnet40 ui test test-slow check docs pages format bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.installed: pyproject.toml constraints.txt
	@# An environment that works keeps its Python; one whose Python is gone is made again.
	.venv/bin/python -m pip --version > /dev/null 2>&1 || python3 -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,bench]"
	@touch $@

setup: $(READY) ## make .venv and install what constraints.txt pins

fetch: $(READY) ## make or download the raw data, if they are not there
	$(STAGE) fetch $(OPTIONS)

preprocess: fetch ## slice the volumes, or read the published set, into the example store
	$(STAGE) preprocess $(OPTIONS)

split: $(READY) ## split patients or training images and certify that nothing leaks
	$(STAGE) split $(OPTIONS)

pretrain: split ## learn from the training images without labels; train starts from it with SET="--train.start_from PATH"
	$(STAGE) pretrain $(OPTIONS)

train: split ## train the model (splits first, if that was not done)
	$(STAGE) train $(OPTIONS)

evaluate: $(READY) ## score the test rows and write the report
	$(STAGE) evaluate $(OPTIONS)

predict: export GIVEN_INPUT := $(INPUT)
predict: $(READY) ## score new scans, images or objects: make predict INPUT="a.nii.gz folder"
	@if [ ! -e "$$GIVEN_INPUT" ] && (eval "set -- $$GIVEN_INPUT") 2> /dev/null; then \
		eval "set -- $$GIVEN_INPUT"; else set -- "$$GIVEN_INPUT"; fi; \
		$(STAGE) predict "$$@" $(OPTIONS)

export: $(READY) ## write the trained model for torch.export, ONNX, MONAI and model hubs
	$(STAGE) export $(OPTIONS)

attention: $(READY) ## draw the attention of the trained model
	$(STAGE) attention $(OPTIONS)

cases: $(READY) ## show single scans in three planes: the worst, the most uncertain and some drawn at random
	$(STAGE) cases $(OPTIONS)

compare: $(READY) ## put evaluated runs side by side: make compare RUNS="phantom phantom/seed-1"
	$(STAGE) compare $(RUNS) $(OPTIONS)

leak-study: $(READY) ## show what leaks do: several ways to split, true and shuffled labels
	$(STAGE) leak-study $(OPTIONS)

cross-validate: $(READY) ## train and evaluate every fold, so that every patient is tested once
	$(STAGE) cross-validate $(OPTIONS)

learning-curve: $(READY) ## draw the accuracy by the number of training patients, of Perceiver, CNN and a linear model
	$(STAGE) learning-curve $(OPTIONS)

tune: $(READY) ## search for a recipe in tune.space, on validation alone
	$(STAGE) tune $(OPTIONS)

# The names of earlier versions.
report audit folds:
	@$(STAGE) $@

# All stages of one published set, with its config unless CONFIG names another of the same set.
# A config of the command line reaches the other make by itself.
OR_GIVEN = $(if $(filter command line,$(origin CONFIG)),,CONFIG=$1)
ALL_STAGES = $(MAKE) fetch preprocess split train evaluate $(call OR_GIVEN,$1)

mnist: ## all stages on MNIST (DATA=folder that has it; else it is downloaded)
	+$(call ALL_STAGES,configs/mnist.yaml)

cifar10: ## all stages on CIFAR-10
	+$(call ALL_STAGES,configs/cifar10_best.yaml)

cifar100: ## all stages on CIFAR-100
	+$(call ALL_STAGES,configs/cifar100.yaml)

medmnist: ## all stages on a set of MedMNIST: make medmnist NAME=retinamnist (or breastmnist_64, adrenalmnist3d)
	+$(MAKE) fetch preprocess split train evaluate MORE="--name $(NAME) --data.variant $(NAME) $(if $(findstring retina,$(NAME)),--data.label_type ordinal)" \
		$(call OR_GIVEN,configs/$(if $(findstring 3d,$(NAME)),medmnist3d,medmnist).yaml)

modelnet40: ## all stages on ModelNet40
	+$(call ALL_STAGES,configs/modelnet40.yaml)

ui: $(READY) ## open the MLflow pages on http://127.0.0.1:5000 (PORT=)
	uri=$$($(RUN) -m pipeline.tracking.mlflow_database $(OPTIONS)) && \
		$(RUN) -m mlflow ui --backend-store-uri "$$uri" --host 127.0.0.1 --port $(PORT)

# One process takes all tests of a module, so that what they share is built once.
PARALLEL = -n auto --dist loadscope
# Tests start many processes; without bytecode each of them compiles the tests and this project again.
test test-slow: export PYTHONDONTWRITEBYTECODE =

test: $(READY) ## run the tests
	$(RUN) -m pytest $(PARALLEL)

test-slow: $(READY) ## run all tests, those of minutes too
	$(RUN) -m pytest $(PARALLEL) --slow

check: $(READY) docs ## format, lint, types and documentation
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

docs: $(READY) ## build the documentation into docs/_build/html; a warning is an error
	$(RUN) -m sphinx -W --keep-going -q docs docs/_build/html

pages: $(READY) ## write the generated pages of docs/ again
	$(RUN) docs/generate_configuration.py
	$(RUN) docs/generate_architecture.py

format: $(READY) ## put the code into its format
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

bench: $(READY) ## measure preprocessing against the plain way, the model against perceiver-pytorch
	$(RUN) reports/benchmarks/preprocess.py $(if $(DATA),--data $(call WORD,$(DATA)))
	$(RUN) reports/benchmarks/model.py

clean: ## remove what the stages wrote, keep raw data and .venv
	rm -rf data/*/prepared data/*/splits*.csv data/*/leak_certificate*.json data/*/copies*.html data/*/external* runs
	rm -rf mlflow.db* mlartifacts reports/index.html
	find reports -mindepth 1 -maxdepth 1 -type d ! -name benchmarks -exec rm -rf {} +
