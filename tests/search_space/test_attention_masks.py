"""Masks that only say "causal" or nothing at all are proven so, and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

from search_space import capture_passes
from search_space.capture import Capture, capture
from search_space.capture_masks import restore_grouped_heads, restore_mask_flags
from search_space.graph import Node, Ref
from search_space.liveness import MemoryModel, Program
from tests.tiny import Function, difference
from tuner.runtime.rewrite import rewrite

SDPA = "aten.scaled_dot_product_attention.default"
CAUSAL, PLAIN, MASKED = "causal", "plain", "masked"
OURS = (restore_mask_flags, restore_grouped_heads)

Model = tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]


def tokens(batch: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, 100, (batch, length), generator=generator)


def llama_like(name: str, **more: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, intermediate_size=64, vocab_size=101, use_cache=False,
        attn_implementation="sdpa", **more,
    )  # fmt: skip
    model: torch.nn.Module = getattr(transformers, f"{name}Model")(config).eval()
    return model


def gpt2() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=101, use_cache=False,
        bos_token_id=0, eos_token_id=0, attn_implementation="sdpa",
    )  # fmt: skip
    model: torch.nn.Module = transformers.GPT2Model(config).eval()
    return model


def bert() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        vocab_size=101, attn_implementation="sdpa",
    )  # fmt: skip
    model: torch.nn.Module = transformers.BertModel(config).eval()
    return model


def bart() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.BartConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=101,
        max_position_embeddings=64, use_cache=False, attn_implementation="sdpa",
    )  # fmt: skip
    model: torch.nn.Module = transformers.BartModel(config).eval()
    return model


def attentions(captured: Capture) -> list[Node]:
    return [node for node in captured.graph.nodes if node.op == SDPA]


def kind(node: Node) -> str:
    """What an attention of a graph is told about its mask."""
    args = (*node.args, *(None, 0.0, False)[len(node.args) - 3 :])
    named = dict(node.kwargs)
    assert "is_causal" not in named
    if isinstance(named.get("attn_mask", args[3]), Ref):
        return MASKED
    return CAUSAL if args[5] is True else PLAIN


def kinds(captured: Capture) -> list[str]:
    return [kind(node) for node in attentions(captured)]


def run(captured: Capture, model: torch.nn.Module, tensors: tuple[Any, ...]) -> tuple[Any, ...]:
    """The captured graph, unchunked, at these tensors' sizes."""
    shapes = tuple(tuple(tensor.shape) for tensor in tensors)
    sized = captured.graph.at(captured.graph.bind(shapes))
    with torch.no_grad():
        made: tuple[Any, ...] = rewrite(Program(sized), model, captured.constants)(*tensors)
    return made


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Capture]:
    """Captures without the passes under test."""

    def take(model: torch.nn.Module, *args: Any, **kwargs: Any) -> Capture:
        kept = tuple(change for change in capture_passes.PASSES if change not in OURS)
        assert len(kept) == len(capture_passes.PASSES) - len(OURS)
        with monkeypatch.context() as patch:
            patch.setattr("search_space.capture.PASSES", kept)
            return capture(model, args, kwargs)

    return take


# -- library models ------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "make",
    [lambda: llama_like("Llama"), lambda: llama_like("Qwen3"), gpt2],
    ids=["llama", "qwen3", "gpt2"],
)
def test_library_masks_are_proven_causal_and_outputs_stay(
    make: Callable[[], torch.nn.Module], batch: int, untouched: Callable[..., Capture]
) -> None:
    model = make()
    captured = capture(model, (tokens(batch, 14),), {"use_cache": False})
    before = untouched(model, tokens(batch, 14), use_cache=False)
    assert kinds(captured) == [CAUSAL, CAUSAL]
    assert kinds(before) == [MASKED, MASKED]
    for length in (2, 3, 14, 33, 61):
        ids = (tokens(batch, length),)
        made, expected = run(captured, model, ids), run(before, model, ids)
        assert difference(made, expected, 1e-6) == ""
        with torch.no_grad():
            whole = model(*ids, use_cache=False)[0]
        assert difference(made[:1], [whole], 1e-5) == ""


def test_bidirectional_masks_that_hide_nothing_go(untouched: Callable[..., Capture]) -> None:
    model = bert()
    captured, before = capture(model, (tokens(1, 14),)), untouched(model, tokens(1, 14))
    assert kinds(captured) == [PLAIN, PLAIN] and kinds(before) == [MASKED, MASKED]
    for length in (2, 15, 40):
        ids = (tokens(1, length),)
        assert difference(run(captured, model, ids), run(before, model, ids), 1e-6) == ""


