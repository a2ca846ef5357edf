"""Phone numbers in one form, so that equal numbers are equal text."""

import phonenumbers

from private_core.refusals import Malformed


def national(e164: str) -> str:
    """The number as it is dialled within its country, digits alone: 13812341234."""
    number = phonenumbers.parse(e164)
    return "".join(filter(str.isdigit, phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)))


def normalised(text: str, region: str) -> str:
    """`text` in E.164 (+8613812341234). `region` reads numbers without a country code.

    Raises Malformed for what is no number in use anywhere; the number is never repeated.
    """
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        number = None
    if number is None or not phonenumbers.is_valid_number(number):
        raise Malformed(
            "PHONE_INVALID", "the phone number is not valid", "send it with its country code, as in +86 138 0000 0000"
        ) from None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
