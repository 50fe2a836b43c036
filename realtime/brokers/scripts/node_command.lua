-- Sends a command to all nodes, and keeps it for a while for nodes that miss it.
-- KEYS: 1 the stream of commands
-- ARGV: 1 the Redis channel that every node subscribes to, 2 the command, 3 the number of kept
--       commands, 4 seconds
-- A stream is limited only by its number of entries, but a message to a user may be as long as
-- fifty commands. Therefore each entry stands for at most 2 KiB: a longer one is preceded by empty
-- entries, which readers ignore.
for _ = 1, #ARGV[2] / 2048 do
    redis.call("XADD", KEYS[1], "MAXLEN", "~", ARGV[3], "*", "told", "")
end
local id = redis.call("XADD", KEYS[1], "MAXLEN", "~", ARGV[3], "*", "told", ARGV[2])
redis.call("EXPIRE", KEYS[1], ARGV[4])
redis.call(PUBLISH, ARGV[1], id .. " " .. ARGV[2])
return id
