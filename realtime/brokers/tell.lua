-- Tells all nodes something, and keeps it for a while for those that did not hear it.
-- KEYS: 1 the stream of what was told
-- ARGV: 1 the Redis channel that every node hears, 2 what to tell, 3 how many are kept, 4 seconds
local id = redis.call("XADD", KEYS[1], "MAXLEN", "~", ARGV[3], "*", "told", ARGV[2])
redis.call("EXPIRE", KEYS[1], ARGV[4])
redis.call("PUBLISH", ARGV[1], id .. " " .. ARGV[2])
return id
