  var IDENTIFY = 'poll?room=_&since=_:0&wait=0';
  var scripts = 0;

  /**
   * Sends a request by a script element, which may have any origin, and calls us with the response.
   *
   * @param onResponse  called once, with the JSON of the response, or with null if there was none
   * @returns a function that aborts the request; nothing is called after it
   */
  function requestByScript(url, seconds, onResponse) {
    var script = window.document.createElement('script'), name = '_' + (scripts += 1), timer;

    function end(answer) {
      var callback = onResponse;
      cancel(timer);
      onResponse = noop;
      callback(answer || null);
    }

    function finished() {
      delete Realtime[name];
      script.onload = script.onerror = null;
      script.parentNode.removeChild(script);
      end(null);
    }

    Realtime[name] = end;
    script.onload = script.onerror = finished;
    script.src = url + '&callback=Realtime.' + name;
    timer = later(seconds * 4, function () { end(null); }); // there is no progress event
    window.document.getElementsByTagName('head')[0].appendChild(script);
    return function () {
      onResponse = noop;
      end();
    };
  }

  /** Long polling by script elements: for browsers whose XMLHttpRequest only reaches the page's own origin. */
  function JsonpTransport(base) {
    PollTransport.call(this, base);
    this.maxBatchLength = 1200;
  }

  inherit(JsonpTransport, PollTransport);

  // An aborted script keeps its connection until it is answered, and a browser has few of them. So polls are short.
  JsonpTransport.prototype.wait = 4;

  JsonpTransport.works = function () {
    return true;
  };

  // The server accepts commands by GET only from a client that it knows already.
  JsonpTransport.prototype.send = function (command) {
    if (command.type === 'hello') {
      this.client = command.client || null;
      delete command.client;
    }
    PollTransport.prototype.send.call(this, command);
  };

  JsonpTransport.prototype.request = function (path, query, body, seconds, onResponse) {
    var self = this, abort = noop, asked = body ? query.concat('commands=' + encodeURIComponent(body)) : query;

    function perform() {
      abort = requestByScript(self.urlFor(path, asked, self.address()), seconds, function (answer) {
        if (body && answer && answer.code === 'unauthorized') {
          identify();
        } else {
          onResponse(answer);
        }
      });
    }

    // A poll of a position that can't exist returns at once, with a new client and no events.
    function identify() {
      abort = requestByScript(self.base + IDENTIFY, seconds, function (answer) {
        if (answer && answer.client) {
          self.client = answer.client;
          perform();
        } else {
          onResponse(answer);
        }
      });
    }

    if (body && this.urlFor(path, asked, this.address()).length > MAX_LINE_LENGTH) {
      later(0, function () { onResponse(tooLargeError()); });
    } else {
      (self.client ? perform : identify)();
    }
    return function () { abort(); };
  };

  JsonpTransport.prototype.beacon = function (text) {
    new window.Image().src =
      this.urlFor('commands', ['callback=f', 'commands=' + encodeURIComponent(text)], this.address());
  };

  transports.jsonp = JsonpTransport;
