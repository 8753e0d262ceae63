"""From a clone to a command: lazy exports, siblings, the Makefile's stamps, the wheel."""

import importlib
import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("weights", "connector", "gpt2_scratch", "captioning", "chapters")


def run(*command, cwd, **env) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MAKE", "MFLAGS"))}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean | env, capture_output=True, text=True
    )


# --- lazy exports -----------------------------------------------------------------------------


def test_an_export_wins_over_the_module_of_its_name():
    drawing = importlib.import_module("captioning.scenes.draw")  # Python binds it on its package
    generation = importlib.import_module("gpt2_scratch.generate")
    from captioning.scenes import draw
    from gpt2_scratch import generate

    assert draw is drawing.draw
    assert generate is generation.generate


def test_an_export_follows_a_swapped_class(monkeypatch):
    import gpt2_scratch
    import gpt2_scratch.config

    class Swapped: ...

    assert gpt2_scratch.GPT2Config is gpt2_scratch.config.GPT2Config
    monkeypatch.setattr(gpt2_scratch.config, "GPT2Config", Swapped)
    assert gpt2_scratch.GPT2Config is Swapped


def test_a_package_lists_its_exports_and_refuses_others():
    import gpt2_scratch

    assert set(gpt2_scratch.__all__) <= set(dir(gpt2_scratch))
    with pytest.raises(AttributeError, match=r"'gpt2_scratch' has no attribute 'GPT3'"):
        _ = gpt2_scratch.GPT3


# --- siblings ---------------------------------------------------------------------------------


PAIRS = [
    (package, shadow)
    for package in ("connector", "gpt2_scratch", "captioning", "chapters")
    for shadow in ("weights", "connector", "chapters")
    if package != shadow
]


@pytest.mark.parametrize(("package", "shadow"), PAIRS)
def test_a_sibling_from_another_tree_is_named(package, shadow, tmp_path):
    stranger = tmp_path / shadow / "__init__.py"
    stranger.parent.mkdir()
    stranger.touch()
    found = run(
        *(sys.executable, "-c", f"import {package}"),
        cwd=tmp_path,
        PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]),
    )
    assert found.returncode == 1
    last = found.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert package in last and str(stranger) in last and "rename" in last


def test_another_clone_of_this_project_is_a_stranger_too(tmp_path):
    shutil.copytree(
        *(ROOT / "weights", tmp_path / "weights"), ignore=shutil.ignore_patterns("embedded")
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    found = run(sys.executable, "-c", "import gpt2_scratch", cwd=tmp_path, PYTHONPATH=path)
    assert str(tmp_path / "weights") in found.stderr.splitlines()[-1]


def test_a_folder_that_happens_to_be_called_weights_is_none(tmp_path):
    (tmp_path / "weights").mkdir()
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    found = run(sys.executable, "-c", "import captioning", cwd=tmp_path, PYTHONPATH=path)
    assert (found.returncode, found.stderr) == (0, "")


# --- git and make -----------------------------------------------------------------------------


def test_gitignore_hides_no_embedded_weight(tmp_path):
    """Asked of git itself, in a repository that has this .gitignore and nothing else."""
    shutil.copy(ROOT / ".gitignore", tmp_path)
    run("git", "init", "-q", cwd=tmp_path)
    there = [p for p in (ROOT / "weights" / "embedded").rglob("*") if p.is_file()]
    names = [path.relative_to(ROOT).as_posix() for path in there]
    names += [f"weights/embedded/scenes/{name}" for name in ("model.safetensors", "build/x.npz")]

    def hidden(*paths: str) -> list[str]:
        ask = ("git", "-c", "core.excludesFile=/dev/null", "check-ignore", "--", *paths)
        return run(*ask, cwd=tmp_path).stdout.split()

    assert hidden(".venv/pyvenv.cfg", "demo/index.html") == [".venv/pyvenv.cfg", "demo/index.html"]
    assert hidden(*names) == []


# Stands for python3: makes an environment whose python writes down what it is asked to do.
FAKE_PYTHON = """#!/bin/sh
case "$1 $2" in
  "-m venv")
    rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python
    [ -n "$DIE_IN_VENV" ] && exit 1
    touch .venv/bin/activate ;;
  "-m pip") [ -n "$DIE_IN_PIP" ] && [ "$3" = install ] && exit 1 ;;
esac
echo "$*" >> log
"""


@pytest.fixture
def make(tmp_path):
    """`make(target)` in a copy of the Makefile with a stand-in for Python -> what it ran."""
    for name in ("Makefile", "setup.cfg"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "python3").write_text(FAKE_PYTHON)
    (tmp_path / "python3").chmod(0o755)

    def ran(*arguments: str, works: bool = True, **env: str) -> list[str]:
        (tmp_path / "log").write_text("")
        made = run("make", "PYTHON=./python3", *arguments, cwd=tmp_path, **env)
        assert (made.returncode == 0) == works, made.stderr
        steps = (tmp_path / "log").read_text().splitlines()
        return [step for step in steps if not step.startswith(("-c", "-m pip --version"))]

    return ran


VENV, DEMO = "-m venv --clear .venv", "-m captioning demo"
PIP, PIP_TEST = "-m pip install --editable .", "-m pip install --editable .[test]"


def test_make_sets_up_once(make):
    assert make("demo") == [VENV, PIP, DEMO]
    assert make("demo") == [DEMO]
    assert make("test") == [PIP_TEST, "-m pytest -m not slow"]
    assert make("demo") == [DEMO]


def test_make_needs_no_second_installation_for_the_demo(make):
    make("test")
    assert make("demo") == [DEMO]


def test_make_sets_up_again_when_setup_cfg_changes(make, tmp_path):
    make("test")
    (tmp_path / "setup.cfg").touch()
    later = (tmp_path / "setup.cfg").stat().st_mtime + 5  # whatever the file system's clock ticks
    os.utime(tmp_path / "setup.cfg", (later, later))
    assert make("demo")[0] == PIP
    assert make("test")[0] == PIP_TEST


@pytest.mark.parametrize("death", ["DIE_IN_VENV", "DIE_IN_PIP"])
def test_make_recovers_from_an_interrupted_set_up(make, death):
    assert DEMO not in make("demo", works=False, **{death: "1"})
    assert make("demo")[-2:] == [PIP, DEMO]
    assert make("demo") == [DEMO]


def test_make_keeps_a_whole_environment_that_was_there(make, tmp_path):
    make("demo")
    (tmp_path / ".venv" / "made.stamp").unlink()
    assert VENV not in make("demo")
    (tmp_path / ".venv" / "made.stamp").unlink()
    (tmp_path / ".venv" / "bin" / "activate").unlink()
    assert VENV in make("demo")


def test_make_takes_torch_from_another_index_first(make):
    first = "-m pip install --index-url https://index.example torch torchvision"
    assert make("demo", "TORCH_INDEX=https://index.example") == [VENV, first, PIP, DEMO]


def test_make_refuses_an_old_python(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    # The check sees this version in the place of its own.
    old = tmp_path / "python3"
    old.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9, 1)\n$2"\n'
    )
    old.chmod(0o755)
    made = run("make", "demo", "PYTHON=./python3", cwd=tmp_path)
    assert made.returncode != 0
    assert "wanted 3.11 or newer" in made.stderr


