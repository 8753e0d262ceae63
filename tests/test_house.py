"""The house rules that a machine can read: who imports whom, sizes, silence."""

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("weights", "connector", "gpt2_scratch", "captioning", "chapters")

# What each package may import of ours, and the modules in which alone it may (None: in all).
ENTRY = ("__init__", "__main__")
MAY_IMPORT: dict[str, dict[str, tuple[str, ...] | None]] = {
    "weights": {},
    "connector": {
        "weights": (
            *(*ENTRY, "commands", "loader", "verify", "diagnose", "mistakes", "published"),
            *("raw", "recording", "reference", "sites", "text", "twin", "wrong"),
        )
    },
    "gpt2_scratch": {
        # What reads and writes files, and what compares with files; a run's files are written
        # through weights.store too, as atomically as a model's. The model itself knows no weights.
        "weights": (
            *(*ENTRY, "commands", "loader", "layouts", "tokenizer", "training"),
            *("verify", "diagnose", "mistakes", "published", "raw", "recording", "reference"),
            *("sites", "twin", "wrong"),
        )
    },
    "captioning": {"weights": None, "connector": None, "gpt2_scratch": None},
    "chapters": {"weights": None, "connector": None, "gpt2_scratch": None, "captioning": None},
}
# The floors of captioning: a module imports from its own floor and from those below.
# The world of drawn scenes itself knows no model, so it carries everything else.
FLOORS = (
    ("scenes.draw", "scenes.facts", "scenes.shapes", "scenes.backgrounds"),
    ("config", "model", "presets", "familiarity", "pictures", "metrics", "data", "report"),
    ("build", "trained", "examples"),
    ("evaluate", "many", "training", "web"),
    ("scenes", "systems"),
    ("commands", "demo"),
    ("__main__",),
)
HEAVY = ("torch", "open_clip", "transformers", "torchvision", "timm")


