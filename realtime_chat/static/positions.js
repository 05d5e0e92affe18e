/* Positions in a room's log: EPOCH:OFFSET. Only offsets of one epoch can be compared. */
(function (Chat) {
  'use strict';

  function split(position) {
    var colon = position.lastIndexOf(':');
    return {epoch: position.slice(0, colon), offset: Number(position.slice(colon + 1))};
  }

  /** Whether `position` follows `other`; a position in another log always does. */
  function isAfter(position, other) {
    var one = split(position), two = split(other || ':');
    return one.epoch !== two.epoch || one.offset > two.offset;
  }

  /** Whether no message can precede it. */
  function isFirst(position) {
    return split(position).offset <= 1;
  }

  Chat.positions = {isAfter: isAfter, isFirst: isFirst};
}(window.Chat = window.Chat || {}));