# --- the wheel --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing of the build stays in this tree."""
    copy = tmp_path_factory.mktemp("source") / "tree"
    shutil.copytree(
        *(ROOT, copy),
        ignore=shutil.ignore_patterns(
            *(".venv", ".git", ".*_cache", "__pycache__", "build", "dist", "demo", "*.egg-info")
        ),
    )
    build = run(sys.executable, "-m", "build", "--no-isolation", "--wheel", cwd=copy)
    assert build.returncode == 0, build.stdout + build.stderr
    return next((copy / "dist").glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_their_files_alone(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.partition("/")[0] for name in held}
    assert tops == {*PACKAGES, "gpt2_scratch-0.1.0.dist-info"}
    there = [p for p in (ROOT / "weights" / "embedded").rglob("*") if p.is_file()]
    wanted = {path.relative_to(ROOT).as_posix() for path in there}
    assert "weights/embedded/scenes/model.safetensors" in wanted
    assert wanted <= held
    assert {f"{package}/py.typed" for package in PACKAGES} <= held


@pytest.mark.slow
def test_the_installed_wheel_captions_from_any_folder(wheel, tmp_path):
    """In an environment of its own, which only borrows the dependencies of this one."""
    from captioning.scenes import draw

    venv, elsewhere = tmp_path / "venv", tmp_path / "elsewhere"
    made = run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    scripts = venv / ("Scripts" if os.name == "nt" else "bin")
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python")
    installed = run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    where = run(scripts / "python", "-c", "import weights; print(weights.__path__[0])", cwd="/")
    packages = Path(where.stdout.strip()).parent
    assert venv in packages.parents
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()))

    (elsewhere / "weights").mkdir(parents=True)  # a name that people use
    draw(20_000_003).image.save(elsewhere / "scene.png")
    for command in [(scripts / "python", "-m", "captioning"), (scripts / "gpt2-captioning",)]:
        said = run(*command, "caption", "scene.png", cwd=elsewhere)
        assert said.returncode == 0, said.stderr
        picture, caption = said.stdout.rstrip("\n").split("\t")
        assert picture == "scene.png"
        assert caption.startswith("In this ")  # image or picture, by what it took the shape for
    for script, line in [("gpt2-weights", "scenes"), ("gpt2-chapters", "Warm-up")]:
        assert line in run(scripts / script, "list", cwd=elsewhere).stdout
