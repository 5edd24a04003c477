# Every target works as the first command in a fresh clone; Python >= 3.11, gcc and make are all it takes.

PORTS ?= 8080
INTERFACE ?= lo
PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
CORE := setup.py pyproject.toml $(shell find sniffer_core -name '*.pyx' -o -name '*.pxd')

.PHONY: help run demo test lint check coverage sanitize fuzz agree same generated soak chaos bench e2e dist audit sbom reproducible
.PHONY: docs links screenshots clean
.DEFAULT_GOAL := help

help:  ## List the targets
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 14

$(VENV)/run.stamp: $(CORE)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/dev.stamp: $(CORE)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) for development ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/run.stamp

run: $(VENV)/run.stamp  ## Capture on PORTS (8080) of INTERFACE (lo), as JSON lines; ARGS adds options
	@$(BIN)/python -c 'import os, sys; caps = [int(line.split()[1], 16) for line in open("/proc/self/status") if line.startswith("CapEff")]; sys.exit(not caps[0] >> 13 & 1)' \
	|| { echo "capturing needs a privilege: type  sudo $(BIN)/tcp-sniffer --ports $(PORTS) --interface $(INTERFACE) --stdout" >&2; exit 2; }
	@exec $(BIN)/tcp-sniffer --ports $(PORTS) --interface $(INTERFACE) --stdout $(ARGS)

demo: $(VENV)/run.stamp  ## Read the capture that the repository ships: for people at a terminal, else as JSON lines
	@exec $(BIN)/tcp-sniffer --ports 8080 --read tests/data/demo.pcap $(if $(MAKE_TERMOUT),,--stdout) $(ARGS)

test: $(VENV)/dev.stamp  ## Run the tests; ARGS goes to pytest
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/dev.stamp  ## Run the linters
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	PATH="$(BIN):$$PATH" $(BIN)/cython-lint sniffer_core

check: $(VENV)/dev.stamp  ## The fast lane: the linters beside the quick tests, a minute and a half on two cores
	@$(MAKE) --no-print-directory --jobs=2 --output-sync lint quick-1 quick-2 quick-3 quick-4

quick-%: $(VENV)/dev.stamp
	$(BIN)/python -m pytest --quick --part $*/4 $(ARGS)

coverage: $(VENV)/dev.stamp  ## Measure the tests' coverage, of Python and of the core (built anew, with tracing)
	@trap 'find sniffer_core -name '*.c' -delete; $(BIN)/python setup.py --quiet build_ext --inplace --force' EXIT; \
	TCP_SNIFFER_BUILD=trace $(BIN)/python setup.py --quiet build_ext --inplace --force \
	&& { $(BIN)/coverage erase; $(BIN)/coverage run -m pytest $(ARGS); code=$$?; $(BIN)/coverage combine --quiet; \
	for part in sniffer sniffer_core; do echo "$$part:"; \
	$(BIN)/coverage report --include="$$part/*" --fail-under=95 || code=1; done; exit $$code; }

sanitize: $(VENV)/dev.stamp  ## Run the tests on a core built with ASan and UBSan (in build/sanitize); ARGS goes to pytest
	@exec $(BIN)/python -m tests.sanitize $(ARGS)

fuzz: $(VENV)/dev.stamp  ## Fuzz the core, guided by coverage (clang, atheris); ARGS="--seconds 3600 packets"
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@exec $(BIN)/python -m tests.fuzz $(ARGS)

agree: $(VENV)/dev.stamp  ## Compare what is found in captures with what tshark finds; ARGS is their folder
	@exec $(BIN)/python -m tests.agree $(or $(ARGS),tests/data)

same: $(VENV)/dev.stamp  ## Compare what this build and another revision's write; ARGS="REVISION FOLDER ..."
	@exec $(BIN)/python -m tests.same $(ARGS)

generated: $(VENV)/dev.stamp  ## Judge what is read of generated talks by what their endpoints know; ARGS=1000000 for more
	@exec $(BIN)/python -m tests.generated $(ARGS)

soak: $(VENV)/dev.stamp  ## Load the daemon and the library for minutes while outputs fail, and audit what they say
	@exec $(BIN)/python -m tests.soak $(ARGS)

chaos: $(VENV)/dev.stamp  ## Try every fault of the matrix on the daemon, as root, and say which promises were kept
	@exec $(BIN)/python -m tests.chaos $(ARGS)

bench: $(VENV)/dev.stamp  ## Measure beside tshark, httpry and tcpflow, and against the recorded instructions per message
	@exec $(BIN)/python -m tests.bench $(ARGS)

e2e: $(VENV)/dev.stamp  ## Run the end-to-end test on the cluster of the current kubeconfig; ARGS goes to it
	@exec $(BIN)/python -m tests.e2e $(ARGS)

dist: $(VENV)/dev.stamp  ## Build the sdist and the wheel into dist/
	@rm -rf dist
	$(BIN)/python -m build

$(VENV)/release.stamp: $(VENV)/dev.stamp
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,release]'
	@touch $@

audit: $(VENV)/release.stamp  ## Ask the advisory database about every dependency; needs the network
	@exec $(BIN)/python -m tests.audit $(ARGS)

sbom: $(VENV)/release.stamp  ## Write build/sbom.json (CycloneDX): what the package needs at run time
	@rm -rf build/sbom && $(PYTHON) -m venv build/sbom
	@build/sbom/bin/python -m pip install --quiet --disable-pip-version-check .
	@build/sbom/bin/python -m pip uninstall --quiet --yes --disable-pip-version-check pip setuptools
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o build/sbom.json build/sbom/bin/python

reproducible: $(VENV)/dev.stamp  ## Build the wheel twice and compare
	@rm -rf build/one build/two
	@for place in one two; do rm -rf build/lib* build/temp* build/bdist* build/cython; \
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --wheel --outdir build/$$place . >/dev/null || exit 1; done
	@cd build && sha256sum one/*.whl two/*.whl && cmp one/*.whl two/*.whl && echo "the same, byte for byte"

docs: $(VENV)/dev.stamp  ## Write the generated documents anew
	$(BIN)/python -m sniffer_core.base.marks > sniffer_core/base/marks.pxd
	$(BIN)/python -m sniffer.config > docs/CONFIGURATION.md
	$(BIN)/python -m sniffer.ledger > docs/internals/COUNTERS.md
	$(BIN)/python -m sniffer.record.schema > docs/record.schema.json
	$(BIN)/python -m tests.docs.api > docs/API.md

links: $(VENV)/dev.stamp  ## Ask every outside address that the documents name; needs the network
	@exec $(BIN)/python -m tests.docs.links

screenshots: $(VENV)/dev.stamp  ## Take the pictures of the documents anew
	@exec $(BIN)/python -m tests.screenshots

clean:  ## Remove what was built, the virtual environment included
	rm -rf $(VENV) build dist *.egg-info
	find sniffer_core -name '*.so' -delete -o -name '*.c' -delete
