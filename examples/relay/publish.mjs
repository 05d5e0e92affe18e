// Publish news from Node: publish.mjs TITLE
import {createClient} from 'redis';

const client = await createClient({url: 'redis://127.0.0.1/0'}).connect();
await client.publish('socketio_news', JSON.stringify({title: process.argv[2], by: 'Node'}));
await client.close();
