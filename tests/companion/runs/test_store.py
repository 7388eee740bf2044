"""Records are whole and unharmed, or they are not there."""

import json
import logging
import multiprocessing
import os
import re
import signal
import time

import pytest
import torch
from pydantic import BaseModel

from companion import files
from companion.record import Record, write_record
from companion.runs.store import OtherConfig, Store, StoreError


class Settings(BaseModel):
    """A config like those of the runs."""

    steps: int = 3
    seed: int = 0


NAME, CONFIG = "results/clip-b/seed-0", Settings()
RECORD = Record({"series": [0.1, None, 3], "text": "ä"}, {"w": torch.arange(6.0).view(2, 3)}, {"seconds": 0.1})


def make():
    return RECORD


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "records")


def same(a, b):
    names = a.tensors.keys() == b.tensors.keys()
    return a.document == b.document and names and all(torch.equal(a.tensors[n], b.tensors[n]) for n in a.tensors)


def test_what_is_put_is_what_is_got(store):
    assert store.get(NAME, CONFIG) is None
    store.put(NAME, CONFIG, RECORD)
    found = Store(store.root).get(NAME, CONFIG)
    assert same(found, RECORD) and found.made_by == {"seconds": 0.1}
    without = Record({"a": 1})
    store.put("other/seed-0", CONFIG, without)
    assert same(store.get("other/seed-0", CONFIG), without)
    assert not (store.root / "other" / "seed-0.safetensors").exists()


def test_a_record_is_one_readable_file_with_every_default_spelled_out(store):
    store.put(NAME, CONFIG, RECORD)
    entry = json.loads((store.root / f"{NAME}.json").read_text(encoding="utf-8"))
    assert entry["name"] == NAME and entry["kind"] == "Settings" and entry["config"] == {"steps": 3, "seed": 0}
    assert list(entry)[-1] == "sha256"
    with pytest.raises(ValueError, match="the document has config"):
        store.put(NAME, CONFIG, Record({"config": 1}))


def test_a_record_of_another_config_is_named_and_not_used(store):
    store.put(NAME, CONFIG, RECORD)
    with pytest.raises(OtherConfig, match=r"clip-b/seed-0.json was made with steps 3 instead of 10; move it away"):
        store.get(NAME, Settings(steps=10))
    with pytest.raises(OtherConfig):
        store.compute(NAME, Settings(steps=10), make)
    assert same(store.get(NAME, CONFIG), RECORD)


def test_a_default_that_has_changed_since_makes_a_committed_record_useless(store, caplog):
    class Changed(Settings):
        steps: int = 4

    Changed.__name__ = "Settings"
    store.put(NAME, CONFIG, RECORD)
    layered = Store(store.root.parent / "other", store.root)
    assert same(layered.get(NAME, CONFIG), RECORD)
    with caplog.at_level(logging.WARNING):
        assert layered.get(NAME, Changed()) is None
    assert "was made with steps 3 instead of 4; not used" in caplog.text


def test_a_committed_record_comes_before_one_made_here(store, tmp_path):
    store.put(NAME, CONFIG, RECORD)
    layered = Store(tmp_path / "here", store.root)
    layered.put(NAME, CONFIG, Record({"series": "of older code"}))
    assert same(layered.get(NAME, CONFIG), RECORD)


def test_a_missing_folder_of_records_is_no_empty_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=re.escape(f"there is no folder {tmp_path.parent / 'data' / 'runs'}")):
        Store("build", "../data/runs")


def flip_digit(path):
    path.write_text(path.read_text().replace("0.1", "0.2"))


def rename(path):
    write_record(path, RECORD, name="results/grpo/seed-0", kind="Settings", config=CONFIG.model_dump())


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


HARM = {
    "truncated": ("json", lambda path: path.write_text(path.read_text()[:50])),
    "empty": ("json", lambda path: path.write_text("")),
    "another type": ("json", lambda path: path.write_text("[1]")),
    "number changed": ("json", flip_digit),
    "another schema": ("json", lambda path: path.write_text(path.read_text().replace('"schema": 2', '"schema": 0'))),
    "another record": ("json", rename),
    "bit flipped": ("safetensors", flip_bit),
    "tensors truncated": ("safetensors", lambda path: path.write_bytes(path.read_bytes()[:20])),
    "tensors gone": ("safetensors", lambda path: path.unlink()),
}


