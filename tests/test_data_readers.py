"""Every format of captions: recognised by what it holds, read row by row, faults told apart."""

import json
import tarfile
import tracemalloc
from collections import deque
from pathlib import Path

import pytest
from data_sets import (
    faults,
    kinds,
    narrative,
    narratives,
    picture_bytes,
    pictures,
    put,
    rows,
    said,
)

import captioning.data.text_files as text_files
from captioning.data.recognise import read
from captioning.data.rows import Row, side_of
from captioning.data.shards import add


def test_localized_narratives_in_shards(tmp_path):
    stem = "open_images_train_v6_localized_narratives"
    for number in range(3):
        name = f"{stem}-{number:05}-of-00003.jsonl"
        put(tmp_path / name, narrative(f"{number:016x}", f" Caption {number}. "))
    pictures(tmp_path / "train_0", [f"{number:016x}.jpg" for number in range(3)])
    reader = read(tmp_path)
    assert (reader.kind, len(reader.files)) == ("JSON lines", 3)
    found = rows(tmp_path)
    assert list(said(found)) == [(f"{n:016x}", f"Caption {n}.") for n in range(3)]
    assert {row.split for row in found} == {"train"} and not faults(tmp_path)
    assert Path(found[1].place.path) == tmp_path / "train_0" / f"{1:016x}.jpg"
    (tmp_path / f"{stem}-00001-of-00003.jsonl").unlink()
    assert kinds(faults(tmp_path)) == [("missing shard", 0)] and len(rows(tmp_path)) == 2
    # A file that is named alone is wanted alone.
    assert not faults(tmp_path / f"{stem}-00002-of-00003.jsonl")


def test_official_splits_come_from_names_and_rows(tmp_path):
    pictures(tmp_path, [f"{name}.jpg" for name in "abc"])
    for image, side in zip("abc", ("train", "validation", "test"), strict=True):
        line = json.dumps({"image_id": image, "caption": "A cat."}) + "\n"
        put(tmp_path / f"open_images_{side}_captions.jsonl", line)
    assert {r.image: r.split for r in rows(tmp_path)} == {
        "a": "train",
        "b": "validation",
        "c": "test",
    }
    names = {"mscoco_val2017": "validation", "restval": "train", "dev": "validation"}
    names |= {"captions_train2014": "train", "latest": None, "": None, "contest-2": None}
    assert {name: side_of(name) for name in names} == names


def test_the_split_s_own_folder_is_searched_first(tmp_path):
    put(tmp_path / "test" / "a.jpg", b"other")
    put(tmp_path / "train" / "a.jpg", b"wanted")
    put(tmp_path / "open_images_train_captions.jsonl", narrative("a", "A cat."))
    assert Path(rows(tmp_path)[0].place.path).read_bytes() == b"wanted"


def test_the_article_s_tsv(tmp_path):
    pictures(tmp_path / "pictures", ["00a.jpg", "00b.jpg"])
    text = '00a\tIn this "image there is a cat.\n\n00b\tA dog.\r\nno tab\n00a\tA\ttab.\n'
    file = put(tmp_path / "dataset.txt", text)
    found = rows(file, tmp_path / "pictures")
    assert list(said(found)) == [("00a", 'In this "image there is a cat.'), ("00b", "A dog.")]
    assert [row.row for row in found] == [1, 3]
    assert kinds(faults(file, tmp_path / "pictures")) == [
        ("malformed", 4),
        ("control characters", 5),
    ]
    assert read(tmp_path).kind == "the article's TSV"


COCO_IMAGES = [{"id": n, "file_name": f"{n:012}.jpg", "width": 6, "license": 1} for n in (9, 139)]
COCO_CAPTIONS = [
    {"image_id": 139, "id": 1, "caption": "A cat."},
    {"image_id": 9, "id": 2, "caption": "A dog. "},
    {"image_id": "139", "id": 3, "caption": "Two \u2603 {cats}]."},
]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("order", [("images", "annotations"), ("annotations", "images")])
def test_coco(tmp_path, monkeypatch, order, indent):
    monkeypatch.setattr(text_files, "CHUNK", 7)  # so that every value lies across an edge
    held = {"info": {"year": 2017, "a": [1, {"b": "]}"}]}, "licenses": [], "type": None}
    held |= {name: {"images": COCO_IMAGES, "annotations": COCO_CAPTIONS}[name] for name in order}
    file = put(tmp_path / "annotations" / "captions_val2017.json", json.dumps(held, indent=indent))
    pictures(tmp_path / "val2017", [image["file_name"] for image in COCO_IMAGES])
    assert read(file).kind == read(tmp_path).kind == "COCO captions"
    found = rows(file)
    assert list(said(found)) == [("139", "A cat."), ("9", "A dog."), ("139", "Two ☃ {cats}].")]
    assert {row.split for row in found} == {"validation"} and not faults(file)
    assert found[0].place == found[2].place


