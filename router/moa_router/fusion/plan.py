"""A profile, compiled: whatever can be decided before the first request is decided here."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, Protocol

import orjson

from moa_api.v1alpha1 import ProfileError, member_names, single_upstream
from moa_router.fusion.admission import Admission, InUse
from moa_router.fusion.prompts import TemplateError, check_template, member_instruction
from moa_router.upstream.client import Patience, Prices, Site, Upstream
from moa_router.upstream.slots import Slots
from moa_router.upstream.transport import Origin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from moa_api import v1alpha1
    from moa_router.telemetry.metrics import Metrics
    from moa_router.telemetry.names import Stage
    from moa_router.telemetry.tracing import Tracing

Mode = Literal["fuse", "single", "synthesize", "first"]
Strategy = Literal["Synthesize", "First"]

#: The aggregator's share of a request's time where the profile does not say.
AGGREGATOR_SHARE = 0.4

USER_AGENT = "moa-router"
_LENGTH_LIMITS = frozenset({"max_tokens", "max_completion_tokens"})
_TOKENS_PER_PRICE = Decimal(1_000_000)
_STREAM = b',"stream":true,"stream_options":{"include_usage":true}'
_STREAM_WITH_RUNNING_USAGE = b',"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}'


class SecretSource(Protocol):
    """Where Secrets and ConfigMaps are read from while a profile is compiled."""

    def secret(self, name: str, key: str) -> str:
        """One entry of a Secret; raises LookupError, in words, when there is none."""
        ...

    def config_map(self, name: str, key: str) -> str:
        """One entry of a ConfigMap; raises LookupError, in words, when there is none."""
        ...

    def entries(self, name: str) -> Mapping[str, str]:
        """All entries of a Secret; raises LookupError, in words, when there is no such Secret."""
        ...


def encode_fields(fields: Mapping[str, object]) -> bytes:
    """JSON members, each with a comma in front, to be spliced into a body."""
    return b"".join(b"," + orjson.dumps(name) + b":" + orjson.dumps(value) for name, value in fields.items())


def stream_fields(*, stream: bool, running_usage: bool) -> bytes:
    """The JSON members that ask for a stream, with the usage so far in each chunk where the upstream can."""
    if not stream:
        return b""
    return _STREAM_WITH_RUNNING_USAGE if running_usage else _STREAM


@dataclass(slots=True, frozen=True)
class Seat:
    """A place on the panel, to be filled by one candidate."""

    member: str
    weight: float


@dataclass(slots=True, frozen=True)
class Proposer:
    """One upstream call of a panel, and the seats it is to fill.

    Attributes:
        site: whom it asks, and where it is counted.
        seats: one for each candidate wanted of it.
        together: whether one call may be asked for all of them (`n`); otherwise each seat is a call.
        sampling: the profile's sampling values with the upstream's parameters over them; final.
        seed: the seed of the first seat; others count on from it.
        instruction: text for the tail of the prompt, beside the conversation.
        patience: how long its calls may take.
        encoded: `sampling`, ready to be spliced.
        head: the constant start of its bodies.
        tail: the end of a body that has nothing else to say.
    """

    site: Site
    seats: tuple[Seat, ...]
    together: bool
    sampling: Mapping[str, object]
    seed: int | None
    instruction: str
    patience: Patience
    encoded: bytes = field(init=False)
    head: bytes = field(init=False)
    tail: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoded", encode_fields(self.sampling))
        object.__setattr__(self, "head", self.site.upstream.body_head)
        object.__setattr__(self, "tail", self.encoded + b"}")


@dataclass(slots=True, frozen=True)
class Panel:
    """Who proposes, and when that is enough."""

    proposers: tuple[Proposer, ...]
    layers: int
    quorum: int | str | None
    grace: float
    fail_unmet: bool
    fuse_tool_turns: bool


@dataclass(slots=True, frozen=True)
class Aggregator:
    """Who writes the answer.

    Attributes:
        chain: the upstream to ask and the fallbacks behind it, in order.
        defaults: fields of the final body that the client may override.
        template: the profile's own instruction, if any.
        max_candidate_tokens: how much of a candidate is shown.
        fail: whether a failure is one, rather than a reason to give the best candidate.
    """

    chain: tuple[Site, ...]
    defaults: Mapping[str, object]
    patience: Patience
    template: str | None
    anonymize: bool
    shuffle: bool
    delimit: bool
    dissent: bool
    max_candidate_tokens: int | None
    fail: bool


@dataclass(slots=True)
class Plan:
    """A compiled profile.

    Attributes:
        name: the profile's name.
        names: all model names that mean this profile.
        auth_keys: tenant by key digest; None when the profile asks for no key.
        by_name: upstreams by their name in the profile, for requests that name one.
        by_model: upstreams by the model they serve; the first listed wins.
        single: whom the `single` mode asks.
        default_mode: what is served when the client names no mode.
        in_use: requests that still run on it; its connections close after the last.
    """

    name: str
    names: tuple[str, ...]
    panel: Panel
    aggregator: Aggregator
    strategy: Strategy
    default_mode: Mode
    single: Site
    by_name: Mapping[str, Site]
    by_model: Mapping[str, Site]
    single_patience: Patience
    request_timeout: float
    aggregator_share: float
    show: Literal["Never", "Reasoning", "Think"]
    heartbeat: float
    limits: v1alpha1.Limits
    drain: v1alpha1.Drain
    admission: Admission
    metrics: Metrics
    tracing: Tracing
    auth_entries: Mapping[str, str] | None
    origins: tuple[Origin, ...]
    in_use: InUse = field(default_factory=InUse)

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes a client may name."""
        return ("fuse", "single", "synthesize", "first") if self.aggregator.chain else ("fuse", "single", "first")

    async def aclose(self) -> None:
        """Close every connection."""
        for origin in self.origins:
            await origin.aclose()


