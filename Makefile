# SPDX-License-Identifier: Apache-2.0
# make demo    a real recording through the real node; results in demo_out/
# make test    the tests (core and ROS); TESTS="test/core -k camera" runs a part
# make lint    ruff, mypy --strict on the core, codespell
# make docs    write docs/interface.md, the README's tables and config/*.yaml from the code
# make env     only makes or updates the environment
# ROS_DISTRO=kilted make ... uses Kilted in an environment of its own; a sourced ROS is used instead.

SHELL := /bin/bash
.DEFAULT_GOAL := help
TESTS ?= test
DEMO_OUT ?= demo_out

# The first Python from 3.11 on; 3.11 first, because most wheels were tried with it. With a sourced
# ROS it must be the one that ROS was built for, the system's.
PYTHON ?= $(shell for python in $(if $(_ROS_WHEELS_BOOTSTRAP_COMPLETE),,$(if $(AMENT_PREFIX_PATH),/usr/bin/python3)) python3.11 python3.12 \
	python3.13 python3.14 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
environment = $(PYTHON) tools/environment.py --print-python

# The tests own the machine's loopback only; each process takes a domain of its own.
test_variables = ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST PYTHONNOUSERSITE=1

.PHONY: help env demo test lint docs clean
help:
	@sed -n '2,/^$$/s/^# //p' Makefile

env: python_found
	@$(PYTHON) tools/environment.py

demo: python_found
	@python=$$($(environment)) && "$$(dirname $$python)/inspatio" demo --output $(DEMO_OUT)

test: python_found
	@python=$$($(environment)) && $(test_variables) $$python tools/run_tests.py $(TESTS)

lint: python_found
	@python=$$($(environment)) && bin=$$(dirname $$python) && \
	$$bin/ruff check . && $$bin/codespell && $$python -m mypy

docs: python_found
	@python=$$($(environment)) && $$python tools/interface.py

.PHONY: python_found
python_found:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed. On Debian and Ubuntu:" \
	"sudo apt-get install python3.11 python3.11-venv python3.11-dev (or: uv python install 3.11)" >&2; exit 1; }

clean:
	rm -rf .venv .venv-kilted build install log demo_out
