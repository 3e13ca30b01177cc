# Everything runs in .venv, which the first target to need it sets up; `make help` lists the targets.
#
#   PYTHON=python3.12   the Python to make .venv with, 3.10 or newer
#   COMFYUI_PATH=...    the ComfyUI to use; without it, see p2p_core/hosts/launch/locate.py
#   ARGS="-k swap"      further arguments: of pytest for `make test`, rows for `make bench`, `demo`, `evaluate`

PYTHON ?= python3
PORT ?= 8188

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CONSTRAINTS := .ci/constraints.txt
# -I keeps this folder off sys.path, where `nodes` would hide the host's.
RUN := $(BIN)/python -I

# glibc gives every large tensor's memory back to the system when it is freed; on a small machine the
# page faults of taking it again cost a third of the time.
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 100000000000
export MALLOC_TOP_PAD_ := 268435456

# What .venv is made of: the pins, this pack, and what the newest ComfyUI needs. Where there is no
# ComfyUI, these goals get one.
LOCATE := $(PYTHON) -I p2p_core/hosts/launch/locate.py --requirements
ifneq ($(filter comfyui demo bench fidelity evaluate,$(MAKECMDGOALS))$(filter 1,$(P2P_REQUIRE_HOST)),)
REQUIREMENTS := $(shell $(LOCATE) --clone | head -n 1)
else
REQUIREMENTS := $(shell $(LOCATE) 2>/dev/null | head -n 1)
endif
SUM := $(shell cat pyproject.toml $(CONSTRAINTS) "$(REQUIREMENTS)" 2>/dev/null | cksum | cut -d " " -f 1)
READY := $(VENV)/ready-$(SUM)
READY_TO_TRAIN := $(VENV)/ready-to-train-$(SUM)

.PHONY: help demo test comfyui bench fidelity evaluate train lowest lint

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1 - /p' Makefile

demo: $(READY) ## make the pictures of the README with the demo model
	@$(RUN) -m p2p_core.lab.showcase.run $(ARGS)

test: $(READY) ## run every test, with every ComfyUI to be found
	@$(RUN) tests/run.py $(ARGS)

comfyui: $(READY) ## serve ComfyUI with this pack on 127.0.0.1
	@$(RUN) -m p2p_core.hosts.launch.server --port $(PORT)

bench: $(READY) ## measure time and memory
	@$(RUN) -m p2p_core.lab.cost.bench $(ARGS)

fidelity: $(READY) ## measure how well real pictures survive inversion and editing
	@$(RUN) -m p2p_core.lab.shapes.benchmark $(ARGS)

evaluate: $(READY) ## measure how well the demo model shows what captions say
	@$(RUN) -m p2p_core.lab.evaluate $(ARGS)

train: $(READY_TO_TRAIN) ## train the demo model; ARGS="--model mmdit" trains the joint-attention one
	@$(RUN) -m p2p_core.demo.training $(ARGS)

lowest: $(READY) ## try the lowest versions of what the pack needs without a ComfyUI
	@$(RUN) .ci/lowest.py

lint: $(READY) ## check style and types
	@echo "ruff check"
	@$(BIN)/ruff check .
	@echo "pyright"
	@$(BIN)/pyright
	@echo "addresses"
	@$(RUN) .ci/urls.py

$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12")'
	@test -x $(BIN)/python || { echo "Making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@$(PIP) install --quiet --no-index --requirement $(CONSTRAINTS) 2>/dev/null \
		|| { echo "Installing torch (large, once)"; $(PIP) install --requirement $(CONSTRAINTS); }
	@echo "Installing this pack and its tools$(if $(REQUIREMENTS), and what ComfyUI needs (minutes, once))"
	@PYTHONWARNINGS=ignore $(PIP) install --quiet --constraint $(CONSTRAINTS) --editable '.[dev,headless,ray]' \
		$(if $(REQUIREMENTS),requests --requirement "$(REQUIREMENTS)")
	@# An older ComfyUI serves a folder of this package that the newer one's release of it lacks.
	@for package in $(VENV)/lib/python3*/site-packages/comfyui_workflow_templates; do \
		test ! -d $$package || mkdir -p $$package/templates; done
	@rm -f $(VENV)/ready-*
	@touch $@

$(READY_TO_TRAIN): $(READY)
	@echo "Installing what training needs"
	@PYTHONWARNINGS=ignore $(PIP) install --quiet --constraint $(CONSTRAINTS) --editable '.[train]'
	@touch $@
