"""What a MoAProfile says: one model per section, names and defaults as in the CustomResourceDefinition.

Attribute docstrings are the field descriptions that ``kubectl explain`` shows, so they speak to the profile's
author and name units. ``x-kubernetes-validations`` carry the part of `moa_api.rules` that an API server can check.
"""

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from moa_api.fields import (
    BaseURL,
    Between,
    DataKey,
    Duration,
    DurationOrNone,
    Instruction,
    Label,
    ModelID,
    ObjectName,
    Origin,
    Parameters,
    Price,
    ProfileName,
    PublicName,
    Quorum,
    URLPath,
)
from moa_api.router import RouterSpec, ServiceMonitor
from moa_api.section import SET, Section, cel, keyed_by

API_VERSION: Final = "moa-operator.io/v1alpha1"
KIND: Final = "MoAProfile"

MAX_CALLS: Final = 64
"""Panel calls a single request may cause: samples of all members, times layers."""

Scheme = Literal["http", "https"]
Capability = Literal["Vision", "Tools", "StructuredOutput", "MultipleChoices"]
FanOut = Literal["Auto", "Parallel", "MultipleChoices"]
OnUnmet = Literal["Degrade", "Fail"]
OnToolTurn = Literal["Aggregate", "Fuse"]
Strategy = Literal["Synthesize", "First"]
OnFailure = Literal["BestCandidate", "Fail"]
GatePolicy = Literal["Always", "Never"]
ShowCandidates = Literal["Never", "Reasoning", "Think"]
AuthType = Literal["None", "APIKey"]


class ServiceRef(Section):
    """A port of a Service in the cluster."""

    name: Label
    """Name of the Service."""

    namespace: Label | None = None
    """Namespace of the Service; the profile's own where left out."""

    port: Annotated[int, Between(1, 65_535)]
    """Port of the Service, by number."""

    scheme: Scheme = "http"
    """Whether the port speaks plain HTTP or TLS."""


class SecretKeyRef(Section):
    """An entry of a Secret in the profile's namespace."""

    name: ObjectName
    """Name of the Secret."""

    key: DataKey
    """Entry of the Secret that holds the value."""


class ConfigMapKeyRef(Section):
    """An entry of a ConfigMap in the profile's namespace."""

    name: ObjectName
    """Name of the ConfigMap."""

    key: DataKey
    """Entry of the ConfigMap that holds the value."""


class SecretRef(Section):
    """A whole Secret in the profile's namespace."""

    name: ObjectName
    """Name of the Secret."""


class TLS(Section):
    """How an upstream's certificate is verified."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!(has(self.caConfigMapRef) && has(self.caSecretRef))",
                "write one of caConfigMapRef and caSecretRef, not both",
            )
        )
    )

    ca_config_map_ref: ConfigMapKeyRef | None = None
    """Certificate authorities to trust (PEM) instead of the system's, from a ConfigMap."""

    ca_secret_ref: SecretKeyRef | None = None
    """Certificate authorities to trust (PEM) instead of the system's, from a Secret."""

    insecure_skip_verify: bool = False
    """Accept any certificate. For experiments only: whoever can intercept the connection can read and answer it."""


class Pricing(Section):
    """What an upstream's tokens cost, per million tokens, in one currency of your choice for the whole profile."""

    input_per_million: Price
    """Price of a million input tokens."""

    cached_input_per_million: Price | None = None
    """Price of a million input tokens that the upstream had cached; the input price where left out."""

    output_per_million: Price
    """Price of a million output tokens."""

    reasoning_per_million: Price | None = None
    """Price of a million reasoning tokens; the output price where left out."""


