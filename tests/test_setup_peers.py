"""The environments of the engines that benchmarks/engine compares with."""

import re

from base import requirement_lines
from llama_wheel import build_inputs
from peers import NOT_FETCHED, PINNED, xllamacpp_inputs
from wheel_cache import build_key


def test_every_peer_is_pinned_once() -> None:
    lines = requirement_lines(PINNED)
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9.]*", line)] == []
    names = [line.partition("==")[0] for line in lines]
    assert len(set(names)) == len(names)
    assert "xllamacpp" in names
    assert "llama-cpp-python" not in names  # it comes as the compiled wheel


def test_the_compiled_peer_has_our_instruction_set_and_fetches_nothing() -> None:
    inputs = xllamacpp_inputs("xllamacpp==1.0")
    ours = build_inputs("native", {})
    assert inputs["source"] == "xllamacpp==1.0"
    assert inputs["cpu"] == ours["cpu"]
    assert [flag for flag in inputs["cmake"] if "NATIVE" in flag or "FLAGS" in flag] == [
        flag for flag in ours["cmake"] if "NATIVE" in flag or "FLAGS" in flag
    ]
    assert set(NOT_FETCHED) <= set(inputs["cmake"])
    assert build_key(inputs) != build_key(ours)
