-- Writes joins and leaves of one channel. Repeating it changes and announces nothing. Follows
-- presence.lua.
--
-- KEYS  members, users, the channels of the node
-- ARGV  1 the node, 2 the channel, 3 its name in Redis, 4 whether to announce ('1'), 5 whether the
--       node has members left there ('1'), 6 the expiry in seconds, 7 and 8 the limits for naming
--       members: number and bytes, 9 the number of joins, then client, user, info of each; then the
--       clients that leave
local here, users, channels, node = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local joined, left = {}, {}
local first_gone = 10 + 3 * tonumber(ARGV[9])
-- Leaves come first: a full Redis allows them, and would refuse all for the sake of one join.
for i = first_gone, #ARGV do
    local was = redis.call('HGET', here, ARGV[i])
    if was then
        local whose, user, info = parts(was)
        if whose == node then
            redis.call('HDEL', here, ARGV[i])
            count_out(users, user)
            left[#left + 1] = info
        end
    end
end
for i = 10, first_gone - 1, 3 do
    local client, user, info = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local was = redis.call('HGET', here, client)
    if was then
        local _, before = parts(was)
        count_out(users, before)
    else
        joined[#joined + 1] = info
    end
    redis.call('HINCRBY', users, user, 1)
    redis.call('HSET', here, client, string.format('%s %d ', node, #user) .. user .. info)
end
if ARGV[5] == '1' then
    redis.call('SADD', channels, ARGV[2])
    redis.call('EXPIRE', channels, ARGV[6])
else
    redis.call('SREM', channels, ARGV[2])
end
redis.call('EXPIRE', here, ARGV[6])
redis.call('EXPIRE', users, ARGV[6])
if ARGV[4] == '1' and #joined + #left > 0 then
    tell(ARGV[3], here, users, joined, left, tonumber(ARGV[7]), tonumber(ARGV[8]))
end
return #joined + #left
