"""What is generated is up to date, and what is written about the code is true of it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from moa_api import reference as profile_reference
from moa_router.telemetry import reference as metrics_reference

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize(
    ("file", "render"),
    [("docs/profile.md", profile_reference.render), ("docs/metrics.md", metrics_reference.render)],
)
def test_a_generated_reference_is_up_to_date(file: str, render: Callable[[], str]) -> None:
    assert (ROOT / file).read_text() == render(), f"{file} differs from the code: run `make docs`"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_make_target_named_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        for line in re.findall(r"`make ([a-z0-9 -]+)", document.read_text()):
            assert set(line.split()) <= targets, f"{document.name}: make {line}"
