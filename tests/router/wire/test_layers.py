"""Layers: later ones see the candidates of the former."""

import pytest
from tests.router.wire.asking import Answer, ask, final_of, on, trio
from tests.router.wire.harness import Call, Json, Profile, Simulator, StartRouter

BROKEN: Json = {"status": 500}


def scripted(layers: int) -> list[Json]:
    """Each member says who it is and in which layer."""
    return [on(name, 1, reply=f"{name} of layer {layer}") for layer in range(1, layers + 1) for name in "abc"]


def shown(call: Call, layer: int) -> list[str]:
    """Whose words of a layer a call was shown."""
    return [name for name in "abc" if f"{name} of layer {layer}" in call.body]


def layers_of(answer: Answer) -> list[int]:
    return [stage["layer"] for stage in answer.moa["stages"]]


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_each_sees_the_one_before_it(router: StartRouter, profile: Profile, simulator: Simulator, layers: int) -> None:
    served = router(trio(profile, panel={"layers": layers, "quorum": 3}))
    simulator.rules(*scripted(layers))
    answer = ask(served)
    calls = simulator.settled()
    assert len(calls) == 3 * layers + 1 == answer.moa["calls"]
    assert layers_of(answer) == [layer for layer in range(1, layers + 1) for _ in "abc"] + [0]
    panel = [call for call in calls if call.is_panel]
    for layer in range(1, layers + 1):
        for call in panel[3 * layer - 3 : 3 * layer]:
            for other in range(1, layers + 1):
                assert shown(call, other) == (["a", "b", "c"] if other == layer - 1 else [])
    (final,) = final_of(calls)
    assert shown(final, layers) == ["a", "b", "c"]
    assert all(shown(final, layer) == [] for layer in range(1, layers))
    assert (answer.panel, answer.degraded) == ("3/3", [])


def test_one_layer_waits_for_the_quorum_of_the_one_before_it(
    router: StartRouter, profile: Profile, simulator: Simulator
) -> None:
    served = router(trio(profile, panel={"layers": 2, "quorum": 2}))
    simulator.rules(on("c", 1, hang={}), *scripted(2))
    answer = ask(served)
    panel = [call for call in simulator.settled() if call.is_panel]
    second = [call for call in panel if shown(call, 1)]
    assert len(panel) > len(second) >= 2
    assert all(shown(call, 1) == ["a", "b"] for call in second)
    assert answer.degraded == []


def test_a_layer_without_an_answer_leaves_the_former_candidates(
    router: StartRouter, profile: Profile, simulator: Simulator
) -> None:
    served = router(trio(profile, panel={"layers": 3, "quorum": 3}))
    simulator.rules(*scripted(2), *[on(name, **BROKEN) for name in "abc"])
    answer = ask(served)
    (final,) = final_of(simulator.settled())
    assert shown(final, 2) == ["a", "b", "c"]
    assert (answer.status, answer.panel, answer.degraded) == (200, "0/3", ["quorum"])


def test_a_first_layer_without_an_answer_does_not_end_the_panel(
    router: StartRouter, profile: Profile, simulator: Simulator
) -> None:
    served = router(trio(profile, panel={"layers": 2, "quorum": 3}))
    simulator.rules(*[on(name, 1, **BROKEN) for name in "abc"], *scripted(1))
    answer = ask(served)
    (final,) = final_of(simulator.settled())
    assert shown(final, 1) == ["a", "b", "c"]
    assert (answer.status, answer.panel, answer.degraded) == (200, "3/3", ["panel"])


def test_samples_are_one_call_in_each(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    served = router(profile(panel={"layers": 3}))
    answer = ask(served)
    assert [(call.n, call.is_panel) for call in simulator.settled()] == [(3, True)] * 3 + [(1, False)]
    assert answer.moa["calls"] == 4


def test_where_everybody_failed_in_the_last_one_the_best_is_of_the_former(
    router: StartRouter, profile: Profile, simulator: Simulator
) -> None:
    served = router(trio(profile, panel={"layers": 2, "quorum": 3}))
    simulator.rules(*scripted(1), {"action": BROKEN})
    answer = ask(served)
    assert answer.text.endswith("of layer 1")
    assert answer.degraded == ["quorum", "aggregator"]
