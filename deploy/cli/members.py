"""`isthmus members`: which members are one person, who may see other members' records, and where they are signed in."""

import asyncio
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from deploy.cli.output import Json, clear_errors, console, print_json


class Level(StrEnum):
    """What can be given, or taken away."""

    GENERAL = "general"
    SENSITIVE = "sensitive"
    NONE = "none"


Merged = Annotated[str, typer.Argument(help="The member whose identifiers are to lead to the other.")]
Kept = Annotated[str, typer.Argument(help="The member whom they lead to.")]

app = typer.Typer(help="Who is one person, who may see others' records, who is signed in.", no_args_is_help=True)


@app.command()
def merge(merged: Merged, kept: Kept) -> None:
    """Say that two members are one person. Nothing is rewritten, and `split` undoes it."""
    with clear_errors():
        asyncio.run(_merge(merged, kept))
    console().print(f"{escape(merged)} leads to {escape(kept)}")


@app.command()
def split(merged: Merged) -> None:
    """Undo a merge: each identifier leads to whom it led before."""
    with clear_errors():
        asyncio.run(_split(merged))
    console().print(f"{escape(merged)} stands for itself")


@app.command()
def grade(
    subject: Annotated[str, typer.Argument(help="The subject of their token: a member who works here, or a program.")],
    level: Annotated[Level, typer.Argument(help="Up to what they see of others.")],
    days: Annotated[int, typer.Option(min=1, max=366, help="It ends after so many days.")] = 90,
) -> None:
    """Let somebody see other members' records, for purposes that those consent to; `none` takes it away at once."""
    with clear_errors():
        ends_us = asyncio.run(_grade(subject, level, days))
    until = f" until {_day(ends_us)}" if ends_us else ""
    console().print(f"{escape(subject)}: {level}{until}")


@app.command()
def grades(as_json: Json = False) -> None:
    """List who may see other members' records, up to what, and until when."""
    with clear_errors():
        found = asyncio.run(_grades())
    if as_json:
        print_json(found)
        return
    table = Table("who", "sees", "since", "until", box=None)
    for each in found:
        table.add_row(escape(each["subject"]), each["grade"], _day(each["given_time_us"]), _day(each["ends_time_us"]))
    console().print(table if found else "Nobody sees other members' records.")


@app.command("sign-out")
def sign_out(member_id: Annotated[str, typer.Argument(help="The member.")]) -> None:
    """End everything that a member has open anywhere: access tokens within seconds, refresh tokens at once."""
    with clear_errors():
        asyncio.run(_sign_out(member_id))
    console().print(f"{escape(member_id)} is signed out everywhere")


def _day(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).date().isoformat()


async def _grade(subject: str, level: Level, days: int) -> int:
    from isthmus.members.v1 import members_pb2 as pb
    from isthmus.members.v1.members_pb2_grpc import GradesStub

    from deploy.cli.operator import channels

    known = {Level.GENERAL: pb.GRADE_GENERAL, Level.SENSITIVE: pb.GRADE_SENSITIVE}
    async with channels("members") as (channel, *_):
        request = pb.SetGradeRequest(subject=subject, grade=known.get(level, pb.GRADE_UNSPECIFIED), days=days)
        return (await GradesStub(channel).SetGrade(request)).ends_time_us


async def _grades() -> list[dict[str, Any]]:
    from isthmus.members.v1 import members_pb2 as pb
    from isthmus.members.v1.members_pb2_grpc import GradesStub

    from deploy.cli.operator import channels

    async with channels("members") as (channel, *_):
        given = (await GradesStub(channel).ListGrades(pb.ListGradesRequest())).grades
    return [
        {
            "subject": each.subject,
            "grade": pb.Grade.Name(each.grade).removeprefix("GRADE_").lower(),
            "given_time_us": each.given_time_us,
            "ends_time_us": each.ends_time_us,
        }
        for each in given
    ]


async def _sign_out(member_id: str) -> None:
    from isthmus.oauth.v1 import oauth_pb2 as pb
    from isthmus.oauth.v1.oauth_pb2_grpc import AccountsStub

    from deploy.cli.operator import gateway

    async with gateway("accounts.write") as channel:
        await AccountsStub(channel).SignOutEverywhere(pb.SignOutEverywhereRequest(member_id=member_id))


async def _merge(merged: str, kept: str) -> None:
    from isthmus.members.v1 import members_pb2 as pb
    from isthmus.members.v1.members_pb2_grpc import IdentitiesStub

    from deploy.cli.operator import channels

    async with channels("members") as (channel, *_):
        await IdentitiesStub(channel).MergeMembers(pb.MergeMembersRequest(kept_member_id=kept, merged_member_id=merged))


async def _split(merged: str) -> None:
    from isthmus.members.v1 import members_pb2 as pb
    from isthmus.members.v1.members_pb2_grpc import IdentitiesStub

    from deploy.cli.operator import channels

    async with channels("members") as (channel, *_):
        await IdentitiesStub(channel).SplitMember(pb.SplitMemberRequest(merged_member_id=merged))
