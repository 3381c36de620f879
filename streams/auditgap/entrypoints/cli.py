"""The command `auditgap`: one function per command; what it does is in the module it imports when it is called.

Data goes to stdout, messages to stderr. Exit status 0: fine; 1: a finding or a failure; 2: wrong use.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

import auditgap
from auditgap.errors import AuditgapError, UsageError

_INTERRUPTED: Final = 130

_FILE: Final = click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True)


class _Commands(click.Group):
    """Shows what went wrong in one line, and turns it into the exit status."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command and exit."""
        options["standalone_mode"] = False
        status: object
        try:
            status = super().main(*args, **options)
            sys.stdout.flush()
        except click.ClickException as error:
            error.show()
            status = error.exit_code
        except AuditgapError as error:
            click.echo(f"auditgap: {' '.join(str(error).split())}", err=True)
            status = error.exit_status
        except (click.Abort, KeyboardInterrupt):
            status = _INTERRUPTED
        except BrokenPipeError:
            # Not 0: it did not say all it had to say. Python would complain once more when it closes stdout.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 1
        sys.exit(status if isinstance(status, int) else 0)


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(auditgap.__version__, prog_name="auditgap", message="%(prog)s %(version)s")
def cli() -> None:
    """Notice when a compliance audit feed is switched off, and keep the window nobody recorded.

    Settings are environment variables, such as AUDITGAP_KAFKA__BOOTSTRAP_SERVERS (127.0.0.1:9092 if not set).
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # What a terminal cannot show must not end the command.
            stream.reconfigure(errors="backslashreplace")


@cli.command()
@click.option("--keep", is_flag=True, help="Stay up at the end, until Ctrl-C.")
def demo(*, keep: bool) -> int:
    """See it work, from an embedded Kafka to the gaps."""
    from auditgap.entrypoints import demo as command

    return command.run(keep=keep)


@cli.command()
@click.option("--port", type=click.IntRange(1024, 65535), help="Port on 127.0.0.1; a free one if not given.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where records are kept from one start to the next; a temporary directory if not given.",
)
def broker(port: int | None, data_dir: Path | None) -> int:
    """Run an embedded Kafka until Ctrl-C.

    For trying out: one node, no authentication, on 127.0.0.1 only.
    """
    from auditgap.entrypoints import demo as command

    return command.run_broker(port, data_dir)


@cli.group()
def topics() -> None:
    """Look after the topics."""


@topics.command()
def apply() -> int:
    """Create missing topics, set what differs.

    Safe to repeat.
    """
    from auditgap.adapters.kafka import apply_topics
    from auditgap.config import load

    settings = load()
    if not apply_topics(settings, _say):
        _say("all topics are as they should be")
    return 0


@cli.group()
def policy() -> None:
    """Say who may change the settings, and when."""


_VERSION_FILE: Final = click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
)


@policy.command("check")
@_VERSION_FILE
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: the defaults, then each organization.")
def check_policy(file: Path, *, as_json: bool) -> int:
    """Show what a policy file means, or all that is wrong with it."""
    from auditgap.entrypoints import policy as command

    return command.check(file, _say, as_json=as_json)


@policy.command("apply")
@_VERSION_FILE
@click.option("--author", metavar="NAME", help="Who answers for it, instead of the file's author.")
def apply_policy(file: Path, author: str | None) -> int:
    """Publish what a policy file changes.

    The file is the whole policy: an organization that is not in it any more gets the defaults. Safe to repeat.
    """
    from auditgap.config import load
    from auditgap.entrypoints import policy as command

    return command.apply(load(), file, author, _say)


@cli.group()
def schemas() -> None:
    """Look after the schemas: the interface to all who read the topics."""


@schemas.command("check")
@click.option(
    "--dir",
    "directory",
    type=click.Path(exists=True, file_okay=False, readable=True, path_type=Path),
    help="A folder with NAME.avsc and released/NAME/vN.avsc; the schemas of this version if not given.",
)
def check_schemas(directory: Path | None) -> int:
    """See that the next versions and all released ones can read each other.

    So too the versions in the registry, if AUDITGAP_REGISTRY__URL is set. Exit status 1 if any cannot.
    """
    from auditgap.config import load
    from auditgap.entrypoints import schemas as command

    return command.check(load(), directory)


@schemas.command("register")
def register_schemas() -> int:
    """Register the schemas of this version in the registry of AUDITGAP_REGISTRY__URL.

    A step of deployment, before the workers. Safe to repeat; registers nothing if anything is incompatible.
    """
    from auditgap.config import load
    from auditgap.entrypoints import schemas as command

    return command.register(load(), _say)


_OBSERVATIONS: Final = click.option(
    "--observations", metavar="FILE", multiple=True, type=_FILE, help="What a collector saw, one JSON object a line."
)


@cli.group()
def topology() -> None:
    """Say what belongs to which parent and feed."""


@topology.command("check")
@_VERSION_FILE
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: parents and feeds, then organizations.")
def check_topology(file: Path, *, as_json: bool) -> int:
    """Show what a topology file means, or all that is wrong with it."""
    from auditgap.entrypoints import topology as command

    return command.check(file, _say, as_json=as_json)


@topology.command("apply")
@_VERSION_FILE
@click.option("--author", metavar="NAME", help="Who answers for it, instead of the file's author.")
def apply_topology(file: Path, author: str | None) -> int:
    """Publish what a topology file changes.

    The file is the whole topology: what is not in it any more has no members from now on. Safe to repeat.
    """
    from auditgap.config import load
    from auditgap.entrypoints import topology as command

    return command.apply(load(), file, author, _say)


@cli.group()
def connect() -> None:
    """Look after the sinks on Kafka Connect."""


@connect.command("apply")
@click.argument(
    "directories",
    metavar="DIR…",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, readable=True, path_type=Path),
)
@click.option("--url", metavar="URL", help="Connect's REST interface, instead of AUDITGAP_CONNECT__URL.")
@click.option(
    "--wait", metavar="SECONDS", type=click.FloatRange(0, 3600), default=60, show_default=True, help="For all to run."
)
def apply_connectors(directories: Sequence[Path], url: str | None, wait: float) -> int:
    """Put the connectors of directories on a cluster, and wait until they run.

    Each *.json holds one, as "name" and "config". What failed is started again. Safe to repeat. Exit status 1 if one
    does not run.
    """
    from auditgap.config import load
    from auditgap.entrypoints import connect as command

    return command.apply(load(**({"connect": {"url": url}} if url else {})), directories, wait, _say)


@connect.command("plugins")
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
def install_plugins(directory: Path) -> int:
    """Download the plugins of the connectors into DIR, which is to be Connect's plugin.path.

    230 MB, each file checked by its SHA-256.
    """
    from auditgap.entrypoints import connect as command

    return command.plugins(directory, _say)


@cli.command()
@click.argument("files", metavar="FILE…|-", nargs=-1, type=_FILE)
@click.option("--feed", metavar="ID", help="The feed they were read from: the key of records without organization.")
@_OBSERVATIONS
def publish(files: Sequence[str], feed: str | None, observations: Sequence[str]) -> int:
    """Publish feed files, and observations.

    NDJSON, a JSON array or the API's pages, gzip or not; - is standard input.
    """
    from auditgap.config import load
    from auditgap.entrypoints import publish as command
    from auditgap.entrypoints.sources import STDIN, STDIN_NAME, Sources

    if not (files or observations):
        raise UsageError("publish takes feed files, --observations, or both")
    if twice := sorted({*files} & {*observations}):
        raise UsageError(f"{twice[0]} is given as a feed and as observations")
    if feed is not None and not (0 < len(feed) <= 200 and feed.isprintable()):
        raise UsageError("--feed takes 1 to 200 printable characters")
    settings = load()
    seen = {STDIN_NAME if each == STDIN else each for each in observations}
    with (
        Sources([*files, *observations]) as sources,
        command.Publisher(settings, sources.tell, activities=bool(files), observations=bool(observations)) as publisher,
    ):
        for name, source in sources:
            if name in seen:
                publisher.observed(name, source)
            else:
                publisher.file(name, source, feed)
        publisher.flush()
    _say(str(publisher.counts))
    return publisher.counts.exit_status or int(bool(sources.unopened))


@cli.command("assert")
@click.argument("result", type=click.Choice(["off", "on"]))
@click.option("--organization", metavar="ID", help="The organization that it was so for.")
@click.option("--feed", metavar="ID", help="The feed that it was so for, where it is not one organization's.")
@click.option("--at", "since", metavar="TIME", required=True, help="Since when it was so: ISO 8601 with a zone.")
@click.option("--author", metavar="NAME", required=True, help="Who answers for it.")
@click.option("--reason", metavar="TEXT", required=True, help="How it is known.")
@click.option("--api", is_flag=True, help="It is about the Compliance API itself.")
@click.option("--logging", is_flag=True, help="It is about the recording of activities. Neither: about both.")
def assert_(
    result: str,
    *,
    organization: str | None,
    feed: str | None,
    since: str,
    author: str,
    reason: str,
    api: bool,
    logging: bool,
) -> int:
    """State that a feed was off, or on, from a time on.

    What the records do not tell, a named person can: the worker takes the time as exact, and shows who said so.
    """
    from auditgap.config import load
    from auditgap.entrypoints import assertion as command

    about = {"organization_id": organization, "feed_id": feed}
    flags = {"api": api, "logging": logging}
    seen = command.statement(result, about, since, author, reason, [name for name, said in flags.items() if said])
    return command.publish(load(), seen, _say)


@cli.group()
def keys() -> None:
    """Look after the signing keys."""


@keys.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def generate(file: Path) -> int:
    """Write a new private key, and show its line for the workers' trusted keys."""
    from auditgap.adapters import signing

    public = signing.generate(file)
    click.echo(signing.trusted_line(public, file.name))
    _say(f"private key {signing.key_id_of(public)} is in {file}; the line is for AUDITGAP_SIGNING__TRUSTED_KEYS_FILE")
    return 0


