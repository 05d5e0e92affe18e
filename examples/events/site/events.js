/* Events between the parts of a page, its tabs, and iframes of other origins. A page pushes functions to `ready`, before
   this script has loaded or after that. Each is called with an object:

   bind(name, fn)          calls fn(data) for each event of the name; at once, if there was a persistent one
   trigger(name, data)     for all who are bound now
   persistent(name, data)  also for all who bind later: the last event of each name is kept */
(function (options) {
  const bound = new Map(), kept = new Map(), links = new Set();
  const page = Math.random().toString(36).slice(2);
  let count = 0;

  function bind(name, fn) {
    bound.set(name, [...(bound.get(name) || []), fn]);
    if (kept.has(name)) fn(kept.get(name).data);
  }

  /** An event from here (without a link), or by a link: call who is bound, and pass it on by all other links. */
  function arrive(event, by) {
    const {id, name, data, persistent} = event;
    if (persistent && kept.get(name)?.id === id) return; // it is the one that we have
    if (persistent) kept.set(name, event);
    (bound.get(name) || []).forEach((fn) => fn(data));
    links.forEach((link) => { if (link !== by) link(event); });
  }

  function emit(name, data, persistent) {
    count += 1;
    arrive({id: page + count, name, data, persistent});
  }

  /** A link that keeps what is sent until it is open. */
  function makeLink() {
    const waiting = [];
    let send = (event) => waiting.push(event);
    const link = (event) => send(event);
    link.open = (to) => {
      send = to;
      waiting.splice(0).forEach(to);
    };
    links.add(link);
    return link;
  }

  /** Link this page with all others: an event is a message of a room, and a persistent one a property. */
  function linkRoom(daemon) {
    const link = makeLink(), sent = new Set(), script = document.createElement('script');
    script.src = `${daemon}realtime.js`;
    script.onload = () => {
      const room = Realtime.connect(daemon).room('events', {last: 0, properties: true});
      room.on('*', (content, {event, signal}) => { // what this page has sent comes back, too
        if (!signal && content && !sent.delete(content.id)) arrive({...content, name: event, persistent: false}, link);
      });
      room.on('$property', ({name, data}) => {
        if (data) arrive({...data, name, persistent: true}, link);
      });
      link.open(({id, name, data, persistent}) => {
        if (persistent) return void room.set(name, {id, data});
        sent.add(id);
        room.publish(name, {id, data});
      });
    };
    document.head.append(script);
  }

  /** Link with iframes, if their origins are listed. Each gets the persistent events when it says hello. */
  function linkFrames(origins) {
    const frames = new Map();
    window.addEventListener('message', ({source, origin, data}) => {
      if (!origins.includes(origin) || !data || !data.events) return;
      if (data.events !== 'hello') return void arrive(data.events, frames.get(source));
      links.delete(frames.get(source)); // the iframe may have gone to another page
      const link = (event) => source.closed ? links.delete(link) : source.postMessage({events: event}, origin);
      frames.set(source, link);
      links.add(link);
      link('hello');
      kept.forEach((event) => link(event));
    });
  }

  /** Link this iframe with the page around it, if that has the right origin. */
  function linkParent(origin) {
    const link = makeLink();
    const hello = setInterval(() => parent.postMessage({events: 'hello'}, origin), 200); // until that page is ready
    window.addEventListener('message', (message) => {
      if (message.source !== parent || message.origin !== origin || !message.data.events) return;
      clearInterval(hello);
      link.open((event) => parent.postMessage({events: event}, origin));
      if (message.data.events !== 'hello') arrive(message.data.events, link);
    });
  }

  if (options.daemon) linkRoom(options.daemon);
  if (options.frames) linkFrames(options.frames.split(' '));
  if (options.parent) linkParent(options.parent);

  const events = {
    bind,
    trigger: (name, data) => emit(name, data, false),
    persistent: (name, data) => emit(name, data, true),
  };
  const early = window.ready || [];
  window.ready = {push: (fn) => fn(events)};
  early.forEach(window.ready.push);
}(document.currentScript.dataset));