def compile_profile(
    profile: v1alpha1.MoAProfile, secrets: SecretSource, metrics: Metrics, tracing: Tracing, version: str
) -> Plan:
    """Compile a profile.

    Raises:
        ProfileError: what the models cannot see is wrong: a Secret that is missing, a template that does not parse.
    """
    spec, name = profile.spec, profile.metadata.name
    problems: list[str] = []
    upstreams, origins = _compile_upstreams(profile, secrets, version, problems)
    entries = _auth_entries(spec.auth, secrets, problems)
    _check_prompt(spec.aggregator.prompt, problems)
    if problems:
        raise ProfileError(problems)

    def sites(stage: Stage) -> dict[str, Site]:
        return {key: Site(metrics, name, stage, upstream) for key, upstream in upstreams.items()}

    passthrough, aggregators, singles = sites("passthrough"), sites("aggregator"), sites("single")
    chain = [*([spec.aggregator.upstream] if spec.aggregator.upstream else []), *spec.aggregator.fallback_upstreams]
    single = single_upstream(spec)
    times = spec.timeouts
    share = times.aggregator if times.aggregator is not None else times.request * AGGREGATOR_SHARE
    by_model: dict[str, Site] = {}
    for upstream in spec.upstreams:
        by_model.setdefault(upstream.model, passthrough[upstream.name])
    return Plan(
        name=name,
        names=(name, f"fusion/{name}", *spec.response.model_names),
        panel=Panel(
            proposers=_compile_proposers(spec, sites("panel")),
            layers=spec.panel.layers,
            quorum=spec.panel.quorum,
            grace=spec.panel.grace,
            fail_unmet=spec.panel.on_unmet == "Fail",
            fuse_tool_turns=spec.panel.on_tool_turn == "Fuse",
        ),
        aggregator=_compile_aggregator(spec, [aggregators[key] for key in chain]),
        strategy=spec.aggregator.strategy,
        default_mode="single" if spec.gate.policy == "Never" else "fuse",
        single=singles[single],
        by_name=passthrough,
        by_model=by_model,
        single_patience=Patience(None, times.first_token, times.idle),
        request_timeout=times.request,
        aggregator_share=share,
        show=spec.response.show_candidates,
        heartbeat=spec.response.heartbeat,
        limits=spec.limits,
        drain=spec.router.drain,
        admission=Admission(
            spec.limits.max_concurrent_requests,
            spec.limits.max_queued_requests,
            spec.limits.queue_timeout,
            metrics.inflight.labels(name),
            metrics.queue_depth.labels(name),
        ),
        metrics=metrics,
        tracing=tracing,
        auth_entries=entries,
        origins=origins,
    )


