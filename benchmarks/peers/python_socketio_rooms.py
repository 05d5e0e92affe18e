"""python-socketio on uvicorn with uvloop: rooms, as its documentation shows them. python_socketio_rooms.py PORT"""

import sys

import socketio
import uvicorn

sio = socketio.AsyncServer(async_mode="asgi")
app = socketio.ASGIApp(sio)


@sio.event
async def join(sid, room):
    await sio.enter_room(sid, room)
    await sio.emit("joined", to=sid)


@sio.event
async def message(sid, room, text):
    await sio.emit("message", text, room=room)


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop", log_level="warning")
