# Every target sets itself up: nothing but Python (3.11 or newer), pip's registry and make is needed.
PYTHON ?= python3
BIN := .venv/bin
# two for each processor: half of what the longer tests do is waiting
WORKERS ?= $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN))
TOOLS := .venv-tools/bin

.PHONY: help run test test-faults mutants matrix check measure bench newest soak plots format lint types architecture lock rules wheel tools sbom audit clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s %s\n", $$1, $$2}'

run: .venv/ready ## the demo: sandbox upstream, relay, simulated devices
	$(BIN)/relay demo

test: .venv/ready-dev ## every test that can run here
	$(BIN)/pytest -n $(WORKERS) --dist loadfile

test-faults: .venv/ready-dev ## the faults of tests/fault at their nightly size (as root for all of them; RELAY_SEED=n for another run)
	RELAY_NIGHTLY=1 $(BIN)/pytest -n auto --dist loadfile tests/fault tests/abuse

mutants: .venv/ready-dev ## relays that break one promise each: every one must be caught by its test (minutes)
	$(BIN)/python -m tests.mutants

matrix: .venv/ready-dev ## tests with each Python at hand, and with the lowest and newest dependencies (MATRIX_ROOTS=; long)
	$(BIN)/python -m tests.matrix

check: .venv/ready-dev ## format, lint, types, architecture rules, language, quick tests
	$(BIN)/ruff format --check relay tests bench deploy
	$(BIN)/ruff check relay tests bench deploy
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin
	$(BIN)/lint-imports
	$(BIN)/python -m tests.architecture.rules
	$(BIN)/python -m tests.docs.language
	$(BIN)/pytest -q -n auto --dist loadfile -m "not slow" tests/unit tests/property tests/contract tests/docs

measure: .venv/ready ## the measurements of the structure: packages, levels, imports, states, sizes
	$(BIN)/python -m tests.architecture.measure

bench: .venv/ready newest ## what it costs, beside its floors; one scenario: SCENARIO=accept; longer: FULL=1; as a page: PAGE=bench/results/page.md
	$(BIN)/python -m bench $(SCENARIO) $(if $(FULL),--full) $(if $(PAGE),--page $(PAGE))

soak: .venv/ready ## twenty minutes at half speed: memory, descriptors, log size and event-loop lag must stay flat; PAGE= as for bench
	$(BIN)/python -m bench soak --full $(if $(PAGE),--page $(PAGE))

newest: .venv/ready # the newest Python at hand beside ours, for the benchmark of event loops; NEWEST=/path/to/python for another
	@test -e .venv-newest/ready || for python in $(NEWEST) $$(printf 'python3.%s ' 16 15 14 13 12) \
	    $$(ls -r $(HOME)/.pyenv/versions/3.1[2-9]*/bin/python3 2>/dev/null); do \
	  $$python -c '' 2>/dev/null || continue; \
	  $$python -m venv .venv-newest \
	  && .venv-newest/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock \
	  && .venv-newest/bin/pip install --quiet --disable-pip-version-check --no-deps -e . \
	  && touch .venv-newest/ready; break; done; true

plots: .venv/ready ## draw what grows, from the newest result of `make bench` (installs matplotlib)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .[bench]
	$(BIN)/python -m bench.plots

format: .venv/ready-dev ## format and sort imports
	$(BIN)/ruff format relay tests bench deploy
	$(BIN)/ruff check --fix relay tests bench deploy

lock: .venv/ready-dev ## write the lock files anew (hashes, no registry addresses)
	$(BIN)/pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --no-header --no-annotate --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file requirements.lock pyproject.toml
	printf 'psycopg[binary]>=3.1.8,<4\n' | $(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --no-header --no-annotate --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --constraint requirements.lock --output-file requirements-postgres.lock -
	printf 'setuptools>=80\nsetuptools-scm>=8\n' | $(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --allow-unsafe --no-header --no-annotate --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file requirements-build.lock -
	$(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --allow-unsafe --no-header --no-annotate --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --constraint requirements.lock --extra dev --output-file requirements-dev.lock pyproject.toml
	$(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --allow-unsafe --no-header --no-annotate --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --constraint requirements.lock --extra tools --output-file requirements-tools.lock pyproject.toml

rules: .venv/ready-dev ## the alerts and counts of deploy/prometheus as an object of the Prometheus operator
	$(BIN)/python -m tests.deploy.prometheus_rule

wheel: .venv/ready ## dist/event_relay-VERSION-py3-none-any.whl
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

deb: wheel ## dist/event-relay_VERSION_ARCH.deb for amd64, arm64, and armhf if build/armhf has what deploy/debian/compile-armhf made
	for arch in amd64 arm64 $$(ls -d build/armhf 2>/dev/null | xargs -r -n 1 basename); do \
	  SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python deploy/debian/build.py --arch $$arch \
	    --wheel dist/event_relay-$$($(BIN)/python -c 'import relay; print(relay.__version__)')-py3-none-any.whl \
	    --compiled build/armhf --to dist || exit 1; done

sbom: .venv-tools/ready ## dist/sbom.json: what an installed relay consists of (CycloneDX)
	$(PYTHON) -m venv --clear build/sbom && mkdir -p dist
	build/sbom/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	build/sbom/bin/pip install --quiet --disable-pip-version-check --no-deps .
	build/sbom/bin/pip uninstall --quiet --yes setuptools pip
	$(TOOLS)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.json build/sbom/bin/python

audit: .venv-tools/ready ## known vulnerabilities of what is locked; asks a service on the internet
	$(TOOLS)/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

tools: .venv-tools/ready ## what checks deployment files and dependencies, in an environment of its own

clean: ## remove what make made
	rm -rf .venv .venv-tools .venv-newest build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The last file that venv writes. Without Debian's package of venv it leaves an environment without pip: start again.
.venv/bin/pip:
	@command -v $(firstword $(PYTHON)) >/dev/null || { echo '$(PYTHON) is not installed: install Python 3.11 or newer' \
	  '(Debian, Ubuntu: as root, apt-get install python3-venv), or name one with make PYTHON=/path/to/python'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("$(PYTHON) is Python %d.%d, and the relay needs 3.11" \
	  " or newer: name one with make PYTHON=/path/to/python" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(PYTHON) -c 'import sys; sys.exit("$(PYTHON) has no venv:" \
	  " install it (Debian, Ubuntu: as root, apt-get install python%d.%d-venv), then repeat this command" % sys.version_info[:2])'
	$(PYTHON) -m venv --clear .venv

.venv/ready: .venv/bin/pip requirements.lock pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

.venv/ready-dev: .venv/ready requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	touch $@

.venv-tools/ready: requirements-tools.lock
	$(PYTHON) -m venv .venv-tools
	$(TOOLS)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-tools.lock
	touch $@
