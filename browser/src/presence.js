  function byId(one, other) {
    return one.id < other.id ? -1 : 1;
  }

  function index(members) {
    var found = table();
    members.forEach(function (member) { found[member.id] = member; });
    return found;
  }

  /** Those of `members` that aren't among `others`. */
  function without(members, others) {
    var known = index(others);
    return members.filter(function (member) { return !known[member.id]; });
  }

  /**
   * Puts what an event tells of presence into a room, and gives what `$presence` tells the page. An event has all
   * members, or those who joined (or changed) and left, or the number alone.
   */
  function applyPresence(room, event) {
    var before = room.members, after = event.members;
    if (!after && room.membersKnown && (event.joined || event.left)) {
      after = without(before, (event.joined || []).concat(event.left || [])).concat(event.joined || []);
    }
    room.count = event.count;
    room.membersKnown = !!after;
    room.members = (after || []).slice().sort(byId);
    return {
      count: room.count,
      members: room.members,
      joined: after ? without(room.members, before) : [],
      left: after ? without(before, room.members) : [],
      changed: after && event.joined ? without(event.joined, without(event.joined, before)) : []
    };
  }