class Upstream(Section):
    """A model behind an OpenAI-compatible endpoint."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "has(self.service) != has(self.url)",
                "write exactly one of service (in the cluster) and url (anywhere else)",
            ),
            (
                (
                    "!has(self.tls) || (has(self.service) && self.service.scheme == 'https')"
                    " || (has(self.url) && self.url.startsWith('https:'))"
                ),
                "tls needs service.scheme: https or an https url",
            ),
        )
    )

    name: Label
    """Name of the upstream within the profile; others refer to it."""

    service: ServiceRef | None = None
    """The Service that serves the model. Exactly one of `service` and `url`."""

    url: Origin | None = None
    """Scheme, host and port of an endpoint outside the cluster. Exactly one of `service` and `url`."""

    path: URLPath = "/v1"
    """Path below which the OpenAI API is served, without a trailing slash; "/" for none."""

    model: ModelID
    """Name of the model as the upstream knows it."""

    api_key_secret_ref: SecretKeyRef | None = None
    """Secret entry with the key sent as bearer token; none is sent where left out."""

    tls: TLS | None = None
    """How the certificate is verified; against the system's authorities where left out."""

    capabilities: tuple[Capability, ...] | None = Field(default=None, strict=False, max_length=4, json_schema_extra=SET)
    """What the upstream can do: exactly these. Where left out, everything is assumed and unlearned when the upstream
    refuses it."""

    context_length: Annotated[int, Between(256, 100_000_000)] | None = None
    """Tokens that fit into the model's context, prompt and answer together."""

    max_concurrency: Annotated[int, Between(1, 100_000)] | None = None
    """Calls one router keeps open to the upstream at a time; more wait in line. Unlimited where left out."""

    pricing: Pricing | None = None
    """What the tokens cost; usage is shown without cost where left out."""

    parameters: Parameters = Field(default_factory=dict)
    """Request fields of your own, such as top_k or chat_template_kwargs, merged into each request to this upstream:
    final for panel calls, defaults for the final call."""

    def base_url(self, namespace: str) -> str:
        """Returns the URL below which the OpenAI API lies, without a trailing slash.

        Args:
            namespace: The profile's namespace, for a Service that names none.
        """
        path = self.path.rstrip("/")
        if self.service is None:
            return f"{(self.url or '').rstrip('/')}{path}"
        host = f"{self.service.name}.{self.service.namespace or namespace}"
        return f"{self.service.scheme}://{host}:{self.service.port}{path}"


class Member(Section):
    """A voice of the panel: an upstream, asked in one way, once or several times."""

    name: Label | None = None
    """Name of the member in answers, metrics and traces; the upstream's name where left out, numbered if repeated."""

    upstream: Label
    """Name of the upstream to ask."""

    samples: Annotated[int, Between(1, 16)] = 1
    """Answers to ask for."""

    temperature: float = Field(default=0.7, ge=0, le=2)
    """Sampling temperature."""

    top_p: float | None = Field(default=None, gt=0, le=1)
    """Share of probability mass to sample from; the upstream's default where left out."""

    max_tokens: Annotated[int, Between(1, 10_000_000)] | None = None
    """Tokens an answer may have; the upstream's default where left out."""

    seed: Annotated[int, Between(0, 2**53 - 1)] | None = None
    """Seed for reproducible sampling where the upstream supports it."""

    role: Instruction | None = None
    """Role or angle for this member, appended to the end of the conversation."""

    system_prompt: Instruction | None = None
    """Instructions for this member, appended to the end of the conversation; the client's system prompt stays."""

    timeout: Duration | None = None
    """Time a call may take; `timeouts.member` where left out."""

    weight: float = Field(default=1.0, gt=0, le=100)
    """Say of this member's answers where answers are compared."""


