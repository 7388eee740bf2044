"""Records are whole and unharmed, or they are not there."""

import json
import logging
import multiprocessing
import os
import signal
import time

import pytest
import torch

from companion import files
from companion.runs.store import Record, Store, StoreError, canonical, digest

KEY = digest({"x": 1})
RECORD = Record({"series": [0.1, None, 3], "name": "ä"}, {"w": torch.arange(6.0).view(2, 3)})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "records")


def same(a, b):
    names = a.tensors.keys() == b.tensors.keys()
    return a.document == b.document and names and all(torch.equal(a.tensors[n], b.tensors[n]) for n in a.tensors)


def test_what_is_put_is_what_is_got(store):
    assert store.get(KEY) is None
    store.put(KEY, RECORD, seconds=1.5)
    assert same(Store(store.root).get(KEY), RECORD)
    assert store.seconds(KEY) == 1.5
    without = Record({"a": 1}, {})
    store.put(digest(2), without)
    assert same(store.get(digest(2)), without) and store.seconds(digest(2)) is None


def test_bytes_do_not_depend_on_order_or_time(store, tmp_path):
    other = Store(tmp_path / "other")
    store.put(KEY, RECORD, seconds=1.0)
    other.put(KEY, Record(dict(reversed(RECORD.document.items())), RECORD.tensors), seconds=2.0)
    for suffix in ("json", "safetensors"):
        assert (store.root / f"{KEY}.{suffix}").read_bytes() == (other.root / f"{KEY}.{suffix}").read_bytes()
    assert canonical({"b": 1, "a": 2}) == '{"a":2,"b":1}'


def flip_digit(path):
    path.write_text(path.read_text().replace("0.1", "0.2"))


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


HARM = {
    "truncated": ("json", lambda path: path.write_text(path.read_text()[:50])),
    "empty": ("json", lambda path: path.write_text("")),
    "another type": ("json", lambda path: path.write_text("[1]")),
    "number changed": ("json", flip_digit),
    "another schema": ("json", lambda path: path.write_text(path.read_text().replace('"schema":1', '"schema": 0'))),
    "another record": ("json", lambda path: path.write_text(path.read_text().replace(KEY, digest(0)))),
    "bit flipped": ("safetensors", flip_bit),
    "tensors truncated": ("safetensors", lambda path: path.write_bytes(path.read_bytes()[:20])),
    "tensors gone": ("safetensors", lambda path: path.unlink()),
}


@pytest.mark.parametrize("name", HARM)
def test_a_harmed_record_is_quarantined_named_and_made_anew(store, caplog, name):
    suffix, harm = HARM[name]
    store.put(KEY, RECORD)
    harm(store.root / f"{KEY}.{suffix}")
    with caplog.at_level(logging.WARNING):
        made = store.compute(KEY, lambda: (RECORD, 0.1))
    assert same(made, RECORD) and same(store.get(KEY), RECORD)
    assert KEY in caplog.text and "computed anew" in caplog.text
    assert (store.root / "quarantine" / f"{KEY}.json").is_file()


def test_a_half_written_record_is_none(store, monkeypatch):
    store.root.mkdir()
    (store.root / f"{KEY}.safetensors").write_bytes(b"half")
    (store.root / f"{KEY}.json.123.partial").write_text("{")
    assert store.get(KEY) is None
    assert same(store.compute(KEY, lambda: (RECORD, 0.1)), RECORD)


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(store, monkeypatch):
    def no_space(self, content):
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.Path, "write_bytes", no_space)
    with pytest.raises(StoreError, match=f"cannot write record {KEY}.*No space left"):
        store.compute(KEY, lambda: (RECORD, 0.1))
    assert not list(store.root.iterdir())


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose another folder"):
        Store(tmp_path / "file" / "records").compute(KEY, lambda: (RECORD, 0.1))


def test_trouble_with_reading_condemns_no_record(store, monkeypatch):
    store.put(KEY, RECORD)

    def no_access(self):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="cannot read record"):
        patch.setattr(files.Path, "read_text", no_access)
        store.get(KEY)
    assert same(store.get(KEY), RECORD)


def test_nan_is_refused_before_anything_is_written(store):
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.put(KEY, Record({"loss": float("nan")}, {}))
    assert not store.root.exists()


def test_a_record_is_made_once(store):
    calls = []

    def make():
        calls.append(1)
        return RECORD, 0.1

    for _ in range(2):
        assert same(store.compute(KEY, make), RECORD)
    assert calls == [1]
    with pytest.raises(RuntimeError, match="no luck"):
        store.compute(digest(3), raises)
    assert sorted(path.name for path in store.root.iterdir()) == sorted(
        f"{KEY}.{suffix}" for suffix in ("json", "safetensors", "seconds")
    )


def raises():
    raise RuntimeError("no luck")


def slowly(root, started):
    def make():
        started.touch()
        time.sleep(60)
        return RECORD, 60.0

    Store(root).compute(KEY, make)


def test_a_killed_process_leaves_neither_a_record_nor_a_lock(store, tmp_path):
    started = tmp_path / "started"
    process = multiprocessing.get_context("spawn").Process(target=slowly, args=(store.root, started))
    process.start()
    deadline = time.monotonic() + 60
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert started.exists()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert store.get(KEY) is None
    assert same(store.compute(KEY, lambda: (RECORD, 0.1)), RECORD)  # does not wait for the dead
    assert json.loads((store.root / f"{KEY}.json").read_text())["key"] == KEY


def test_committed_records_are_used_without_their_tensors_and_never_written(store, tmp_path, caplog):
    store.put(KEY, RECORD)
    committed = tmp_path / "committed"
    store.export(KEY, committed)
    assert [path.name for path in committed.iterdir()] == [f"{KEY}.json"]
    layered = Store(tmp_path / "other", committed)
    assert same(layered.get(KEY), Record(RECORD.document, {}))
    assert not (tmp_path / "other").exists() and layered.working().get(KEY) is None
    with pytest.raises(StoreError, match=r"no record .* to export"):
        layered.export("0" * 64, committed)
    before = (committed / f"{KEY}.json").read_bytes()
    (committed / f"{KEY}.json").write_bytes(before.replace(b"0.1", b"0.2"))
    with caplog.at_level(logging.WARNING):
        assert layered.get(KEY) is None
    assert "committed record" in caplog.text and [path.name for path in committed.iterdir()] == [f"{KEY}.json"]
    assert same(layered.compute(KEY, lambda: (RECORD, 0.1)), RECORD)  # made anew in the working store
    assert same(layered.get(KEY), RECORD)
