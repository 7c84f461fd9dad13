"""Our functions against the public reference implementations' own outputs, case by case."""

import golden_case
import golden_eval
import golden_method
import golden_openmm
import pytest

CHECKS = golden_method.CHECKS | golden_eval.CHECKS | golden_openmm.CHECKS


@pytest.mark.parametrize("name", golden_case.names())
def test_equals_the_reference(name: str):
    case = golden_case.load(name)
    CHECKS[case.kind](case)


def test_the_golden_folder_is_not_empty():
    assert golden_case.names(), f"no golden case in {golden_case.FOLDER}"


def test_every_kind_that_we_know_has_a_check():
    assert set(CHECKS) == set(golden_case.CHECKED)


@pytest.mark.parametrize("kind", golden_case.CHECKED)
def test_every_kind_has_a_case_of_our_own(kind: str):
    ours = {path.stem for path in (golden_case.Path(__file__).parent / "golden").glob("*.json")}
    assert kind in {golden_case.kind_of(name) for name in ours}
