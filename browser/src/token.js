  /*
   * Who we are: gets a token from the page or from its site, says hello with it, and renews it. A site is asked when a
   * page begins, when a token gets old, and when the server takes our client no longer; never to connect again.
   */

  var TOKEN_WITHIN = 15;
  var RENEW_AFTER = 0.8; // of a token's life
  var SHORTEST_LIFE = 10;
  var LONGEST_LIFE = 1000000; // a browser's timers can't be longer than 24 days

  /** Asks for a token, and calls back once: with an error, or with a token, or with neither for a guest. */
  function askForToken(settings, onToken) {
    var token = settings.token, timer = later(TOKEN_WITHIN, function () { end(noTokenError('nothing', 0)); }), result;

    function end(error, found) {
      var callback = onToken;
      cancel(timer);
      onToken = noop;
      callback(error, found);
    }

    function failed(error) {
      end(noTokenError(error && error.message, error && (error.code === 'unauthorized' ? 401 : error.status)));
    }

    function ended(error, found) {
      (error ? failed : end)(error, found);
    }

    try {
      if (settings.tokenUrl) {
        fetchToken(settings.tokenUrl, end);
      } else {
        result = typeof token === 'function' ? token(ended) : token;
        if (result && result.then) {
          result.then(ended.bind(null, null), failed);
        } else if (result !== undefined) {
          end(null, result);
        }
      }
    } catch (error) {
      failed(error);
    }
  }

  /** Fetches a token from the page's site, which knows the visitor by its cookies. */
  function fetchToken(url, end) {
    var xhr = new window.XMLHttpRequest();
    xhr.open('GET', url);
    xhr.withCredentials = true;
    xhr.onreadystatechange = function () {
      var answer = parseJson(xhr.responseText) || {}, status = xhr.status, error;
      if (xhr.readyState === 4 && (status === 204 || (status === 200 && typeof answer.token === 'string'))) {
        end(null, answer.token);
      } else if (xhr.readyState === 4) {
        error = noTokenError(status || 'nothing', status);
        error.after = status && +xhr.getResponseHeader('Retry-After');
        end(error);
      }
    };
    xhr.send();
  }

  function noTokenError(answer, status) {
    var refused = status === 401 || status === 403;
    return makeError(refused ? 'unauthorized' : 'no_token',
      'No token: ' + answer + '. Right is {"token": "…"}, or 204 for a guest.', !refused);
  }

  /** How many seconds a token lives by its site's clock; NaN if it doesn't say. */
  function lifeOf(token) {
    try {
      token = JSON.parse(window.atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/')));
      return token.exp - token.iat;
    } catch (error) {
      return NaN;
    }
  }

  /**
   * Gets a token for use(token). After an error that lasts, the connection stops; after another one, failed(error) is
   * called. Who calls while a token is awaited gets that one, in place of the earlier caller.
   */
  Connection.prototype.getToken = function (use, failed) {
    var self = this;
    this.useToken = use;
    this.tokenFailed = failed;
    if (!this.isAsking) {
      this.isAsking = true;
      askForToken(this.settings, function (error, token) {
        self.isAsking = false;
        if (self.state === 'closed') {
          noop();
        } else if (!error) {
          self.needsToken = self.renewalDue = false;
          self.useToken(token);
        } else if (error.temporary) {
          if (!self.tokenWarned) {
            self.tokenWarned = true;
            window.console.warn(error.message);
          }
          self.tokenFailed(error);
        } else {
          self.unauthorized(error);
        }
      });
    }
  };

  /** Calls action() when we have a token, if we need one to connect. */
  Connection.prototype.withToken = function (action) {
    var self = this;
    if (this.needsToken) {
      this.getToken(function (token) {
        self.keepToken(token);
        action();
      }, function (error) { self.retryLater(error.after, error); });
    } else {
      action();
    }
  };

  // A client is kept beside a token if it is a user's, as it may be the same user. A guest has no user's client.
  Connection.prototype.keepToken = function (token) {
    this.token = token;
    if (!token === this.isUser) {
      this.saveClient(null);
    }
  };

  /** The server has welcomed us. Returns whether we are somebody else now, and were a user, or are one. */
  Connection.prototype.welcomed = function (welcome) {
    var before = this.user, user = welcome.user, token = this.token;
    var isOther = before && before.id !== user.id && !(before.guest && user.guest);
    this.token = null;
    this.saveClient(welcome.client, user.guest === false);
    if (token && typeof this.settings.token !== 'string') {
      this.renewLater(RENEW_AFTER * Math.min(LONGEST_LIFE, Math.max(SHORTEST_LIFE,
        lifeOf(token) || (welcome.expires - Date.now()) / 1000 || LONGEST_LIFE)));
    }
    if (!isOther) {
      this.user = user;
      if (JSON.stringify(before) !== JSON.stringify(user)) {
        this.emit('identity', user);
      }
    }
    return isOther;
  };

  Connection.prototype.saveClient = function (client, isUser) {
    this.client = client;
    this.isUser = !!isUser;
    this.clientStorage.set('client ' + this.base, client);
    this.clientStorage.set('user ' + this.base, isUser && '1');
  };

  Connection.prototype.renewLater = function (seconds) {
    cancel(this.renewTimer);
    this.renewTimer = later(seconds, this.renew.bind(this));
  };

  /** Asks for a new token now; without a connection, when there is one. */
  Connection.prototype.renew = function () {
    this.renewalDue = this.hasTokens && !this.link;
    if (this.hasTokens && this.link) {
      this.getToken(this.sendToken.bind(this), this.renewFailed.bind(this));
    }
  };

  Connection.prototype.renewFailed = function (error) {
    this.token = null;
    this.renewLater((error.after || 0) + backoffDelay(this.renewFailures += 1));
  };

  // Only the same user can be renewed on a connection. For anybody else, all begins anew.
  Connection.prototype.sendToken = function (token) {
    var link = this.link, wasUser = this.isUser;
    this.keepToken(token);
    if (link && token && wasUser) {
      link.request({type: 'hello', v: 1, token: token}, this.tokenAnswered.bind(this));
    } else if (link && (token || wasUser)) {
      this.startOver();
    }
  };

  Connection.prototype.tokenAnswered = function (reply) {
    var link = this.link;
    if (reply.type === 'welcome') {
      this.renewFailures = 0;
      this.welcomed(reply);
      this.eachRoom(function (room) {
        if (room.lastError) {
          room.joinOn(link);
        }
      });
    } else if (reply.code === 'forbidden') {
      this.saveClient(null);
      this.startOver();
    } else if (reply.temporary || this.isNewlyExpired(reply)) {
      this.renewFailed(reply);
    } else {
      this.unauthorized(toError(reply));
    }
  };

  /** Whether another token may be better than this one. A site that gives the same one again gives no better one. */
  Connection.prototype.isNewlyExpired = function (error) {
    var isNew = isExpired(error) && this.token !== this.expiredToken;
    this.expiredToken = this.token;
    return isNew;
  };

  function isExpired(error) {
    return (error.reason || error.code) === 'token_expired';
  }

  /** The server has refused our token or our client. Returns false if the error is about something else. */
  Connection.prototype.isIdentityRefused = function (error) {
    return isExpired(error) || error.code === 'unauthorized' || (error.code === 'forbidden' && !!this.token);
  };

  Connection.prototype.identityRefused = function (error, reason) {
    if (this.token && this.client) {
      this.saveClient(null); // the token may be another user's, or the client may be expired
      this.retry();
    } else if (this.token ? this.isNewlyExpired(error) : this.hasTokens) {
      this.token = null;
      this.needsToken = true;
      if (!this.isUser) {
        this.saveClient(null);
      }
      this.retryLater(error.after, reason);
    } else if (!this.token && this.client && !this.settings.client) {
      this.saveClient(null);
      this.retryLater(0, reason);
    } else {
      this.unauthorized(reason);
    }
  };

  Connection.prototype.unauthorized = function (error) {
    this.stop(error);
    this.saveClient(null);
    this.emit('unauthorized', error);
  };

  /** We are somebody else: drops all that we hold, and begins anew. */
  Connection.prototype.startOver = function () {
    this._drop();
    this.endQueries();
    this.eachRoom(function (room) { room.forget(); });
    this.user = null;
    this.attempts = 0;
    this.retry();
  };
