"""Properties over every transport, over real sockets in one process."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import treq
from twisted.internet import reactor
from twisted.internet.task import deferLater

from realtime_chat.service import Configuration
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import ANONYMOUS, Draft, properties_log
from tests.clients import Client, EventClient, HTTPClient, PollClient, SocketClient
from tests.deadlines import DEADLINE
from tests.transports.test_contract import ServedTestCase


class PropertiesTestCase(ServedTestCase):
    """A daemon whose properties are set by the hub."""

    limits = {"poll_grace": 1.0}

    def configuration(self) -> Configuration:
        limits = Limits(history=self.history, **self.limits)
        return Configuration(("tcp:0:interface=127.0.0.1",), limits=limits, jsonp=True)

    async def set(self, name: str, *data: Any, room: str = "lobby") -> str:
        """Set a property, or remove it; the position."""
        value = json.dumps(data[0]).encode() if data else b""
        draft = Draft(properties_log(room), name, value, ANONYMOUS)
        stored = await self.service.hub.publish(draft)
        return str(stored.message.position)

    async def holds(self, client: Client, **values: Any) -> None:
        """Wait till a client holds exactly these properties."""
        await client.until(lambda: client.properties.values == values)


class PropertiesContract:
    """What readers of each transport are told."""

    kind: type[Client]

    async def test_present_values(self: Any) -> None:
        """Who comes later is told the present value of everything, and then what changes."""
        await self.set("a", 1)
        await self.set("a", {"x": [2]})
        await self.set("b", None)
        reader = await self.started(self.kind, properties=1)
        await self.holds(reader, a={"x": [2]}, b=None)
        await self.set("a")
        await self.set("c", "é")
        await self.holds(reader, b=None, c="é")
        self.assertEqual([], reader.messages)

    async def test_beside_messages(self: Any) -> None:
        """Messages and properties come beside each other, each once."""
        reader = await self.started(self.kind, properties=1)
        writer = await self.started(SocketClient)
        for number in range(50):
            await writer.publish(number)
            await writer.tell(type="set", room="lobby", name="n", data=number)
        await reader.count(50)
        await self.holds(reader, n=49)
        self.assertEqual(list(range(50)), reader.data)
        self.assertEqual([], writer.of_type("property"))

    async def test_set(self: Any) -> None:
        """A reader sets a property itself, and is told of it with its key and the position of the reply."""
        reader = await self.started(self.kind, properties=1)
        reply = await reader.tell(type="set", room="lobby", name="a", data=1, key="k")
        self.assertEqual(("set", "lobby", "a"), (reply["type"], reply["room"], reply["name"]))
        await self.holds(reader, a=1)
        (change,) = reader.of_type("property")
        self.assertEqual((reply["position"], "k"), (change["position"], change["key"]))

    async def test_conflated(self: Any) -> None:
        """Of 200 quick changes a reader gets the last of each name, and none twice."""
        reader = await self.started(self.kind, properties=1)
        for number in range(200):
            await self.set(f"n{number % 4}", number)
        await self.holds(reader, n0=196, n1=197, n2=198, n3=199)
        self.assertLess(len(reader.of_type("property")), 150)

    async def test_two_rooms(self: Any) -> None:
        """A reader that didn't ask for properties gets none."""
        reader = await self.started(self.kind)
        await self.set("a", 1)
        await self.set("a", 1, room="other")
        writer = await self.started(SocketClient)
        await writer.publish("end")
        await reader.count(1)
        self.assertEqual({}, reader.properties.values)


class SocketPropertiesTests(PropertiesContract, PropertiesTestCase):
    """Properties on a WebSocket."""

    kind = SocketClient

    async def test_resume(self) -> None:
        """A join with a position brings what has changed since."""
        await self.set("a", 1)
        position = await self.set("b", 1)
        reader = self.client(SocketClient)
        await reader.connect()
        await reader.tell(type="join", room="lobby", properties=True)
        await reader.tell(type="leave", room="lobby")
        await self.set("a")
        joined = await reader.tell(type="join", room="lobby", properties=position)
        self.assertEqual(
            (False, ["a"]), (joined["properties"]["full"], [one["name"] for one in joined["properties"]["values"]])
        )
        self.assertEqual({"b": 1}, reader.properties.values)

    async def test_address(self) -> None:
        """The address of the WebSocket may have a position for each room."""
        position = await self.set("a", 1)
        await self.set("b", 1, room="other")
        reader = self.client(SocketClient)
        await reader.connect(
            [
                ("room", "lobby"),
                ("room", "other"),
                ("room", "plain"),
                *(("properties", text) for text in (position, "1", "")),
            ]
        )
        await reader.until(lambda: len(reader.of_type("joined")) == 3)
        joined = [event.get("properties") for event in reader.of_type("joined")]
        self.assertEqual([False, True, None], [one and one["full"] for one in joined])


