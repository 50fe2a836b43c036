/** Who is there: what client.js knows of a channel's members, and when it asks again. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Roster } from "../../../realtime/static/realtime/client.js";
import { next, start } from "./support.mjs";

const ada = { user: "ada", client: "a1", info: { name: "Ada" }, channelInfo: null };
const tab = { user: "ada", client: "a2", info: { name: "Ada" }, channelInfo: null };
const guest = { user: "", client: "g1", info: null, channelInfo: null };
const other = { user: "", client: "g2", info: null, channelInfo: null };

function listed(...members) {
  return new Map(members.map((member) => [member.client, member]));
}

describe("a roster", () => {
  test("it counts a user with two tabs once, and each guest", () => {
    const roster = new Roster();
    roster.expectList();
    roster.replaceMembers(listed(ada, guest, tab, other));
    assert.deepEqual(roster.people.map(({ user, clients }) => [user, clients]), [
      ["ada", ["a1", "a2"]],
      ["", ["g1"]],
      ["", ["g2"]],
    ]);
    assert.deepEqual(roster.presence, { clients: 4, users: 2, complete: true });
    roster.removeMember(tab);
    assert.deepEqual(roster.presence, { clients: 3, users: 2, complete: true });
  });

  test("it applies joins and leaves that arrived before the list", () => {
    const roster = new Roster();
    roster.expectList();
    roster.addMember(guest);
    roster.removeMember(ada);
    roster.replaceMembers(listed(ada, tab)); // older than the leave
    assert.deepEqual([...roster.people.flatMap(({ clients }) => clients)], ["a2", "g1"]);
  });

  test("it is incomplete after joins without names", () => {
    const roster = new Roster();
    roster.expectList();
    roster.replaceMembers(listed(ada));
    roster.updateCount({ clients: 900, users: 900 }, false);
    assert.deepEqual(roster.presence, { clients: 900, users: 900, complete: false });
    roster.expectList();
    roster.replaceMembers(listed(ada, guest));
    assert.deepEqual(roster.presence, { clients: 2, users: 2, complete: true });
    roster.discardList();
    assert.equal(roster.presence.complete, false);
  });

  test("it counts the joins and leaves of a channel whose members it does not know", () => {
    const roster = new Roster();
    roster.updateCount({ clients: 1500, users: 1500 }, false);
    roster.addMember(ada);
    assert.deepEqual(roster.presence, { clients: 1501, users: 1500, complete: false });
    roster.removeMember(ada);
    roster.removeMember(guest);
    assert.deepEqual(roster.presence, { clients: 1499, users: 1499, complete: false });
  });

  test("it keeps at most 1,000 names of a channel whose members it does not know", () => {
    const roster = new Roster();
    roster.updateCount({ clients: 5000, users: 5000 }, false);
    for (let n = 0; n < 3000; n += 1) roster.addMember({ ...ada, user: `u${n}`, client: `c${n}` });
    assert.equal(roster.people.length, 1000);
    assert.equal(roster.presence.clients, 8000);
  });

  test("it keeps the number of a list that it trusts no longer", () => {
    const roster = new Roster();
    roster.updateCount({ clients: 900, users: 900 }, false);
    roster.expectList();
    roster.replaceMembers(listed(ada, guest));
    roster.discardList();
    assert.deepEqual(roster.presence, { clients: 2, users: 2, complete: false });
  });

  test("it keeps at most 10,000 joins while it waits for the list", () => {
    const roster = new Roster();
    roster.expectList();
    for (let n = 0; n < 20_000; n += 1) roster.addMember({ ...guest, client: `g${n}` });
    roster.replaceMembers(listed());
    assert.equal(roster.presence.clients, 10_000);
  });
});

function shown({ user, client, info }) {
  return { user, client, ...(info ? { conn_info: info } : {}) };
}

/** A connection that wants to know who is in the lobby, where the server says that these are. */
async function watching(t, members, options = {}) {
  const { server, open } = await start(t, options);
  server.members = members;
  server.asked = 0;
  server.override = ({ id, presence }) => {
    if (!presence) return null;
    server.asked += 1;
    return server.refusal
      ? { id, error: server.refusal }
      : { id, presence: { presence: Object.fromEntries(server.members.map((one) => [one.client, shown(one)])) } };
  };
  const live = open();
  const lobby = live.subscribe("chat:lobby", { presence: true });
  return { server, live, lobby, peer: await server.peers.take() };
}

