# SPDX-License-Identifier: Apache-2.0
"""Which shared library is taken, and what is said about a wrong one."""

import pathlib

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import core, libtcmu, load


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Three places to look at, none of them filled."""
    paths = [tmp_path / name / "libobd.so" for name in ("package", "checkout", "opt")]
    for path in paths:
        path.parent.mkdir()
    monkeypatch.setattr(load, "candidates", lambda name: paths)
    monkeypatch.delenv(load.NATIVE_VARIABLE, raising=False)
    return paths


def test_first_place_that_has_the_core_wins(places):
    for path in reversed(places):
        path.touch()
        assert load.find_library() == str(path)


def test_missing_core_names_every_place_and_the_remedy(places):
    with pytest.raises(errors.LibraryError) as caught:
        load.find_library()
    assert "make build" in str(caught.value)
    assert all(str(path) in str(caught.value) for path in places)


def test_variable_demands_a_build(places, tmp_path, monkeypatch):
    places[0].touch()
    demanded = tmp_path / "other.so"
    demanded.touch()
    monkeypatch.setenv(load.NATIVE_VARIABLE, str(demanded))
    assert load.find_library() == str(demanded)


def test_demanded_build_that_is_missing_is_no_reason_to_take_another(places, monkeypatch):
    places[0].touch()
    monkeypatch.setenv(load.NATIVE_VARIABLE, "/none/libobd.so")
    with pytest.raises(errors.LibraryError, match="/none/libobd.so: no such file"):
        load.find_library()


def test_package_comes_before_checkout_before_opt(monkeypatch):
    package, checkout, opt = load.candidates()
    assert package == pathlib.Path(load.__file__).parent / "libobd.so"
    assert checkout.parts[-3:] == ("build", "native", "libobd.so")
    assert opt == pathlib.Path("/opt/overlaybd/lib/libobd.so")


def test_file_that_is_no_library_is_named(tmp_path):
    path = tmp_path / "libobd.so"
    path.write_text("text")
    with pytest.raises(errors.LibraryError, match=f"{path}: cannot be loaded"):
        load.open_library(str(path))


def test_library_without_our_functions_names_the_first_missing(tmp_path):
    with pytest.raises(errors.LibraryError, match="has no obd_abi, which .*core.py needs"):
        core.Library("libc.so.6")


def test_libtcmu_of_another_abi_is_refused():
    with pytest.raises(errors.LibraryError, match="libc.so.6: is older than 1.5"):
        libtcmu._Library("libc.so.6")
