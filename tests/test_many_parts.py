"""Files of a job of many pictures: what is good of one that a kill tore, and what is to do."""

from data_sets import put
from hypothesis import given
from hypothesis import strategies as st

from captioning.data.rows import Place
from captioning.many.parts import Bits, as_line, good_lines
from captioning.many.sources import Item
from captioning.many.todo import read_todo, write_todo


def test_a_part_is_good_up_to_its_first_fault(tmp_path):
    good = [as_line(n, {"path": f"{n}"}) for n in (0, 2, 5)]
    for spoiled, wanted in [
        (b"".join(good), [0, 2, 5]),
        (good[0] + good[1][:-1], [0]),  # no line break: more may have been to come
        (good[0] + b"\n" + good[1], [0]),
        (good[1] + good[0], [2]),
        (good[0] + good[0], [0]),
        (good[0] + as_line(6, {"path": ""}), [0]),  # there is no seventh picture
        (good[0] + good[1][:20] + good[2], [0]),
        (b"\0" * 50 + good[0], []),
    ]:
        path = put(tmp_path / "part", spoiled)
        lines = list(good_lines(path, 6))
        assert [line.number for line in lines] == wanted
        assert b"".join(line.text for line in lines) == spoiled[: lines[-1].end if lines else 0]


@given(st.sets(st.integers(0, 40)))
def test_bits_are_a_set(numbers):
    bits = Bits(41)
    for number in numbers:
        bits.add(number)
    assert {n for n in range(41) if n in bits} == numbers
    assert bits.holds(range(3, 9)) == (set(range(3, 9)) <= numbers)


def test_any_name_and_id_is_kept(tmp_path):
    names = ["a\nb.png", "caf\udce9.png", "c.png"]
    given = [Item(name, Place(name), image="\ud800 ü") for name in names] + [Item("d", None)]
    assert write_todo(tmp_path / "todo", given) == 4
    kept = read_todo(tmp_path / "todo", range(4))
    assert [item.name for item in kept] == [*names, "d"]
    assert [item.image for item in kept] == 3 * ["\\ud800 ü"] + [None]
