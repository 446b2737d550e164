"""A profile, compiled: who is asked for what, decided before the first request."""

from collections.abc import Mapping
from decimal import Decimal

import orjson
import pytest

from moa_api.v1alpha1 import ProfileError, load_profile
from moa_router.fusion.plan import Plan, Proposer, compile_profile, encode_fields, final_body, stream_fields
from moa_router.telemetry.metrics import Metrics
from moa_router.telemetry.tracing import Tracing
from moa_router.upstream.usage import Usage

Document = dict[str, object]
QWEN: Document = {"name": "qwen", "url": "http://127.0.0.1:1", "model": "Qwen/Qwen3-32B"}
MISTRAL: Document = {"name": "mistral", "url": "http://127.0.0.1:2", "model": "mistral-small"}


class Secrets:
    """Secrets and ConfigMaps in a dictionary."""

    def __init__(self, secrets: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self._secrets = secrets or {}

    def secret(self, name: str, key: str) -> str:
        return self._find(name, key)

    def config_map(self, name: str, key: str) -> str:
        return self._find(name, key)

    def entries(self, name: str) -> Mapping[str, str]:
        if name not in self._secrets:
            raise LookupError(f"no {name}")
        return self._secrets[name]

    def _find(self, name: str, key: str) -> str:
        try:
            return self._secrets[name][key]
        except KeyError:
            raise LookupError(f"no {name}/{key}") from None


async def compiled(
    *members: Document,
    upstreams: list[Document] | None = None,
    panel: Document | None = None,
    aggregator: Document | None = None,
    secrets: Mapping[str, Mapping[str, str]] | None = None,
    **sections: object,
) -> Plan:
    spec: Document = {
        "upstreams": upstreams or [QWEN, MISTRAL],
        "panel": {"members": list(members) or [{"upstream": "qwen"}], **(panel or {})},
        "aggregator": aggregator or {"upstream": "qwen"},
        **sections,
    }
    document = {
        "apiVersion": "moa-operator.io/v1alpha1",
        "kind": "MoAProfile",
        "metadata": {"name": "research"},
        "spec": spec,
    }
    tracing = Tracing(None, sampling_percent=100.0, version="0")
    return compile_profile(load_profile(document), Secrets(secrets), Metrics("0"), tracing, "0")


def groups(plan: Plan) -> list[tuple[str, list[str], bool]]:
    """Upstream, whose seats, and whether one call may be asked for all of them."""
    return [
        (proposer.site.upstream.name, [seat.member for seat in proposer.seats], proposer.together)
        for proposer in plan.panel.proposers
    ]


class TestGrouping:
    async def test_samples_of_a_member_are_one_call(self) -> None:
        plan = await compiled({"upstream": "qwen", "samples": 3})
        assert groups(plan) == [("qwen", ["qwen"] * 3, True)]

    async def test_equal_members_are_one_call_and_keep_their_names_and_weights(self) -> None:
        plan = await compiled(
            {"name": "a", "upstream": "qwen", "weight": 2.0}, {"upstream": "mistral"}, {"name": "b", "upstream": "qwen"}
        )
        assert groups(plan) == [("qwen", ["a", "b"], True), ("mistral", ["mistral"], False)]
        assert [seat.weight for seat in plan.panel.proposers[0].seats] == [2.0, 1.0]

    @pytest.mark.parametrize(
        "difference",
        [
            {"temperature": 0.8},
            {"topP": 0.9},
            {"maxTokens": 7},
            {"seed": 7},
            {"role": "critic"},
            {"systemPrompt": "Doubt."},
            {"timeout": "7s"},
            {"upstream": "mistral"},
        ],
    )
    async def test_what_differs_is_asked_apart(self, difference: Document) -> None:
        plan = await compiled({"upstream": "qwen"}, {"upstream": "qwen", **difference})
        assert [len(proposer.seats) for proposer in plan.panel.proposers] == [1, 1]

    async def test_parallel_groups_nothing(self) -> None:
        plan = await compiled({"upstream": "qwen", "samples": 2}, {"upstream": "qwen"}, panel={"fanOut": "Parallel"})
        assert groups(plan) == [("qwen", ["qwen", "qwen"], False), ("qwen", ["qwen-2"], False)]

    async def test_greedy_samples_are_asked_apart_unless_insisted_on(self) -> None:
        greedy = {"upstream": "qwen", "samples": 2, "temperature": 0}
        assert not (await compiled(greedy)).panel.proposers[0].together
        assert (await compiled(greedy, panel={"fanOut": "MultipleChoices"})).panel.proposers[0].together

    async def test_an_upstreams_parameters_may_make_it_greedy(self) -> None:
        plan = await compiled(
            {"upstream": "qwen", "samples": 2}, upstreams=[{**QWEN, "parameters": {"temperature": 0}}]
        )
        assert not plan.panel.proposers[0].together


class TestSampling:
    async def test_the_upstreams_parameters_are_final(self) -> None:
        plan = await compiled(
            {"upstream": "qwen", "temperature": 0.9, "topP": 0.5, "maxTokens": 100},
            upstreams=[{**QWEN, "parameters": {"temperature": 0.1, "top_k": 20}}],
        )
        sampling = plan.panel.proposers[0].sampling
        assert sampling == {"temperature": 0.1, "top_p": 0.5, "max_tokens": 100, "top_k": 20}

    async def test_is_encoded_once(self) -> None:
        proposer: Proposer = (await compiled({"upstream": "qwen", "temperature": 0.9})).panel.proposers[0]
        assert proposer.encoded == b',"temperature":0.9'
        assert proposer.head == b'{"model":"Qwen/Qwen3-32B","messages":'

    async def test_a_members_time_goes_before_the_profiles(self) -> None:
        plan = await compiled(
            {"upstream": "qwen", "timeout": "3s"}, {"upstream": "mistral"}, timeouts={"member": "9s", "idle": "4s"}
        )
        own, shared = (proposer.patience for proposer in plan.panel.proposers)
        assert (own.total, shared.total, shared.idle) == (3.0, 9.0, 4.0)


class TestFinalBody:
    async def body(self, fields: Mapping[str, bytes], **parameters: object) -> tuple[Document, bytes]:
        plan = await compiled(
            upstreams=[{**QWEN, "parameters": parameters}],
            aggregator={"upstream": "qwen", "temperature": 0.3, "maxTokens": 500},
        )
        aggregator = plan.aggregator
        raw = b"".join(
            final_body(
                aggregator.chain[0], (b"[", b"]"), fields, aggregator.defaults, stream=False, running_usage=False
            )
        )
        document: Document = orjson.loads(raw)
        return document, raw

    async def test_defaults_fill_in_where_the_client_is_silent(self) -> None:
        body, _ = await self.body({}, top_k=20)
        assert body == {"model": "Qwen/Qwen3-32B", "messages": [], "temperature": 0.3, "max_tokens": 500, "top_k": 20}

    async def test_the_client_wins_over_the_profile_and_the_upstreams_parameters(self) -> None:
        fields = {"temperature": b"1.50", "top_k": b"5", "max_tokens": b"9"}
        body, raw = await self.body(fields, top_k=20, temperature=0.1)
        assert (body["temperature"], body["top_k"], body["max_tokens"]) == (1.5, 5, 9)
        assert raw.count(b'"temperature"') == raw.count(b'"top_k"') == raw.count(b'"max_tokens"') == 1

    async def test_parameters_win_over_the_profile(self) -> None:
        assert (await self.body({}, temperature=0.1))[0]["temperature"] == 0.1

    async def test_a_limit_by_its_newer_name_replaces_ours(self) -> None:
        body, _ = await self.body({"max_completion_tokens": b"9"})
        assert "max_tokens" not in body
        assert body["max_completion_tokens"] == 9

    async def test_the_clients_bytes_are_not_touched(self) -> None:
        raw = b'{ "b":1.0 ,"a":"\\u00e9"}'
        assert b'"vendor":' + raw in (await self.body({"vendor": raw}))[1]


class TestEncoding:
    def test_fields_are_spliced_behind_a_comma(self) -> None:
        assert encode_fields({"a": 1, "b": "x"}) == b',"a":1,"b":"x"'
        assert encode_fields({}) == b""

    def test_usage_is_always_asked_for_in_streams(self) -> None:
        assert stream_fields(stream=False, running_usage=True) == b""
        for running in (True, False):
            asked = orjson.loads(b'{"x":1' + stream_fields(stream=True, running_usage=running) + b"}")
            assert asked["stream"] is True
            assert asked["stream_options"]["include_usage"] is True
            assert asked["stream_options"].get("continuous_usage_stats", False) is running


class TestNames:
    async def test_a_profile_answers_to_all_its_names(self) -> None:
        plan = await compiled(response={"modelNames": ["best"]})
        assert plan.names == ("research", "fusion/research", "best")

    async def test_of_two_upstreams_with_one_model_the_first_is_meant(self) -> None:
        plan = await compiled(upstreams=[QWEN, {**MISTRAL, "model": QWEN["model"]}])
        assert plan.by_model["Qwen/Qwen3-32B"].upstream.name == "qwen"

    async def test_without_an_aggregator_there_is_no_synthesis(self) -> None:
        assert "synthesize" in (await compiled()).modes
        assert "synthesize" not in (await compiled(aggregator={"strategy": "First"})).modes

    @pytest.mark.parametrize(
        ("sections", "single"),
        [
            ({}, "qwen"),
            ({"gate": {"single": "mistral"}}, "mistral"),
            ({"aggregator": {"upstream": "mistral"}}, "mistral"),
            ({"aggregator": {"strategy": "First"}}, "qwen"),
        ],
    )
    async def test_who_answers_alone(self, sections: dict[str, Document], single: str) -> None:
        plan = await compiled(**sections)  # type: ignore[arg-type]  # sections by name
        assert plan.single.upstream.name == single

    async def test_a_gate_that_never_opens_makes_single_the_default(self) -> None:
        assert (await compiled(gate={"policy": "Never"})).default_mode == "single"
        assert (await compiled()).default_mode == "fuse"


class TestTime:
    async def test_the_aggregator_keeps_a_share(self) -> None:
        assert (await compiled(timeouts={"request": "100s"})).aggregator_share == 40.0
        assert (await compiled(timeouts={"request": "100s", "aggregator": "30s"})).aggregator_share == 30.0


class TestPrices:
    async def price(self, **more: object) -> Decimal | None:
        pricing = {"inputPerMillion": 2, "outputPerMillion": 8, **more}
        plan = await compiled(upstreams=[{**QWEN, "pricing": pricing}])
        prices = plan.single.upstream.prices
        assert prices is not None
        return prices.cost(Usage(input=1_000_000, cached_input=500_000, output=1_000_000, reasoning=250_000))

    async def test_cached_and_reasoning_tokens_cost_the_same_unless_said(self) -> None:
        assert await self.price() == Decimal(10)
        assert await self.price(cachedInputPerMillion=1) == Decimal("9.5")
        assert await self.price(reasoningPerMillion=4) == Decimal(9)
        assert await self.price(cachedInputPerMillion=0, reasoningPerMillion=0) == Decimal(7)

    async def test_are_exact(self) -> None:
        plan = await compiled(upstreams=[{**QWEN, "pricing": {"inputPerMillion": 0.1, "outputPerMillion": 0.3}}])
        prices = plan.single.upstream.prices
        assert prices is not None
        assert prices.cost(Usage(input=3)) == Decimal("0.0000003")


class TestProblems:
    async def test_are_told_all_at_once_with_their_place(self) -> None:
        with pytest.raises(ProfileError) as refusal:
            await compiled(
                upstreams=[
                    {**QWEN, "apiKeySecretRef": {"name": "keys", "key": "qwen"}},
                    {**MISTRAL, "url": "https://127.0.0.1:2", "tls": {"caSecretRef": {"name": "ca", "key": "ca.crt"}}},
                ],
                aggregator={"upstream": "qwen", "prompt": "nothing to fill in"},
                auth={"type": "APIKey", "secretRef": {"name": "tenants"}},
            )
        problems = refusal.value.problems
        assert problems[:3] == [
            "spec.upstreams[0].apiKeySecretRef: no keys/qwen",
            "spec.upstreams[1].tls: no ca/ca.crt",
            "spec.auth.secretRef: no tenants",
        ]
        assert problems[3].startswith("spec.aggregator.prompt: {candidates} is missing")
        assert len(problems) == 4

    async def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(self) -> None:
        with pytest.raises(ProfileError) as refusal:
            await compiled(
                upstreams=[{**QWEN, "apiKeySecretRef": {"name": "keys", "key": "qwen"}}],
                secrets={"keys": {"qwen": "sesame\r\nx-evil: 1"}},
            )
        assert "spec.upstreams[0]" in str(refusal.value)
        assert "sesame" not in str(refusal.value)

    async def test_a_certificate_that_is_none_is_refused(self) -> None:
        with pytest.raises(ProfileError, match=r"spec.upstreams\[0\].tls: the referenced entry holds no PEM"):
            await compiled(
                upstreams=[
                    {**QWEN, "url": "https://127.0.0.1:1", "tls": {"caConfigMapRef": {"name": "ca", "key": "ca.crt"}}}
                ],
                secrets={"ca": {"ca.crt": "not a certificate"}},
            )