describe("a subscription with presence", () => {
  test("it asks for joins and leaves, then for the members", async (t) => {
    const { lobby, peer } = await watching(t, [ada, guest]);
    const frame = await peer.frameWith("subscribe");
    assert.equal(frame.find(({ subscribe }) => subscribe).subscribe.join_leave, true);
    assert.deepEqual(await next(lobby, "presence"), { channel: "chat:lobby", clients: 2, users: 2, complete: true });
    assert.deepEqual(lobby.people[0], { user: "ada", info: { name: "Ada" }, clients: ["a1"] });
  });

  test("it reports who joins and who leaves", async (t) => {
    const { lobby, peer } = await watching(t, [ada]);
    await next(lobby, "presence");
    peer.send({ push: { channel: "chat:lobby", join: { info: shown(tab) } } });
    assert.deepEqual(await next(lobby, "join"), tab);
    assert.equal(lobby.people.length, 1);
    peer.send({ push: { channel: "chat:lobby", leave: { info: shown(ada) } } });
    assert.deepEqual(await next(lobby, "leave"), ada);
    assert.deepEqual(lobby.people[0].clients, ["a2"]);
  });

  test("it asks again after joins without names", async (t) => {
    const { server, lobby, peer } = await watching(t, [ada]);
    await next(lobby, "presence");
    server.members = [ada, guest];
    peer.send({ push: { channel: "chat:lobby", presence: { num_clients: 2, num_users: 2, untold: null } } });
    assert.deepEqual(await next(lobby, "presence"), { channel: "chat:lobby", clients: 2, users: 2, complete: false });
    assert.equal((await next(lobby, "presence")).complete, true);
    assert.equal(server.asked, 2);
  });

  test("it does not ask for the names of a large channel repeatedly", async (t) => {
    const { server, lobby, peer } = await watching(t, [ada]);
    await next(lobby, "presence");
    peer.send({ push: { channel: "chat:lobby", presence: { num_clients: 5000, num_users: 4000, untold: 70 } } });
    assert.equal((await next(lobby, "presence")).clients, 5000);
    peer.send({ push: { channel: "chat:lobby", join: { info: shown(guest) } } });
    await next(lobby, "join");
    assert.equal(server.asked, 1);
  });

  test("it reports only the numbers when there are too many members to list", async (t) => {
    const { server, open } = await start(t);
    server.override = ({ id, presence, presence_stats }) => {
      if (presence) return { id, error: { code: 106, message: "too many" } };
      return presence_stats ? { id, presence_stats: { num_clients: 20_000, num_users: 12_000 } } : null;
    };
    const lobby = open().subscribe("chat:lobby", { presence: true });
    const told = await next(lobby, "presence");
    assert.deepEqual(told, { channel: "chat:lobby", clients: 20_000, users: 12_000, complete: false });
  });

  test("it asks again after a reconnect", async (t) => {
    const { server, lobby, peer } = await watching(t, [ada, guest]);
    await next(lobby, "presence");
    server.members = [ada];
    peer.socket.terminate();
    assert.equal((await next(lobby, "presence")).clients, 1);
    assert.equal(server.asked, 2);
  });

  test("it continues without names when the server refuses to list members", async (t) => {
    const { server, open } = await start(t);
    server.override = ({ id, presence }) => (presence ? { id, error: { code: 103, message: "permission denied" } } : null);
    const lobby = open().subscribe("chat:lobby", { presence: true });
    const peer = await server.peers.take();
    await next(lobby, "subscribed");
    peer.send({ push: { channel: "chat:lobby", join: { info: shown(ada) } } });
    assert.deepEqual(await next(lobby, "join"), ada);
    assert.equal(lobby.state, "subscribed");
  });
});

describe("a query", () => {
  test("it resolves with the reply", async (t) => {
    const { server, open } = await start(t);
    server.override = ({ id, presence, presence_stats, rpc }) => {
      if (presence) return { id, presence: { presence: { a1: shown(ada) } } };
      if (presence_stats) return { id, presence_stats: { num_clients: 3, num_users: 2 } };
      return rpc ? { id, rpc: { data: { asked: rpc } } } : null;
    };
    const live = open();
    const lobby = live.subscribe("chat:lobby");
    await next(lobby, "subscribed");
    assert.deepEqual(await lobby.presence(), new Map([["a1", ada]]));
    assert.deepEqual(await lobby.presenceStats(), { clients: 3, users: 2 });
    assert.deepEqual(await live.rpc("sum", [1, 2]), { asked: { method: "sum", data: [1, 2] } });
    assert.deepEqual(lobby.people, []);
  });

  test("it rejects when the server refuses it", async (t) => {
    const { server, open } = await start(t);
    server.override = ({ id, presence }) => (presence ? { id, error: { code: 103, message: "permission denied" } } : null);
    const lobby = open().subscribe("chat:lobby");
    await next(lobby, "subscribed");
    await assert.rejects(lobby.presence(), { code: 103, outcome: "not-done" });
  });

  test("a message outside of any channel is an event of the connection", async (t) => {
    const { server, open } = await start(t);
    const live = open();
    const peer = await server.peers.take();
    await peer.frameWith("connect");
    peer.send({ push: { message: { data: { text: "hi" } } } });
    assert.deepEqual(await next(live, "message"), { data: { text: "hi" } });
  });
});
