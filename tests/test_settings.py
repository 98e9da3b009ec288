"""Values out of their range: refused in one line, from the command line, a file or Python, before anything starts."""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
import torch

from awac_pl import AWAC, EnvironmentInteraction, ReplayDataModule
from awac_pl.algorithms.critics import CriticEnsemble
from awac_pl.callbacks.video_recorder import VideoRecorder
from awac_pl.commands.main import main
from awac_pl.commands.parser import SECTIONS, check_ranges
from awac_pl.errors import AwacError, SettingError
from awac_pl.settings import Range, check_memory, settings_of
from awac_pl.settings_files import read_table
from tests.conftest import REACH, ROOT

NAN, INF = math.nan, math.inf
#: Values that each setting refuses, beside text, nan, inf, a list, a table and a whole number of 400 digits.
WRONG: dict[str, Sequence[Any]] = {
    "model.observation_dim": [0, -1, 1.5],
    "model.action_dim": [0, -1, 1.5],
    "model.return_range": [[0.0], [-1.0, NAN], [1, 2, 3], 5],
    "model.critic_hidden_sizes": [[0], [-1], [1.5], ["x"], 256, [True]],
    "model.num_critics": [0, -1, 1.5, 10**6, None],
    "model.critic_max_output": [],
    "model.polyak": [0, -1, 2, None],
    "model.temperature": [0, -1, None],
    "model.advantage_clip": [-1],
    "model.max_weight": [0, -1],
    "model.baseline_samples": [0, -1, 1.5, 10**6],
    "model.value_gradient": [-1, None],
    "model.offline_value_gradient": [-1],
    "model.value_gradient_epochs": [-1, 0.5],
    "model.actor_hidden_sizes": [[0], [-1], [1.5], ["x"], 256],
    "model.log_std_range": [[-6], [-6, 1000], [-INF, 0], [NAN, 0], [-6, 0, 1], ["a", "b"]],
    "model.initial_std": [0, -1, None],
    "model.discount": [-0.1, 1.0, 2, None],
    "model.normalize_critics": [-0.1, 1.1, True, None],
    "model.actor_average": [-1, 2],
    "model.learning_rate": [0, -1, 1e9, None],
    "model.actor_weight_decay": [-1, 2],
    "data.datasets": ["awac/pen/expert-v0", {"a": 0.0}, {"a": NAN}, {"a": -1}, {"a": "x"}, [1], None],
    "data.num_demonstrations": [0, -1, 1.5],
    "data.train_split": [0, -1, 1.5, None],
    "data.clone_episodes": [0, -1, 10**9],
    "data.clone_seed": [-1, 1000],
    "data.horizon": [0, -3],
    "data.n_step": [0, -1, 1.5],
    "data.batch_size": [0, -1, 1.5, None],
    "data.offline_batch_size": [0, -1],
    "data.offline_ratio": [-0.1, 1.1],
    "data.demonstration_ratio": [-0.1, 1.1],
    "data.chunk_size": [0, -1, None],
    "data.updates_per_epoch": [0, -1],
    "data.offline_epochs": [-1, 1.5],
    "data.capacity": [0, -1, 10**20],
    "data.evaluation_episodes": [0, -1],
    "data.milestone_episodes": [0, -1],
    "data.workers": [-1, 1.5, 10**6],
    "data.episode_timeout": [0, -1],
    "data.discount": [1.0, -1],
    "data.seed": [-1, 1000, True],
    "interaction.env_steps_per_epoch": [0, -1],
    "interaction.random_env_steps": [-1, 0.5, "x"],
    "interaction.max_failed_episodes": [-1],
    "video.episodes": [-1, 1000],
    "video.every": [0, -1],
    "video.size": [0, -16, 10**6],
    "video.every_n_evaluations": [-1],
}
ALWAYS = ["x", "", NAN, INF, -INF, [NAN], [[1]], {"a": "b"}, 10**400, -(10**400)]


def leaves(hint: Any) -> list[Any]:
    """The types without alternatives in a type; a number with its range is one of them."""
    parts = [] if get_origin(hint) is Annotated else [part for part in get_args(hint) if not isinstance(part, str)]
    return [leaf for part in parts for leaf in leaves(part)] if parts else [hint]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_number_has_a_range_and_stands_in_the_table(section: str) -> None:
    for name, hint in settings_of(SECTIONS[section]).items():
        key = f"{section}.{name}"
        numbers = [leaf for leaf in leaves(hint) if leaf in (int, float) or get_origin(leaf) is Annotated]
        assert bool(numbers) == (key in WRONG), key
        bare = [leaf for leaf in numbers if leaf in (int, float)]
        assert not bare or key in ("model.critic_max_output", "model.return_range"), key  # any finite number


