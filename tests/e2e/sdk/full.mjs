// All that the stock SDK can do here, over one of its transports. Prints a line for each thing that worked; where the
// server has to do something, it asks for that by a line with `want`.
//
//   node full.mjs websocket|http_stream|sse http://127.0.0.1:8000 SECRET

import { next, open, say, shown, token } from "./transports.mjs";

const [transport, base, secret] = process.argv.slice(2);
const want = (what, fields = {}) => say("want", { want: what, ...fields });
let tokens = 0;
const getToken = async () => {
  tokens += 1;
  return token(secret, "ada", 2);
};
const ada = open(transport, base, shown(transport, "ada", { getToken }));
const served = next(ada, "subscribed");
const connected = next(ada, "connected");
ada.on("error", (context) => say("error", { error: context.error }));
ada.connect();
const { client, transport: used } = await connected;
say("connected", { transport: used, client });
const { channel, streamPosition } = await served;
say("served", { channel, streamPosition });

const room = ada.newSubscription("chat:full", { joinLeave: true });
const own = next(room, "join");
room.subscribe();
say("subscribed", await room.ready().then(() => ({ state: room.state })));
say("own join", { user: (await own).info.user });
const ben = open(transport, base, shown(transport, "ben", { token: token(secret, "ben", 60) }));
const joined = next(room, "join");
ben.newSubscription("chat:full").subscribe();
ben.connect();
say("join", { user: (await joined).info.user, info: (await joined).info.connInfo });
const { clients } = await room.presence();
say("presence", { users: Object.values(clients).map(({ user }) => user).sort() });
say("presence stats", await room.presenceStats());
const left = next(room, "leave");
ben.disconnect();
say("leave", { user: (await left).info.user });

const heard = next(room, "publication");
await room.publish({ text: "hello" });
const { data, offset, info } = await heard;
say("publish", { data, offset, user: info.user, info: info.connInfo });

const news = ada.newSubscription("public:full");
news.subscribe();
await news.ready();
const published = next(news, "publication");
want("publish", { channel: "public:full" });
say("publication", (({ data, offset, tags }) => ({ data, offset, tags }))(await published));
say("history", await news.history({ limit: 0 }).then(({ offset, publications }) => ({ offset, publications })));
say("no history", await news.history({ limit: 10 }).catch(({ code }) => ({ code })));
say("rpc", (await ada.rpc("who", { n: 1 })).data);
await ada.send({ sent: transport });
say("send", { said: (await ada.rpc("said", null)).data.at(-1) });
const closed = ada.newSubscription("closed");
closed.subscribe();
say("refused", { code: (await next(closed, "unsubscribed")).code });
news.unsubscribe();
await ada.rpc("who", null); // when it is answered, so is the unsubscribe
want("nobody", { channel: "public:full" });

const message = next(ada, "message");
want("message", { user: "ada" });
say("message", { data: (await message).data });
const begun = next(ada, "subscribed");
want("subscribe", { user: "ada", channel: "closed-too" });
say("served later", { channel: (await begun).channel });
const ended = next(ada, "unsubscribed");
want("unsubscribe", { user: "ada", channel: "closed-too" });
say("served no more", { channel: (await ended).channel });
while (transport !== "sse" && tokens < 3) await new Promise((resolve) => setTimeout(resolve, 50));
say("refreshed", { state: ada.state });
const gone = next(ada, "disconnected");
want("disconnect", { user: "ada" });
say("disconnected", await gone);
process.exit(0);
