"""What must hold across the fields of a profile, beyond the shape of each.

A rule reads models and yields problems. The models may lack parts that could not be read (`moa_api.reading.salvage`):
a rule that needs such a part then says nothing, so one mistake is not reported twice. Rules are therefore small, and
those on the entries of a list look at one entry at a time.

The same rules stand as CEL on the models (see `moa_api.models`), as far as an API server can check them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from moa_api.fields import format_duration
from moa_api.models import MAX_CALLS, MoAProfile, MoAProfileSpec, Upstream, panel_size
from moa_api.wording import Problem, shown, suggestion

Problems = Iterator[Problem]


def check(profile: MoAProfile) -> list[Problem]:
    """Returns every broken rule, as far as it can be judged from the parts that are there."""
    spec = getattr(profile, "spec", None)
    if spec is None:
        return []
    return [problem for judgement in _judgements(spec) for problem in _until_missing(judgement)]


def _judgements(spec: MoAProfileSpec) -> Iterator[Problems]:
    yield from (rule(spec) for rule in _SPEC_RULES)
    for index in range(len(getattr(spec, "upstreams", ()))):
        yield from (rule(spec, index) for rule in _UPSTREAM_RULES)
    members = getattr(getattr(spec, "panel", None), "members", ())
    for index in range(len(members)):
        yield from (rule(spec, index) for rule in _MEMBER_RULES)


def _until_missing(judgement: Problems) -> Problems:
    try:
        yield from judgement
    except AttributeError:  # a part that could not be read, and was reported where it stands
        return


def _repeats(names: Sequence[str | None], path: str, suffix: str = "") -> Problems:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if name is None:
            continue
        if name in first:
            here, there = f"{path}[{index}]{suffix}", f"{path}[{first[name]}]{suffix}"
            yield Problem(here, f"{shown(name)} is taken by {there}; write a different one")
        first.setdefault(name, index)


def _unknown_upstream(spec: MoAProfileSpec, name: str, path: str) -> Problems:
    known = [upstream.name for upstream in spec.upstreams]
    if name not in known:
        yield Problem(path, f"no upstream named {shown(name)}; {suggestion(name, known)}")


def _upstream_names_differ(spec: MoAProfileSpec) -> Problems:
    yield from _repeats([getattr(upstream, "name", None) for upstream in spec.upstreams], "spec.upstreams", ".name")


def _member_names_differ(spec: MoAProfileSpec) -> Problems:
    names = [getattr(member, "name", None) for member in spec.panel.members]
    yield from _repeats(names, "spec.panel.members", ".name")


def _fallbacks_differ(spec: MoAProfileSpec) -> Problems:
    yield from _repeats(spec.aggregator.fallback_upstreams, "spec.aggregator.fallbackUpstreams")


def _model_names_differ(spec: MoAProfileSpec) -> Problems:
    yield from _repeats(spec.response.model_names, "spec.response.modelNames")


def _calls_are_bounded(spec: MoAProfileSpec) -> Problems:
    calls = panel_size(spec) * spec.panel.layers
    if calls > MAX_CALLS:
        text = f"{panel_size(spec)} samples in {spec.panel.layers} layers are {calls} calls per request"
        yield Problem("spec.panel", f"{text}; lower samples or layers to {MAX_CALLS} calls at most")


def _quorum_fits(spec: MoAProfileSpec) -> Problems:
    quorum, size = spec.panel.quorum, panel_size(spec)
    if isinstance(quorum, int) and quorum > size:
        yield Problem("spec.panel.quorum", f"{quorum} is more than the panel's {size} samples; write {size} at most")


def _aggregator_has_upstream(spec: MoAProfileSpec) -> Problems:
    if spec.aggregator.strategy == "Synthesize" and spec.aggregator.upstream is None:
        known = ", ".join(shown(upstream.name) for upstream in spec.upstreams)
        yield Problem("spec.aggregator.upstream", f"required by strategy Synthesize; write one of {known}")


def _aggregator_upstream_exists(spec: MoAProfileSpec) -> Problems:
    if spec.aggregator.upstream is not None:
        yield from _unknown_upstream(spec, spec.aggregator.upstream, "spec.aggregator.upstream")


def _fallbacks_exist(spec: MoAProfileSpec) -> Problems:
    for index, name in enumerate(spec.aggregator.fallback_upstreams):
        yield from _unknown_upstream(spec, name, f"spec.aggregator.fallbackUpstreams[{index}]")


def _fallbacks_are_others(spec: MoAProfileSpec) -> Problems:
    for index, name in enumerate(spec.aggregator.fallback_upstreams):
        if name == spec.aggregator.upstream:
            path = f"spec.aggregator.fallbackUpstreams[{index}]"
            yield Problem(path, f"{shown(name)} is the aggregator's own upstream; remove it here")


def _single_exists(spec: MoAProfileSpec) -> Problems:
    if spec.gate.single is not None:
        yield from _unknown_upstream(spec, spec.gate.single, "spec.gate.single")


def _within_request(spec: MoAProfileSpec, seconds: float | None, path: str) -> Problems:
    request = spec.timeouts.request
    if seconds is not None and seconds > request:
        text = f"{format_duration(seconds)} is longer than spec.timeouts.request ({format_duration(request)})"
        yield Problem(path, f"{text}; write a shorter one, or a longer request")


def _connect_within_request(spec: MoAProfileSpec) -> Problems:
    yield from _within_request(spec, spec.timeouts.connect, "spec.timeouts.connect")


def _member_within_request(spec: MoAProfileSpec) -> Problems:
    yield from _within_request(spec, spec.timeouts.member, "spec.timeouts.member")


def _aggregator_within_request(spec: MoAProfileSpec) -> Problems:
    yield from _within_request(spec, spec.timeouts.aggregator, "spec.timeouts.aggregator")


def _keys_are_named(spec: MoAProfileSpec) -> Problems:
    if spec.auth.type == "APIKey" and spec.auth.secret_ref is None:
        text = "required by type APIKey; write {name: <Secret with one key per entry>}"
        yield Problem("spec.auth.secretRef", text)
    if spec.auth.type == "None" and spec.auth.secret_ref is not None:
        yield Problem("spec.auth.secretRef", "has no use with type None; write type: APIKey, or remove it")


def _replicas_or_autoscaling(spec: MoAProfileSpec) -> Problems:
    if spec.router.replicas is not None and spec.router.autoscaling is not None:
        yield Problem("spec.router", "has both replicas and autoscaling; write one of them at most")


def _least_pods_within_most(spec: MoAProfileSpec) -> Problems:
    scaling = spec.router.autoscaling
    if scaling is not None and scaling.min_replicas > scaling.max_replicas:
        text = f"{scaling.min_replicas} is more than maxReplicas ({scaling.max_replicas})"
        yield Problem("spec.router.autoscaling.minReplicas", f"{text}; write a lower one, or a higher maxReplicas")


def _one_endpoint(spec: MoAProfileSpec, index: int) -> Problems:
    upstream, path = spec.upstreams[index], f"spec.upstreams[{index}]"
    if upstream.service is None and upstream.url is None:
        yield Problem(path, "needs service: {name: …, port: …} for a Service in the cluster, or url: for anything else")
    if upstream.service is not None and upstream.url is not None:
        yield Problem(path, "has both service and url; write exactly one of them")


def _capabilities_differ(spec: MoAProfileSpec, index: int) -> Problems:
    yield from _repeats(spec.upstreams[index].capabilities or (), f"spec.upstreams[{index}].capabilities")


def _tls_is_used(spec: MoAProfileSpec, index: int) -> Problems:
    upstream = spec.upstreams[index]
    if upstream.tls is not None and not _speaks_tls(upstream):
        path = f"spec.upstreams[{index}].tls"
        yield Problem(
            path, "the endpoint speaks plain HTTP; write service.scheme: https or an https url, or remove tls"
        )


def _speaks_tls(upstream: Upstream) -> bool:
    if upstream.service is not None and upstream.service.scheme == "https":
        return True
    return upstream.url is not None and upstream.url.startswith("https:")


def _one_authority(spec: MoAProfileSpec, index: int) -> Problems:
    tls = spec.upstreams[index].tls
    if tls is not None and tls.ca_config_map_ref is not None and tls.ca_secret_ref is not None:
        path = f"spec.upstreams[{index}].tls"
        yield Problem(path, "has both caConfigMapRef and caSecretRef; write one of them at most")


def _member_upstream_exists(spec: MoAProfileSpec, index: int) -> Problems:
    name = spec.panel.members[index].upstream
    yield from _unknown_upstream(spec, name, f"spec.panel.members[{index}].upstream")


def _member_timeout_within_request(spec: MoAProfileSpec, index: int) -> Problems:
    yield from _within_request(spec, spec.panel.members[index].timeout, f"spec.panel.members[{index}].timeout")


_SPEC_RULES: Final[tuple[Callable[[MoAProfileSpec], Problems], ...]] = (
    _upstream_names_differ,
    _member_names_differ,
    _calls_are_bounded,
    _quorum_fits,
    _aggregator_has_upstream,
    _aggregator_upstream_exists,
    _fallbacks_differ,
    _fallbacks_exist,
    _fallbacks_are_others,
    _single_exists,
    _connect_within_request,
    _member_within_request,
    _aggregator_within_request,
    _model_names_differ,
    _keys_are_named,
    _replicas_or_autoscaling,
    _least_pods_within_most,
)
_UPSTREAM_RULES: Final[tuple[Callable[[MoAProfileSpec, int], Problems], ...]] = (
    _one_endpoint,
    _capabilities_differ,
    _tls_is_used,
    _one_authority,
)
_MEMBER_RULES: Final[tuple[Callable[[MoAProfileSpec, int], Problems], ...]] = (
    _member_upstream_exists,
    _member_timeout_within_request,
)