@pytest.mark.parametrize("key", WRONG)
def test_values_out_of_range(key: str) -> None:
    section, _, name = key.partition(".")
    for value in [*WRONG[key], *ALWAYS]:
        config: dict[str, Any] = {one: {} for one in SECTIONS} | {section: {name: value}}
        with pytest.raises(SettingError) as refused:
            check_ranges(config)
        line = str(refused.value)
        assert re.fullmatch(rf"{re.escape(key)} is .*; it must be .+", line), line
        assert len(line) < 200


def test_numbers_of_the_trainer() -> None:
    for name in ("max_epochs", "min_epochs", "max_steps", "min_steps", "num_sanity_val_steps", "log_every_n_steps"):
        with pytest.raises(SettingError, match=rf"^trainer\.{name} is -7; it must be a whole number in .* or null$"):
            check_ranges({one: {} for one in SECTIONS} | {"trainer": {name: -7}})


def test_flags_and_choices() -> None:
    for section, cls in SECTIONS.items():
        for name, hint in settings_of(cls).items():
            if bool in leaves(hint) or any("Literal" in str(get_origin(leaf)) for leaf in leaves(hint)):
                for value in ("", 2, NAN, [], None):
                    with pytest.raises(SettingError, match=rf"^{section}\.{name} is "):
                        check_ranges({one: {} for one in SECTIONS} | {section: {name: value}})


def test_ranges_in_words() -> None:
    texts = [str(one) for one in (Range(0, 1), Range(0, 1, open="low"), Range(0, 1, open="high"), Range(0, open="low"))]
    assert texts == ["in [0, 1]", "in (0, 1]", "in [0, 1)", "above 0"]
    assert str(Range(3)) == "of at least 3"
    with pytest.raises(SettingError) as refused:
        check_ranges({one: {} for one in SECTIONS} | {"data": {"num_demonstrations": 0}})
    assert str(refused.value) == ("data.num_demonstrations is 0; it must be a whole number in [1, 1000000000] or null")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "model.temperature is -1; it must be a number above 0"),
        ({"discount": 1.0}, r"model.discount is 1.0; it must be a number in \[0, 1\)"),
        ({"weight_form": "sofmax"}, "model.weight_form is sofmax; it must be one of softmax, exp"),
        ({"log_std_range": (0.0, -6.0)}, r"model.log_std_range is \[0.0, -6.0\]; the lower bound must come first"),
        ({"initial_std": 2.0}, r"model.initial_std is 2.0; it must lie in \(exp\(-6.0\), exp\(0.0\)\)"),
        ({"actor_hidden_sizes": [10**6, 10**6]}, r"model.actor_hidden_sizes \[1000000, 1000000\] needs .* GiB of memory"),
        ({"critic_hidden_sizes": [10**6, 10**6]}, r"model.critic_hidden_sizes .* needs 29,80. GiB of memory; there are "),
    ],
)
def test_python_refuses_them_too(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        AWAC(observation_dim=2, action_dim=1, **options)


def test_the_other_classes_refuse_them_too() -> None:
    with pytest.raises(ValueError, match=r"interaction.env_steps_per_epoch is 0; "):
        EnvironmentInteraction(env_steps_per_epoch=0)
    with pytest.raises(ValueError, match=r"video.every is 0; "):
        VideoRecorder(every=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": -1}, "data.batch_size is -1; it must be a whole number in "),
        ({"batch_size": 10**9, "chunk_size": 10}, "data.batch_size 1000000000 times data.chunk_size 10 needs "),
        ({"offline_batch_size": 10**9}, "data.batch_size 1000000000 times data.chunk_size 50 needs "),
        ({"capacity": 10**12}, "data.capacity 1000000000000 needs "),
        ({"n_step": 10**9}, "data.n_step is 1000000000; an episode has 10 steps at most"),
        ({"updates_per_epoch": 30}, "data.updates_per_epoch 30 is no multiple of data.chunk_size 50"),
        ({"self_imitation": True}, "data.self_imitation is true; it needs a data.demonstration_ratio"),
        ({"datasets": []}, "data.datasets is empty"),
        ({"device": "banana"}, "data.device is banana; use auto, cpu, or a device of this machine"),
    ],
)
def test_what_does_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        ReplayDataModule(**{"task": REACH, "datasets": ["toy/reach-v0"], **options})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"^data.device is cuda; use auto, cpu, or a device of this machine "):
        ReplayDataModule(task=REACH, datasets=["toy/reach-v0"], device="cuda")