def _compile_upstreams(
    profile: v1alpha1.MoAProfile, secrets: SecretSource, version: str, problems: list[str]
) -> tuple[dict[str, Upstream], tuple[Origin, ...]]:
    spec, upstreams, origins = profile.spec, {}, []
    for index, upstream in enumerate(spec.upstreams):
        where = f"spec.upstreams[{index}]"
        base = upstream.base_url(profile.metadata.namespace)
        context = _ssl_context(upstream, secrets, f"{where}.tls", problems)
        headers = _headers(upstream, secrets, f"{where}.apiKeySecretRef", problems, version)
        split = base.index("/", base.index("://") + 3) if "/" in base[base.index("://") + 3 :] else len(base)
        try:
            origin = Origin(base[:split], ssl=context, connect_timeout=spec.timeouts.connect)
            chat = origin.route("POST", f"{base[split:]}/chat/completions", headers)
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        origins.append(origin)
        upstreams[upstream.name] = Upstream(
            upstream.name,
            upstream.model,
            chat,
            capabilities=None if upstream.capabilities is None else frozenset(upstream.capabilities),
            parameters=upstream.parameters,
            slots=Slots(upstream.max_concurrency, spec.limits.max_queued_calls),
            prices=_prices(upstream.pricing),
            context_length=upstream.context_length,
        )
    return upstreams, tuple(origins)


def _headers(
    upstream: v1alpha1.Upstream, secrets: SecretSource, where: str, problems: list[str], version: str
) -> dict[str, str]:
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "accept-encoding": "identity",
        "user-agent": f"{USER_AGENT}/{version}",
    }
    reference = upstream.api_key_secret_ref
    if reference is not None:
        try:
            headers["authorization"] = f"Bearer {secrets.secret(reference.name, reference.key)}"
        except LookupError as error:
            problems.append(f"{where}: {error.args[0]}")
    return headers


def _ssl_context(
    upstream: v1alpha1.Upstream, secrets: SecretSource, where: str, problems: list[str]
) -> ssl.SSLContext | None:
    if not upstream.base_url("default").startswith("https:"):
        return None
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    tls = upstream.tls
    if tls is None:
        return context
    try:
        if tls.ca_secret_ref is not None:
            context.load_verify_locations(cadata=secrets.secret(tls.ca_secret_ref.name, tls.ca_secret_ref.key))
        if tls.ca_config_map_ref is not None:
            reference = tls.ca_config_map_ref
            context.load_verify_locations(cadata=secrets.config_map(reference.name, reference.key))
    except LookupError as error:
        problems.append(f"{where}: {error.args[0]}")
    except ssl.SSLError:
        problems.append(f"{where}: the referenced entry holds no PEM certificate")
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _prices(pricing: v1alpha1.Pricing | None) -> Prices | None:
    if pricing is None:
        return None
    cached, reasoning = pricing.cached_input_per_million, pricing.reasoning_per_million
    return Prices(
        input_=pricing.input_per_million / _TOKENS_PER_PRICE,
        cached_input=(pricing.input_per_million if cached is None else cached) / _TOKENS_PER_PRICE,
        output=pricing.output_per_million / _TOKENS_PER_PRICE,
        reasoning=(pricing.output_per_million if reasoning is None else reasoning) / _TOKENS_PER_PRICE,
    )


def _auth_entries(auth: v1alpha1.Auth, secrets: SecretSource, problems: list[str]) -> Mapping[str, str] | None:
    if auth.secret_ref is None:
        return None
    try:
        return secrets.entries(auth.secret_ref.name)
    except LookupError as error:
        problems.append(f"spec.auth.secretRef: {error.args[0]}")
        return {}


def _check_prompt(template: str | None, problems: list[str]) -> None:
    if template is None:
        return
    try:
        check_template(template)
    except TemplateError as error:
        problems.append(f"spec.aggregator.prompt: {error}")


