-- Counts the members of a channel. Follows presence.lua.
--
-- KEYS  members, users, nodes
-- ARGV  1 the maximum number of members to check one by one while an expired node has not been
--       swept yet
--
-- Returns {clients, users}.
local here, users, nodes = KEYS[1], KEYS[2], KEYS[3]
local clients = redis.call('HLEN', here)
local gone = redis.call('ZCOUNT', nodes, '-inf', string.format('%.0f', now()))
if gone == 0 or clients > tonumber(ARGV[1]) then
    return {clients, redis.call('HLEN', users)}
end
local is_living, alive, names, different = living(nodes), 0, {}, 0
local entries = redis.call('HVALS', here)
for _, entry in ipairs(entries) do
    local node, user = parts(entry)
    if is_living(node) then
        alive = alive + 1
        if not names[user] then
            names[user], different = true, different + 1
        end
    end
end
return {alive, different}
