"""Rules of the wire: every stage gets the conversation whole, as the bytes it came in, and more only at its tail."""

import json

import pytest
from tests.router.wire.harness import (
    PANEL_TEMPERATURE,
    Call,
    Json,
    Profile,
    Router,
    Simulator,
    StartRouter,
    fetch,
    panel_replies,
    user,
)

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5E"
    "rkJggg=="
)
SYSTEM = '{"role":"system","content":"You answer in one sentence."}'
HISTORY = f"""{SYSTEM}, {{"role":"user","name":"ann","content":"Hi."}},\t
 {{"role" : "assistant", "content":null, "tool_calls":[{{"id":"c1","type":"function",
   "function":{{"name":"clock","arguments":"{{ }}"}}}}]}} ,
 {{"role":"tool","tool_call_id":"c1","content":"noon"}}, {{"role":"assistant","content":"It is noon."}}"""

#: By what is odd about it: everything up to the end of the last user turn's content, and the rest.
ENDING_WITH_A_USER: dict[str, tuple[str, str]] = {
    "plain": ('[{"role":"user","content":"Why is the sky blue?', '"}]'),
    "spaces": (
        "[ \n\t" + SYSTEM + ' , {  "role" :\t"user" ,\r\n "content"  :  "Why is the sky blue?',
        '"  ,  "name" : "ann"  } \n ]',
    ),
    "content first": ('[{"content":"Why is the sky blue?', '","role":"user"}]'),
    "escapes": (
        r'[{"role":"us\u0065r","content":"\u0057hy \u00e9\ud83d\ude00\/ \"content\": \"no\" \\\" \\\\ \n\t',
        '"}]',
    ),
    "raw unicode": ('[{"role":"user","content":"Pourquoi 日本語 🎈 é ', '"}]'),
    "big numbers": (
        '[{"role":"user","seed":123456789012345678901234567890,"f":1.00e+2,"z":-0.0,"content":"Why?',
        '","more":1E400}]'.replace("1E400", "100000000000000000001"),
    ),
    "history": (f'[{HISTORY},{{"role":"user","content":"And where?', '"}]'),
    "said twice": ('[{"role":"user","content":"not this","content":"but this', '"}]'),
    "content elsewhere": (
        '[{"role":"user","meta":{"content":"not here","x":[{"content":"nor here"}]},"content":"but here',
        '","extra":{"content":"nor there"}}]',
    ),
    "parts": (
        '[{"role":"user","content":[{"type":"text","text":"What is this?"} , {"type":"image_url","image_url":{"url":"'
        + PIXEL
        + '"}}',
        " ] }]",
    ),
    "text part": ('[{"role":"user","content": [ {"type":"text","text":"a ] \\" } b"}', "]}]"),
}
#: Conversations whose last turn nothing can be merged into.
ENDING_OTHERWISE = {
    "tool": f'[{HISTORY},{{"role":"user","content":"Time?"}},{{"role":"assistant","content":null,"tool_calls":'
    '[{"id":"c2","type":"function","function":{"name":"clock","arguments":"{}"}}]},'
    '{"role":"tool","tool_call_id":"c2","content":"one"}]',
    "assistant": f'[{SYSTEM}, {{"role":"user","content":"Go on:"}} , {{"role":"assistant","content":"Once upon"}} ]',
    "system": f"[ {SYSTEM} ]",
}


def body(messages: str) -> str:
    return '{"model":"research","messages":' + messages + "}"


def sent_messages(call: Call) -> str:
    """The messages of a call's body, as bytes that were sent, and whatever is behind them."""
    head, _, rest = call.body.partition('"messages":')
    assert json.loads(head + '"x":0}')["model"]
    return rest


@pytest.fixture
def varied(router: StartRouter, profile: Profile) -> Router:
    """Two layers; one member as it is, one with a role, one with a system prompt; tool turns are fused."""
    base = {"upstream": "qwen", "temperature": PANEL_TEMPERATURE}
    members = [
        {**base, "name": "plain"},
        {**base, "name": "critic", "role": 'a "stern" critic\nof everything'},
        {**base, "name": "ruled", "systemPrompt": "Speak in {verses}."},
    ]
    return router(profile(panel={"members": members, "quorum": "100%", "layers": 2, "onToolTurn": "Fuse"}))


@pytest.mark.parametrize("oddity", ENDING_WITH_A_USER)
def test_every_call_begins_with_the_clients_own_bytes(varied: Router, simulator: Simulator, oddity: str) -> None:
    kept, rest = ENDING_WITH_A_USER[oddity]
    assert varied.post(body(kept + rest)).status == 200
    calls = simulator.settled()
    assert len(calls) == 3 + 3 + 1
    for call in calls:
        assert sent_messages(call).startswith(kept)
        assert len(call.fields["messages"]) == len(json.loads(kept + rest))


