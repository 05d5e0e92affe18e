  function byId(one, other) {
    return one.id < other.id ? -1 : 1;
  }

  function indexById(members) {
    var found = emptyMap();
    members.forEach(function (member) { found[member.id] = member; });
    return found;
  }

  /** The `members` that are not among `others`. */
  function difference(members, others) {
    var known = indexById(others);
    return members.filter(function (member) { return !known[member.id]; });
  }

  /**
   * Applies a presence event to a room. Returns what `$presence` gives the page. The event has all members, or those
   * who joined (or changed) and left, or only the count.
   */
  function applyPresence(room, event) {
    var before = room.members, after = event.members;
    if (!after && room.membersKnown && (event.joined || event.left)) {
      after = difference(before, (event.joined || []).concat(event.left || [])).concat(event.joined || []);
    }
    room.count = event.count || 0;
    room.membersKnown = !!after;
    room.members = (after || []).slice().sort(byId);
    return {
      count: room.count,
      members: room.members,
      joined: after ? difference(room.members, before) : [],
      left: after ? difference(before, room.members) : [],
      changed: after && event.joined ? difference(event.joined, difference(event.joined, before)) : []
    };
  }
