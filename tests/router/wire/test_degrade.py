"""When things fail: below the quorum, and without an aggregator. Degraded is never silent."""

import pytest
from tests.router.wire.asking import Answer, ask, counting, final_of, member, on, trio
from tests.router.wire.harness import Json, Profile, Router, Simulator, StartRouter

SECRET = "what the upstream wrote"
BUSY: Json = {"status": {"code": 429, "body": {"error": {"message": SECRET}}}}
BROKEN: Json = {"status": {"code": 500, "body": {"error": {"message": SECRET}}}}
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def busy(retry_after: str) -> Json:
    return {"status": {"code": 429, "headers": {"retry-after": retry_after}}}


def refusal(answer: Answer, *, stream: bool, status: int, code: str) -> str:
    """The message of a request that failed; a stream's head was out before anybody could know."""
    assert answer.error is not None
    assert answer.status == (200 if stream else status)
    assert answer.error["code"] == code
    assert not answer.done
    assert answer.finish is None
    assert SECRET not in answer.error["message"]
    message: str = answer.error["message"]
    return message


def flagged(answer: Answer, *, stream: bool, degraded: list[str], panel: str) -> None:
    """Degraded is never silent."""
    assert (answer.status, answer.finish, answer.degraded, answer.panel) == (200, "stop", degraded, panel)
    assert answer.done is stream
    if not stream:
        assert answer.headers["x-moa-degraded"] == ",".join(degraded)
        assert answer.headers["x-moa-panel"] == panel


