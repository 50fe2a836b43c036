# The verbs of this project. `make` alone prints them.
#
# `make run` and `make test` do all the set-up they need on a fresh clone: with uv where it is
# installed, otherwise with venv and pip from hashed requirements. Nothing is set up twice.

.DEFAULT_GOAL := help
.PHONY: help setup run test matrix test-faults threats foreign image-check fresh-debian soak coverage package check check-types check-rest format types docs docs-build bench plots screenshots lock clean

VENV := .venv
BIN := $(VENV)/bin
# Stamps: made when the set-up is done, out of date when the lock changes.
RUN_READY := $(VENV)/.ready-to-run
DEV_READY := $(VENV)/.ready-to-develop
RDMO := tests/e2e/rdmo
SDK := tests/e2e/sdk
SDK_READY := $(SDK)/node_modules/.ready
# The types of client.js: the file that is shipped, and the one that tsc generates.
CLIENT_TYPES := realtime/static/realtime/client.d.ts
GENERATED_TYPES := $(SDK)/node_modules/.types/client.d.ts
TSC := $(SDK)/node_modules/.bin/tsc
# The site: its sources, an environment of its own, the pages as Sphinx reads them, and the result.
SITE := docs/site
SITE_VENV := .docs/venv
SITE_READY := $(SITE_VENV)/.ready
SITE_PAGES := .docs/pages
SITE_HTML := .docs/html

# --- for people ---

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

run: $(RUN_READY) ## set everything up and serve at http://127.0.0.1:$PORT (8000)
	@exec $(BIN)/python -m notifier run --stop-with-parent

test: $(DEV_READY) $(SDK_READY) ## set everything up and run the tests
	@status=0; \
	failed() { status=1; echo "$$1 failed" >>"$(FAILURES)"; }; \
	: >"$(FAILURES)"; \
	export NOTIFIER_FAILURES="$(FAILURES)"; \
	nice -n 19 $(MATRIX_RUN) --newest --prepare >/dev/null 2>&1 & preparing=$$!; \
	$(PYTEST_DEBUG) || failed "the first part"; \
	$(PYTEST_PLAIN) || failed "the second part"; \
	$(PYTEST_LOAD) || failed "the part under load"; \
	wait $$preparing; \
	$(MATRIX_RUN) --newest || failed "the newest Python and Django"; \
	($(NODE_TESTS)) || failed "the tests of Node"; \
	[ $$status = 0 ] || cat "$(FAILURES)" >&2; \
	exit $$status

matrix: $(DEV_READY) $(SDK_READY) ## run the app in foreign projects on each Python and Django (MATRIX=--help)
	$(MATRIX_RUN) $(MATRIX)

test-faults: $(DEV_READY) ## run the fault tests with 500 clients, up to 20 times each (takes an hour)
	NOTIFIER_FAULTS=full $(BIN)/pytest $(UNDER_LOAD:%=tests/faults/test_%.py) $(REPLACED)

threats: $(DEV_READY) ## run every attack of docs/security.md in full (takes 4 minutes)
	NOTIFIER_THREATS=full $(BIN)/pytest tests/threats

foreign: $(DEV_READY) ## add the app to RDMO from PyPI, and run RDMO's own tests and a live page of it
	$(BIN)/pytest -s -p no:randomly tests/e2e/big_project.py

image-check: $(DEV_READY) ## (root, debootstrap) build the image by the steps of its Dockerfile, and run it read-only
	$(BIN)/pytest -s -p no:randomly tests/e2e/image.py

fresh-debian: $(DEV_READY) ## (root, debootstrap) type each command of the first deployment in docs/deploy.md
	$(BIN)/pytest -s -p no:randomly tests/e2e/fresh_debian.py

soak: $(DEV_READY) ## run under load for 30 minutes with a fault every 10 seconds (SOAK_MINUTES=30)
	$(BIN)/pytest -s -p no:randomly tests/faults/soak.py

coverage: $(DEV_READY) $(SDK_READY) ## measure what the tests run: at least 95 % of the rules, 90 % of all
	$(COVERAGE) erase
	@status=0; \
	for part in "--ignore=tests/e2e --ignore=tests/faults --ignore=tests/threats" \
		"tests/e2e tests/threats $(HOSTILE:%=--ignore=%)"; do \
		$(COVERAGE) run -m pytest -n $(WORKERS) $(SPREAD) $$part || status=1; \
	done; \
	$(COVERAGE) combine --quiet && $(COVERAGE) html --quiet || status=1; \
	$(COVERAGE) report --include="realtime/core/*" --fail-under=95 || status=1; \
	$(COVERAGE) report --skip-covered --fail-under=90 || status=1; \
	exit $$status

package: $(DEV_READY) ## build the sdist and the wheel into dist/, check them, and use each in an empty environment
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/pytest -q -p no:randomly tests/e2e/package.py

check: $(DEV_READY) $(SDK_READY) ## check formatting, lint, types, architecture, documentation, deployment settings, and spelling
	@$(MAKE) --no-print-directory --jobs=2 --keep-going check-types check-rest

