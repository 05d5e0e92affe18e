// Publish to a room through Redis: node redis_publish.js redis://127.0.0.1/0 ROOM TEXT KEY
const { createClient } = require("redis");

const SCOPE = "realtime:0"; // --store-prefix, and the number of the database

// Store a message and send it to everybody in the room. With the same key it is stored only once.
// Returns the message's position.
async function publish(client, room, data, key, event = "message") {
  const keys = [`${SCOPE}:log`, `${SCOPE}:stream:${room}`, `${SCOPE}:keys:${room}`];
  const script = await client.hGet(keys[0], "append");
  if (!script) throw new Error(`no daemon has used ${SCOPE} yet`);
  const words = [event, "shop", "The web shop", JSON.stringify(data), key];
  const [, position] = await client.evalSha(script, { keys, arguments: words });
  return position;
}

async function main(url, room, text, key) {
  const client = await createClient({ url })
    .on("error", (error) => console.error(error.message))
    .connect();
  console.log(await publish(client, room, { text }, key));
  await client.publish(`realtime:relay:${room}`, JSON.stringify({ progress: 100 }));
  await client.close();
}

main(...process.argv.slice(2));
