# Each target installs what it needs into .venv by itself.
#   make demo    talk to the server with a bundled clip      make serve   start the server
#   make test    all tests, Rust and Python                  make check   format, lint, types, imports
#   make bench   benchmarks, tables into docs/benchmarks.md  make docs    regenerate the settings table

# The first interpreter that runs and is new enough (a pyenv shim may exist and not run).
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
UV := $(BIN)/uv
# silero-vad asks for torch, of which only its ONNX file is used: see docs/decisions.md.
INSTALL := VIRTUAL_ENV=.venv $(UV) pip install --quiet --overrides requirements/no-torch.txt

# Beside the tests with servers, which wait a lot: each of the two keeps one core busy.
UNIT_TESTS := stt_server nemo_lite conformer-rs/tests strops-rs/tests

.PHONY: demo serve test check format bench docs clean
.DELETE_ON_ERROR:

demo: .venv/.run
	@$(BIN)/python -m stt_server.scripts.demo tests/audio/demo.flac

serve: .venv/.run
	@$(BIN)/stt-server $(ARGS)

test: .venv/.dev
	cd strops-rs && cargo test --quiet
	cd conformer-rs && cargo test --quiet
	$(BIN)/pytest -q $(UNIT_TESTS) & unit=$$!; \
	$(BIN)/pytest -q tests benchmarks; servers=$$?; \
	wait $$unit && exit $$servers

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache
	cd strops-rs && cargo fmt --check && cargo clippy --quiet --all-targets -- -D warnings
	cd conformer-rs && cargo fmt --check && cargo clippy --quiet --all-targets -- -D warnings
	$(BIN)/python docs/settings_table.py --check

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	cd strops-rs && cargo fmt
	cd conformer-rs && cargo fmt

bench: .venv/.dev
	$(BIN)/python benchmarks/merge.py --write docs/benchmarks.md
	$(BIN)/python benchmarks/pipeline.py --write docs/benchmarks.md
	$(BIN)/python benchmarks/segment_stage.py --write docs/benchmarks.md
	$(BIN)/python benchmarks/rest.py --write docs/benchmarks.md

docs: .venv/.dev
	$(BIN)/python docs/settings_table.py

clean:
	rm -rf .venv strops-rs/target conformer-rs/target

.venv/.uv:
	@test -n "$(PYTHON)" || \
		{ echo "No Python 3.11 or newer found: install one, or run make PYTHON=/path/to/python." >&2; exit 1; }
	@$(PYTHON) -m venv .venv || \
		{ echo "Could not make a virtual environment: on Debian and Ubuntu run apt install python3-venv." >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@touch $@

.venv/.run: .venv/.uv pyproject.toml requirements/no-torch.txt
	@echo "Installing stt-server into .venv ..."
	@$(INSTALL) --editable .
	@touch $@

RUST := $(wildcard *-rs/Cargo.toml *-rs/pyproject.toml *-rs/src/*.rs *-rs/src/*/*.rs *-rs/python/*/*)

.venv/.dev: .venv/.run $(RUST)
	@command -v cargo >/dev/null || \
		{ echo "The Rust toolchain is missing: install it from https://rustup.rs, then try again." >&2; exit 1; }
	@command -v cc >/dev/null || \
		{ echo "A C linker is missing: on Debian and Ubuntu run apt install gcc libc6-dev." >&2; exit 1; }
	@$(INSTALL) --group dev --reinstall-package strops ./strops-rs \
		--reinstall-package nemo-lite-cpu ./conformer-rs
	@VIRTUAL_ENV=.venv $(UV) pip install --quiet --editable ".[nemo]"
	@# For the model in it, smart-turn; none of its code is used.
	@VIRTUAL_ENV=.venv $(UV) pip install --quiet --no-deps "pipecat-ai>=1.0"
	@touch $@
