# make run    starts the daemon, from this checkout and in an environment of its own (.venv)
# make check  runs the quick tests, which need no process, browser or server
# make test   runs all tests, and gets what they need
# make stats  says how large, documented and entangled the code is, and refuses what is over its bounds
# make example  starts an example (examples/)
# make bench  measures what the daemon costs, side by side with others (docs/performance.rst)
# README.rst says the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
TRIAL_ARGS ?=
# All of them, in a mixed order.
TESTS ?= tests.shuffled
# How many tests run at the same time: many of them wait. With more, two processors have no less to do.
JOBS ?= 5
BENCH := benchmarks/.build/venv
LATEST := .venv-latest
SCENARIO ?=
NAME ?= chat-tutorial
PAGES = $(patsubst %/package.json,%,$(wildcard examples/$(NAME)/package.json examples/$(NAME)/site/package.json))

# What a shell has set for other programs says nothing about this one. How pip reaches an index is the machine's affair
# and stays; where it installs is ours.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONOPTIMIZE PYTHONUSERBASE PYTHONWARNINGS PYTHONSAFEPATH
unexport VIRTUAL_ENV PIP_TARGET PIP_PREFIX PIP_ROOT PIP_REQUIRE_HASHES
export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run example check test test-all test-latest mutants programs js lint types docs stats bench clean FORCE

help:
	@echo 'make run     start the daemon; ARGS="--listen tcp:8081:interface=127.0.0.1" adds options, ARGS=--help lists them'
	@echo 'make example start examples/chat-tutorial; NAME=ping-pong picks another one of examples/, ARGS adds options'
	@echo 'make check   run the quick tests, which need no process, browser or server'
	@echo 'make test    run all tests; TESTS=tests.values.test_codec picks some, CHROMIUM=PATH names another browser'
	@echo 'make test-all   the same, with the long form of each test that has one'
	@echo 'make test-latest   the same with the newest version of each dependency, in an environment of its own (.venv-latest)'
	@echo 'make mutants say which small changes to the code no test notices; ARGS="--count 20 --seed 2", ARGS=--help'
	@echo 'make lint    look for mistakes and formatting; make types: check types; make docs: build docs/_build'
	@echo 'make stats   say how large and how documented the code is, and who imports whom in a circle; 1 if over a bound'
	@echo 'make js      build realtime_chat/static/realtime.js from browser/src'
	@echo 'make bench   measure it side by side with others; SCENARIO=fanout picks one, ARGS=--quick is short'
	@echo 'make clean   remove all that was made; PYTHON=python3.12 with any of these picks an interpreter'

run: $(VENV)/run.installed
	@exec $(BIN)/twistd -n --pidfile= realtime $(ARGS)

example: $(VENV)/examples.installed $(PAGES:=/node_modules/installed)
	@cd examples/$(NAME) && exec $(abspath $(BIN))/twistd -n --pidfile= \
	  $(if $(wildcard examples/$(NAME)/example.tac),-y example.tac,realtime --config realtime.toml $(ARGS))

test: $(VENV)/test.installed programs browser/node_modules/installed $(PAGES:=/node_modules/installed)
	@exec env -u PYTHONDONTWRITEBYTECODE $(BIN)/trial -j$(JOBS) $(TRIAL_ARGS) $(TESTS)

# A test among these that starts a process or opens a port fails.
check: $(VENV)/test.installed
	@exec env QUICK=1 $(BIN)/trial -j2 $(TRIAL_ARGS) tests.quick

# The same tests, each in its long form.
test-all:
	@SOAK=1 $(MAKE) --no-print-directory test

# Upgraded each time, as the point is to meet new versions. What leans on a name that is gone is named by
# tests/transports/fast/test_leans_on.py.
test-latest:
	@$(MAKE) --no-print-directory VENV=$(LATEST) $(LATEST)/test.installed
	@echo 'Upgrading all that is in $(LATEST) …'
	@$(LATEST)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[test]'
	@$(LATEST)/bin/python -m pip list --format=freeze | grep -iE '^(twisted|autobahn|msgspec|attrs|zope.interface)='
	@$(MAKE) --no-print-directory VENV=$(LATEST) test

mutants: $(VENV)/test.installed programs browser/node_modules/installed
	@exec $(BIN)/python -m tools.mutants $(ARGS)

lint: $(VENV)/lint.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/towncrier build --draft --version next

types: $(VENV)/lint.installed
	$(BIN)/mypy

docs: $(VENV)/docs.installed
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build
	@echo 'docs/_build/index.html'

stats:
	@$(PYTHON) tools/stats.py

# In an environment of its own, as the peers bring many packages.
bench:
	@$(MAKE) --no-print-directory VENV=$(BENCH) $(BENCH)/bench.installed
	@exec $(BENCH)/bin/python -m benchmarks $(SCENARIO) $(ARGS)

