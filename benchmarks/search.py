"""Compares our default search with random search at equal cost, on learning curves of real heads.

    python -m benchmarks.search                  the table, and the plot docs/images/search.png; about a minute
    python -m benchmarks.search --seeds 100

The search space is a wider one of recipe (e): optimizer, batch size, learning rate (1e-5 to 1) and weight decay of a
head on frozen MobileNetV2 features of ../shared/data, 9 epochs, validation loss after each. 300 such trainings are in
`search_curves.csv` (written by `benchmarks.curves`). Between them, the logarithm of the loss is interpolated from the
five nearest ones of the same optimizer, weighted by inverse squared distance, so no point is better than the best of
the table.

The launcher plans every sweep, from its overrides to the request, and the search of local tuning jobs,
`launch.local.tuning.search.Search`, runs it in simulated time: two trainings in parallel, an epoch costs 1 and a start
0.5. All strategies have the same budget, that of 6, 12 or 25 full trainings. The result is the best objective of the
trainings that have ended or were stopped by then, as a tuning job reports it.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import itertools
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dogbreed.cli.config import fresh_name
from launch.backends.local import LOCAL_TARGET
from launch.local.tuning.search import Search
from launch.spec.plan import make_plan
from launch.spec.requests.tuning import tuning_request

HERE = Path(__file__).resolve().parent
CURVES = HERE / "search_curves.csv"
RESULTS = HERE / "results"
EPOCHS, START, PARALLEL, NEIGHBOURS = 9, 0.5, 2, 5
SWEEP = [
    "optimizer=adamw,adam,sgd", "batch_size=16,32,64,128", "lr=tag(log,interval(1e-5,1))",
    "weight_decay=tag(log,interval(1e-6,1e-1))", "finetune=head", f"epochs={EPOCHS}", "objective.metric=val/loss",
    "objective.goal=minimize", "name=search",
]  # fmt: skip
STRATEGIES = {
    "random search": (1, ["tuner=random"]),
    "bayesian, no first points": (1, ["tuner=bayesian", "first_points=[]"]),
    "our default, no first points": (2, ["first_points=[]"]),
    "our default": (2, []),
}
"""Overrides, and jobs per full training of the budget; Hyperband starts twice as many."""
BUDGETS = (6, 12, 25)
"""Budgets, in full trainings."""
WORST = 0.75
"""Upper limit of the plot's loss axis."""


class Surface:
    """Interpolates the learning curve of any point of the space."""

    def __init__(self, path: Path):
        with path.open() as file:
            rows = list(csv.DictReader(file))
        self._known = {}
        for optimizer in {row["optimizer"] for row in rows}:
            own = [row for row in rows if row["optimizer"] == optimizer]
            losses = [[float(row[f"val/loss {epoch}"]) for epoch in range(1, EPOCHS + 1)] for row in own]
            self._known[optimizer] = np.array([_place(row) for row in own]), np.log(losses)
        self.best = min(float(row[f"val/loss {EPOCHS}"]) for row in rows)

    def curve(self, point: dict[str, str]) -> list[float]:
        """Returns the validation loss after each epoch."""
        return np.exp(_interpolate(_place(point), *self._known[point["optimizer"]])).tolist()

    def error(self) -> float:
        """Returns the median factor by which the interpolation misses a final loss that is excluded from the table."""
        missed = [
            abs(_interpolate(places[i], np.delete(places, i, 0), np.delete(logs, i, 0))[-1] - logs[i][-1])
            for places, logs in self._known.values()
            for i in range(len(places))
        ]
        return math.exp(statistics.median(missed))


def _place(point: dict[str, str]) -> tuple[float, float, float]:
    """Returns the coordinates of a point; a decade of the learning rate weighs most."""
    return (
        math.log10(float(point["lr"])),
        0.3 * math.log10(float(point["weight_decay"])),
        0.3 * math.log2(float(point["batch_size"])),
    )


def _interpolate(place: Any, places: Any, logs: Any) -> Any:
    squared = np.square(places - place).sum(axis=1)
    nearest = np.argsort(squared)[:NEIGHBOURS]
    return np.average(logs[nearest], axis=0, weights=1 / (squared[nearest] + 1e-9))


def searches(typed: list[str], max_jobs: int, seeds: int) -> Iterator[Search]:
    """Yields for each seed the search of the launcher's request for the overrides `typed`."""
    plan = make_plan([*SWEEP, *typed, f"tuner.max_jobs={max_jobs}"], Path.cwd(), fresh_name)
    request = tuning_request(plan, LOCAL_TARGET)
    static = request["TrainingJobDefinition"]["StaticHyperParameters"]
    for seed in range(seeds):
        yield Search(request["HyperParameterTuningJobConfig"] | {"RandomSeed": seed}, static)


def run(search: Search, surface: Surface, budget: float, max_jobs: float = math.inf) -> tuple[list[Any], int, float]:
    """Returns (cost, best objective so far) at each improvement, the number of started jobs, and their cost."""
    steps, best, started, order, now = [], math.inf, 0, itertools.count(), 0.0
    epochs_ahead: list[Any] = []  # (time at which an epoch ends, tie breaker, proposal, epoch, its curve)

    def start(time: float) -> None:
        nonlocal started
        if started < max_jobs and (proposal := search.ask()):
            started += 1
            heapq.heappush(epochs_ahead, (time + START + 1, next(order), proposal, 1, surface.curve(proposal.point)))

    for _ in range(PARALLEL):
        start(0.0)
    while epochs_ahead and PARALLEL * epochs_ahead[0][0] <= budget:
        now, _, proposal, epoch, curve = heapq.heappop(epochs_ahead)
        stopped = search.report(proposal.number, curve[epoch - 1])
        if not stopped and epoch < EPOCHS:
            heapq.heappush(epochs_ahead, (now + 1, next(order), proposal, epoch + 1, curve))
            continue
        search.tell(proposal.number, curve[epoch - 1], completed=not stopped)
        if curve[epoch - 1] < best:
            best = curve[epoch - 1]
            steps.append((PARALLEL * now, best))
        start(now)
    return steps, started, PARALLEL * now


