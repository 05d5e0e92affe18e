"""What a client makes of what it is told."""

from __future__ import annotations

from typing import Any


class View:
    """Who is in a room, as a client reads it out of what it is told (``docs/protocol.rst``).

    :ivar members: by id; None where there is no list.
    :ivar left: the ids of all that were seen to leave.
    """

    def __init__(self) -> None:
        self.count: int | None = None
        self.members: dict[str, dict[str, Any]] | None = None
        self.left: list[str] = []

    @property
    def names(self) -> list[str]:
        """The members' names, sorted."""
        return sorted(member["name"] for member in (self.members or {}).values())

    def take(self, event: dict[str, Any]) -> None:
        """A ``joined`` or an event has come."""
        if event["type"] not in ("joined", "presence") or "p" not in event.get("rights", "p"):
            return
        self.count = event["count"]
        if "members" in event:
            self._replace({member["id"]: member for member in event["members"]})
        elif "joined" not in event:
            self.members = None
        elif self.members is not None:
            self._replace(
                {id: member for id, member in self.members.items() if id not in {gone["id"] for gone in event["left"]}}
                | {member["id"]: member for member in event["joined"]}
            )

    def _replace(self, members: dict[str, dict[str, Any]]) -> None:
        self.left += [] if self.members is None else [id for id in self.members if id not in members]
        self.members = members
        assert len(members) == self.count, (members, self.count)
