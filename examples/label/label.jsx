// A label that all pages share: a component of React whose text is a property of a room.
import {StrictMode, useEffect, useRef, useState} from 'react';
import {createRoot} from 'react-dom/client';

const room = window.Realtime.connect().room('label', {properties: true});

/** The present value of a property of the room, what sets it, and how often others have changed it. */
function useProperty(name, initial) {
  const [{value, count}, setState] = useState({value: initial, count: 0});
  const isMine = useRef(false); // whether we have set it last: then our own change brings nothing new
  useEffect(() => {
    const onProperty = (property) => {
      if (property.name === name && !(property.own && isMine.current)) {
        isMine.current = false;
        setState((before) => ({value: property.data ?? initial, count: before.count + 1}));
      }
    };
    room.on('$property', onProperty);
    return () => room.off('$property', onProperty);
  }, [name, initial]);
  const set = (next) => {
    isMine.current = true;
    setState((before) => ({...before, value: next}));
    room.set(name, next); // while one value is on its way, only the last one of the others is sent
  };
  return [value, set, count];
}

function Label() {
  const [text, setText, count] = useProperty('text', '');
  return (
    <>
      <label>
        Everybody sees what you type:
        <input value={text} onChange={(change) => setText(change.target.value)} />
      </label>
      <output>{text || 'Nobody has written anything yet.'}</output>
      <p id="status" role="status">Changes by others that you saw: {count}</p>
    </>
  );
}

createRoot(document.getElementById('root')).render(<StrictMode><Label /></StrictMode>);
