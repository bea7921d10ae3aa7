"""The demonstration behind ``make demo``.

Tunes Hugging Face's GPT-2 (4 layers, random weights, eager attention) at lengths 512 and 1024 on
the device at hand, prints the confirmed frontier, then loads the plan database as an inference
script would and compares peak, time and outputs with and without the plan.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuner.measure.variables import QUIET

os.environ.update(QUIET)

import torch
from rich.console import Console
from rich.table import Table

from cost_models.select import mib
from experiments import subjects
from experiments.figures import Timeline, draw_timelines, timeline
from tuner import apply
from tuner.campaign import run_campaign
from tuner.config import CampaignConfig, parse_config
from tuner.measure.backends import backend_for, resolve_device
from tuner.measure.compare import compare
from tuner.measure.protocol import Backend, Repeats
from tuner.measure.timing import interleave, median, ratio
from tuner.tables import print_result
from tuner.terminal import Terminal, make_console


def campaign(lengths: Sequence[int], layers: int, plans: Path, output: Path) -> CampaignConfig:
    """The demonstration's campaign: small enough for five minutes on two cores."""
    return parse_config(
        {
            "campaign": "demo",
            "model": {
                "id": f"gpt2-{layers}layers",
                "factory": "experiments.subjects:gpt2",
                "kwargs": {"layers": layers, "attention": "eager"},
            },
            "seq_lens": list(lengths),
            "budgets": [0.5, 0.3],
            "search": {"n_trials": 100, "rounds": 1},
            "cost_model": {"timings_s": 8},
            "confirm": {"top_k": 1, "warmup": 0, "repeats": 3, "timeout_s": 60},
            "output": str(output),
            "plans": str(plans),
        },
        Path.cwd(),
    )


def infer(config: CampaignConfig, length: int, backend: Backend, console: Console) -> bool:
    """Load the database as an inference script would; whether the outputs agree."""
    model, inputs = subjects.gpt2(**config.model.kwargs)
    model = model.to(backend.device)
    args, kwargs = inputs(length)
    args = tuple(tensor.to(backend.device) for tensor in args)
    budget = config.budgets[0]
    fast = apply(model, args, kwargs, plans=config.plans, memory_budget=budget.plain)

    def eager() -> Any:
        with torch.no_grad():
            return model(*args, **kwargs)

    def chunked() -> Any:
        return fast(*args, **kwargs)

    expected, before = backend.peak(eager)
    found, after = backend.peak(chunked)
    difference = compare(found, expected, config.confirm.rtol, config.confirm.atol)
    del expected, found
    samples = interleave(
        backend, {"eager": eager, "plan": chunked}, Repeats(0, 5, 10, budget_s=10.0)
    )
    pairs = ratio(samples["plan"].decisive_ms, samples["eager"].decisive_ms)
    table = Table(title=f"inference at length {length}, memory budget {budget}")
    for column in ("", "without plan", "with plan", "ratio"):
        table.add_column(column, justify="right")
    table.add_row(
        "activation peak", mib(before.activation_bytes), mib(after.activation_bytes),
        f"{after.activation_bytes / before.activation_bytes:.3f}",
    )  # fmt: skip
    unit = "GPU" if backend.device.startswith("cuda") else "CPU"
    table.add_row(
        f"{unit} time", f"{median(samples['eager'].decisive_ms):.0f} ms",
        f"{median(samples['plan'].decisive_ms):.0f} ms",
        f"{pairs.median:.3f} ({pairs.low:.3f} to {pairs.high:.3f})",
    )  # fmt: skip
    table.add_row("largest difference", "", f"{difference.max_abs:.2g}", "")
    console.print(table)
    console.print(fast.explain(), highlight=False, markup=False, soft_wrap=True)
    if backend.device == "cpu":
        _picture(eager, chunked, config.output / "memory.png", length, console)
    return difference.equal


def _picture(eager: Any, chunked: Any, path: Path, length: int, console: Console) -> None:
    from tuner.measure.cpu import allocator_events

    lines: dict[str, Timeline] = {}
    for name, call in (("without plan", eager), ("with plan", chunked)):
        result, events = allocator_events(call)
        del result
        lines[name] = timeline(events)
    draw_timelines(lines, f"GPT-2, {length} tokens: memory over one call", path)
    console.print(f"picture of the memory over a call: {path}", highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; exit code 1 where a budget is missed or outputs differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--plans", type=Path, default=Path("plans"))
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    options = parser.parse_args(arguments)
    console = make_console()
    started = time.monotonic()
    config = campaign(options.lengths, options.layers, options.plans, options.output)
    with Terminal(make_console(stderr=True)) as progress:
        result = run_campaign(config, progress, fresh=True)
    print_result(console, result)
    backend = backend_for(resolve_device(config.device))
    equal = infer(config, max(options.lengths), backend, console)
    console.print(f"done in {time.monotonic() - started:.0f} s")
    met = all(budget.row is not None for one in result.lengths for budget in one.budgets)
    return 0 if equal and met else 1


if __name__ == "__main__":
    raise SystemExit(main())
