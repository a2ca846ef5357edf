"""Who stands behind a call, as far as a domain must know. Standard library only."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom the token names. is_member: a member speaks for themself; otherwise a client acts for members."""

    subject: str
    is_member: bool

    def may_act_for(self, member_id: str) -> bool:
        return not self.is_member or self.subject == member_id