def name_of(path: Path) -> str:
    """`captioning/scenes/draw.py` -> `captioning.scenes.draw`; a package keeps its __init__."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {
    name_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
}
TESTS = {name_of(path): path for path in sorted((ROOT / "tests").rglob("*.py"))}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imports(node: ast.AST, *, deep: bool = True) -> Iterator[str]:
    """Dotted names that a module imports; not `deep`: only what runs at import time."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0 and child.module, "a relative import: write the whole name"
            for alias in child.names:
                whole = f"{child.module}.{alias.name}"
                yield whole if is_ours(whole) else child.module
        elif deep or not (
            isinstance(child, ast.FunctionDef)
            or (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING")
        ):
            yield from imports(child, deep=deep)


def is_ours(name: str) -> bool:
    return name in MODULES or f"{name}.__init__" in MODULES


def floor(module: str) -> int:
    """The floor whose longest entry `module` (within captioning) is or lies under."""
    found = [
        (len(entry), number)
        for number, entries in enumerate(FLOORS)
        for entry in entries
        if f"{module}.".startswith(f"{entry}.")
    ]
    assert found, f"captioning.{module} is on no floor yet: give it one in FLOORS"
    return max(found)[1]


@pytest.mark.parametrize("module", MODULES)
def test_packages_import_one_way(module):
    package, _, inside = module.partition(".")
    for name in imports(tree_of(MODULES[module])):
        other = name.partition(".")[0]
        if other in PACKAGES and other != package:
            assert other in MAY_IMPORT[package], f"{module} may not import {name}"
            only = MAY_IMPORT[package][other]
            allowed = only is None or any(f"{inside}.".startswith(f"{part}.") for part in only)
            assert allowed, f"{module} may not import {name}"
        assert other != "tests", f"{module} may not import {name}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("captioning.")])
def test_the_floors_of_captioning(module):
    inside = module.removeprefix("captioning.")
    if inside.endswith("__init__"):
        return  # exports of its own floor, loaded on use
    for name in imports(tree_of(MODULES[module])):
        other = name.removeprefix("captioning.")
        if other != name:
            assert floor(other) <= floor(inside), f"{module} may not import {name}"


def test_no_two_modules_need_each_other_to_load():
    graph = {
        module: {name for name in imports(tree_of(path), deep=False) if name in MODULES}
        for module, path in MODULES.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_the_scenes_know_no_model():
    for inside in FLOORS[0]:
        module = f"captioning.{inside}"
        known = set(imports(tree_of(MODULES[module])))
        assert not known & set(HEAVY), module
        assert all(n.startswith("captioning.scenes") for n in known if is_ours(n)), module


def test_model_is_one_short_file_by_hand():
    path = MODULES["gpt2_scratch.model"]
    text, tree = path.read_text("utf-8"), tree_of(path)
    assert len(text.splitlines()) <= 300
    known = set(imports(tree)) - {"__future__", "math", "typing", "collections.abc"}
    assert known <= {
        *("torch", "torch.nn"),
        *("gpt2_scratch.cache", "gpt2_scratch.config"),
    }
    ready_made = ("layer_norm", "native_layer_norm", "LayerNorm", "MultiheadAttention")
    ready_made += ("multi_head_attention_forward", "GELU", "gelu", "Linear", "linear")
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.name for node in ast.walk(tree) if isinstance(node, ast.alias)}
    assert not used & set(ready_made)
    for name in ("nn.LayerNorm", "F.layer_norm", "nn.MultiheadAttention", "nn.GELU", "F.gelu"):
        assert name not in text
    assert "transformers" not in text


def test_files_are_short():
    long = {
        name: lines
        for name, path in (MODULES | TESTS).items()
        if (lines := len(path.read_text("utf-8").splitlines())) > 400
    }
    assert not long


def test_docstrings_are_at_most_five_lines():
    for module, path in MODULES.items():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                lines = [line for line in (ast.get_docstring(node) or "").splitlines() if line]
                assert len(lines) <= 5, f"{module}:{node.name} has {len(lines)} lines"


def test_libraries_do_not_print():
    for module, path in MODULES.items():
        if module.endswith((".__main__", ".demo")) or ".commands." in module:
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{module}:{node.lineno} prints"


def test_every_foreign_import_is_declared():
    """What the code imports, `setup.cfg` names: nothing may come from the machine by luck."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")

    def names(section: str, option: str) -> set[str]:
        lines = setup[section][option].splitlines()
        return {line.split()[0].lower() for line in lines if line and not line.startswith("#")}

    distribution = {"PIL": "pillow", "open_clip": "open_clip_torch"}
    declared = names("options", "install_requires")
    ours = {*PACKAGES, "benchmarks", *(path.stem for path in TESTS.values())}
    for module, path in (MODULES | TESTS).items():
        if module.startswith("tests."):
            declared = declared | names("options.extras_require", "test")
        for name in imports(tree_of(path)):
            top = name.partition(".")[0]
            if top == "transformers" and module.endswith(".twin"):
                continue  # asked for by name, and its absence says what to install
            if top not in sys.stdlib_module_names and top not in ours:
                assert distribution.get(top, top).lower() in declared, f"{module} imports {top}"


def test_every_entry_point_is_a_console_script_and_the_reverse():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = setup["options.entry_points"]["console_scripts"].strip().splitlines()
    targets = {line.split("=")[1].strip() for line in declared}
    assert targets == {f"{m}:main" for m in MODULES if m.endswith(".__main__")}


def python(*code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, cwd=ROOT
    )


LIGHT = f"""
loaded = sorted(set({HEAVY!r}) & set(sys.modules))
if loaded: sys.exit(f"loaded: {{loaded}}")
"""


@pytest.mark.parametrize(
    "names",
    [
        ", ".join(PACKAGES),
        "gpt2_scratch.config, connector.config, captioning.config, captioning.presets",
        "captioning.scenes.draw, captioning.scenes.facts",
    ],
)
def test_importing_the_surface_is_light(names):
    run = python(f"import sys, {names}", LIGHT)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


ROOF = MODULES["captioning.__main__"].read_text("utf-8")
HELPS = [["weights", command] for command in ("list", "fetch", "path", "check", "import")]
HELPS += [["weights"], ["chapters"], ["chapters", "list"], ["captioning"]]
HELPS += [["gpt2_scratch", command] for command in ("generate", "convert", "verify", "finetune")]
HELPS += [["connector"], ["connector", "verify"]]
HELPS += [["captioning", command] for command in re.findall(r'subcommand\("([\w-]+)"', ROOF)]


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_help_is_light(command):
    run = python(
        "import runpy, sys",
        f"sys.argv = {[*command, '--help']!r}",
        f"try: runpy.run_module({command[0]!r}, run_name='__main__', alter_sys=True)",
        "except SystemExit as end: assert not end.code",
        "else: sys.exit('no help came')",
        LIGHT,
    )
    assert run.returncode == 0, run.stderr
    assert "usage: " in run.stdout


@pytest.mark.slow
def test_importing_does_nothing():
    modules = [m.removesuffix(".__init__") for m in MODULES if not m.endswith("__main__")]
    run = python(
        "import importlib, os, random, numpy, torch",
        "import open_clip, tiktoken  # what these do at import is their own",
        "def state():",
        "    return (torch.get_rng_state().sum(), random.getstate(), torch.get_num_threads(),",
        "            str(numpy.random.get_state()), torch.get_default_dtype(), dict(os.environ),",
        "            torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled())",
        "torch.set_num_threads(3)  # not what anybody would choose",
        "before = state()",
        f"for module in {modules!r}: importlib.import_module(module)",
        "assert state() == before",
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
