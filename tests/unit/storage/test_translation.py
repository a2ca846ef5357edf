"""Every kind of refusal is one kind of error, and loses nothing on the way."""

import pytest

from mesh.errors import from_status
from private_core import refusals
from private_core.translation import error_of, translated


@pytest.mark.parametrize("kind", refusals.Refusal.__subclasses__())
def test_a_refusal_crosses_with_its_reason_message_and_remedy(kind: type[refusals.Refusal]) -> None:
    error = error_of(kind("SOME_REASON", "what is wrong", "what to do"))
    back = from_status(error.to_status())
    assert type(back) is type(error)
    assert (back.reason, back.message, back.remedy) == ("SOME_REASON", "what is wrong", "what to do")


def test_no_two_kinds_share_an_error() -> None:
    errors = {type(error_of(kind("R", "m"))) for kind in refusals.Refusal.__subclasses__()}
    assert len(errors) == len(refusals.Refusal.__subclasses__())


def test_the_block_raises_the_error_in_place_of_the_refusal() -> None:
    with pytest.raises(Exception, match="NOT_THERE") as raised, translated():
        raise refusals.Absent("NOT_THERE", "it is not there")
    assert not isinstance(raised.value, refusals.Refusal)
