"""`python -m weights`: what comes out on which stream, exit codes, kills and two at once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest
from server import Server, reset, stall, status
from tiny_table import tiny_server

from weights import manifest, model_folder
from weights.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
MODEL = "/huggingface/model.safetensors"


@pytest.fixture
def server(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with tiny_server(golden, tmp_path, monkeypatch) as running:
        yield running


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command line in a process of its own, with the tiny manifest."""
    running: list[subprocess.Popen[str]] = []
    code = (
        "import sys; from pathlib import Path; from weights import manifest;"
        f"manifest.TABLE = Path({str(tmp_path / 'manifest.json')!r});"
        "from weights.__main__ import main; sys.exit(main())"
    )

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", code, *arguments]
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def until(condition: Callable[[], bool]) -> None:
    """Wait for it; a minute is for a machine that is busy with something else."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def arrived() -> int:
    part = model_folder("tiny") / "model.safetensors.part"
    return part.stat().st_size if part.exists() else 0


# ---- in one process --------------------------------------------------------------------------


def test_fetch_path_check_list(server, capsys):
    folder = model_folder("tiny")
    assert main(["fetch", "tiny"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{folder}\n"
    assert "model.safetensors: 398,896 bytes, SHA-256 as published" in err.splitlines()
    assert "\r" not in err  # no progress bar where no terminal is

    assert main(["path", "tiny"]) == 0
    assert capsys.readouterr() == (f"{folder}\n", "")

    assert main(["check", "tiny"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        str(folder),
        "  ok     config.json: 821 bytes, SHA-256 as published",
        "  ok     model.safetensors: 398,896 bytes, SHA-256 as published",
    ]

    assert main(["list"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert any(line.endswith(" scenes") and "MiB" in line for line in lines)  # what is embedded
    state = {tuple(line.split()[2:5:2]): line.split()[-1] for line in lines if "tiny " in line}
    assert state == {("tiny", "huggingface"): "here", ("tiny", "openai"): "-"}
    assert [line.split()[0] for line in lines if " --source huggingface" in line] == ["0.38"]


def test_check_of_openais_files_reads_every_tensor(server, capsys):
    assert main(["fetch", "tiny", "--source", "openai"]) == 0
    assert main(["check", "tiny"]) == 0
    out = capsys.readouterr().out
    assert "as first received on" in out
    assert "model.ckpt.index: opens: 40 tensors, each with the checksum it should" in out


def test_check_exits_with_1_for_what_is_wrong_and_2_for_what_is_not_there(server, capsys):
    assert main(["check", "tiny"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "python -m weights fetch tiny" in line
    main(["fetch", "tiny"])
    (model_folder("tiny") / "config.json").write_text("{}")
    capsys.readouterr()
    assert main(["check", "tiny"]) == 1
    out = capsys.readouterr().out
    assert "  WRONG  config.json: got 2 bytes, wanted 821" in out
    assert "Run: python -m weights fetch tiny" in out
    main(["fetch", "tiny"])
    assert main(["check", "tiny"]) == 0


def test_import(server, capsys, golden):
    assert main(["import", "tiny", str(golden / "tiny-a" / "hf-prefixed")]) == 0
    out, err = capsys.readouterr()
    assert out == f"{model_folder('tiny')}\n"
    assert "holds no words" in err
    assert main(["import", "tiny", str(golden / "tiny-a")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "still wants" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["path", "tiny"], "weights fetch tiny"),
        (["path", "tny"], "Did you mean tiny?"),
        (["fetch", "tiny", "--source", "nobody"], "wanted one of huggingface, openai"),
        (["import", "tiny", "no/such/folder"], "is not a folder"),
        (["import", "tiny", "~nobody.by.this.name/x"], "Name the folder in full"),
        (["fetch", "tiny", "--timeout", "inf"], "can't be, wanted more than 0"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(server, capsys, arguments, words):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and words in err


def test_a_failed_fetch_is_told_as_it_goes_and_in_the_end(server, capsys):
    server.pages[MODEL].faults += [status(500, Retry_After="0")] * 9
    assert main(["fetch", "tiny", "--retries", "1"]) == 2
    *said, last = capsys.readouterr().err.splitlines()
    assert "model.safetensors: status 500" in said[-1] and "retry 1 of 1 in 0 s" in said[-1]
    assert last.startswith("error: tiny: model.safetensors could not be fetched from http://")
    assert "import tiny FOLDER" in last


def test_the_state_of_what_is_begun(server, capsys):
    server.pages[MODEL].faults += [reset(0.6), status(404)]
    assert main(["fetch", "tiny"]) == 2
    capsys.readouterr()
    main(["list"])
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "--source huggingface" in x]
    assert line.endswith("begun, lacks model.safetensors (0.23 MiB of it arrived)")


def test_the_vocabulary_as_published(shared, tmp_path, monkeypatch, capsys):
    """The real manifest, a mirror, and the real files: found by the tokenizer and by tiktoken."""
    import tiktoken.load

    from gpt2_scratch.tokenizer import BPETokenizer

    manifest.entries.cache_clear()
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", str(tmp_path))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    with Server() as mirror:
        monkeypatch.setenv("GPT2_SCRATCH_MIRROR", mirror.address)
        for file in manifest.find("gpt2-vocab").source().files:
            names = {"encoder.json": "6c7ea", "vocab.bpe": "6d1cb"}
            start = names.get(file.name, file.name)
            (path,) = (shared / "tiktoken_cache").glob(f"{start}*")
            mirror.put(f"/gpt2-vocab/{file.name}", path.read_bytes())
        assert main(["fetch", "gpt2-vocab"]) == 0
    folder = capsys.readouterr().out.strip()
    assert BPETokenizer.gpt2().n_vocab == 50257
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", folder)
    for file in manifest.find("gpt2-vocab").source().files:
        if file.urls[0].endswith(file.name):
            tiktoken.load.read_file_cached(file.urls[0], file.sha256)  # without a network
    assert main(["check", "gpt2-vocab"]) == 0


# ---- in several processes --------------------------------------------------------------------


def test_killed_in_the_middle_then_again(server, start):
    size = len(server.pages[MODEL].content)
    server.pages[MODEL].faults.append(stall(0.6, Event()))
    killed = start("fetch", "tiny")
    until(lambda: arrived() == int(0.6 * size))
    killed.kill()
    killed.wait()
    assert arrived() == int(0.6 * size)  # nothing that came was lost

    again = start("fetch", "tiny")
    out, err = again.communicate()
    assert (again.returncode, out) == (0, f"{model_folder('tiny')}\n"), err
    assert main(["check", "tiny"]) == 0
    last = [request for request in server._log if request.path == MODEL][-1]
    assert (last.status, last.range) == (206, f"bytes={int(0.6 * size)}-")
    assert last.sent == size - int(0.6 * size)
    assert [r.path for r in server._log].count("/huggingface/config.json") == 1


def test_two_at_once_fetch_each_file_once(server, start):
    go = Event()
    server.pages[MODEL].faults.append(stall(0.6, go))
    first = start("fetch", "tiny")
    until(lambda: arrived() > 0)
    second = start("fetch", "tiny")
    assert second.stderr is not None
    assert "Another process is writing into" in second.stderr.readline()
    assert second.poll() is None
    go.set()
    for process in (first, second):
        out, err = process.communicate()
        assert (process.returncode, out) == (0, f"{model_folder('tiny')}\n"), err
    paths = [request.path for request in server.log]
    assert paths.count(MODEL) == paths.count("/words/words.json") == 1


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT. Run it on Linux or macOS")
def test_ctrl_c_keeps_what_came(server, start):
    server.pages[MODEL].faults.append(stall(0.6, Event()))
    process = start("fetch", "tiny")
    until(lambda: arrived() > 0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert not out and "Traceback" not in err
    assert arrived() > 0


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal. Run it on Linux or macOS")
def test_a_terminal_shows_progress(server, tmp_path):
    import fcntl
    import pty
    import struct
    import termios

    code = (
        "import sys; from pathlib import Path; from weights import manifest;"
        f"manifest.TABLE = Path({str(tmp_path / 'manifest.json')!r});"
        "from weights.__main__ import main; sys.exit(main(['fetch', 'tiny']))"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 10**6).decode()
    os.close(ours)
    assert process.returncode == 0
    assert "\rmodel.safetensors: " in shown and "/399k" in shown
