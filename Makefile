# SPDX-License-Identifier: Apache-2.0
# 'make help' lists what there is to do. Everything made here lands in build/.

PYTHON ?= python3
PREFIX ?= /opt/overlaybd
DESTDIR ?=
INSTALL_PYTHON ?= /usr/bin/python3
# What convertors start from, /opt/overlaybd/baselayers/ext4_64: one of ours, or the file that is named here.
BASELAYER ?= build/baselayers/ext4_64
# Where /lib is a link an archive must not hold it as a folder; debian/rules says /lib all the same: dpkg knows.
UNITDIR ?= /usr/lib/systemd/system
PY = build/venv/bin/python
PYTEST = $(PY) -m pytest
# black reads no setup.cfg.
BLACK = $(PY) -m black --quiet --line-length 100
CHECKED = overlaybd_tcmu tests packaging native/build_backend.py
LIBRARIES = build/native/libobd.so build/native/libobd_ext4.so
# Runs the programs for their --help, so it needs what they need.
BUILD_PYTHON ?= $(if $(wildcard $(PY)),$(PY),$(PYTHON))
NATIVE = $(MAKE) --no-print-directory -j$(shell nproc) -C native
export PYTHON

.DEFAULT_GOAL := build
ifndef SIDE_BY_SIDE
.NOTPARALLEL:
endif

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

# ---- building

setup: build/.setup ## install what is missing: Debian packages, and Python's into build/venv
build/.setup: .ci/setup setup.cfg
	.ci/setup

build: build/.setup launchers core ## the core and build/bin/<program>

core:
	@$(NATIVE)

# The programs are the entry points of setup.cfg, started from the checkout.
launchers: build/.launchers
build/.launchers: build/.setup setup.cfg packaging/launchers.py
	@$(PY) packaging/launchers.py build/bin

asan-core tsan-core: %-core: build/.setup
	@$(NATIVE) VARIANT=$*

# ---- testing: the floors in order; a red one makes those above it moot

test: build lint unit native image tools apply registry cache download daemon ops packages bench-brief sanitizers vm ## everything that must hold
	@echo "test: every floor passed"

check: build lint unit native image tools apply registry cache download daemon ops ## lint and the floors that take a few minutes

