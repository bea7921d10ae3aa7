"""How long the search itself takes, without runs: a deep GPT-2 at one length, on one core.

::

    OMP_NUM_THREADS=1 python -m experiments.cost_speed --layers 48

Prints seconds of process CPU time for each step, and how many plans are predicted a second.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from cost_models.create import create
from cost_models.plans import PlanCost
from cost_models.select import Selector
from cost_models.times import loop_seconds
from experiments.cost_card import load_samples
from experiments.subjects import gpt2
from search_space.probe import Prober
from tuner.config import SearchConfig
from tuner.runtime.analysis import Analysis
from tuner.runtime.captures import Captures
from tuner.search.acquire import worth_running
from tuner.search.propose import propose

T = TypeVar("T")
_BUDGETS = (0.5, 0.3)


def timed(name: str, call: Callable[[], T]) -> T:
    """A call's result; prints how long it took."""
    started = time.process_time()
    result = call()
    print(f"{name}: {time.process_time() - started:.2f} s", flush=True)
    return result


def search(analysis: Analysis, trials: int) -> None:
    """What a round of a campaign does between two real runs."""
    ceilings = analysis.ceilings
    space = timed("candidates", lambda: analysis.space)
    (model,) = create("learned")
    model = timed("fitting the cost model", lambda: model.fit(load_samples()))
    whole = {
        item.key: 1e3 * loop_seconds(item.loops[0], item.loops[0].extent, ceilings)
        for item in space.classes
    }
    cost = PlanCost(
        analysis.memory, space.classes, model, ceilings, 1e3 * analysis.unchunked_s, whole
    )
    selector = Selector(space, cost.extra_seconds)
    peak = analysis.memory.profile().peak_bytes
    limits = [int(share * peak) for share in _BUDGETS]
    selected = timed("selecting seeds", lambda: [selector.within(limit) for limit in limits])
    seeds = [space.setting(one.plan) for one in selected]
    config = SearchConfig(sampler="tpe", n_trials=trials)
    found = timed(
        f"{trials} trials",
        lambda: propose(
            space, cost.predict_all, config, seeds=seeds, loosest_budget_bytes=max(limits)
        ),
    )
    plans = [one.plan for one in found]
    started = time.process_time()
    cost.predict_all(plans)
    rate = len(plans) / (time.process_time() - started)
    print(f"plans predicted a second: {rate:.0f} (of {len(plans)} distinct ones)")
    timed("which to run", lambda: worth_running(
        found, cost, limits, {}, slowest_ms=1.5 * cost.unchunked_ms, count=3
    ))  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Capture, analyse, search; no plan is run."""
    parser = argparse.ArgumentParser(description="how long the search takes")
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--trials", type=int, default=200)
    options = parser.parse_args(arguments)
    model, inputs = gpt2(layers=options.layers, width=options.width, heads=4, vocabulary=1000)
    args, kwargs = inputs(options.length)

    def capture() -> Any:
        with torch.no_grad():
            return Captures(model).locate(args, kwargs)

    located = timed("capture", capture)
    started = time.process_time()
    analysis = Analysis.unmeasured(located.captured.graph, located.bindings, Prober())
    print(f"{options.layers} layers, {len(analysis.graph.nodes)} nodes, length {options.length}")
    search(analysis, options.trials)
    print(f"search in all, after the capture: {time.process_time() - started:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
