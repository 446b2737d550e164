"""Every example is a profile that runs as it stands."""

from pathlib import Path

import pytest
import yaml
from tests.api.apiserver import judge
from tests.api.table import SMALLEST

from moa_api.v1alpha1 import load_profile

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_one_valid_profile(path: Path) -> None:
    [document] = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    load_profile(document)
    verdict = judge(yaml.safe_load((ROOT / "crds" / "moaprofiles.yaml").read_text(encoding="utf-8")), document)
    assert (verdict.unknown, verdict.schema, verdict.rules) == ([], [], [])


def test_there_are_examples_and_each_profile_has_a_name_of_its_own() -> None:
    names = [yaml.safe_load(path.read_text(encoding="utf-8"))["metadata"]["name"] for path in EXAMPLES]
    assert len(names) >= 5
    assert len(set(names)) == len(names)


def test_the_smallest_example_is_the_smallest_profile() -> None:
    smallest = ROOT / "examples" / "smallest.yaml"
    assert yaml.safe_load(smallest.read_text(encoding="utf-8")) == SMALLEST
