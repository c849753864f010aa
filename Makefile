# Tunesmith: `make demo` shows it, `make test` proves it. Everything goes into .venv; nothing else is touched.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
# a folder of its own: an unpack folder shared with others has been seen to vanish under pip
PIP     = TMPDIR=$(CURDIR)/$(VENV)/tmp $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check unit bench serve clean small-base help

help:
	@echo "make demo    a small model learns something, and proves it (first run installs)"
	@echo "make serve   the HTTP service on http://127.0.0.1:8000"
	@echo "make test    all checks and tests"
	@echo "make check   only style, types and layers"
	@echo "make bench   benchmarks against peers (quiet machine, please); train.py, killed_runs.py and two_servers.py take long and run apart"

demo: $(VENV)/.installed
	@$(BIN)/tunesmith demo $(DEMO_OPTIONS)

serve: $(VENV)/.installed
	@$(BIN)/tunesmith serve

test: check unit

check: $(VENV)/.tested
	$(BIN)/ruff check src tests tools benchmarks examples
	$(BIN)/ruff format --check src tests tools benchmarks examples
	$(BIN)/mypy
	$(BIN)/lint-imports

# without a Redis or a PostgreSQL on the machine its tests are left out, loudly; continuous integration installs both
# a real Ollama is asked only where OLLAMA_HOST names one
WITH_OLLAMA := $(if $(OLLAMA_HOST),,and not ollama)
WITH_REDIS := $(if $(CI)$(shell command -v redis-server),,and not redis)
WITH_POSTGRES := $(if $(CI)$(shell command -v initdb)$(wildcard /usr/lib/postgresql/*/bin/initdb),,and not postgres)
WITH_REACT := $(if $(CI)$(shell command -v npm),,and not react)

unit: $(VENV)/.tested $(if $(WITH_REACT),,$(VENV)/.react)
	$(if $(WITH_REDIS),@echo "!! no redis-server here: the tests of rate limits shared through Redis are NOT run")
	$(if $(WITH_POSTGRES),@echo "!! no PostgreSQL here: what must hold on every database is run on SQLite ALONE")
	$(if $(WITH_REACT),@echo "!! no npm here: the React hook of chat-gateway.md is NOT run")
	@# files in their order: those that wait for real servers first, so that neither process is left with one at the end
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not crash $(WITH_REDIS) $(WITH_POSTGRES) $(WITH_OLLAMA) $(WITH_REACT)" $(PYTEST_OPTIONS)
	$(BIN)/pytest -m crash $(PYTEST_OPTIONS)

bench: $(VENV)/.tested
	@for script in $(filter-out benchmarks/train.py benchmarks/killed_runs.py benchmarks/two_servers.py benchmarks/serve.py benchmarks/compare.py benchmarks/soak.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; PYTHONPATH=. $(BIN)/python $$script || exit 1; done

# about 45 minutes on one core; the files of build/small-2 are what ships in src/tunesmith/models/shipped
small-base: export OMP_NUM_THREADS = 1
small-base: export ONEDNN_PRIMITIVE_CACHE_CAPACITY = 256
small-base: $(VENV)/.tested
	$(BIN)/python -m tools.small_base.pretrain --out build/small-1 --steps 3000
	$(BIN)/python -m tools.small_base.pretrain --out build/small-2 --steps 900 --rate 1.5e-3 --seed 2 --finish build/small-1
	$(BIN)/python -m tools.small_base.samples --out src/tunesmith/datasets/samples
	$(BIN)/python -m tools.small_base.measure --model build/small-2 --lora --seeds 0 1 2

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV) ..."
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@mkdir -p $(VENV)/tmp
	@$(PIP) -e .
	@rm -rf $(VENV)/tmp && touch $@

$(VENV)/.tested: $(VENV)/.installed
	@mkdir -p $(VENV)/tmp
	@$(PIP) -e ".[test,dev]"
	@rm -rf $(VENV)/tmp && touch $@

$(VENV)/.react: tests/spec/react/package-lock.json $(VENV)/.tested
	@npm ci --prefix tests/spec/react --ignore-scripts --no-audit --no-fund --silent
	@touch $@

clean:
	rm -rf $(VENV) dist build tests/spec/react/node_modules
