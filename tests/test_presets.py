"""Tasks and presets by name, in a folder with a ``conf/`` of its own and in one without."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from awac_pl.commands.fit import run
from awac_pl.commands.main import main
from awac_pl.commands.presets import conf, expand
from awac_pl.errors import AwacError
from awac_pl.settings_files import shipped

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_become_files_in_the_order_base_task_preset_before_everything_else() -> None:
    files = [f"--config={shipped() / name}.yaml" for name in ("base", "algorithm/awac", "task/door", "preset/plus")]
    last = ["--config=mine.yaml", "--preset=plus", "--model.temperature=2"]
    for names in (["--preset=plus", "--task", "door"], ["--task=door", "--preset", "plus"]):
        assert expand(["fit", last[2], *names, "-c", "mine.yaml"]) == ["fit", *files, *last]
    assert expand(["fit", "--task=door"]) == ["fit", *files[:3]]
    task = "--data.task=my:Robot-v0"
    assert expand(["fit", "--task", "my:Robot-v0", "--preset=plus"]) == ["fit", *files[:2], task, files[3], last[1]]


@pytest.mark.parametrize("arguments", [["fit"], ["fit", "--model.temperature=2"], ["fit", "--config=mine.yaml"]])
def test_everything_else_is_left_alone(arguments: list[str]) -> None:
    assert expand(arguments) == arguments


def test_a_preset_or_an_algorithm_without_a_task_loads_its_file_too() -> None:
    base, iql, plus = (f"--config={shipped() / name}.yaml" for name in ("base", "algorithm/iql", "preset/plus"))
    own = "--config=mine.yaml"
    assert expand(["fit", own, "--preset=plus"]) == ["fit", base, iql.replace("iql", "awac"), plus, own, "--preset=plus"]
    assert expand(["fit", own, "--algorithm=iql"]) == ["fit", base, iql, own, "--algorithm=iql"]


def test_a_preset_chooses_its_algorithm_and_is_refused_with_another() -> None:
    assert main(["init"]) == 0
    Path("conf/preset/mine.yaml").write_text("preset: mine\nalgorithm: iql\nmodel: {expectile: 0.9}\n")
    assert "--config=conf/algorithm/iql.yaml" in expand(["fit", "--task=pen", "--preset=mine"])
    message = "preset 'plus' is for algorithm awac, not iql; preset comparison is for all"
    with pytest.raises(AwacError, match=message):
        run(["fit", "--task=pen", "--algorithm=iql", "--preset=plus"])
    Path("of_iql.yaml").write_text("algorithm: iql\n")
    with pytest.raises(AwacError, match=message):
        run(["fit", "--preset=plus", "--config=of_iql.yaml"])
    assert expand(["fit", "--algorithm=bc", "--config=of_iql.yaml"])[-1] == "--algorithm=bc"  # what is typed is not dropped
    with pytest.raises(AwacError, match=message):  # as MLproject names them
        run(["fit", *(f"--config=conf/{name}.yaml" for name in ("base", "algorithm/iql", "task/pen", "preset/plus"))])


@pytest.mark.parametrize("text", ["[" * 3000 + "]" * 3000, "a: &a [1]\n- b", "\xff"])
def test_a_file_that_is_no_table_is_one_line_from_the_first_reader_on(text: str, capsys: pytest.CaptureFixture) -> None:
    """The algorithm is looked for before the files are checked."""
    Path("mine.yaml").write_bytes(text.encode("latin-1"))
    assert main(["fit", "--task=pen", "--config=mine.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("awac: error: mine.yaml ")


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_the_help_begins_with_examples_of_commands_that_exist(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = capsys.readouterr().out.partition("options:\n")
    examples = [line.split() for line in text[0].splitlines() if line.startswith(f"  awac {command} ")]
    options = {word for words in examples for word in words if word.startswith("--")}
    assert options
    assert options <= {*re.findall(r"--[\w.]+", text[2]), "--task"}
    assert ("--task NAME" in text[0]) == (command == "fit")


def test_a_preset_of_ones_own_names_its_runs() -> None:
    """Whatever the file itself says: it may be a copy of another one."""
    assert main(["init"]) == 0
    for text in ("", "preset: quick\n"):
        Path("conf/preset/mine.yaml").write_text(f"{text}model: {{temperature: 2.0}}\n")
        assert expand(["fit", "--preset=mine", "--model.discount=0.9"])[-3:] == [
            "--config=conf/preset/mine.yaml", "--preset=mine", "--model.discount=0.9"
        ]  # fmt: skip


def test_quick_is_the_short_form_of_plus() -> None:
    """It has the value gradient of ``plus``'s pretraining throughout."""
    quick, plus = (yaml.safe_load((shipped() / f"preset/{name}.yaml").read_text()) for name in ("quick", "plus"))
    plus["model"]["value_gradient"] = plus["model"].pop("offline_value_gradient")
    del plus["model"]["value_gradient_epochs"]
    assert (quick["data"], quick["model"]) == (plus["data"], plus["model"])
    assert quick["trainer"]["max_epochs"] < plus["trainer"]["max_epochs"]


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(AwacError, match=r"unknown preset 'plsu': no file .*plsu.yaml. Did you mean 'plus'\?"):
        run(["fit", "--task=pen", "--preset=plsu"])