def test_cross_attention_is_never_causal(untouched: Callable[..., Capture]) -> None:
    model = bart()
    given = {"input_ids": tokens(1, 14), "decoder_input_ids": tokens(1, 9), "use_cache": False}
    captured, before = capture(model, (), given), untouched(model, **given)
    assert kinds(captured) == [PLAIN, CAUSAL, PLAIN]
    for lengths in ((14, 9), (9, 14), (12, 12)):
        tensors = (tokens(1, lengths[0]), tokens(1, lengths[1]))
        made, expected = run(captured, model, tensors), run(before, model, tensors)
        assert difference(made, expected, 1e-6) == ""


@pytest.mark.parametrize("window", [4, 13, 14, 15, 4096])
def test_sliding_windows_stay(window: int) -> None:
    model = llama_like("Mistral", sliding_window=window)
    captured = capture(model, (tokens(1, 14),), {"use_cache": False})
    assert kinds(captured) == [MASKED, MASKED]


@pytest.mark.parametrize("batch", [1, 2])
def test_padding_stays(batch: int) -> None:
    ones = torch.ones(batch, 14, dtype=torch.long)
    given = {"attention_mask": ones, "use_cache": False}
    captured = capture(llama_like("Llama"), (tokens(batch, 14),), given)
    assert kinds(captured) == [MASKED, MASKED]
    captured = capture(bert(), (tokens(batch, 14),), {"attention_mask": ones})
    assert kinds(captured) == [MASKED, MASKED]


def test_grouped_heads_are_read_in_place(untouched: Callable[..., Capture]) -> None:
    model = llama_like("Llama")
    captured = capture(model, (tokens(1, 14),), {"use_cache": False})
    for node in attentions(captured):
        assert dict(node.kwargs)["enable_gqa"] is True
        key = node.args[1]
        assert isinstance(key, Ref)
        assert captured.graph.nodes[key.index].outputs[0].shape[1] == 2
    before = untouched(model, tokens(1, 14), use_cache=False)

    def peak(made: Capture, length: int) -> int:
        sized = made.graph.at(made.graph.bind(((1, length),)))
        return MemoryModel(sized).profile().peak_bytes

    # a mask of booleans and its copy in numbers, S x S each, are gone
    assert peak(before, 1000) - peak(captured, 1000) > 4 * 1000 * 1000


# -- masks by hand -------------------------------------------------------------------------------


