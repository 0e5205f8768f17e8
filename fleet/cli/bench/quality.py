"""`fleet bench quality`: is deliberation worth its tokens?"""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli import options
from fleet.cli.bench import shared

if TYPE_CHECKING:
    from fleet.config import Settings


def quality(
    trials: Annotated[
        int, typer.Option("--trials", min=20, help="Simulated deliberations for each rate; more make it surer.")
    ] = 3000,
    agents: Annotated[int, typer.Option("--agents", "-n", min=3, max=16, help="How many agents propose.")] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Equal seeds give equal simulated figures.")] = 1,
    skill: Annotated[
        float | None, typer.Option("--skill", min=0, max=10, help="Mean true quality of first proposals. Default: 6.")
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option("--noise", min=0, help="Standard deviation of a score for one criterion, in points. Default: 1."),
    ] = None,
    leniency: Annotated[
        float | None,
        typer.Option("--leniency", min=0, help="Standard deviation between judges, in points. Default: 0.7."),
    ] = None,
    position_bias: Annotated[
        float | None,
        typer.Option(
            "--position-bias", help="Points that the first proposal shown gains over the last. Default: 1, biased only."
        ),
    ] = None,
    self_preference: Annotated[
        float | None,
        typer.Option("--self-preference", help="Points for what the judge's own model wrote. Default: 1, biased only."),
    ] = None,
    sycophancy: Annotated[
        float | None,
        typer.Option(
            "--sycophancy", help="Points for a text that sounds convincing by one deviation. Default: 0.5, biased only."
        ),
    ] = None,
    deference: Annotated[
        float | None,
        typer.Option(
            "--deference", min=0, max=1, help="Share of wrong critiques that authors follow. Default: 1, biased only."
        ),
    ] = None,
    obedience: Annotated[
        float | None,
        typer.Option(
            "--obedience", min=0, max=1, help="Share of judges that obey a proposal that asks for a 10. Default: 0.2."
        ),
    ] = None,
    vllm_url: Annotated[
        str | None,
        typer.Option(
            "--vllm-url", metavar="URL", help="Model servers, comma-separated: also try real tasks. Default: VLLM_URL."
        ),
    ] = None,
    tasks: Annotated[int, typer.Option("--tasks", min=2, max=200, help="Real tasks to try.")] = 20,
    at_once: Annotated[int, typer.Option("--at-once", min=1, max=64, help="Real deliberations at the same time.")] = 8,
    max_seconds: Annotated[
        float, typer.Option("--max-seconds", min=10, help="Time for all real tasks; then the rest is left out.")
    ] = 1800,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=64, help="Most tokens of one real answer.")] = 2048,
    plot: shared.Plot = None,
    json_output: options.Json = False,
) -> None:
    """Is deliberation worth its tokens? Compared with one answer, best of N and simpler rankings, at equal tokens.

    With simulated agents whose skill, noise and biases are known, so that the
    truly best proposal is known too; this takes a minute or two. And, where a
    model server is given, on small tasks whose answers can be checked.

    [dim]Example:[/dim]  fleet bench quality --vllm-url http://gpu-1:8000 --plot quality.png
    """
    from fleet.bench import plot as plots
    from fleet.bench.quality import receipt as receipts

    if plot is not None:
        plots.check()
    settings = _settings(vllm_url)
    both = _given(quality=skill, noise_sd=noise, leniency_sd=leniency, obedience=obedience)
    biases = _given(
        position_bias=position_bias, self_preference=self_preference, flattery=sycophancy, deference=deference
    )
    real_run = None
    if settings is None:
        shared.note("no VLLM_URL: real tasks are left out")
    else:
        from fleet.bench.quality.real import Bounds

        # First, for it may fail.
        bounds = Bounds(at_once, max_seconds, max_tokens)
        real_run = receipts.real(settings, tasks=tasks, bounds=bounds, seed=seed, note=shared.note)
    receipt = receipts.simulated(
        receipts.scenarios(both, biases), trials=trials, agents=agents, seed=seed, note=shared.note
    )
    if real_run is not None:
        receipt = receipts.with_real(receipt, real_run)
    if plot is not None:
        plots.quality(receipt, plot)
    shared.show(receipt.report, json_output=json_output)


def _given(**traits: float | None) -> dict[str, float]:
    return {name: value for name, value in traits.items() if value is not None}


def _settings(vllm_url: str | None) -> "Settings | None":
    """None without a model server."""
    from fleet import config
    from fleet.secret_files import overlaid

    settings = config.load(overlaid(os.environ, VLLM_URL=vllm_url) if vllm_url else os.environ)
    if not settings.model_servers:
        return None
    shared.configure_logging()
    return settings
