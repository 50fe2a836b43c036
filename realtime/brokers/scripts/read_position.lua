-- Reads a position and renews its expiry: a counter with listeners never expires, because their
-- node reads it periodically. Follows position.lua. Returns {epoch, offset}.
local epoch, offset = current_position(KEYS[1], KEYS[2], ARGV[1], false)
extend_expiry(KEYS[1], offset)
return {epoch, offset}
