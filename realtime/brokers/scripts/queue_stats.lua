-- Returns the state of the queue. Follows queue.lua.
--
-- ARGV[1]  the prefix of the names of hands' lists
--
-- Returns {waiting, in hands, later, dead, hands with a lease, milliseconds now, the next entry or
-- nil, counts…}
local time = now()
local held = 0
for _, hand in ipairs(redis.call('ZRANGE', HANDS, 0, -1)) do
    held = held + redis.call('LLEN', ARGV[1] .. hand)
end
return {
    redis.call('LLEN', WAITING), held, redis.call('ZCARD', LATER), redis.call('LLEN', DEAD),
    redis.call('ZCOUNT', HANDS, '(' .. milliseconds(time), '+inf'), milliseconds(time),
    redis.call('LINDEX', WAITING, 0), redis.call('HMGET', COUNTS, 'handled', 'retried', 'taken_over', 'dead', 'bytes'),
}