def test_coco_with_faults_goes_on(tmp_path):
    captions = [*COCO_CAPTIONS, {"image_id": 9}, 3, {"image_id": 7, "caption": "No such."}]
    captions.append({"image_id": 9, "caption": "Last."})
    held = {"images": [*COCO_IMAGES, {"id": 5}, None], "annotations": captions}
    file = put(tmp_path / "captions.json", json.dumps(held))
    pictures(tmp_path, [image["file_name"] for image in COCO_IMAGES])
    assert [caption for _, caption in said(rows(file))][-1] == "Last."
    assert kinds(faults(file)) == [
        ("malformed", 3),
        ("malformed", 4),
        ("malformed", 4),
        ("malformed", 5),
        ("missing", 6),
    ]


def test_coco_that_breaks_off_says_where(tmp_path):
    text = json.dumps({"images": COCO_IMAGES, "annotations": COCO_CAPTIONS})
    file = put(tmp_path / "captions.json", text[: text.index("dog")])
    pictures(tmp_path, [image["file_name"] for image in COCO_IMAGES])
    assert len(rows(file)) == 1
    (fault,) = faults(file)
    assert fault.kind == "malformed" and "get the file again" in fault.reason


def test_karpathy_s_file_brings_its_own_captions_and_splits(tmp_path):
    images = [
        {"filepath": "val2014", "filename": f"{n}.jpg", "split": split, "cocoid": n}
        | {"sentences": [{"raw": f"Caption {n}."}, {"raw": f"Another {n}."}]}
        for n, split in enumerate(("train", "restval", "val", "test"))
    ]
    file = put(tmp_path / "dataset_coco.json", json.dumps({"images": images, "dataset": "coco"}))
    pictures(tmp_path / "val2014", [f"{n}.jpg" for n in range(4)])
    found = rows(file)
    assert [row.split for row in found[::2]] == ["train", "train", "validation", "test"]
    assert [row.image for row in found] == ["0", "0", "1", "1", "2", "2", "3", "3"]


def test_coco_s_boxes_are_not_captions(tmp_path):
    boxes = {"images": COCO_IMAGES, "annotations": [{"image_id": 9, "bbox": [0, 0, 1, 1]}]}
    put(tmp_path / "annotations" / "instances_val2017.json", json.dumps(boxes))
    captions = {"images": COCO_IMAGES, "annotations": COCO_CAPTIONS}
    put(tmp_path / "annotations" / "captions_val2017.json", json.dumps(captions))
    assert [file.name for file in read(tmp_path).files] == ["captions_val2017.json"]


def test_flickr_tokens_with_their_official_split(tmp_path):
    names = ["1000_a.jpg", "1001_b.jpg", "1002_c.jpg"]
    lines = [f"{name}#{turn}\tCaption {turn} of {name} .\n" for name in names for turn in range(5)]
    file = put(tmp_path / "Flickr8k.token.txt", "".join(lines))
    put(tmp_path / "Flickr8k.lemma.token.txt", "".join(lines))
    pictures(tmp_path / "Flicker8k_Dataset", names)
    for name, side in zip(names, ("train", "dev", "test"), strict=True):
        put(tmp_path / f"Flickr_8k.{side}Images.txt", f"{name}\n")
    assert read(tmp_path).files == [file]
    found = rows(tmp_path)
    assert [row.split for row in found[::5]] == ["train", "validation", "test"]
    assert len(found) == 15 and found[4].caption == "Caption 4 of 1000_a.jpg ."


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_with_quotes_and_line_breaks(tmp_path, delimiter):
    pictures(tmp_path, ["a.jpg", "b.png", "c.jpg"])
    lines = [
        "Image,Caption,split",
        'a.jpg,"A ""cat"", sitting.",train',
        'b,"Two\nlines",val',
        "c.jpg,A dog,test",
    ]
    text = "\n".join(line.replace(",", delimiter) for line in lines)
    file = put(tmp_path / "captions.csv", "\ufeff" + text)
    wanted = f'A "cat"{delimiter} sitting.' if delimiter != "\t" else 'A "cat"\t sitting.'
    found = {row.image: (row.row, row.caption, row.split) for row in rows(file)}
    broken = {fault.row: fault.kind for fault in faults(file)}
    if delimiter == "\t":  # a tab inside is no text
        assert broken == {2: "control characters", 3: "control characters"}
    else:
        assert found["a.jpg"] == (2, wanted, "train")
        assert broken == {3: "control characters"}
    assert found["c.jpg"] == (5, "A dog", "test")