class EventPropertiesTests(PropertiesContract, PropertiesTestCase):
    """Properties on an event stream."""

    kind = EventClient

    async def test_last_event_id(self) -> None:
        """A stream goes on from the id that it gave last, in the room and in its properties."""
        await self.set("a", 1)
        await self.set("gone", 1)
        reader = await self.started(EventClient, properties=1)
        writer = await self.started(SocketClient)
        await writer.publish(1)
        await self.set("b", 2)
        await self.holds(reader, a=1, gone=1, b=2)
        await reader.count(1)
        id = reader.stream.last_id
        self.assertRegex(id, r"^lobby=\w+:1,lobby/properties=\w+:3$")
        await reader.close()
        await self.set("gone")
        await self.set("a", 3)
        await writer.publish(2)
        again = self.client(EventClient)
        await again.connect({"room": "lobby", "properties": 1}, f"Last-Event-ID: {id}")
        await again.count(1)
        (joined,) = again.of_type("joined")
        properties = joined["properties"]
        self.assertEqual((False, ["gone", "a"]), (properties["full"], [one["name"] for one in properties["values"]]))
        self.assertEqual(["message"], [event["type"] for event in again.events if event["type"] == "message"])
        self.assertEqual([2], again.data)

    async def test_ids_of_changes(self) -> None:
        """Each change has an id, so that a stream that is cut after it goes on there."""
        reader = await self.started(EventClient, properties=1)
        for number in range(3):
            await self.set("a", number)
            await self.holds(reader, a=number)
            self.assertTrue(reader.stream.last_id.endswith(f"lobby/properties={reader.properties.position}"))

    async def test_several_rooms(self) -> None:
        """A stream reads the properties of some of its rooms."""
        await self.set("a", 1)
        await self.set("b", 1, room="other")
        reader = self.client(EventClient)
        await reader.connect([("room", "lobby"), ("room", "other"), ("properties", ""), ("properties", "1")])
        await reader.until(lambda: len(reader.of_type("joined")) == 2)
        self.assertEqual({"b": 1}, reader.properties.values)

    async def test_slow_stream(self) -> None:
        """A stream that isn't read for a while brings the last value of each name, and nothing is queued for it."""
        reader = await self.started(EventClient, properties=1)
        reader.pause()
        for number in range(3000):
            await self.set(f"n{number % 3}", [number, "x" * 8000])
            if number % 100 == 0:
                await deferLater(reactor, 0.01)
        (session,) = [one for one in self.service.hub.sessions if one.transport is not None]
        self.assertLess(session.transport.queued, 2 * 16 * 1024)
        reader.resume()
        await reader.until(
            lambda: (
                {key: value[0] for key, value in reader.properties.values.items()}
                == {"n0": 2997, "n1": 2998, "n2": 2999}
            )
        )


class PollPropertiesTests(PropertiesContract, PropertiesTestCase):
    """Properties by long poll."""

    kind = PollClient

    def poller(self) -> HTTPClient:
        client = HTTPClient(reactor, self.port)
        self.clients.append(client)
        return client

    async def test_answers(self) -> None:
        """A first poll has all properties; the next one waits; it is answered with what changes."""
        await self.set("a", 1)
        client = self.poller()
        answer = await client.get("poll", room="lobby", properties=1)
        (event,) = [one for one in answer["events"] if one["type"] == "properties"]
        self.assertEqual(
            (True, ["a"], event["position"]),
            (event["full"], [one["name"] for one in event["values"]], answer["properties"]["lobby"]),
        )
        since = answer["positions"]["lobby"]
        waited = await client.get("poll", room="lobby", since=since, properties=event["position"], wait=0)
        self.assertEqual(([], event["position"]), (waited["events"], waited["properties"]["lobby"]))
        position = await self.set("a", 2)
        answer = await client.get("poll", room="lobby", since=since, properties=event["position"])
        self.assertEqual([("property", 2)], [(one["type"], one["data"]) for one in answer["events"]])
        self.assertEqual(position, answer["properties"]["lobby"])

    async def test_without(self) -> None:
        """A poll that reads no properties has none in its answer."""
        await self.set("a", 1)
        answer = await self.poller().get("poll", room="lobby")
        self.assertNotIn("properties", answer)

    async def test_unknown_position(self) -> None:
        """A poll with a position of another log is answered with all properties at once."""
        await self.set("a", 1)
        client = self.poller()
        since = (await client.get("poll", room="lobby"))["positions"]["lobby"]
        answer = await client.get("poll", room="lobby", since=since, properties="zzzz:7")
        self.assertEqual([("properties", True)], [(one["type"], one["full"]) for one in answer["events"]])

    async def test_bad_parameters(self) -> None:
        """What is no position, or not one for each room, is refused."""
        for query, code in (
            ("properties=x", "bad_position"),
            ("properties=1&properties=1", "bad_request"),
            ("room=b&properties=&properties=&properties=", "bad_request"),
        ):
            answer = await self.poller().get(f"poll?room=lobby&{query}")
            self.assertEqual(code, answer["code"], query)

    async def test_script(self) -> None:
        """A script reads and sets properties, too."""
        client = self.poller()
        welcome = await client.tell(type="hello")
        command = quote(json.dumps({"type": "set", "room": "lobby", "name": "a", "data": 1}))
        for path, expected in (
            (f"commands?client={welcome['client']}&commands={command}&callback=f", '"type":"set"'),
            ("poll?room=lobby&properties=1&callback=f", '"type":"properties"'),
        ):
            response = await treq.get(f"http://127.0.0.1:{self.port}/{path}", timeout=DEADLINE, persistent=False)
            text = await response.text()
            self.assertTrue(text.startswith("/**/f("), text)
            self.assertIn(expected, text)


