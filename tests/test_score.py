"""`python -m captioning score`: what it reads, how it matches images, what comes out."""

import json

import pytest

from captioning.__main__ import main
from captioning.metrics import score
from captioning.metrics.files import match

IMAGES = {139: "a cat on a mat", 285: "two dogs run", 632: "a room with a bed"}
REFERENCES = {
    139: ["a cat is on a mat", "the cat sits"],
    285: ["two dogs are running"],
    632: ["a bed in a room", "a small room"],
}
VALUES = score(list(IMAGES.values()), list(REFERENCES.values()))


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def file_name(number):
    return f"{number:012d}.jpg"


COCO = {
    "images": [{"id": n, "file_name": file_name(n)} for n in IMAGES],
    # The annotations' ids are other images' ids, and are not to be taken for them.
    "annotations": [
        {"id": i, "image_id": n, "caption": text}
        for i, (n, text) in enumerate(
            ((n, text) for n, several in REFERENCES.items() for text in several), 137
        )
    ],
}
KARPATHY = {
    "images": [
        {"filename": f"COCO_val2014_{n:012d}.jpg", "sentences": [{"raw": t} for t in several]}
        for n, several in REFERENCES.items()
    ]
}
PREDICTIONS = {
    "caption --json": lines(
        *(
            {"path": f"val2017/{file_name(n)}", "caption": t, "logprob": -1}
            for n, t in IMAGES.items()
        )
    ),
    "COCO results": json.dumps([{"image_id": n, "caption": t} for n, t in IMAGES.items()]),
    "mapping": json.dumps({str(n): t for n, t in IMAGES.items()}),
    "windows": lines(*({"path": rf"C:\val\{n}.JPG", "caption": t} for n, t in IMAGES.items())),
    "backwards": lines(*({"id": str(n), "caption": IMAGES[n]} for n in reversed(IMAGES))),
    "blank lines, BOM": "\ufeff\n"
    + lines(*({"image_id": n, "caption": t} for n, t in IMAGES.items())).replace("\n", "\r\n\r\n"),
}
WANTED = {
    "COCO annotations": json.dumps(COCO),
    "Karpathy's": json.dumps(KARPATHY),
    "mapping": json.dumps({file_name(n): several for n, several in REFERENCES.items()}),
    "list": json.dumps([{"image_id": n, "captions": t} for n, t in REFERENCES.items()], indent=1),
    "a line an image": lines(*({"id": n, "captions": t} for n, t in REFERENCES.items())),
    "a line a caption": lines(
        *({"image_id": n, "caption": t} for n, several in REFERENCES.items() for t in several)
    ),
    "images with ids and files": json.dumps(
        {
            "images": [
                {"id": n, "file": f"x/{file_name(n)}", "captions": t} for n, t in REFERENCES.items()
            ]
        }
    ),
}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Writes the files and runs the command in their folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(predictions, references=WANTED["list"], *options, **others):
        for name, text in {"p.jsonl": predictions, "r.json": references, **others}.items():
            if text is not None:
                (tmp_path / name).write_text(text, encoding="utf-8")
        code = main(["score", "p.jsonl", "r.json", "--resamples", "50", *options])
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("predictions", PREDICTIONS)
def test_formats(predictions, wanted, run):
    code, out, err = run(PREDICTIONS[predictions], WANTED[wanted], "--json")
    assert code == 0
    result = json.loads(out)
    # The images' order is the file's, and sums of floats depend on it.
    assert {name: result[name] for name in VALUES} == pytest.approx(VALUES, rel=1e-12)
    assert result["images"] == 3
    assert result["missing"] == result["unknown"] == result["repeated"] == []
    assert err.count("\n") == 1 and "3 images are few for CIDEr" in err


def test_json_has_intervals_and_texture(run):
    _, out, _ = run(PREDICTIONS["mapping"], WANTED["list"], "--json")
    result = json.loads(out)
    assert out.count("\n") == 1
    assert {"distinct-1", "distinct-2", "length-ratio", "end-rate"} <= result.keys()
    assert {f"repetition-{n}" for n in (1, 2, 3, 4)} <= result.keys()
    assert set(VALUES) <= result["intervals"].keys()
    for name, (low, high) in result["intervals"].items():
        assert low <= result[name] <= high
    assert result["end-rate"] == 0 and result["distinct-1"] == 10 / 13


