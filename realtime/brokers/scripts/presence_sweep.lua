-- Removes the members of a node that has expired or is leaving. Follows presence.lua.
--
-- KEYS  nodes, the channels of the node
-- ARGV  1 the node, 2 the prefix of our keys, 3 the number of channels per call, 4 and 5 the limits
--       for naming members: number and bytes, 6 whether the node itself is leaving ('1')
--
-- Returns the number of remaining channels, or -1 if the node is alive. The keys of the channels
-- are not in KEYS, because only the script knows which of them it will access; their names carry
-- the same hash tag.
local nodes, channels, gone = KEYS[1], KEYS[2], ARGV[1]
if ARGV[6] ~= '1' and living(nodes)(gone) then
    return -1
end
-- Even if it comes back before the last call: it must start again, because its members are missing.
redis.call('ZADD', nodes, 0, gone)
for _, channel in ipairs(redis.call('SRANDMEMBER', channels, tonumber(ARGV[3]))) do
    local here, users, left = ARGV[2] .. 'here:' .. channel, ARGV[2] .. 'users:' .. channel, {}
    local entries = redis.call('HGETALL', here)
    for i = 1, #entries, 2 do
        local node, user, info = parts(entries[i + 1])
        if node == gone then
            redis.call('HDEL', here, entries[i])
            count_out(users, user)
            left[#left + 1] = info
        end
    end
    if #left > 0 then
        tell(ARGV[2] .. 'ch:' .. channel, here, users, {}, left, tonumber(ARGV[4]), tonumber(ARGV[5]))
    end
    redis.call('SREM', channels, channel)
end
local rest = redis.call('SCARD', channels)
if rest == 0 then
    redis.call('ZREM', nodes, gone)
end
return rest
