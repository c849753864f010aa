# Tunesmith: `make demo` shows it, `make test` proves it. Everything goes into .venv; nothing else is touched.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
# uv, which takes a third of the time; pip where there is no uv for this machine, or where only pip's settings name the index
INSTALL = ./tools/install.sh $(VENV)

# tests start hundreds of processes: where the environment forbids keeping what was compiled, each would compile the package
# anew, which is a third of its start
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test check lint typed unit page web types bench serve clean small-base help

help:
	@echo "make demo    a small model learns something, and proves it (first run installs)"
	@echo "make serve   the HTTP service on http://127.0.0.1:8000"
	@echo "make test    all checks and tests"
	@echo "make check   only style, types and layers"
	@echo "make page    every test of the page in a browser (needs Chromium and npm)"
	@echo "make web     the page, built from web/ into the package (needs npm)"
	@echo "make bench   benchmarks against peers (quiet machine, please); train.py, killed_runs.py and two_servers.py take long, page.py wants Chromium: they run apart"

demo: $(VENV)/.installed
	@$(BIN)/tunesmith demo $(DEMO_OPTIONS)

serve: $(VENV)/.installed
	@$(BIN)/tunesmith serve

test: check unit

# what builds the page wants a Node.js of 2024 or later
NODE := $(shell node --version 2>/dev/null | sed -nE 's/^v([0-9]+).*/\1/p')
NEW_NODE := $(shell [ "$(or $(NODE),0)" -ge 20 ] && command -v npm)

# each of these by itself, so that -j has something to do
check: lint typed $(if $(NEW_NODE),build/.web-compared)
	$(if $(NEW_NODE),,@echo "!! no Node.js from version 20 on here: whether the page is built from its sources is NOT checked")

lint: $(VENV)/.tested
	$(BIN)/ruff check src tests tools benchmarks examples
	$(BIN)/ruff format --check src tests tools benchmarks examples
	$(BIN)/lint-imports

typed: $(VENV)/.tested
	$(BIN)/mypy

# the page that ships is built from the sources beside it, byte for byte; a machine without npm takes it as it is
web: web/node_modules/.locked
	cd web && npx tsc --noEmit && npx vitest run && npx vite build

# TypeScript of what the dialects say of themselves
types: $(VENV)/.tested web/node_modules/.locked
	$(BIN)/python -m tools.openapi
	cd web && npm run types

build/.web-compared: web/node_modules/.locked $(shell find web src/tunesmith/web/built -type f -not -path '*/node_modules/*')
	cd web && npx tsc --noEmit && npx vitest run && npx vite build --outDir ../build/web --emptyOutDir --logLevel warn
	@diff -rq build/web src/tunesmith/web/built || { echo "src/tunesmith/web/built is not what web/ makes: run make web"; exit 1; }
	@touch $@

# without a Redis or a PostgreSQL on the machine its tests are left out, loudly; continuous integration installs both
# a real Ollama is asked only where OLLAMA_HOST names one
WITH_OLLAMA := $(if $(OLLAMA_HOST),,and not ollama)
WITH_REDIS := $(if $(CI)$(shell command -v redis-server),,and not redis)
WITH_POSTGRES := $(if $(CI)$(shell command -v initdb)$(wildcard /usr/lib/postgresql/*/bin/initdb),,and not postgres)
WITH_REACT := $(if $(CI)$(shell command -v npm),,and not react)

# asked when the tests run: torch is there by then, and importing it takes seconds
SEES_CUDA = $(and $(wildcard /dev/nvidia0 /dev/dxg),$(shell $(BIN)/python -c 'import torch; torch.cuda.is_available() and print(1)'))

WITH_BROWSER := $(if $(CI)$(and $(shell command -v npm),$(shell command -v chromium || command -v chromium-browser || command -v google-chrome)),,and not browser)

unit: $(VENV)/.tested $(if $(WITH_REACT),,$(VENV)/.react) $(if $(WITH_BROWSER),,web/node_modules/.locked)
	$(if $(WITH_REDIS),@echo "!! no redis-server here: the tests of rate limits shared through Redis are NOT run")
	$(if $(WITH_POSTGRES),@echo "!! no PostgreSQL here: what must hold on every database is run on SQLite ALONE")
	$(if $(WITH_REACT),@echo "!! no npm here: the React hook of chat-gateway.md is NOT run")
	$(if $(WITH_BROWSER),@echo "!! no Chromium or no npm here: the page is NOT looked at in a browser")
	@# three at a time on two cores, for much of it is waiting
	@# files in their order: those that wait for real servers first, so that no process is left with one at the end
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not crash and not thorough $(WITH_REDIS) $(WITH_POSTGRES) $(WITH_OLLAMA) $(WITH_REACT) $(WITH_BROWSER) and not cuda" $(PYTEST_OPTIONS)
	$(if $(SEES_CUDA),$(BIN)/pytest -m cuda tests/unit/inference/worker $(PYTEST_OPTIONS),@echo "!! no GPU that torch sees here: CUDA graphs are tried with a stand-in ALONE")
	@# no other file: every process imports what it is given, and all of them import every library there is
	$(BIN)/pytest -n 2 --dist loadfile -m crash $$(grep -rl --include='test_*.py' 'mark\.crash' tests) $(PYTEST_OPTIONS)

# the whole page in a browser; `make test` leaves out the longest walks
page: $(VENV)/.tested web/node_modules/.locked
	$(BIN)/pytest tests/page $(PYTEST_OPTIONS)

bench: $(VENV)/.tested
	@for script in $(filter-out benchmarks/train.py benchmarks/killed_runs.py benchmarks/two_servers.py benchmarks/serve.py benchmarks/compare.py benchmarks/soak.py benchmarks/page.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; PYTHONPATH=. $(BIN)/python $$script || exit 1; done

# about 45 minutes on one core; the files of build/small-2 are what ships in src/tunesmith/models/shipped
small-base: export OMP_NUM_THREADS = 1
small-base: export ONEDNN_PRIMITIVE_CACHE_CAPACITY = 256
small-base: $(VENV)/.tested
	$(BIN)/python -m tools.small_base.pretrain --out build/small-1 --steps 3000
	$(BIN)/python -m tools.small_base.pretrain --out build/small-2 --steps 900 --rate 1.5e-3 --seed 2 --finish build/small-1
	$(BIN)/python -m tools.small_base.samples --out src/tunesmith/datasets/samples
	$(BIN)/python -m tools.small_base.measure --model build/small-2 --lora --seeds 0 1 2

# the engine's and the trainer's kernels are compiled while the package is installed
KERNELS := hatch_build.py $(wildcard src/tunesmith/inference/worker/native/*.[ch] src/tunesmith/training/loop/native/*.[ch])

$(VENV)/.installed: pyproject.toml constraints.txt tools/install.sh $(KERNELS)
	@echo "Installing into $(VENV) ..."
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	@$(INSTALL) -e ".[test,dev]"
	@touch $@

$(VENV)/.react: tests/spec/react/package-lock.json $(VENV)/.tested
	@npm ci --prefix tests/spec/react --ignore-scripts --no-audit --no-fund --silent
	@touch $@

web/node_modules/.locked: web/package-lock.json
	@npm ci --prefix web --ignore-scripts --no-audit --no-fund --silent
	@touch $@

clean:
	rm -rf $(VENV) dist build tests/spec/react/node_modules web/node_modules