def test_a_csv_header_may_be_written_for_people(tmp_path):
    pictures(tmp_path, ["a.jpg"])
    file = put(tmp_path / "a.csv", '\ufeff" Image Name ";Comment\r\na.jpg;"A; cat."\r\n')
    assert list(said(rows(file))) == [("a.jpg", "A; cat.")] and not faults(file)


def test_csv_with_broken_rows_goes_on(tmp_path):
    pictures(tmp_path, [f"{name}.jpg" for name in "abcdefgh"])
    text = (
        b'image,caption\na,fine\nb\nc,"never closed\nd,"fine, too"\ne,5" wide\nf,6" wide\n'
        b"g,\xff\xfe\nh,x,y\na,last\n"
    )
    file = put(tmp_path / "captions.csv", text)
    assert list(said(rows(file))) == [
        ("a", "fine"),
        ("d", "fine, too"),
        ("e", '5" wide'),
        ("f", '6" wide'),
        ("a", "last"),
    ]
    assert kinds(faults(file)) == [("malformed", row) for row in (3, 4, 8, 9)]


@pytest.mark.parametrize("behind", ["plain", '"quoted"', '"a ""b"" c"', '"two\nlines"'])
def test_an_open_quote_takes_no_other_row_with_it(tmp_path, behind):
    names = [f"{n:02}" for n in range(40)]
    pictures(tmp_path, [f"{name}.jpg" for name in names])
    lines = [f"{name},{behind}\n" for name in names]
    lines[3] = '03,"never closed\n'
    found = {row.image for row in rows(put(tmp_path / "a.csv", "image,caption\n" + "".join(lines)))}
    broken = {fault.row for fault in faults(tmp_path / "a.csv")}
    if "\n" in behind:  # every caption but the broken one has a line break, and is a fault
        assert not found and len(broken) == 40
    else:
        assert found == {*names} - {"03"} and broken == {5}


def test_flickr30k_s_bars(tmp_path):
    text = 'image_name| comment_number| comment\na.jpg| 0| A "cat .\na.jpg| 4   A dog .\n'
    file = put(tmp_path / "results.csv", text)
    pictures(tmp_path / "flickr30k_images", ["a.jpg"])
    assert list(said(rows(file))) == [("a.jpg", 'A "cat .')]
    assert kinds(faults(file)) == [("malformed", 3)]


def test_pictures_with_text_beside_them(tmp_path):
    pictures(tmp_path, ["b.jpg", "a/x.PNG", "a/y.jpg", "a/y.png", "alone.jpg", "void.jpg"])
    put(tmp_path / "b.txt", "A cat.\n\nThe same cat.\n")
    put(tmp_path / "a" / "x.txt", "A dog.")
    put(tmp_path / "a" / "y.txt", "Both.")
    put(tmp_path / "void.txt", "\n")
    put(tmp_path / "nothing.txt", "No picture.")
    put(tmp_path / "a" / "y.jpg.txt", "No picture either.")
    put(tmp_path / "z.jpg", picture_bytes())
    put(tmp_path / "z.txt", "Fine.\nBad\x07.\n")
    assert read(tmp_path).kind == "pictures with .txt"
    assert list(said(rows(tmp_path))) == [
        ("a/x.PNG", "A dog."),
        ("a/y.jpg", "Both."),
        ("a/y.png", "Both."),
        ("b.jpg", "A cat."),
        ("b.jpg", "The same cat."),
        ("z.jpg", "Fine."),
    ]
    found = [(fault.kind, fault.file.name, fault.row) for fault in faults(tmp_path)]
    assert found == [
        ("missing", "y.jpg.txt", 0),
        ("empty caption", "alone.jpg", 0),
        ("missing", "nothing.txt", 0),
        ("empty caption", "void.txt", 0),
        ("control characters", "z.txt", 2),
    ]


