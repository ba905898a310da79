"""The fuzz targets in short: what they begin with, what they have found, and what hypothesis makes of both."""

from __future__ import annotations

import importlib
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.supply import Supply
from tests.fuzz.targets import TARGETS

FOUND = Path(__file__).parent / "found"
"""Inputs that once broke a target, by target: `found/<target>/<what it was>`."""


def beginnings(target: str) -> list[bytes]:
    seeds: list[bytes] = importlib.import_module(f"tests.fuzz.{target}").seeds()
    return seeds + [path.read_bytes() for path in sorted((FOUND / target).glob("*"))]


@st.composite
def inputs(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Any bytes, or something known with pieces changed, taken out and put in."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.binary(max_size=300))
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 4)))
        data[start:stop] = draw(st.binary(max_size=6) | st.sampled_from(seeds))
    return bytes(data)


@pytest.mark.parametrize("target", TARGETS)
def test_what_it_begins_with_and_what_was_found(target: str) -> None:
    fuzz = importlib.import_module(f"tests.fuzz.{target}").fuzz
    for data in [b"", *beginnings(target)]:
        fuzz(data)


@pytest.mark.parametrize("target", TARGETS)
def test_a_short_run(target: str) -> None:
    fuzz = importlib.import_module(f"tests.fuzz.{target}").fuzz
    seeds = beginnings(target)

    @settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(inputs(seeds))
    def run(data: bytes) -> None:
        fuzz(data)

    run()


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_says_first_what_holds(target: str) -> None:
    source = (Path(__file__).parent / f"{target}.py").read_text()
    assert source.startswith("# Whatever ")


def test_found_inputs_belong_to_a_target() -> None:
    assert {path.name for path in FOUND.glob("*")} <= set(TARGETS)


def test_a_supply_that_is_used_up_goes_on() -> None:
    supply = Supply(b"\x05")
    assert supply
    assert supply.number(9) == 5
    assert not supply
    assert (supply.number(9), supply.piece(), supply.choice("ab"), supply.rest()) == (0, b"", "a", b"")
    assert Supply(b"\x02\x01\x03").cut(b"abcd") == [b"a", b"bc", b"d"]
