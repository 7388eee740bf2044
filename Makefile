# The two commands: `make figures` runs every notebook and draws every figure, `make test` is what CI runs.
# `make help` lists all of them, and after "->" what each writes.
PYTHON ?= python3
BIN := .venv/bin
# Where pip looks for torch beside its usual place: .../whl/cpu of download.pytorch.org has builds without CUDA.
TORCH_INDEX ?=
PIP_INSTALL := -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# Under a locale that cannot spell the name of this folder, Python makes no environment in it and setuptools links none.
export PYTHONUTF8 := 1
export LC_ALL := C.UTF-8

# `make -j` would check results while they are made.
.NOTPARALLEL:
.PHONY: help figures claim test site-where-npm-is test-all lint unit alone verl sharded trl-own-tests nbval replay notebooks tables retrain lab bench paper-scale real data proofs site clean

figures: .venv/ready  ## run the notebooks with papermill; figures, tables, manifest -> build/
	$(BIN)/python -m companion.runner.reproduce

claim: .venv/ready  ## decide one claim alone, make claim ID=lens-sgd; docs/claims.md lists them -> build/claims
	$(BIN)/python -m companion.runner.claim $(ID)

test: lint alone site-where-npm-is unit figures nbval replay  ## everything that takes less than half an hour -> build/

site-where-npm-is:  ## the site, where npm reaches its registry -> build/site
	@if npm ping > /dev/null 2>&1; then $(MAKE) site; else echo "npm brings nothing here: no site is made, and its tests skip, or fail where CI is set"; fi

test-all: .venv/ready  ## what is slow: training from nothing with five seeds, and mutants that replay must notice
	$(BIN)/python -m pytest -m slow -s --timeout 3000 tests

lint: .venv/ready  ## style, and which room may import which
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo

unit: .venv/ready .venv/liger .venv/peft .venv/browser  ## unit and property tests, and the site in a Chromium
	$(BIN)/python -m pytest -n 2 --timeout 300

alone: .venv-alone/ready  ## the library's tests where there is torch alone
	.venv-alone/bin/python -m pytest tests/entropy_dynamics

verl: .venv-verl/ready  ## the tests of the plug-in for verl, with verl's trainer on Ray, on a CPU
	.venv-verl/bin/python -m pytest -m "slow or not slow" --timeout 3000 tests/entropy_dynamics/test_verl.py

sharded: .venv-sharded/ready  ## the test of TRL's trainer on a model that DeepSpeed or FSDP2 divides between two processes, on a CPU
	.venv-sharded/bin/python -m pytest --timeout 900 tests/entropy_dynamics/test_trl_sharded.py

trl-own-tests: .venv/ready .venv/peft  ## TRL's own tests of GRPOTrainer with its trainer and with ours: CHECKOUT=path of TRL's repository -> build/trl_own
	$(BIN)/python tests/entropy_dynamics/trl_own_tests.py $(CHECKOUT) $(TESTS) --output build/trl_own

nbval: .venv/ready  ## run the notebooks again and compare with their committed outputs -> build/scratch
	$(BIN)/python -m companion.runner.reproduce --check
	$(BIN)/python -m pytest -n 2 --dist loadscope --timeout 900 --nbval notebooks/[0-9][0-9]_*.ipynb

replay: .venv/ready  ## short runs of every kind, late ones of every rule, made again and compared (RENEW=1: kept as the new ones -> data/replay)
	$(BIN)/python -m companion.runs.replay $(if $(RENEW),--renew)

site: .venv-site/ready  ## these pages, the notebooks with their outputs, the library's reference and the explorer -> build/site
	rm -rf build/site
	.venv-site/bin/sphinx-build -q -E -W --keep-going -c site -d build/scratch/site . build/site

# Pages say which pictures are kept, and have numbers out of the notebooks that are run then.
notebooks: .venv/ready tables  ## refresh the committed outputs, pictures and generated pages -> notebooks, README.md, docs
	$(BIN)/python -m companion.pages.readme
	$(BIN)/python -m companion.runner.reproduce --refresh
	$(BIN)/python -m companion.pages.readme

tables: .venv/ready  ## the tidy tables of the committed records -> data/evaluations.csv, data/series.csv.gz
	$(BIN)/python -m companion.reports.release --tables

retrain: .venv/ready  ## train every run from nothing, on from where it was interrupted (ANEW=1: anew) -> build/retrained, at the end data/
	$(BIN)/python -m companion.reports.release $(if $(ANEW),--anew)

lab: .venv/ready  ## open the notebooks -> build/scratch, build/runs
	$(BIN)/jupyter lab notebooks

