-- Announces the service of this database to all nodes; the first announcement creates its id.
--
-- KEYS[1]  the id
-- ARGV[1]  an id, in case there is none
-- ARGV[2]  the Redis channel that every node subscribes to
--
-- Reading and sending are one step, so the announced id is always the stored one. Returns the id.
redis.call('SET', KEYS[1], ARGV[1], 'NX')
local id = redis.call('GET', KEYS[1])
redis.call(PUBLISH, ARGV[2], 'service ' .. id)
return id
