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


class Properties:
    """A room's properties as a client reads them out of what it is told; it checks the order of the positions.

    :ivar position: that in the properties.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.position = ""
        self.read = 0

    def take(self, events: list[dict[str, Any]]) -> Properties:
        """Take in events, of which those before were taken in already."""
        for event in events[self.read :]:
            if event["type"] == "joined" and "properties" in event:
                self._take_all(event["properties"])
            elif event["type"] == "properties":
                self._take_all(event)
            elif event["type"] == "property":
                epoch, offset = event["position"].split(":")
                before = self.position.split(":")
                assert before[0] == epoch, (self.position, event)
                assert int(before[1]) < int(offset), (self.position, event)
                self._set(event)
                self.position = event["position"]
        self.read = len(events)
        return self

    def _take_all(self, page: dict[str, Any]) -> None:
        if page["full"]:
            self.values = {}
        for value in page["values"]:
            self._set(value)
        self.position = page["position"]

    def _set(self, event: dict[str, Any]) -> None:
        self.values.pop(event["name"], None)
        if "data" in event:
            self.values[event["name"]] = event["data"]
