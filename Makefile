# Two commands do everything: `make demo` runs the main job, `make test` passes the tests.
# Each target creates what it needs: .venv (platform), .venv-jobs (user jobs), the browser files from npm.
.POSIX:
.SUFFIXES:
.DEFAULT_GOAL := help
.PHONY: help demo test test-ray test-kubernetes test-chart test-all check bench mutants wheel-test screenshots clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS := .venv-jobs
PIP := $(BIN)/uv pip install --quiet --require-hashes
VENDOR := api/pages/static/vendor/htmx.min.js

help:
	@echo "make demo        run the whole journey on this machine   (DEMO_ARGS='--once -o json' to print one document and exit)"
	@echo "make test        run the tests"
	@echo "make test-ray, make test-kubernetes   the backends on a real Ray head and a real control plane; make test-all: everything"
	@echo "make check       lint, types, import contracts, dependencies"
	@echo "make bench       run the benchmarks"
	@echo "make mutants     change the money core line by line and see which tests notice (docs/mutants.md)"
	@echo "make wheel-test  build the wheel and run the contract tests against it, outside the checkout"

demo: $(VENV)/.run $(JOBS)/.ready $(VENDOR)
	@YISUAN_JOB_PATH="$(CURDIR)/$(JOBS)/bin:/usr/local/bin:/usr/bin:/bin" $(BIN)/yisuan demo $(DEMO_ARGS)

test: $(VENV)/.dev $(JOBS)/.ready $(VENDOR)
	@$(BIN)/python -m pytest -n 2 $(TEST_ARGS)

test-ray: $(VENV)/.engines $(JOBS)/.ready $(VENDOR)
	@YISUAN_ENGINES=ray $(BIN)/python -m pytest tests/ray tests/contracts/test_backend.py -k "ray" $(TEST_ARGS)

# The control plane is built once from Go modules, into a cache outside the checkout (tests/kubernetes/build).
test-kubernetes: $(VENV)/.engines $(JOBS)/.ready $(VENDOR)
	@sh tests/kubernetes/build >&2
	@YISUAN_ENGINES=kubernetes $(BIN)/python -m pytest tests/kubernetes tests/contracts/test_backend.py -k "kubernetes" $(TEST_ARGS)

# The chart with the real helm, kubectl and promtool, on the same control plane.
test-chart: $(VENV)/.engines $(JOBS)/.ready $(VENDOR)
	@$(PIP) --python $(BIN)/python -r locks/chart.txt >&2
	@sh tests/chart/tools >&2
	@sh tests/kubernetes/build >&2
	@$(BIN)/python -m pytest tests/chart $(TEST_ARGS)

test-all: test test-ray test-kubernetes test-chart

check: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/deptry .

bench: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.run $(BENCH_ARGS)

mutants: $(VENV)/.dev
	@$(BIN)/mutmut run --max-children 1 "metering.amount*" "metering.refund*" "metering.facts*" "metering.support*" \
		"metering.settlement*" "metering.rules*" "metering.year*" "metering.rates*" "metering.ledger*" \
		"metering.lifecycle*" "metering.exclusion.x_choose*" "metering.review.x_sampled*" "metering.rule.*"
	@$(BIN)/mutmut results

wheel-test: $(VENV)/.dev $(VENDOR)
	@sh tests/wheel-test

# Needs Chromium (apt-get install chromium fonts-noto-cjk) and a demo that is up: make screenshots SERVER=http://127.0.0.1:8080 JOB=job_…
screenshots: $(VENV)/.dev
	@$(PIP) --python $(BIN)/python -r locks/browser.txt
	@$(BIN)/python docs/screenshots.py $(SERVER) $(JOB)

$(VENV)/.base: locks/bootstrap.txt
	@sh locks/venv "$(PYTHON)" "$(VENV)" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/bootstrap.txt >&2
	@touch $@

$(VENV)/.run: $(VENV)/.base locks/run.txt pyproject.toml
	@echo "Installing yisuan …" >&2
	@$(PIP) --python $(BIN)/python -r locks/run.txt >&2
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable . >&2
	@touch $@

$(VENV)/.dev: $(VENV)/.run locks/dev.txt
	@echo "Installing what tests and checks need …" >&2
	@$(PIP) --python $(BIN)/python -r locks/dev.txt >&2
	@touch $@

# The clients of Ray and Kubernetes, which no other test needs.
$(VENV)/.engines: $(VENV)/.dev locks/engines.txt
	@echo "Installing the engines' clients …" >&2
	@$(PIP) --python $(BIN)/python -r locks/engines.txt >&2
	@touch $@

# User jobs never run in the platform's environment; the examples get one of their own.
$(JOBS)/.ready: $(VENV)/.base locks/jobs.txt
	@echo "Installing the example jobs' environment …" >&2
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(JOBS) >&2
	@$(PIP) --python $(JOBS)/bin/python -r locks/jobs.txt >&2
	@touch $@

$(VENDOR): $(VENV)/.run api/pages/package-lock.json
	@command -v npm >/dev/null 2>&1 || $(PIP) --python $(BIN)/python -r locks/node.txt >&2
	@$(BIN)/python -m api.pages.build >&2
	@touch $@

clean:
	rm -rf $(VENV) $(JOBS) .demo dist api/pages/static/vendor
