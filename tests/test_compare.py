"""Arrays by name: how far, where first, and which of some computations gives them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
import pytest

from weights.compare import (
    ROUNDING,
    SLACK,
    Array,
    allowances,
    compare,
    errors,
    explain,
    follow,
)

ROW = np.array([[3.0, -4.0], [0.5, 0.25]])


def test_an_error_is_relative_to_the_largest_of_its_row() -> None:
    assert errors(ROW, ROW) == (0.0, 0.0)
    assert errors(ROW + np.array([[0.0, 0.0], [0.0, 0.05]]), ROW) == pytest.approx((0.05, 0.1))
    assert errors(ROW + np.array([[0.0, 0.05], [0.0, 0.0]]), ROW) == pytest.approx((0.05, 0.0125))
    assert errors(2.5, 2.0) == (0.5, 0.25)
    assert errors(np.zeros((0, 3)), np.zeros((0, 3))) == (0.0, 0.0)


def test_a_huge_row_hides_no_mistake_in_another() -> None:
    """GPT-2's first token has numbers of 3000 in its residual stream, the others of 3."""
    wanted = np.array([[3000.0, 1.0], [3.0, 1.0]])
    assert errors(wanted + np.array([[0.0, 0.0], [0.03, 0.0]]), wanted)[1] == pytest.approx(1e-2)


def test_a_row_of_next_to_nothing_is_measured_by_the_whole() -> None:
    wanted = np.array([[1.0, 1.0], [1e-9, 0.0]])
    assert errors(wanted + np.array([[0.0, 0.0], [1e-9, 0.0]]), wanted)[1] == pytest.approx(1e-6)
    assert errors(np.full(2, 1e-30), np.zeros(2))[1] == math.inf  # nothing to measure it by


def test_scores_are_measured_by_their_head() -> None:
    wanted = np.array([[1e-3, -np.inf], [2.0, 1.0]])[None, None]
    got = wanted + np.array([[1e-4, 0.0], [0.0, 0.0]])
    assert errors(got, wanted)[1] == pytest.approx(5e-5)
    assert errors(got[0], wanted[0])[1] == pytest.approx(0.05)  # three axes: by the row


def test_infinities_and_nan() -> None:
    masked = np.array([1.0, -np.inf])
    assert errors(masked, masked) == (0.0, 0.0)
    assert errors([1.0, -1e4], masked) == (math.inf, math.inf)
    assert errors([1.0, np.inf], masked) == (math.inf, math.inf)
    assert errors([np.nan, -np.inf], masked) == (math.inf, math.inf)
    assert errors([1e308], [-1e308]) == (math.inf, math.inf)
    assert errors([np.nan], [np.nan]) == (math.inf, math.inf)  # a right model gives no NaN


def test_nan_passes_nowhere() -> None:
    """Not even where the same computation in float32 gives it, so that all is allowed."""
    exact, broken = {"a": np.array([1e39])}, {"a": np.array([np.nan])}
    allowed = allowances(iter(exact.items()), iter(broken.items()), "float32")
    assert allowed == {"a": math.inf}
    assert not compare(broken, exact, allowed).passed
    assert follow(broken, iter(exact.items()), allowed).until == "a"


def test_other_shapes_are_told() -> None:
    with pytest.raises(ValueError, match=r"q is \(2, 1\), wanted \(2, 2\)"):
        errors(ROW[:, :1], ROW, "q")


def chain(*relative: float) -> dict[str, Array]:
    return {f"s{n}": np.array([1.0 + far, 0.0]) for n, far in enumerate(relative)}


def test_the_first_jump_is_30_times_the_site_before_and_above_rounding() -> None:
    right = chain(*[0.0] * 5)
    far = compare(chain(1e-7, 2e-6, 1e-4, 5e-4, 1e-1), right, 1e-5)
    assert [d.passed for d in far.differences] == [True, True, False, False, False]
    assert far.first_failed is not None and far.first_failed.site == "s2"
    assert far.first_jump is not None and far.first_jump.site == "s2"  # 50 x
    assert far.differences[1].times == pytest.approx(20, rel=0.05)
    # 30 x the site before, but no more than rounding makes: no jump, and nothing fails
    calm = compare(chain(1e-7, 5e-6, 4e-6, 5e-6, 5e-6), right, 1e-5)
    assert calm.passed and calm.first_jump is None and calm.first_failed is None
    # grows bit by bit: fails, but there is no place where
    slow = compare(chain(1e-6, 9e-6, 9e-5, 9e-4, 9e-3), right, 1e-5)
    assert slow.first_jump is None and slow.first_failed is not None
    # from nothing at all: one rounding of float32 stands for it
    assert compare(chain(0, 3e-5), chain(0, 0), 1e-5).first_jump is not None
    assert compare(chain(0, 1e-6), chain(0, 0), 5e-7).first_jump is None


def test_a_limit_may_be_a_whole_number() -> None:
    assert compare({"a": [1.0]}, {"a": [1.0]}, 0).passed


def test_names_of_one_side_only() -> None:
    got = {"a": ROW, "z": ROW}
    found = compare(got, {"b": ROW, "a": ROW}, 0.1)
    assert [d.site for d in found.differences] == ["a"]
    assert (found.missing, found.unknown) == (("b",), ("z",))
    assert not compare({}, {"b": ROW}, 0.1).passed  # nothing compared is nothing passed


def test_the_order_is_that_of_computation() -> None:
    arrays = {"b": ROW, "a": ROW}
    assert [d.site for d in compare(arrays, arrays, 1.0).differences] == ["b", "a"]
    assert [d.site for d in compare(arrays, arrays, 1.0, order=["a", "b"]).differences] == [
        *("a", "b")
    ]


