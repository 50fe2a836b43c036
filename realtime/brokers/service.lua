-- Tell all nodes which service this database belongs to; it gets an id with the first announcement.
--
-- KEYS[1]  the id
-- ARGV[1]  an id, in case there is none
-- ARGV[2]  the Redis channel that every node hears
--
-- Reading and sending are one step, so what is sent is always what the database says. Returns the id.
redis.call('SET', KEYS[1], ARGV[1], 'NX')
local id = redis.call('GET', KEYS[1])
redis.call('PUBLISH', ARGV[2], 'service ' .. id)
return id