class ResourceTests(PropertiesTestCase):
    """Properties as plain resources."""

    async def request(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.port}/rooms/{path}"
        response = await treq.request(method, url, timeout=DEADLINE, persistent=False, **options)
        return response.code, await response.json()

    async def test_set_read_remove(self) -> None:
        """A property is set by PUT, read by GET, and removed by DELETE."""
        code, put = await self.request("PUT", "lobby/properties/label", json={"data": "Hello", "key": "k"})
        self.assertEqual((200, "set", "lobby", "label"), (code, put["type"], put["room"], put["name"]))
        code, one = await self.request("GET", "lobby/properties/label")
        self.assertEqual(
            (200, "property", "Hello", put["position"], "k"),
            (code, one["type"], one["data"], one["position"], one["key"]),
        )
        code, all = await self.request("GET", "lobby/properties")
        expected = {"room": "lobby", "position": put["position"], "top": put["position"], "full": True, "values": [one]}
        self.assertEqual((200, expected), (code, all))
        code, removed = await self.request("DELETE", "lobby/properties/label")
        self.assertEqual((200, "set"), (code, removed["type"]))
        self.assertEqual(
            (404, "not_found"),
            (lambda code, error: (code, error["code"]))(*await self.request("GET", "lobby/properties/label")),
        )
        _, changed = await self.request("GET", f"lobby/properties?since={put['position']}")
        self.assertEqual((False, ["label"]), (changed["full"], [one["name"] for one in changed["values"]]))

    async def test_names(self) -> None:
        """Any name can stand in the address."""
        for name in ("a b", "a/b", "é", "?", "%", "..", "$x"):
            code, reply = await self.request("PUT", f"lobby/properties/{quote(name, safe='')}", json={"data": name})
            self.assertEqual(400 if name == "$x" else 200, code, name)
            if code == 200:
                self.assertEqual(name, reply["name"])
                _, one = await self.request("GET", f"lobby/properties/{quote(name, safe='')}")
                self.assertEqual(name, one["data"])

    async def test_form(self) -> None:
        """A form sets a text, as for messages."""
        await self.request("PUT", "lobby/properties/a", data={"text": "hi"})
        _, one = await self.request("GET", "lobby/properties/a")
        self.assertEqual({"text": "hi"}, one["data"])

    async def test_refused(self) -> None:
        """What is wrong is said with its status."""
        cases = [
            (400, "bad_request", ("PUT", "lobby/properties/a", {"json": {"key": "k"}})),
            (400, "bad_request", ("PUT", "lobby/properties/a", {"json": {"data": 1, "key": 7}})),
            (400, "bad_request", ("PUT", "lobby/properties/%FF", {"json": {"data": 1}})),
            (413, "too_large", ("PUT", "lobby/properties/a", {"json": {"data": "x" * 16 * 1024}})),
            (400, "bad_room", ("PUT", "a%20b/properties/a", {"json": {"data": 1}})),
            (405, "method_not_allowed", ("POST", "lobby/properties/a", {"json": {"data": 1}})),
            (405, "method_not_allowed", ("PUT", "lobby/properties", {"json": {"data": 1}})),
            (400, "bad_position", ("GET", "lobby/properties?since=x", {})),
            (404, "not_found", ("GET", "lobby/properties/a/b", {})),
        ]
        for status, code, (method, path, options) in cases:
            answer = await self.request(method, path, **options)
            self.assertEqual((status, code), (answer[0], answer[1]["code"]), (method, path))

    async def test_whole_at_once(self) -> None:
        """All properties of a room come in one answer, however many they are."""
        for number in range(60):
            await self.set(f"n{number}", "x" * 16000)
        _, all = await self.request("GET", "lobby/properties")
        self.assertEqual((60, all["top"]), (len(all["values"]), all["position"]))

    async def test_array_of_commands(self) -> None:
        """An array of commands may set properties and publish; the replies come in order."""
        client = HTTPClient(reactor, self.port)
        self.clients.append(client)
        commands = [
            {"type": "set", "room": "lobby", "name": "a", "data": 1},
            {"type": "publish", "room": "lobby", "data": 1},
            {"type": "set", "room": "lobby", "name": "a"},
        ]
        replies = await client.tell_all(commands)
        self.assertEqual(["set", "published", "set"], [reply["type"] for reply in replies])