def test_the_table_points_at_the_first_jump_alone() -> None:
    text = str(compare(chain(1e-7, 1e-2, 1.0), chain(0, 0, 0), {"s0": 1e-5, "s1": 1e-5, "s2": 1.0}))
    lines = [line for line in text.splitlines() if line]
    assert len(lines) == 4
    assert [("FIRST JUMP" in line, "FAIL" in line) for line in lines] == [
        *((False, False), (False, False)),
        *((True, True), (False, False)),
    ]
    assert "100,000 x the site before" in text.replace("99,999", "100,000")


def test_json_has_a_number_or_null_in_every_place() -> None:
    found = compare({"a": np.array([np.nan])}, {"a": np.array([1.0])}, 1e-5)
    told = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert told["passed"] is False and told["first_jump"] == "a"
    assert told["sites"][0]["maximum"] is None and told["sites"][0]["allowed"] == 1e-5


def test_what_rounding_may_do_is_what_it_does_times_a_slack() -> None:
    exact = {"a": np.array([1.0, 1.0]), "b": np.array([1.0]), "c": np.array([1.0])}
    rounded = {"a": np.array([1.0, 1.0]), "b": np.array([1.0 + 1e-4]), "c": np.array([1.0])}
    allowed = allowances(iter(exact.items()), iter(rounded.items()), "float32")
    least = SLACK["float32"] * ROUNDING["float32"]
    assert allowed == pytest.approx(
        {"a": least, "b": SLACK["float32"] * 1e-4, "c": SLACK["float32"] * 1e-4}, rel=1e-3
    )
    coarse = allowances(iter(exact.items()), iter(rounded.items()), "bfloat16")
    assert coarse["a"] == SLACK["bfloat16"] * 2.0**-8


# ---- why -----------------------------------------------------------------------------------------

CHANGES = {"double": (1, 2.0), "negate": (2, -1.0), "also-double": (1, 2.0), "late": (3, 5.0)}


def walk(chosen: tuple[str, ...]) -> Iterator[tuple[str, Array]]:
    """Four numbers, each the product of those before and of the mistakes made there."""
    value = 1.0
    for place in range(4):
        for name in chosen:
            at, factor = CHANGES[name]
            value *= factor if at == place else 1.0
        yield f"s{place}", np.array([value])


ALLOWED = {f"s{place}": 1e-6 for place in range(4)}


def names(chosen: tuple[str, ...], before: str | None, site: str) -> list[list[str]]:
    return [list(CHANGES)]


def test_following_stops_at_the_first_site_that_differs() -> None:
    got = dict(walk(("negate",)))
    match = follow(got, walk(()), ALLOWED)
    assert (match.until, match.reach) == ("s2", 2)
    assert follow(got, walk(("negate",)), ALLOWED).until is None
    # from the middle on
    rest = iter([(site, array) for site, array in walk(("negate",)) if site > "s1"])
    assert follow(got, rest, ALLOWED).until is None
    # another shape is another number
    assert follow(got | {"s1": np.ones(2)}, walk(()), ALLOWED).until == "s1"
    # a walk in another order does not get past a site that it has not been to
    there = dict(walk(()))
    odd = iter([(site, there[site]) for site in ("s0", "s3", "s1")])
    assert follow(there, odd, ALLOWED).until == "s2"


def test_explaining_names_one_mistake_and_those_that_look_the_same() -> None:
    assert explain(dict(walk(())), walk, names, ALLOWED).steps == ()
    found = explain(dict(walk(("late",))), walk, names, ALLOWED)
    assert (found.steps, found.until) == ((("late",),), None)
    found = explain(dict(walk(("double",))), walk, names, ALLOWED)
    assert found.steps == (("double", "also-double"),)


def test_explaining_names_mistakes_one_after_the_other() -> None:
    found = explain(dict(walk(("double", "negate", "late"))), walk, names, ALLOWED)
    assert [step[0] for step in found.steps] == ["double", "negate", "late"]
    assert found.until is None
    found = explain(dict(walk(("double", "late"))), walk, names, ALLOWED, most=1)
    assert (len(found.steps), found.until) == (1, "s3")


def test_explaining_leaves_what_it_does_not_know() -> None:
    got = dict(walk(()))
    got["s2"] = np.array([7.0])
    assert explain(got, walk, names, ALLOWED) == explain(got, walk, lambda *_: [], ALLOWED)
    assert explain(got, walk, names, ALLOWED).until == "s2"


def test_the_nearer_of_two_that_agree_is_meant() -> None:
    def near(chosen: tuple[str, ...]) -> Iterator[tuple[str, Array]]:
        far = {(): 1.0, ("near",): 1e-9, ("further",): 5e-4}[chosen]
        yield "s0", np.array([1.0 + far])

    found = explain({"s0": np.ones(1)}, near, lambda *_: [["further", "near"]], {"s0": 1e-3})
    assert found.steps == (("near",),)


def test_a_mistake_may_make_more_of_rounding() -> None:
    """After a step the limits are those of a computation that has the mistake."""

    def noisy(chosen: tuple[str, ...]) -> Iterator[tuple[str, Array]]:
        yield from walk(chosen)
        if chosen:
            yield "s4", np.array([1.0 + 1e-4])

    got = dict(walk(("negate",))) | {"s4": np.ones(1)}
    limits = ALLOWED | {"s4": 1e-6}
    assert explain(got, noisy, names, limits).until == "s4"
    assert explain(got, noisy, names, limits, lambda chosen: {"s4": 1e-3}).until is None
