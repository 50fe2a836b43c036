-- Counts out the members of a node that is gone. Follows presence.lua.
--
-- KEYS  nodes, the channels of the node
-- ARGV  1 the node, 2 how the names of our keys begin, 3 how many channels at once, 4 and 5 how many, and bytes, are told by
--       name, 6 whether it says itself that it goes ('1')
--
-- Returns how many channels are left; -1 where the node lives. The keys of the channels are not among KEYS, since only the
-- script knows which of them it will touch; their names carry the same hash tag.
local nodes, channels, gone = KEYS[1], KEYS[2], ARGV[1]
if ARGV[6] == '1' then
    redis.call('ZADD', nodes, 0, gone)
elseif living(nodes)(gone) then
    return -1
end
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
