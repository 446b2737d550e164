"""Gate, plan, stages: takes a request through them and owns the rules of what happens when one falls short."""

from __future__ import annotations

import random
import secrets
from time import monotonic
from typing import TYPE_CHECKING

from moa_router.fusion.candidates import BYTES_PER_TOKEN, Candidate, best, budgets, cap, material, permuted
from moa_router.fusion.errors import APIError, bad_request
from moa_router.fusion.failures import as_error
from moa_router.fusion.prompts import Source, refinement, synthesis
from moa_router.fusion.report import moa_body, total_usage, usage_body
from moa_router.fusion.run import PanelCount
from moa_router.fusion.stages.final import Final, cannot_honour, check_chain, write_answer
from moa_router.fusion.stages.present import Presenter, present
from moa_router.fusion.stages.propose import Panel
from moa_router.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from moa_router.fusion.chunks import ChunkWriter
    from moa_router.fusion.failures import Failed
    from moa_router.fusion.plan import Proposer
    from moa_router.fusion.run import Run
    from moa_router.upstream.client import Patience, Site

#: Share of a context window kept for the answer where nobody says how long it may get.
ANSWER_SHARE = 8
#: Enough for every order of as many candidates as a panel can have.
SEED_BITS = 384


async def relay(run: Run, site: Site, patience: Patience, chunks: ChunkWriter | None) -> dict[str, object] | None:
    """Serve a request by one upstream, as it is: the modes `single` and passthrough.

    Returns:
        The answer, or None if it was streamed.

    Raises:
        APIError: the upstream failed.
        StreamBrokenError: the streamed answer broke off.
    """
    outcome = await write_answer(
        run,
        (site,),
        lambda _: (run.request.conversation.raw,),
        defaults={},
        patience=patience,
        chunks=chunks,
        allow_empty=True,
    )
    if not isinstance(outcome, Final):
        if run.request.conversation.has_images and not site.upstream.can("Vision"):
            raise bad_request(f"Upstream {site.upstream.name} does not take images.", "messages")
        raise as_error(outcome, what="The model did not answer", fields=run.request.fields)
    return _deliver(run, outcome, chunks)


def check(run: Run) -> None:
    """Refuse what cannot be served, before the headers of a stream leave and the refusal can have no status any more.

    Raises:
        APIError: 400, naming what the client asks for and nobody here can do.
    """
    race = run.strategy == "First"
    if race and run.request.choices > 1:
        raise bad_request("'n' above 1 cannot be honoured by the strategy First: it returns one candidate.", "n")
    asks_panel = _asks_panel(run)
    if asks_panel:
        _fit(run, race=race)
    if not (race and asks_panel):
        check_chain(run.request, run.plan.aggregator.chain)


async def fuse(run: Run, chunks: ChunkWriter | None) -> dict[str, object] | None:
    """Serve a request by the panel and its aggregator.

    Returns:
        The answer, or None if it was streamed.

    Raises:
        APIError: nobody answered, or the profile wants failures to be errors.
        StreamBrokenError: the streamed answer broke off.
    """
    race = run.strategy == "First"
    shows, as_content = not race and _shows_candidates(run), run.plan.show == "Think"
    presenter = Presenter(chunks, as_content=as_content) if shows and chunks is not None else None
    candidates, failed = await _panel(run, race=race, presenter=presenter)
    if presenter is not None:
        presenter.close()
    if race and (candidates or not run.plan.aggregator.chain):
        return _give_first(run, candidates, failed, chunks)
    answer = await _aggregate(run, candidates, failed, chunks)
    return _presented(answer, candidates, as_content=as_content) if shows and answer is not None else answer


def _shows_candidates(run: Run) -> bool:
    if run.plan.show == "Think":
        # a block of text in front of it would spoil an answer that is to be JSON
        return "StructuredOutput" not in run.request.wants
    return run.plan.show == "Reasoning"


def _presented(answer: dict[str, object], candidates: Sequence[Candidate], *, as_content: bool) -> dict[str, object]:
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(choices, list) or not isinstance(message, dict):
        return answer
    shown = {**first, "message": present(message, candidates, as_content=as_content)}
    return {**answer, "choices": [shown, *choices[1:]]}


# -- the panel ---------------------------------------------------------------------------------------------------------


