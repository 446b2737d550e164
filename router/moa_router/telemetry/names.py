"""Every name that telemetry shows: metrics, labels, buckets, spans, attributes, events and their closed sets of values.

Dashboards, alerts and other people's queries depend on these strings, so they are written once, here. Metric names
follow the Prometheus naming convention (base units, ``_total`` for counters); spans and attributes follow the
OpenTelemetry semantic conventions of `SEMANTIC_CONVENTIONS`. Values of labels are known when a profile is loaded or
belong to one of the ``Literal`` types below: nothing a client sends ever becomes a label.
"""

from dataclasses import dataclass
from typing import Final, Literal

# --- Values of labels and attributes ---------------------------------------------------------------------------------

Mode = Literal["fuse", "single", "synthesize", "judge", "select", "vote", "first", "passthrough"]
"""How a request was served. ``passthrough``: the client named an upstream, not the profile."""

RequestOutcome = Literal["ok", "degraded", "client_error", "upstream_error", "timeout", "rejected", "cancelled"]
"""How a client's request ended. ``rejected``: refused by a limit (429); ``cancelled``: the client went away."""

CallOutcome = Literal["ok", "client_error", "rate_limited", "server_error", "timeout", "reset", "invalid", "cancelled"]
"""How one upstream call ended; every retry and hedge is a call. ``invalid``: an answer that cannot be used."""

Stage = Literal["panel", "aggregator", "judge", "rank", "refine", "vote", "gate", "single", "passthrough", "embedding"]
"""What an upstream call was made for."""

TokenType = Literal["input", "output", "cached_input", "reasoning"]
"""Kind of token. ``input`` includes ``cached_input`` and ``output`` includes ``reasoning``: never add all four."""

QuorumOutcome = Literal["met", "unmet", "empty"]
"""How a panel ended: quorum reached, some answers but too few, none at all."""

DegradedReason = Literal["quorum", "panel", "aggregator"]
"""Which promise an answer falls short of, as ``x-moa-degraded`` names it."""

CancelReason = Literal["quorum", "decided", "client_gone", "deadline", "failed", "shutdown"]
"""Why an upstream call was cancelled.

``quorum``: the grace after the quorum is over; ``decided``: the strategy needs no further candidate; ``client_gone``:
nobody is waiting; ``deadline``: a member's or the request's time is up; ``failed``: the request failed for another
reason; ``shutdown``: the drain time is over.
"""

ReloadOutcome = Literal["ok", "refused"]
"""Whether a changed profile was taken over, or refused while the last good one serves on."""

ConnectionState = Literal["active", "idle"]
"""State of a pooled upstream connection."""

Operation = Literal["chat", "text_completion", "embeddings", "invoke_workflow"]
"""``gen_ai.operation.name``, as far as the router performs it."""

UNRESOLVED: Final = "_unresolved"
"""Profile and mode of a request that was refused before either was known. No profile can have this name."""

# --- Labels ----------------------------------------------------------------------------------------------------------

PROFILE: Final = "profile"
MODE: Final = "mode"
OUTCOME: Final = "outcome"
STAGE: Final = "stage"
UPSTREAM: Final = "upstream"
MODEL: Final = "model"
TYPE: Final = "type"
REASON: Final = "reason"
STATE: Final = "state"
VERSION: Final = "version"

GEN_AI_PROFILE: Final = "gen_ai_workflow_name"
"""The profile's name on the ``gen_ai_*`` metrics: a profile is the workflow that a call belongs to."""

# --- Buckets (upper bounds; seconds unless said otherwise) -----------------------------------------------------------

SECONDS_OF_MODELS: Final = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0,
    300.0, 600.0,
)  # fmt: skip
"""Times in which a model takes part: a cached first token in tens of milliseconds up to ten minutes of reasoning."""

SECONDS_OF_ROUTER: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
)  # fmt: skip
"""Times that the router itself adds: the aim is well under a millisecond."""

SECONDS_OF_GEN_AI: Final = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68,
)  # fmt: skip
"""The conventions' boundaries for ``gen_ai.client.operation.duration``, doubled twice more for reasoning models."""

TOKENS_OF_GEN_AI: Final = tuple(float(4**power) for power in range(14))
"""The conventions' boundaries for ``gen_ai.client.token.usage``, in tokens: 1, 4, 16, … 67108864."""

