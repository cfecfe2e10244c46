"""Every reader with damaged files: a ModelError, or a model all of which can be read."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import mutate
from tests.fuzz.seed_models import Seed, load_seeds
from tests.fuzz.targets.readers import is_valid

SEEDS = load_seeds()
MIB = 1 << 20

EXAMPLES = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.name)
def test_seeds_are_valid(seed: Seed, tmp_path: Path) -> None:
    assert is_valid(seed.write(tmp_path))


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.name)
@given(number=st.integers(0, 2**32), which=st.integers(0, 10))
@EXAMPLES
def test_mutations(seed: Seed, tmp_path: Path, number: int, which: int) -> None:
    path = seed.write(tmp_path)
    file, content = seed.files[which % len(seed.files)]
    (tmp_path / file).write_bytes(mutate(content, random.Random(number)))
    is_valid(path)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.name)
@given(data=st.data())
@EXAMPLES
def test_truncations(seed: Seed, tmp_path: Path, data: st.DataObject) -> None:
    path = seed.write(tmp_path)
    file, content = data.draw(st.sampled_from(seed.files))
    keep = data.draw(st.integers(0, len(content) - 1))
    (tmp_path / file).write_bytes(content[:keep])
    # Only text may do without its end: a last line's, or white space.
    assert not is_valid(path) or not content[keep:].strip() or file.endswith(".txt")


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.name)
@given(data=st.data())
@EXAMPLES
def test_huge_numbers(seed: Seed, tmp_path: Path, data: st.DataObject) -> None:
    path = seed.write(tmp_path)
    file, content = data.draw(st.sampled_from(seed.files))
    size = data.draw(st.sampled_from([2, 4, 8]))
    at = data.draw(st.integers(0, min(len(content), 4096) - size))
    value = data.draw(st.integers(0, (1 << 8 * size) - 1)).to_bytes(size, "little")
    (tmp_path / file).write_bytes(content[:at] + value + content[at + size :])
    tracemalloc.start()
    try:
        is_valid(path)
        assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    finally:
        tracemalloc.stop()


def test_what_the_mutations_do() -> None:
    """Each kind of mutation happens, and a seed gives the same result every time."""
    content = bytes(range(48, 58)) * 30
    changed = [mutate(content, random.Random(number)) for number in range(300)]
    assert changed == [mutate(content, random.Random(number)) for number in range(300)]
    assert any(len(one) < len(content) for one in changed)
    assert any(len(one) > len(content) for one in changed)
    assert sum(len(one) == len(content) and one != content for one in changed) > 50
    assert any(str((1 << 63) - 1).encode() in one for one in changed)
    assert mutate(b"", random.Random(1)) != b""