clean:
	rm -rf benchmarks/.build benchmarks/results browser/node_modules browser/package-lock.json
	rm -rf examples/*/node_modules examples/*/site/node_modules examples/*/data
	rm -rf $(VENV) $(LATEST) build dist docs/_build _trial_temp* .mypy_cache .ruff_cache .hypothesis *.egg-info
	rm -f twisted/plugins/dropin.cache

# The environment is made anew when the interpreter is another, or the checkout was moved.
$(VENV)/interpreter: FORCE
	@$(PYTHON) -c '' 2>/dev/null || { echo 'There is no $(PYTHON) that runs; PYTHON=PATH names another.' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "This needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). PYTHON=PATH names another." >&2; \
	  exit 1; }
	@wanted="$$($(PYTHON) -c 'import sys; print(sys.base_prefix, sys.version)' | tr '\n' ' ') $$(pwd)"; \
	[ -x $(BIN)/python ] && [ "$$(cat $@ 2>/dev/null)" = "$$wanted" ] && exit 0; \
	echo 'Making an environment in $(VENV) …'; \
	rm -rf $(VENV); \
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo 'On Debian the package python3-venv is needed.' >&2; exit 1; }; \
	echo "$$wanted" > $@

$(VENV)/%.installed: $(VENV)/interpreter setup.cfg pyproject.toml
	@echo 'Installing what make $* needs …'
	@$(BIN)/python -m pip install --quiet --editable '.$(if $(filter run,$*),,[$*])'
	@touch $@

# Made of browser/src; it is committed, so that nothing is needed to install it.
js:
	@$(PYTHON) browser/build.py

# What drives the browsers in the tests; no browser is among it.
browser/node_modules/installed: browser/package.json | programs
	@echo 'Installing what the tests need of npm …'
	@cd browser && npm install --no-audit --no-fund --loglevel=error >/dev/null
	@touch $@

# What the pages of an example use, such as jQuery.
examples/%/node_modules/installed: examples/%/package.json
	@command -v npm >/dev/null || { echo 'There is no npm; please install the Debian package npm.' >&2; exit 1; }
	@echo 'Installing what examples/$* needs of npm …'
	@cd examples/$* && npm install --no-audit --no-fund --no-package-lock --loglevel=error >/dev/null
	@touch $@

# What the tests start besides Python. Nothing is skipped where it is missing. With that RUNLEVEL invoke-rc.d starts no
# services: two of these would want port 80.
programs:
	@missing=; \
	if [ -n "$$CHROMIUM" ]; then \
	  command -v "$$CHROMIUM" >/dev/null || { echo "CHROMIUM: there is no $$CHROMIUM." >&2; exit 1; }; \
	else \
	  command -v chromium-headless-shell >/dev/null || missing="$$missing chromium-headless-shell"; \
	fi; \
	PATH="$$PATH:/usr/sbin"; \
	command -v firefox-esr >/dev/null || missing="$$missing firefox-esr"; \
	command -v node >/dev/null || missing="$$missing nodejs"; \
	command -v npm >/dev/null || missing="$$missing npm"; \
	command -v nginx >/dev/null || missing="$$missing nginx"; \
	command -v apache2 >/dev/null || missing="$$missing apache2-bin"; \
	command -v lighttpd >/dev/null || missing="$$missing lighttpd"; \
	command -v varnishd >/dev/null || missing="$$missing varnish"; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	command -v haproxy >/dev/null || missing="$$missing haproxy"; \
	command -v strace >/dev/null || missing="$$missing strace"; \
	command -v faketime >/dev/null || missing="$$missing faketime"; \
	command -v curl >/dev/null || missing="$$missing curl"; \
	command -v logrotate >/dev/null || missing="$$missing logrotate"; \
	command -v php >/dev/null || missing="$$missing php-cli"; \
	php -m 2>/dev/null | grep -qx redis || missing="$$missing php-redis"; \
	command -v rabbitmq-server >/dev/null || missing="$$missing rabbitmq-server"; \
	command -v epmd >/dev/null || missing="$$missing erlang-base"; \
	[ -n "$$missing" ] || exit 0; \
	as_root=; \
	[ "$$(id -u)" = 0 ] || as_root='sudo -n'; \
	if command -v apt-get >/dev/null && { [ -z "$$as_root" ] || sudo -n true 2>/dev/null; }; then \
	  echo "Installing the Debian packages$$missing …"; \
	  $$as_root apt-get -qq update && \
	  $$as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
	    apt-get -qq --yes --no-install-recommends install $$missing >/dev/null && exit 0; \
	fi; \
	echo "The tests need these Debian packages; please install them: apt-get install$$missing" >&2; \
	exit 1