def test_the_table_says_the_same(run):
    code, out, _ = run(PREDICTIONS["mapping"])
    rows = dict(line.split()[:2] for line in out.splitlines()[3:])
    assert code == 0 and out.startswith("3 images; WER and BLEU-*-m7 in percent")
    assert {name: float(rows[name]) for name in VALUES} == pytest.approx(VALUES, abs=5e-4)
    assert "95 % interval" in out


def test_missing_unknown_and_repeated_images_are_named(run):
    predictions = lines(
        {"path": file_name(139), "caption": IMAGES[139]},
        {"path": "other.png", "caption": "x"},
        {"path": f"again/{file_name(139)}", "caption": "not this one"},
        {"path": file_name(632), "caption": IMAGES[632]},
    )
    code, out, err = run(predictions, WANTED["list"], "--json")
    result = json.loads(out)
    assert code == 1
    assert result["missing"] == ["285"]
    assert result["unknown"] == ["other.png"]
    assert result["repeated"] == [f"again/{file_name(139)}"]
    only = score([IMAGES[139], IMAGES[632]], [REFERENCES[139], REFERENCES[632]])
    assert {name: result[name] for name in only} == only
    assert "no caption for 1 of the images with references: '285'" in err
    assert "no references for 1 of its captions: 'other.png'" in err
    assert "more than one caption for 1 images" in err


def test_the_same_image_twice_in_one_record_or_two_lines(run):
    twice = {"image_id": 139, "captions": ["a cat", "a dog"]}
    code, out, _ = run(lines(twice), WANTED["list"], "--json")
    assert code == 1 and json.loads(out)["repeated"] == ["139"]
    again = [{"image_id": 139, "caption": "a cat"}, {"image_id": 139, "caption": "a cat"}]
    code, out, _ = run(lines(*again), WANTED["list"], "--json")
    assert code == 1 and json.loads(out)["repeated"] == ["139"]


def test_one_image_has_no_interval(run):
    code, out, _ = run(lines({"image_id": 139, "caption": "a"}), WANTED["list"], "--json")
    assert code == 1 and json.loads(out)["intervals"] == {}


def test_longer_paths_tell_images_of_the_same_name_apart(tmp_path):
    p, r = tmp_path / "p", tmp_path / "r"
    r.write_text(json.dumps({"a/1.jpg": ["one"], "b/1.jpg": ["two"]}))
    p.write_text(json.dumps({"all/b/1.jpg": "2", "all/a/1.jpg": "1"}))
    matched = match(p, r)
    assert matched.candidates == ["1", "2"] and matched.references == [["one"], ["two"]]
    p.write_text(json.dumps({"c/1.jpg": "3"} | {"b/2.jpg": "2", "a/1.jpg": "1"}))
    r.write_text(json.dumps({"a/1.jpg": ["one"], "b/2.jpg": ["two"]}))
    matched = match(p, r)  # the image's own caption, whatever ends alike comes before
    assert (matched.candidates, matched.repeated) == (["1", "2"], ["c/1.jpg"])
    r.write_text(json.dumps({"a/1.jpg": ["one"], "1.jpg": ["two"]}))
    for folder in ("", "all/"):
        p.write_text(json.dumps({f"{folder}1.jpg": "2", f"{folder}a/1.jpg": "1"}))
        assert match(p, r).candidates == ["1", "2"]
    r.write_text(json.dumps({"a/1.jpg": ["one"], "b/1.jpg": ["two"]}))
    p.write_text(json.dumps({"1.jpg": "?"}))
    with pytest.raises(ValueError, match=r"'1.jpg' could be 'a/1.jpg', 'b/1.jpg'; write the whole"):
        match(p, r)


def test_a_caption_may_be_empty_or_hold_anything(tmp_path):
    p, r = tmp_path / "p", tmp_path / "r"
    r.write_text(json.dumps({"1": ["a"], "2": ["b"]}))
    p.write_text(
        '{"image_id": 1, "caption": ""}\n{"image_id": 2, "caption": "a\u2028b"}\n', "utf-8"
    )
    assert match(p, r).candidates == ["", "a\u2028b"]