def test_init_writes_what_is_shipped_and_overwrites_nothing(empty_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert conf() == shipped()
    assert main(["init"]) == 0
    assert conf() == Path("conf")
    written = {path.relative_to(empty_folder / "conf"): path.read_text() for path in empty_folder.rglob("*.yaml")}
    assert written == {path.relative_to(shipped()): path.read_text() for path in shipped().rglob("*.yaml")}
    assert "awac fit --task pen --preset quick" in capsys.readouterr().out
    Path("conf/base.yaml").write_text("mine")
    assert main(["init"]) == 2
    assert capsys.readouterr().err == "awac: error: conf: exists already; nothing is overwritten\n"
    assert Path("conf/base.yaml").read_text() == "mine"


def test_a_run_starts_where_there_is_no_conf(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--task=door", "--preset=plus", "--model.temperature=2", "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["data"]["task"], config["preset"], config["model"]["temperature"]) == ("door", "plus", 2.0)
    assert config["model"]["normalize_observations"] is True


def test_the_wheel_ships_conf() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"conf": "awac_pl/conf"}


def test_modules_of_the_working_folder_are_found_behind_all_others(empty_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(empty_folder))])
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert sys.path[-1] == str(empty_folder)


def test_init_writes_into_another_folder(empty_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["init", "robots/hand"]) == 0
    assert [path.name for path in empty_folder.iterdir()] == ["robots"]
    assert (empty_folder / "robots/hand/conf/base.yaml").is_file()
    assert "next:\n  cd robots/hand\n  awac fit" in capsys.readouterr().out
    Path("conf").symlink_to("not-mounted")
    assert main(["init"]) == 2
    assert capsys.readouterr().err == "awac: error: conf: exists already; nothing is overwritten\n"


def test_of_two_names_the_last_one_counts() -> None:
    names = ["--task=pen", "--preset=plus", "--task=door", "--preset=quick"]
    assert expand(["fit", *names]) == expand(["fit", "--task=door", "--preset=quick"])


@pytest.mark.parametrize("flag", ["--task", "--preset", "--config", "--run_dir", "--ckpt_path"])
def test_resume_stands_beside_no_other_configuration(flag: str) -> None:
    with pytest.raises(AwacError, match=f"--resume here takes the run's own configuration and folder; leave out {flag}$"):
        expand(["fit", "--resume", "here", flag, "other"])


@pytest.mark.parametrize("flag", ["--config", "-c"])
def test_an_evaluation_with_its_own_configuration_takes_no_other(flag: str, wide_run: Path) -> None:
    checkpoint = f"--ckpt_path={wide_run / 'checkpoints/last.ckpt'}"
    assert expand(["test", checkpoint]) == ["test", f"--config={wide_run / 'config.yaml'}", checkpoint]
    assert expand(["test", checkpoint, flag, "mine.yaml"]) == ["test", "--config=mine.yaml", checkpoint]


def test_resume_takes_no_other_file_by_its_short_name_either() -> None:
    with pytest.raises(AwacError, match="leave out --config"):
        expand(["fit", "--resume", "here", "-c", "mine.yaml"])


@pytest.mark.parametrize("command", ["fit", "sweep"])
def test_a_quotation_without_an_end_gets_one_line(command: str, capsys: pytest.CaptureFixture) -> None:
    assert main([command, *(["--dry_run"] if command == "sweep" else []), "--overrides", "--group=it's"]) == 2
    assert capsys.readouterr().err == "awac: error: --overrides --group=it's: No closing quotation\n"


def test_init_names_a_folder_that_a_shell_understands(capsys: pytest.CaptureFixture) -> None:
    assert main(["init", "my hand"]) == 0
    assert "  cd 'my hand'\n" in capsys.readouterr().out