# --- Metrics ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MetricName:
    """What is fixed about a metric family.

    Attributes:
        name: As exposed, unit and ``_total`` included.
        help: One sentence for the exposition's ``# HELP`` line.
        labels: Names of the labels, in the order in which values are given.
        buckets: Upper bounds in ascending order, without infinity; empty unless a histogram.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


REQUESTS: Final = MetricName(
    "moa_requests_total", "Client requests, by the mode that served them and how they ended.", (PROFILE, MODE, OUTCOME)
)
REQUEST_DURATION: Final = MetricName(
    "moa_request_duration_seconds",
    "Time from a request's first byte to its answer's last.",
    (PROFILE, MODE),
    SECONDS_OF_MODELS,
)
TIME_TO_FIRST_TOKEN: Final = MetricName(
    "moa_time_to_first_token_seconds",
    "Time from a request's first byte to the first token of its answer (streamed answers).",
    (PROFILE, MODE),
    SECONDS_OF_MODELS,
)
ROUTER_OVERHEAD: Final = MetricName(
    "moa_router_overhead_seconds",
    "Share of a request's duration in which the router waited for no upstream.",
    (PROFILE, MODE),
    SECONDS_OF_ROUTER,
)
STAGE_DURATION: Final = MetricName(
    "moa_stage_duration_seconds",
    "Time that a stage spent on an upstream, by how that ended.",
    (PROFILE, STAGE, UPSTREAM, OUTCOME),
    SECONDS_OF_MODELS,
)
STAGE_TOKENS: Final = MetricName(
    "moa_stage_tokens_total",
    "Tokens used; input includes cached_input and output includes reasoning.",
    (PROFILE, STAGE, UPSTREAM, MODEL, TYPE),
)
STAGE_COST: Final = MetricName(
    "moa_stage_cost_total",
    "Cost of the tokens used, in the currency of the profile's prices.",
    (PROFILE, STAGE, UPSTREAM),
)
ESTIMATED_USAGE: Final = MetricName(
    "moa_estimated_usage_total",
    "Upstream calls whose tokens were estimated from what arrived because the upstream reported none.",
    (PROFILE, STAGE, UPSTREAM),
)
UPSTREAM_REQUESTS: Final = MetricName(
    "moa_upstream_requests_total", "Upstream calls, every retry and hedge counted.", (PROFILE, UPSTREAM, OUTCOME)
)
UPSTREAM_CONNECTIONS: Final = MetricName(
    "moa_upstream_connections", "Open connections to an upstream.", (PROFILE, UPSTREAM, STATE)
)
QUORUM: Final = MetricName("moa_quorum_total", "Panels, by whether their quorum was met.", (PROFILE, OUTCOME))
DEGRADED: Final = MetricName(
    "moa_degraded_total", "Answers given although something was missing, by what was missing.", (PROFILE, REASON)
)
CANCELLED_CALLS: Final = MetricName(
    "moa_cancelled_calls_total", "Upstream calls cancelled by the router, by why.", (PROFILE, STAGE, REASON)
)
INFLIGHT: Final = MetricName("moa_inflight_requests", "Client requests being served.", (PROFILE,))
QUEUE_DEPTH: Final = MetricName("moa_queue_depth", "Client requests waiting for a free slot.", (PROFILE,))
PROFILE_RELOADS: Final = MetricName(
    "moa_profile_reloads_total", "Attempts to load a changed profile, by whether it was taken over.", (OUTCOME,)
)
LAST_RELOAD_SUCCESSFUL: Final = MetricName(
    "moa_profile_last_reload_successful", "Whether the last attempt to load profiles succeeded (1) or was refused (0)."
)
BUILD_INFO: Final = MetricName("moa_build_info", "A constant 1 whose label tells the router's version.", (VERSION,))

_GEN_AI_LABELS: Final = (
    GEN_AI_PROFILE,
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "server_address",
    "server_port",
)
GEN_AI_TOKEN_USAGE: Final = MetricName(
    "gen_ai_client_token_usage",
    "Number of input and output tokens of an upstream call.",
    (*_GEN_AI_LABELS, "gen_ai_token_type"),
    TOKENS_OF_GEN_AI,
)
GEN_AI_OPERATION_DURATION: Final = MetricName(
    "gen_ai_client_operation_duration_seconds",
    "Duration of an upstream call; error_type is empty when it succeeded.",
    (*_GEN_AI_LABELS, "error_type"),
    SECONDS_OF_GEN_AI,
)

# --- Spans -----------------------------------------------------------------------------------------------------------

SEMANTIC_CONVENTIONS: Final = "1.41.1"
"""Version of the OpenTelemetry semantic conventions followed: the last release that holds the GenAI ones.