lint: build/.setup ## formatting, style, types
	$(BLACK) --check $(CHECKED) || { echo "black: 'make format' mends it"; exit 1; }
	$(PY) -m isort --check-only --quiet $(CHECKED) || { echo "isort: 'make format' mends it"; exit 1; }
	$(PY) -m flake8 $(CHECKED)
	$(PY) -m mypy overlaybd_tcmu
	build/venv/bin/clang-format --dry-run -Werror native/*.[ch] native/ext4/*.[ch]
	@if command -v clang >/dev/null; then $(NATIVE) CC=clang BUILD=../build/native-clang; \
	else echo "lint: no clang here, so only $(CC) has compiled the core"; fi

format: build/.setup ## lay out Python and C as lint wants it
	$(PY) -m isort --quiet $(CHECKED)
	$(BLACK) $(CHECKED)
	build/venv/bin/clang-format -i native/*.[ch] native/ext4/*.[ch]

unit native image tools apply registry cache download daemon ops: build
	$(PYTEST) -q tests/$@

# What is about connections once more with the oldest libraries: urllib3 1.26 is another program.
registry: registry-oldest
registry-oldest: build
	PYTHONPATH=build/oldest $(PYTEST) -q tests/registry/test_ranges.py tests/registry/test_direct.py \
		tests/registry/test_connections.py tests/registry/test_tls.py \
		tests/registry/test_exchange.py tests/registry/test_exchange_outcomes.py

packages: build ## DEB and RPM: built, unpacked, their programs run
	$(PYTEST) -q -o faulthandler_timeout=0 tests/packages

vm: build ## the service on a real kernel in a virtual machine
	$(PYTEST) -q -o faulthandler_timeout=0 tests/vm

vm-long: build ## 100 kills, 20 upgrades and 200 devices under systemd there, and figures; half an hour
	OVERLAYBD_VM_LONG=1 $(PYTEST) -q -s -o faulthandler_timeout=0 tests/vm/test_systemd.py tests/vm/test_scale.py

asan: ## the floors that work in C, under AddressSanitizer and UBSan
tsan: ## those with more than one thread under ThreadSanitizer
ifndef SIDE_BY_SIDE
asan: build asan-core
tsan: build tsan-core
endif
asan: SANITIZED = tests/apply --ignore tests/apply/test_convertor.py tests/tools/test_strips.py
tsan: SANITIZED = tests/apply/test_input.py --ignore tests/native/test_formats_fuzz.py
asan tsan:
	tests/support/sanitized $@ $(PYTEST) -q tests/native tests/image $(SANITIZED) \
		tests/tools/test_random_layers.py tests/tools/test_zfile.py tests/tools/test_outputs.py

# Each takes one CPU most of the time. make shows the output of one, then that of the other, and names what is red.
sanitizers: build asan-core tsan-core ## both at once
	$(MAKE) --no-print-directory -k -j2 --output-sync=target SIDE_BY_SIDE=1 asan tsan

# ---- looking

run: build ## serve a sample image lazily in a virtual machine, and show it
	$(PY) -m tests.vm.run

bench-brief: build
	$(PYTEST) -q tests/bench

bench: build ## measure, and write the README's table
	$(PY) -m tests.bench.bench --vm --readme

# ---- delivering

# The bytes are the same whenever and wherever it is made.
build/baselayers/ext4_64: core
	rm -rf build/baselayers && mkdir -p build/baselayers
	$(BUILD_PYTHON) -m overlaybd_tcmu.tools.create --mkfs build/baselayers/data build/baselayers/index 64
	$(BUILD_PYTHON) -m overlaybd_tcmu.tools.commit -z build/baselayers/data build/baselayers/index $@
	rm build/baselayers/data build/baselayers/index

install: core $(BASELAYER) ## into $(DESTDIR)$(PREFIX); what the packages call
	install -d "$(DESTDIR)$(PREFIX)/lib/python" "$(DESTDIR)/etc/overlaybd"
	install -m 644 $(LIBRARIES) "$(DESTDIR)$(PREFIX)/lib"
	find overlaybd_tcmu \( -name '*.py' -o -name '*.html' \) -exec cp --parents -t "$(DESTDIR)$(PREFIX)/lib/python" {} +
	$(PYTHON) packaging/launchers.py "$(DESTDIR)$(PREFIX)/bin" $(INSTALL_PYTHON) ../lib/python
	$(BUILD_PYTHON) -m overlaybd_tcmu.tools.zfile --verify "$(BASELAYER)"
	install -D -m 644 "$(BASELAYER)" "$(DESTDIR)$(PREFIX)/baselayers/ext4_64"
	install -m 644 packaging/overlaybd-tcmu.service "$(DESTDIR)$(PREFIX)"
	install -D -m 644 -t "$(DESTDIR)$(UNITDIR)" packaging/overlaybd-tcmu.service
	install -m 644 etc/overlaybd/overlaybd.json "$(DESTDIR)/etc/overlaybd"
	install -D -m 644 packaging/overlaybd-tcmu.logrotate "$(DESTDIR)/etc/logrotate.d/overlaybd-tcmu"
	$(BUILD_PYTHON) packaging/manpages.py "$(DESTDIR)/usr/share/man" "$(DESTDIR)/usr/share/bash-completion/completions"

deb: ## a Debian package in build/deb
	packaging/deb/build

rpm: ## an RPM in build/rpm
	packaging/rpm/build

clean: ## remove what was made; build/venv and images of virtual machines too
	rm -rf build dist ./*.egg-info

.PHONY: help setup build core launchers asan-core tsan-core test check lint format unit native image tools apply \
	registry registry-oldest cache download daemon ops packages vm vm-long \
	asan tsan sanitizers run bench bench-brief install deb rpm clean
