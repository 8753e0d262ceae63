"""What a file really holds, whatever its name says."""

import pytest

from weights.contents import LEGACY_TORCH, fault


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("x.json", b"[1]", "holds a list, not an object"),
        ("x.json", b"\xff", "not JSON"),
        ("x.json", b"{", "not JSON"),
        ("x.json", b'{"a":' * 10**5, "not JSON"),
        ("x.index", b"Too many requests", "is no TensorFlow index"),
        ("x.safetensors", b"<!-- sorry --><html>", "an HTML page"),
        ("x.json", b"<h1>404</h1>", "an HTML page"),
        ("x.safetensors", b"\x00" * 100, "not a whole safetensors file"),
        ("x.bin", b"\x80\x04", "not a whole PyTorch file"),
        ("x.pt", b"PK\x03\x04 cut off", "not a whole PyTorch file"),
        ("vocab.bpe", b"", "empty"),
        ("vocab.bpe", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_what_a_file_is_not(tmp_path, name, content, why):
    path = tmp_path / name
    path.write_bytes(content)
    assert why in (fault(path) or "")


def test_what_pytorch_writes_opens(tmp_path):
    import zipfile

    import torch

    for ending in (".bin", ".pt"):
        path = tmp_path / f"x{ending}"
        torch.save({"a": torch.zeros(3)}, path)
        assert fault(path) is None
        torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
        assert fault(path) is None and path.read_bytes().startswith(LEGACY_TORCH)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme", "no tensors")
        assert "without data.pkl" in (fault(path) or "")
        content = bytearray(path.read_bytes())
        content[content.index(b"PK\1\2") + 6] = 99  # of a zip program that is yet to come
        path.write_bytes(content)
        assert "not a whole PyTorch file" in (fault(path) or "")