# Code and documentation, code and rules: without servers, and what a change most often forgets.
COMPARISONS := tests/test_architecture.py tests/test_docs.py tests/test_names.py tests/test_public_api.py \
	tests/test_repository.py

# Half of the time, and one processor; the rest takes the other.
check-types:
	$(BIN)/mypy

check-rest:
	@status=0; \
	for check in "$(BIN)/ruff format --check ." "$(BIN)/ruff check ." \
		"$(BIN)/pytest -q $(COMPARISONS)" "$(BIN)/codespell"; do \
		echo "$$check"; $$check || status=1; \
	done; \
	echo "manage.py check --deploy"; \
	$(PRODUCTION) $(BIN)/python manage.py check --deploy --fail-level WARNING || status=1; \
	($(CHECK_TYPES)) || status=1; \
	exit $$status

format: $(DEV_READY) ## format the code and apply automatic fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(SDK_READY) ## (node) generate client.d.ts from the comments of client.js
	$(TSC) --project $(SDK)
	cp $(GENERATED_TYPES) $(CLIENT_TYPES)

docs: docs-build ## build the site of the documentation and serve it at http://127.0.0.1:$PORT (8080)
	@echo "The documentation is on http://127.0.0.1:$${PORT:-8080}/ (Ctrl-C stops it)"
	@exec $(SITE_VENV)/bin/python -m http.server --bind 127.0.0.1 --directory $(SITE_HTML) $${PORT:-8080} >/dev/null 2>&1

# Each warning is an error: a link or an anchor that leads nowhere, a page outside the navigation.
docs-build: $(SITE_READY) ## build the site into .docs/html; fail on a broken link or a page outside the navigation
	rm -rf $(SITE_HTML)
	$(SITE_VENV)/bin/python $(SITE)/stage.py $(SITE_PAGES)
	$(SITE_VENV)/bin/python -m sphinx -W --keep-going -q -E -b html -d .docs/doctrees -c $(SITE) $(SITE_PAGES) $(SITE_HTML)

bench: $(DEV_READY) ## benchmark the service and its peers (25 minutes; see docs/performance.md)
	-$(BIN)/python -m bench.peers.setup
	$(BIN)/python -m bench

plots: $(DEV_READY) ## (uv) plot the latest `crowds` and `load` results into docs/plots
	UV_PROJECT_ENVIRONMENT=$(VENV) uv sync --locked --inexact --no-install-project --group plots
	$(BIN)/python -m bench.plots

setup: $(DEV_READY) $(SDK_READY) ## set up for development only

screenshots: $(DEV_READY) ## (Chromium) make the pictures of the pages in the docs
	$(BIN)/python -m tests.support.screenshots

lock: ## (uv) update the lock file and export it for pip
	uv lock
	$(EXPORT) --no-default-groups --group service --output-file requirements.txt
	$(EXPORT) --output-file requirements-dev.txt
	$(EXPORT) --only-group docs --output-file $(SITE)/requirements.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--output-file $(RDMO)/requirements.txt $(RDMO)/requirements.in

clean: ## remove everything that was set up, built, or cached here
	rm -rf $(VENV) .matrix .docs $(SDK)/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* htmlcov \
		dist .foreign staticfiles
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- tests ---

COVERAGE := $(BIN)/coverage
# `make test` ends with what failed in any of its parts: the end is what CI shows.
FAILURES := $(CURDIR)/$(VENV)/failures.txt
# PYTHONDEVMODE turns asyncio's debug mode on. Not for tests that start whole servers: the mode is
# several times slower, and what breaks there on purpose has deadlines.
PYTEST := $(BIN)/pytest --durations=10
# Two a processor, since tests mostly wait for servers; at most four, which is what memory allows.
WORKERS := $(shell n=$$((2 * $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1))); echo $$((n < 4 ? n : 4)))
# A worker begins with a quarter of the modules, and when it has none left, takes half of what another
# has. By default the pieces get ever smaller, so that more modules start their servers twice.
SPREAD := --dist worksteal
PYTEST_DEBUG := PYTHONDEVMODE=1 $(PYTEST) -n $(WORKERS) $(SPREAD) --ignore=tests/e2e --ignore=tests/faults \
	--ignore=tests/threats
# The modules that NOTIFIER_FAULTS=full makes bigger.
UNDER_LOAD := under_load failover nodes tutorial fallback celery
# Likewise; they wait more than they work.
REPLACED := tests/faults/test_sentinel.py tests/faults/test_cluster.py
# Those that NOTIFIER_THREATS=full makes bigger.
HOSTILE := tests/threats/test_fuzz.py tests/threats/test_hostile_mix.py
FEW := $(UNDER_LOAD:%=tests/faults/test_%.py) $(HOSTILE)
PYTEST_PLAIN := $(PYTEST) -n $(WORKERS) $(SPREAD) tests/e2e tests/faults tests/threats \
	$(FEW:%=--ignore=%)