async def _panel(run: Run, *, race: bool, presenter: Presenter | None) -> tuple[list[Candidate], list[Failed]]:
    """Ask the panel, layer by layer; candidates of the last layer that had any."""
    plan, count = run.plan, PanelCount()
    run.panel = count
    if not _asks_panel(run):
        return [], []
    proposers = _fit(run, race=race)
    candidates: list[Candidate] = []
    failed: list[Failed] = []
    for layer in range(1, plan.panel.layers + 1):
        panel = Panel(
            run,
            proposers,
            layer=layer,
            instruction=_refinement(run, candidates) if candidates else "",
            deadline=_layer_deadline(run, layer, race=race),
            race=race and layer == plan.panel.layers,
            presenter=presenter if layer == plan.panel.layers else None,
        )
        await panel.gather()
        if not panel.asked:
            # every member has refused the images: none was fit to be asked
            raise cannot_honour("Vision", "no member of the panel")
        failed.extend((f"member {member}", failure) for member, failure in panel.failures)
        count.asked, count.answered, count.quorum = panel.asked, len(panel.candidates), panel.required
        candidates = panel.candidates or candidates
        _judge_quorum(run, panel, candidates, failed)
    return candidates, failed


def _asks_panel(run: Run) -> bool:
    """A tool's result goes straight to the aggregator where there is one, unless the profile wants it fused."""
    plan = run.plan
    is_tool_turn = run.request.conversation.last_role == "tool"
    return not is_tool_turn or plan.panel.fuse_tool_turns or not plan.aggregator.chain


def _fit(run: Run, *, race: bool) -> Sequence[Proposer]:
    """The proposers that can take this request.

    Members that lack vision sit out when there is something to see. In a race a member writes the answer, and has to
    honour whatever shapes it.
    """
    proposers: Sequence[Proposer] = run.plan.panel.proposers
    for feature in run.request.wants:
        if not (race or feature == "Vision"):
            continue
        proposers = [proposer for proposer in proposers if proposer.site.upstream.can(feature)]
        if not proposers:
            raise cannot_honour(feature, "no member of the panel")
    return proposers


def _layer_deadline(run: Run, layer: int, *, race: bool) -> float:
    """When this layer must be over: layers share evenly what the aggregator's share leaves."""
    now, plan = monotonic(), run.plan
    left = run.deadline - now
    nobody_follows = race and not plan.aggregator.chain
    share = 0.0 if nobody_follows else min(plan.aggregator_share, left * 0.5)
    return now + (left - share) / (plan.panel.layers - layer + 1)


def _judge_quorum(run: Run, panel: Panel, candidates: Sequence[Candidate], failed: Sequence[Failed]) -> None:
    outcome = "met" if panel.met else "unmet" if panel.candidates else "empty"
    run.plan.metrics.quorum.labels(run.plan.name, outcome).inc()
    if outcome == "met":
        return
    if run.plan.panel.fail_unmet:
        raise _unmet(panel, failed)
    run.degrade("quorum" if candidates else "panel")


def _unmet(panel: Panel, failed: Sequence[Failed]) -> APIError:
    what = f"Quorum not met: {len(panel.candidates)} of {panel.asked} answered, {panel.required} were needed"
    if not failed:
        return APIError(502, f"{what}.", code="quorum_not_met")
    error = as_error(failed, what=what)
    return error if error.status in {429, 504} else APIError(502, error.message, code="quorum_not_met")


# -- the aggregator ----------------------------------------------------------------------------------------------------


async def _aggregate(
    run: Run, candidates: Sequence[Candidate], failed: list[Failed], chunks: ChunkWriter | None
) -> dict[str, object] | None:
    aggregator = run.plan.aggregator
    outcome = await write_answer(
        run,
        aggregator.chain,
        lambda site: _messages(run, site, candidates),
        defaults=aggregator.defaults,
        patience=aggregator.patience,
        chunks=chunks,
        allow_empty=False,
    )
    if isinstance(outcome, Final):
        return _deliver(run, outcome, chunks)
    failed = [*failed, *outcome]
    chosen = best(candidates)
    if chosen is None or aggregator.fail:
        if not failed:
            raise bad_request(
                "The conversation has images, and no upstream that could answer takes images.", "messages"
            )
        if chosen is not None and outcome:
            raise as_error(outcome, what="The aggregator did not answer", fields=run.request.fields)
        raise as_error(failed, fields=run.request.fields)
    run.degrade("aggregator")
    return _give(run, chosen, chunks)


def _messages(run: Run, site: Site, candidates: Sequence[Candidate]) -> Iterable[bytes]:
    if not candidates:
        return (run.request.conversation.raw,)
    aggregator = run.plan.aggregator
    text = synthesis(
        _sources(run, candidates, _room(run, site)),
        nonce=secrets.token_hex(8) if aggregator.delimit else None,
        dissent=aggregator.dissent,
        template=aggregator.template,
    )
    return run.request.conversation.with_tail(text)