@pytest.mark.parametrize("name", HARM)
def test_a_harmed_record_is_quarantined_named_and_made_anew(store, caplog, name):
    suffix, harm = HARM[name]
    store.put(NAME, CONFIG, RECORD)
    harm(store.root / f"{NAME}.{suffix}")
    before = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    with caplog.at_level(logging.WARNING):
        assert store.get(NAME, CONFIG) is None
        assert before == {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
        made = store.compute(NAME, CONFIG, make)
    assert same(made, RECORD) and same(store.get(NAME, CONFIG), RECORD)
    assert f"record {NAME} in {store.root} is damaged" in caplog.text and "is made anew" in caplog.text
    aside = {path.relative_to(store.root / "quarantine") for path in (store.root / "quarantine").rglob("seed*")}
    assert aside == {path.relative_to(store.root) for path in before}


def test_a_half_written_record_is_none(store, monkeypatch):
    (store.root / NAME).parent.mkdir(parents=True)
    (store.root / f"{NAME}.safetensors").write_bytes(b"half")
    (store.root / f"{NAME}.json.123.partial").write_text("{")
    assert store.get(NAME, CONFIG) is None
    assert same(store.compute(NAME, CONFIG, make), RECORD)


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(store, monkeypatch):
    def no_space(self, content):
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.Path, "write_bytes", no_space)
    with pytest.raises(StoreError, match=f"cannot write record {NAME}.*No space left"):
        store.compute(NAME, CONFIG, make)
    assert not [path for path in store.root.rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose another folder"):
        Store(tmp_path / "file" / "records").compute(NAME, CONFIG, make)


def test_trouble_with_reading_condemns_no_record(store, monkeypatch):
    store.put(NAME, CONFIG, RECORD)

    def no_access(self, **_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="cannot read record"):
        patch.setattr(files.Path, "read_text", no_access)
        store.get(NAME, CONFIG)
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="cannot read record"):
        patch.setattr(files.Path, "read_text", no_access)
        Store(store.root.parent / "other", store.root).get(NAME, CONFIG)
    assert same(store.get(NAME, CONFIG), RECORD)


def test_nan_is_refused_before_anything_is_written(store):
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.put(NAME, CONFIG, Record({"loss": float("nan")}))
    assert not store.root.exists()


def test_a_record_is_made_once(store):
    calls = []

    def count():
        calls.append(1)
        return RECORD

    for _ in range(2):
        assert same(store.compute(NAME, CONFIG, count), RECORD)
    assert calls == [1]
    with pytest.raises(RuntimeError, match="no luck"):
        store.compute("results/other/seed-0", CONFIG, raises)
    files = {path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file()}
    assert files == {f"{NAME}.json", f"{NAME}.safetensors"}


def raises():
    raise RuntimeError("no luck")


def slowly(root, started):
    def slow():
        started.touch()
        time.sleep(60)
        return RECORD

    Store(root).compute(NAME, CONFIG, slow)


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
    assert store.get(NAME, CONFIG) is None
    assert same(store.compute(NAME, CONFIG, make), RECORD)  # does not wait for the dead
    assert json.loads((store.root / f"{NAME}.json").read_text())["name"] == NAME


def test_committed_records_are_used_and_never_written(store, tmp_path, caplog):
    store.put(NAME, CONFIG, RECORD)
    layered = Store(tmp_path / "other", store.root)
    assert same(layered.get(NAME, CONFIG), RECORD)
    assert not (tmp_path / "other").exists()
    path = store.root / f"{NAME}.json"
    path.write_bytes(path.read_bytes().replace(b"0.1", b"0.2"))
    harmed = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        assert layered.get(NAME, CONFIG) is None
    assert "committed record" in caplog.text and "damaged" in caplog.text
    assert same(layered.compute(NAME, CONFIG, make), RECORD)  # made anew in the working store
    assert same(layered.get(NAME, CONFIG), RECORD) and path.read_bytes() == harmed
