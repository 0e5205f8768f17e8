"""`fleet bench quality`: is deliberation worth its tokens?"""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli import options
from fleet.cli.bench import shared

if TYPE_CHECKING:
    from fleet.bench.quality.real import Bounds, Findings
    from fleet.bench.quality.suites.items import Suite
    from fleet.bench.report import Report
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
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            metavar="NAME|FILE",
            help="Tasks from outside: ifeval or judgebench, of which --copy is your copy, or a JSONL file of your own.",
        ),
    ] = None,
    copy: Annotated[
        Path | None, typer.Option("--copy", metavar="FILE", help="Your copy of that suite; its hash is checked.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", metavar="HEX", help="Take a copy with this hash, too.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            "--results",
            metavar="FILE",
            help="What was played of a suite; a run that was interrupted goes on there. Default: bench-SUITE.jsonl.",
        ),
    ] = None,
    tasks: Annotated[int, typer.Option("--tasks", min=2, max=2000, help="Real tasks to try.")] = 20,
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

    With --suite nothing is simulated: its tasks are played on the model
    server, single, by vote, by mean and by council, at equal tokens.

    [dim]Example:[/dim]  fleet bench quality --vllm-url http://gpu-1:8000 --plot quality.png
    """
    from fleet.bench import plot as plots
    from fleet.bench.quality import receipt as receipts
    from fleet.bench.quality.real import Bounds

    if plot is not None:
        plots.check()
    settings, bounds = _settings(vllm_url), Bounds(at_once, max_seconds, max_tokens)
    if suite is not None:
        outside = _outside(suite, copy, sha256)
        report = _played(settings, outside, results, tasks=tasks, bounds=bounds, seed=seed)
        draw = partial(plots.figures, report)
    else:
        both = _given(quality=skill, noise_sd=noise, leniency_sd=leniency, obedience=obedience)
        biases = _given(
            position_bias=position_bias, self_preference=self_preference, flattery=sycophancy, deference=deference
        )
        real = _on_models(settings, tasks=tasks, bounds=bounds, seed=seed)  # first, for it may fail
        scenarios = receipts.scenarios(both, biases)
        receipt = receipts.simulated(scenarios, trials=trials, agents=agents, seed=seed, note=shared.note)
        if real is not None:
            receipt = receipts.with_real(receipt, real)
        report, draw = receipt.report, partial(plots.quality, receipt)
    if plot is not None:
        draw(plot)
    shared.show(report, json_output=json_output)


def _on_models(settings: "Settings | None", *, tasks: int, bounds: "Bounds", seed: int) -> "Findings | None":
    """None without a model server. Raises `ConfigError`."""
    from fleet.bench.quality import receipt as receipts

    if settings is None:
        shared.note("no VLLM_URL: real tasks are left out")
        return None
    return receipts.real(settings, tasks=tasks, bounds=bounds, seed=seed, note=shared.note)


def _outside(name: str, copy: Path | None, sha256: str | None) -> "Suite":
    """Raises `ConfigError`."""
    from fleet.bench.quality.suites import ifeval, judgebench, own

    loaders = {"ifeval": ifeval.load, "judgebench": judgebench.load}
    if name not in loaders:
        return own.load(Path(name))
    if copy is None:
        raise typer.BadParameter(f"--suite {name} needs --copy: your copy of its tasks, for none is shipped")
    return loaders[name](copy, sha256)


def _played(
    settings: "Settings | None", suite: "Suite", results: Path | None, *, tasks: int, bounds: "Bounds", seed: int
) -> "Report":
    """Raises `ConfigError`."""
    from fleet.bench.quality.suites.record import Record
    from fleet.bench.quality.suites.run import measure
    from fleet.errors import ConfigError

    if settings is None:
        raise ConfigError("--suite needs a model server: set VLLM_URL, or give --vllm-url")
    record = Record(results or Path(f"bench-{suite.name}.jsonl"))
    return measure(settings, suite, record, tasks=tasks, bounds=bounds, seed=seed, note=shared.note)


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
