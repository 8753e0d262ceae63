"""From nothing to text: a GPT-2 of true size fetched, checked, loaded, verified and made to write.

    python benchmarks/whole_chain.py --folder FOLDER --vocabulary FOLDER

The numbers are random, the files in OpenAI's format, the server on this machine; the commands are
those of the README's "I have the real weights". Each is a process of its own; memory is the largest
resident size, pages of mapped files included.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import tyro

from benchmarks.make_openai_folder import VOCABULARY, MakeFolder
from weights.console import run_command

MOST = 20  # lines of a command's own output that are shown
LOAD = "from gpt2_scratch import load_gpt2; load_gpt2({!r})"
# A child's largest resident size begins at its parent's: so the parent is a Python that imports
# nothing, runs the command and says what it took.
WATCH = """
import json, os, sys, time
began = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(child, 0)
end = json.dumps([os.waitstatus_to_exitcode(status), time.perf_counter() - began, used.ru_maxrss])
sys.stderr.write("\\n" + end)
"""


@dataclass(frozen=True)
class WholeChain:
    """Make the files unless they are there, serve them, and run every command on them."""

    folder: Path | None = None
    """Where mirror and cache go, twice the model's size; a temporary folder where not given."""
    vocabulary: Path | None = None
    """A folder with encoder.json and vocab.bpe, or tiktoken's two files; without it, no text."""
    preset: Literal["gpt2-large", "gpt2-xl"] = "gpt2-large"
    """The model: one of those whose files have no published hash, which random numbers miss."""

    def run(self) -> int:
        with TemporaryDirectory() if self.folder is None else nullcontext(self.folder) as place:
            mirror, cache = Path(place).absolute() / "mirror", Path(place).absolute() / "cache"
            files = mirror / self.preset / "openai"
            if not files.exists():
                MakeFolder(out=files, preset=self.preset).run()
            if self.vocabulary:
                put_vocabulary(self.vocabulary, mirror / "gpt2-vocab")
            with serving(mirror) as address:
                env = {**os.environ, "GPT2_SCRATCH_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
                env |= {"GPT2_SCRATCH_MIRROR": address}
                return self.chain(cache, env)

    def chain(self, cache: Path, env: dict[str, str]) -> int:
        """Run the commands in order, print a line of each and the last ones' own output."""
        ours = str(cache / self.preset / "openai")
        words = {
            "fetch": ["-m", "weights", "fetch", self.preset, "--source", "openai"],
            "check": ["-m", "weights", "check", self.preset],
            "load": ["-c", LOAD.format(self.preset)],
            "verify": ["-m", "gpt2_scratch", "verify", ours],
            "verify --against transformers": [
                *("-m", "gpt2_scratch", "verify", ours, "--against", "transformers")
            ],
        }
        if self.vocabulary:
            words["generate"] = [
                *("-m", "gpt2_scratch", "generate", "The meaning of life is"),
                *("--model", self.preset, "--max-new-tokens", "20"),
            ]
        said = {}
        for name, command in words.items():
            code, seconds, peak, said[name] = measured(command, env)
            say(f"{name:<30} exit {code} {seconds:8.1f} s {peak / 1024:9,.0f} MiB")
            if code:
                say(said[name])
                return code
        for name in ("verify", "verify --against transformers", "generate"):
            if name in said:
                lines = said[name].split("\n")
                if len(lines) > MOST:
                    lines[MOST // 2 : -MOST // 2] = ["..."]
                say("\n".join(["", f"{name}:", *lines]))
        return 0


def say(line: str) -> None:
    """A line on stdout, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def measured(words: list[str], env: dict[str, str]) -> tuple[int, float, int, str]:
    """Exit code, seconds, KiB at the most and output of a Python command."""
    watch = [sys.executable, "-S", "-E", "-c", WATCH]
    done = subprocess.run([*watch, sys.executable, *words], env=env, capture_output=True, text=True)
    errors, _, end = done.stderr.rpartition("\n")
    code, seconds, peak = end.strip("[]").split(",")
    said = done.stdout if code == "0" else done.stdout + errors
    return int(code), float(seconds), int(peak), said.strip()


def put_vocabulary(source: Path, folder: Path) -> None:
    """Lay GPT-2's vocabulary out as the mirror has it, from either pair of names."""
    from gpt2_scratch.tokenizer import _find_gpt2_files

    folder.mkdir(parents=True, exist_ok=True)
    for found, name in zip(_find_gpt2_files(source), VOCABULARY, strict=True):
        shutil.copyfile(found, folder / name)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Inside, `folder` is a web site on this machine; its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing: the table is the output."""

    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    sys.exit(run_command(lambda: tyro.cli(WholeChain, description=__doc__).run()))
