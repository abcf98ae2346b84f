# SPDX-License-Identifier: Apache-2.0
"""
What every test has: a mark named after its floor, a time limit, a seed that is printed, and a core
to test, without which the run ends with a hint instead of a hundred failures.
"""

import faulthandler
import gc
import os
import pathlib
import random
import secrets
import signal

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import core

FLOORS = {
    *("unit", "native", "image", "tools", "apply", "registry", "cache", "download", "daemon"),
    *("ops", "packages", "vm", "bench"),
}
NEED_CORE = {"native", "image", "tools", "apply", "cache", "download", "daemon", "ops", "bench"}
VM_TIMEOUT_S = 900  # software emulation, and the first run makes the guest's disk
CI_SEED = 20
HERE = pathlib.Path(__file__).resolve().parent


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, help="repeats the random choices of an earlier run")


def pytest_configure(config):
    faulthandler.register(signal.SIGUSR1)
    # A job in the background of a script is born deaf to it, and so would be what tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.seed is None:
        # A gate says the same of the same tree; who develops looks for what nobody has seen yet.
        config.option.seed = CI_SEED if os.environ.get("CI") else secrets.randbits(32)


def pytest_report_header(config):
    return f"seed: {config.option.seed}"


def pytest_make_parametrize_id(config, val, argname):
    """A value that is a screenful does not become a test's name."""
    long = isinstance(val, (str, bytes)) and len(val) > 80
    return f"{argname}_of_{len(val)}" if long else None


def pytest_collection_modifyitems(config, items):
    floors = set()
    for item in items:
        floor = item.path.relative_to(HERE).parts[0]
        floors.add(floor)
        if floor in FLOORS:
            item.add_marker(floor)
        if floor == "vm" and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(VM_TIMEOUT_S))
    if floors & NEED_CORE:
        _require_core()


def pytest_collection_finish():
    """What lives until the end anyway need not be walked after each test: 15 ms became 0.1."""
    gc.collect()
    gc.freeze()


def _require_core():
    try:
        core.library()
    except errors.LibraryError as error:
        hint = "run 'make build'; for a sanitizer's build, tests/support/sanitized"
        raise pytest.UsageError(f"{error}\nThese tests need the native core: {hint}") from None


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed and {"seed", "rng"} & set(getattr(item, "fixturenames", ())):
        report.sections.append(("seed", f"--seed {item.config.option.seed} repeats this"))


@pytest.fixture(scope="session")
def seed(request):
    """What random tests start from; --seed sets it."""
    return request.config.option.seed


@pytest.fixture
def rng(seed, request):
    """A generator of this test's own: the same choices whichever other tests run."""
    return random.Random(f"{seed} {request.node.nodeid}")


@pytest.fixture(autouse=True)
def collect_garbage():
    """A handle nobody closed is reported with the test that lost it."""
    yield
    gc.collect()
