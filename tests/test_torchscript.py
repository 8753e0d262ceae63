"""TorchScript archives: tensors come out as torch would give them, and nothing in them runs."""

import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torchscript import rewrite, save_script

from weights.torch_file import read_torch
from weights.torchscript import walk


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 2, 2, bias=False)
        self.mlp = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4))
        self.class_embedding = nn.Parameter(torch.randn(8))
        self.proj = nn.Parameter(torch.randn(6, 4).T)  # (4, 6), not contiguous

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(self.conv1(x).flatten(2))


class Outer(nn.Module):
    """Names and kinds of what OpenAI's CLIP has."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = Inner()
        self.logit_scale = nn.Parameter(torch.ones([]))
        self.sizes: list[int] = [1, 2]
        self.words: list[str] = ["a"]
        self.scale = 0.125
        self.large = 2**40
        self.register_buffer("input_resolution", torch.tensor(336))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(x)


@pytest.fixture(scope="module")
def outer() -> nn.Module:
    torch.manual_seed(0)
    return Outer().half()


@pytest.fixture(scope="module")
def script(outer: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "a.pt"
    save_script(outer, path)
    return path


def test_a_script_is_its_state_dict(outer: nn.Module, script: Path) -> None:
    read, wanted = read_torch(script), outer.state_dict()
    assert read.keys() == wanted.keys() and len(read) == 9
    for name, tensor in wanted.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name


def test_a_scripts_code_is_not_even_looked_at(script: Path, tmp_path: Path) -> None:
    for name in ("code/__torch__.py", "code/__torch__.py.debug_pkl"):
        rewrite(script, tmp_path / "a.pt", name, lambda _: b"raise SystemExit")
        assert len(read_torch(tmp_path / "a.pt")) == 9


def test_a_script_may_have_code_called_data(outer: nn.Module, script: Path, tmp_path: Path) -> None:
    shutil.copy(script, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/code/__torch__/data/sets.py", "code")
    assert read_torch(tmp_path / "a.pt").keys() == outer.state_dict().keys()


def test_what_a_scripts_pickle_asks_for_is_not_done(
    outer: nn.Module, script: Path, tmp_path: Path
) -> None:
    """In the place of a list that torch would build: os.mkdir of a folder."""
    ran = str(tmp_path / "ran").encode()
    builder, call = b"ctorch.jit._pickle\nbuild_intlist\n", b"cos\nmkdir\n"
    sizes, path = b"(](K\x01K\x02et", b"X" + len(ran).to_bytes(4, "little") + ran

    def plant(program: bytes) -> bytes:
        assert program.count(builder) == program.count(sizes) == 1
        return program.replace(builder, call).replace(sizes, b"(" + path + b"t")

    rewrite(script, tmp_path / "a.pt", "data.pkl", plant)
    assert read_torch(tmp_path / "a.pt").keys() == outer.state_dict().keys()
    assert not (tmp_path / "ran").exists()


GLOBAL = b"c__torch__\nM\n"
MODULE = GLOBAL + b")\x81"  # NEWOBJ


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def tensor(offset: int = 0, shape: bytes = b"(K\x02t", stride: bytes = b"(K\x01t") -> bytes:
    """A tensor in the entry data/0, as torch writes it."""
    place = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x02tQ"
    )
    build = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return build + place + b"K" + bytes([offset]) + shape + stride + b"\x89Nt" + b"R"


def held(*attributes: bytes) -> bytes:
    """The program of a module with these attributes, names and values by turns."""
    return b"\x80\x02" + MODULE + b"}(" + b"".join(attributes) + b"ub."


def archive(program: bytes, path: Path, name: str = "eleven_long") -> Path:
    """Behind a header of 30 bytes and a name of 18, numbers lie at a multiple of their size."""
    with zipfile.ZipFile(path, "w") as new:
        new.writestr(f"{name}/data/0", torch.tensor([3.0, 5.0]).numpy().tobytes())
        new.writestr(f"{name}/data.pkl", program)
        new.writestr(f"{name}/constants.pkl", b"")
    return path


def test_a_program_by_hand(tmp_path: Path) -> None:
    for name in ("eleven_long", "odd"):
        path = archive(held(text("w"), tensor()), tmp_path / "a.pt", name)
        assert read_torch(path)["w"].tolist() == [3.0, 5.0]
    path = archive(held(text("w"), tensor(1, b"(K\x01t")), tmp_path / "a.pt")
    assert read_torch(path)["w"].tolist() == [5.0]


deep = b"".join(text("m") + MODULE + b"}(" for _ in range(300))
BROKEN = {
    "beyond its numbers": held(text("w"), tensor(1)),
    "more than there is": held(text("w"), tensor(0, b"(K\x03t", b"(K\x00t")),
    "without end": held(text("w"), tensor(0, b"(K\x7fK\x7ft", b"(K\x00K\x00t")),
    "below zero": held(text("w"), tensor(0, b"(J\xff\xff\xff\xfft")),
    "another entry": held(text("w"), tensor().replace(text("0"), text("1"))),
    "a path": held(text("w"), tensor().replace(text("0"), text("../data/0"))),
    "one more axis": held(text("w"), tensor(0, b"(K\x01K\x02t")),
    "no module": b"\x80\x02K\x01.",
    "nothing": b"\x80\x02.",
    "no end": held(text("w"), tensor())[:-1],
    "no mark": b"\x80\x02t.",
    "names that are none": held(b"K\x01", tensor()),
    "half a pair": held(text("w")),
    "a module twice": held(text("m"), MODULE + b"q\x00", text("n"), b"h\x00"),
    "itself": b"\x80\x02" + MODULE + b"q\x00}(" + text("m") + b"h\x00ub.",
    "deep": b"\x80\x02" + MODULE + b"}(" + deep + b"ub" * 301 + b".",
    "an unknown step": held(text("w"), b"\x82\x01"),  # EXT1, which asks a registry of classes
    "an instance": b"\x80\x02(" + b"ios\ngetcwd\n.",
    "a wrong memo": held(text("w"), b"h\x07"),
    "no pickle": b"<html>",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_program_that_describes_no_tensors_is_refused(tmp_path: Path, kind: str) -> None:
    path = archive(BROKEN[kind], tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a.pt can't be read: .*\S\. Get the file again\.$"):
        read_torch(path)


@pytest.mark.parametrize("name", ["data.pkl", "data/0"])
def test_an_archive_that_lacks_an_entry(script: Path, tmp_path: Path, name: str) -> None:
    rewrite(script, tmp_path / "a.pt", name, lambda _: None)
    with pytest.raises(ValueError, match=r"a.pt can't be read: .* Get the file again"):
        read_torch(tmp_path / "a.pt")


def test_a_long_program_takes_linear_time() -> None:
    """A hundred thousand marks and values: quadratic would be minutes."""
    program = b"(" * 50_000 + b"N" * 50_000 + b"t" * 50_000 + b"."
    with pytest.raises(ValueError, match="describes no module"):
        walk(program)
