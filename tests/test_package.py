"""What a wheel carries, and the command that it installs; `make package` tries a real one."""

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from ssmrl import cli, experiment

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_memories_need_four_packages():
    names = [line.partition(">=")[0] for line in PROJECT["project"]["dependencies"]]
    assert names == ["jax", "flax", "numpy", "jaxtyping"]


def test_the_wheel_has_the_configurations_where_the_package_looks(tmp_path, monkeypatch):
    carried = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for source, target in carried.items():
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / target).symlink_to(ROOT / source)
    monkeypatch.setattr(experiment, "__file__", str(tmp_path / "ssmrl" / "experiment.py"))
    configs = experiment._configs()
    assert configs == tmp_path / "ssmrl" / "configs"
    assert (configs / "train.yaml").is_file()
    from ssmrl.training.cli.commands import _published

    found = _published("popgym_gru.json", tmp_path / "ssmrl" / "configs")
    assert found is not None and found.is_file()


def test_a_checkout_has_them_at_its_top():
    assert experiment.CONFIGS == ROOT / "configs"


def test_what_the_wheel_carries_is_in_the_sources_that_it_is_built_from():
    targets = PROJECT["tool"]["hatch"]["build"]["targets"]
    sources = [path.lstrip("/") for path in targets["sdist"]["include"]]
    assert set(targets["wheel"]["force-include"]) < set(sources)
    assert all((ROOT / path).exists() for path in sources)


def test_the_console_script_is_the_command():
    module, _, name = PROJECT["project"]["scripts"]["ssmrl"].partition(":")
    assert module == "ssmrl.cli" and getattr(cli, name) is cli.main


def test_every_command_has_a_script_that_is_the_same():
    for name in cli.COMMANDS:
        assert f'main(["{name}", *sys.argv[1:]])' in (ROOT / "scripts" / f"{name}.py").read_text()


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_a_command_gets_its_arguments(name, monkeypatch):
    """Each reaches the function behind it with the library's own registries and configurations."""
    seen = {}
    monkeypatch.setattr(
        cli.cli, f"{name}_command", lambda *arguments: seen.update({name: arguments}) or 7
    )
    assert cli.main([name, "a=1", "b=2"]) == 7
    more = {
        "plot": (),
        "diagnose": (experiment.COMPONENTS, experiment.CONFIGS, experiment.diagnose),
        "benchmark": (experiment.COMPONENTS, experiment.CONFIGS, cli.TRAIN),
    }.get(name, (experiment.COMPONENTS, experiment.CONFIGS))
    assert seen == {name: (["a=1", "b=2"], *more)}


def test_an_unknown_command_is_told_its_near_match(capsys):
    assert cli.main(["trian"]) == 2
    assert "error: no command trian; did you mean train?" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_without_a_command_they_are_listed(arguments, capsys):
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in cli.COMMANDS)


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_a_reader_of_the_list_that_has_gone_is_no_traceback(argument, monkeypatch):
    """`ssmrl --help | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    # Unbuffered, as containers have it: the line itself fails, not the flush at the end.
    with open(writing, "w", buffering=1) as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert cli.main([argument]) == 141
        monkeypatch.undo()


def test_a_benchmark_starts_its_trainings_by_the_module():
    done = subprocess.run([*cli.TRAIN, "--misspelt"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.startswith("error: unknown option --misspelt")


def test_the_citation_is_of_this_version():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]
    for path in (ROOT / ".github").rglob("*.yml"):
        assert isinstance(yaml.safe_load(path.read_text()), dict), path


def test_the_image_copies_what_the_wheel_is_built_from():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    carried = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"])
    assert {"ssmrl", "pyproject.toml", "README.md", "LICENSE"} | carried <= copied
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert copied == {line[1:] for line in ignored if line.startswith("!")}
