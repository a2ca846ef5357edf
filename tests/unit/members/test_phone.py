"""Equal phone numbers become equal text; what is no number is refused without being repeated."""

import pytest

from private_core.members.phone import normalised
from private_core.refusals import Malformed


@pytest.mark.parametrize(
    "written",
    ["13812340099", "138 1234 0099", "+86 138-1234-0099", "008613812340099", "１３８１２３４００９９"],
)
def test_one_number_has_one_form(written: str) -> None:
    assert normalised(written, "CN") == "+8613812340099"


def test_the_region_reads_national_numbers_only() -> None:
    assert normalised("030 901820", "DE") == "+4930901820"
    assert normalised("+49 30 901820", "CN") == "+4930901820"


@pytest.mark.parametrize("written", ["", "110", "hello", "+", "+86 138", "9" * 32, "+8613812340099;ext=5x", "\x00138"])
def test_what_is_no_number_is_refused_unsaid(written: str) -> None:
    with pytest.raises(Malformed) as refused:
        normalised(written, "CN")
    assert not written or written not in refused.value.message
    assert refused.value.__cause__ is None
