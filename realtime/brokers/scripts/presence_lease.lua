-- Renews the lease of a node. Follows presence.lua.
--
-- KEYS  nodes (sorted set, by the end of their leases)
-- ARGV  1 the node, 2 milliseconds, 3 whether it is new ('1'), 4 the maximum number of nodes to
--       return
--
-- Returns {whether it is known, nodes whose lease has expired…}. A node that is neither new nor
-- known has been swept, at least in part (its lease is 0 then): its members were removed, and it
-- must start again under another name. In a partition of a cluster, a known node gets the id of the
-- history of writes instead: with another id, its last writes may be lost (ADR-0006).
local nodes, time = KEYS[1], now()
if ARGV[3] == '0' and (tonumber(redis.call('ZSCORE', nodes, ARGV[1]) or 0) == 0) then
    return {'0'}
end
redis.call('ZADD', nodes, string.format('%.0f', time + ARGV[2]), ARGV[1])
redis.call('EXPIRE', nodes, 86400)
local known = IS_SHARDED and string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') or '1'
return {known, unpack(redis.call('ZRANGEBYSCORE', nodes, '-inf', string.format('%.0f', time), 'LIMIT', 0, ARGV[4]))}