def _refinement(run: Run, candidates: Sequence[Candidate]) -> str:
    smallest = min((room for p in run.plan.panel.proposers if (room := _room(run, p.site)) is not None), default=None)
    nonce = secrets.token_hex(8) if run.plan.aggregator.delimit else None
    return refinement(_sources(run, candidates, smallest), nonce=nonce)


def _room(run: Run, site: Site) -> int | None:
    """Bytes of candidates that fit the context window of an upstream; None where nobody says how large it is."""
    window = site.upstream.context_length
    if window is None or run.request.conversation.has_images:
        return None
    answer = run.plan.aggregator.defaults.get("max_tokens")
    reserve = answer if isinstance(answer, int) else window // ANSWER_SHARE
    return (window - reserve) * BYTES_PER_TOKEN - len(run.request.conversation.raw)


def _sources(run: Run, candidates: Sequence[Candidate], room: int | None) -> list[Source]:
    """What is shown of the candidates: shuffled, named or anonymous, cut to what is allowed and what fits."""
    aggregator = run.plan.aggregator
    shown = candidates
    if aggregator.shuffle:
        run.seed = random.getrandbits(SEED_BITS)
        if run.sampled:
            run.workflow.set(names.MOA_SHUFFLE_SEED, f"{run.seed:x}")
        shown = permuted(candidates, run.seed)
    texts = [material(candidate) for candidate in shown]
    if aggregator.max_candidate_tokens is not None:
        texts = [cap(text, aggregator.max_candidate_tokens * BYTES_PER_TOKEN) for text in texts]
    if room is not None:
        sizes = [len(text.encode()) for text in texts]
        texts = [cap(text, share) for text, share in zip(texts, budgets(sizes, room), strict=True)]
    return [
        Source(f"candidate {number}" if aggregator.anonymize else f"candidate {number}: {candidate.member}", text)
        for number, (candidate, text) in enumerate(zip(shown, texts, strict=True), 1)
    ]


# -- delivery ----------------------------------------------------------------------------------------------------------


def _give_first(
    run: Run, candidates: Sequence[Candidate], failed: Sequence[Failed], chunks: ChunkWriter | None
) -> dict[str, object] | None:
    if not candidates:
        if failed:
            raise as_error(failed, fields=run.request.fields)
        raise bad_request("No member of the panel can take this request.", "messages")
    winner = candidates[0]
    if winner.choice is None or winner.answer is None:
        return _give(run, winner, chunks)
    choice = {**winner.choice, "index": 0}
    return _deliver(run, Final({**winner.answer, "choices": [choice]}, None), chunks)


def _give(run: Run, candidate: Candidate, chunks: ChunkWriter | None) -> dict[str, object] | None:
    """Give a candidate's text as the answer."""
    message = {"role": "assistant", "content": candidate.text}
    finish = "stop" if candidate.complete else "length"
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return _deliver(run, Final({"choices": [choice]}, None), chunks)


def _deliver(run: Run, final: Final, chunks: ChunkWriter | None) -> dict[str, object] | None:
    """Put our name on the answer, and the books into it."""
    if chunks is None:
        return _whole(run, final.answer)
    last = final.last if final.last is not None else _stream_whole(run, final.answer, chunks)
    chunks.choices(last.get("choices", []), {**_extras(last), "moa": moa_body(run)})
    if run.request.include_usage:
        chunks.usage(usage_body(*total_usage(run.calls)))
    chunks.done()
    return None


def _whole(run: Run, answer: Mapping[str, object]) -> dict[str, object]:
    return {
        **answer,
        "id": run.answer_id,
        "object": "chat.completion",
        "created": run.created,
        "model": run.request.model,
        "usage": usage_body(*total_usage(run.calls)),
        "moa": moa_body(run),
    }


def _stream_whole(run: Run, answer: Mapping[str, object], chunks: ChunkWriter) -> Mapping[str, object]:
    """Stream an answer that is already whole, in one piece at once; returns its last chunk."""
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    message = choice.get("message", {})
    delta = {name: value for name, value in message.items() if value is not None and name != "role"}
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        delta["tool_calls"] = [{**call, "index": index} for index, call in enumerate(calls) if isinstance(call, dict)]
    run.saw_first_token()
    chunks.open()
    chunks.choices([{"index": 0, "delta": delta, "logprobs": choice.get("logprobs"), "finish_reason": None}], {})
    return {
        "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": choice.get("finish_reason") or "stop"}]
    }


def _extras(chunk: Mapping[str, object]) -> dict[str, object]:
    ours = {"id", "object", "created", "model", "choices", "usage"}
    return {name: value for name, value in chunk.items() if name not in ours}
