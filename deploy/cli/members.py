"""`isthmus members`: which members are one person."""

import asyncio
from typing import Annotated

import typer
from rich.markup import escape

from deploy.cli.output import clear_errors, console

Merged = Annotated[str, typer.Argument(help="The member whose identifiers are to lead to the other.")]
Kept = Annotated[str, typer.Argument(help="The member whom they lead to.")]

app = typer.Typer(help="Which members are one person.", no_args_is_help=True)


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


async def _merge(merged: str, kept: str) -> None:
    from isthmus.members.v1 import members_pb2 as pb
    from isthmus.members.v1.members_pb2_grpc import IdentitiesStub

    from deploy.cli.operated import operated

    async with operated("members") as channel:
        await IdentitiesStub(channel).MergeMembers(pb.MergeMembersRequest(kept_member_id=kept, merged_member_id=merged))


async def _split(merged: str) -> None:
    from isthmus.members.v1 import members_pb2 as pb
    from isthmus.members.v1.members_pb2_grpc import IdentitiesStub

    from deploy.cli.operated import operated

    async with operated("members") as channel:
        await IdentitiesStub(channel).SplitMember(pb.SplitMemberRequest(merged_member_id=merged))
