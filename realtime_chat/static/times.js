/* Times, in the reader's own zone and in the way that the reader's browser writes them. */
(function (Chat) {
  'use strict';

  var DAY = 24 * 60 * 60 * 1000; // milliseconds
  var LOADED = new Date().getTime();
  var LONG = {weekday: 'long', day: 'numeric', month: 'long', year: 'numeric'};

  function two(number) {
    return (number < 10 ? '0' : '') + number;
  }

  // What is no time that a calendar has is the beginning of all of them.
  function dateOf(at) {
    var date = new Date(typeof at === 'number' ? at : NaN);
    return isNaN(date.getTime()) ? new Date(0) : date;
  }

  /** The day of a time, as `2026-11-21`. */
  function dayOf(at) {
    var date = dateOf(at);
    return date.getFullYear() + '-' + two(date.getMonth() + 1) + '-' + two(date.getDate());
  }

  function longDay(at) {
    try {
      return dateOf(at).toLocaleDateString([], LONG);
    } catch (error) {
      return dateOf(at).toLocaleDateString();
    }
  }

  /** A day as people call it. */
  function nameOf(at) {
    var now = new Date().getTime(), day = dayOf(at);
    if (day === dayOf(now)) {
      return 'Today';
    }
    return day === dayOf(now - DAY) ? 'Yesterday' : longDay(at);
  }

  /** `14:05`, with all of it for those who point at it, and for programs. */
  function makeTime(at) {
    var date = dateOf(at);
    var node = Chat.dom.make('time', 'time', two(date.getHours()) + ':' + two(date.getMinutes()));
    node.setAttribute('datetime', date.toISOString());
    node.title = longDay(at) + ', ' + date.toLocaleTimeString();
    return node;
  }

  /** What stands between two days; nameDay() writes its text, again when a day has passed. */
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

  /** Milliseconds for how long something takes; of a clock that can't be set, where there is one. */
  function elapsed() {
    var performance = window.performance;
    return performance && performance.now ? LOADED + performance.now() : new Date().getTime();
  }

  Chat.times = {elapsed: elapsed, dayOf: dayOf, makeTime: makeTime, makeDay: makeDay, nameDay: nameDay};
}(window.Chat = window.Chat || {}));
