"""How the updates are run: what is chosen, and that the choice changes no number."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelPruning
from tensordict import TensorDict

from awac_pl.algorithms import base as module_file
from awac_pl.algorithms.awac import AWAC
from awac_pl.algorithms.bc import BC
from awac_pl.algorithms.compiling import ChunkGraph, choose_mode, compile_function, compiled, find_obstacles
from awac_pl.algorithms.iql import IQL
from awac_pl.algorithms.rlpd import RLPD
from tests.test_module import ACTION_DIM, OBSERVATION_DIM, double_chunk, make_chunk, make_module, no_noise, train
from tests.test_products import needs_onednn

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("asked", "device", "precision", "world_size", "expected", "said"),
    [
        ("auto", CPU, "32-true", 1, "by_hand", ""),
        ("auto", CPU, "64-true", 1, "by_hand", ""),
        ("auto", CPU, "bf16-mixed", 1, "off", ""),
        ("auto", CPU, "32-true", 2, "off", ""),
        ("auto", CUDA, "32-true", 1, "default", ""),
        ("auto", CUDA, "32-true", 2, "off", ""),
        ("auto", CUDA, "bf16-mixed", 1, "off", ""),
        ("graph", CUDA, "32-true", 1, "graph", ""),
        ("graph", CPU, "32-true", 1, "off", "graph needs a CUDA device, not cpu; the updates run eagerly"),
        ("graph", CUDA, "32-true", 2, "off", "graph needs one process"),
        ("graph", CUDA, "bf16-mixed", 1, "off", "graph needs trainer.precision 32-true, not bf16-mixed"),
        ("by_hand", CUDA, "32-true", 1, "off", "by_hand needs a CPU, not cuda; the updates run eagerly"),
        ("by_hand", CPU, "32-true", 2, "off", "by_hand needs one process"),
        ("by_hand", CPU, "bf16-true", 1, "off", "by_hand needs trainer.precision 32-true or 64-true, not bf16-true"),
        ("default", CPU, "32-true", 1, "default", ""),
        ("off", CUDA, "32-true", 1, "off", ""),
    ],
)
def test_what_is_chosen_and_said(caplog, asked, device, precision, world_size, expected, said) -> None:
    assert choose_mode(asked, find_obstacles(device, precision, world_size)) == expected
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)


def test_a_learner_with_a_loss_of_its_own_keeps_it() -> None:
    class Lazy(AWAC):
        def loss(self, batch, *, watch=True):
            loss, metrics = super().loss(batch, watch=watch)
            return 0 * loss, metrics

    module = make_module(actor_weight_decay=0.0)
    module.__class__ = Lazy
    before = module.actor.layers[0].weight.clone()
    train(module, [make_chunk(5)])
    assert module.compile_mode == "off"
    torch.testing.assert_close(module.actor.layers[0].weight, before, rtol=0, atol=0)


class Watching(Callback):
    calls = 0

    def on_after_backward(self, trainer, pl_module) -> None:
        self.calls += 1


def test_whoever_watches_gradients_sees_them() -> None:
    module, callback = make_module(), Watching()
    train(module, [make_chunk(5)], callbacks=[callback])
    assert (module.compile_mode, callback.calls) == ("off", 5)


def test_frozen_weights_stay() -> None:
    module = make_module(actor_weight_decay=0.0)
    module.actor.layers[0].requires_grad_(False)
    before = module.actor.layers[0].weight.clone()
    train(module, [make_chunk(5)])
    assert module.compile_mode == "off"
    torch.testing.assert_close(module.actor.layers[0].weight, before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["temperature", "polyak"])
def test_an_option_may_change_during_a_fit(name: str) -> None:
    class Change(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_) -> None:
            pl_module.options = replace(pl_module.options, **{name: 0.9})

    results = []
    for mode in ("off", "by_hand"):
        module = make_module(compile=mode, temperature=0.1, advantage_clip=None)
        train(module, [make_chunk(5), make_chunk(5, seed=1)], callbacks=[Change()])
        results.append(module.state_dict())
    unchanged = make_module(temperature=0.1, advantage_clip=None)
    train(unchanged, [make_chunk(5), make_chunk(5, seed=1)])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(results[1], unchanged.state_dict(), rtol=1e-4, atol=1e-6)


def test_a_failed_compilation_costs_one_line(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function, **how):
        def fail(*args):
            raise RuntimeError("no compiler\nand a long story")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    double = compiled(lambda value: 2 * value)
    assert [double(1), double(2)] == [2, 4]
    assert caplog.messages == ["model.compile: the compiler failed, the updates run without it: no compiler"]


@pytest.mark.parametrize("first", [0, 3], ids=["at once", "in the middle of a chunk"])
@pytest.mark.parametrize("part", ["forward", "backward"])
def test_a_loss_that_cannot_be_compiled_costs_one_line(caplog, monkeypatch, part: str, first: int) -> None:
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            if part == "forward":
                raise RuntimeError("no compiler")
            return value.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("no compiler")

    def broken(function, **how):
        calls = itertools.count()

        def fail(*args, **kwargs):
            loss, metrics = function(*args, **kwargs)
            return Failing.apply(loss) if next(calls) >= first else loss, metrics

        return fail

    trained = []
    for mode in ("off", "default"):
        monkeypatch.setattr(torch, "compile", broken)
        torch.manual_seed(0)
        module = IQL(observation_dim=OBSERVATION_DIM, action_dim=ACTION_DIM, compile=mode)
        train(module, [make_chunk(5, seed=seed) for seed in range(2)])
        trained.append(module.state_dict())
    assert "model.compile: the compiler failed, the updates run without it: no compiler" in caplog.messages
    torch.testing.assert_close(*trained, rtol=0, atol=0)


def test_an_error_that_is_not_the_compilers_is_raised() -> None:
    class Wrong(IQL):
        def loss(self, batch, *, watch=True):
            raise ValueError("mine")

    module = Wrong(observation_dim=OBSERVATION_DIM, action_dim=ACTION_DIM, compile="off")
    with pytest.raises(ValueError, match="mine"):
        train(module, [make_chunk(5)])


def test_the_loss_can_be_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamo and the joint graph of forward and backward, without the minutes that generating code would take."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **how: real(function, backend="aot_eager", fullgraph=True))
    eager, traced = make_module(critic_layer_norm=True), make_module(critic_layer_norm=True, compile="default")
    train(eager, [make_chunk(6)])
    train(traced, [make_chunk(6)])
    torch.testing.assert_close(eager.state_dict(), traced.state_dict(), rtol=1e-5, atol=1e-7)


class StandIn(ChunkGraph):
    """What a machine without CUDA can show: the same calls on the same memory, recorded instead of captured."""

    captures = 0

    def _warm_up(self, chunk):
        return self.function(chunk)

    def _capture(self, inputs):
        self.captures += 1
        outputs = TensorDict({"sum": torch.full((), torch.nan)})  # nothing has run yet
        return lambda: outputs.update_(self.function(inputs)), outputs


def test_a_graph_runs_the_function_once_a_call_on_the_newest_chunk() -> None:
    total = torch.zeros(())

    def add(chunk: TensorDict) -> TensorDict:
        total.add_(chunk["value"].sum())
        return TensorDict({"sum": total.clone()})

    graph = StandIn(add)
    sums = [graph(TensorDict({"value": torch.full((2,), float(step))}, [2]))["sum"].item() for step in range(5)]
    assert sums == [0, 2, 6, 12, 20]
    assert graph.captures == 1
    # pretraining may have batches of its own, and an epoch's last chunk may be shorter
    sums = [graph(TensorDict({"value": torch.ones(length)}, [length]))["sum"].item() for length in (3, 3, 2, 3, 2, 3)]
    assert sums == [23, 26, 28, 31, 33, 36]
    assert graph.captures == 2


def test_a_failed_capture_costs_one_line(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(StandIn):
        def _capture(self, inputs):
            raise RuntimeError("operation not permitted when stream is capturing\nand a long story")

    graph = Failing(lambda chunk: TensorDict({"sum": chunk["value"].sum()}))
    sums = [graph(TensorDict({"value": torch.full((2,), float(step))}, [2]))["sum"].item() for step in range(5)]
    assert sums == [0, 2, 4, 6, 8]
    assert [record.message for record in caplog.records] == [
        "model.compile: the CUDA graph failed, the updates run eagerly: operation not permitted when stream is capturing"
    ]


class Replayed(StandIn):
    """For the updates: outputs without fixed names, and gradients in memory of the graph's own.

    A replay leaves ``grad`` as it finds it.
    """

    def _capture(self, inputs):
        self.captures += 1
        outputs = TensorDict()
        own = [torch.zeros_like(parameter) if parameter.requires_grad else None for parameter in self.parameters]
        for parameter, gradient in zip(self.parameters, own, strict=True):
            parameter.grad = gradient

        def replay() -> None:
            found = [parameter.grad for parameter in self.parameters]
            outputs.update(self.function(inputs))
            for parameter, gradient, before in zip(self.parameters, own, found, strict=True):
                if gradient is not None:
                    gradient.copy_(parameter.grad)
                parameter.grad = before

        return replay, outputs


# The options of preset plus that change an update.
PLUS = {
    "actor_average": 0.01, "critic_layer_norm": True, "polyak": 0.01, "advantage": "td", "temperature": 3.0,
    "advantage_clip": 9.0, "value_gradient": 100.0, "log_std_range": [-6.0, -2.9],
}  # fmt: skip
RISING = PLUS | {"offline_value_gradient": 10.0, "value_gradient_epochs": 2}


LENGTHS = (6, 6, 6, 6, 3, 6, 3, 3, 6, 3, 6)  # each has its own graph


@pytest.mark.parametrize("options", [{}, PLUS], ids=["default", "plus"])
def test_the_modules_graph_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    chunks = [make_chunk(length, seed=seed) for seed, length in enumerate(LENGTHS)]
    monkeypatch.setattr(module_file, "choose_mode", lambda *_: "graph")
    monkeypatch.setattr(module_file, "ChunkGraph", Replayed)
    captured = make_module(**options)
    train(captured, chunks)
    monkeypatch.undo()
    eager = make_module(**options, compile="off")
    train(eager, chunks)
    assert captured._run.captures == 2
    torch.testing.assert_close(eager.state_dict(), captured.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("learner", "options"),
    [(AWAC, {}), (AWAC, PLUS), (IQL, {}), (RLPD, {"actor_every": 3, "num_critics": 3}), (BC, {})],
    ids=["awac", "plus", "iql", "rlpd", "bc"],
)
def test_a_compiled_loss_in_a_graph_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch, learner, options) -> None:
    """As on a CUDA device, but for the code that the compiler makes and for the graph itself."""
    real, traced = torch.compile, []

    def trace(function, **how):
        traced.append(function)
        return real(function, backend="aot_eager", **how)

    trained = []
    for mode in ("off", "default"):
        with monkeypatch.context() as patched:
            patched.setattr(torch, "compile", trace)
            patched.setattr(module_file, "ChunkGraph", Replayed)
            patched.setattr(module_file, "find_obstacles", lambda *_: {"graph": "", "by_hand": "a test"})
            torch.manual_seed(0)
            module = learner(observation_dim=OBSERVATION_DIM, action_dim=ACTION_DIM, compile=mode, **options)
            train(module, [double_chunk(6, seed=seed) for seed in range(5)], precision="64-true")
        trained.append(module.state_dict())
    assert len(traced) == 1
    assert module._run.captures == 1
    torch.testing.assert_close(*trained, rtol=1e-9, atol=1e-9)


def test_a_changed_option_is_another_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    class Change(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            if batch_idx == 3:
                pl_module.options = replace(pl_module.options, temperature=0.9)

    monkeypatch.setattr(module_file, "choose_mode", lambda *_: "graph")
    monkeypatch.setattr(module_file, "ChunkGraph", Replayed)
    module = make_module()
    train(module, [make_chunk(4, seed=seed) for seed in range(8)], callbacks=[Change()])
    assert module._run.captures == 2


class Freezing(Callback):
    """From the second epoch on, the first layer of the policy learns nothing."""

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        pl_module.actor.layers[0].requires_grad_(trainer.current_epoch < 1)


@pytest.mark.parametrize("engine", ["native", pytest.param("onednn", marks=needs_onednn)])
@pytest.mark.parametrize("kind", ["pruned", "frozen"])
def test_networks_that_a_callback_changes_during_a_run_are_updated_eagerly(caplog, kind: str, engine: str) -> None:
    options = {"actor_weight_decay": 0.0, "matmul_engine": engine}
    eager, other = make_module(**options, compile="off"), make_module(**options)
    for module in (eager, other):
        pruned = [(module.actor.layers[0], "weight")]
        callback = ModelPruning("l1_unstructured", pruned, amount=0.5) if kind == "pruned" else Freezing()
        train(module, [make_chunk(5, seed=seed) for seed in range(2)], max_epochs=3, callbacks=[callback])
    said = "model.compile: a callback has changed the networks; from now on the updates run eagerly"
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [said]
    torch.testing.assert_close(eager.state_dict(), other.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("mode", ["default", "graph"])
@pytest.mark.parametrize("options", [{}, PLUS, RISING], ids=["default", "plus", "rising"])
def test_every_mode_gives_the_same_numbers_on_a_gpu(monkeypatch, mode: str, clip: float | None, options) -> None:
    monkeypatch.setattr(torch, "randn_like", no_noise)  # a compiler draws other noise
    eager, other = make_module(**options, compile="off"), make_module(**options, compile=mode)
    for module in (eager, other):
        chunks = [make_chunk(5, seed=seed).cuda() for seed in range(4)]
        train(module, chunks, accelerator="gpu", gradient_clip_val=clip, max_epochs=1 + module.value_gradient_epochs)
    torch.testing.assert_close(eager.state_dict(), other.state_dict(), rtol=1e-3, atol=1e-5)


@pytest.mark.gpu
def test_a_compiled_graph_draws_new_noise_at_every_replay() -> None:
    module = make_module(**PLUS).cuda()
    loss, chunk = compile_function(module.loss), make_chunk(2).cuda()

    def losses(rows: TensorDict) -> TensorDict:
        return TensorDict({"loss": torch.stack([loss(row, watch=False)[0].detach() for row in rows.unbind(0)])})

    graph = ChunkGraph(losses)
    drawn = torch.stack([graph(chunk)["loss"] for _ in range(6)])
    assert len(set(drawn[:, 0].tolist())) == 6


@pytest.mark.parametrize("name", ["loss", "weigh", "sum_up", "configure_optimizers", "manual_backward"])
@pytest.mark.parametrize("own", ["class", "instance"])
def test_a_learner_with_a_method_of_its_own_is_updated_by_autograd(name: str, own: str) -> None:
    module = make_module()
    if own == "class":
        module.__class__ = type("Own", (AWAC,), {name: lambda self, *args, **kw: getattr(AWAC, name)(self, *args, **kw)})
    else:
        vars(module)[name] = getattr(module, name)
    train(module, [make_chunk(2)])
    assert module.compile_mode == "off"
