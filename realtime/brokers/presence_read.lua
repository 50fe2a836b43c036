-- Who is on a channel. Follows presence.lua.
--
-- KEYS  members, nodes
-- ARGV  1 how many are named at most
--
-- Returns {client, info, …}, or the number where there are more. Those of a node that is gone are nobody, counted out or not.
local here, is_living = KEYS[1], living(KEYS[2])
local number = redis.call('HLEN', here)
if number > tonumber(ARGV[1]) then
    return number
end
local entries, found = redis.call('HGETALL', here), {}
for i = 1, #entries, 2 do
    local node, _, info = parts(entries[i + 1])
    if is_living(node) then
        found[#found + 1] = entries[i]
        found[#found + 1] = info
    end
end
return found
