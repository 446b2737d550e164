"""The demo from start to end."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from moa_router.demo.ask import ask
from moa_router.demo.processes import Child, running
from moa_router.demo.report import HEADINGS, remarks, rows
from moa_router.demo.screen import Screen

if TYPE_CHECKING:
    from moa_router.demo.ask import Answer

PROFILE = Path(__file__).with_name("profile.yaml")
PROFILE_NAME = "demo"
#: What stands for the upstream's address in the profile's file.
PROFILE_URL = "http://127.0.0.1:8000"

KEPT_URL = "http://127.0.0.1:8080/v1"
_ENDS = (
    "The demo ends here. To keep it serving: `moa-router demo --keep --port 8080`, "
    "or `make demo KEEP=1` for any free port."
)

_START_SECONDS = 120.0
_LOOK_SECONDS = 1.0
_MODEL = ("-m", "moa_router.demo.model", "--port", "0")
#: Long enough that the members with a limit reach it, and the one with a higher limit is left behind.
_SIMULATED = (
    "-m", "moa_simulator", "serve", "--port", "0",
    "--model", "SmolLM2-135M-Instruct,ttft=0.1,inter_token=0.01,tokens=160,tokens_spread=0",
)  # fmt: skip


def show(question: str, *, simulated: bool, keep: bool, port: int) -> None:
    """Start model and router, ask, show, and stop them.

    Args:
        question: what to ask.
        simulated: take the simulator instead of the model.
        keep: go on serving until interrupted.
        port: where the router listens; 0 for any free port.

    Raises:
        DemoError: something failed.
        KeyboardInterrupt: it was interrupted, and not while it only kept serving.
    """
    screen = Screen()
    with ExitStack() as stack:
        name, command = ("simulator", _SIMULATED) if simulated else ("model", _MODEL)
        screen.line(f"Starting the {name} and the router …", "dim")
        upstream = stack.enter_context(running(f"the {name}", [sys.executable, *command], seconds=_START_SECONDS))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moa-demo-")))
        router = stack.enter_context(
            running("the router", _router(_profile(folder, upstream.url), port), seconds=_START_SECONDS)
        )
        base_url = f"{router.url}/v1"
        _present(screen, question, base_url)
        screen.heading("Talk to it")
        if not keep:
            screen.line(f"{_ENDS}\n")
        for line in _how_to_talk(base_url if keep else KEPT_URL):
            screen.line(line)
        if keep:
            screen.line("\nServing until Ctrl-C.", "bold")
            with contextlib.suppress(KeyboardInterrupt):
                _serve_on(upstream, router)


def _profile(folder: Path, url: str) -> Path:
    """The demo's profile, with the address of its upstream."""
    path = folder / PROFILE.name
    path.write_text(PROFILE.read_text(encoding="utf-8").replace(PROFILE_URL, url), encoding="utf-8")
    return path


def _router(profile: Path, port: int) -> list[str]:
    return [
        sys.executable, "-m", "moa_router", "serve", "--profile", str(profile), "--host", "127.0.0.1",
        "--port", str(port), "--admin-port", "0", "--log-format", "console", "--log-level", "warning",
    ]  # fmt: skip


def _present(screen: Screen, question: str, base_url: str) -> None:
    screen.heading("Question")
    screen.line(question)
    screen.heading("Candidates, as the panel writes them")
    answer = _stream(screen, question, base_url)
    screen.heading("What was done for it")
    screen.table(HEADINGS, rows(answer.report, answer.seconds))
    for remark in remarks(answer.report):
        screen.line(remark)


def _stream(screen: Screen, question: str, base_url: str) -> Answer:
    answering = False

    def show_answer(text: str) -> None:
        nonlocal answering
        if not answering:
            answering = True
            screen.heading("Answer, as the aggregator writes it")
        screen.grow(text)

    return ask(base_url, PROFILE_NAME, question, lambda text: screen.grow(text, "dim"), show_answer)


def _how_to_talk(base_url: str) -> list[str]:
    hello = '[{"role": "user", "content": "Hello"}]'
    return [
        f"  curl -N {base_url}/chat/completions -H 'content-type: application/json' \\",
        f"""    -d '{{"model": "{PROFILE_NAME}", "stream": true, "messages": {hello}}}'""",
        "",
        "  from openai import OpenAI",
        f'  client = OpenAI(base_url="{base_url}", api_key="none")',
        f'  answer = client.chat.completions.create(model="{PROFILE_NAME}", messages={hello})',
        "  print(answer.choices[0].message.content)",
    ]


def _serve_on(*children: Child) -> None:
    while True:
        for child in children:
            child.wait(_LOOK_SECONDS)