@cli.command()
@click.option(
    "--reset-input",
    type=click.Choice(["earliest", "latest"]),
    help="Accept the input topic as it is now (made again, or with other partitions), and go on from there.",
)
def worker(reset_input: str | None) -> int:
    """Watch the activities; write alerts and gaps.

    Runs until a signal ends it.
    """
    from auditgap.config import load
    from auditgap.entrypoints import worker as command

    return command.run(load(), reset_input=reset_input)


@cli.command()
@_VERSION_FILE
@click.option("--check", is_flag=True, help="Only show what the file means, or all that is wrong with it.")
def notify(file: Path, *, check: bool) -> int:
    """Tell people of alerts, as a file says.

    By signed webhooks, and by Apprise: chat, mail, paging. Runs until a signal ends it.
    """
    from auditgap.config import load
    from auditgap.entrypoints import notify as command

    return command.check(file, _say) if check else command.run(load(), file, _say)


@cli.command()
@click.option("--organization", metavar="ID", help="Only this organization's.")
@click.option("--history", is_flag=True, help="Every revision of each gap, not the latest only.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def gaps(organization: str | None, *, history: bool, as_json: bool) -> int:
    """List the windows in which a feed was off."""
    from auditgap import clock
    from auditgap.config import load
    from auditgap.entrypoints import show
    from auditgap.entrypoints.read import Reader

    reader = Reader(load(), _say)
    found = reader.revisions(organization) if history else reader.latest(organization)
    now = clock.now()
    for gap in found:
        lines = [show.json_of(show.shape_of(gap))] if as_json else [*show.gap_lines(gap, now), ""]
        click.echo("\n".join(lines))
    if not found and not as_json:
        _say("no gap is known" + (f" of {organization}" if organization else ""))
    return int(bool(reader.unreadable))


@cli.command()
@click.option("--follow", is_flag=True, help="Wait for more, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def alerts(*, follow: bool, as_json: bool) -> int:
    """List the alerts, every revision of each."""
    from auditgap.config import load
    from auditgap.entrypoints import show
    from auditgap.entrypoints.read import Reader

    reader = Reader(load(), _say)
    count = 0
    for alert in reader.follow_alerts() if follow else reader.alerts():
        lines = [show.json_of(show.shape_of(alert))] if as_json else show.alert_lines(alert)
        click.echo("\n".join(lines))  # flushes
        count += 1
    if not count and not as_json:
        _say("no alert was raised")
    return int(bool(reader.unreadable))


@cli.command()
@click.option("--organization", metavar="ID", help="Only this organization's.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def status(organization: str | None, *, as_json: bool) -> int:
    """Say which organizations are audited now.

    Yes, no or unknown, and why.
    """
    from auditgap import clock
    from auditgap.config import load
    from auditgap.entrypoints import show
    from auditgap.entrypoints.read import Reader

    reader = Reader(load(), _say)
    now = clock.now()
    found = reader.statuses(organization)
    for each in found:
        lines = [show.json_of(show.shape_of(each))] if as_json else show.status_lines(each, now)
        click.echo("\n".join(lines))
    if not found and not as_json:
        _say("no status is known" + (f" of {organization}" if organization else ""))
    return int(bool(reader.unreadable))


@cli.command()
@click.argument("files", metavar="FILE…|-", nargs=-1, required=True, type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="One JSON object (with --history: one a line).")
@click.option("--history", is_flag=True, help="Every revision as it arrives, as a worker would have published it.")
@click.option("--until", metavar="TIME", help="What stands for now: ISO 8601 with a zone. Later records are refused.")
@_OBSERVATIONS
@click.option("--policy", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Who may switch it.")
@click.option(
    "--topology", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="What belongs to what."
)
def backtest(
    files: Sequence[str],
    *,
    as_json: bool,
    history: bool,
    until: str | None,
    observations: Sequence[str],
    policy: Path | None,
    topology: Path | None,
) -> int:
    """Find the gaps in feed files, without a broker. Exit status 1 if there is one."""
    from auditgap.entrypoints import backtest as command

    return command.run(
        files,
        as_json=as_json,
        history=history,
        until=until,
        observations=observations,
        policy_file=policy,
        topology_file=topology,
    )


@cli.group(invoke_without_command=True)
@click.option("--organization", metavar="ID", help="About one organization.")
@click.option("--feed", metavar="ID", help="About a feed, and the organizations that were read from it.")
@click.option("--all", "everything", is_flag=True, help="About all that was ever seen.")
@click.option("--from", "since", metavar="TIME", help="Where the period begins: ISO 8601 with a zone.")
@click.option("--to", "until", metavar="TIME", help="Where it ends; this moment does not belong to it.")
@click.option("--markdown", "form", flag_value="markdown", default="markdown", help="For reading (if nothing is said).")
@click.option("--html", "form", flag_value="html", help="One page for a browser or for paper.")
@click.option("--json", "form", flag_value="json", help="One JSON object: what `report verify` takes.")
@click.pass_context
def report(
    context: click.Context,
    organization: str | None,
    feed: str | None,
    since: str | None,
    until: str | None,
    form: str,
    *,
    everything: bool,
) -> int:
    """Say how much of a period was audited, by reading all inputs again.

    Exit status 1 if the published gaps are not what the inputs give, or their history is not whole.
    """
    from auditgap.config import load
    from auditgap.core.report import Scope
    from auditgap.entrypoints import report as command

    if context.invoked_subcommand is not None:
        if (organization, feed, since, until, everything) != (None, None, None, None, False):
            raise UsageError(f"options of a new report do not go with `report {context.invoked_subcommand}`")
        return 0
    scopes = [Scope("organization", organization)] if organization else []
    scopes += [Scope("feed", feed)] if feed else []
    scopes += [Scope("all")] if everything else []
    if len(scopes) != 1:
        raise UsageError("say what the report is about: one of --organization ID, --feed ID and --all")
    if since is None or until is None:
        raise UsageError("say which period the report is about: --from TIME and --to TIME")
    return command.run(load(), scopes[0], since, until, form, _say)


@report.command("verify")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path))
def verify_report(file: Path) -> int:
    """Recompute a report of --json from the inputs that it names, and check the chain of the gap history.

    Exit status 1 if anything differs, or if it cannot be verified any more.
    """
    from auditgap.config import load
    from auditgap.entrypoints import report as command

    return command.verify(load(), file, _say)


def main() -> None:
    """Run the command line."""
    cli(prog_name="auditgap")
