"""Runs `fleet …` in processes that are forked from one which has imported everything: imports take most of a command.

The installed program itself, started as a user does, runs in the tests of documents, of interrupts and of whole fleets.
"""

import asyncio
import os
import sys
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from fleet.config import unconfigured

WITHIN_S = 60
_STREAMS = (("in", os.O_RDONLY), ("out", os.O_WRONLY), ("err", os.O_WRONLY))
_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        *("fleet.cli.app", "fleet.cli.watching", "fleet.cli.doctor.fleet_state", "fleet.client.session"),
        *(
            "fleet.client.dead_letters",
            "fleet.jetstream.topology",
            "rich.table",
            "rich.text",
            "tests.support.client.commands",
        ),
    ]
)


async def fleet(*words: str, stdin: str = "", **environ: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error. No setting of ours reaches it, `environ` does."""
    with TemporaryDirectory() as directory:
        files = Path(directory)
        for name, _ in _STREAMS:
            (files / name).write_text(stdin if name == "in" else "")
        process = _FORKS.Process(target=_main, args=(words, {**unconfigured(os.environ), **environ}, files))
        process.start()
        await asyncio.to_thread(process.join, WITHIN_S)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"fleet {' '.join(words)}")
        status = process.exitcode
        process.close()
        return status, (files / "out").read_text(), (files / "err").read_text()


def _main(words: tuple[str, ...], environ: Mapping[str, str], files: Path) -> None:
    from fleet.cli import main

    for number, (name, flags) in enumerate(_STREAMS):
        opened = os.open(files / name, flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - multiprocessing gives it none
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["fleet", *words]
    main()
