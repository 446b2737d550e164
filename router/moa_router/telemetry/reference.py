"""The reference of metrics and spans, made from `names`.

`make docs` writes it to `docs/metrics.md`; a test fails when that differs.
"""

from typing import Final, get_args

from moa_router.telemetry import names
from moa_router.telemetry.metrics import CounterFamily, HistogramFamily, Metrics

_PREAMBLE: Final = """\
# Metrics and spans

<!-- Generated from `moa_router.telemetry.names` by `make docs`; change that, not this file. -->

`GET /metrics` on the admin port shows Prometheus text, or OpenMetrics to those who accept it. Values of labels come
from the profile or from the closed sets below: nothing a client sends ever becomes a label. Next to these there are the
usual `process_*` and `python_gc_*`.
"""

_SPANS: Final = """\
## Spans

With `spec.telemetry.otlp` set, every sampled request is a tree: `POST /v1/chat/completions` (server) over
`invoke_workflow <profile>` over `moa.stage <stage>` over `chat <model>` (client). Names and attributes follow the
OpenTelemetry semantic conventions {version}, the GenAI ones included; what is ours begins with `moa.`. The client's
`traceparent` is continued, and passed on to the upstreams even when nothing is recorded. No text of a prompt or an
answer is in any span.
"""

_SETS: Final = {
    "mode": names.Mode,
    "outcome of a request": names.RequestOutcome,
    "outcome of an upstream call, and of a stage": names.CallOutcome,
    "stage": names.Stage,
    "type of tokens": names.TokenType,
    "outcome of a quorum": names.QuorumOutcome,
    "reason of degradation": names.DegradedReason,
    "reason of cancellation": names.CancelReason,
    "outcome of a reload": names.ReloadOutcome,
}


def render() -> str:
    """The reference, as Markdown."""
    lines = [_PREAMBLE, "| metric | type | labels | |", "|---|---|---|---|"]
    for family in Metrics("").families():
        kind = (
            "counter"
            if isinstance(family, CounterFamily)
            else "histogram"
            if isinstance(family, HistogramFamily)
            else "gauge"
        )
        metric = family.metric
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {kind} | {labels} | {metric.help} |")
    lines += ["", "## Values of labels", "", "| | |", "|---|---|"]
    lines += [
        f"| {title} | {', '.join(f'`{value}`' for value in get_args(values))} |" for title, values in _SETS.items()
    ]
    lines += ["", _SPANS.format(version=names.SEMANTIC_CONVENTIONS)]
    return "\n".join(lines)
