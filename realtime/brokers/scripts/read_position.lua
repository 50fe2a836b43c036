-- Reads a position and renews its expiry: a counter with listeners never expires, because their
-- node reads it periodically. Follows position.lua. Returns {epoch, offset}.
local EACH_READ = 300
local epoch, offset = current_position(KEYS[1], KEYS[2], ARGV[1], false)
local seconds = LISTENED
-- While the base is closing, any subscriber can create a key at offset 0, so a read extends its
-- expiry by five minutes only.
if offset == '0' then
    seconds = math.min(LISTENED, math.max(0, redis.call('TTL', KEYS[1])) + EACH_READ)
end
-- EXPIRE is a write, even without a key, so a replica refuses the read.
redis.call('EXPIRE', KEYS[1], seconds)
return {epoch, offset}