bench: .venv/ready .venv/liger  ## time and memory of statistics, loss and training step, beside other ways (45 minutes) -> build/bench.json
	$(BIN)/python -m companion.benches.bench --output build/bench.json

paper-scale: .venv/ready  ## the paper's setting (8 GPUs, the hub); make paper-scale DRY=small or DRY=smollm2 runs it here -> build/paper_scale
	$(BIN)/python -m companion.language_models.paper_scale --write-accelerate build/paper_scale/accelerate.yaml
ifdef DRY
	$(BIN)/torchrun --standalone --nproc-per-node 2 -m companion.language_models.paper_scale --dry-run $(DRY)
else
	$(BIN)/accelerate launch --config_file build/paper_scale/accelerate.yaml -m companion.language_models.paper_scale
endif

real: .venv/ready  ## train SmolLM2 with GRPO, Clip_B, Clip_V and a random mask like each, three seeds (on an accelerator) -> build/runs
	for task in addition chain_sum; do for seed in 0 1 2; do for arm in GRPO Clip_B Clip_V "random mask" "random mask like Clip_V"; do \
		$(BIN)/python -m companion.language_models.real_training --task $$task --arm "$$arm" --seed $$seed --output build/runs || exit 1; \
	done; done; done

data: .venv/ready  ## sample the committed tokens of the language model anew -> data/responses.json, data/smollm2_tokens.csv
	$(BIN)/python -m companion.language_models.language_model
	$(BIN)/python -m companion.language_models.grouped_batch

proofs:  ## compile the proofs of the theorems (needs Coq and Coquelicot) and check what they assume -> build/proofs
	$(PYTHON) proofs/check.py

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' Makefile

clean:  ## remove the environment and everything built
	rm -rf .venv .venv-alone .venv-sharded .venv-site .venv-verl build

# Environments are made from nothing: pip cannot mend an installation that was interrupted.
.venv/ready: requirements.lock requirements-no-deps.lock pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or later is needed, this is ' + sys.version)"
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python $(PIP_INSTALL) -r requirements.lock
	$(BIN)/python $(PIP_INSTALL) --no-deps -r requirements-no-deps.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# What the library and its tests need, and what builds it.
.venv-alone/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear .venv-alone
	.venv-alone/bin/python $(PIP_INSTALL) $$(grep -E '^(torch|pytest|hypothesis|setuptools)==' requirements.lock)
	.venv-alone/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# What makes the site; npm brings KaTeX, which renders formulas.
.venv-site/ready: requirements-site.lock site/package-lock.json
	$(PYTHON) -m venv --clear .venv-site
	.venv-site/bin/python -m pip install --quiet -r requirements-site.lock
	npm ci --silent --no-audit --ignore-scripts --prefix site
	touch $@

# verl's extras would bring CUDA; the lock is whole without them.
.venv-verl/ready: requirements-verl.lock pyproject.toml
	$(PYTHON) -m venv --clear .venv-verl
	.venv-verl/bin/python $(PIP_INSTALL) --no-deps -r requirements-verl.lock
	.venv-verl/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# The companion's environment and DeepSpeed, which is compiled for nothing and changes what accelerate imports.
.venv-sharded/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear .venv-sharded
	.venv-sharded/bin/python $(PIP_INSTALL) -r requirements.lock
	DS_BUILD_OPS=0 .venv-sharded/bin/python $(PIP_INSTALL) -c requirements.lock deepspeed==0.19.8
	.venv-sharded/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# TRL's trainer with adapters; all that it needs is in the lock.
.venv/peft: .venv/ready
	$(BIN)/python -m pip install --quiet --no-deps peft==0.21.2
	touch $@

# Triton's interpreter runs the CUDA kernels on a CPU, for the tests alone. A build of torch with CUDA brings its own.
.venv/triton: .venv/ready
	$(BIN)/python -c "import triton" 2>/dev/null || $(BIN)/python -m pip install --quiet "triton==3.9.0; sys_platform == 'linux'"
	touch $@

# A rival in the benchmark; it needs torch and Triton, no more.
.venv/liger: .venv/triton
	$(BIN)/python -m pip install --quiet --no-deps liger-kernel==0.8.5
	touch $@

# What the site's tests drive a Chromium with, and what checks contrast and names in it.
.venv/browser: .venv/ready tests/site/package-lock.json
	$(BIN)/python -m pip install --quiet playwright==1.65.2
	npm ci --silent --no-audit --ignore-scripts --prefix tests/site && touch $@ || echo "npm brings nothing here: what needs axe-core skips, or fails where CI is set"