def test_memory() -> None:
    check_memory("this", 1 << 20)
    with pytest.raises(SettingError, match=r"^this needs 1,048,576 GiB of memory; there are \d+"):
        check_memory("this", 1 << 50)


def test_meta_networks_need_no_memory() -> None:
    with torch.device("meta"):
        assert CriticEnsemble(2, 1, (64, 64)).weights[0].shape == (2, 3, 64)


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line that the command line answers with."""
    assert main(list(arguments)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    return line.removeprefix("awac: error: ")


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--model.temperature=-1", "model.temperature is -1.0; it must be a number above 0"),
        ("--model.temperature=", "model.temperature is ''; it must be a number above 0"),
        ("--seed_everything=-1", "seed_everything is -1; it must be a whole number in [0, 999]"),
        ("--model.actor_hidden_sizes=x",
         "model.actor_hidden_sizes is x; it must be a list, each a whole number in [1, 1000000000]"),
        ("--trainer.max_epochs=1e9", "trainer.max_epochs is 1e9; it must be a whole number or null"),
        ("--checkpoint.every_n_epochs=2",
         "checkpoint.every_n_epochs is always that of trainer.check_val_every_n_epoch; set trainer.check_val_every_n_epoch"),
    ],
)  # fmt: skip
def test_the_command_line(argument: str, line: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, "fit", "--task=pen", argument) == line
    assert not list(tmp_path.iterdir())


def test_a_value_in_a_file(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("data:\n  datasets: {awac/pen/expert-v0: .nan}\n")
    line = refused(capsys, "fit", f"--config={ROOT / 'conf/base.yaml'}", "--config=mine.yaml")
    assert line == (
        "data.datasets is {'awac/pen/expert-v0': nan}; it must be a list, each text or a table, each value a number above 0"
    )


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no table of settings: it is empty"),
        (b"# nothing\n", "is no table of settings: it is empty"),
        (b"- a\n- b\n", "is no table of settings: it holds a list"),
        (b"hello\n", "is no table of settings: it holds one value"),
        ("data:\n  task: caf\u00e9\n".encode("latin-1"), "it is not UTF-8 text"),
        (bytes(range(256)), "it is not UTF-8 text"),
        (b"\x00\x01\x02", "cannot be read: "),
        (b"seed_everything: " + b"1" * 5000, "Exceeds the limit"),
        (b"data: [1, 2\n", "cannot be read: .* in line 2"),
        (b"a: &a [*a]", r"the alias \*a in line 1 stands for nothing before it"),
        (LAUGHS.encode(), "more than 50,000 values, or 100 levels, at line 5, with every alias unfolded"),
        (b"a: " + b"[" * 200 + b"]" * 200, "more than 50,000 values, or 100 levels, at line 1"),
        (b"a: " + b"[" * 100_000, "more than 50,000 values, or 100 levels, at line 1"),
        (b"a: !!python/object:os.system {}", "cannot be read: "),
        (b"x" * (5 << 20), "5 MiB are more than settings need"),
    ],
    ids=range(15),
)  # fmt: skip
def test_files_of_settings(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(AwacError, match=f"^{re.escape(str(path))} .*{message}[^\n]*$"):
        read_table(path)


def test_good_files_of_settings(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text("a: &a {b: 1}\nc: {<<: *a, d: [*a, *a]}\n")
    assert read_table(path) == {"a": {"b": 1}, "c": {"b": 1, "d": [{"b": 1}, {"b": 1}]}}


def test_fit_names_a_bad_file(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("laughs.yaml").write_text(LAUGHS)
    Path("folder").mkdir()
    assert refused(capsys, "fit", "--config=laughs.yaml").startswith("laughs.yaml cannot be read: more than ")
    assert refused(capsys, "fit", "--task=pen", "--data=laughs.yaml").startswith("laughs.yaml cannot be read: more than ")
    assert (
        refused(capsys, "fit", "--config", "folder")
        == "unknown configuration 'folder': is a folder folder. There is: laughs."
    )
    os.mkfifo("pipe")  # as a shell's <(…) is one
    assert refused(capsys, "fit", "--config=pipe").startswith(
        "--config pipe is a pipe or a device, and settings are read more"
    )


#: Every number that a command takes, and values that it refuses.
ARGUMENTS = {
    "video --ckpt_path=x": {
        "--episodes": "0 -1 x 1.5", "--every": "0 -1", "--workers": "-1 2000", "--size": "0 x 100", "--seeds": "x",
    },
    "deploy x --env=pen --action_limits=contract": {"--episodes": "0 x", "--rate": "0 -1 nan inf x", "--seed": "-1 x"},
    "data subsample a/b-v0 --task=pen --to=c/d-v0": {"--episodes": "0 -1 1.5", "--random": "-1 x"},
    "data split a/b-v0 --task=pen --to c/d-v0 e/f-v0": {"--share": "-1 2 nan x 0 1", "--seed": "-1 99999999999"},
    "data record x --task=pen --to=c/d-v0": {"--episodes": "0 -1", "--workers": "-1", "--seed": "-1 1000"},
    "serve x": {"--port": "-1 x 65536", "--max_body_mib": "0 nan", "--body_seconds": "-1 inf"},
    "data clone pen": {
        "--horizon": "0 -3 x", "--episodes": "0", "--num_demonstrations": "0 -1 x", "--workers": "-1", "--seed": "-1",
    },
}  # fmt: skip


@pytest.mark.parametrize("command", ARGUMENTS)
def test_numbers_of_the_other_commands(command: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for option, values in ARGUMENTS[command].items():
        for value in values.split():
            line = refused(capsys, *command.split(), f"{option}={value}")
            assert line.startswith(option), line
            assert value.removesuffix(".5") in line
            assert not list(tmp_path.iterdir())


def test_mistakes_of_the_other_commands_are_one_line_too(capsys: pytest.CaptureFixture) -> None:
    assert refused(capsys, "dtaa") == (
        "command is dtaa; it must be one of fit, validate, test, sweep, init, sync, data, video, export, deploy, serve, "
        "report, completion, record"
    )
    assert refused(capsys, "export") == "the following arguments are required: --ckpt_path, --to (awac export --help)"
    assert refused(capsys, "data", "list", "--all") == "unrecognized arguments: --all (awac data --help)"


def test_paths_that_cannot_be_are_one_line_too(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    long = "x" * 5000
    assert refused(capsys, "report", long) == f"{'x' * 200}…: File name too long"
    Path("file").touch()
    Path("loop").symlink_to("loop")
    assert "loop" in refused(capsys, "report", "loop")
    (tmp_path / "small.yaml").write_text("data: {task: pen, datasets: [awac/pen/expert-v0]}")
    base = [f"--config={ROOT / 'conf/base.yaml'}", "--config=small.yaml"]
    assert (
        refused(capsys, "fit", *base, "--run_dir=file")
        == "run folder file cannot be used (File exists); pass another --run_dir"
    )
    line = "run folder file/run cannot be used (Not a directory); pass another --run_dir"
    assert refused(capsys, "fit", *base, "--run_dir=file/run") == line
    assert (
        refused(capsys, "fit", *base, "--run_dir=loop")
        == "run folder loop cannot be used (File exists); pass another --run_dir"
    )
    assert refused(capsys, "data", "inspect", f"{long}.npz", "--task", "pen") == f"{'x' * 200}…: File name too long"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "a file or process: Too many open files"),
        (OSError(errno.EIO, "Input/output error", "runs/a/metrics.csv"), "runs/a/metrics.csv: Input/output error"),
        (MemoryError(), "there is not enough memory (MemoryError); free some, or raise the limit (ulimit -v)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "there is not enough memory (Defau"),
        (ImportError("x.so: failed to map segment from shared object"), "there is not enough memory (x.so: failed"),
        (AwacError("no answer of http://robot:s3cret@host:5000"), "no answer of http://host:5000"),
    ],
)
def test_what_the_machine_lacks_is_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    def fails(command: str, arguments: list[str], is_program: bool) -> int:
        raise error

    monkeypatch.setattr("awac_pl.commands.main._run", fails)
    assert refused(capsys, "report").startswith(line)
