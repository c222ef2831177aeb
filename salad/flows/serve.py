"""`salad serve`: a process that offers the deployment `salad-round` to a Prefect server and runs what is asked of it."""

from __future__ import annotations

from salad.errors import SaladError

START = "run `prefect server start`, then `export PREFECT_API_URL=http://127.0.0.1:4200/api`"
NAME = "salad-round"


def serve_deployments(limit: int = 1) -> None:
    """Serve `salad-round/salad-round` until Ctrl+C, that many flow runs at a time; SaladError where no server answers."""
    from prefect.settings import get_current_settings
    from prefect.types.entrypoint import EntrypointType

    from salad.console import console
    from salad.flows.salad_round import salad_round

    settings = get_current_settings()
    _check_server(settings.api.url)
    name = NAME if settings.plugins.enabled else f"{NAME}/{NAME}"
    console.print(f"Serving {NAME} at {settings.api.url}; start a round with", soft_wrap=True)
    console.print(f"\n  prefect deployment run {name}\n", soft_wrap=True)
    # By module and not by file: the flow is found from whatever folder this is started in.
    salad_round.serve(name=NAME, limit=limit, entrypoint_type=EntrypointType.MODULE_PATH, print_starting_message=False)


def _check_server(url: str | None) -> None:
    """Without a URL Prefect would start a temporary server of its own, which no other command would find."""
    from prefect.client.orchestration import get_client

    if not url:
        raise SaladError("no Prefect server is named (PREFECT_API_URL is not set)", START)
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem:
        raise SaladError(f"no Prefect server answers at {url} ({problem})", START)
