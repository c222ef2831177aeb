"""The Prefect flow `salad-stage-one`: everything up to the student that has heard natural speech alone, and its figures."""

# Annotations must not be strings here (no __future__ import): Prefect makes the parameters' model from them.
from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.client.schemas.objects import State

from salad.flows.stage import build
from salad.flows.whole import carry_out

if TYPE_CHECKING:
    from salad.pipeline.stages import Run


@flow(name="salad-stage-one", persist_result=False)
def salad_stage_one(config: str = "configs/demo.yaml", name: str | None = None, from_run: str | None = None) -> State[Any]:
    """The pool, its clusters, probes and held-out texts, Stage I and its figures; rounds go on from there.

    Args:
        config: A YAML configuration, relative to the folder of `salad serve` or `prefect deploy`.
        name: Run name, in place of the configuration's.
        from_run: Folder or URL of another run: what would come out the same here, such as Stage I, is taken over from it.
    """
    from salad.pipeline.stages import open_run

    def stage_one(run: "Run") -> "tuple[Run, str]":
        run.store.bind(run.config)
        build(run, run.stages_until("stage-one/metrics"), from_run)
        return run, "Stage I"

    return carry_out(lambda: open_run(config, {"name": name}), stage_one)