@pytest.mark.parametrize("oddity", ENDING_WITH_A_USER)
def test_what_is_added_is_merged_into_the_last_user_turn(varied: Router, simulator: Simulator, oddity: str) -> None:
    kept, rest = ENDING_WITH_A_USER[oddity]
    given = json.loads(kept + rest)
    simulator.rules(panel_replies("A candidate's words."))
    assert varied.post(body(kept + rest)).status == 200
    plain = [call for call in simulator.settled() if call.fields["messages"] == given]
    assert len(plain) == 1
    for call in simulator.calls():
        *before, last = call.fields["messages"]
        assert before == given[:-1]
        assert {**last, "content": given[-1]["content"]} == given[-1]
        content, whole = last["content"], given[-1]["content"]
        if isinstance(whole, list):
            assert content[: len(whole)] == whole
            added = [part for part in content[len(whole) :] if call is not plain[0]]
            assert [set(part) for part in added] in ([], [{"type", "text"}])
        elif content != whole:
            assert content.startswith(f"{whole}\n\n---\n")


@pytest.mark.parametrize("ending", ENDING_OTHERWISE)
def test_a_user_turn_of_our_own_behind_any_other(varied: Router, simulator: Simulator, ending: str) -> None:
    messages = ENDING_OTHERWISE[ending]
    kept = messages.rstrip()[:-1].rstrip()
    assert varied.post(body(messages)).status == 200
    given = json.loads(messages)
    calls = simulator.settled()
    assert len(calls) == 3 + 3 + 1
    lengths = []
    for call in calls:
        assert sent_messages(call).startswith(kept)
        assert call.fields["messages"][: len(given)] == given
        added = call.fields["messages"][len(given) :]
        lengths.append(len(added))
        assert [set(turn) for turn in added] in ([], [{"role", "content"}])
        assert {turn["role"] for turn in added} <= {"user"}
    # one member of the first layer has nothing to add
    assert sorted(lengths) == [0, 1, 1, 1, 1, 1, 1]


def test_roles_and_system_prompts_stand_at_the_tail(varied: Router, simulator: Simulator) -> None:
    given = [{"role": "system", "content": "Be brief."}, user("Why?")]
    assert varied.post({"model": "research", "messages": given}).status == 200
    first_layer = [call.fields["messages"] for call in simulator.panel()[:3]]
    assert all(messages[0] == given[0] for messages in first_layer)
    tails = sorted(messages[1]["content"] for messages in first_layer)
    assert tails == [
        "Why?",
        'Why?\n\n---\nFor this reply, take this role: a "stern" critic\nof everything',
        "Why?\n\n---\nSpeak in {verses}.",
    ]
    final = simulator.final().fields["messages"]
    assert final[0] == given[0]
    assert "stern" not in json.dumps(final)
    assert "verses" not in json.dumps(final)


def test_names_images_and_tool_turns_reach_every_stage(varied: Router, simulator: Simulator) -> None:
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    given = [*json.loads(f"[{HISTORY}]"), {**user(parts), "name": "ann"}]
    assert varied.post({"model": "research", "messages": given}).status == 200
    for call in simulator.settled():
        messages = call.fields["messages"]
        assert messages[:-1] == given[:-1]
        assert messages[-1]["name"] == "ann"
        assert messages[-1]["content"][:2] == parts


# -- what it is for ----------------------------------------------------------------------------------------------------

BLOCK = 16
#: What a template puts behind the last turn: its end, a line break, the assistant's beginning.
BEHIND = 5
LONG = " ".join(f"Fact {number}: water boils at {number * 7} degrees." for number in range(150))
TOOL = {
    "type": "function",
    "function": {"name": "look_up", "description": "d" * 200, "parameters": {"type": "object", "properties": {}}},
}


def prompt_length(simulator: Simulator, messages: list[Json], tools: list[Json]) -> int:
    reply = fetch(simulator.url, "/tokenize", {"messages": messages, "tools": tools})
    return int(reply.json["count"])


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("tools", [[], [TOOL]], ids=["no tools", "tools"])
def test_the_aggregator_finds_the_conversation_in_the_prefix_cache(
    small: Router, simulator: Simulator, tools: list[Json], *, streamed: bool
) -> None:
    messages = [{"role": "system", "content": LONG}, user("Hi."), {"role": "assistant", "content": "Yes?"}, user("So?")]
    request: Json = {"model": "research", "messages": messages, "stream": streamed}
    if tools:
        request |= {"tools": tools, "tool_choice": "auto"}
    assert small.post(request).status == 200
    shared = prompt_length(simulator, messages, tools) - BEHIND
    assert shared > 100 * BLOCK
    (panel,), final = simulator.panel(), simulator.final()
    assert panel.cached_tokens == 0
    assert final.cached_tokens >= shared // BLOCK * BLOCK
    assert final.cached_tokens <= shared


def test_every_call_after_the_first_finds_the_conversation_in_the_prefix_cache(
    varied: Router, simulator: Simulator
) -> None:
    messages = [{"role": "system", "content": LONG}, user("So?")]
    assert varied.post({"model": "research", "messages": messages}).status == 200
    shared = prompt_length(simulator, messages, []) - BEHIND
    later = simulator.settled()[3:]
    assert len(later) == 4
    assert all(call.cached_tokens >= shared // BLOCK * BLOCK for call in later)