def positions(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    places = torch.arange(x.shape[2])
    return places[:, None], places[None, :]


Mask = Callable[[torch.Tensor], torch.Tensor]

ZERO = torch.tensor(0.0)
"""A tensor that somebody holds and may write to, which the trace takes for a constant."""


def _infinite(x: torch.Tensor) -> torch.Tensor:
    return torch.full((x.shape[2], x.shape[2]), float("-inf")).triu(1)


def _lowest(x: torch.Tensor) -> torch.Tensor:
    rows, columns = positions(x)
    hidden = torch.full((x.shape[2], x.shape[2]), torch.finfo(x.dtype).min)
    return torch.where(columns <= rows, 0.0, hidden)


def _inverted(x: torch.Tensor) -> torch.Tensor:
    ones = torch.ones(x.shape[2], x.shape[2]).tril()
    return (1.0 - ones).masked_fill((1.0 - ones).bool(), float("-inf"))


def _where(x: torch.Tensor, keep: Callable[..., torch.Tensor]) -> torch.Tensor:
    return keep(*positions(x))


PROVEN: dict[str, tuple[Mask, str]] = {
    "tril": (lambda x: torch.ones(x.shape[2], x.shape[2], dtype=torch.bool).tril(), CAUSAL),
    "not triu": (
        lambda x: ~torch.ones(1, 1, x.shape[2], x.shape[2], dtype=torch.bool).triu(1), CAUSAL),
    "minus infinity": (_infinite, CAUSAL),
    "lowest number": (_lowest, CAUSAL),
    "inverted": (_inverted, CAUSAL),
    "shifted both": (lambda x: _where(x, lambda i, j: j + 7 < i + 8), CAUSAL),
    "transposed": (lambda x: _where(x, lambda i, j: (i <= j).transpose(0, 1)), CAUSAL),
    "doubled": (lambda x: _where(x, lambda i, j: (j <= i) & (j < i + 1) & (j >= 0)), CAUSAL),
    "a constant tensor": (
        lambda x: _where(
            x, lambda i, j: torch.where(j <= i, torch.tensor(0.0), float("-inf"))), CAUSAL),
    "ones": (lambda x: torch.ones(x.shape[2], x.shape[2], dtype=torch.bool), PLAIN),
    "zeros added": (lambda x: torch.zeros(x.shape[2], x.shape[2]), PLAIN),
    "a row": (lambda x: torch.arange(x.shape[2])[None] >= 0, PLAIN),
    "or true": (lambda x: _where(x, lambda i, j: (j <= i) | (j > -1)), PLAIN),
}  # fmt: skip

LEFT: dict[str, Mask] = {
    "window": lambda x: _where(x, lambda i, j: (j <= i) & (j > i - 4096)),
    "narrow window": lambda x: _where(x, lambda i, j: (j <= i) & (j > i - 2)),
    "strictly before, and itself": lambda x: _where(x, lambda i, j: (j < i) | (i == j)),
    "one ahead": lambda x: _where(x, lambda i, j: j <= i + 1),
    "far ahead": lambda x: _where(x, lambda i, j: j <= i + 4096),
    "anti-causal": lambda x: _where(x, lambda i, j: j >= i),
    "prefix": lambda x: _where(x, lambda i, j: (j <= i) | (j < 3)),
    "every second": lambda x: _where(x, lambda i, j: (j <= i) & (2 * j <= 4096 + i)),
    "diagonal": lambda x: torch.ones(x.shape[2], x.shape[2], dtype=torch.bool).tril(1),
    "data": lambda x: x[0, 0, :, :1] > -1e9,
    "data of the same shape": lambda x: (x[0, 0, :, 0] < 1e9)[:, None] & _infinite(x).eq(0),
    "weak numbers": lambda x: torch.full((x.shape[2], x.shape[2]), -1e4).triu(1),
    "plus one": lambda x: torch.ones(x.shape[2], x.shape[2]),
    "bias": lambda x: _where(x, lambda i, j: torch.where(j <= i, 0.5, float("-inf"))),
    "a constant tensor's bias": lambda x: _where(
        x, lambda i, j: torch.where(j <= i, torch.tensor(0.5), float("-inf"))),
    "somebody's tensor": lambda x: _where(
        x, lambda i, j: torch.where(j <= i, ZERO, float("-inf"))),
    "slope": lambda x: _where(x, lambda i, j: (j - i).float()),
    "half": lambda x: _where(x, lambda i, j: j <= i - x.shape[2] // 4096),
}


def attend(mask: Mask) -> torch.nn.Module:
    return Function(lambda x: F.scaled_dot_product_attention(x, x, x, mask(x)))


def sample(length: int, heads: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randn(2, heads, length, 4, generator=generator)


@pytest.mark.parametrize("name", PROVEN)
def test_masks_by_hand_are_proven(name: str) -> None:
    mask, expected = PROVEN[name]
    model = attend(mask)
    captured = capture(model, (sample(9),))
    assert kinds(captured) == [expected]
    for length in (2, 9, 30):
        made = run(captured, model, (sample(length),))
        assert difference(made, [model(sample(length))], 1e-6) == ""


@pytest.mark.parametrize("name", LEFT)
def test_other_masks_stay(name: str) -> None:
    model = attend(LEFT[name])
    captured = capture(model, (sample(9),))
    assert kinds(captured) == [MASKED]
    for length in (9, 30):
        made = run(captured, model, (sample(length),))
        assert difference(made, [model(sample(length))], 1e-6) == ""


def test_what_its_owner_writes_to_a_constant_is_seen() -> None:
    hidden = torch.tensor(float("-inf"))

    def forward(x: torch.Tensor) -> torch.Tensor:
        rows, columns = positions(x)
        mask = torch.where(columns <= rows, 0.0, hidden)
        return F.scaled_dot_product_attention(x, x, x, mask)

    model = Function(forward)
    captured = capture(model, (sample(9),))
    hidden.fill_(0.0)  # now every key is seen
    made = run(captured, model, (sample(9),))
    assert difference(made, [model(sample(9))], 1e-6) == ""


def test_rectangular_attention_keeps_its_causal_mask() -> None:
    def forward(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        rows, columns = torch.arange(x.shape[2])[:, None], torch.arange(y.shape[2])[None, :]
        return F.scaled_dot_product_attention(x, y, y, columns <= rows)

    # equally many at capture, and yet two sizes
    captured = capture(Function(forward), (sample(9), sample(11)))
    assert kinds(captured) == [MASKED]


def test_a_mask_that_adds_batches_stays() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(5, 1, x.shape[2], x.shape[2], dtype=torch.bool)
        return F.scaled_dot_product_attention(x[:1], x[:1], x[:1], mask)

    captured = capture(Function(forward), (sample(9),))
    assert kinds(captured) == [MASKED]


def test_a_mask_that_no_fused_kernel_takes_stays() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(x.shape[1], x.shape[2], x.shape[2], dtype=torch.bool).tril()
        return F.scaled_dot_product_attention(x, x, x, mask).transpose(1, 2).flatten(2)

    captured = capture(Function(forward), (sample(9),))
    assert kinds(captured) == [MASKED]
