"""What recurrent layers take beside their outputs: upper bounds.

The framework's own loop works out the gates of all positions in one product and keeps the output
of each step until all are joined. An LSTM in float32 or half precision is oneDNN's, which reorders
the weights and has a scratch of its own. Read off the allocator's events with torch 2.13, by
``tests/search_space/test_workspace_recurrent.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search_space.graph import ITEM_BYTES
from search_space.kernel_call import Call, Operand, Workspace, on_cpu
from search_space.layout import contiguous, is_contiguous
from search_space.workspace_products import PRODUCT_WORKSPACES


@dataclass(frozen=True, slots=True)
class _Layers:
    """A stack of recurrent layers.

    Attributes:
        steps, batch: positions of a sequence, and sequences.
        width: numbers of the input at a position.
        hidden, made: numbers of the state, and of the output (its projection, if it has one).
        count, ways: layers, and directions.
        has_biases: whether gates have biases.
        is_copied: whether the input is brought into the order of time first.
    """

    steps: int
    batch: int
    width: int
    hidden: int
    made: int
    count: int
    ways: int
    has_biases: bool
    is_copied: bool


def _layers(call: Call, states: int) -> _Layers | None:
    """What a call with so many state tensors is asked for; None for packed sequences."""
    x = call.operands[0].layout
    if len(x.shape) != 3 or len(call.operands) < states + 2:
        return None
    biases, count, _, _, ways, is_batch_first = (call.argument(k, "") for k in range(3, 9))
    if not isinstance(count, int):
        return None
    by_time = [1, 0, 2] if is_batch_first else [0, 1, 2]
    turned = type(x)(tuple(x.shape[d] for d in by_time), tuple(x.strides[d] for d in by_time))
    steps, batch, width = turned.shape
    made, hidden = (call.operands[k].layout.shape[-1] for k in (1, states))
    return _Layers(
        steps, batch, width, hidden, made, count, 2 if ways else 1, bool(biases),
        not is_contiguous(turned),
    )  # fmt: skip


def _by_steps(gates: int, states: int) -> Workspace:
    """The framework's loop, with so many gates and state tensors."""

    def workspace(call: Call) -> int:
        found = _layers(call, states)
        if found is None:
            return 0
        item = ITEM_BYTES[call.dtype]
        positions = found.steps * found.batch * item
        scores, made = gates * found.hidden * positions, found.made * positions
        # the steps' outputs and these joined; beside them, those of the layer before
        joined = scores + made * (1 + (found.count > 1))
        if found.ways > 1:
            before = 2 * made if found.count > 1 else 0
            # gates and outputs of the one direction stand while the other runs; then both are
            # joined, beside the last gates
            joined = before + max(2 * scores + made, scores + 4 * made)
        step = (gates + 4) * found.hidden * found.batch * item
        state = 2 * found.count * found.ways * found.batch * (found.hidden + found.made) * item
        copied = call.operands[0].nbytes if found.is_copied else 0
        rows = found.steps * found.batch
        packed = max(_packed(call, one, rows) for one in call.operands[1 + states :])
        # products run before the last join
        peak = max(joined, joined - made + packed, copied + scores + packed - found.ways * made)
        return peak + step + state

    return workspace


def _packed(call: Call, weight: Operand, rows: int) -> int:
    """What the product of the gates takes, from row-major rows."""
    if len(weight.layout.shape) != 2:
        return 0
    gates, width = weight.layout.shape
    x = Operand(0, contiguous((rows, width)), call.dtype)
    product = Call((x, weight), (), (rows, gates), call.dtype, call.device)
    return PRODUCT_WORKSPACES["aten.linear"](product)


def _lstm(call: Call) -> int:
    found = _layers(call, 2)
    taken = _by_steps(4, 2)(call)
    if found is None or call.dtype == "float64" or found.made != found.hidden:
        return taken
    item = ITEM_BYTES[call.dtype]
    made = found.steps * found.batch * found.hidden * item
    widths = [found.width, found.ways * found.hidden][: found.count]
    scratch = max(_library_bytes(found, width, item) for width in widths)
    # of several layers the outputs before stand beside, in both directions joined and apart
    before = (1 if found.ways == 1 else 3) if found.count > 1 else 0
    copied = call.operands[0].nbytes if found.is_copied else 0
    weights = 0 if found.has_biases else _weights(call.operands[3:])
    return max(taken, copied + weights + before * made + max(scratch, (found.ways - 1) * 2 * made))


def _library_bytes(found: _Layers, width: int, item: int) -> int:
    """The weights as oneDNN blocks them, and its scratch: per position gates, the wider of input
    and state going in and out, and with one sequence, which it does not batch, more gates."""
    hidden, wide = found.hidden, max(width, found.hidden)
    weights = 4 * _up(hidden, 32) * (width + hidden)
    position = 2 * _up(wide, 16) + 2 * _up(hidden, 16)
    if found.batch == 1:
        position = 2 * _up(wide, 16) + (8 if item == 4 else 12) * _up(hidden, 16)
    fixed = (10 * found.batch * hidden + 2**13 + 80 * wide) * (4 // item)
    state = 2 * found.count * found.ways * found.batch * 2 * hidden
    return item * (weights + position * found.steps * found.batch + fixed + state + 4 * hidden)


def _weights(operands: Sequence[Operand]) -> int:
    return sum(one.nbytes for one in operands)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _cell(copies: int) -> Workspace:
    """A single step: scores from the input and from the state, and what is made of them.

    Args:
        copies: tensors like the state that stand beside the outputs.
    """

    def workspace(call: Call) -> int:
        rows, state = call.operands[0].layout.shape[0], call.operands[1]
        packed = max(_packed(call, one, rows) for one in call.operands[2:])
        return copies * state.nbytes + packed

    return workspace


RECURRENT_WORKSPACES: dict[str, Workspace] = {
    "aten.lstm.input": on_cpu(_lstm),
    "aten.gru.input": on_cpu(_by_steps(3, 1)),
    "aten.rnn_tanh.input": on_cpu(_by_steps(1, 1)),
    "aten.rnn_relu.input": on_cpu(_by_steps(1, 1)),
    "aten.lstm_cell": on_cpu(_cell(6)),
    "aten.gru_cell": on_cpu(_cell(7)),
    "aten.rnn_tanh_cell": on_cpu(_cell(2)),
    "aten.rnn_relu_cell": on_cpu(_cell(2)),
}