# One a processor, at most two: they put load on the machine, and what they wait for has deadlines.
# Those are lengthened while the machine is busy, but the faults keep their length.
PYTEST_LOAD := $(PYTEST) -n $(shell echo $$((($(WORKERS) + 1) / 2))) $(FEW)
# With --newest: a few projects on the newest Python of this machine, with the newest Django.
MATRIX_RUN := $(BIN)/python -m tests.support.matrix --workers $(WORKERS)

NODE_TEST_FILES = $(wildcard tests/e2e/js/*.test.js tests/e2e/js/*.test.mjs)
# Left out by name without Node 20.19 and npm; under NOTIFIER_REQUIRE=node leaving out is failure.
NODE_TESTS = if [ -z "$(NODE_TEST_FILES)" ]; then :; \
	elif [ -f $(SDK_READY) ]; then node --test $(NODE_TEST_FILES); \
	else \
		for file in $(NODE_TEST_FILES); do echo "skipped: $$file (requires Node 20.19 and npm)"; done; \
		case ",$$NOTIFIER_REQUIRE," in *,node,*) false;; esac; \
	fi

# First client.js, which generates its declarations; then the scripts that use it.
# Left out by name without Node 20.19 and npm; in CI, or under NOTIFIER_REQUIRE=node, leaving out is failure.
CHECK_TYPES = if [ -f $(SDK_READY) ]; then \
		echo "tsc"; $(TSC) --project $(SDK) || exit 1; \
		diff -u $(CLIENT_TYPES) $(GENERATED_TYPES) || { \
			echo "$(CLIENT_TYPES) is not what tsc generates from client.js: run make types." >&2; exit 1; }; \
		$(TSC) --project tsconfig.json; \
	else \
		echo "skipped: the types of client.js (requires Node 20.19 and npm)"; \
		case "$$CI:,$$NOTIFIER_REQUIRE," in true:*|*,node,*) exit 1;; esac; \
	fi

# What a deployment sets, for Django's own list of questions.
PRODUCTION = env -u DATABASE_URL -u DEBUG -u HTTPS -u HOST -u NOTIFIER_DEMO_KEY ALLOWED_HOSTS=notifier.example \
	REDIS_URL=redis://127.0.0.1:6379/0 \
	SECRET_KEY="$$($(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(48))')" \
	NOTIFIER_API_KEY="$$($(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(24))')"

EXPORT := uv export --quiet --frozen --no-emit-project --no-annotate --no-header

# --- set-up ---

# Who can develop can run.
$(DEV_READY): uv.lock requirements-dev.txt
	@$(call install,--inexact,requirements-dev.txt)
	@touch $(DEV_READY) $(RUN_READY)

$(RUN_READY): uv.lock requirements.txt
	@$(call install,--inexact --no-default-groups --group service,requirements.txt)
	@touch $(RUN_READY)

$(SITE_READY): VENV := $(SITE_VENV)
$(SITE_READY): BIN := $(SITE_VENV)/bin
$(SITE_READY): uv.lock $(SITE)/requirements.txt
	@$(call install,--only-group docs,$(SITE)/requirements.txt)
	@touch $@

# Without Node 20.19 and npm this makes no stamp, and the tests that need it are left out by name.
# An older one (Debian 12 has 18) takes client.js for CommonJS: its package.json is that of npm only.
NODE_IS_NEW := const [a, b] = process.versions.node.split(`.`); process.exit(a > 22 || (a == 22 && b >= 7) || (a == 20 && b >= 19) ? 0 : 1)
$(SDK_READY): $(wildcard $(SDK)/package-lock.json)
	@if node -e '$(NODE_IS_NEW)' >/dev/null 2>&1 \
		&& npm --version >/dev/null 2>&1; then \
		echo "Installing the npm packages of $(SDK)"; \
		npm ci --prefix $(SDK) --prefer-offline --no-audit --no-fund --loglevel=error && touch $@; \
	fi

# install(options of uv, requirements of pip)
define install
set -eu; \
if uv --version >/dev/null 2>&1; then \
	UV_PROJECT_ENVIRONMENT=$(VENV) uv sync --locked --no-install-project $(1); \
	exit; \
fi; \
if ! $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then $(make_venv); fi; \
echo "Installing $(2) into $(VENV) (once; it takes a minute or two)"; \
$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(2)
endef

# A command that exists may still be too old, or a pyenv shim that fails: each is asked.
PYTHONS := $(PYTHON) python3.13 python3.12 python3.11 python3 python
define make_venv
	found=; incomplete=; \
	for candidate in $(PYTHONS); do \
		$$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
		if $$candidate -c 'import ensurepip, venv' >/dev/null 2>&1; then found=$$candidate; break; fi; \
		incomplete=$$candidate; \
	done; \
	if [ -z "$$found" ] && [ -n "$$incomplete" ]; then \
		echo "$$incomplete has no venv module: install it (on Debian or Ubuntu: apt install python3-venv), or install uv." >&2; \
		exit 1; \
	elif [ -z "$$found" ]; then \
		echo "Python 3.11 or newer is required: install it (or uv, which includes it), or set its path: make PYTHON=/path/to/python3." >&2; \
		exit 1; \
	fi; \
	echo "Creating $(VENV) with $$($$found --version)"; \
	$$found -m venv --clear $(VENV)
endef
