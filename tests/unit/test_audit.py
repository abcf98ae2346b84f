# SPDX-License-Identifier: Apache-2.0
"""What the data plane says, as lines of the log and of the audit log."""

import pytest

from overlaybd_tcmu import audit
from overlaybd_tcmu.ffi import native


class FakeEvents:
    """The events it was given, then the end, as after stop()."""

    given = []

    def __init__(self):
        self.closed = False
        self._left = list(self.given)

    def next(self):
        if not self._left:
            raise EOFError
        one = self._left.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    def stop(self):
        pass

    def close(self):
        self.closed = True


@pytest.fixture
def drained(monkeypatch, tmp_path, caplog):
    """Drains events; the lines of the log and of the audit log."""

    def drain(*events):
        monkeypatch.setattr(FakeEvents, "given", events)
        monkeypatch.setattr(native, "Events", FakeEvents)
        audit.setup(str(tmp_path / "audit.log"))
        one = audit.Drain()
        one.start()
        one.stop()
        one.join()
        audit.close()
        assert one.events.closed
        lines = [f"{record.levelname} {record.message}" for record in caplog.records]
        return lines, (tmp_path / "audit.log").read_text().splitlines()

    return drain


def event(kind, **values):
    fields = dict(code=5, offset=4096, count=512, latency_us=12000, dropped=0)
    return native.Event(kind, **{**fields, "image": "/c.json", "text": "/layer", **values})


def test_slow_read_is_for_the_audit_log_alone(drained):
    lines, audited = drained(event(native.EventKind.SLOW_READ))
    assert lines == []
    (line,) = audited
    assert "|AUDIT|" in line
    assert line.endswith(":file:pread[pathname=/layer][offset=4096][size=512][latency=12000]")


def test_failed_read_names_everything(drained):
    lines, audited = drained(event(native.EventKind.READ_ERROR))
    assert lines == [
        "ERROR read failed image=/c.json offset=4096 count=512 errno=5 cause=/layer",
    ]
    assert audited == []


def test_word_of_a_front_end_is_a_warning(drained):
    lines, _ = drained(event(native.EventKind.DEVICE, text="ring is broken"))
    assert lines == ["WARNING device image=/c.json errno=5 ring is broken"]


def test_failed_reads_are_held_back_for_each_image(drained):
    many = [event(native.EventKind.READ_ERROR, offset=number) for number in range(100)]
    lines, _ = drained(*many, event(native.EventKind.READ_ERROR, image="/d.json"))
    assert len(lines) == 11
    assert "image=/d.json" in lines[-1]


def test_slow_reads_are_never_held_back(drained):
    lines, audited = drained(*[event(native.EventKind.SLOW_READ)] * 100)
    assert (lines, len(audited)) == ([], 100)


def test_events_that_were_dropped_are_counted(drained):
    lines, audited = drained(event(native.EventKind.SLOW_READ, dropped=7))
    assert lines == ["WARNING events dropped count=7"]
    assert len(audited) == 1


def test_a_bug_in_one_line_does_not_silence_the_rest(drained):
    lines, _ = drained(RuntimeError("bug"), event(native.EventKind.READ_ERROR))
    assert lines[0] == "ERROR event lost"
    assert lines[1].startswith("ERROR read failed")
