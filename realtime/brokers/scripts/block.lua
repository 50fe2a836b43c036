-- Keeps or removes the block of a user. node_command.lua follows in the same script: it tells all
-- nodes.
--
-- KEYS: 2 the blocks (sorted set: users, by the second in which their block ends)
-- ARGV: 5 the user, 6 the end of the block in seconds since 1970, or 0 to remove it, 7 the maximum
--       number of blocks
--
-- Returns 'full' if there are too many blocks already; then nothing has changed.
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
if ARGV[6] == '0' then
    redis.call('ZREM', KEYS[2], ARGV[5])
else
    if not redis.call('ZSCORE', KEYS[2], ARGV[5])
        and redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[7]) then
        return 'full'
    end
    redis.call('ZADD', KEYS[2], ARGV[6], ARGV[5])
end
local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2]
if last then
    -- At most a century: Redis refuses an expiry that overflows.
    local seconds = math.min(math.max(tonumber(last) - now, 1), 3155760000)
    redis.call('EXPIRE', KEYS[2], string.format('%.0f', seconds))
end
