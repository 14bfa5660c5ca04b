# Everything a person needs: `make demo`, `make test`. Each target sets up what it uses, from the lock, and says so.
# One environment for the workspace (.venv); `make test-<package>` builds <package>/.venv with that package's alone.

SHELL := /bin/bash
UV := $(shell command -v uv || echo .uv/bin/uv)
MEMBERS := shared talk2car_kd pillars_rq batvision_kd voxel_mae llvip_macl
PYTEST := -q
# One process a core, eight at most, with one thread each; a file's tests stay together, for what they prepare once.
PARALLEL := -n auto --maxprocesses 8 --dist loadfile
ONE_THREAD := OMP_NUM_THREADS=1
COMPILE := CFLAGS=-g0 CXXFLAGS=-g0 MAX_JOBS=$$(nproc)  # mmcv, for llvip_macl: without debug symbols, every core
export UV_PYTHON_PREFERENCE ?= only-system

.PHONY: demo demo-all test test-faults test-gpu bench lint format setup setup-demo pictures clean $(MEMBERS:%=test-%)

demo: setup-demo  ## the main job on the embedded data: under ten minutes on two cores
	cd talk2car_kd && ../.venv/bin/python main.py --stage all --visualize --generate_predictions

demo-all: setup  ## every package's demo (its README's quick start), one after another, the time of each, and its waits for data
	@demo() { \
	    local folder=$$1 started=$$SECONDS; shift; echo "== $$folder: python $$*"; \
	    (cd $$folder && ../.venv/bin/python "$$@") && echo "-- $$((SECONDS - started)) s"; \
	}; set -e; \
	demo talk2car_kd main.py --stage all --visualize --generate_predictions; \
	demo pillars_rq train_pointpillars.py --config exp/base_embedded.yaml --run embedded; \
	demo pillars_rq train_eval_rq.py --config exp/embedded.yaml; \
	demo pillars_rq train_eval_rq.py --config exp/embedded.yaml --mode grid --rq_ckpt embedded_rq_logs/checkpoints/final.pth; \
	demo batvision_kd train_distillation.py --experiments --config config/demo.yaml; \
	demo voxel_mae demo.py; \
	demo llvip_macl demo.py; \
	echo "all demos: $$((SECONDS / 60)) min $$((SECONDS % 60)) s"; \
	.venv/bin/python -m shared.data_wait || [ $$? = 1 ]  # a missed target is told, and no failed demo

test: setup  ## every member's tests
	$(ONE_THREAD) .venv/bin/python -m pytest $(PYTEST) $(PARALLEL)

test-faults: setup  ## kills, signals, damaged files at full count, an hour or more; writes docs/reliability.{json,md}
	$(ONE_THREAD) .venv/bin/python -m pytest $(PYTEST) $(PARALLEL) -m "slow or fault" --reliability docs

test-gpu:  ## in the caller's own environment, whatever its Python and torch
	PYTHONPATH=shared:talk2car_kd:pillars_rq:batvision_kd:voxel_mae:llvip_macl python3 -m pytest $(PYTEST) -m gpu

bench: setup  ## every benchmark with its baseline in the same run, whether others fail or not; then docs/benchmarks.md
	@trap 'exit 130' INT TERM; failed=; for script in $(filter-out %/pictures.py,$(wildcard */benchmarks/*.py)); do \
	    echo "== $$script"; .venv/bin/python $$script || failed="$$failed $$script"; \
	done; \
	.venv/bin/python -m shared.benchmark_page || failed="$$failed docs/benchmarks.md"; \
	if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	$(UV) lock --check

format: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

pictures: setup  ## the pictures of the READMEs, under docs/
	set -e; for script in */benchmarks/pictures.py; do .venv/bin/python $$script --out docs; done

# A member's tests in an environment that holds only that member's dependencies: how independence is proved.
$(MEMBERS:%=test-%): test-%: $(UV)
	@echo "Setting up $*/.venv with this package's dependencies alone"
	$(COMPILE) UV_PROJECT_ENVIRONMENT=$(CURDIR)/$*/.venv $(UV) sync --locked --package $$(sed -n 's/^name = "\(.*\)"/\1/p' $*/pyproject.toml)
	$(ONE_THREAD) $*/.venv/bin/python -m pytest $(PYTEST) $(PARALLEL) $*/tests

setup: $(UV)
	@test -d .venv || echo "Setting up .venv: downloads about 3 GB once (torch with CUDA), compiles mmcv once (about 7 minutes on two cores)"
	$(COMPILE) $(UV) sync --locked --all-packages

setup-demo: $(UV)
	@test -d .venv || echo "Setting up .venv for talk2car_kd: downloads about 3 GB once (torch with CUDA), builds nothing"
	$(UV) sync --locked --inexact --package talk2car-kd --no-dev

.uv/bin/uv:
	@echo "uv is missing: installing it into .uv (about 25 MB)"
	python3 -m venv .uv
	.uv/bin/pip install --quiet uv

$(filter-out .uv/bin/uv,$(UV)):
	@true

clean:
	rm -rf .venv .uv */.venv .pytest_cache .ruff_cache
