  /*
   * Transports. All have the interface of a socket:
   *
   *   new Transport(base)    starts to open; may throw
   *   send(command)          sends an object
   *   close()                closes; nothing is called after it
   *   leave()                closes, and tells the server that the client leaves
   *   onopen(), onmessage(object), onclose(cause)
   *
   * `cause` may have `code` (of a WebSocket), `error` (what the server said), `unreachable` (there was no answer at all)
   * and `unusable` (the server is there, but this transport doesn't get through).
   */
  var transports = {};

  function WebSocketTransport(base) {
    var self = this, socket = this.socket = new window.WebSocket(base.replace(/^http/, 'ws') + 'ws');
    socket.onopen = function () { self.onopen(); };
    socket.onmessage = function (frame) { self.onmessage(parseJson(frame.data) || {}); };
    socket.onclose = function (event) {
      self.close();
      self.onclose({code: event.code});
    };
  }

  WebSocketTransport.works = function () {
    return window.WebSocket;
  };

  WebSocketTransport.prototype.send = function (command) {
    this.socket.send(JSON.stringify(command));
  };

  // Browsers log an error if a socket is closed before it is open.
  WebSocketTransport.prototype.close = function () {
    var socket = this.socket;
    socket.onmessage = socket.onclose = noop;
    socket.onopen = function () { socket.close(); };
    if (socket.readyState === 1) {
      socket.close();
    }
  };

  WebSocketTransport.prototype.leave = WebSocketTransport.prototype.close;

  transports.websocket = WebSocketTransport;
