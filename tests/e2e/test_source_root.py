"""Capture on a machine that is not this one: a Debian made for the test, with packages as Debian has
them. `bench/capture/run` does the same with thirty-three applications; these are some of them: a native
server, one that overwrites its title, one in a language, and one that executes itself anew."""
import importlib.machinery
import importlib.util
import pathlib
import sys

import pytest

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench/capture"
sys.path.insert(0, str(BENCH))
import machine  # noqa: E402

loader = importlib.machinery.SourceFileLoader("bench_capture", str(BENCH / "run"))
bench = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_capture", loader))
loader.exec_module(bench)

NAMES = ["nginx", "redis", "flask", "openssh"]
ALL = {**machine.APPLICATIONS["applications"], **machine.APPLICATIONS["held_out"]}


@pytest.fixture(scope="module")
def root():
    source = machine.SOURCE.with_name("source-root-of-tests")
    machine.make(NAMES, source)
    return source


@pytest.mark.parametrize("name", NAMES)
def test_captured_without_hand_edits(root, name):
    done = bench.measure(name, ALL[name], root)
    assert done.get("captured") and "error" not in done, done.get("error") or done["capture"]
    assert done["verified"] == "passed"
    assert [(q["request"], q["capture"]) for q in done["requests"] if not q["same"]] == []
    assert len(done["requests"]) == len(ALL[name]["seen"]) + len(ALL[name]["unseen"])
    assert done["mb"] <= 0.3 * done["dockerfile_mb"]
