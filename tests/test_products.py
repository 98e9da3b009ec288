"""Which library multiplies, and that the choice changes rounding alone."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from awac_pl.algorithms.checkpoints import check_module
from awac_pl.algorithms.critics import CriticEnsemble
from awac_pl.policies import products
from awac_pl.policies.actor import Actor
from tests.test_module import double_chunk, make_chunk, make_module, train

HAS_ONEDNN = not products._obstacle()
needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def _fresh_choice():
    products.choose_engine.cache_clear()
    yield
    products.choose_engine.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, vendor: str, capability: str, mkl: bool = True) -> None:
    monkeypatch.setattr(products, "_cpu_info", lambda: {"vendor_id": vendor, "model name": "a processor"})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)


@needs_onednn
@pytest.mark.parametrize(
    ("vendor", "capability", "mkl", "expected"),
    [
        ("AuthenticAMD", "AVX512", True, "onednn"),
        ("AuthenticAMD", "AVX2", True, "native"),
        ("AuthenticAMD", "AVX512", False, "native"),
        ("GenuineIntel", "AVX512", True, "native"),
        ("", "DEFAULT", False, "native"),  # ARM
    ],
)
def test_the_processor_decides(monkeypatch, vendor: str, capability: str, mkl: bool, expected: str) -> None:
    pretend(monkeypatch, vendor, capability, mkl)
    assert products.choose_engine("auto") == expected
    assert products.choose_engine("native") == "native"
    assert products.choose_engine("onednn") == "onednn"


@needs_onednn
def test_where_the_first_learner_is_made_does_not_matter(monkeypatch) -> None:
    """A checkpoint's learner is made on the device meta first, which in a new process is also the first choice of all."""
    pretend(monkeypatch, "AuthenticAMD", "AVX512")
    with torch.device("meta"):
        assert products.choose_engine("auto") == "onednn"
    products.choose_engine.cache_clear()
    module = make_module()
    state = {"hyper_parameters": dict(module.hparams), "state_dict": module.state_dict()}
    products.choose_engine.cache_clear()
    check_module(Path("a.ckpt"), state)
    products.choose_engine.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        assert products.choose_engine("auto") == "onednn"
    finally:
        torch.set_default_dtype(torch.float32)


def gone(*_args):
    raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'\nand more")


@pytest.mark.parametrize("broken", ["gone", "wrong"])
def test_an_operator_that_is_gone_or_wrong_costs_one_line(monkeypatch, caplog, broken: str) -> None:
    pretend(monkeypatch, "AuthenticAMD", "AVX512")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    wrong = lambda rows, weight, *_: rows @ weight.t() + 1  # noqa: E731
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", gone if broken == "gone" else wrong, raising=False)
    with caplog.at_level(logging.WARNING):
        assert [products.choose_engine("auto") for _ in range(3)] == ["native"] * 3
    (line,) = [record.message for record in caplog.records]
    assert line.startswith("model.matmul_engine: onednn cannot be used (")
    assert ("no attribute" in line) == (broken == "gone")
    assert "and more" not in line


@needs_onednn
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(64, 69, 32), (64, 32, 1), (5, 9, 12), (64, 1, 32)])
def test_products_are_the_same(shape: tuple[int, int, int], transposed: bool) -> None:
    m, k, n = shape
    left, right, bias = torch.randn(m, k), torch.randn(k, n), torch.randn(n)
    if transposed:
        left, right = left.t().contiguous().t(), right.t().contiguous().t()
    expected = left.double() @ right.double()
    torch.testing.assert_close(products.matmul(left, right, "onednn").double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(products.matmul(left, right, "native").double(), expected, rtol=1e-5, atol=1e-5)
    for engine in ("onednn", "native"):
        out = products.dense(left, right, bias, True, engine)
        torch.testing.assert_close(out.double(), (expected + bias).clamp(min=0), rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("layer_norm", [False, True])
def test_networks_and_their_gradients_are_the_same(layer_norm: bool) -> None:
    torch.manual_seed(0)
    actor, critics = Actor(12, 9, (16, 24)), CriticEnsemble(12, 9, (16, 24), layer_norm=layer_norm)
    observation, action = torch.randn(32, 12), torch.randn(32, 9)
    results = []
    for engine in ("native", "onednn"):
        actor.engine = critics.engine = engine
        actor.zero_grad(), critics.zero_grad()
        mean = actor(observation)
        loss = actor.log_prob(mean, action).mean() + critics(observation, action).square().mean()
        (loss + critics(observation, mean, frozen=True).mean()).backward()
        parameters = [*actor.parameters(), *critics.parameters()]
        results.append([mean.detach(), *(parameter.grad.clone() for parameter in parameters)])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


@needs_onednn
@pytest.mark.parametrize("mode", ["off", "by_hand"])
def test_updates_are_the_same(mode: str) -> None:
    options = {"compile": mode, "critic_layer_norm": True, "advantage": "td", "value_gradient": 2.0}
    native, onednn = (make_module(matmul_engine=engine, **options) for engine in ("native", "onednn"))
    assert (native.actor.engine, onednn.critics.engine) == ("native", "onednn")
    for module in (native, onednn):
        train(module, [make_chunk(10)])
    torch.testing.assert_close(native.state_dict(), onednn.state_dict(), rtol=1e-3, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("mode", ["off", "by_hand"])
def test_doubles_are_left_to_pytorch(mode: str) -> None:
    chunk = double_chunk(5)
    native, onednn = (make_module(matmul_engine=engine, compile=mode) for engine in ("native", "onednn"))
    for module in (native, onednn):
        train(module, [chunk], precision="64-true")
    torch.testing.assert_close(native.state_dict(), onednn.state_dict(), rtol=0, atol=0)


@needs_onednn
def test_where_pytorch_must_see_its_own_operators_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16, doubles, autocast, torch.func and torch.compile get the ordinary layers."""
    actor = Actor(12, 9, (16,))
    actor.engine = "onednn"
    observation = torch.randn(8, 12)
    expected = actor(observation).detach()

    def refuse(*_):
        raise AssertionError("not here")

    monkeypatch.setattr(products.DenseFunction, "apply", refuse)
    with pytest.raises(AssertionError, match="not here"):
        actor(observation)
    parameters = dict(actor.named_parameters())
    by_func = torch.func.vmap(lambda row: torch.func.functional_call(actor, parameters, (row[None],))[0])(observation)
    torch.testing.assert_close(by_func, expected)
    traced = torch.compile(actor, backend="eager", fullgraph=True)(observation)
    torch.testing.assert_close(traced.detach(), expected)
    with torch.autocast("cpu", torch.bfloat16):
        actor(observation)
    torch.testing.assert_close(actor(observation[0]), expected[0])  # other shapes than [B, O]
    torch.testing.assert_close(actor(observation[None]), expected[None])
    actor.double()(observation.double())


def test_the_processor_has_a_name() -> None:
    assert products.processor()
