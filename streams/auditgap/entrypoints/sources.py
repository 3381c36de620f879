"""The feed files a command was given, opened one after another, with progress on a terminal."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from auditgap import feedfiles

STDIN: Final = "-"
STDIN_NAME: Final = "standard input"


class Sources:
    """The files by name, `-` for standard input. Messages go through `tell`, so that they and the bar get along."""

    def __init__(self, paths: Sequence[str], *, bar: bool = True) -> None:
        self.unopened = 0
        self._paths = paths
        self._console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            # Data may go to a file while the bar is on the terminal.
            redirect_stdout=False,
            disable=not (bar and self._console.is_terminal),
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._progress.stop()

    def tell(self, line: str) -> None:
        """Write a line on stderr."""
        if self._console.is_terminal:
            self._console.print(line)
        else:
            click.echo(line, err=True)

    def __iter__(self) -> Iterator[tuple[str, feedfiles.Source]]:
        """Give name and content of each; one that cannot be opened is told and counted."""
        total = 0
        for path in self._paths:
            if path != STDIN:
                total += Path(path).stat().st_size
        task = self._progress.add_task("reading", total=None if STDIN in self._paths else total)
        for path in self._paths:
            self._progress.update(task, description=path)
            if path == STDIN:
                if sys.stdin.isatty():
                    self.tell("reading records from the terminal; Ctrl-D ends them")
                yield STDIN_NAME, _Measured(click.get_binary_stream("stdin"), self._progress, task)
                continue
            with ExitStack() as opened:
                try:
                    file = opened.enter_context(Path(path).open("rb", buffering=0))
                except OSError as error:
                    self.unopened += 1
                    self.tell(f"auditgap: {path}: {error.strerror}")
                    continue
                yield path, _Measured(file, self._progress, task)


class _Measured:
    """A source whose bytes move the bar."""

    def __init__(self, source: BinaryIO, progress: Progress, task: int) -> None:
        # A pipe's `read1` gives what is there; `read` would wait for all of it.
        self._read = getattr(source, "read1", source.read)
        self._progress, self._task = progress, task

    def read(self, size: int, /) -> bytes:
        data: bytes = self._read(size) or b""
        self._progress.advance(self._task, len(data))  # type: ignore[arg-type]
        return data
