// The stock SDK, unmodified, continues from the position at which its page's data was read: by `since`, and by
// `getState`. Prints a JSON line for each subscription, and ends when all three are subscribed.
//
//   node since.mjs ws://127.0.0.1:8000/connection/websocket '{"epoch": "…", "offset": 1}' '{"epoch": "…", "offset": 3}' news
//
// The first position is that of the data, the second is where the channel is now.

import { Centrifuge } from "centrifuge";
import WebSocket from "ws";

const [url, read, now, channel] = process.argv.slice(2);
let states = 0;
const ways = {
  missed: { since: JSON.parse(read) },
  complete: { since: JSON.parse(now) },
  state: { getState: async () => ((states += 1), JSON.parse(read)) },
};
for (const [way, options] of Object.entries(ways)) {
  const client = new Centrifuge(url, { websocket: WebSocket });
  const subscription = client.newSubscription(channel, options);
  subscription.on("subscribed", ({ wasRecovering, recovered, streamPosition }) => {
    console.log(JSON.stringify({ way, wasRecovering, recovered, streamPosition, states: way === "state" ? states : 0 }));
    client.disconnect();
  });
  subscription.subscribe();
  client.connect();
}
