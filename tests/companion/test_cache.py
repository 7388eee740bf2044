"""A cached folder is whole and unharmed, or it is made anew; what stands in the way is said in one sentence."""

import logging
import multiprocessing
import os
import pwd
import re
import shutil
import time

import pytest

from companion import cache
from companion.cache import CHECKSUMS, cached_folder

FILES = {
    "model.safetensors": bytes(range(1, 256)) * 400,
    "tokenizer.json": b'{"vocab": {}}',
    "config.json": b'{"model_type": "llama"}',
}
EVERY_FILE = "config.json, model.safetensors, tokenizer.json"


def make(folder):
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)


def never(folder):
    raise AssertionError("made again")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ENTROPY_DYNAMICS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def assert_whole(folder):
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != CHECKSUMS} == FILES


def test_it_is_made_once_and_found_then(place):
    folder = cached_folder("model", make)
    assert folder == place / "model"
    assert_whole(folder)
    assert cached_folder("model", never) == folder
    assert {path.name for path in place.iterdir()} == {"model", "model.lock"}


def zeros(path):
    """In the middle, where neither the size nor either end shows it."""
    with path.open("r+b") as file:
        file.seek(30_000)
        file.write(bytes(20_000))


DAMAGE = {
    "weights truncated": (lambda f: os.truncate(f / "model.safetensors", 50_000), "model.safetensors"),
    "weights emptied": (lambda f: os.truncate(f / "model.safetensors", 0), "model.safetensors"),
    "weights gone": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    "zeros in the weights": (lambda f: zeros(f / "model.safetensors"), "model.safetensors"),
    "tokenizer truncated": (lambda f: os.truncate(f / "tokenizer.json", 5), "tokenizer.json"),
    "tokenizer gone": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
    "tokenizer a folder": (lambda f: ((f / "tokenizer.json").unlink(), (f / "tokenizer.json").mkdir()), "tokenizer"),
    "another encoding": (lambda f: (f / "config.json").write_text("\ufeffä", encoding="utf-16"), "config.json"),
    "a file too many": (lambda f: (f / "adapter_config.json").write_bytes(b"{}"), "adapter_config.json"),
    "all but checksums gone": (lambda f: [(f / name).unlink() for name in FILES], EVERY_FILE),
    "empty folder": (lambda f: [path.unlink() for path in f.iterdir()], CHECKSUMS),
    "a file instead": (lambda f: (shutil.rmtree(f), f.write_bytes(b"")), CHECKSUMS),
    "checksums gone": (lambda f: (f / CHECKSUMS).unlink(), CHECKSUMS),
    "checksums emptied": (lambda f: os.truncate(f / CHECKSUMS, 0), EVERY_FILE),
    "checksums not UTF-8": (lambda f: (f / CHECKSUMS).write_bytes(b"\xe4" * 9), "model.safetensors"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_one_is_named_set_aside_and_made_anew(place, caplog, kind):
    damage, named = DAMAGE[kind]
    folder = cached_folder("model", make)
    for _ in range(2):  # the second one takes the place of the first beside the cache
        damage(folder)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert_whole(cached_folder("model", make))
        (message,) = caplog.messages
        assert named in message and str(folder) in message and "ENTROPY_DYNAMICS_CACHE" in message
        assert {path.name for path in place.iterdir()} == {"model", "model.damaged", "model.lock"}
    assert cached_folder("model", never) == folder


def test_one_that_is_whole_is_used_where_nothing_can_be_written(place):
    folder = cached_folder("model", make)
    (place / "model.lock").unlink()
    (place / "model.lock").mkdir()  # whoever wanted to write would want the lock
    assert cached_folder("model", never) == folder


def fails(error):
    def make(folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise error

    return make


NAMED = "cannot keep model in the cache folder {}: .*; .*ENTROPY_DYNAMICS_CACHE"


@pytest.mark.parametrize("error", [OSError(28, "No space left"), cache.SafetensorError("I/O error: No space left")])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(place, error):
    with pytest.raises(OSError, match=NAMED.format(re.escape(str(place)))):
        cached_folder("model", fails(error))
    assert {path.name for path in place.iterdir()} == {"model.lock"}


def test_what_fails_for_another_reason_is_not_blamed_on_the_cache(place):
    with pytest.raises(KeyError):
        cached_folder("model", fails(KeyError("no such tensor")))
    assert {path.name for path in place.iterdir()} == {"model.lock"}


def test_a_folder_that_cannot_be_written_is_one_sentence(place):
    place.write_bytes(b"")  # a file where the cache should be: this stops root, too
    with pytest.raises(OSError, match=NAMED.format(re.escape(str(place)))):
        cached_folder("model", make)


def test_a_file_that_cannot_be_read_condemns_nothing(place, monkeypatch):
    cached_folder("model", make)

    def no_access(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch, pytest.raises(OSError, match=NAMED.format(re.escape(str(place)))):
        patch.setattr(cache, "sha256", no_access)
        cached_folder("model", make)
    assert_whole(cached_folder("model", never))


def test_a_user_without_a_home_folder_reads_which_variable_to_set(tmp_path, monkeypatch):
    def nobody(uid):
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME", "ENTROPY_DYNAMICS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=r"no folder for the cache: .*; set ENTROPY_DYNAMICS_CACHE"):
        cached_folder("model", make)
    assert not list(tmp_path.iterdir())  # no folder that is called ~


@pytest.mark.parametrize("relative", ["cache", "~/cache"])
def test_a_cache_that_depends_on_the_current_folder_is_refused(tmp_path, monkeypatch, relative):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENTROPY_DYNAMICS_CACHE", relative)
    with pytest.raises(OSError, match=f"{relative} is not an absolute path; set ENTROPY_DYNAMICS_CACHE"):
        cached_folder("model", make)
    assert not list(tmp_path.iterdir())


def slowly(folder):
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"half")
    time.sleep(60)


def counted(folder):
    with folder.with_name("calls").open("a", encoding="utf-8") as file:
        file.write("made\n")
    time.sleep(0.2)
    make(folder)


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists()


def test_what_a_killed_process_left_is_not_used(place):
    process = multiprocessing.get_context("spawn").Process(target=cached_folder, args=("model", slowly))
    process.start()
    wait_for(place / "model.partial" / "model.safetensors")
    process.kill()
    process.join()
    assert_whole(cached_folder("model", make))
    assert {path.name for path in place.iterdir()} == {"model", "model.lock"}


@pytest.mark.parametrize("damaged", [False, True])
def test_of_two_processes_one_makes_it(place, damaged):
    if damaged:
        zeros(cached_folder("model", make) / "model.safetensors")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=cached_folder, args=("model", counted)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert (place / "calls").read_text(encoding="utf-8") == "made\n"
    assert_whole(cached_folder("model", never))


def test_hidden_files_of_others_are_nobodys_business(caplog):
    folder = cached_folder("model", make)
    (folder / ".DS_Store").write_bytes(b"x")
    assert cached_folder("model", lambda folder: pytest.fail("made anew")) == folder and not caplog.messages


def test_a_file_that_was_moved_aside_does_not_stop_the_next_repair(tmp_path):
    folder = cached_folder("model", make)
    for _ in range(2):
        shutil.rmtree(folder)
        folder.write_bytes(b"")
        assert cached_folder("model", make).is_dir()