def make_shard(path: Path, *members: tuple[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            add(tar, name, data)
    return path


def test_webdataset_shards_of_anybody(tmp_path):
    jpeg = picture_bytes(1, "JPEG")
    fields = json.dumps({"caption": "From JSON.", "url": "x"}).encode()
    first = make_shard(
        tmp_path / "00000.tar",
        ("a.jpg", jpeg),
        ("a.txt", b"One.\nTwo.\n"),
        ("b.png", picture_bytes(2)),
        ("b.json", fields),
        ("b.txt", b"Not this."),
        ("c.txt", b"No picture."),
        ("d.jpg", jpeg),
        ("e/../../f.jpg", jpeg),
        ("e/../../f.txt", b"Out."),
        ("g.jpg", jpeg),
        ("g.json", b"{"),
        ("h.jpg", jpeg),
        ("h.png", jpeg),
        ("i.jpg", jpeg),
        ("i.txt", b"\xff"),
    )
    make_shard(tmp_path / "00001.tar", ("a.jpg", jpeg), ("a.txt", b"The same key."))
    found = rows(tmp_path)
    assert list(said(found)) == [
        ("00000/a", "One."),
        ("00000/a", "Two."),
        ("00000/b", "From JSON."),
        ("00001/a", "The same key."),
    ]
    with first.open("rb") as file:
        file.seek(found[0].place.offset)
        assert file.read(found[0].place.size) == jpeg
    assert kinds(faults(tmp_path)) == [
        ("missing", 3),
        ("empty caption", 4),
        ("outside", 5),
        ("malformed", 6),
        ("malformed", 7),
        ("malformed", 8),
    ]


@pytest.mark.parametrize("damage", ["cut in a picture", "cut between", "header"])
def test_a_damaged_shard_never_ends_in_silence(tmp_path, damage):
    members = [(f"{n}.{kind}", picture_bytes(n) * 9) for n in range(4) for kind in ("jpg", "txt")]
    members = [(name, b"Text." if name.endswith("txt") else data) for name, data in members]
    path = make_shard(tmp_path / "0.tar", *members)
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        member = tar.getmembers()[4]  # 2.jpg
    if damage == "header":
        data[member.offset : member.offset + 100] = b"x" * 100
    else:
        at = member.offset_data + 100 if damage == "cut in a picture" else member.offset
        del data[at:]
    path.write_bytes(bytes(data))
    make_shard(tmp_path / "1.tar", ("a.jpg", picture_bytes()), ("a.txt", b"The next."))
    # Which of the two last before the damage is still whole is not asked.
    assert {caption for _, caption in said(rows(tmp_path))} == {"Text.", "The next."}
    assert "truncated" in [fault.kind for fault in faults(tmp_path)]


# ---- memory --------------------------------------------------------------------------------------


def peak(reader) -> int:
    tracemalloc.start()
    deque(reader, maxlen=0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def a_set(kind: str, folder: Path, count: int) -> Path:
    pictures(folder, [f"{n}.jpg" for n in range(8)])
    if kind == "narratives":
        return put(folder / "a.jsonl", "".join(narrative(n % 8, f"A {n}.") for n in range(count)))
    if kind == "csv":
        lines = "".join(f'{n % 8},"A, {n}."\n' for n in range(count))
        return put(folder / "a.csv", "image,caption\n" + lines)
    if kind == "coco":
        held = {
            "images": [{"id": n, "file_name": f"{n % 8}.jpg"} for n in range(count)],
            "annotations": [{"image_id": n, "caption": f"A {n}."} for n in range(count)],
        }
        return put(folder / "a.json", json.dumps(held))
    if kind == "shard":
        members = [(f"{n}.{s}", b"x" * 600) for n in range(count) for s in ("jpg", "txt")]
        return make_shard(folder / "a.tar", *members)
    for n in range(count):
        put(folder / f"{n:05}.jpg", b"")
        put(folder / f"{n:05}.txt", f"A {n}.")
    return folder


@pytest.mark.parametrize("kind", ["narratives", "csv", "coco", "shard", "folder"])
def test_memory_is_flat_in_rows(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(text_files, "CHUNK", 2**12)
    few = read(a_set(kind, tmp_path / "few", 300))
    many = read(a_set(kind, tmp_path / "many", 1500))
    peak(many)  # what is loaded once; and Python keeps up to 2000 freed tuples for reuse
    before, after = peak(few), peak(many)
    # A list of 1200 more ids and captions, the smallest of rows, would take 200 KB.
    assert after < before + 60_000, (before, after)


def test_reading_twice_gives_the_same(tmp_path):
    narratives(tmp_path, 9, captions=2)
    reader = read(tmp_path)
    assert list(reader) == list(reader) and all(isinstance(row, Row) for row in reader)
