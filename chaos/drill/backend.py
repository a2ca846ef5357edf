"""The port between drills and where a mesh runs: what can be broken there, and how it is undone."""

from collections.abc import Collection
from typing import Any, Protocol


class Backend(Protocol):
    """Everything is read anew when it is asked for."""

    @property
    def nodes(self) -> dict[str, str]:
        """Every process that runs or should run, with its workload."""

    @property
    def links(self) -> list[str]:
        """The links that can be disturbed."""

    @property
    def spares(self) -> list[str]:
        """Nodes that do not run and can be added."""

    def ask(self, at: str, **request: Any) -> dict[str, Any]:
        """Make the fault `do` of a request, or answer it. `at`: whose business it is (a door, or OVERRIDES). With
        `lease` and `ttl_s` it lasts, and ends by itself after so many seconds, whatever became of who asked for it.

        Raises:
            NotRunning: the mesh is gone.
            Refused: no, with the reason; nothing was touched.
        """

    def heal(self, at: str, key: str) -> None:
        """Undo the fault of this lease. Whatever is over, or was never made, is healed; so is a mesh that is gone."""

    async def unwell(self, names: Collection[str] | None = None) -> dict[str, str]:
        """Every process, or of those named, that does not run or is not ready, with the reason."""
