  /*
   * Transports. Each is to its user what a socket is:
   *
   *   new Transport(base)    starts to open; may throw
   *   send(command), close() a command is an object; nothing is called after close()
   *   leave()                close(), as the page goes or has had enough
   *   onopen(), onmessage(object), onclose(why)
   *
   * `why` may have `code` (of a WebSocket), `error` (what the server said), `unreachable` (there was no answer at all),
   * and `unfit`: the server is there, but this transport doesn't get through.
   */
  var transports = {};

  function Socket(base) {
    var self = this, socket = this.socket = new window.WebSocket(base.replace(/^http/, 'ws') + 'ws');
    socket.onopen = function () { self.onopen(); };
    socket.onmessage = function (frame) { self.onmessage(readObject(frame.data) || {}); };
    socket.onclose = function (event) {
      self.close();
      self.onclose({code: event.code});
    };
  }

  Socket.works = function () {
    return window.WebSocket;
  };

  Socket.prototype.send = function (command) {
    this.socket.send(JSON.stringify(command));
  };

  // Browsers complain when one is closed that isn't open yet.
  Socket.prototype.close = function () {
    var socket = this.socket;
    socket.onmessage = socket.onclose = noop;
    socket.onopen = function () { socket.close(); };
    if (socket.readyState === 1) {
      socket.close();
    }
  };

  Socket.prototype.leave = Socket.prototype.close;

  transports.websocket = Socket;
