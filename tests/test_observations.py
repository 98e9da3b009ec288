"""Named observations become vectors in a known order."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from awac_pl.envs.observations import flatten, value_names
from awac_pl.errors import DatasetError

NAMED = {"b": np.arange(4.0).reshape(2, 2), "a": {"z": np.array([5, 6]), "c": np.arange(12.0).reshape(2, 2, 3)}}


def test_all_keys_sorted_at_each_level() -> None:
    rows, layout = flatten(NAMED)
    assert rows.tolist() == [[0, 1, 2, 3, 4, 5, 5, 0, 1], [6, 7, 8, 9, 10, 11, 6, 2, 3]]
    assert layout == [{"key": "a/c", "size": 6}, {"key": "a/z", "size": 1}, {"key": "b", "size": 2}]
    assert value_names(layout[1:]) == ["a/z", "b_0", "b_1"]


def test_chosen_keys_keep_their_order() -> None:
    rows, layout = flatten(NAMED, ["b", "a/z"])
    assert rows.tolist() == [[0, 1, 5], [2, 3, 6]]
    assert [part["key"] for part in layout] == ["b", "a/z"]
    assert [part["key"] for part in flatten(NAMED, ["b", "a"])[1]] == ["b", "a/c", "a/z"]


def test_the_order_is_that_of_gymnasium() -> None:
    box = {"low": -1.0, "high": 1.0, "dtype": np.float64}
    space = Dict({"goal": Box(shape=(2,), **box), "a": Dict({"y": Box(shape=(2, 2), **box), "b": Box(shape=(1,), **box)})})
    sample = space.sample()
    rows, _ = flatten({"a": {key: value[None] for key, value in sample["a"].items()}, "goal": sample["goal"][None]})
    np.testing.assert_array_equal(rows[0], gymnasium.spaces.flatten(space, sample))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["bb"], "no observation key 'bb'. Did you mean 'b'?"),
        (["b", "b"], "observation key 'b' is named twice"),
        (["a", "a/z"], "observation key 'a/z' is named twice"),
        (["b", "text"], "observation key 'text' is no array of numbers"),
        (["b", "short"], "observation key 'short' has 1 rows, 'b' has 2"),
        ([], "there are no observations to flatten"),
    ],
)
def test_what_cannot_be_joined_is_named(keys: list[str], message: str) -> None:
    with pytest.raises(DatasetError) as error:
        flatten({**NAMED, "text": np.array(["x", "y"]), "short": np.zeros((1, 2))}, keys)
    assert message in str(error.value)
