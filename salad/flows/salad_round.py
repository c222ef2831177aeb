"""The Prefect flow `salad-round`: `salad round` with a task a stage, its progress and its tables in Prefect."""

# Annotations must not be strings here (no __future__ import): Prefect makes the parameters' model from them.
from typing import TYPE_CHECKING, Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from salad.flows.stage import build
from salad.flows.whole import carry_out

if TYPE_CHECKING:
    from salad.pipeline.stages import Run


@flow(name="salad-round", persist_result=False)
def salad_round(
    config: str = "configs/demo.yaml",
    name: str | None = None,
    round: Annotated[int, Field(ge=0)] = 0,
    selector: str | None = None,
    budget: Annotated[float, Field(gt=0)] | None = None,
    round_seed: Annotated[int, Field(ge=0)] | None = None,
    from_run: str | None = None,
) -> State[Any]:
    """One round of SALAD, and whatever before it is missing: score, select, synthesise, distil, measure.

    Args:
        config: A YAML configuration, relative to the folder of `salad serve` or `prefect deploy`.
        name: Run name, in place of the configuration's.
        round: Which round, from 0.
        selector: Strategy: a name from `salad strategies`, file.py:Class or package.module:Class.
        budget: Seconds of synthetic speech a round.
        round_seed: Of what the rounds draw: repeat them from the same Stage I.
        from_run: Folder or URL of another run: what would come out the same here, such as Stage I, is taken over from it.
    """
    from salad.pipeline.stages import open_run

    def one(run: "Run") -> "tuple[Run, str]":
        run.store.bind(run.config)
        build(run, run.round_stages(round), from_run)
        return run, f"round {round}"

    overrides = {"name": name, "select.selector": selector, "select.budget": budget, "round_seed": round_seed}
    return carry_out(lambda: open_run(config, overrides, at_least=round + 1), one)