def best_at(steps: list[Any], cost: float) -> float:
    """Returns the best objective known at `cost`."""
    return min((best for spent, best in steps if spent <= cost), default=math.inf)


def cost_of(steps: list[Any], objective: float) -> float:
    """Returns the cost at which an objective as good as `objective` was known."""
    return next((cost for cost, best in steps if best <= objective), math.inf)


def compare(surface: Surface, whole: int, seeds: int) -> dict[str, Any]:
    """Returns the results of each strategy for the cost of `whole` full trainings."""
    budget = whole * (EPOCHS + START)
    runs = {
        name: [run(search, surface, budget) for search in searches(typed, jobs * whole, seeds)]
        for name, (jobs, typed) in STRATEGIES.items()
    }
    goal = statistics.median(best_at(steps, budget) for steps, *_ in runs["random search"])
    return {name: _figures(found, goal, budget) for name, found in runs.items()}


def _figures(found: list[Any], goal: float, budget: float) -> dict[str, Any]:
    bests = {f"{share:.0%}": [best_at(steps, share * budget) for steps, *_ in found] for share in (0.25, 0.5, 1.0)}
    return {
        "best": {share: [_finite(q) for q in _quartiles(values)] for share, values in bests.items()},
        "share_of_budget_to_random": _finite(statistics.median_low(cost_of(s, goal) for s, *_ in found) / budget),
        "jobs": statistics.median(started for _, started, _ in found),
        "steps": [steps for steps, *_ in found],
    }


def _quartiles(values: list[float]) -> list[float]:
    """Returns lower quartile, median and upper quartile; sweeps without a result count as infinity."""
    ordered, last = sorted(values), len(values) - 1
    return [statistics.median(values) if q == 2 else ordered[round(q * last / 4)] for q in (1, 2, 3)]


def _finite(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def print_table(found: dict[str, Any]) -> None:
    for whole, strategies in found.items():
        print(f"\nbest validation loss for the cost of {whole} full trainings: median (quartiles)")
        print(f"{'':30}{'25 % of it':>22}{'50 %':>22}{'all of it':>22}   as good as random's, at   trainings")
        for name, row in strategies.items():
            cells = [_cell(*quartiles) for quartiles in row["best"].values()]
            share = row["share_of_budget_to_random"]
            reached = "never" if share is None else f"{share:.0%}"
            print(f"{name:30}" + "".join(f"{cell:>22}" for cell in cells) + f"{reached:>17}{row['jobs']:>20.0f}")


def _cell(low: float | None, middle: float | None, high: float | None) -> str:
    if middle is None:
        return "nothing yet"
    return f"{middle:.3f} ({low:.3f}-{'...' if high is None else f'{high:.3f}'})"


def draw(strategies: dict[str, Any], whole: int, path: Path) -> None:
    """Plots median and quartiles of the best objective over cost."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    costs = np.linspace(0, whole, 400)
    shown = {"random search": "#888888", "our default, no first points": "#1f77b4", "our default": "#d62728"}
    for name, colour in shown.items():
        bests = [[best_at(s, c * (EPOCHS + START)) for s in strategies[name]["steps"]] for c in costs]
        low, middle, high = np.array([_quartiles(values) for values in bests]).T
        axes.plot(costs, np.where(np.isfinite(middle), middle, np.nan), color=colour, label=name)
        high = np.where(np.isfinite(high), high, WORST)
        axes.fill_between(costs, low, high, where=np.isfinite(low), color=colour, alpha=0.15, lw=0)
    axes.set(xlabel=f"cost, in full trainings of {EPOCHS} epochs", ylabel="best validation loss so far")
    axes.set(xlim=(0, whole), ylim=(0.44, WORST))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.set_title(f"median and quartiles of {len(strategies['our default']['steps'])} sweeps", fontsize=10)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--curves", type=Path, default=CURVES)
    given = parser.parse_args()
    surface = Surface(given.curves)
    found = {whole: compare(surface, whole, given.seeds) for whole in BUDGETS}
    sweeps = [run(search, surface, math.inf, max_jobs=12) for search in searches([], 12, given.seeds)]
    twelve = {
        "best": _quartiles([best_at(steps, math.inf) for steps, *_ in sweeps]),
        "whole_trainings": statistics.median(cost for *_, cost in sweeps) / (EPOCHS + START),
    }
    missed = surface.error() - 1
    print(f"{given.seeds} seeds; best loss of the table {surface.best:.3f}; interpolation error {missed:.1%}")
    print_table(found)
    print(
        f"\nthe default, 12 trainings: cost of {twelve['whole_trainings']:.1f} full ones, "
        f"best loss {twelve['best'][1]:.3f} ({twelve['best'][0]:.3f}-{twelve['best'][2]:.3f})"
    )
    RESULTS.mkdir(exist_ok=True)
    draw(found[BUDGETS[-1]], BUDGETS[-1], HERE.parent / "docs" / "images" / "search.png")
    for strategies in found.values():
        for row in strategies.values():
            del row["steps"]
    summary = {"seeds": given.seeds, "table_best": surface.best, "left_out_error": surface.error(), "twelve": twelve}
    (RESULTS / "search.json").write_text(json.dumps(summary | {"budgets": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