BROKEN = {
    "no file": (None, WANTED["list"], "p.jsonl is not there"),
    "no JSON": ("a cat\n", WANTED["list"], "p.jsonl, line 1 is no JSON"),
    "cut off": (PREDICTIONS["caption --json"][:-9], WANTED["list"], "line 3 is no JSON"),
    "empty": ("", WANTED["list"], "p.jsonl holds no captions"),
    "no image": (lines({"caption": "a"}), WANTED["list"], "p.jsonl names its image nowhere"),
    "no text": (lines({"image_id": 1, "score": 2}), WANTED["list"], "has no text"),
    "text is a number": (lines({"image_id": 1, "caption": 2}), WANTED["list"], "has 2 under"),
    "a token list": (lines({"image_id": 1, "caption": [["a"]]}), WANTED["list"], "as strings"),
    "a null id": (lines({"image_id": None, "caption": "a"}), WANTED["list"], "names its image"),
    "a list as id": (lines({"image_id": [1], "caption": "a"}), WANTED["list"], "names its image"),
    "a list as COCO's id": (
        json.dumps({"annotations": [{"image_id": [1], "caption": "a"}], "images": [{"id": [1]}]}),
        *(WANTED["list"], "annotation 1 names its image"),
    ),
    "brackets without end": ("[" * 99_999, WANTED["list"], "p.jsonl, line 1 is no JSON"),
    "not a record": ("[1, 2]", WANTED["list"], "p.jsonl, record 1 is 1"),
    "nothing in common": (lines({"id": 7, "caption": "a"}), WANTED["list"], "no image in common"),
    "references of no image": (PREDICTIONS["mapping"], "[]", "r.json holds no captions"),
    "null among references": (PREDICTIONS["mapping"], '{"139": ["a", null]}', "r.json, 139 has"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_cannot_be_scored_is_said_in_one_line(broken, run):
    predictions, references, message = BROKEN[broken]
    code, out, err = run(predictions, references)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err, err


def test_files_that_are_not_utf8(tmp_path, run):
    (tmp_path / "p.jsonl").write_bytes(b'{"id": 139, "caption": "caf\xe9"}\n')
    code, _, err = run(None)
    assert code == 2 and "p.jsonl is not UTF-8" in err


def test_against_another_system(run):
    best = {str(n): several[0] for n, several in REFERENCES.items()}
    others = {"o.json": json.dumps(best)}
    code, out, _ = run(
        PREDICTIONS["mapping"], WANTED["list"], "--against", "o.json", "--json", **others
    )
    against = json.loads(out)["against"]
    assert code == 0
    for name, value in score(list(best.values()), list(REFERENCES.values())).items():
        assert against[name]["difference"] == pytest.approx(VALUES[name] - value, abs=1e-12)
        low, high = against[name]["interval"]
        assert low <= against[name]["difference"] <= high
        assert 0 < against[name]["p"] <= 1
    code, out, _ = run(PREDICTIONS["mapping"], WANTED["list"], "--against", "o.json", **others)
    assert code == 0 and "less the other" in out


def test_against_needs_the_same_images(run):
    code, _, err = run(
        PREDICTIONS["mapping"],
        WANTED["list"],
        "--against",
        "o.json",
        **{"o.json": json.dumps({"139": "a"})},
    )
    assert code == 2 and "captions of 3 and 1 images" in err


def test_numbers_of_draws_are_checked(run):
    code, _, err = run(PREDICTIONS["mapping"], WANTED["list"], "--resamples", "0")
    assert code == 2 and "--resamples 0" in err


def test_the_oracles_captions_from_files(shared, run):
    path = shared / "data/metrics_oracle/coco_fakecap.json"
    oracle = json.loads(path.read_text("utf-8"))
    said = lines(*({"image_id": i["id"], "caption": i["candidate"]} for i in oracle["items"]))
    wanted = json.dumps({i["id"]: i["references"] for i in oracle["items"]})
    code, out, _ = run(said, wanted, "--json")
    result = json.loads(out)
    assert code == 0
    assert result["CIDEr-D"] == pytest.approx(oracle["scores"]["CIDEr"], abs=1e-6)
    assert result["BLEU-4"] == pytest.approx(oracle["scores"]["Bleu_4"], abs=1e-6)
