"""Whatever is wrong with a record's file, it is damaged: a ValueError that says how."""

import json
import sys

import pytest
import torch

from companion.record import SCHEMA, Record, digest, read_record, write_record

DEEP = sys.getrecursionlimit()


def signed(**entry):
    entry = {"schema": SCHEMA, "name": "a", "kind": "b", "config": {}, "made_by": {}, "tensors_sha256": None} | entry
    return json.dumps(entry | {"sha256": digest(entry)}, ensure_ascii=False)


def nested(depth):
    return json.dumps({"schema": SCHEMA, "sha256": ""})[:-1] + ', "a": ' + "[" * depth + "]" * depth + "}"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\0" * 100,
        "null",
        "1",
        '"text"',
        "[1]",
        "{}",
        '{"schema": 2}',
        json.dumps({"schema": SCHEMA, "sha256": digest({"schema": SCHEMA})}),
        "[" * 200_000 + "]" * 200_000,
        *(nested(depth) for depth in (DEEP // 3, DEEP - 60, DEEP)),
        "9" * 5000,
        signed(name="ä").encode("latin-1"),
        signed(name="ä").encode("utf-8-sig"),
        signed(name="ä").encode("utf-16"),
        signed(tensors_sha256=1),
    ],
    ids=lambda content: repr(content[:20]),
)
def test_a_damaged_file_is_a_value_error(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.with_suffix(".safetensors").write_bytes(b"")
    with pytest.raises(ValueError):
        read_record(path)


def test_what_is_not_damaged_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(signed(name="ä"), encoding="utf-8")
    assert read_record(path) == (Record({}), {"name": "ä", "kind": "b", "config": {}})


def test_missing_tensors_are_a_file_that_is_not_found(tmp_path):
    path = tmp_path / "a.json"
    write_record(path, Record({}, {"w": torch.ones(2)}), name="a", kind="b", config={})
    path.with_suffix(".safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        read_record(path)