Releases from 1.42.0 on refer to a repository of their own for ``gen_ai.*``, which has published no version yet.
"""

SCHEMA_URL: Final = f"https://opentelemetry.io/schemas/{SEMANTIC_CONVENTIONS}"
INSTRUMENTATION_SCOPE: Final = "moa_router"
SERVICE_NAME: Final = "moa-router"


def server_span(method: str, route: str) -> str:
    """Name of the span around a client's request, e.g. ``POST /v1/chat/completions`` (HTTP conventions)."""
    return f"{method} {route}"


def workflow_span(profile: str) -> str:
    """Name of the span around a fusion, e.g. ``invoke_workflow research`` (GenAI conventions)."""
    return f"invoke_workflow {profile}"


def stage_span(stage: Stage) -> str:
    """Name of the span around a stage, e.g. ``moa.stage panel``; the conventions know no stages."""
    return f"moa.stage {stage}"


def call_span(operation: Operation, model: str) -> str:
    """Name of the span around an upstream call, e.g. ``chat Qwen/Qwen3-32B`` (GenAI conventions)."""
    return f"{operation} {model}"


# --- Attributes: OpenTelemetry ---------------------------------------------------------------------------------------

ERROR_TYPE: Final = "error.type"
HTTP_REQUEST_METHOD: Final = "http.request.method"
HTTP_REQUEST_RESEND_COUNT: Final = "http.request.resend_count"
HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"
HTTP_ROUTE: Final = "http.route"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
URL_FULL: Final = "url.full"
URL_PATH: Final = "url.path"
URL_SCHEME: Final = "url.scheme"

GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_OUTPUT_TYPE: Final = "gen_ai.output.type"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_CHOICE_COUNT: Final = "gen_ai.request.choice.count"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_SEED: Final = "gen_ai.request.seed"
GEN_AI_REQUEST_STREAM: Final = "gen_ai.request.stream"
GEN_AI_REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
GEN_AI_REQUEST_TOP_P: Final = "gen_ai.request.top_p"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
GEN_AI_WORKFLOW_NAME: Final = "gen_ai.workflow.name"

GEN_AI_PROVIDER: Final = "openai"
"""``gen_ai.provider.name`` of every upstream: the conventions name the format spoken, not who serves it."""

# --- Attributes and events: ours -------------------------------------------------------------------------------------

MOA_CALLS: Final = "moa.calls"
MOA_COST: Final = "moa.cost"
MOA_DEGRADED: Final = "moa.degraded"
MOA_LAYER: Final = "moa.layer"
MOA_MEMBER: Final = "moa.member"
MOA_MODE: Final = "moa.mode"
MOA_OUTCOME: Final = "moa.outcome"
MOA_PANEL_ANSWERED: Final = "moa.panel.answered"
MOA_PANEL_ASKED: Final = "moa.panel.asked"
MOA_PANEL_QUORUM: Final = "moa.panel.quorum"
MOA_PROFILE: Final = "moa.profile"
MOA_REASON: Final = "moa.reason"
MOA_REQUEST_ID: Final = "moa.request_id"
MOA_SHUFFLE_SEED: Final = "moa.shuffle.seed"
MOA_STAGE: Final = "moa.stage"
MOA_UPSTREAM: Final = "moa.upstream"
MOA_USAGE_ESTIMATED: Final = "moa.usage.estimated"

EVENT_CANCELLED: Final = "moa.cancelled"
EVENT_DEGRADED: Final = "moa.degraded"
EVENT_FALLBACK: Final = "moa.fallback"
EVENT_FIRST_TOKEN: Final = "moa.first_token"  # noqa: S105 - a name, not a secret
EVENT_GRACE_OVER: Final = "moa.grace_over"
EVENT_QUORUM_REACHED: Final = "moa.quorum_reached"
EVENT_RETRIED: Final = "moa.retried"
