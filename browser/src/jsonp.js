  var NOWHERE = 'poll?room=_&since=_:0&wait=0';
  var scripts = 0;

  /**
   * Asks by a script element, which may be of any origin and answers by calling us.
   *
   * @param answered  called once, with the JSON that was answered, or null where there was no answer
   * @returns a function that gives up, after which nothing is called
   */
  function askByScript(url, seconds, answered) {
    var script = window.document.createElement('script'), name = '_' + (scripts += 1), timer;

    function end(answer) {
      var tell = answered;
      cancel(timer);
      answered = noop;
      tell(answer || null);
    }

    function gone() {
      delete Realtime[name];
      script.onload = script.onerror = null;
      script.parentNode.removeChild(script);
      end(null);
    }

    Realtime[name] = end;
    script.onload = script.onerror = gone;
    script.src = url + '&callback=Realtime.' + name;
    timer = later(seconds * 4, function () { end(null); }); // no progress is seen
    window.document.getElementsByTagName('head')[0].appendChild(script);
    return function () {
      answered = noop;
      end();
    };
  }

  /** Long polls, and commands, by script elements: for browsers that let a page ask its own origin alone. */
  function Jsonp(base) {
    Poll.call(this, base);
    this.longest = 1200;
  }

  inherit(Jsonp, Poll);

  // One that was given up goes on waiting, and a browser has few connections to one host.
  Jsonp.prototype.wait = 4;

  Jsonp.works = function () {
    return true;
  };

  // Commands are taken only of a client that the server knows.
  Jsonp.prototype.send = function (command) {
    if (command.type === 'hello') {
      this.client = command.client || null;
      delete command.client;
    }
    Poll.prototype.send.call(this, command);
  };

  Jsonp.prototype.request = function (path, query, body, seconds, answered) {
    var self = this, giveUp = noop, asked = body ? query.concat('commands=' + encodeURIComponent(body)) : query;

    function perform() {
      giveUp = askByScript(self.address(path, asked, self.client), seconds, function (answer) {
        if (body && answer && answer.code === 'unauthorized') {
          introduce();
        } else {
          answered(answer);
        }
      });
    }

    // A poll that begins at a place that isn't there brings nothing but a client.
    function introduce() {
      giveUp = askByScript(self.base + NOWHERE, seconds, function (answer) {
        if (answer && answer.client) {
          self.client = answer.client;
          perform();
        } else {
          answered(answer);
        }
      });
    }

    if (body && this.address(path, asked, this.client).length > LONGEST_LINE) {
      later(0, function () { answered(tooLarge()); });
    } else {
      (self.client ? perform : introduce)();
    }
    return function () { giveUp(); };
  };

  Jsonp.prototype.bid = function (text) {
    new window.Image().src = this.address('commands', ['callback=f', 'commands=' + encodeURIComponent(text)], this.client);
  };

  transports.jsonp = Jsonp;