class Panel(Section):
    """Who proposes answers, and when enough of them have answered."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "self.members.all(m, !has(m.name) || self.members.exists_one(o, has(o.name) && o.name == m.name))",
                "members need different names",
            ),
            (
                f"self.members.map(m, m.samples).sum() * self.layers <= {MAX_CALLS}",
                f"samples of all members, times layers, may be {MAX_CALLS} at most; lower samples or layers",
            ),
            (
                (
                    "!has(self.quorum) || type(self.quorum) != int"
                    " || int(self.quorum) <= self.members.map(m, m.samples).sum()"
                ),
                "quorum is larger than the panel; write the number of all samples at most",
            ),
        )
    )

    members: tuple[Member, ...] = Field(strict=False, min_length=1, max_length=32)
    """Who is asked. Samples of all members, times layers, are 64 at most."""

    layers: Annotated[int, Between(1, 4)] = 1
    """Rounds of the panel; from the second on, members see the answers of the round before."""

    quorum: Quorum | None = None
    """Answers that are enough: a number, or a percentage of those asked such as "60%" (rounded up). Where left out,
    more than half."""

    grace: DurationOrNone = 2.0
    """Time that remains for further answers once the quorum is reached; the rest is cancelled after it."""

    fan_out: FanOut = "Auto"
    """How several samples of one member are asked for: MultipleChoices as one request with n, Parallel as one request
    each, Auto as one request wherever the upstream can."""

    on_unmet: OnUnmet = "Degrade"
    """What happens below the quorum: Degrade goes on with the answers there are and says so, Fail answers with an
    error."""

    on_tool_turn: OnToolTurn = "Aggregate"
    """Who answers when the conversation ends with a tool's result: Aggregate asks the aggregator alone, Fuse the whole
    panel."""


class Hardening(Section):
    """How candidates are shown to the aggregator, so that none can win by its name, place or tricks."""

    anonymize: bool = True
    """Hide which member wrote a candidate."""

    shuffle: bool = True
    """Show candidates in random order; the trace records the seed."""

    delimit: bool = True
    """Fence candidates with a mark that no candidate can guess, and call what is inside data."""

    dissent: bool = True
    """Ask the aggregator to weigh minority answers instead of counting heads."""

    max_candidate_tokens: Annotated[int, Between(16, 1_000_000)] | None = None
    """Tokens of each candidate shown to the aggregator; all where left out."""


class Aggregator(Section):
    """Who writes the answer from the panel's candidates."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "self.strategy != 'Synthesize' || has(self.upstream)",
                "strategy Synthesize needs an upstream: write the name of one",
            ),
            (
                "!has(self.upstream) || !has(self.fallbackUpstreams) || !(self.upstream in self.fallbackUpstreams)",
                "fallbackUpstreams lists the aggregator's own upstream; remove it there",
            ),
            (
                # No list of type `set`: order matters here, and a merge of two appliers' sets does not keep it.
                (
                    "!has(self.fallbackUpstreams)"
                    " || self.fallbackUpstreams.all(f, self.fallbackUpstreams.exists_one(o, o == f))"
                ),
                "fallbackUpstreams lists an upstream twice; write each once",
            ),
        )
    )

    strategy: Strategy = "Synthesize"
    """How one answer comes of many: Synthesize has a model write it, First takes the first complete candidate."""

    upstream: Label | None = None
    """Name of the upstream that writes the answer. Required for Synthesize; with First it answers when the panel
    cannot."""

    fallback_upstreams: tuple[Label, ...] = Field(default=(), strict=False, max_length=8)
    """Names of upstreams to try in order when the aggregator fails before its first token."""

    temperature: float = Field(default=0.3, ge=0, le=2)
    """Sampling temperature, unless the client sends one."""

    max_tokens: Annotated[int, Between(1, 10_000_000)] | None = None
    """Tokens the answer may have, unless the client sends a limit; the upstream's default where left out."""

    prompt: Instruction | None = None
    """Template that replaces the built-in instruction to the aggregator."""

    hardening: Hardening = Field(default_factory=Hardening)
    """How candidates are shown to the aggregator."""

    on_failure: OnFailure = "BestCandidate"
    """What happens when aggregator and fallbacks fail: BestCandidate answers with the panel's best and says so, Fail
    answers with an error."""


class Gate(Section):
    """Which requests are worth a panel."""

    policy: GatePolicy = "Always"
    """Always fuses; Never asks a single upstream, unless the request asks for a mode."""

    single: Label | None = None
    """Name of the upstream that answers alone; the aggregator's, else the first member's, where left out."""


class Timeouts(Section):
    """How long things may take."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "duration(self.connect) <= duration(self.request)",
                "connect is longer than request; write a shorter connect or a longer request",
            ),
            (
                "!has(self.member) || duration(self.member) <= duration(self.request)",
                "member is longer than request; write a shorter member or a longer request",
            ),
            (
                "!has(self.aggregator) || duration(self.aggregator) <= duration(self.request)",
                "aggregator is longer than request; write a shorter aggregator or a longer request",
            ),
        )
    )

    request: Duration = 300.0
    """Time for a client's request as a whole; a client may ask for less."""

    connect: Duration = 5.0
    """Time to open a connection to an upstream."""

    first_token: Duration = 60.0
    """Time until an upstream's answer begins."""

    idle: Duration = 30.0
    """Time an upstream may be silent within a streamed answer."""

    member: Duration | None = None
    """Time for a panel call; what the request leaves where left out."""

    aggregator: Duration | None = None
    """Time for the aggregator's call; what the request leaves where left out."""


