"""The names that others depend on are the ones of the design and of the conventions."""

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes, url_attributes
from opentelemetry.semconv.schemas import Schemas

from moa_router.telemetry import names

PROMISED = {
    "moa_requests_total": {"profile", "mode", "outcome"},
    "moa_request_duration_seconds": {"profile", "mode"},
    "moa_time_to_first_token_seconds": {"profile", "mode"},
    "moa_router_overhead_seconds": {"profile", "mode"},
    "moa_stage_duration_seconds": {"profile", "stage", "upstream", "outcome"},
    "moa_stage_tokens_total": {"profile", "stage", "upstream", "model", "type"},
    "moa_stage_cost_total": {"profile", "stage", "upstream"},
    "moa_upstream_requests_total": {"profile", "upstream", "outcome"},
    "moa_quorum_total": {"profile", "outcome"},
    "moa_degraded_total": {"profile", "reason"},
    "moa_cancelled_calls_total": {"profile", "stage", "reason"},
    "moa_inflight_requests": {"profile"},
}


def test_the_metrics_promised_have_the_labels_promised() -> None:
    ours = {value.name: set(value.labels) for value in vars(names).values() if isinstance(value, names.MetricName)}

    assert PROMISED.items() <= ours.items()


def test_attributes_are_those_of_the_semantic_conventions() -> None:
    for module, prefix in (
        (gen_ai_attributes, "gen_ai."),
        (http_attributes, "http."),
        (server_attributes, "server."),
        (url_attributes, "url."),
        (error_attributes, "error."),
    ):
        ours = {key: value for key, value in vars(names).items() if isinstance(value, str) and value.startswith(prefix)}
        assert ours
        assert ours.items() <= {key: value for key, value in vars(module).items() if isinstance(value, str)}.items()


def test_the_version_of_the_conventions_is_a_published_one() -> None:
    assert names.SCHEMA_URL in {schema.value for schema in Schemas}


def test_labels_of_the_gen_ai_metrics_are_the_attributes_with_underscores() -> None:
    attributes = {value for value in vars(gen_ai_attributes).values() if isinstance(value, str)}
    attributes |= {names.SERVER_ADDRESS, names.SERVER_PORT, names.ERROR_TYPE}
    sanitized = {attribute.replace(".", "_") for attribute in attributes}

    for metric in (names.GEN_AI_TOKEN_USAGE, names.GEN_AI_OPERATION_DURATION):
        assert set(metric.labels) <= sanitized


def test_span_names() -> None:
    assert names.server_span("POST", "/v1/chat/completions") == "POST /v1/chat/completions"
    assert names.workflow_span("research") == "invoke_workflow research"
    assert names.stage_span("panel") == "moa.stage panel"
    assert names.call_span("chat", "Qwen/Qwen3-32B") == "chat Qwen/Qwen3-32B"


def test_buckets_reach_as_far_as_models_take() -> None:
    assert names.SECONDS_OF_MODELS[-1] >= 300
    assert names.TOKENS_OF_GEN_AI[-1] == 67108864
