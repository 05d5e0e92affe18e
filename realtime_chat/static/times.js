/* Times, in the reader's time zone and the browser's locale. */
(function (Chat) {
  'use strict';

  var DAY = 24 * 60 * 60 * 1000; // milliseconds
  var LOADED = new Date().getTime();
  var LONG = {weekday: 'long', day: 'numeric', month: 'long', year: 'numeric'};

  function pad(number) {
    return (number < 10 ? '0' : '') + number;
  }

  // An invalid time is shown as 1970.
  function dateOf(at) {
    var date = new Date(typeof at === 'number' ? at : NaN);
    return isNaN(date.getTime()) ? new Date(0) : date;
  }

  /** The day of a time, as `2026-11-21`. */
  function dayOf(at) {
    var date = dateOf(at);
    return date.getFullYear() + '-' + pad(date.getMonth() + 1) + '-' + pad(date.getDate());
  }

  function longDay(at) {
    try {
      return dateOf(at).toLocaleDateString([], LONG);
    } catch (error) {
      return dateOf(at).toLocaleDateString();
    }
  }

  /** The name of a day: Today, Yesterday, or its date. */
  function nameOf(at) {
    var now = new Date().getTime(), day = dayOf(at);
    if (day === dayOf(now)) {
      return 'Today';
    }
    return day === dayOf(now - DAY) ? 'Yesterday' : longDay(at);
  }

  /** `14:05`, with the full time as its title and in `datetime`. */
  function makeTime(at) {
    var date = dateOf(at);
    var node = Chat.dom.make('time', 'time', pad(date.getHours()) + ':' + pad(date.getMinutes()));
    node.setAttribute('datetime', date.toISOString());
    node.title = longDay(at) + ', ' + date.toLocaleTimeString();
    return node;
  }

  /** The heading of a day; nameDay() updates its text when a day has passed. */
  function makeDay(at) {
    var item = Chat.dom.make('li', 'day'), node = Chat.dom.make('time');
    node.setAttribute('datetime', dayOf(at));
    node.title = longDay(at);
    item.appendChild(node);
    item.at = at;
    nameDay(item);
    return item;
  }

  function nameDay(item) {
    Chat.dom.setText(item.firstChild, nameOf(item.at));
  }

  /** Milliseconds of a monotonic clock, if there is one, to measure durations. */
  function elapsed() {
    var performance = window.performance;
    return performance && performance.now ? LOADED + performance.now() : new Date().getTime();
  }

  Chat.times = {elapsed: elapsed, dayOf: dayOf, makeTime: makeTime, makeDay: makeDay, nameDay: nameDay};
}(window.Chat = window.Chat || {}));