class Response(Section):
    """What clients see."""

    show_candidates: ShowCandidates = "Never"
    """Whether answers show the candidates, streams while they are written: Reasoning as reasoning_content, Think as
    text between think tags, which answers that are to be JSON go without."""

    heartbeat: DurationOrNone = 5.0
    """Time between comments that keep a stream alive before its first token; "0s" turns them off."""

    model_names: tuple[PublicName, ...] = Field(default=(), strict=False, max_length=16, json_schema_extra=SET)
    """Further model names under which clients reach this profile, besides its own."""


class Auth(Section):
    """Who may use the profile."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "self.type == 'None' || has(self.secretRef)",
                "type APIKey needs secretRef: write the name of a Secret with one key per entry",
            ),
            (
                "self.type != 'None' || !has(self.secretRef)",
                "secretRef has no use with type None; write type: APIKey",
            ),
        )
    )

    type: AuthType = "None"
    """None lets everyone in who reaches the port, APIKey asks for a bearer token."""

    secret_ref: SecretRef | None = None
    """Secret with one API key per entry; the entry's name is the tenant."""


class OTLP(Section):
    """Where traces go."""

    endpoint: BaseURL
    """Base URL of a collector that speaks OTLP over HTTP; /v1/traces is appended."""

    sampling_percent: float = Field(default=100.0, ge=0, le=100)
    """Percentage of requests traced, where the client has not decided."""


class Telemetry(Section):
    """What the router tells about its work, besides metrics."""

    otlp: OTLP | None = None
    """Where traces go; none are made where left out."""

    service_monitor: ServiceMonitor = Field(default_factory=ServiceMonitor)
    """Whether the Prometheus operator is told to collect the router's metrics."""


class Limits(Section):
    """What a router accepts before it says no."""

    max_body_bytes: Annotated[int, Between(1_024, 1_073_741_824)] = 33_554_432
    """Bytes of a request's body; 413 beyond."""

    max_concurrent_requests: Annotated[int, Between(1, 100_000)] = 256
    """Requests in work at a time; more wait in line."""

    max_queued_requests: Annotated[int, Between(0, 100_000)] = 256
    """Requests that may wait in line; 429 beyond."""

    queue_timeout: DurationOrNone = 10.0
    """Time a request may wait in line; 429 beyond."""

    max_queued_calls: Annotated[int, Between(0, 100_000)] = 1_024
    """Calls that may wait in line for each upstream with maxConcurrency."""

    max_header_count: Annotated[int, Between(16, 1_000)] = 100
    """Header fields of a request."""

    max_header_bytes: Annotated[int, Between(1_024, 1_048_576)] = 32_768
    """Bytes of a request's header fields together."""

    max_json_depth: Annotated[int, Between(8, 512)] = Field(default=64, alias="maxJSONDepth")
    """Levels of nesting in a request's body."""

    max_candidate_bytes: Annotated[int, Between(1_024, 67_108_864)] = 262_144
    """Bytes kept of one candidate; a longer one is cut there."""


class MoAProfileSpec(Section):
    """A fusion: upstreams, a panel of them, and an aggregator that writes one answer."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "self.panel.members.all(m, self.upstreams.exists(u, u.name == m.upstream))",
                "each of panel.members[].upstream must be the name of one of upstreams",
            ),
            (
                "!has(self.aggregator.upstream) || self.upstreams.exists(u, u.name == self.aggregator.upstream)",
                "aggregator.upstream must be the name of one of upstreams",
            ),
            (
                (
                    "!has(self.aggregator.fallbackUpstreams)"
                    " || self.aggregator.fallbackUpstreams.all(f, self.upstreams.exists(u, u.name == f))"
                ),
                "each of aggregator.fallbackUpstreams must be the name of one of upstreams",
            ),
            (
                "!has(self.gate.single) || self.upstreams.exists(u, u.name == self.gate.single)",
                "gate.single must be the name of one of upstreams",
            ),
            (
                "self.panel.members.all(m, !has(m.timeout) || duration(m.timeout) <= duration(self.timeouts.request))",
                "panel.members[].timeout is longer than timeouts.request; write a shorter timeout or a longer request",
            ),
        )
    )

    upstreams: tuple[Upstream, ...] = Field(
        strict=False, min_length=1, max_length=24, json_schema_extra=keyed_by("name")
    )
    """The models this profile may call, each by a name of its own."""

    panel: Panel
    """Who proposes answers, and when enough of them have answered."""

    aggregator: Aggregator
    """Who writes the answer from the panel's candidates."""

    gate: Gate = Field(default_factory=Gate)
    """Which requests are worth a panel."""

    timeouts: Timeouts = Field(default_factory=Timeouts)
    """How long things may take."""

    response: Response = Field(default_factory=Response)
    """What clients see."""

    auth: Auth = Field(default_factory=Auth)
    """Who may use the profile."""

    telemetry: Telemetry = Field(default_factory=Telemetry)
    """What the router tells about its work, besides metrics."""

    router: RouterSpec = Field(default_factory=RouterSpec)
    """How the router runs."""

    limits: Limits = Field(default_factory=Limits)
    """What a router accepts before it says no."""

    paused: bool = False
    """Leave Deployment, Service and the rest as they are, whatever changes; the status is still reported."""