def _compile_proposers(spec: v1alpha1.MoAProfileSpec, sites: Mapping[str, Site]) -> tuple[Proposer, ...]:
    times, fan_out = spec.timeouts, spec.panel.fan_out
    groups: dict[object, tuple[v1alpha1.Member, list[Seat]]] = {}
    for name, member in zip(member_names(spec.panel.members), spec.panel.members, strict=True):
        seats = [Seat(name, member.weight)] * member.samples
        key = name if fan_out == "Parallel" else _sampling_key(member)
        groups.setdefault(key, (member, []))[1].extend(seats)
    proposers = []
    for member, seats in groups.values():
        site = sites[member.upstream]
        parameters = site.upstream.parameters
        sampling = {**_unless_limited(_sampling(member), parameters), **parameters}
        # several greedy samples are one sample, and vLLM refuses to be asked for them
        greedy = fan_out == "Auto" and sampling.get("temperature") == 0
        proposers.append(
            Proposer(
                site=site,
                seats=tuple(seats),
                together=len(seats) > 1 and fan_out != "Parallel" and not greedy,
                sampling=sampling,
                seed=member.seed,
                instruction=member_instruction(member.role, member.system_prompt),
                patience=Patience(
                    member.timeout if member.timeout is not None else times.member, times.first_token, times.idle
                ),
            )
        )
    return tuple(proposers)


def _sampling(member: v1alpha1.Member) -> dict[str, object]:
    values = {"temperature": member.temperature, "top_p": member.top_p, "max_tokens": member.max_tokens}
    return {name: value for name, value in values.items() if value is not None}


def _sampling_key(member: v1alpha1.Member) -> tuple[object, ...]:
    return (
        member.upstream, member.temperature, member.top_p, member.max_tokens, member.seed, member.role,
        member.system_prompt, member.timeout,
    )  # fmt: skip


def _compile_aggregator(spec: v1alpha1.MoAProfileSpec, chain: Sequence[Site]) -> Aggregator:
    aggregator, hardening = spec.aggregator, spec.aggregator.hardening
    defaults: dict[str, object] = {"temperature": aggregator.temperature}
    if aggregator.max_tokens is not None:
        defaults["max_tokens"] = aggregator.max_tokens
    return Aggregator(
        chain=tuple(chain),
        defaults=defaults,
        patience=Patience(spec.timeouts.aggregator, spec.timeouts.first_token, spec.timeouts.idle),
        template=aggregator.prompt,
        anonymize=hardening.anonymize,
        shuffle=hardening.shuffle,
        delimit=hardening.delimit,
        dissent=hardening.dissent,
        max_candidate_tokens=hardening.max_candidate_tokens,
        fail=aggregator.on_failure == "Fail",
    )


def _unless_limited(values: Mapping[str, object], by: Mapping[str, object]) -> Mapping[str, object]:
    """The values, without a limit of length where somebody with more say sets one: under either of its names."""
    if _LENGTH_LIMITS.isdisjoint(by):
        return values
    return {name: value for name, value in values.items() if name not in _LENGTH_LIMITS}


def final_body(
    site: Site,
    messages: Iterable[bytes],
    fields: Mapping[str, bytes],
    defaults: Mapping[str, object],
    *,
    stream: bool,
    running_usage: bool,
) -> tuple[bytes, ...]:
    """The body of a call that writes the answer: the client's own fields, and defaults where the client is silent.

    Args:
        site: whom it goes to.
        messages: the parts of the messages array.
        fields: raw JSON of the client's fields.
        defaults: the profile's values; the upstream's parameters go before them, the client's fields before both.
        stream: whether to ask for a stream.
        running_usage: whether to ask for usage in every chunk.
    """
    parameters = site.upstream.parameters
    silent = {**_unless_limited(defaults, parameters), **parameters}
    silent = {name: value for name, value in _unless_limited(silent, fields).items() if name not in fields}
    tail = b"".join(b"," + orjson.dumps(name) + b":" + value for name, value in fields.items())
    return (
        site.upstream.body_head,
        *messages,
        tail + encode_fields(silent) + stream_fields(stream=stream, running_usage=running_usage) + b"}",
    )
