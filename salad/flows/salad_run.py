"""The Prefect flow `salad`: Stage I, then rounds until the speech is spent, D is low enough, or it no longer falls."""

# Annotations must not be strings here (no __future__ import): Prefect makes the parameters' model from them.
from typing import TYPE_CHECKING, Annotated, Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from pydantic import Field

from salad.flows.stage import build
from salad.flows.whole import carry_out

if TYPE_CHECKING:
    from salad.pipeline.stages import Run
    from salad.pipeline.stopping import Limits

Positive = Annotated[float, Field(gt=0)]


@flow(name="salad", persist_result=False)
def salad(
    config: str = "configs/demo.yaml",
    name: str | None = None,
    max_rounds: Annotated[int, Field(ge=1)] = 10,
    total_budget: Positive | None = None,
    target_divergence: Positive | None = None,
    plateau: bool = True,
    least_fall: Annotated[float, Field(ge=0)] = 0.0,
    selector: str | None = None,
    budget: Positive | None = None,
    round_seed: Annotated[int, Field(ge=0)] | None = None,
    from_run: str | None = None,
) -> State[Any]:
    """A whole run of SALAD: Stage I, and rounds until there is a reason to stop, which ends the flow run's message.

    Args:
        config: A YAML configuration, relative to the folder of `salad serve` or `prefect deploy`; its `rounds` do not count.
        name: Run name, in place of the configuration's.
        max_rounds: So many rounds at most.
        total_budget: Seconds of synthetic speech, all rounds together: a round that would not fit is not begun.
        target_divergence: Nats: stop when D of the held-out texts is no more than this.
        plateau: Stop when the fall of D in the last round, text by text, has a 95 % interval that includes 0 …
        least_fall: … or that lies below this many nats.
        selector: Strategy: a name from `salad strategies`, file.py:Class or package.module:Class.
        budget: Seconds of synthetic speech a round.
        round_seed: Of what the rounds draw: repeat them from the same Stage I.
        from_run: Folder or URL of another run: what would come out the same here, such as Stage I, is taken over from it.
    """
    from salad.pipeline.stages import open_run
    from salad.pipeline.stopping import Limits, check

    limits = Limits(max_rounds, total_budget, target_divergence, least_fall if plateau else None)

    def opened() -> "Run":
        overrides = {"name": name, "select.selector": selector, "select.budget": budget, "round_seed": round_seed}
        run = open_run(config, overrides)
        check(limits, run.config.select.budget)
        return run

    return carry_out(opened, lambda run: rounds_until(run, limits, from_run))


def rounds_until(run: "Run", limits: "Limits", from_run: str | None = None) -> "tuple[Run, str]":
    """Build rounds until `why_stop` has a reason, then what follows the last; the run with as many rounds, and the reason.

    Rounds that the run has already are kept, whatever the limits: it is judged after the last of them.
    """
    from salad.flows.artifacts import show_round
    from salad.pipeline.stopping import measured, why_stop
    from salad.pipeline.summary import published

    there, rounds, walked, reason = 0, 0, 0, None
    while published(run, f"round-{there:03d}/metrics"):
        there += 1
    while reason is None:
        rounds += 1
        run = run.with_rounds(rounds)
        run.store.bind(run.with_rounds(max(rounds, there)).config)
        stages = run.round_stages(rounds - 1)
        build(run, stages[walked:], from_run)
        walked = len(stages)
        if rounds >= there:
            reason = why_stop(measured(run, rounds), limits, run.config.select.budget)
            get_run_logger().info("run %s, round %d: %s", run.config.name, rounds - 1, reason or "another round is worth it")
            if reason is None:
                show_round(run.with_rounds(rounds + 1), rounds)
    build(run, run.stages[walked:-1], from_run)  # the control; not the report, which is written in any case
    return run, f"stopped after round {rounds - 1}: {reason}"
