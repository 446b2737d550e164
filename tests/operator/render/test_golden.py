"""Every child of two profiles, as files: what changes in them rolls pods in clusters, so changes are to be seen.

`MOA_WRITE_GOLDEN=1` writes the files anew.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.operator.documents import EVERYTHING, profile

from moa_operator.render.children import children

if TYPE_CHECKING:
    from collections.abc import Mapping

GOLDEN = Path(__file__).parent / "golden"
CASES: Mapping[str, Mapping[str, object]] = {"smallest": {}, "everything": EVERYTHING}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, _data: object) -> bool:
        return True


@pytest.mark.parametrize("case", CASES)
def test_children_are_rendered_as_the_golden_files_have_them(case: str) -> None:
    rendered = children(profile(CASES[case]), "digest-of-references", "moa-router:golden")
    text = yaml.dump_all(rendered.values(), Dumper=_Dumper, sort_keys=False, width=120)
    file = GOLDEN / f"{case}.yaml"
    if os.environ.get("MOA_WRITE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert list(yaml.safe_load_all(text)) == list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


def test_no_golden_file_is_without_a_case() -> None:
    assert {file.stem for file in GOLDEN.glob("*.yaml")} == set(CASES)