class Metadata(Section):
    """The part of an object's metadata that matters to the profile; the rest is the API server's business."""

    model_config = ConfigDict(extra="ignore")

    name: ProfileName
    """Name of the profile, and the model name clients send."""

    namespace: Label = "default"
    """Namespace of the profile and of everything it refers to."""

    uid: str | None = None
    """Identity of the object, given by the API server."""

    generation: Annotated[int, Between(0)] | None = None
    """Counts changes of the spec; given by the API server."""

    labels: dict[str, str] = Field(default_factory=dict)
    """Labels."""

    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations."""


class MoAProfile(Section):
    """Mixture-of-Agents fusion: a panel of models behind one OpenAI-compatible endpoint."""

    api_version: Literal["moa-operator.io/v1alpha1"]
    """Always moa-operator.io/v1alpha1, the version of the schema this document follows."""

    kind: Literal["MoAProfile"]
    """Always MoAProfile."""

    metadata: Metadata
    """Name, namespace and the like."""

    spec: MoAProfileSpec
    """What is wanted."""

    @model_validator(mode="before")
    @classmethod
    def _status_is_not_input(cls, document: object) -> object:
        """Ignores `status`: it is written by the operator, read by people, and no part of the wish."""
        if not isinstance(document, dict):
            return document
        return {key: value for key, value in document.items() if key != "status"}


def panel_size(spec: MoAProfileSpec) -> int:
    """Returns how many candidates a full layer of the panel has: the samples of all members."""
    return sum(member.samples for member in spec.panel.members)


def calls_per_request(spec: MoAProfileSpec) -> int:
    """Returns how many upstream calls' worth of answers one fused request asks for when nothing fails.

    Every sample counts, also where one request with ``n`` fetches several; Synthesize adds the aggregator's call.
    """
    final_calls = 1 if spec.aggregator.strategy == "Synthesize" else 0
    return panel_size(spec) * spec.panel.layers + final_calls


def required_quorum(quorum: int | str | None, base: int) -> int:
    """Returns how many answers are enough.

    Args:
        quorum: A number, a percentage such as ``"60%"`` (rounded up), or None for more than half.
        base: How many were asked.

    Returns:
        At least 1 and at most `base`; 0 where nobody was asked.
    """
    if base <= 0:
        return 0
    if quorum is None:
        return base // 2 + 1
    if isinstance(quorum, int):
        return min(quorum, base)
    percent = int(quorum.removesuffix("%"))
    return min(-(-base * percent // 100), base)


def member_names(members: tuple[Member, ...]) -> tuple[str, ...]:
    """Names every member of a panel, in order.

    A member without a name takes its upstream's; where that is taken, the first free of ``-2``, ``-3``, ….
    Names are different from each other as long as the given ones are.
    """
    taken = {member.name for member in members if member.name is not None}
    names: list[str] = []
    for member in members:
        name = member.name or _first_free(member.upstream, taken)
        taken.add(name)
        names.append(name)
    return tuple(names)


def _first_free(stem: str, taken: set[str]) -> str:
    if stem not in taken:
        return stem
    number = 2
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{number}"


def single_upstream(spec: MoAProfileSpec) -> str:
    """Returns the name of the upstream that answers alone.

    It is `gate.single`, else the aggregator's upstream, else the first member's: there always is one.
    """
    return spec.gate.single or spec.aggregator.upstream or spec.panel.members[0].upstream
