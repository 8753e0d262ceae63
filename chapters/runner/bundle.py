"""The learner's GPT-2 as one file of their own code, which runs without this project.

Their definitions in order, what they rest on (their helpers, and of the package what is no
exercise: the config, the cache), the imports of all, and a few given lines that read safetensors.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Sequence
from pathlib import Path

from chapters.runner import source, stub
from chapters.runner.catalog import Entry
from chapters.runner.outcome import Outcome

GIVEN = '''
def load(folder):
    """A GPT2 from config.json and model.safetensors in Hugging Face's layout."""
    import json
    import pathlib

    from safetensors.torch import load_file

    folder = pathlib.Path(folder)
    known = json.loads((folder / "config.json").read_text("utf-8"))
    config = GPT2Config(
        n_vocab=known.get("n_vocab", known.get("vocab_size")),
        n_ctx=known.get("n_ctx", known.get("n_positions")),
        n_embd=known["n_embd"],
        n_head=known["n_head"],
        n_layer=known["n_layer"],
    )
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        name = name.removeprefix("transformer.")
        if name.endswith((".attn.bias", ".attn.masked_bias")) or name == "lm_head.weight":
            continue  # the causal mask of old files; the head is wte
        layer, _, leaf = name.rpartition(".")
        if layer not in ("wte", "wpe"):
            norm = layer.rpartition(".")[2].startswith("ln_")
            leaf = {"weight": "g" if norm else "w", "bias": "b"}.get(leaf, leaf)
        tensors[f"{layer}.{leaf}"] = tensor
    model = GPT2(config)
    for name, each in model.state_dict(keep_vars=True).items():
        if each is model.wte.weight:  # a head that is tied to it, under a second name
            tensors[name] = tensors["wte.weight"]
    model.load_state_dict(tensors)
    return model.eval()


def main(folder, oracle=None):
    """Greedy ids after a few; with an oracle.npz, its logits against this model's."""
    import numpy

    model = load(folder)
    with torch.no_grad():
        if oracle is None:
            ids = torch.arange(5)[None]
            while ids.shape[1] < 17:
                ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], 1)
            print(ids[0].tolist())
            return 0
        worst = 0.0
        with numpy.load(oracle) as held:
            for name in [name for name in held.files if name.endswith("tokens")]:
                wanted = name.removesuffix("tokens") + "logits"
                if wanted in held.files:
                    got = model(torch.from_numpy(held[name])).numpy()
                    worst = max(worst, float(abs(got - held[wanted]).max()))
    print(f"logits: at most {worst:.1e} from {oracle}")
    return int(worst > 1e-3)


if __name__ == "__main__":
    import sys

    sys.exit(main(*sys.argv[1:]))
'''
LOCAL = ("gpt2_scratch", "chapters", "weights")


class _Bundle:
    """Definitions by name, each once, in the order in which they are needed."""

    def __init__(self, learners: dict[str, tuple[Path, ast.Module, str]]) -> None:
        self.learners = learners  # exercise -> file, its tree, its text
        self.imports: dict[str, None] = {}
        self.parts: list[str] = []
        self.where: dict[str, str] = {}  # name -> the file or module that it is from
        self.added: set[str] = set()

    def add_learner(self, name: str) -> None:
        if name in self.added:
            return
        self.added.add(name)
        path, tree, text = self.learners[name]
        others = {each for each in self.learners if each != name}
        self._add(str(path), tree, text, name, others)

    def add_given(self, module: str, name: str) -> None:
        text, tree = stub.read(module)
        self._add(module, tree, text, name, set(self.learners))

    def _add(
        self, origin: str, tree: ast.Module, text: str, name: str, others: Collection[str]
    ) -> None:
        nodes = stub.closure(tree, name, others)
        used = stub.names_in(nodes)
        self._import(tree, used, origin)
        for other in sorted(others):  # an exercise of the same file that this one is built on
            if other in used and stub.definition(tree, other):
                self.add_learner(other)
        for node in nodes:
            for bound in stub.bound(node):
                before = self.where.setdefault(bound, origin)
                if before != origin:
                    raise ValueError(
                        f"`{bound}` is in {before} and in {origin}: in one file they would be one."
                        " Give one of them another name."
                    )
            part = stub.text_of(text, node)
            if part not in self.parts:
                self.parts.append(part)

    def _import(self, tree: ast.Module, used: set[str], origin: str) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if (alias.asname or alias.name).split(".")[0] not in used:
                        continue
                    if alias.name.split(".")[0] in LOCAL:
                        raise ValueError(
                            f"{origin}, line {node.lineno}: `{ast.unparse(node)}` can't come along."
                            " Import the names that you need: from ... import ..."
                        )
                    self.imports[ast.unparse(ast.Import([alias]))] = None
            elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
                for alias in node.names:
                    if (alias.asname or alias.name) in used:
                        self._from(node, alias)

    def _from(self, node: ast.ImportFrom, alias: ast.alias) -> None:
        module = node.module or ""
        if module.split(".")[0] not in LOCAL and not self._is_a_file(module):
            self.imports[ast.unparse(ast.ImportFrom(module, [alias], 0))] = None
            return
        if alias.name in self.learners:
            self.add_learner(alias.name)
        elif module.split(".")[0] in LOCAL:
            self.add_given(module, alias.name)
        else:
            raise ValueError(
                f"{module}.py is a helper of yours: move `{alias.name}` beside its use."
            )
        if alias.asname and alias.asname != alias.name:
            self.parts.append(f"{alias.asname} = {alias.name}")

    def _is_a_file(self, module: str) -> bool:
        folders = {path.parent for path, _, _ in self.learners.values()}
        return any((folder / f"{module}.py").is_file() for folder in folders)


def bundle(mine: list[tuple[Entry, Path]], others: Sequence[tuple[Entry, Path]] = ()) -> str:
    """The text of the file. ValueError where something of it would not run alone.

    `others` are exercises of the learner's that come along only where `mine` are built on them.
    """
    learners = {}
    for entry, path in [*others, *mine]:
        found = source.read(entry, path)
        if isinstance(found, Outcome):
            raise ValueError(f"{entry.id} {entry.name}: {' '.join(found.says)}")
        learners[entry.name] = (path, found.tree, found.text)
    made = _Bundle(learners)
    for entry, _ in mine:
        made.add_learner(entry.name)
    for module, name in (("gpt2_scratch.model", "GPT2"), ("gpt2_scratch.config", "GPT2Config")):
        if name not in made.where:
            made.add_given(module, name)
    made.imports["import torch"] = None
    used = {entry.id: entry for entry, _ in [*mine, *others] if entry.name in made.added}
    ids = ", ".join(f"{used[key].id} {used[key].name}" for key in sorted(used))
    head = (
        '"""My GPT-2, written by me.\n\n'
        f"Put together from my exercises: {ids}.\nRun: python THIS_FILE FOLDER [ORACLE.npz]\n"
        '"""\n\nfrom __future__ import annotations\n\n'
    )
    return (
        head
        + "\n".join(sorted(made.imports))
        + "\n\n\n"
        + "\n\n\n".join([*made.parts, GIVEN.strip()])
        + "\n"
    )
