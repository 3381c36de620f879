"""Writes docs/reference.md from the tables in the code: `make docs`. A test fails when the page is stale."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from auditgap.adapters.kafka import topic_table
from auditgap.config import Settings
from auditgap.core import inputs
from auditgap.core.alerts import KINDS
from auditgap.core.fold import ASSERTED
from auditgap.core.observations import RESULTS
from auditgap.core.records import GAP_CHANGES, GAP_STATES
from auditgap.core.track import FAILING, SUSPICIONS
from auditgap.metrics import Metrics

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"


def page() -> str:
    """Give the whole page."""
    settings = Settings.model_construct()
    parts = [
        "# Reference",
        "Generated from the code by `make docs`; do not edit.",
        "## Topics",
        "All have the same number of partitions. Key: organization id (feed id where there is none), for gaps gap_id.",
        _table(
            ("topic", "holds", "settings"),
            [
                (f"`{spec.name}`", spec.what, " ".join(f"`{name}={value}`" for name, value in spec.config.items()))
                for spec in topic_table(settings)
            ],
        ),
        "## Alert kinds",
        _table(
            ("kind", "severity", "raised when"),
            [(f"`{kind.name}`", kind.severity.name.lower(), kind.when) for kind in KINDS.values()],
        ),
        "## What an input says",
        "A settings event and an operator say it exactly, at its time, of each flag that they name. Observations:",
        _table(
            ("kind", "result", "API", "logging", "suspicion"),
            [
                (kind, result, _flag(api), _flag(logging), _suspicion(kind, result))
                for (kind, result), (api, logging) in _said().items()
            ],
        ),
        "## States of a gap",
        _table(("state", "meaning"), [(f"`{state}`", text) for state, text in GAP_STATES.items()]),
        _diagram(),
        _table(
            ("from", "to", "when"),
            [(f"`{before}`" if before else "", f"`{after}`", why) for (before, after), why in GAP_CHANGES.items()],
        ),
        "## Why a record becomes a dead letter",
        "In the header `auditgap_dlq_reason`; `auditgap_dlq_detail` says more, `auditgap_dlq_topic`, `_partition`, "
        "`_offset` and `_append_time` where it stood.",
        _table(("reason", "meaning"), [(f"`{reason}`", text) for reason, text in inputs.REASONS.items()]),
        "## Settings",
        "Environment variables. Secrets are never shown.",
        _table(("variable", "default"), [(f"`{name}`", shown) for name, shown in _settings(Settings, "AUDITGAP_")]),
        "## Metrics",
        "On `/metrics`, beside `/livez` and `/readyz`.",
        _table(("metric", "meaning"), _metrics()),
    ]
    return "\n\n".join(parts) + "\n"


def _said() -> dict[tuple[str, str], tuple[bool | None, bool | None]]:
    return {
        (kind, result): ASSERTED.get((kind, result), (None, None))
        for kind, results in RESULTS.items()
        for result in results
    }


def _flag(value: bool | None) -> str:
    return {True: "on", False: "off", None: ""}[value]


def _suspicion(kind: str, result: str) -> str:
    feed, calls = SUSPICIONS.get((kind, result), (None, None))
    limit = " (if nothing else comes for 15 minutes)" if result in FAILING else ""
    named = {"feed": {True: "feed seen", False: f"feed unseen{limit}"}, "calls": {True: "recorded", False: "missing"}}
    return ", ".join(named[what][value] for what, value in (("feed", feed), ("calls", calls)) if value is not None)


def _diagram() -> str:
    """Draw the states of a gap."""
    lines = [f"    {before or '[*]'} --> {after}" for before, after in GAP_CHANGES]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _settings(model: type[BaseModel], prefix: str) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            rows += _settings(kind, f"{prefix}{name.upper()}__")
            continue
        default = field.get_default(call_default_factory=False)
        shown = "the host's name" if field.default_factory else "" if default is None else f"`{default}`"
        rows.append((f"{prefix}{name.upper()}", "secret" if kind == SecretStr | None else shown))
    return rows


def _metrics() -> list[tuple[str, ...]]:
    rows = []
    for family in Metrics().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append((f"`{name}`", family.documentation))
    return sorted(rows)


if __name__ == "__main__":
    PAGE.write_text(page())
