  var SHORTEST_DELAY = 0.5;
  var LONGEST_DELAY = 20;

  /** Seconds to wait after some failed attempts: full jitter, so that clients that were cut off together spread out. */
  function backoffDelay(attempts) {
    return SHORTEST_DELAY + Math.random() * (Math.min(LONGEST_DELAY, Math.pow(2, attempts)) - SHORTEST_DELAY);
  }
