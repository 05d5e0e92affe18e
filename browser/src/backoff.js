  var SHORTEST_DELAY = 0.5;
  var LONGEST_DELAY = 20;

  /**
   * How long to wait before the next attempt, after so many that failed: full jitter, so that those whom a server lost
   * at one moment don't all come back at one moment.
   */
  function backOff(attempts) {
    return SHORTEST_DELAY + Math.random() * (Math.min(LONGEST_DELAY, Math.pow(2, attempts)) - SHORTEST_DELAY);
  }
