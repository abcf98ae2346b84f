# SPDX-License-Identifier: Apache-2.0
"""The live snapshot as the original's clients ask for it: its words, and what the disk has then."""

import json
import os

import pytest

from overlaybd_tcmu.image import config as image_config
from overlaybd_tcmu.image import opener

from ..support import layers
from .conftest import flush, read, write
from .test_api import checked

DONE = b'{\n        "success": true,\n        "message": "Snapshot created successfully"\n}'


def successor(daemon, config, stem="next", **changes):
    """The config that follows: the upper of now is a lower, and there is a new one."""
    now = json.loads(config.read_text())
    name = config.parent.name
    then = {
        "lowers": [*now["lowers"], {"file": now["upper"]["data"]}],
        "upper": daemon.upper(name, stem),
        **changes,
    }
    path = config.parent / f"{stem}.json"
    path.write_text(json.dumps(then))
    return path


def ask(daemon, device_id, config, method="POST", path="/snapshot"):
    return daemon.ask(f"{path}?dev_id={device_id}&config={config}", method)


@pytest.fixture
def writable(daemon):
    """(config, the kernel's side) of a writable device with the id 7."""
    daemon.start()
    config = daemon.image(picture="AB-C", writable=True)
    return config, daemon.add(config, "7")


def content(path):
    with opener.open_image(image_config.load(str(path)), read_only=True) as image:
        return image.pread(image.info().virtual_size, 0)


def test_any_verb_and_whatever_follows_the_name(daemon, writable):
    config, _ = writable
    for method in ("GET", "POST", "PUT", "DELETE"):
        then = successor(daemon, config, method)
        status, answer = ask(daemon, "7", then, method, "/snapshot-please")
        assert (status, answer) == (200, json.loads(DONE))
        checked("snapshot", answer)


def test_words_and_indentation_are_the_original_s(daemon, writable):
    import contextlib

    from .conftest import UnixConnection

    config, _ = writable
    with contextlib.closing(UnixConnection(daemon.socket)) as connection:
        connection.request("GET", f"/snapshot?dev_id=7&config={successor(daemon, config)}")
        answer = connection.getresponse()
        assert answer.read() == DONE
        # and the connection is kept
        connection.request("GET", "/snapshot")
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["success"]) == (400, False)


def test_what_was_written_is_there_before_and_after(daemon, writable):
    config, kernel = writable
    first, second = b"1" * 4096, b"2" * 4096
    write(kernel, first)
    then = successor(daemon, config)
    wanted = then.read_text()
    assert ask(daemon, "7", then)[0] == 200
    assert config.read_text() == wanted and not then.exists()
    assert read(kernel).data == first
    write(kernel, second, lba=16)
    assert read(kernel, lba=16).data == second
    assert flush(kernel).status == 0
    (one,) = daemon.get("/v1/devices")["devices"]
    assert (one["layers"], one["writable"]) == (2, True)
    daemon.service.ask("remove 0")
    view = layers.view("AB-C")
    assert content(config) == first + view[4096:8192] + second + view[12288:]


def test_a_second_snapshot_compares_with_the_first(daemon, writable):
    config, kernel = writable
    for stem in ("second", "third"):
        write(kernel, stem.encode().ljust(512, b"."))
        assert ask(daemon, "7", successor(daemon, config, stem))[0] == 200
    assert daemon.get("/v1/devices/7")["layers"] == 3
    assert read(kernel, blocks=1).data == b"third".ljust(512, b".")


# ---- refused


def test_something_is_missing(daemon, writable):
    for query in ("", "?dev_id=7", "?config=/x", "?dev_id=&config=", "?%00"):
        status, answer = daemon.ask("/snapshot" + query)
        assert (status, answer["success"]) == (400, False)
        assert answer["message"] == "Missing dev_id or config in snapshot request"


def test_nothing_of_an_earlier_request_is_remembered(daemon, writable):
    config, _ = writable
    assert ask(daemon, "7", successor(daemon, config))[0] == 200
    assert daemon.ask("/snapshot")[0] == 400


def test_a_device_there_is_not(daemon, writable):
    status, answer = ask(daemon, "8", "/x")
    assert (status, answer) == (404, {"success": False, "message": "Image file not found"})


def refused(daemon, config, then, said):
    """Nothing has changed, and why is told."""
    before, kernel_view = config.read_text(), daemon.get("/v1/devices/7")["layers"]
    status, answer = ask(daemon, "7", then)
    assert (status, answer["message"]) == (500, "Failed to create snapshot`")
    assert said in checked("snapshot", answer)["reason"]
    assert config.read_text() == before
    assert daemon.get("/v1/devices/7")["layers"] == kernel_view


def test_a_config_that_is_missing_or_none(daemon, writable):
    config, kernel = writable
    refused(daemon, config, "/none", "/none: cannot be read")
    (config.parent / "bad").write_text("{")
    refused(daemon, config, config.parent / "bad", "is not JSON")
    refused(daemon, config, "/a%00b", "cannot be read")
    write(kernel, b"still here".ljust(512))


def test_an_upper_that_is_in_use(daemon, writable):
    config, _ = writable
    now = json.loads(config.read_text())["upper"]
    then = successor(daemon, config)
    for key in ("index", "data"):
        document = json.loads(then.read_text())
        document["upper"][key] = now[key]
        then.write_text(json.dumps(document))
        refused(daemon, config, then, f"upper.{key}: is in use already")
        document["upper"] = daemon.upper(config.parent.name, f"another-{key}")
        then.write_text(json.dumps(document))


def test_no_upper_to_go_on_with(daemon, writable):
    config, _ = writable
    refused(daemon, config, successor(daemon, config, upper={}), "upper: no writable layer")


def test_lowers_without_the_sealed_layer(daemon, writable):
    config, _ = writable
    lowers = json.loads(config.read_text())["lowers"]
    refused(
        daemon, config, successor(daemon, config, lowers=lowers), "lowers: must be the 1 of now"
    )
    wrong = [*lowers, *lowers]
    refused(
        daemon,
        config,
        successor(daemon, config, "again", lowers=wrong),
        "lowers[1]: must be the layer that is sealed",
    )


def test_an_upper_that_is_not_new(daemon, writable):
    config, _ = writable
    then = successor(daemon, config)
    upper = json.loads(then.read_text())["upper"]
    with open(upper["data"], "wb") as file:
        file.write(b"nonsense" * 1024)
    refused(daemon, config, then, upper["data"])


def test_a_config_on_another_file_system(daemon, writable):
    config, kernel = writable
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm here")
    then = successor(daemon, config)
    elsewhere = f"/dev/shm/{os.getpid()}.json"
    with open(elsewhere, "w") as file:
        file.write(then.read_text())
    try:
        refused(daemon, config, elsewhere, "renaming")
    finally:
        os.unlink(elsewhere)
    write(kernel, b"still written".ljust(512))
    assert ask(daemon, "7", then)[0] == 200


def test_a_read_only_device(daemon):
    daemon.start()
    config = daemon.image()
    daemon.add(config, "7")
    then = config.parent / "then.json"
    then.write_text(config.read_text())
    refused(daemon, config, then, "upper: a snapshot needs a writable layer")