class TestBelowQuorum:
    @both_ways
    def test_something_is_better_than_nothing_and_says_so(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool
    ) -> None:
        served = router(trio(profile))
        simulator.rules(on("a", reply="I am the only one."), on("b", **BROKEN), on("c", reset={}))
        with (
            counting(served, "moa_degraded_total", reason="quorum") as degraded,
            counting(served, "moa_quorum_total", outcome="unmet") as unmet,
            counting(served, "moa_requests_total", mode="fuse", outcome="degraded") as requests,
        ):
            answer = ask(served, stream=stream)
        flagged(answer, stream=stream, degraded=["quorum"], panel="1/3")
        assert answer.outcomes() == {"a": "ok", "b": "server_error", "c": "reset"}
        assert (degraded, unmet, requests) == ([1], [1], [1])
        assert "I am the only one." in final_of(simulator.settled())[0].body

    @both_ways
    def test_without_any_candidate_the_aggregator_answers_alone(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool
    ) -> None:
        served = router(trio(profile))
        simulator.rules(on("a", **BROKEN), on("b", **BUSY), on("c", reset={}))
        with (
            counting(served, "moa_degraded_total", reason="panel") as degraded,
            counting(served, "moa_quorum_total", outcome="empty") as empty,
        ):
            answer = ask(served, stream=stream)
        flagged(answer, stream=stream, degraded=["panel"], panel="0/3")
        assert (degraded, empty) == ([1], [1])
        (final,) = final_of(simulator.settled())
        assert final.fields["messages"] == [{"role": "user", "content": "Why is the sky blue in the evening?"}]

    def test_empty_answers_are_no_candidates(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        served = router(trio(profile))
        simulator.rules(on("a", reply=""), on("b", reply="  \n "), on("c", reply="<think>only thoughts</think>"))
        answer = ask(served)
        assert (answer.panel, answer.degraded) == ("0/3", ["panel"])

    @both_ways
    @pytest.mark.parametrize(
        ("faults", "status", "code", "words"),
        [
            (
                [on("a", **BUSY), on("b", hang={}), on("c", reset={})],
                502,
                "quorum_not_met",
                [
                    "0 of 3 answered, 2 were needed",
                    "member a answered 429 (rate limited)",
                    "member b timed out",
                    "member c closed the connection",
                ],
            ),
            (
                [on("a", **BROKEN), on("b", garbage=0)],
                502,
                "quorum_not_met",
                ["1 of 3 answered", "member a answered 500", "member b sent something that is not JSON"],
            ),
            ([on("a", hang={}), on("b", hang={})], 504, "upstream_timeout", ["member a timed out", "member b timed"]),
            ([on("a", **BUSY), on("b", **BUSY)], 429, "rate_limit_exceeded", ["member a answered 429"]),
        ],
        ids=["all ways", "broken", "timed out", "busy"],
    )
    def test_it_may_be_an_error_that_names_who_failed_and_how(
        self,
        router: StartRouter,
        profile: Profile,
        simulator: Simulator,
        stream: bool,
        faults: list[Json],
        status: int,
        code: str,
        words: list[str],
    ) -> None:
        served = router(trio(profile, panel={"onUnmet": "Fail"}, timeouts={"member": "500ms"}))
        simulator.rules(*faults)
        message = refusal(ask(served, stream=stream), stream=stream, status=status, code=code)
        assert all(word in message for word in words), message
        assert final_of(simulator.settled()) == []

    def test_where_everybody_is_busy_so_are_we(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        served = router(trio(profile, aggregator={"fallbackUpstreams": ["spare"]}))
        simulator.rules(
            on("a", **busy("3")),
            on("b", **busy("40")),
            on("c", **busy("7")),
            on("writer", **busy("2")),
            on("spare", **BUSY),
        )
        with counting(served, "moa_upstream_requests_total", outcome="rate_limited") as counted:
            answer = ask(served)
        assert "member b" in refusal(answer, stream=False, status=429, code="rate_limit_exceeded")
        assert answer.headers["retry-after"] == "40"
        assert counted == [5]

    def test_a_refused_connection_is_named(self, router: StartRouter, profile: Profile, simulator: Simulator) -> None:
        closed = {"url": "http://127.0.0.1:1"}
        served = router(trio(profile, panel={"onUnmet": "Fail"}, upstream={"a": closed, "b": closed}))
        message = refusal(ask(served), stream=False, status=502, code="quorum_not_met")
        assert "member a could not be reached; member b could not be reached" in message


#: What may befall an aggregator before its first token, as a rule's action, and how its call is counted.
BEFORE: dict[str, tuple[Json, str]] = {
    "status": (BROKEN, "server_error"),
    "reset": ({"reset": {}}, "reset"),
    "reset behind the head": ({"reset": 0}, "reset"),
    "cut": ({"cut": 0}, "reset"),
    "garbage": ({"garbage": 0}, "invalid"),
    "nothing": ({"reply": ""}, "ok"),
    "an error inside a 200": ({"error_event": {"after": 0, "message": SECRET}}, "server_error"),
    "another type": ({"content_type": "text/html"}, "invalid"),
    "compressed": ({"gzip": True}, "invalid"),
    "no HTTP": ({"raw": {"pieces": [{"text": "SSH-2.0-OpenSSH_9.6\r\n"}]}}, "invalid"),
    "a redirect": ({"redirect": "http://127.0.0.1:1/"}, "server_error"),
    "busy": (BUSY, "rate_limited"),
}


@both_ways
class TestAggregator:
    @pytest.mark.parametrize("what", BEFORE)
    def test_fails_before_its_first_token_and_the_next_is_asked(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool, what: str
    ) -> None:
        action, outcome = BEFORE[what]
        served = router(trio(profile, aggregator={"fallbackUpstreams": ["c", "spare"]}))
        simulator.rules(
            {"match": {"model": "unstructured", "contains": '"temperature":0.3'}, "action": BROKEN},
            on("writer", **action),
            on("spare", reply="I stood in."),
        )
        answer = ask(served, stream=stream)
        assert (answer.status, answer.text, answer.finish) == (200, "I stood in.", "stop")
        assert answer.degraded == []
        expected = "invalid" if what == "nothing" and stream else outcome
        assert answer.outcomes("aggregator") == {"writer": expected, "c": "server_error", "spare": "ok"}
        # a reset on a connection used before is tried once more, for the server may just have closed it
        asked = dict.fromkeys(call.model for call in final_of(simulator.settled()))
        assert list(asked) == ["Qwen/Qwen3-32B", "unstructured", "onechoice"]

    @pytest.mark.parametrize("what", BEFORE)
    def test_fails_with_all_its_fallbacks_and_the_best_candidate_is_given(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool, what: str
    ) -> None:
        action, _ = BEFORE[what]
        served = router(trio(profile, panel={"quorum": 3}, aggregator={"fallbackUpstreams": ["spare"]}))
        simulator.rules(
            on("writer", **action),
            on("spare", **action),
            on("a", reply="It is 42."),
            on("b", reply="It is 43, and this is the longest of all."),
            on("c", reply="it  is 42."),
        )
        with (
            counting(served, "moa_degraded_total", reason="aggregator") as degraded,
            counting(served, "moa_requests_total", outcome="degraded") as requests,
        ):
            answer = ask(served, stream=stream)
        flagged(answer, stream=stream, degraded=["aggregator"], panel="3/3")
        assert answer.text == "It is 42."
        assert (degraded, requests) == ([1], [1])

    @pytest.mark.parametrize(
        ("weight", "best"), [(1.0, "The longest that is complete."), (2.0, "Short.")], ids=["longest", "heaviest"]
    )
    def test_where_no_texts_agree_weight_decides_then_length(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool, weight: float, best: str
    ) -> None:
        members = [member("a", weight=weight), member("b"), member("c", maxTokens=15)]
        served = router(trio(profile, members=members, panel={"quorum": 3}))
        simulator.rules(
            on("writer", **BROKEN),
            on("a", reply="Short."),
            on("b", reply="The longest that is complete."),
            on("c", reply="This one would be longer than the other, were it not cut by its limit of tokens."),
        )
        answer = ask(served, stream=stream)
        flagged(answer, stream=stream, degraded=["aggregator"], panel="3/3")
        assert answer.text == best

    def test_degraded_twice_says_both(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool
    ) -> None:
        served = router(trio(profile))
        simulator.rules(on("writer", **BROKEN), on("b", **BROKEN), on("c", **BROKEN), on("a", reply="Still here."))
        answer = ask(served, stream=stream)
        flagged(answer, stream=stream, degraded=["quorum", "aggregator"], panel="1/3")
        assert answer.text == "Still here."

    @pytest.mark.parametrize("what", ["status", "reset", "garbage", "nothing"])
    def test_may_be_an_error_instead(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool, what: str
    ) -> None:
        served = router(trio(profile, aggregator={"onFailure": "Fail"}))
        simulator.rules(on("writer", **BEFORE[what][0]))
        with counting(served, "moa_requests_total", outcome="upstream_error") as requests:
            answer = ask(served, stream=stream)
        assert "upstream writer" in refusal(answer, stream=stream, status=502, code="upstream_error")
        assert requests == [1]

    def test_with_neither_panel_nor_aggregator_there_is_an_error(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool
    ) -> None:
        served = router(trio(profile, aggregator={"fallbackUpstreams": ["spare"]}))
        simulator.rules({"action": BROKEN})
        message = refusal(ask(served, stream=stream), stream=stream, status=502, code="upstream_error")
        assert all(
            who in message for who in ("member a", "member b", "member c", "upstream writer", "upstream spare")
        ), message


class TestAggregatorsTime:
    def test_a_stream_whose_first_token_does_not_come_is_given_up(
        self, router: StartRouter, profile: Profile, simulator: Simulator
    ) -> None:
        served = router(trio(profile, timeouts={"firstToken": "400ms"}, aggregator={"fallbackUpstreams": ["spare"]}))
        simulator.rules(on("writer", hang=1), on("spare", reply="I stood in."))
        answer = ask(served, stream=True)
        assert (answer.text, answer.outcomes("aggregator")) == ("I stood in.", {"writer": "timeout", "spare": "ok"})
        assert final_of(simulator.settled())[0].outcome == "cancelled"

    @both_ways
    def test_its_own_time_leaves_the_fallback_some(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool
    ) -> None:
        served = router(trio(profile, timeouts={"aggregator": "500ms"}, aggregator={"fallbackUpstreams": ["spare"]}))
        simulator.rules(on("writer", hang={}), on("spare", reply="I stood in."))
        assert ask(served, stream=stream).text == "I stood in."

    @both_ways
    def test_at_the_requests_end_the_best_candidate_is_still_given(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool
    ) -> None:
        served = router(trio(profile, timeouts={"request": "1s", "connect": "1s"}))
        simulator.rules(on("writer", hang={}), on("a", reply="The best there is, and long."))
        answer = ask(served, stream=stream)
        assert (answer.status, answer.degraded) == (200, ["aggregator"])


#: What may befall it behind its first token.
BEHIND: dict[str, Json] = {
    "reset": {"reset": 5},
    "cut": {"cut": 5},
    "garbage": {"garbage": 5},
    "silence": {"hang": 5},
    "an error": {"error_event": {"after": 5, "message": SECRET}},
    "no finish reason": {
        "raw": {
            "pieces": [
                {"text": "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"},
                {
                    "text": 'data: {"choices":[{"index":0,"delta":{"content":"He"},"finish_reason":null}]}\n\n'
                    "data: [DONE]\n\n"
                },
            ]
        }
    },
}


@pytest.mark.parametrize("what", BEHIND)
@pytest.mark.parametrize("model", ["research", "research:single", "writer"])
def test_behind_its_first_token_a_failure_is_an_error_event(
    router: StartRouter, profile: Profile, simulator: Simulator, what: str, model: str
) -> None:
    served: Router = router(trio(profile, timeouts={"idle": "400ms"}, aggregator={"fallbackUpstreams": ["spare"]}))
    simulator.rules(on("writer", **BEHIND[what]))
    answer = ask(served, stream=True, model=model)
    status = "upstream_timeout" if what == "silence" else "upstream_error"
    assert "The answer broke off: upstream writer" in refusal(answer, stream=True, status=502, code=status)
    assert answer.text
    assert answer.moa == {}
    assert all(call.model != "onechoice" for call in simulator.settled())


class TestSingle:
    """One upstream relayed: its failure is an HTTP status while the head is not out."""

    @both_ways
    @pytest.mark.parametrize("model", ["research:single", "writer"])
    @pytest.mark.parametrize("what", [what for what in BEFORE if what != "nothing"])
    def test_its_failure_is_a_status(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool, model: str, what: str
    ) -> None:
        served = router(trio(profile))
        simulator.rules(on("writer", **BEFORE[what][0]))
        answer = ask(served, stream=stream, model=model)
        status, code = (429, "rate_limit_exceeded") if what == "busy" else (502, "upstream_error")
        assert answer.error is not None
        assert (answer.status, answer.error["code"]) == (status, code)
        assert SECRET not in str(answer.error)

    @both_ways
    def test_an_empty_answer_is_its_answer(
        self, router: StartRouter, profile: Profile, simulator: Simulator, stream: bool
    ) -> None:
        served = router(trio(profile))
        simulator.rules(on("writer", reply=""))
        answer = ask(served, stream=stream, model="research:single")
        assert (answer.status, answer.text, answer.finish, answer.degraded) == (200, "", "stop", [])
